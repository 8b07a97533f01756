//! Services in kernel words: which addresses each container balances, and over what.

pub(crate) mod counted;
mod index;
pub(crate) mod published;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use weft_lb::spec::{self as lb, Address, Backend, MaglevSize, Ports, ServiceKey, Spec};
use weft_netns::Identity;
use weft_overlay::NetnsRef;
use weft_raft::model::{
    Availability, BackendState, Endpoint, EndpointId, NetworkId, Node, NodeId, NodeStatus,
    Scheduler, Service, View,
};

pub(crate) use index::{ServiceIndex, ServicesDirty, Vip};

use super::netns;

/// Of which host, since which start of it, something is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here<'a> {
    /// The node.
    pub(crate) node: NodeId,
    /// Its boot: a namespace of an earlier one is gone, whatever has its number now.
    pub(crate) boot_id: &'a str,
    /// The host's own namespace, which may be on networks too.
    pub(crate) host: Identity,
}

/// A container of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Container {
    /// Its endpoints.
    pub(crate) endpoints: BTreeSet<EndpointId>,
    /// The networks that it is on.
    pub(crate) networks: BTreeSet<NetworkId>,
    /// Ways to its namespace; endpoints may have been attached by different ones.
    pub(crate) netns: BTreeSet<NetnsRef>,
}

/// Addresses of the backends of service addresses.
pub(crate) type Members = BTreeMap<ServiceKey, BTreeSet<IpAddr>>;

/// The container that has this namespace; `None` when no endpoint of this boot is there.
pub(crate) fn container(
    view: &View,
    index: &ServiceIndex,
    here: Here<'_>,
    place: Identity,
) -> Option<Container> {
    let mut container = Container::default();
    for id in index.endpoints_at((here.node, place)) {
        let Some(row) = view.endpoints.get(&id) else {
            continue;
        };
        if row.attachment.boot_id == here.boot_id {
            container.endpoints.insert(id);
            container.networks.insert(row.network);
            container.netns.insert(netns(&row.attachment));
        }
    }
    (!container.endpoints.is_empty()).then_some(container)
}

/// What a container balances: the addresses of the services on its networks.
///
/// Where networks overlap and two services have one address, the container gets that of the first
/// network; it has no way of its own to tell them apart either.
pub(crate) fn container_services(view: &View, index: &ServiceIndex, container: &Container) -> Spec {
    let mut spec = Spec::new();
    for network in &container.networks {
        for vip in index.vips_on(*network) {
            let key = key(vip);
            if !spec.contains_key(&key)
                && let Some(service) = service_at(view, index, vip)
            {
                spec.insert(key, service);
            }
        }
    }
    spec
}

/// What a container balances at one address, as part of [`container_services`].
pub(crate) fn container_service(
    view: &View,
    index: &ServiceIndex,
    container: &Container,
    (_, address): Vip,
) -> Option<lb::Service> {
    let networks = container.networks.iter();
    networks
        .map(|network| (*network, address))
        .find_map(|vip| service_at(view, index, vip))
}

/// The backends of each address that a container balances, whether they take traffic, are drained
/// or on a node that is down: whoever is not among them is no more.
pub(crate) fn container_members(
    view: &View,
    index: &ServiceIndex,
    container: &Container,
) -> Members {
    let mut members = Members::new();
    for network in &container.networks {
        for vip in index.vips_on(*network) {
            let ids = index.service_at(vip).map(|service| index.members(service));
            let rows = ids.into_iter().flatten();
            let rows = rows.filter_map(|id| view.endpoints.get(&id));
            let here = rows.filter(|row| row.network == *network);
            let addresses = here.filter_map(|row| row.ipv4.map(IpAddr::V4));
            members.entry(key(vip)).or_default().extend(addresses);
        }
    }
    members
}

/// Whether a container balances anything.
pub(crate) fn has_services(index: &ServiceIndex, container: &Container) -> bool {
    let mut networks = container.networks.iter();
    networks.any(|network| index.vips_on(*network).next().is_some())
}

/// How a service address is named in a container's table: with every port and protocol.
pub(crate) fn key((_, address): Vip) -> ServiceKey {
    ServiceKey {
        address: Address::Vip(address.into()),
        ports: Ports::All,
    }
}

