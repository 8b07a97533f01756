//! What the local API and `--format json` speak. Field names are stable: programs rely on them, and
//! the OpenAPI document describes them from these declarations.
//!
//! Objects are named by their ids (16 characters of a-z and 2-7) and, where people read them, by
//! their names too. Requests refuse fields that they do not know, so that a misspelt option is
//! never silently without effect.

mod endpoint;
mod error;
mod event;
mod health;
mod network;
mod node;
mod port;
mod request;
mod service;
mod service_request;
mod status;
pub(crate) mod text;

pub use endpoint::{Endpoint, EndpointState, Kind};
pub use error::{ApiError, ErrorCode};
pub use event::{Event, EventAction, EventObject, EventType};
pub use health::{HealthCheck, HealthUpdate, Probe};
pub use network::{Network, Route, Subnet};
pub(crate) use node::host_wide;
pub use node::{Availability, Node, NodeStatus, Role, Warning};
pub use port::{Port, PortKey, Protocol, PublishMode, SourceMode};
pub use request::{
    AttachRequest, DetachQuery, InitRequest, JoinRequest, LeaveRequest, NetworkCreateRequest,
    NetworkUpdateRequest, WaitRequest,
};
pub(crate) use service::nobody_has;
pub use service::{
    Affinity, BackendState, EndpointMode, Scheduler, Service, ServiceEndpoint, ServiceNetwork,
    Totals,
};
pub use service_request::{
    EndpointUpdateRequest, PublishRequest, ServiceAnswer, ServiceCreateRequest,
    ServiceUpdateRequest,
};
pub use status::{
    Applied, Certificate, DataplaneStatus, DnsStatus, EncryptionStatus, Feature, Joined, Managers,
    Peer, Problem, ProtectedPeer, ProtectionState, Status, Token,
};

#[cfg(test)]
mod tests;
