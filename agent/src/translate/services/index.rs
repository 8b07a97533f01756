use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_netns::Identity;
use weft_raft::model::{
    Attachment, Availability, BackendState, Change, Endpoint, EndpointId, NetworkId, Node, NodeId,
    NodeStatus, Scheduler, Service, ServiceId, View,
};

/// A service address: a network and an address on it.
pub(crate) type Vip = (NetworkId, Ipv4Addr);
/// A container: a host and a network namespace on it. A place of an earlier boot may look the same.
pub(crate) type Place = (NodeId, Identity);

/// What belongs to what among services, endpoints and containers, so that a change costs what it
/// touches. Kept in step with a [`View`] by its changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceIndex {
    rows: BTreeMap<EndpointId, Arc<Endpoint>>,
    members: BTreeMap<ServiceId, BTreeSet<EndpointId>>,
    waiting: BTreeSet<(NodeId, EndpointId)>,
    on_network: BTreeSet<(NetworkId, NodeId, EndpointId)>,
    at_place: BTreeSet<(NodeId, Identity, EndpointId)>,
    vips: BTreeMap<Vip, ServiceId>,
    vips_of: BTreeMap<ServiceId, BTreeSet<Vip>>,
    by_load: BTreeSet<ServiceId>,
}

/// What a change may have made different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServicesDirty {
    /// Everything.
    pub(crate) all: bool,
    /// These service addresses.
    pub(crate) vips: BTreeSet<Vip>,
    /// What is attached to these containers.
    pub(crate) places: BTreeSet<Place>,
    /// Backends have other loads as seen from these containers of this node.
    pub(crate) loads: BTreeSet<Identity>,
    /// Backends that are no more, each with a service address that led to it.
    pub(crate) departed: BTreeSet<(Vip, Ipv4Addr)>,
}

const FIRST_ENDPOINT: EndpointId = EndpointId::new([0; 10]);
const LAST_ENDPOINT: EndpointId = EndpointId::new([0xff; 10]);
const FIRST_PLACE: Identity = Identity {
    device: 0,
    inode: 0,
};
const LAST_PLACE: Identity = Identity {
    device: u64::MAX,
    inode: u64::MAX,
};

impl ServicesDirty {
    /// Everything is to be looked at again.
    pub(crate) fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_clean(&self) -> bool {
        !self.all && self.vips.is_empty() && self.places.is_empty() && self.loads.is_empty()
    }

    /// Takes in what another change made different.
    pub(crate) fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.vips.extend(other.vips);
        self.places.extend(other.places);
        self.loads.extend(other.loads);
        self.departed.extend(other.departed);
    }
}

impl ServiceIndex {
    /// The index of a whole view.
    pub(crate) fn of(view: &View) -> Self {
        let mut index = Self::default();
        for service in view.services.values() {
            index.insert_service(service);
        }
        for endpoint in view.endpoints.values() {
            index.insert_endpoint(endpoint);
        }
        index
    }

    /// Takes in changes that lead away from `before`, and says what they touch.
    pub(crate) fn apply(&mut self, before: &View, changes: &[Change]) -> ServicesDirty {
        let mut dirty = ServicesDirty::default();
        for change in changes {
            match change {
                Change::Node(node) => {
                    let old = before.nodes.get(&node.id).map(AsRef::as_ref);
                    if old.map(takes_part) != Some(takes_part(node)) {
                        self.dirty_members_on(node.id, &mut dirty);
                    }
                }
                Change::NodeGone(id) => self.dirty_members_on(*id, &mut dirty),
                Change::Endpoint(endpoint) => self.endpoint_changed(endpoint, &mut dirty),
                Change::EndpointGone(id) => {
                    if let Some(old) = self.remove_endpoint(*id) {
                        self.dirty_endpoint(&old, &mut dirty);
                        self.depart(&old, &mut dirty);
                    }
                }
                Change::Service(service) => {
                    self.remove_service(service.id, &mut dirty);
                    self.insert_service(service);
                    dirty.vips.extend(self.vips_of(service.id));
                }
                Change::ServiceGone(id) => self.remove_service(*id, &mut dirty),
                // Addresses of services are in their own rows.
                Change::Cluster(_) | Change::Network(_) | Change::NetworkGone(_) => {}
            }
        }
        dirty
    }