/// How an endpoint is named in a container's table: with every port and protocol.
pub(crate) fn backend(address: Ipv4Addr) -> Backend {
    Backend {
        address: address.into(),
        port: None,
    }
}

/// Backends that are left out because their node is down, by network.
pub(crate) fn on_down_nodes(
    view: &View,
    index: &ServiceIndex,
) -> BTreeMap<NetworkId, BTreeSet<(ServiceKey, Backend)>> {
    let mut found: BTreeMap<NetworkId, BTreeSet<_>> = BTreeMap::new();
    let down = view.nodes.values();
    for node in down.filter(|node| node.status == NodeStatus::Down) {
        for row in index.endpoints_on(node.id) {
            for vip in index.vips_of_member(row) {
                let Some(address) = row.ipv4 else { continue };
                let backend = (key(vip), backend(address));
                found.entry(row.network).or_default().insert(backend);
            }
        }
    }
    found
}

/// Endpoints of this node that are to be called ready once the kernel reflects them: members of
/// services without a health check, or without one any more.
pub(crate) fn ready_once_there<'a>(
    view: &'a View,
    index: &'a ServiceIndex,
    here: Here<'a>,
) -> impl Iterator<Item = &'a Endpoint> {
    let rows = index
        .waiting_on(here.node)
        .filter_map(|id| view.endpoints.get(&id));
    rows.map(AsRef::as_ref).filter(move |row| {
        let service = row.service.and_then(|id| view.services.get(&id));
        row.attachment.boot_id == here.boot_id
            && service.is_some_and(|service| service.health.is_none())
    })
}

fn service_at(view: &View, index: &ServiceIndex, vip: Vip) -> Option<lb::Service> {
    let service = view.services.get(&index.service_at(vip)?)?;
    let (network, _) = vip;
    let members = index
        .members(service.id)
        .filter_map(|id| view.endpoints.get(&id));
    let backends: BTreeMap<Backend, u16> = members
        .filter(|row| row.network == network)
        .filter_map(|row| {
            let node = view.nodes.get(&row.node)?;
            Some((backend(row.ipv4?), weight(row, node)?))
        })
        .collect();
    Some(lb::Service {
        scheduler: scheduler(service, backends.len()),
        affinity: affinity(service),
        idle: idle(service),
        backends,
    })
}

/// How long a client keeps the backend that it has.
fn affinity(service: &Service) -> Option<Duration> {
    let affinity = service.affinity?;
    Some(Duration::from_secs(affinity.timeout_s.into()))
}

/// How long a flow without packets keeps its backend.
fn idle(service: &Service) -> Option<Duration> {
    Some(Duration::from_secs(service.idle_timeout_s?.into()))
}

/// Its part of the new flows; with 0 it keeps those that it has. `None`: it is not there.
pub(crate) fn weight(row: &Endpoint, node: &Node) -> Option<u16> {
    if node.status == NodeStatus::Down {
        return None;
    }
    match row.backend {
        BackendState::Starting => None,
        BackendState::Ready if node.availability == Availability::Active => Some(row.weight),
        BackendState::Ready | BackendState::Unhealthy | BackendState::Draining => Some(0),
    }
}

fn scheduler(service: &Service, backends: usize) -> lb::Scheduler {
    match service.scheduler {
        Scheduler::RoundRobin => lb::Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin => lb::Scheduler::WeightedRoundRobin,
        Scheduler::Random => lb::Scheduler::Random,
        Scheduler::LeastConnections => lb::Scheduler::LeastConnections,
        Scheduler::SourceHash => lb::Scheduler::SourceHash,
        Scheduler::Maglev => lb::Scheduler::Maglev(maglev_size(backends)),
    }
}

/// Another size moves most flows, so a service that grows should rarely need one.
fn maglev_size(backends: usize) -> MaglevSize {
    let medium = usize::from(MaglevSize::Medium.slots()) / lb::MAGLEV_SLOTS_PER_BACKEND;
    match backends <= medium {
        true => MaglevSize::Medium,
        false => MaglevSize::Large,
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
