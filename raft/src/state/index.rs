use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use super::cost;
use super::pool::AddressPool;
use super::ports::PortTable;
use super::prefix::PrefixIndex;
use super::subnet;
use crate::model::{
    Attachment, Change, Endpoint, EndpointId, MacAddr, Network, NetworkId, Node, NodeId, Role,
    Service, ServiceId, View, Vni,
};

/// Finds rows by what they hold. Follows from the rows (and, for what was held earlier, from their
/// history), and is kept by the changes themselves, so that it cannot say anything else than they.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// In lower case: host names are compared without case.
    pub(super) node_names: BTreeMap<String, NodeId>,
    pub(super) raft_ids: BTreeMap<u64, NodeId>,
    pub(super) managers: usize,
    pub(super) routes: PrefixIndex<NodeId>,
    pub(super) network_names: BTreeMap<String, NetworkId>,
    pub(super) vnis: BTreeMap<Vni, NetworkId>,
    pub(super) subnets: PrefixIndex<NetworkId>,
    pub(super) members: BTreeMap<NetworkId, Members>,
    /// The network that carries published ports, if there is one.
    pub(super) ingress: Option<NetworkId>,
    pub(super) service_names: BTreeMap<String, ServiceId>,
    pub(super) published: PortTable,
    backends: BTreeSet<(ServiceId, EndpointId)>,
    namespaces: BTreeSet<(NodeId, Namespace, EndpointId)>,
    pub(super) floors: Floors,
    /// Approximate memory of all rows.
    pub(super) bytes: usize,
}

/// What holds an address of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Endpoint(EndpointId),
    Service(ServiceId),
    Node(NodeId),
}

/// What is held on one network.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    pub(super) names: BTreeMap<String, EndpointId>,
    pub(super) addresses: BTreeMap<IpAddr, Holder>,
    /// Only those that do not follow from an IPv4 address.
    pub(super) macs: BTreeMap<MacAddr, EndpointId>,
    pub(super) pool: AddressPool,
    pub(super) services: BTreeSet<ServiceId>,
}

/// Device and inode of a namespace file; the boot id is compared on the row.
type Namespace = (u64, u64);

/// Where a search for something free begins. Only saves time: nothing before is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Floors {
    pub(super) vni: u32,
    pub(super) subnet: Candidate,
    /// Of the /64s of the cluster's prefix for IPv6.
    pub(super) subnet6: u32,
}

/// A place in the address pools: which pool, and the first address of a subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) pool: usize,
    pub(super) first: u32,
}

impl Index {
    /// For the rows of a snapshot and its address pools.
    pub(super) fn rebuild(view: &View, mut pools: BTreeMap<NetworkId, AddressPool>) -> Self {
        let mut index = Self::default();
        for network in view.networks.values() {
            index.link_network(network);
            if let Some(pool) = pools.remove(&network.id) {
                index.members.entry(network.id).or_default().pool = pool;
            }
        }
        for node in view.nodes.values() {
            index.link_node(node);
        }
        for endpoint in view.endpoints.values() {
            index.link_endpoint(endpoint);
        }
        for service in view.services.values() {
            index.link_service(service);
        }
        index
    }

    /// Takes in a change that `view` does not show yet.
    pub(super) fn absorb(&mut self, view: &View, change: &Change) {
        match change {
            Change::Cluster(_) => {}
            Change::Node(node) => {
                self.unlink_node(view, view.nodes.get(&node.id), Some(node));
                self.link_node(node);
            }
            Change::NodeGone(id) => self.unlink_node(view, view.nodes.get(id), None),
            Change::Network(network) => {
                if let Some(old) = view.networks.get(&network.id) {
                    self.unlink_network(view, old);
                }
                self.link_network(network);
            }
            Change::NetworkGone(id) => {
                if let Some(old) = view.networks.get(id) {
                    self.unlink_network(view, old);
                    self.members.remove(id);
                }
            }
            Change::Endpoint(endpoint) => {
                let old = view.endpoints.get(&endpoint.id);
                self.unlink_endpoint(old, Some(endpoint));
                self.link_endpoint(endpoint);
            }
            Change::EndpointGone(id) => self.unlink_endpoint(view.endpoints.get(id), None),
            Change::Service(service) => {
                let old = view.services.get(&service.id);
                self.unlink_service(old, Some(service));
                self.link_service(service);
            }
            Change::ServiceGone(id) => self.unlink_service(view.services.get(id), None),
        }
    }

