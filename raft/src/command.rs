//! What may be asked of the replicated state, and what it answers.
//!
//! A [`Proposal`] is the payload of a log entry. Times and random bytes are in it because the
//! state machine may not make its own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{
    Affinity, Attachment, Availability, BackendState, Cluster, Driver, Endpoint, EndpointId,
    EndpointKind, EndpointMode, HealthCheck, Labels, MacAddr, Network, NetworkId, Node, NodeId,
    NodeStatus, Notice, PublishedPort, Revision, Role, Route, Scheduler, Service, ServiceId, Vni,
};

/// A command with what makes it repeatable: a proposal whose `request` was applied before is
/// answered with the first outcome and changes nothing, so a client that lost the answer may ask
/// again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Random, chosen once per request by whoever first proposes it.
    pub request: [u8; 16],
    /// Proposer's clock, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What to do.
    pub command: Command,
}

/// A change of the replicated state. Variants are only ever appended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first command of a cluster: its settings, secrets, first manager and ingress network.
    Init(Box<InitCluster>),
    /// Admits a node; the entry's index becomes a manager's Raft id. A node id that is already
    /// a member keeps its row and takes the new addresses (a joiner that lost the answer).
    AddNode(Box<NodeSpec>),
    /// Changes what a node says of itself or an operator says of it.
    UpdateNode {
        /// Which.
        id: NodeId,
        /// What is `None` stays.
        change: Box<NodeChange>,
    },
    /// Removes a node and its endpoints, and services that end with these.
    RemoveNode {
        /// Which.
        id: NodeId,
    },
    /// What the leader heard, for several nodes at once.
    SetNodeStatus(Vec<(NodeId, NodeStatus)>),
    /// A new join secret for one role; the old one admits nobody from here on.
    RotateToken {
        /// Whose.
        role: Role,
        /// The new one.
        secret: JoinSecret,
    },
    /// Creates a network, assigning what the specification leaves open.
    CreateNetwork(Box<NetworkSpec>),
    /// Removes a network that has no endpoints and no services; the ingress network when no service
    /// publishes a port in ingress mode, and with it the nodes' addresses on it.
    RemoveNetwork {
        /// Which.
        id: NetworkId,
    },
    /// Creates an endpoint, assigning its address, and a service with it if that is wanted.
    CreateEndpoint(Box<EndpointSpec>),
    /// Removes an endpoint and frees its address; with the last one of a service that ends with its
    /// endpoints, the service too.
    RemoveEndpoint {
        /// Which.
        id: EndpointId,
    },
    /// Creates a service, assigning its addresses and the ports that it leaves open.
    CreateService(Box<ServiceSpec>),
    /// Changes a service.
    UpdateService {
        /// Which.
        id: ServiceId,
        /// What is `None` or empty stays.
        change: Box<ServiceChange>,
    },
    /// Removes a service and frees its addresses and ports. Its endpoints stay, in no service.
    RemoveService {
        /// Which.
        id: ServiceId,
    },
    /// Changes what an operator says of an endpoint.
    UpdateEndpoint {
        /// Which.
        id: EndpointId,
        /// What is `None` stays.
        change: EndpointChange,
    },
    /// What nodes found out about members of services, for several at once. One that was removed
    /// or has left its service is passed over, and nothing leads back from
    /// [`BackendState::Draining`].
    SetBackends(Vec<(EndpointId, BackendState)>),
    /// Changes a network.
    UpdateNetwork {
        /// Which.
        id: NetworkId,
        /// What is `None` or empty stays.
        change: Box<NetworkChange>,
    },
}

/// See [`Command::Init`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitCluster {
    /// Settings.
    pub cluster: Cluster,
    /// What only managers may know.
    pub secrets: Secrets,
    /// The first manager; its Raft id is 1.
    pub node: NodeSpec,
    /// Id of the ingress network.
    pub ingress: NetworkId,
}

/// The secret part of a join token, 128 random bits. Printing it shows nothing.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinSecret(pub [u8; 16]);

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// What only managers may know. Printing it shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// The CA's private key, PKCS #8 DER.
    pub ca_key: Vec<u8>,
    /// Admits managers.
    pub manager_token: [u8; 16],
    /// Admits workers.
    pub worker_token: [u8; 16],
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

