use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Endpoint, Network, Node, Service, Warning};

/// Something in the cluster that changed, as one line of the event stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Log index that changed it. Never decreases along a stream.
    pub revision: u64,
    /// What kind of object.
    #[serde(rename = "type")]
    pub object_type: EventType,
    /// What happened to it.
    pub action: EventAction,
    /// Which object.
    pub id: String,
    /// Its name, where it has one and it is known.
    pub name: Option<String>,
    /// As it is now; `null` when it was removed.
    pub object: Option<EventObject>,
}

/// Kinds of objects that events tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// Settings of the whole cluster.
    Cluster,
    /// A node.
    Node,
    /// A network.
    Network,
    /// An endpoint.
    Endpoint,
    /// A service.
    Service,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EventAction {
    /// It was made.
    Created,
    /// It is otherwise than before.
    Changed,
    /// It is no more.
    Removed,
    /// Something keeps services from being reached, or a network is short of addresses, which was not so
    /// before.
    Warning,
    /// It is not so any more.
    Cleared,
    /// Somebody else had changed what is weft's on this node, and it was put back.
    Repaired,
    /// The stream lost its place: read everything again. Comes with type `cluster` only.
    Resync,
}

/// An object of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum EventObject {
    /// A node.
    Node(Box<Node>),
    /// A network.
    Network(Box<Network>),
    /// An endpoint.
    Endpoint(Box<Endpoint>),
    /// A service.
    Service(Box<Service>),
    /// What keeps services from being reached, or of what a network is short.
    Warning(Warning),
}