    /// The service with this address.
    pub(super) fn service_at(&self, vip: Vip) -> Option<ServiceId> {
        self.vips.get(&vip).copied()
    }

    /// Whether a service has this address.
    pub(crate) fn is_service(&self, vip: Vip) -> bool {
        self.vips.contains_key(&vip)
    }

    /// The service addresses of a network.
    pub(super) fn vips_on(&self, network: NetworkId) -> impl Iterator<Item = Vip> {
        let (first, last) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        let range = self.vips.range((network, first)..=(network, last));
        range.map(|(vip, _)| *vip)
    }

    /// The addresses of services whose backends are chosen by the flows that they have.
    pub(crate) fn vips_by_load(&self) -> impl Iterator<Item = Vip> {
        self.by_load
            .iter()
            .flat_map(|service| self.vips_of(*service))
    }

    /// The endpoints of a service.
    pub(super) fn members(&self, service: ServiceId) -> impl Iterator<Item = EndpointId> {
        self.members.get(&service).into_iter().flatten().copied()
    }

    /// The endpoints of a node that are members of a service and not ready, but may become so.
    pub(super) fn waiting_on(&self, node: NodeId) -> impl Iterator<Item = EndpointId> {
        let range = self
            .waiting
            .range((node, FIRST_ENDPOINT)..=(node, LAST_ENDPOINT));
        range.map(|(_, endpoint)| *endpoint)
    }

    /// The containers of a node, each once.
    pub(crate) fn places_on(&self, node: NodeId) -> BTreeSet<Identity> {
        let first = (node, FIRST_PLACE, FIRST_ENDPOINT);
        let last = (node, LAST_PLACE, LAST_ENDPOINT);
        let range = self.at_place.range(first..=last);
        range.map(|(_, place, _)| *place).collect()
    }

    /// The containers of a node that are on a network, each once.
    pub(crate) fn places_on_network(&self, node: NodeId, network: NetworkId) -> BTreeSet<Identity> {
        let first = (network, node, FIRST_ENDPOINT);
        let last = (network, node, LAST_ENDPOINT);
        let endpoints = self.on_network.range(first..=last);
        endpoints
            .filter_map(|(_, _, id)| Some(identity(&self.rows.get(id)?.attachment)))
            .collect()
    }

    /// The endpoints of a container.
    pub(crate) fn endpoints_at(&self, (node, netns): Place) -> impl Iterator<Item = EndpointId> {
        let first = (node, netns, FIRST_ENDPOINT);
        let last = (node, netns, LAST_ENDPOINT);
        self.at_place.range(first..=last).map(|(_, _, id)| *id)
    }

    /// The endpoints of a node.
    pub(crate) fn endpoints_on(&self, node: NodeId) -> impl Iterator<Item = &Endpoint> {
        let first = (node, FIRST_PLACE, FIRST_ENDPOINT);
        let last = (node, LAST_PLACE, LAST_ENDPOINT);
        let ids = self.at_place.range(first..=last);
        ids.filter_map(|(_, _, id)| self.rows.get(id))
            .map(AsRef::as_ref)
    }

    /// Where an endpoint is.
    pub(crate) fn place_of(&self, endpoint: EndpointId) -> Option<Place> {
        self.rows.get(&endpoint).map(|row| place(row))
    }

    fn vips_of(&self, service: ServiceId) -> impl Iterator<Item = Vip> {
        self.vips_of.get(&service).into_iter().flatten().copied()
    }

    fn endpoint_changed(&mut self, new: &Arc<Endpoint>, dirty: &mut ServicesDirty) {
        let old = self.remove_endpoint(new.id);
        self.insert_endpoint(new);
        if let Some(old) = old.as_ref().filter(|old| !same_backend(old, new)) {
            self.depart(old, dirty);
        }
        match old {
            Some(old) if same_interface(&old, new) => {
                if as_member(&old) != as_member(new) {
                    dirty.vips.extend(self.vips_of_member(&old));
                    dirty.vips.extend(self.vips_of_member(new));
                }
            }
            old => {
                for row in old.iter().chain([new]) {
                    self.dirty_endpoint(row, dirty);
                }
            }
        }
    }

