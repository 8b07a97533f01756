use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::types::{
    ApiError, Applied, AttachRequest, Endpoint, EndpointUpdateRequest, Event, InitRequest,
    JoinRequest, Joined, LeaveRequest, Network, NetworkCreateRequest, NetworkUpdateRequest, Node,
    Role, Service, ServiceAnswer, ServiceCreateRequest, ServiceUpdateRequest, Status, Token,
};

/// What a [`Backend`] answers with.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, ApiError>>;

/// Changes as they are learnt.
pub type Events = BoxStream<'static, Event>;

/// What a request waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// Every ready node's kernel reflects this log index.
    Revision(u64),
    /// Every ready node's kernel reflects this endpoint.
    Endpoint(String),
    /// Every ready node's kernel reflects this service and its endpoints.
    Service(String),
}

/// The operations of the local API, one method each.
///
/// Objects are named as people name them: by id, by the beginning of an id (4 characters or more,
/// fitting one object) or by name; endpoints by `NAME.NETWORK` too. See [`super::lookup`].
///
/// Requests arrive with their fields parsed but unjudged: whether a name, port or subnet will do
/// is for the implementation to say, in one line. A method may be dropped before it is done (the
/// client went away, or took too long), so what must be finished runs elsewhere.
pub trait Backend: Send + Sync + 'static {
    /// What this agent knows of itself; never waits for another node.
    fn status(&self) -> Reply<'_, Status>;
    /// Starts a cluster.
    fn init(&self, request: InitRequest) -> Reply<'_, Joined>;
    /// Enters a cluster.
    fn join(&self, request: JoinRequest) -> Reply<'_, Joined>;
    /// Leaves the cluster.
    fn leave(&self, request: LeaveRequest) -> Reply<'_, ()>;
    /// What admits a node in this role. With `rotate`, a new one that replaces the old.
    fn token(&self, role: Role, rotate: bool) -> Reply<'_, Token>;
    /// All nodes, by name.
    fn nodes(&self) -> Reply<'_, Vec<Node>>;
    /// One node; `self` names this one.
    fn node(&self, node: String) -> Reply<'_, Node>;
    /// All networks, by name.
    fn networks(&self) -> Reply<'_, Vec<Network>>;
    /// One network.
    fn network(&self, network: String) -> Reply<'_, Network>;
    /// Creates a network.
    fn network_create(&self, request: NetworkCreateRequest) -> Reply<'_, Network>;
    /// Changes a network.
    fn network_update(&self, network: String, request: NetworkUpdateRequest) -> Reply<'_, Network>;
    /// Removes a network that no endpoint is attached to; answers with what it was.
    fn network_remove(&self, network: String) -> Reply<'_, Network>;
    /// All endpoints, by network and name.
    fn endpoints(&self) -> Reply<'_, Vec<Endpoint>>;
    /// One endpoint.
    fn endpoint(&self, endpoint: String) -> Reply<'_, Endpoint>;
    /// Attaches a namespace of this node; answers when this node's kernel has it.
    fn attach(&self, request: AttachRequest) -> Reply<'_, Endpoint>;
    /// Changes an endpoint on any node.
    fn endpoint_update(
        &self,
        endpoint: String,
        request: EndpointUpdateRequest,
    ) -> Reply<'_, Endpoint>;
    /// Removes an endpoint; answers with what it was.
    fn detach(&self, endpoint: String, force: bool) -> Reply<'_, Endpoint>;
    /// All services, by name.
    fn services(&self) -> Reply<'_, Vec<Service>>;
    /// One service.
    fn service(&self, service: String) -> Reply<'_, Service>;
    /// Creates a service.
    fn service_create(&self, request: ServiceCreateRequest) -> Reply<'_, ServiceAnswer>;
    /// Changes a service.
    fn service_update(
        &self,
        service: String,
        request: ServiceUpdateRequest,
    ) -> Reply<'_, ServiceAnswer>;
    /// Removes a service, not its endpoints; answers with what it was.
    fn service_remove(&self, service: String) -> Reply<'_, Service>;
    /// Waits until every ready node's kernel reflects something; answers with the log index.
    fn wait(&self, what: WaitFor, timeout: Duration) -> Reply<'_, u64>;
    /// Changes from now on. Ends when the agent does.
    fn events(&self) -> Reply<'_, Events>;
    /// What every ready node's kernel reflects.
    fn applied(&self) -> Reply<'_, Vec<Applied>>;
}
