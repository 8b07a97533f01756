use std::net::IpAddr;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_raft::model;

/// A port of the hosts that leads to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Port of the hosts. In a request, 0 or nothing lets the cluster choose one of 30000-32767.
    #[serde(default)]
    pub published: u16,
    /// Port that the service's endpoints listen on, 1-65535.
    pub target: u16,
    /// `tcp` without it.
    #[serde(default)]
    pub protocol: Protocol,
    /// `ingress` without it.
    #[serde(default)]
    pub mode: PublishMode,
    /// Only this address of a host; every address without it.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "192.0.2.1")]
    pub ip: Option<IpAddr>,
    /// `preserve` without it.
    #[serde(default)]
    pub source: SourceMode,
    /// Clients that may; everybody without any.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub allow_from: Vec<IpNet>,
}

/// Names a published port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortKey {
    /// Port of the hosts.
    pub published: u16,
    /// `tcp` without it.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport protocol.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp,
    /// RFC 768.
    Udp,
}

/// Which hosts answer on a published port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum PublishMode {
    /// Every host, for endpoints on any host.
    #[default]
    Ingress,
    /// Every host with an endpoint of the service, for its own endpoints.
    Host,
}

/// What an endpoint sees as the client's address.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum SourceMode {
    /// The client's address.
    #[default]
    Preserve,
    /// An address of the host that the client spoke to.
    Snat,
    /// An address of the host, after a header with the client's address in the PROXY protocol,
    /// version 2. TCP only.
    ProxyV2,
}

impl From<&model::PublishedPort> for Port {
    fn from(port: &model::PublishedPort) -> Self {
        Self {
            published: port.published,
            target: port.target,
            protocol: port.protocol.into(),
            mode: port.mode.into(),
            ip: port.ip,
            source: port.source.into(),
            allow_from: port.allow_from.clone(),
        }
    }
}

impl From<Port> for model::PublishedPort {
    fn from(port: Port) -> Self {
        Self {
            published: port.published,
            target: port.target,
            protocol: port.protocol.into(),
            mode: port.mode.into(),
            ip: port.ip,
            source: port.source.into(),
            allow_from: port.allow_from,
        }
    }
}

/// The same variants on both sides.
macro_rules! same {
    ($name:ident { $($variant:ident),+ }) => {
        impl From<model::$name> for $name {
            fn from(value: model::$name) -> Self {
                match value { $(model::$name::$variant => Self::$variant),+ }
            }
        }

        impl From<$name> for model::$name {
            fn from(value: $name) -> Self {
                match value { $($name::$variant => Self::$variant),+ }
            }
        }
    };
}

same!(Protocol { Tcp, Udp });
same!(PublishMode { Ingress, Host });
same!(SourceMode {
    Preserve,
    Snat,
    ProxyV2
});
