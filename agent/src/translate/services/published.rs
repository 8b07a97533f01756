//! Published ports in kernel words: what a node balances at its own addresses, and the mesh that
//! carries a connection from the node that it came to to one with a backend.
//!
//! A port is balanced in two steps, so that the client's address survives and a change of backends
//! stays with their node: the node that a client speaks to chooses among its own backends and the
//! other nodes, each of these in proportion to its backends, and the node that was chosen chooses
//! among its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_lb::ingress::IngressSpec;
use weft_lb::relay::RelaySpec;
use weft_lb::spec::{self as lb, Address, Backend, Family, Ports, ServiceKey, Spec};
use weft_netns::Identity;
use weft_overlay::gateway::layout::HOST_END as GATEWAY_IF;
use weft_overlay::gateway::{LegAddresses, MeshEntry, MeshSpec, NODE_MAX, SUBNET6, host_addresses};
use weft_overlay::{LocalEndpoint, NetnsRef, Remote, SandboxSpec, Tunnel};
use weft_raft::model::{
    Endpoint, MacAddr, Network, Node, NodeId, NodeStatus, Protocol, PublishMode, PublishedPort,
    Scheduler, Service, SourceMode, View, Vni,
};

use super::index::identity;
use super::{Here, ServiceIndex, affinity, idle, scheduler, weight};
use crate::translate::{fitting_mtu, mac, netns, vtep, with_prefix};

/// The mesh's interface in the host's namespace.
pub(crate) const MESH_IF: &str = "wf-ingress";
/// Addresses of nodes on the ingress network over IPv6: the node's IPv4 address in the low bits. Of
/// unique local addresses (RFC 4193), with an identifier that is drawn once for all clusters,
/// since the network is never routed beyond a cluster.
const MESH6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd77, 0x6566, 0x7401, 0, 0, 0, 0, 0), 64);

// The one marks what the other routes.
const _: () = assert!(
    weft_lb::ingress::MARK_MASK == weft_overlay::gateway::MARK_MASK
        && weft_lb::ingress::NODE_MAX == NODE_MAX
);

/// What this node does for published ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// What it balances at its own addresses.
    pub(crate) balance: Spec,
    /// What else its packet rules do.
    pub(crate) rules: IngressSpec,
    /// What its data-plane process passes on.
    pub(crate) relay: RelaySpec,
    /// Addresses on the mesh of nodes that are left out because they are down.
    pub(crate) down: BTreeSet<IpAddr>,
}

impl Published {
    /// A node that is down, as it is a backend of what is balanced when it is not.
    pub(crate) fn at_down_nodes(&self) -> impl Iterator<Item = (ServiceKey, Backend)> {
        self.balance.keys().flat_map(|key| {
            let port = match key.ports {
                Ports::One(_, port) => Some(port),
                Ports::All => None,
            };
            let v4 = key.family() == Family::V4;
            let down = self.down.iter().filter(move |node| node.is_ipv4() == v4);
            down.map(move |node| {
                let address = *node;
                (*key, Backend { address, port })
            })
        })
    }
}

/// Whether any port is published in the cluster, so that this node must answer on it.
pub(crate) fn is_used(view: &View) -> bool {
    view.services
        .values()
        .any(|service| !service.ports.is_empty())
}

fn is_meshed(view: &View) -> bool {
    let mut ports = view.services.values().flat_map(|service| &service.ports);
    ports.any(|port| port.mode == PublishMode::Ingress)
}

/// A container of this node that has a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// A way to its namespace.
    pub(crate) netns: NetnsRef,
    /// Published ports lead to it.
    pub(crate) published: bool,
    /// It has a way out of its networks.
    pub(crate) egress: bool,
    /// Its own ports that are published over UDP.
    pub(crate) udp_ports: BTreeSet<u16>,
}

impl Target {
    fn of(row: &Endpoint) -> Self {
        Self {
            netns: netns(&row.attachment),
            published: false,
            egress: false,
            udp_ports: BTreeSet::new(),
        }
    }
}