/// A node that asks to be admitted. A taken `name` is made unique by appending `-2`, `-3` and so on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// From the public key.
    pub id: NodeId,
    /// Wanted name.
    pub name: String,
    /// Granted by the token.
    pub role: Role,
    /// Control address.
    pub addr: SocketAddr,
    /// VTEP.
    pub data_path_addr: IpAddr,
    /// Bytes.
    pub underlay_mtu: u32,
    /// Prefixes in the host's routing table, default routes left out.
    pub host_routes: Vec<IpNet>,
    /// Active unless asked otherwise.
    pub availability: Availability,
    /// Agent version.
    pub version: String,
}

/// See [`Command::UpdateNode`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChange {
    /// New control address.
    pub addr: Option<SocketAddr>,
    /// New VTEP.
    pub data_path_addr: Option<IpAddr>,
    /// New MTU in bytes.
    pub underlay_mtu: Option<u32>,
    /// New prefixes.
    pub host_routes: Option<Vec<IpNet>>,
    /// New availability.
    pub availability: Option<Availability>,
    /// New agent version.
    pub version: Option<String>,
    /// Labels to set.
    pub labels_add: Labels,
    /// Labels to remove.
    pub labels_remove: Vec<String>,
    /// New addresses, all of them.
    pub addresses: Option<Vec<IpAddr>>,
    /// New notices, all of them.
    pub notices: Option<Vec<Notice>>,
    /// New narrow paths, all of them.
    pub paths: Option<BTreeMap<NodeId, u32>>,
}

/// A network to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Random.
    pub id: NetworkId,
    /// Wanted name; must be free.
    pub name: String,
    /// How its endpoints reach one another.
    pub driver: Driver,
    /// Without one of IPv4: one from the cluster's pools, unless all are of IPv6 and `ipv6` is not set.
    pub subnets: Vec<SubnetSpec>,
    /// Its endpoints have addresses of both families: without a subnet of IPv6, one of
    /// [`Cluster::ula_prefix`].
    pub ipv6: bool,
    /// See [`Network::aux_addresses`].
    pub aux_addresses: BTreeMap<String, IpAddr>,
    /// `None`: the smallest free one from [`Vni::FIRST`] up; of the ingress network,
    /// [`Vni::INGRESS`]. Of a driver with tunnels only.
    pub vni: Option<Vni>,
    /// See [`Network::routes`].
    pub routes: Vec<Route>,
    /// MTU of endpoints; `None` derives it.
    pub mtu: Option<u32>,
    /// See [`Network::internal`].
    pub internal: bool,
    /// See [`Network::multicast`].
    pub multicast: bool,
    /// See [`Network::encrypted`].
    pub encrypted: bool,
    /// Admit subnets that overlap another network's.
    pub allow_overlap: bool,
    /// Annotations.
    pub labels: Labels,
    /// Make it the network that carries published ports, of which there is none: every node gets
    /// an address from it.
    pub ingress: bool,
}

/// See [`Command::UpdateNetwork`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkChange {
    /// See [`Network::encrypted`].
    pub encrypted: Option<bool>,
    /// Routes to add.
    pub routes_add: Vec<Route>,
    /// Destinations of routes to remove, before any is added.
    pub routes_remove: Vec<IpNet>,
    /// See [`Network::multicast`].
    pub multicast: Option<bool>,
    /// New MTU in bytes, or derived again.
    pub mtu: Option<Option<u32>>,
    /// Further subnets, of a family that it has.
    pub subnets_add: Vec<IpNet>,
    /// Labels to set.
    pub labels_add: Labels,
    /// Labels to remove.
    pub labels_remove: Vec<String>,
}

/// A subnet that the operator chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetSpec {
    /// Host bits must be zero.
    pub cidr: IpNet,
    /// `None`: the first address.
    pub gateway: Option<IpAddr>,
    /// See [`Subnet::range`](crate::model::Subnet::range).
    pub range: Option<IpNet>,
}

