use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Cluster, Endpoint, EndpointId, Network, NetworkId, Node, NodeId, Revision, Service, ServiceId,
};

/// What every node may know of the cluster, at one revision. Holds no secret.
///
/// Rows are shared: a clone of a view costs its maps, not its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The log index that the rows reflect; 0 before the first command.
    pub revision: Revision,
    /// `None` before `weft init` or `weft join`.
    pub cluster: Option<Cluster>,
    /// All nodes.
    pub nodes: BTreeMap<NodeId, Arc<Node>>,
    /// All networks, the ingress network included.
    pub networks: BTreeMap<NetworkId, Arc<Network>>,
    /// All endpoints.
    pub endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// All services.
    pub services: BTreeMap<ServiceId, Arc<Service>>,
}

/// One row of a [`View`] that a command changed. Applying a change twice is harmless.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Cluster settings.
    Cluster(Cluster),
    /// A node was added or changed.
    Node(Arc<Node>),
    /// A node was removed.
    NodeGone(NodeId),
    /// A network was added or changed.
    Network(Arc<Network>),
    /// A network was removed.
    NetworkGone(NetworkId),
    /// An endpoint was added or changed.
    Endpoint(Arc<Endpoint>),
    /// An endpoint was removed.
    EndpointGone(EndpointId),
    /// A service was added or changed.
    Service(Arc<Service>),
    /// A service was removed.
    ServiceGone(ServiceId),
}

impl View {
    /// Takes in the changes that lead to `revision`. Older revisions leave no trace, so a
    /// subscriber may be sent what it already has.
    pub fn apply(&mut self, revision: Revision, changes: &[Change]) {
        if revision <= self.revision {
            return;
        }
        self.revision = revision;
        for change in changes {
            self.apply_one(change);
        }
    }

    /// The addresses that are held on a network: by its endpoints, by services, and on the ingress
    /// network by nodes. Looks at every row.
    pub fn held_addresses(&self, network: NetworkId) -> impl Iterator<Item = IpAddr> + '_ {
        let ingress = (self.networks.get(&network)).is_some_and(|network| network.ingress);
        let endpoints = (self.endpoints.values())
            .filter(move |endpoint| endpoint.network == network)
            .flat_map(|endpoint| endpoint.addresses());
        let vips = (self.services.values())
            .flat_map(|service| &service.networks)
            .filter(move |on| on.network == network)
            .filter_map(|on| on.vip.map(IpAddr::V4));
        let nodes = (self.nodes.values())
            .filter(move |_| ingress)
            .filter_map(|node| node.ingress.map(IpAddr::V4));
        endpoints.chain(vips).chain(nodes)
    }

    fn apply_one(&mut self, change: &Change) {
        match change {
            Change::Cluster(cluster) => self.cluster = Some(cluster.clone()),
            Change::Node(node) => {
                self.nodes.insert(node.id, node.clone());
            }
            Change::NodeGone(id) => {
                self.nodes.remove(id);
            }
            Change::Network(network) => {
                self.networks.insert(network.id, network.clone());
            }
            Change::NetworkGone(id) => {
                self.networks.remove(id);
            }
            Change::Endpoint(endpoint) => {
                self.endpoints.insert(endpoint.id, endpoint.clone());
            }
            Change::EndpointGone(id) => {
                self.endpoints.remove(id);
            }
            Change::Service(service) => {
                self.services.insert(service.id, service.clone());
            }
            Change::ServiceGone(id) => {
                self.services.remove(id);
            }
        }
    }
}