/// Whether an endpoint gives its container a way out.
pub(crate) fn leads_out(view: &View, row: &Endpoint) -> bool {
    let network = view.networks.get(&row.network);
    network.is_some_and(|network| !network.internal && !network.ingress)
}

/// Containers of this node that have a leg: those that published ports lead to, and those with a way
/// out.
pub(crate) fn targets(
    view: &View,
    index: &ServiceIndex,
    here: Here<'_>,
) -> BTreeMap<Identity, Target> {
    let mut targets: BTreeMap<Identity, Target> = BTreeMap::new();
    let published = { view.services.values() }.filter(|service| !service.ports.is_empty());
    for service in published {
        let over_udp = { service.ports.iter() }.filter(|port| port.protocol == Protocol::Udp);
        let udp_ports: BTreeSet<u16> = over_udp.map(|port| port.target).collect();
        let members = index.members(service.id);
        for row in members.filter_map(|id| view.endpoints.get(&id)) {
            if row.node == here.node && row.attachment.boot_id == here.boot_id {
                let place = identity(&row.attachment);
                let target = targets.entry(place).or_insert_with(|| Target::of(row));
                target.published = true;
                target.udp_ports.extend(&udp_ports);
            }
        }
    }
    for row in index.endpoints_on(here.node) {
        let place = identity(&row.attachment);
        let here = row.attachment.boot_id == here.boot_id && place != here.host;
        if here && leads_out(view, row) {
            let target = targets.entry(place).or_insert_with(|| Target::of(row));
            target.egress = true;
        }
    }
    targets
}

/// Devices by which this host is in networks of containers.
fn own_devices(index: &ServiceIndex, here: Here<'_>) -> BTreeSet<String> {
    let rows = index.endpoints_on(here.node);
    let own = rows.filter(|row| identity(&row.attachment) == here.host);
    own.map(|row| row.ifname.clone()).collect()
}

/// Ways back to the nodes that connections come from.
pub(crate) fn mesh(view: &View, local: NodeId) -> Option<MeshSpec> {
    let network = ingress_network(view)?;
    own(view, local).filter(|_| is_meshed(view))?;
    let entries = others(view, local).filter_map(|node| {
        let address = node.ingress?;
        let entry = MeshEntry {
            via4: Some(address),
            via6: Some(mesh6(address)),
        };
        Some((number(network, address)?, entry))
    });
    Some(MeshSpec {
        ifname: MESH_IF.to_owned(),
        entries: entries.collect(),
    })
}

/// The ingress network's sandbox on this node: it has one endpoint, the host itself.
pub(crate) fn mesh_sandbox(view: &View, local: NodeId, host: &NetnsRef) -> Option<SandboxSpec> {
    let network = ingress_network(view)?;
    let (cluster, here) = (view.cluster.as_ref()?, view.nodes.get(&local)?);
    let address = own(view, local).filter(|_| is_meshed(view))?;
    let endpoint = LocalEndpoint {
        netns: host.clone(),
        ifname: MESH_IF.to_owned(),
        mac: mac(MacAddr::from_ipv4(address)),
        addresses: vec![
            with_prefix(network, address.into()),
            Ipv6Net::new(mesh6(address), MESH6.prefix_len())
                .ok()?
                .into(),
        ],
        routes: BTreeSet::new(),
        forwards: true,
    };
    let remotes = others(view, local).filter_map(|node| {
        let address = node.ingress?;
        let remote = Remote {
            addresses: vec![address.into(), mesh6(address).into()],
            vtep: node.data_path_addr,
        };
        Some((mac(MacAddr::from_ipv4(address)), remote))
    });
    Some(SandboxSpec {
        vni: network.vni.map_or(0, Vni::get),
        mtu: mesh_mtu(view),
        vtep: vtep(cluster, network, here),
        tunnel: Tunnel::Vxlan,
        multicast: false,
        locals: [(local.to_string(), endpoint)].into(),
        remotes: remotes.collect(),
        flood: BTreeSet::new(),
    })
}

