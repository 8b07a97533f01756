use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Labels, NetworkId, Revision, ServiceId};

/// A named set of endpoints ([`super::Endpoint::service`]) that is reached by one name, by one
/// address per network, and by ports of the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Chosen by the proposer.
    pub id: ServiceId,
    /// Unique among the services of the cluster; a DNS label.
    pub name: String,
    /// Where it is reached and where its endpoints are; at least one, each once.
    pub networks: Vec<ServiceNetwork>,
    /// Ports of the nodes that lead to it; `published` is never zero here.
    pub ports: Vec<PublishedPort>,
    /// What its name stands for.
    pub mode: EndpointMode,
    /// Which endpoint takes a new flow.
    pub scheduler: Scheduler,
    /// A client that came before goes to the endpoint that it had.
    pub affinity: Option<Affinity>,
    /// How long an endpoint that leaves keeps the flows it has, in milliseconds.
    pub drain_timeout_ms: u32,
    /// How long a flow without packets is remembered, in seconds; `None`: as long as without the
    /// service.
    pub idle_timeout_s: Option<u32>,
    /// What makes an endpoint ready; `None`: that it is there.
    pub health: Option<HealthCheck>,
    /// Operator annotations.
    pub labels: Labels,
    /// Last change.
    pub revision: Revision,
    /// It was made with an endpoint, and goes when the last one that it has does.
    pub ends_with_endpoints: bool,
}

/// A service on one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceNetwork {
    /// Which network.
    pub network: NetworkId,
    /// The address that stands for all endpoints, with [`EndpointMode::Vip`]. From the network's
    /// subnets; nothing else of the network holds it.
    pub vip: Option<Ipv4Addr>,
}

/// A port of the nodes that leads to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Port of the node. In a request, zero asks for a free one of
    /// [`crate::state::limits::DYNAMIC_PORTS`].
    pub published: u16,
    /// Port of the endpoints.
    pub target: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Which nodes answer.
    pub mode: PublishMode,
    /// The only address of the nodes that answers; `None`: all of them.
    pub ip: Option<IpAddr>,
    /// Whom the endpoint sees.
    pub source: SourceMode,
    /// Clients that may use the port, without host bits; empty: everybody.
    pub allow_from: Vec<IpNet>,
}

/// What the name of a service stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointMode {
    /// One address, balanced where the client is.
    Vip,
    /// The addresses of all its endpoints; the client chooses.
    DnsRr,
}

/// Which endpoint takes a new flow. Those of weight zero take none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheduler {
    /// One after the other.
    RoundRobin,
    /// One after the other, in proportion to their weights.
    WeightedRoundRobin,
    /// By chance, in proportion to their weights.
    Random,
    /// By the client's address.
    SourceHash,
    /// By the client's address and port, moving few flows when the set changes (Eisenbud et al.,
    /// "Maglev", NSDI 2016, section 3.4).
    Maglev,
    /// Those with fewer flows more often.
    LeastConnections,
}

/// A client is known by its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    /// How long a client is remembered after its last new flow, in seconds.
    pub timeout_s: u32,
}

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// Which nodes answer on a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublishMode {
    /// All.
    Ingress,
    /// Those with an endpoint of the service, each for its own.
    Host,
}

/// Whom an endpoint sees as the source of what came by a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceMode {
    /// The client.
    Preserve,
    /// The node that the client spoke to.
    Snat,
    /// That node, which puts the client's address in front of the stream (PROXY protocol
    /// version 2, section 2.2). TCP only.
    ProxyV2,
}

/// How a node finds out whether an endpoint of its own is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// From one try to the next, in milliseconds.
    pub interval_ms: u32,
    /// A try that takes longer has failed, in milliseconds.
    pub timeout_ms: u32,
    /// So many failures in a row make an endpoint unhealthy.
    pub retries: u16,
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// A connection is accepted.
    Tcp {
        /// Port of the endpoint.
        port: u16,
    },
    /// `GET` is answered with a status from 200 to 399.
    Http {
        /// Port of the endpoint.
        port: u16,
        /// Begins with `/`.
        path: String,
    },
    /// A program of the host, run in the endpoint's namespace, ends with status 0.
    Exec {
        /// The command line.
        command: Vec<String>,
    },
}

/// What an endpoint is to its service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackendState {
    /// Its node has not said that it is ready; takes no flows.
    #[default]
    Starting,
    /// Takes flows.
    Ready,
    /// Its health check fails; takes no flows.
    Unhealthy,
    /// About to leave: keeps the flows that it has and takes no new ones. Final.
    Draining,
}

impl fmt::Display for EndpointMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vip => "vip",
            Self::DnsRr => "dnsrr",
        })
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RoundRobin => "rr",
            Self::WeightedRoundRobin => "wrr",
            Self::Random => "random",
            Self::SourceHash => "source-hash",
            Self::Maglev => "maglev",
            Self::LeastConnections => "least-conn",
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for PublishMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Host => "host",
        })
    }
}

impl fmt::Display for SourceMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Preserve => "preserve",
            Self::Snat => "snat",
            Self::ProxyV2 => "proxy-v2",
        })
    }
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        })
    }
}
