use std::collections::{BTreeMap, BTreeSet};

use weft_raft::model::{Change, Endpoint, EndpointId, NetworkId, Node, NodeId, View};

/// Which endpoints a network has, so that a change of one network costs what that network costs
/// and not what the cluster costs. Kept in step with a [`View`] by its changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    by_network: BTreeMap<NetworkId, BTreeSet<EndpointId>>,
    network_of: BTreeMap<EndpointId, NetworkId>,
}

/// What a change may have made different on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirty {
    /// Everything: cluster settings or what the tunnels rest on.
    pub(crate) all: bool,
    /// These networks.
    pub(crate) networks: BTreeSet<NetworkId>,
    /// The set of nodes or their data-path addresses.
    pub(crate) members: bool,
}

impl Dirty {
    /// Everything is to be looked at again.
    pub(crate) fn everything() -> Self {
        Self {
            all: true,
            networks: BTreeSet::new(),
            members: true,
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_clean(&self) -> bool {
        !self.all && !self.members && self.networks.is_empty()
    }

    /// Takes in what another change made different.
    pub(crate) fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.members |= other.members;
        self.networks.extend(other.networks);
    }
}

impl Index {
    /// The index of a whole view.
    pub(crate) fn of(view: &View) -> Self {
        let mut index = Self::default();
        for endpoint in view.endpoints.values() {
            index.insert(endpoint);
        }
        index
    }

    /// The endpoints of a network.
    pub(crate) fn endpoints<'a>(
        &'a self,
        view: &'a View,
        network: NetworkId,
    ) -> impl Iterator<Item = &'a Endpoint> {
        self.by_network
            .get(&network)
            .into_iter()
            .flatten()
            .filter_map(|id| view.endpoints.get(id))
            .map(AsRef::as_ref)
    }

    /// Takes in changes that lead away from `before`, and says what they touch.
    pub(crate) fn apply(&mut self, before: &View, changes: &[Change]) -> Dirty {
        let mut dirty = Dirty::default();
        for change in changes {
            match change {
                Change::Cluster(_) => dirty.all = true,
                Change::Node(node) => {
                    let old = before.nodes.get(&node.id).map(AsRef::as_ref);
                    self.node_changed(before, old, Some(node), &mut dirty);
                }
                Change::NodeGone(id) => {
                    let old = before.nodes.get(id).map(AsRef::as_ref);
                    self.node_changed(before, old, None, &mut dirty);
                }
                Change::Network(network) => {
                    dirty.networks.insert(network.id);
                }
                Change::NetworkGone(id) => {
                    dirty.networks.insert(*id);
                }
                Change::Endpoint(endpoint) => {
                    self.remove(endpoint.id, &mut dirty);
                    self.insert(endpoint);
                    dirty.networks.insert(endpoint.network);
                }
                Change::EndpointGone(id) => self.remove(*id, &mut dirty),
                // No tunnel depends on services.
                Change::Service(_) | Change::ServiceGone(_) => {}
            }
        }
        dirty
    }

    /// Only what the tunnels use of a node matters; a heartbeat's change of status does not.
    fn node_changed(&self, view: &View, old: Option<&Node>, new: Option<&Node>, dirty: &mut Dirty) {
        let facts = |node: &'_ Node| (node.data_path_addr, node.underlay_mtu, node.paths.clone());
        if old.map(facts) == new.map(facts) {
            return;
        }
        dirty.members = true;
        if let Some(id) = old.or(new).map(|node| node.id) {
            dirty.networks.extend(self.networks_of(view, id));
        }
    }

    fn networks_of(&self, view: &View, node: NodeId) -> BTreeSet<NetworkId> {
        view.endpoints
            .values()
            .filter(|endpoint| endpoint.node == node)
            .map(|endpoint| endpoint.network)
            .collect()
    }

    fn insert(&mut self, endpoint: &Endpoint) {
        self.network_of.insert(endpoint.id, endpoint.network);
        self.by_network
            .entry(endpoint.network)
            .or_default()
            .insert(endpoint.id);
    }

    fn remove(&mut self, id: EndpointId, dirty: &mut Dirty) {
        let Some(network) = self.network_of.remove(&id) else {
            return;
        };
        dirty.networks.insert(network);
        if let Some(endpoints) = self.by_network.get_mut(&network) {
            endpoints.remove(&id);
            if endpoints.is_empty() {
                self.by_network.remove(&network);
            }
        }
    }
}
