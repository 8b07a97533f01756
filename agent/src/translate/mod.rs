//! The one dictionary between cluster words and kernel words: a pure function of the cluster's
//! state and of which node this is.

pub(crate) mod dns;
mod encryption;
mod health;
mod index;
mod room;
pub(crate) mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use weft_encrypt::mtu::{Family, TooNarrow};
use weft_overlay::{LocalEndpoint, Mac, NetnsRef, Remote, SandboxSpec, StaticRoute, Tunnel, Vtep};
use weft_raft::model::{
    Attachment, Cluster, Endpoint, IpFamily, MacAddr, Network, NetworkId, Node, NodeId, Subnet,
    View, Vni,
};
use weft_raft::state::limits;

pub(crate) use encryption::{Encryption, encryption, port};
pub(crate) use health::{health_news, health_targets};
pub(crate) use index::{Dirty, Index};
pub(crate) use room::{shortage, shortage_news};

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
        if !network.driver.has_tunnels() {
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
                addresses: endpoint.addresses().collect(),
                vtep: node.data_path_addr,
            },
        );
    }
    Some(SandboxSpec {
        vni: network.vni.map_or(0, Vni::get),
        mtu: network_mtu(view, index, network, Some(local)),
        vtep: vtep(cluster, network, here),
        tunnel: match network.driver.has_tunnels() {
            true => Tunnel::Vxlan,
            false => Tunnel::Closed,
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

/// A node's end of a network's tunnels. Those of encrypted networks have a port of their own, so
/// that nothing of them can be taken for, or come in as, what is in clear.
fn vtep(cluster: &Cluster, network: &Network, here: &Node) -> Vtep {
    Vtep {
        local: here.data_path_addr,
        port: match network.encrypted {
            true => inner_port(cluster),
            false => cluster.data_path_port,
        },
    }
}

/// UDP port of what ESP carries: the one after the data-path port. It is never on the underlay.
pub(crate) fn inner_port(cluster: &Cluster) -> u16 {
    // Data-path ports end at 49151.
    cluster.data_path_port.saturating_add(1)
}

/// MTU of a network's endpoints in bytes: what the operator chose, or the smallest underlay MTU
/// among the nodes that take part, less what the tunnel adds.
pub(crate) fn network_mtu(
    view: &View,
    index: &Index,
    network: &Network,
    local: Option<NodeId>,
) -> u32 {
    let nodes = || nodes_of(view, index, network, local);
    let fitting = || match network.driver.has_tunnels() {
        true => fitting_mtu(network.encrypted, &nodes()),
        false => {
            let links = nodes().into_iter().map(|node| node.underlay_mtu);
            links.min().unwrap_or(MIN_MTU).max(MIN_MTU)
        }
    };
    // A device below that takes no IPv6 address.
    let least = match network.has(IpFamily::V6) {
        true => limits::IPV6_MTU,
        false => MIN_MTU,
    };
    network.mtu.unwrap_or_else(fitting).max(least)
}

/// Why the endpoints' MTU does not do for an encrypted network, if so: what is too long for the
/// underlay when it is sealed is dropped. (Without encryption the kernel sends it in fragments.)
pub(crate) fn mtu_warning(
    view: &View,
    index: &Index,
    network: &Network,
    local: Option<NodeId>,
) -> Option<String> {
    if !network.encrypted {
        return None;
    }
    let mtu = network_mtu(view, index, network, local);
    let nodes = nodes_of(view, index, network, local);
    let (narrowest, carried) = { underlays(&nodes).into_iter() }.min_by_key(|(_, mtu)| *mtu)?;
    match sealed_mtu(narrowest, carried) {
        Ok(fits) if mtu <= fits => None,
        Ok(fits) => Some(format!(
            "MTU {mtu} does not fit: encryption leaves {fits} of the {carried} bytes that the underlay \
             of {} carries, and longer packets are dropped; make the network with --mtu {fits}, or \
             without --mtu",
            narrowest.name
        )),
        Err(error) => Some(format!("{} is too narrow: {error}", narrowest.name)),
    }
}

/// The nodes that take part in a network, and `local`; in the ingress network all do.
fn nodes_of<'a>(
    view: &'a View,
    index: &Index,
    network: &Network,
    local: Option<NodeId>,
) -> Vec<&'a Node> {
    if network.ingress {
        return view.nodes.values().map(AsRef::as_ref).collect();
    }
    let with_endpoints = index.endpoints(view, network.id).map(|row| row.node);
    let ids: BTreeSet<NodeId> = with_endpoints.chain(local).collect();
    { ids.iter() }
        .filter_map(|id| view.nodes.get(id))
        .map(AsRef::as_ref)
        .collect()
}

/// The largest MTU of endpoints in bytes that all these nodes carry in one piece.
fn fitting_mtu(encrypted: bool, nodes: &[&Node]) -> u32 {
    let left = |(node, carried): (&Node, u32)| match encrypted {
        true => sealed_mtu(node, carried).unwrap_or(MIN_MTU),
        false => path_mtu(node, carried),
    };
    let left = underlays(nodes).into_iter().map(left);
    left.min().unwrap_or(MIN_MTU).max(MIN_MTU)
}

/// What the underlay of each of these nodes carries, to all of the others: its device's MTU, or
/// what the narrowest of the paths to them does.
fn underlays<'a>(nodes: &[&'a Node]) -> Vec<(&'a Node, u32)> {
    let ids: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    let carried = |node: &'a Node| {
        let paths = node.paths.iter().filter(|(peer, _)| ids.contains(peer));
        let narrowest = paths.map(|(_, mtu)| *mtu).min();
        (
            node,
            narrowest.map_or(node.underlay_mtu, |mtu| mtu.min(node.underlay_mtu)),
        )
    };
    nodes.iter().copied().map(carried).collect()
}