/// What the tables in the host's namespace say. `legs` are the addresses of the containers that
/// have one, of `gateway4`; a backend without is not there yet.
pub(crate) fn published(
    view: &View,
    index: &ServiceIndex,
    here: Here<'_>,
    gateway4: Ipv4Net,
    legs: &BTreeMap<Identity, LegAddresses>,
) -> Published {
    let local = here.node;
    let mut balance = Spec::new();
    let mut rules = rules(view, local, gateway4);
    rules.networks = own_devices(index, here);
    let mut relay = RelaySpec::new();
    for service in view.services.values() {
        let gateway = host_addresses(gateway4, SUBNET6);
        let backends = Backends::of(view, index, local, service, gateway, legs);
        for port in &service.ports {
            let Some(published) = NonZeroU16::new(port.published) else {
                continue;
            };
            let name = (protocol(port.protocol), published);
            if port.source == SourceMode::Snat {
                rules.snat_ports.insert(name);
            }
            if !port.allow_from.is_empty() {
                let allowed = port.allow_from.iter().copied().collect();
                rules.allowed.insert(name, allowed);
            }
            for family in [Family::V4, Family::V6] {
                balance.extend(backends.of_port(service, port, family));
                relay.extend(backends.listener(view, service, port, family));
            }
        }
    }
    let down = others(view, local).filter(|node| node.status == NodeStatus::Down);
    let down = down
        .filter_map(|node| node.ingress)
        .flat_map(|address| [Family::V4, Family::V6].map(|family| on_mesh(address, family)));
    Published {
        balance,
        rules,
        relay,
        down: down.collect(),
    }
}

/// Who takes the connections to a service's published ports.
struct Backends {
    local: NodeId,
    /// The address of this node on the mesh.
    own: Option<Ipv4Addr>,
    /// Those on its gateway.
    gateway: (Ipv4Addr, Ipv6Addr),
    /// Addresses of this node that its row knows.
    addresses: BTreeSet<IpAddr>,
    /// Containers of this node, with their weights.
    here: Vec<(LegAddresses, u16)>,
    /// All containers of this node that are members, whatever they are to the service.
    members: BTreeMap<Identity, LegAddresses>,
    /// Other nodes by their addresses on the mesh, with what their backends weigh together.
    nodes: BTreeMap<Ipv4Addr, u16>,
}

impl Backends {
    fn of(
        view: &View,
        index: &ServiceIndex,
        local: NodeId,
        service: &Service,
        gateway: (Ipv4Addr, Ipv6Addr),
        legs: &BTreeMap<Identity, LegAddresses>,
    ) -> Self {
        // A container on several of the service's networks is one backend.
        let mut containers: BTreeMap<(NodeId, Identity), u16> = BTreeMap::new();
        let mut own_members = BTreeMap::new();
        for row in index
            .members(service.id)
            .filter_map(|id| view.endpoints.get(&id))
        {
            let place = identity(&row.attachment);
            if let Some(leg) = legs.get(&place).filter(|_| row.node == local) {
                own_members.insert(place, *leg);
            }
            let weight = view.nodes.get(&row.node).and_then(|node| weight(row, node));
            if let Some(weight) = weight {
                let known = containers.entry((row.node, place)).or_default();
                *known = weight.max(*known);
            }
        }
        let row = view.nodes.get(&local);
        let mut backends = Self {
            local,
            own: own(view, local),
            gateway,
            addresses: row
                .map(|node| addresses(node).collect())
                .unwrap_or_default(),
            here: Vec::new(),
            members: own_members,
            nodes: BTreeMap::new(),
        };
        for ((node, place), weight) in containers {
            backends.add(view, node, legs.get(&place), weight, service);
        }
        backends
    }

    fn add(
        &mut self,
        view: &View,
        node: NodeId,
        leg: Option<&LegAddresses>,
        weight: u16,
        service: &Service,
    ) {
        if node == self.local {
            self.here.extend(leg.map(|leg| (*leg, weight)));
            return;
        }
        let Some(address) = view.nodes.get(&node).and_then(|node| node.ingress) else {
            return;
        };
        // One after the other whatever they weigh: a node counts as often as it has backends.
        let weight = match service.scheduler {
            Scheduler::RoundRobin => weight.min(1),
            _ => weight,
        };
        let sum = self.nodes.entry(address).or_default();
        *sum = sum.saturating_add(weight);
    }

