use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Affinity, EndpointMode, HealthCheck, HealthUpdate, Port, PortKey, Scheduler, Service, Warning,
};

/// Creates a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceCreateRequest {
    /// A DNS label that no service has.
    pub name: String,
    /// Name, id or unambiguous beginning of the id of each; one at least.
    pub networks: Vec<String>,
    /// Ports of the hosts that lead to it.
    pub ports: Vec<Port>,
    /// `vip` without it.
    pub mode: EndpointMode,
    /// `rr` without it.
    pub scheduler: Scheduler,
    /// None without it.
    pub affinity: Affinity,
    /// Milliseconds that an endpoint which is to go may finish what it began; 10000 without it.
    pub drain_timeout_ms: Option<u32>,
    /// Seconds until an idle flow is forgotten; without it the kernel's times, and five days at least for
    /// an open connection (TCP). It holds for flows that begin afterwards.
    pub idle_timeout_s: Option<u32>,
    /// Without it an endpoint serves as soon as it is programmed.
    pub health: Option<HealthCheck>,
    /// Operator annotations.
    pub labels: BTreeMap<String, String>,
}

/// Changes a service. What is not given stays. What is removed is removed before anything is added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceUpdateRequest {
    /// Networks to be on too.
    pub networks_add: Vec<String>,
    /// Networks to leave; no endpoint of the service may be there.
    pub networks_rm: Vec<String>,
    /// Ports to publish.
    pub ports_add: Vec<Port>,
    /// Ports to publish no more.
    pub ports_rm: Vec<PortKey>,
    /// What its name stands for; addresses are given back, or assigned.
    pub mode: Option<EndpointMode>,
    /// How new flows are spread.
    pub scheduler: Option<Scheduler>,
    /// Whether a client stays with the endpoint that it got.
    pub affinity: Option<Affinity>,
    /// See [`ServiceCreateRequest::drain_timeout_ms`].
    pub drain_timeout_ms: Option<u32>,
    /// See [`ServiceCreateRequest::idle_timeout_s`]; 0 leaves it to the kernel again.
    pub idle_timeout_s: Option<u32>,
    /// Changes the health check, or gives it one.
    pub health: Option<HealthUpdate>,
    /// No health check any more.
    pub health_rm: bool,
    /// Labels to set.
    pub labels_add: BTreeMap<String, String>,
    /// Labels to remove.
    pub labels_rm: Vec<String>,
}

/// Makes a service together with its first endpoint. It goes with the last of its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PublishRequest {
    /// A DNS label that no service has; the endpoint's name without it.
    pub name: Option<String>,
    /// Networks that it is on beside the endpoint's: name, id or unambiguous beginning of the id.
    pub networks: Vec<String>,
    /// Ports of the hosts that lead to it.
    pub ports: Vec<Port>,
}

/// A service that was made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceAnswer {
    /// As it is now.
    pub service: Service,
    /// What may keep it from being reached, a line each.
    pub warnings: Vec<Warning>,
}

/// Changes an endpoint. What is not given stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointUpdateRequest {
    /// Share of the service's new flows beside the others'; 0 takes none.
    pub weight: Option<u16>,
}
