use std::collections::BTreeMap;
use std::fmt;
use std::iter::Sum;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_raft::control::BackendNumbers;
use weft_raft::model;

use super::{HealthCheck, Port, Protocol, Warning};
use crate::api::lookup;

/// A name and an address for the endpoints that serve the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Never used twice.
    pub id: String,
    /// Unique in the cluster.
    pub name: String,
    /// Where its endpoints may be, and where it is known.
    pub networks: Vec<ServiceNetwork>,
    /// Ports of the hosts that lead to it.
    pub ports: Vec<Port>,
    /// What its name stands for.
    pub mode: EndpointMode,
    /// How new flows are spread over its endpoints.
    pub scheduler: Scheduler,
    /// Whether a client stays with the endpoint that it got.
    pub affinity: Affinity,
    /// Milliseconds that an endpoint which is to go may finish what it began.
    pub drain_timeout_ms: u32,
    /// Seconds until an idle flow is forgotten; `null` leaves it to the kernel.
    pub idle_timeout_s: Option<u32>,
    /// `null`: an endpoint serves as soon as it is programmed.
    pub health: Option<HealthCheck>,
    /// Its endpoints, by node and name.
    pub endpoints: Vec<ServiceEndpoint>,
    /// Flows that its endpoints have now; `null` while it is not known of one of them.
    pub connections: Option<u64>,
    /// What its endpoints have taken and answered together, without those that are gone; `null`
    /// while it is not known of one of them.
    pub totals: Option<Totals>,
    /// Operator annotations.
    pub labels: BTreeMap<String, String>,
    /// Made by `weft run --publish`: it goes with the last of its endpoints.
    pub ends_with_endpoints: bool,
    /// Log index of the last change.
    pub revision: u64,
    /// What keeps its published ports from being reached, by node.
    pub warnings: Vec<Warning>,
}

/// A network of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceNetwork {
    /// Name of the network.
    pub name: String,
    /// Id of the network.
    pub id: String,
    /// Virtual IP address; `null` in mode `dnsrr`.
    #[schema(value_type = Option<String>, example = "10.0.1.2")]
    pub vip: Option<Ipv4Addr>,
}

/// An endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceEndpoint {
    /// Id of the endpoint.
    pub id: String,
    /// Name of the endpoint.
    pub name: String,
    /// Name of its network.
    pub network: String,
    /// Name of its node.
    pub node: String,
    /// Its address; `null` on a network without IPv4.
    #[schema(value_type = Option<String>, example = "10.0.1.3")]
    pub ipv4: Option<Ipv4Addr>,
    /// As `ipv4`; `null` on a network without IPv6.
    #[schema(value_type = Option<String>, example = "fd00::3")]
    pub ipv6: Option<Ipv6Addr>,
    /// Share of new flows beside the others'; 0 takes none.
    pub weight: u16,
    /// Whether it takes new flows.
    pub state: BackendState,
    /// Flows that it has now; `null` where that is not known.
    pub connections: Option<u64>,
    /// What it has taken and answered since it was attached; `null` where that is not known.
    pub totals: Option<Totals>,
    /// Why `connections` and `totals` are not known, in one line.
    pub numbers_error: Option<String>,
}

/// What was counted, in the kernel of the endpoint's node: it goes on while no agent runs. Not what
/// the container began itself, nor what it said to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Connections that others have begun; flows, of other protocols than TCP.
    pub connections: u64,
    /// Packets from those who began them, as the kernel handles them: segments that it took
    /// together are one.
    pub packets_in: u64,
    /// Bytes of these, with IP headers.
    pub bytes_in: u64,
    /// Packets to them.
    pub packets_out: u64,
    /// Bytes of these, with IP headers.
    pub bytes_out: u64,
}

/// What a service's name stands for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointMode {
    /// A virtual IP address on each network.
    #[default]
    Vip,
    /// The addresses of its endpoints.
    Dnsrr,
}

/// How new flows are spread over endpoints.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Round robin: one after the other.
    #[default]
    Rr,
    /// Weighted round robin: in proportion to the weights.
    Wrr,
    /// By chance, in proportion to the weights.
    Random,
    /// By the client's address.
    SourceHash,
    /// By a consistent hash of the flow (Eisenbud et al., NSDI 2016): few flows move when an
    /// endpoint comes or goes.
    Maglev,
    /// To the endpoint with the fewest flows for its weight.
    LeastConn,
}