    fn of_port(
        &self,
        service: &Service,
        port: &PublishedPort,
        family: Family,
    ) -> BTreeMap<ServiceKey, lb::Service> {
        let mut made = BTreeMap::new();
        let Some(published) = NonZeroU16::new(port.published) else {
            return made;
        };
        let key = |address| ServiceKey {
            address,
            ports: Ports::One(protocol(port.protocol), published),
        };
        let here = self.here(service, port, family);
        if port.mode == PublishMode::Host {
            if let Some(address) = self.address(port, family).filter(|_| !here.is_empty()) {
                made.insert(key(address), self.service(service, here));
            }
            return made;
        }
        if let Some(own) = self.own {
            let own = Address::Vip(on_mesh(own, family));
            let handed_on = self.handed_on(port, family, &here);
            made.insert(key(own), self.service(service, handed_on));
        }
        if let Some(address) = self.address(port, family) {
            let nodes = self.nodes.iter().map(|(node, weight)| {
                let address = on_mesh(*node, family);
                let port = Some(published);
                (Backend { address, port }, *weight)
            });
            let all = here.into_iter().chain(nodes).collect();
            made.insert(key(address), self.service(service, all));
        }
        made
    }

    fn here(
        &self,
        service: &Service,
        port: &PublishedPort,
        family: Family,
    ) -> BTreeMap<Backend, u16> {
        if relay::is_relayed(port) {
            return self.by_relay(service, port, family);
        }
        let weight = |weight: u16| match service.scheduler {
            Scheduler::RoundRobin => weight.min(1),
            _ => weight,
        };
        let backends = self.here.iter();
        backends
            .filter_map(|(leg, of_container)| {
                Some((by_leg(leg, port, family)?, weight(*of_container)))
            })
            .collect()
    }

    /// Who takes what other nodes hand on. They do so as long as they know of a backend here that
    /// takes connections, which may be a moment before this node does or after: whoever is there
    /// then is better than a refusal.
    fn handed_on(
        &self,
        port: &PublishedPort,
        family: Family,
        here: &BTreeMap<Backend, u16>,
    ) -> BTreeMap<Backend, u16> {
        if here.values().any(|weight| *weight > 0) {
            return here.clone();
        }
        if relay::is_relayed(port) {
            let any = u16::from(!self.members.is_empty());
            return here.keys().map(|relay| (*relay, any)).collect();
        }
        let members = self.members.values();
        members
            .filter_map(|leg| Some((by_leg(leg, port, family)?, 1)))
            .collect()
    }

    /// Where this node answers; `None` when only others do.
    fn address(&self, port: &PublishedPort, family: Family) -> Option<Address> {
        match port.ip {
            None => Some(Address::Local(family)),
            Some(ip) if ip.is_ipv4() != (family == Family::V4) => None,
            Some(ip) => {
                let here = ip.is_loopback() || self.addresses.contains(&ip);
                here.then_some(Address::Vip(ip))
            }
        }
    }

    fn service(&self, service: &Service, backends: BTreeMap<Backend, u16>) -> lb::Service {
        lb::Service {
            scheduler: match service.scheduler {
                // A node is chosen as often as it has backends.
                Scheduler::RoundRobin => lb::Scheduler::WeightedRoundRobin,
                _ => scheduler(service, backends.len()),
            },
            affinity: affinity(service),
            idle: idle(service),
            backends,
        }
    }
}

/// A container of this node, by its leg.
fn by_leg(leg: &LegAddresses, port: &PublishedPort, family: Family) -> Option<Backend> {
    let address = match family {
        Family::V4 => leg.v4.into(),
        Family::V6 => leg.v6?.into(),
    };
    let port = NonZeroU16::new(port.target);
    Some(Backend { address, port })
}