/// What a node's tunnels carry, in bytes.
fn path_mtu(node: &Node, underlay_mtu: u32) -> u32 {
    underlay_mtu.saturating_sub(match node.data_path_addr {
        IpAddr::V4(_) => VXLAN_OVERHEAD_V4,
        IpAddr::V6(_) => VXLAN_OVERHEAD_V6,
    })
}

/// What they carry when it is encrypted.
fn sealed_mtu(node: &Node, underlay_mtu: u32) -> Result<u32, TooNarrow> {
    let family = match node.data_path_addr {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    };
    weft_encrypt::mtu::endpoint_mtu(underlay_mtu, family)
}

fn local_endpoint(network: &Network, endpoint: &Endpoint) -> LocalEndpoint {
    LocalEndpoint {
        netns: netns(&endpoint.attachment),
        ifname: endpoint.ifname.clone(),
        mac: mac(endpoint.mac),
        addresses: (endpoint.addresses())
            .map(|address| with_prefix(network, address))
            .collect(),
        routes: static_routes(network, endpoint),
        forwards: false,
    }
}

/// The network's routes, as they are in an endpoint. The one that they lead to has none of them.
fn static_routes(network: &Network, endpoint: &Endpoint) -> BTreeSet<StaticRoute> {
    let own = |address: IpAddr| endpoint.addresses().any(|own| own == address);
    let others = network.routes.iter().filter(|route| !own(route.via));
    let others = others.map(|route| StaticRoute {
        destination: route.destination,
        via: Some(route.via),
    });
    // Its other subnets, which no address of its own leads to.
    let families = |subnet: &&Subnet| match subnet.family() {
        IpFamily::V4 => endpoint.ipv4.is_some(),
        IpFamily::V6 => endpoint.ipv6.is_some(),
    };
    let here = |subnet: &&Subnet| endpoint.addresses().any(|a| subnet.cidr.contains(&a));
    let further = network.subnets.iter().filter(families);
    let further = further
        .filter(|subnet| !here(subnet))
        .map(|subnet| StaticRoute {
            destination: subnet.cidr,
            via: None,
        });
    others.chain(further).collect()
}

fn with_prefix(network: &Network, address: IpAddr) -> IpNet {
    let subnet = network.subnet_of(address);
    // The prefix of a subnet fits its family; the address alone is what is left if it did not.
    subnet
        .and_then(|subnet| IpNet::new(address, subnet.cidr.prefix_len()).ok())
        .unwrap_or_else(|| IpNet::from(address))
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
pub(crate) mod tests;