/// Whether a client stays with the endpoint that it got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Affinity {
    /// Each flow is scheduled by itself.
    #[default]
    None,
    /// By the client's address.
    ClientIp {
        /// Seconds after its last flow until a client is forgotten.
        timeout_s: u32,
    },
}

/// Whether an endpoint of a service takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Not yet: it has not been found ready.
    Starting,
    /// It does.
    Ready,
    /// No: its health check fails.
    Unhealthy,
    /// No: it is to go, and finishes what it began.
    Draining,
    /// No: its node is down.
    Down,
}

impl Service {
    /// The row with its endpoints and the names that `view` has for what they are on;
    /// `numbers` knows what an endpoint has taken and answered, or why that is not known.
    pub fn from_row<'a>(
        row: &model::Service,
        members: impl IntoIterator<Item = &'a Arc<model::Endpoint>>,
        view: &model::View,
        numbers: impl Fn(&model::Endpoint) -> Result<BackendNumbers, String>,
    ) -> Self {
        let mut endpoints: Vec<ServiceEndpoint> = members
            .into_iter()
            .map(|member| ServiceEndpoint::from_row(member, view, numbers(member)))
            .collect();
        endpoints.sort_by(|a, b| (&a.node, &a.name, &a.id).cmp(&(&b.node, &b.name, &b.id)));
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            networks: row
                .networks
                .iter()
                .map(|network| ServiceNetwork::from_row(network, view))
                .collect(),
            ports: row.ports.iter().map(Port::from).collect(),
            mode: row.mode.into(),
            scheduler: row.scheduler.into(),
            affinity: row.affinity.into(),
            drain_timeout_ms: row.drain_timeout_ms,
            idle_timeout_s: row.idle_timeout_s,
            health: row.health.as_ref().map(HealthCheck::from),
            connections: endpoints.iter().map(|endpoint| endpoint.connections).sum(),
            totals: endpoints.iter().map(|endpoint| endpoint.totals).sum(),
            endpoints,
            labels: row.labels.clone(),
            ends_with_endpoints: row.ends_with_endpoints,
            revision: row.revision,
            warnings: warnings(row, view),
        }
    }

    /// How many of its endpoints take new flows.
    pub fn ready(&self) -> usize {
        let ready = |endpoint: &&ServiceEndpoint| endpoint.state == BackendState::Ready;
        self.endpoints.iter().filter(ready).count()
    }
}

/// What the nodes that the cluster hears of tell of a service, and what none of them can tell.
fn warnings(row: &model::Service, view: &model::View) -> Vec<Warning> {
    if row.ports.is_empty() {
        return Vec::new();
    }
    let nodes = view.nodes.values();
    let up = nodes.filter(|node| node.status == model::NodeStatus::Ready);
    let told = up.flat_map(|node| {
        let notices = node.notices.iter();
        let concern = notices.filter(|notice| notice.service.is_none_or(|id| id == row.id));
        concern.map(|notice| Warning {
            node: Some(node.name.clone()),
            message: notice.message.clone(),
        })
    });
    let nowhere = row.ports.iter().filter_map(|port| Some((port, port.ip?)));
    let nowhere = nowhere.filter(|(_, ip)| !lookup::is_of_a_node(view, *ip));
    let nowhere = nowhere.map(|(port, ip)| Warning {
        node: None,
        message: nobody_has(ip, port),
    });
    let mut warnings: Vec<Warning> = told.chain(nowhere).collect();
    warnings.sort();
    warnings
}

/// A port is published at an address that no node has.
pub(crate) fn nobody_has(ip: IpAddr, port: &model::PublishedPort) -> String {
    format!(
        "no node has {ip} now, so nobody answers at port {}/{} there; it is served again as soon \
         as a node has the address",
        port.published,
        Protocol::from(port.protocol)
    )
}

impl ServiceNetwork {
    fn from_row(row: &model::ServiceNetwork, view: &model::View) -> Self {
        let id = row.network.to_string();
        Self {
            name: view
                .networks
                .get(&row.network)
                .map_or_else(|| id.clone(), |network| network.name.clone()),
            id,
            vip: row.vip,
        }
    }
}

impl ServiceEndpoint {
    /// Its addresses for people, IPv4 first.
    pub fn address_text(&self) -> String {
        let v4 = self.ipv4.map(|v4| v4.to_string());
        let v6 = self.ipv6.map(|v6| v6.to_string());
        v4.into_iter().chain(v6).collect::<Vec<_>>().join(",")
    }

