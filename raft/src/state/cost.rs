//! Approximate memory of rows in bytes: what bounds on history and state count in. Never less
//! than what the row takes encoded.

use std::net::IpAddr;

use crate::command::{Object, Outcome};
use crate::model::{
    Change, Cluster, Endpoint, EndpointKind, Labels, Network, Node, NodeId, Notice, Probe,
    PublishedPort, Service, Subnet,
};

// The map entry, the reference counts and the allocator's rounding that come with a row.
const ROW: usize = 128;

/// Of one change.
pub(crate) fn of_change(change: &Change) -> usize {
    size_of::<Change>()
        + match change {
            Change::Cluster(cluster) => of_cluster(cluster),
            Change::Node(node) => of_node(node),
            Change::Network(network) => of_network(network),
            Change::Endpoint(endpoint) => of_endpoint(endpoint),
            Change::Service(service) => of_service(service),
            Change::NodeGone(_)
            | Change::NetworkGone(_)
            | Change::EndpointGone(_)
            | Change::ServiceGone(_) => 0,
        }
}

/// Of one remembered outcome.
pub(super) fn of_outcome(outcome: &Outcome) -> usize {
    ROW + match outcome {
        Ok(applied) => match &applied.object {
            Object::None => 0,
            Object::Node(node) => of_node(node),
            Object::Network(network) => of_network(network),
            Object::Endpoint(endpoint) => of_endpoint(endpoint),
            Object::Service(service) => of_service(service),
        },
        Err(refusal) => refusal.message.len(),
    }
}

pub(super) fn of_node(node: &Node) -> usize {
    ROW + size_of::<Node>()
        + node.name.len()
        + node.version.len()
        + size_of_val(node.host_routes.as_slice())
        + size_of_val(node.addresses.as_slice())
        + node
            .notices
            .iter()
            .map(|notice| size_of::<Notice>() + notice.message.len())
            .sum::<usize>()
        + node.paths.len() * size_of::<(NodeId, u32)>()
        + of_labels(&node.labels)
}

pub(super) fn of_network(network: &Network) -> usize {
    ROW + size_of::<Network>()
        + network.name.len()
        + network.subnets.len() * size_of::<Subnet>()
        + size_of_val(network.routes.as_slice())
        + (network.aux_addresses.keys())
            .map(|name| size_of::<String>() + size_of::<IpAddr>() + name.len())
            .sum::<usize>()
        + of_labels(&network.labels)
}

pub(super) fn of_endpoint(endpoint: &Endpoint) -> usize {
    let command = match &endpoint.kind {
        EndpointKind::Attached => 0,
        EndpointKind::Run { command, .. } => of_texts(command),
    };
    ROW + size_of::<Endpoint>()
        + endpoint.name.len()
        + endpoint.ifname.len()
        + endpoint.attachment.path.len()
        + endpoint.attachment.boot_id.len()
        + of_texts(&endpoint.aliases)
        + of_labels(&endpoint.labels)
        + command
}

pub(super) fn of_service(service: &Service) -> usize {
    let probe = match service.health.as_ref().map(|health| &health.probe) {
        None | Some(Probe::Tcp { .. }) => 0,
        Some(Probe::Http { path, .. }) => path.len(),
        Some(Probe::Exec { command }) => of_texts(command),
    };
    ROW + size_of::<Service>()
        + service.name.len()
        + size_of_val(service.networks.as_slice())
        + service.ports.iter().map(of_port).sum::<usize>()
        + of_labels(&service.labels)
        + probe
}

fn of_port(port: &PublishedPort) -> usize {
    size_of::<PublishedPort>() + size_of_val(port.allow_from.as_slice())
}

fn of_cluster(cluster: &Cluster) -> usize {
    ROW + size_of::<Cluster>() + size_of_val(cluster.pools.as_slice()) + cluster.ca_cert.len()
}

fn of_texts(texts: &[String]) -> usize {
    texts
        .iter()
        .map(|text| size_of::<String>() + text.len())
        .sum()
}

fn of_labels(labels: &Labels) -> usize {
    labels
        .iter()
        .map(|(key, value)| 2 * size_of::<String>() + key.len() + value.len())
        .sum()
}
