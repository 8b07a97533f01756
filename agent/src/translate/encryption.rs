//! With whom a node speaks encrypted, and about what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_encrypt::path::{ESP_PORT, PathSpec, PeerSpec};
use weft_raft::model::{NetworkId, Node, NodeId, View};

use super::services::published;
use super::{Index, inner_port};

/// What encryption has to be on a node that takes part in encrypted networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Encryption {
    /// The data path. It may have no peers: a network that is on one node yet is as closed.
    pub(crate) path: PathSpec,
    /// The nodes that it shares encrypted networks with, and their tunnel ends.
    pub(crate) peers: BTreeMap<NodeId, IpAddr>,
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
    };
    let mut peers = BTreeMap::new();
    let mut takes_part = false;
    for network in view.networks.values().filter(|network| network.encrypted) {
        let Some(members) = others(view, index, network.id, local) else {
            continue;
        };
        takes_part = true;
        for node in members {
            peers.insert(node.id, node.data_path_addr);
            let peer: &mut PeerSpec = path.peers.entry(node.data_path_addr).or_default();
            peer.networks.insert(network.vni.get());
        }
    }
    takes_part.then_some(Encryption { path, peers })
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