    /// Endpoints on a node, in the order of their namespaces.
    pub(super) fn on_node(&self, node: NodeId) -> impl Iterator<Item = EndpointId> + '_ {
        self.namespaces
            .range((node, (0, 0), FIRST_ENDPOINT)..=(node, (u64::MAX, u64::MAX), LAST_ENDPOINT))
            .map(|(_, _, endpoint)| *endpoint)
    }

    /// Endpoints of a service.
    pub(super) fn backends(&self, service: ServiceId) -> impl Iterator<Item = EndpointId> + '_ {
        self.backends
            .range((service, FIRST_ENDPOINT)..=(service, LAST_ENDPOINT))
            .map(|(_, endpoint)| *endpoint)
    }

    /// Endpoints of one namespace.
    pub(super) fn in_namespace<'a>(
        &'a self,
        view: &'a View,
        node: NodeId,
        attachment: &'a Attachment,
    ) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        let namespace = (attachment.device, attachment.inode);
        self.namespaces
            .range((node, namespace, FIRST_ENDPOINT)..=(node, namespace, LAST_ENDPOINT))
            .filter_map(|(_, _, endpoint)| view.endpoints.get(endpoint))
            .filter(|endpoint| endpoint.attachment.boot_id == attachment.boot_id)
    }

    fn link_node(&mut self, node: &Node) {
        self.bytes += cost::of_node(node);
        self.node_names
            .insert(node.name.to_ascii_lowercase(), node.id);
        if node.role == Role::Manager {
            self.managers += 1;
            self.raft_ids.insert(node.raft_id, node.id);
        }
        for route in routes_that_count(&node.host_routes) {
            self.routes.insert(route, node.id);
        }
        if let (Some(network), Some(address)) = (self.ingress, node.ingress) {
            self.take(network, address.into(), Holder::Node(node.id));
        }
    }

    /// Frees the ingress address unless the node goes on with it.
    fn unlink_node(&mut self, view: &View, node: Option<&Arc<Node>>, next: Option<&Node>) {
        let Some(node) = node else { return };
        self.bytes = self.bytes.saturating_sub(cost::of_node(node));
        self.node_names.remove(&node.name.to_ascii_lowercase());
        if node.role == Role::Manager {
            self.managers = self.managers.saturating_sub(1);
            self.raft_ids.remove(&node.raft_id);
        }
        for route in routes_that_count(&node.host_routes) {
            self.routes.remove(route, node.id);
            self.lower_subnet_floor(view, route);
        }
        if let (Some(network), Some(address)) = (self.ingress, node.ingress)
            && next.and_then(|next| next.ingress) != Some(address)
        {
            self.free(network, address.into());
        }
    }

    fn link_network(&mut self, network: &Network) {
        self.bytes += cost::of_network(network);
        self.network_names.insert(network.name.clone(), network.id);
        if let Some(vni) = network.vni {
            self.vnis.insert(vni, network.id);
        }
        if network.ingress {
            self.ingress = Some(network.id);
        }
        for subnet in &network.subnets {
            self.subnets.insert(subnet.cidr, network.id);
        }
        let members = self.members.entry(network.id).or_default();
        members.pool.cover(network);
    }

    fn unlink_network(&mut self, view: &View, network: &Network) {
        self.bytes = self.bytes.saturating_sub(cost::of_network(network));
        self.network_names.remove(&network.name);
        if let Some(vni) = network.vni {
            self.vnis.remove(&vni);
            self.floors.vni = self.floors.vni.min(vni.get());
        }
        if network.ingress {
            self.ingress = None;
        }
        for subnet in &network.subnets {
            self.subnets.remove(subnet.cidr, network.id);
            self.lower_subnet_floor(view, subnet.cidr);
        }
    }

    fn link_endpoint(&mut self, endpoint: &Endpoint) {
        self.bytes += cost::of_endpoint(endpoint);
        let attachment = &endpoint.attachment;
        let namespace = (attachment.device, attachment.inode);
        self.namespaces
            .insert((endpoint.node, namespace, endpoint.id));
        if let Some(members) = self.members.get_mut(&endpoint.network) {
            members.names.insert(endpoint.name.clone(), endpoint.id);
            if Some(endpoint.mac) != endpoint.ipv4.map(MacAddr::from_ipv4) {
                members.macs.insert(endpoint.mac, endpoint.id);
            }
        }
        if let Some(service) = endpoint.service {
            self.backends.insert((service, endpoint.id));
        }
        let holder = Holder::Endpoint(endpoint.id);
        for address in endpoint.addresses() {
            self.take(endpoint.network, address, holder);
        }
    }

    /// Frees the addresses but those that the endpoint goes on with.
    fn unlink_endpoint(&mut self, endpoint: Option<&Arc<Endpoint>>, next: Option<&Endpoint>) {
        let Some(endpoint) = endpoint else { return };
        self.bytes = self.bytes.saturating_sub(cost::of_endpoint(endpoint));
        let attachment = &endpoint.attachment;
        let namespace = (attachment.device, attachment.inode);
        self.namespaces
            .remove(&(endpoint.node, namespace, endpoint.id));
        if let Some(members) = self.members.get_mut(&endpoint.network) {
            members.names.remove(&endpoint.name);
            members.macs.remove(&endpoint.mac);
        }
        if let Some(service) = endpoint.service {
            self.backends.remove(&(service, endpoint.id));
        }
        let kept = |address| next.is_some_and(|next| next.addresses().any(|a| a == address));
        for address in endpoint.addresses().filter(|address| !kept(*address)) {
            self.free(endpoint.network, address);
        }
    }

    fn link_service(&mut self, service: &Service) {
        self.bytes += cost::of_service(service);
        self.service_names.insert(service.name.clone(), service.id);
        for port in &service.ports {
            self.published.insert(port, service.id);
        }
        for on in &service.networks {
            if let Some(members) = self.members.get_mut(&on.network) {
                members.services.insert(service.id);
            }
            if let Some(vip) = on.vip {
                self.take(on.network, vip.into(), Holder::Service(service.id));
            }
        }
    }

    /// Frees the addresses but those that the service goes on with.
    fn unlink_service(&mut self, service: Option<&Arc<Service>>, next: Option<&Service>) {
        let Some(service) = service else { return };
        self.bytes = self.bytes.saturating_sub(cost::of_service(service));
        self.service_names.remove(&service.name);
        for port in &service.ports {
            self.published.remove(port);
        }
        for on in &service.networks {
            if let Some(members) = self.members.get_mut(&on.network) {
                members.services.remove(&service.id);
            }
            let kept = next.is_some_and(|next| next.networks.contains(on));
            if let Some(vip) = on.vip.filter(|_| !kept) {
                self.free(on.network, vip.into());
            }
        }
    }

    fn take(&mut self, network: NetworkId, address: IpAddr, holder: Holder) {
        if let Some(members) = self.members.get_mut(&network) {
            members.addresses.insert(address, holder);
            members.pool.take(address);
        }
    }

    fn free(&mut self, network: NetworkId, address: IpAddr) {
        if let Some(members) = self.members.get_mut(&network)
            && members.addresses.remove(&address).is_some()
        {
            members.pool.free(address);
        }
    }

    fn lower_subnet_floor(&mut self, view: &View, released: IpNet) {
        let Some(cluster) = &view.cluster else { return };
        let IpNet::V4(released) = released else {
            if let Some(number) = subnet::ula_number(cluster, released) {
                self.floors.subnet6 = self.floors.subnet6.min(number);
            }
            return;
        };
        for (number, pool) in cluster.pools.iter().enumerate() {
            if pool.contains(&released) || released.contains(pool) {
                let first = Ipv4Net::new(released.network(), cluster.pool_mask_length)
                    .map_or(0, |candidate| candidate.network().into());
                let candidate = Candidate {
                    pool: number,
                    first,
                };
                self.floors.subnet = self.floors.subnet.min(candidate);
                return;
            }
        }
    }
}

const FIRST_ENDPOINT: EndpointId = EndpointId::new([0; 10]);
const LAST_ENDPOINT: EndpointId = EndpointId::new([0xff; 10]);

/// The routes that a subnet can overlap: all but those of everything.
pub(super) fn routes_that_count(routes: &[IpNet]) -> impl Iterator<Item = IpNet> + '_ {
    let routes = routes.iter().filter(|route| route.prefix_len() > 0);
    routes.map(IpNet::trunc)
}
