//! With whom a node speaks encrypted, and about what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use weft_encrypt::path::{ESP_PORT, Form, PathSpec, PeerSpec, PortSpec, RemoteSpec};
use weft_overlay::{Mac, SandboxSpec};
use weft_raft::model::{NetworkId, Node, NodeId, NodeStatus, View, Vni};

use super::services::published;
use super::{Index, inner_port};

/// What encryption has to be on a node that takes part in encrypted networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encryption {
    /// The data path. It may have no peers: a network that is on one node yet is as closed.
    pub(crate) path: PathSpec,
    /// The nodes that it shares encrypted networks with, and their tunnel ends: no two have the same.
    pub(crate) peers: BTreeMap<NodeId, IpAddr>,
    /// Those that say that their tunnel end is one that another of them has, or this node: a key of
    /// one would be taken for the other's.
    pub(crate) clashing: BTreeMap<NodeId, IpAddr>,
}

impl Encryption {
    /// With whom nothing is exchanged; what is closed stays so.
    pub(crate) fn without_peers(mut self) -> Self {
        self.path.peers.clear();
        self.path.ports.clear();
        self.peers.clear();
        self.clashing.clear();
        self
    }
}

/// What encryption has to be on `local`; `None` if it takes part in no encrypted network.
pub(crate) fn encryption(view: &View, index: &Index, local: NodeId) -> Option<Encryption> {
    let (cluster, here) = (view.cluster.as_ref()?, view.nodes.get(&local)?);
    let mut path = PathSpec {
        local: here.data_path_addr,
        esp_port: ESP_PORT,
        inner_port: inner_port(cluster),
        underlay_mtu: here.underlay_mtu,
        peers: BTreeMap::new(),
        form: Form::Vxlan,
        ports: BTreeMap::new(),
    };
    let mut networks: BTreeMap<NodeId, PeerSpec> = BTreeMap::new();
    let mut takes_part = false;
    for network in view.networks.values().filter(|network| network.encrypted) {
        let Some(members) = others(view, index, network.id, local) else {
            continue;
        };
        takes_part = true;
        for node in members {
            let peer = networks.entry(node.id).or_default();
            peer.networks.extend(network.vni.map(Vni::get));
        }
    }
    let mut peers = BTreeMap::new();
    let mut clashing = BTreeMap::new();
    let nodes = networks.keys().filter_map(|node| view.nodes.get(node));
    let nodes: Vec<&Node> = nodes.map(AsRef::as_ref).collect();
    for node in &nodes {
        match owns_its_end(node, here, &nodes) {
            true => peers.insert(node.id, node.data_path_addr),
            false => clashing.insert(node.id, node.data_path_addr),
        };
    }
    for (node, end) in &peers {
        path.peers
            .insert(*end, networks.remove(node).unwrap_or_default());
    }
    takes_part.then_some(Encryption {
        path,
        peers,
        clashing,
    })
}

/// What the data path has to know of a network whose frames it takes from a port in the sandbox and gives
/// to it.
pub(crate) fn port(sandbox: &SandboxSpec, netns: PathBuf) -> PortSpec {
    let locals: BTreeSet<Mac> = sandbox.locals.values().map(|local| local.mac).collect();
    let remotes = { sandbox.remotes.iter() }
        // One that has moved here is here.
        .filter(|(mac, _)| !locals.contains(mac))
        .map(|(mac, remote)| {
            let known = RemoteSpec {
                addresses: remote.addresses.clone(),
                vtep: remote.vtep,
            };
            (mac.0, known)
        });
    PortSpec {
        netns,
        multicast: sandbox.multicast,
        remotes: remotes.collect(),
        flood: sandbox.flood.clone(),
    }
}

/// Whether a tunnel end is that of this peer alone. A host that was set up anew takes the place of
/// the node that it was before, which is down.
fn owns_its_end(node: &Node, here: &Node, peers: &[&Node]) -> bool {
    let end = node.data_path_addr.to_canonical();
    let mut others = peers
        .iter()
        .filter(|other| other.id != node.id && other.data_path_addr.to_canonical() == end);
    let is_down = |node: &Node| node.status == NodeStatus::Down;
    let alone = match is_down(node) {
        true => others.next().is_none(),
        false => others.all(|other| is_down(other)),
    };
    alone && here.data_path_addr.to_canonical() != end
}

/// The other nodes of a network that `local` takes part in; `None` if it does not.
fn others<'a>(
    view: &'a View,
    index: &Index,
    network: NetworkId,
    local: NodeId,
) -> Option<Vec<&'a Node>> {
    if view.networks.get(&network)?.ingress {
        return published::mesh_members(view, local);
    }
    let mut nodes: BTreeSet<NodeId> = { index.endpoints(view, network) }
        .map(|endpoint| endpoint.node)
        .collect();
    if !nodes.remove(&local) {
        return None;
    }
    let rows = nodes.iter().filter_map(|id| view.nodes.get(id));
    Some(rows.map(AsRef::as_ref).collect())
}

#[cfg(test)]
mod tests;
