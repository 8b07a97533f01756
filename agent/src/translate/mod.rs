//! The one dictionary between cluster words and kernel words: a pure function of the cluster's
//! state and of which node this is.

mod health;
mod index;
pub(crate) mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use weft_overlay::{LocalEndpoint, Mac, NetnsRef, Remote, SandboxSpec, Vtep};
use weft_raft::model::{Attachment, Endpoint, MacAddr, Network, NetworkId, Node, NodeId, View};

pub(crate) use health::{health_news, health_targets};
pub(crate) use index::{Dirty, Index};

/// Bytes that VXLAN over IPv4 takes from the underlay's MTU: outer IPv4 20, UDP 8, VXLAN 8, inner
/// Ethernet 14 (RFC 7348 section 5).
pub(crate) const VXLAN_OVERHEAD_V4: u32 = 50;
/// The same over IPv6, whose header is 40 bytes long.
pub(crate) const VXLAN_OVERHEAD_V6: u32 = 70;
/// Smallest MTU that an endpoint is given: every IPv4 host must take 576 bytes (RFC 791).
pub(crate) const MIN_MTU: u32 = 576;

/// The wanted sandbox of one network on `local`, or `None` when it needs none there: the network
/// is gone or has no endpoint on this node.
pub(crate) fn sandbox(
    view: &View,
    index: &Index,
    network: NetworkId,
    local: NodeId,
) -> Option<SandboxSpec> {
    let network = view.networks.get(&network)?;
    let cluster = view.cluster.as_ref()?;
    let here = view.nodes.get(&local)?;
    let endpoints: Vec<&Endpoint> = index.endpoints(view, network.id).collect();
    if !endpoints.iter().any(|endpoint| endpoint.node == local) {
        return None;
    }
    let mut locals = BTreeMap::new();
    let mut remotes = BTreeMap::new();
    let mut flood = BTreeSet::new();
    for endpoint in &endpoints {
        if endpoint.node == local {
            locals.insert(endpoint.id.to_string(), local_endpoint(network, endpoint));
            continue;
        }
        // An endpoint whose node is unknown has no tunnel end; it appears with its node's row.
        let Some(node) = view.nodes.get(&endpoint.node) else {
            continue;
        };
        flood.insert(node.data_path_addr);
        remotes.insert(
            mac(endpoint.mac),
            Remote {
                addresses: vec![IpAddr::V4(endpoint.ipv4)],
                vtep: node.data_path_addr,
            },
        );
    }
    Some(SandboxSpec {
        vni: network.vni.get(),
        mtu: endpoint_mtu(view, network, Some(local), &endpoints),
        vtep: Vtep {
            local: here.data_path_addr,
            port: cluster.data_path_port,
        },
        multicast: network.multicast,
        locals,
        remotes,
        flood,
    })
}

/// Underlay addresses that may send to this node's data-path port: every node's, this one's too.
pub(crate) fn members(view: &View) -> BTreeSet<IpAddr> {
    view.nodes
        .values()
        .map(|node| node.data_path_addr)
        .collect()
}

/// MTU of a network's endpoints in bytes: what the operator chose, or the smallest underlay MTU
/// among the nodes that take part (in the ingress network: all), less what the tunnel adds.
pub(crate) fn network_mtu(
    view: &View,
    index: &Index,
    network: &Network,
    local: Option<NodeId>,
) -> u32 {
    if network.ingress {
        return services::published::mesh_mtu(view);
    }
    let endpoints: Vec<&Endpoint> = index.endpoints(view, network.id).collect();
    endpoint_mtu(view, network, local, &endpoints)
}

fn endpoint_mtu(
    view: &View,
    network: &Network,
    local: Option<NodeId>,
    endpoints: &[&Endpoint],
) -> u32 {
    if let Some(mtu) = network.mtu {
        return mtu;
    }
    let taking_part: BTreeSet<NodeId> = endpoints
        .iter()
        .map(|endpoint| endpoint.node)
        .chain(local)
        .collect();
    taking_part
        .iter()
        .filter_map(|id| view.nodes.get(id))
        .map(|node| path_mtu(node))
        .min()
        .unwrap_or(MIN_MTU)
        .max(MIN_MTU)
}

/// What a node's tunnels carry, in bytes.
fn path_mtu(node: &Node) -> u32 {
    node.underlay_mtu.saturating_sub(match node.data_path_addr {
        IpAddr::V4(_) => VXLAN_OVERHEAD_V4,
        IpAddr::V6(_) => VXLAN_OVERHEAD_V6,
    })
}

fn local_endpoint(network: &Network, endpoint: &Endpoint) -> LocalEndpoint {
    LocalEndpoint {
        netns: netns(&endpoint.attachment),
        ifname: endpoint.ifname.clone(),
        mac: mac(endpoint.mac),
        addresses: vec![with_prefix(network, endpoint.ipv4)],
    }
}

fn with_prefix(network: &Network, address: Ipv4Addr) -> IpNet {
    let prefix = network
        .subnets
        .iter()
        .find(|subnet| subnet.cidr.contains(&address))
        .map_or(32, |subnet| subnet.cidr.prefix_len());
    // The prefix of a subnet is at most 32; a host route is what is left if it were not.
    Ipv4Net::new(address, prefix)
        .unwrap_or_else(|_| Ipv4Net::from(address))
        .into()
}

/// Where an endpoint's namespace is.
pub(crate) fn netns(attachment: &Attachment) -> NetnsRef {
    NetnsRef {
        path: PathBuf::from(&attachment.path),
        device: attachment.device,
        inode: attachment.inode,
    }
}

fn mac(address: MacAddr) -> Mac {
    Mac(address.0)
}

#[cfg(test)]
mod tests;