/// What does not depend on services. `gateway4` are the addresses of containers' legs.
fn rules(view: &View, local: NodeId, gateway4: Ipv4Net) -> IngressSpec {
    let network = ingress_network(view);
    let own = own(view, local).filter(|_| is_meshed(view));
    let mut rules = IngressSpec {
        mesh_if: MESH_IF.to_owned(),
        gateway_if: GATEWAY_IF.to_owned(),
        mesh4: own,
        mesh6: own.map(mesh6),
        gateway4: Some(gateway4),
        gateway6: Some(SUBNET6),
        ..IngressSpec::default()
    };
    for node in others(view, local) {
        let Some(address) = node.ingress else {
            continue;
        };
        if let Some(number) = network.and_then(|network| number(network, address)) {
            let mac = MacAddr::from_ipv4(address).0;
            rules.entries.insert(mac, number);
        }
        for known in addresses(node) {
            let peer = match known {
                IpAddr::V4(_) => address.into(),
                IpAddr::V6(_) => mesh6(address).into(),
            };
            rules.peers.insert(known, peer);
        }
    }
    // What this node has too, such as the address of a bridge that every host has, is none of
    // another's: a connection from there is this node's own.
    for known in view
        .nodes
        .get(&local)
        .into_iter()
        .flat_map(|node| addresses(node))
    {
        rules.peers.remove(&known);
    }
    rules
}

/// Addresses that the node's row knows.
fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> + '_ {
    let told = node.addresses.iter().copied();
    [node.addr.ip(), node.data_path_addr]
        .into_iter()
        .chain(told)
}

fn ingress_network(view: &View) -> Option<&Network> {
    view.networks
        .values()
        .find(|network| network.ingress)
        .map(AsRef::as_ref)
}

fn own(view: &View, local: NodeId) -> Option<Ipv4Addr> {
    view.nodes.get(&local)?.ingress
}

fn others(view: &View, local: NodeId) -> impl Iterator<Item = &Node> {
    view.nodes
        .values()
        .map(AsRef::as_ref)
        .filter(move |node| node.id != local)
}

/// The number of a node in marks: the place of its address in the subnet, which stays as long as the
/// address. `None` where it does not fit: such a node cannot pass connections on.
fn number(network: &Network, address: Ipv4Addr) -> Option<u16> {
    let IpNet::V4(subnet) = network.subnet_of(address.into())?.cidr else {
        return None;
    };
    let place = u32::from(address) - u32::from(subnet.network());
    u16::try_from(place)
        .ok()
        .filter(|place| (1..=NODE_MAX).contains(place))
}

fn mesh6(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(MESH6.addr()) | u128::from(u32::from(address)))
}

fn on_mesh(address: Ipv4Addr, family: Family) -> IpAddr {
    match family {
        Family::V4 => address.into(),
        Family::V6 => mesh6(address).into(),
    }
}

/// MTU of the ingress network in bytes: what the operator chose, or what the tunnels between all
/// nodes carry.
pub(crate) fn mesh_mtu(view: &View) -> u32 {
    let network = ingress_network(view);
    let encrypted = network.is_some_and(|network| network.encrypted);
    let nodes: Vec<&Node> = view.nodes.values().map(AsRef::as_ref).collect();
    let chosen = network.and_then(|network| network.mtu);
    chosen.unwrap_or_else(|| fitting_mtu(encrypted, &nodes))
}

/// The nodes at the other ends of the ingress network's tunnels; `None` if this node has none.
pub(crate) fn mesh_members(view: &View, local: NodeId) -> Option<Vec<&Node>> {
    own(view, local).filter(|_| is_meshed(view))?;
    let members = others(view, local).filter(|node| node.ingress.is_some());
    Some(members.collect())
}

fn protocol(protocol: Protocol) -> lb::Protocol {
    match protocol {
        Protocol::Tcp => lb::Protocol::Tcp,
        Protocol::Udp => lb::Protocol::Udp,
    }
}

mod relay;
#[cfg(test)]
mod tests;
