//! The cluster's nouns: what the replicated state is made of.
//!
//! Every row carries the revision (Raft log index) that last changed it. Rows are plain values;
//! only the state machine decides which of them may exist together.

mod driver;
mod endpoint;
mod id;
mod mac;
mod network;
mod node;
mod route;
mod service;
mod view;

use std::collections::BTreeMap;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use driver::Driver;
pub use endpoint::{Attachment, Endpoint, EndpointKind};
pub use id::{ClusterId, EndpointId, Id, IdError, NetworkId, NodeId, ServiceId};
pub use mac::MacAddr;
pub use network::{IpFamily, Network, Subnet, Vni};
pub use node::{Availability, Node, NodeStatus, Notice, Role};
pub use route::Route;
pub use service::{
    Affinity, BackendState, EndpointMode, HealthCheck, Probe, Protocol, PublishMode, PublishedPort,
    Scheduler, Service, ServiceNetwork, SourceMode,
};
pub use view::{Change, View};

/// Position in the Raft log; state with revision `r` reflects every command up to index `r`.
pub type Revision = u64;

/// Free-form operator annotations.
pub type Labels = BTreeMap<String, String>;

/// Cluster-wide settings that every node may know. Secrets are kept apart, in
/// [`crate::command::Secrets`], and never leave the managers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Made at `weft init`, never changes.
    pub id: ClusterId,
    /// UDP port of every node's VXLAN device, 1024-49151.
    pub data_path_port: u16,
    /// Where subnets of networks without `--subnet` come from, in order of preference.
    pub pools: Vec<Ipv4Net>,
    /// Prefix length of a subnet taken from `pools`.
    pub pool_mask_length: u8,
    /// Lifetime of node certificates, in seconds.
    pub cert_expiry_s: u64,
    /// Root certificate, DER.
    pub ca_cert: Vec<u8>,
    /// When the cluster was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
}

impl Cluster {
    /// Where IPv6 subnets come from that nobody chose: a /48 of locally assigned addresses whose
    /// global ID (RFC 4193 section 3.2) is the first 40 bits of the cluster's id, which is random.
    pub fn ula_prefix(&self) -> Ipv6Net {
        let [a, b, c, d, e, ..] = self.id.0.bytes();
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&[0xfd, a, b, c, d, e]);
        Ipv6Net::new_assert(octets.into(), 48)
    }
}