    fn dirty_endpoint(&self, row: &Endpoint, dirty: &mut ServicesDirty) {
        dirty.places.insert(place(row));
        dirty.vips.extend(self.vips_of_member(row));
    }

    fn depart(&self, row: &Endpoint, dirty: &mut ServicesDirty) {
        let vips = self.vips_of_member(row);
        let departed = vips.filter_map(|vip| Some((vip, row.ipv4?)));
        dirty.departed.extend(departed);
    }

    /// The service addresses that lead to an endpoint, or would if it took traffic.
    pub(super) fn vips_of_member(&self, row: &Endpoint) -> impl Iterator<Item = Vip> {
        let network = row.network;
        let services = row.service.into_iter();
        services
            .flat_map(|service| self.vips_of(service))
            .filter(move |(on, _)| *on == network)
    }

    fn dirty_members_on(&self, node: NodeId, dirty: &mut ServicesDirty) {
        for row in self.endpoints_on(node) {
            dirty.vips.extend(self.vips_of_member(row));
        }
    }

    fn insert_service(&mut self, service: &Service) {
        if service.scheduler == Scheduler::LeastConnections {
            self.by_load.insert(service.id);
        }
        for on in &service.networks {
            let Some(vip) = on.vip else { continue };
            let vip = (on.network, vip);
            self.vips.insert(vip, service.id);
            self.vips_of.entry(service.id).or_default().insert(vip);
        }
    }

    fn remove_service(&mut self, id: ServiceId, dirty: &mut ServicesDirty) {
        self.by_load.remove(&id);
        for vip in self.vips_of.remove(&id).into_iter().flatten() {
            if self.vips.get(&vip) == Some(&id) {
                self.vips.remove(&vip);
            }
            dirty.vips.insert(vip);
        }
    }

    fn insert_endpoint(&mut self, row: &Arc<Endpoint>) {
        let (id, (node, netns)) = (row.id, place(row));
        self.on_network.insert((row.network, node, id));
        self.at_place.insert((node, netns, id));
        if let Some(service) = row.service {
            self.members.entry(service).or_default().insert(id);
            if matches!(
                row.backend,
                BackendState::Starting | BackendState::Unhealthy
            ) {
                self.waiting.insert((node, id));
            }
        }
        self.rows.insert(id, row.clone());
    }

    fn remove_endpoint(&mut self, id: EndpointId) -> Option<Arc<Endpoint>> {
        let row = self.rows.remove(&id)?;
        let (node, netns) = place(&row);
        self.on_network.remove(&(row.network, node, id));
        self.at_place.remove(&(node, netns, id));
        self.waiting.remove(&(node, id));
        if let Some(service) = row.service
            && let Some(members) = self.members.get_mut(&service)
        {
            members.remove(&id);
            if members.is_empty() {
                self.members.remove(&service);
            }
        }
        Some(row)
    }
}

/// Where an endpoint is.
fn place(row: &Endpoint) -> Place {
    (row.node, identity(&row.attachment))
}

/// Which namespace an attachment names.
pub(super) fn identity(attachment: &Attachment) -> Identity {
    Identity {
        device: attachment.device,
        inode: attachment.inode,
    }
}

/// Whether a container has the same interface on the same network.
fn same_interface(old: &Endpoint, new: &Endpoint) -> bool {
    (old.network, old.node, old.ipv4, &old.attachment)
        == (new.network, new.node, new.ipv4, &new.attachment)
}

/// Whether a service that led to the one leads to the other.
fn same_backend(old: &Endpoint, new: &Endpoint) -> bool {
    (old.service, old.network, old.ipv4) == (new.service, new.network, new.ipv4)
}

/// What a service uses of an endpoint.
fn as_member(row: &Endpoint) -> (Option<ServiceId>, u16, BackendState) {
    (row.service, row.weight, row.backend)
}

/// What decides whether the endpoints of a node take traffic.
fn takes_part(node: &Node) -> (NodeStatus, Availability) {
    (node.status, node.availability)
}