/// An endpoint to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// Random.
    pub id: EndpointId,
    /// Wanted name; must be free in the network.
    pub name: String,
    /// Where.
    pub network: NetworkId,
    /// On which host.
    pub node: NodeId,
    /// `None`: the address that has been free for longest, never used ones first in order.
    pub ipv4: Option<Ipv4Addr>,
    /// As `ipv4`.
    pub ipv6: Option<Ipv6Addr>,
    /// `None`: from the address, see [`MacAddr::from_ipv4`] and [`MacAddr::from_ipv6`].
    pub mac: Option<MacAddr>,
    /// `None`: the first of `eth0`, `eth1`, .. that no endpoint with the same attachment has.
    pub ifname: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Annotations.
    pub labels: Labels,
    /// The namespace.
    pub attachment: Attachment,
    /// Who looks after it.
    pub kind: EndpointKind,
    /// The service that it joins, which must be on `network`.
    pub service: Option<ServiceId>,
    /// Its share of the service's new flows; 0 takes none.
    pub weight: u16,
    /// A service to be made with it as the first endpoint, on `network` among others; `service` is
    /// `None` then.
    pub new_service: Option<Box<ServiceSpec>>,
}

/// See [`Command::UpdateEndpoint`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointChange {
    /// New weight.
    pub weight: Option<u16>,
}

/// A service to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Random.
    pub id: ServiceId,
    /// Wanted name; no other service may have it.
    pub name: String,
    /// At least one.
    pub networks: Vec<NetworkId>,
    /// A published port of zero asks for a free one.
    pub ports: Vec<PublishedPort>,
    /// See [`Service::mode`].
    pub mode: EndpointMode,
    /// See [`Service::scheduler`].
    pub scheduler: Scheduler,
    /// See [`Service::affinity`].
    pub affinity: Option<Affinity>,
    /// Milliseconds.
    pub drain_timeout_ms: u32,
    /// Seconds.
    pub idle_timeout_s: Option<u32>,
    /// See [`Service::health`].
    pub health: Option<HealthCheck>,
    /// Annotations.
    pub labels: Labels,
    /// See [`Service::ends_with_endpoints`].
    pub ends_with_endpoints: bool,
}

/// See [`Command::UpdateService`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    /// Revision of the service that the change was worked out from; with another by now it is
    /// refused as [`RefusalKind::Outdated`]. `None`: whatever the service is.
    pub base: Option<Revision>,
    /// The ports that it has from now on. One whose published port is zero keeps the one that the
    /// service publishes for the same target and protocol, if any.
    pub ports: Option<Vec<PublishedPort>>,
    /// New scheduler.
    pub scheduler: Option<Scheduler>,
    /// New affinity, or none.
    pub affinity: Option<Option<Affinity>>,
    /// New time in milliseconds.
    pub drain_timeout_ms: Option<u32>,
    /// New time in seconds, or none.
    pub idle_timeout_s: Option<Option<u32>>,
    /// New health check, or none.
    pub health: Option<Option<HealthCheck>>,
    /// Networks to join.
    pub networks_add: Vec<NetworkId>,
    /// Networks to leave; no endpoint of the service may be there.
    pub networks_remove: Vec<NetworkId>,
    /// Labels to set.
    pub labels_add: Labels,
    /// Labels to remove.
    pub labels_remove: Vec<String>,
    /// New endpoint mode: addresses are given back, or assigned on each of its networks.
    pub mode: Option<EndpointMode>,
}

/// What applying a proposal led to.
pub type Outcome = Result<Applied, Refusal>;

/// A command that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The state that reflects it.
    pub revision: Revision,
    /// What was made or changed.
    pub object: Object,
}

/// What a command made or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// Nothing that has a row of its own.
    None,
    /// A node.
    Node(Arc<Node>),
    /// A network.
    Network(Arc<Network>),
    /// An endpoint.
    Endpoint(Arc<Endpoint>),
    /// A service.
    Service(Arc<Service>),
}

/// A command that was not carried out: what was refused, why, and what would be accepted, in one
/// line. The state is as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For people.
    pub message: String,
}

/// Why a command was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalKind {
    /// The request makes no sense in any state.
    Invalid,
    /// It names what does not exist.
    NotFound,
    /// It clashes with what exists.
    Conflict,
    /// What it would remove is used.
    InUse,
    /// Nothing is left to assign.
    Exhausted,
    /// It was worked out from what is no longer so; whoever looks again may ask again.
    Outdated,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_printed_without_their_secrets() {
        // The Raft library prints log entries when it is asked to log in detail.
        let rotate = Command::RotateToken {
            role: Role::Worker,
            secret: JoinSecret([203; 16]),
        };
        let shown = format!("{rotate:?}");
        assert!(!shown.contains("203"), "{shown}");
    }
}