    fn from_row(
        row: &model::Endpoint,
        view: &model::View,
        numbers: Result<BackendNumbers, String>,
    ) -> Self {
        let network = view.networks.get(&row.network).map(|n| n.name.clone());
        let node = view.nodes.get(&row.node).map(|n| n.name.clone());
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            network: network.unwrap_or_else(|| row.network.to_string()),
            node: node.unwrap_or_else(|| row.node.to_string()),
            ipv4: row.ipv4,
            ipv6: row.ipv6,
            weight: row.weight,
            state: BackendState::of(row, view),
            connections: numbers.as_ref().ok().map(|numbers| numbers.connections),
            totals: numbers.as_ref().ok().map(Totals::from),
            numbers_error: numbers.err(),
        }
    }
}

impl From<&BackendNumbers> for Totals {
    fn from(numbers: &BackendNumbers) -> Self {
        Self {
            connections: numbers.connections_total,
            packets_in: numbers.packets_in,
            bytes_in: numbers.bytes_in,
            packets_out: numbers.packets_out,
            bytes_out: numbers.bytes_out,
        }
    }
}

impl Sum for Totals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            connections: sum.connections.saturating_add(one.connections),
            packets_in: sum.packets_in.saturating_add(one.packets_in),
            bytes_in: sum.bytes_in.saturating_add(one.bytes_in),
            packets_out: sum.packets_out.saturating_add(one.packets_out),
            bytes_out: sum.bytes_out.saturating_add(one.bytes_out),
        })
    }
}

impl BackendState {
    /// What its node says of an endpoint, unless the node is down.
    pub fn of(row: &model::Endpoint, view: &model::View) -> Self {
        let node = view.nodes.get(&row.node);
        if node.is_none_or(|node| node.status == model::NodeStatus::Down) {
            return Self::Down;
        }
        match row.backend {
            model::BackendState::Starting => Self::Starting,
            model::BackendState::Ready => Self::Ready,
            model::BackendState::Unhealthy => Self::Unhealthy,
            model::BackendState::Draining => Self::Draining,
        }
    }
}

impl From<model::EndpointMode> for EndpointMode {
    fn from(mode: model::EndpointMode) -> Self {
        match mode {
            model::EndpointMode::Vip => Self::Vip,
            model::EndpointMode::DnsRr => Self::Dnsrr,
        }
    }
}

impl From<EndpointMode> for model::EndpointMode {
    fn from(mode: EndpointMode) -> Self {
        match mode {
            EndpointMode::Vip => Self::Vip,
            EndpointMode::Dnsrr => Self::DnsRr,
        }
    }
}

impl From<model::Scheduler> for Scheduler {
    fn from(scheduler: model::Scheduler) -> Self {
        match scheduler {
            model::Scheduler::RoundRobin => Self::Rr,
            model::Scheduler::WeightedRoundRobin => Self::Wrr,
            model::Scheduler::Random => Self::Random,
            model::Scheduler::SourceHash => Self::SourceHash,
            model::Scheduler::Maglev => Self::Maglev,
            model::Scheduler::LeastConnections => Self::LeastConn,
        }
    }
}

impl From<Scheduler> for model::Scheduler {
    fn from(scheduler: Scheduler) -> Self {
        match scheduler {
            Scheduler::Rr => Self::RoundRobin,
            Scheduler::Wrr => Self::WeightedRoundRobin,
            Scheduler::Random => Self::Random,
            Scheduler::SourceHash => Self::SourceHash,
            Scheduler::Maglev => Self::Maglev,
            Scheduler::LeastConn => Self::LeastConnections,
        }
    }
}

impl From<Option<model::Affinity>> for Affinity {
    fn from(affinity: Option<model::Affinity>) -> Self {
        match affinity {
            None => Self::None,
            Some(model::Affinity { timeout_s }) => Self::ClientIp { timeout_s },
        }
    }
}

impl From<Affinity> for Option<model::Affinity> {
    fn from(affinity: Affinity) -> Self {
        match affinity {
            Affinity::None => None,
            Affinity::ClientIp { timeout_s } => Some(model::Affinity { timeout_s }),
        }
    }
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Down => "down",
        })
    }
}

/// Enumerations are printed as the command line reads them.
macro_rules! printed_as_read {
    ($($name:ty),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value();
                f.pad(value.as_ref().map_or("", |value| value.get_name()))
            }
        }
    )+};
}

printed_as_read!(
    EndpointMode,
    Scheduler,
    Protocol,
    super::PublishMode,
    super::SourceMode
);
