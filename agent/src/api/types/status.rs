use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Role;

/// What an agent knows of itself and of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Id of this node; `null` while it is in no cluster, as the following three are.
    pub node: Option<String>,
    /// Name of this node.
    pub name: Option<String>,
    /// Id of the cluster.
    pub cluster: Option<String>,
    /// Whether this node votes.
    pub role: Option<Role>,
    /// Id of the leading manager; `null` while there is none that this node knows.
    pub leader: Option<String>,
    /// Process id of the agent.
    pub pid: u32,
    /// Version of the agent.
    pub version: String,
    /// Log index of the state that this node has.
    pub revision: u64,
    /// Log index of the state that this node's kernel reflects.
    pub applied: u64,
    /// How many managers there are.
    pub managers: Managers,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// What the kernel was probed for.
    pub features: Vec<Feature>,
    /// What could not be programmed on this node, and is tried again.
    pub problems: Vec<Problem>,
    /// What of this host keeps services from being reached here, a line each.
    pub warnings: Vec<String>,
    /// What was refused or thrown away, by counter name.
    pub drops: BTreeMap<String, u64>,
    /// This node's certificate.
    pub certificate: Option<Certificate>,
    /// The process that does what the kernel cannot; `null` while nothing needs it.
    pub dataplane: Option<DataplaneStatus>,
    /// Encrypted networks on this node; `null` while it takes part in none.
    pub encryption: Option<EncryptionStatus>,
    /// Names inside this node's containers; `null` while it has none.
    pub dns: Option<DnsStatus>,
}

/// How many managers there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Managers {
    /// Members that vote.
    pub total: u32,
    /// Those that can be reached from here, this node included.
    pub reachable: u32,
    /// Those that must be reachable for a change to be decided.
    pub needed: u32,
}

/// Another node as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Control address.
    #[schema(value_type = String)]
    pub addr: SocketAddr,
    /// Whether it votes.
    pub role: Role,
    /// Whether it answers, where this node talks to it.
    pub reachable: Option<bool>,
    /// Round-trip time of the control connection in microseconds.
    pub rtt_us: Option<u64>,
    /// Log index that its kernel reflects, where this node was told.
    pub applied: Option<u64>,
}

/// A kernel feature that weft uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Feature {
    /// What it is called.
    pub name: String,
    /// Whether this kernel has it.
    pub present: bool,
    /// What is lost without it and what to do.
    pub hint: Option<String>,
}

/// Something that could not be programmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What it concerns: `network web`, `endpoint api.web`, `guard`.
    pub object: String,
    /// Why, in one line.
    pub message: String,
}

/// Life of a node certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// Seconds since the Unix epoch.
    pub not_after: i64,
    /// Seconds from now until `not_after`; negative once it has expired.
    pub expires_in_s: i64,
}

/// A node's data-plane process, together with those that it has succeeded and that still have
/// connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DataplaneStatus {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Connections that it passes on (`source=proxy-v2`), as of some seconds ago.
    pub connections: u64,
    /// Connections refused so far because there were too many.
    pub refused: u64,
    /// Connections reset so far because no backend took them.
    pub unreachable: u64,
    /// How often it has ended by itself and was started again since the agent started.
    pub lost: u64,
}

/// Who answers names inside a node's containers, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DnsStatus {
    /// Containers in which they are answered.
    pub serving: u32,
    /// Containers in which they are not; `weft endpoint inspect` says why.
    pub failed: u32,
    /// Resolvers of the host that are asked for other names.
    pub upstreams: Vec<String>,
    /// Why none is, or why nothing is answered, if so.
    pub error: Option<String>,
    /// Queries since the data-plane process started, by what became of them.
    pub queries: BTreeMap<String, u64>,
}

/// What carries encrypted networks on a node, and with whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EncryptionStatus {
    /// Which data path carries them: `userspace` or `kernel`.
    pub path: String,
    /// Of the one in user space: `vxlan` where it takes frames from the kernel's VXLAN devices, `port`
    /// where it takes them from a port of each network's bridge.
    pub form: Option<String>,
    /// Why it does not, if so.
    pub error: Option<String>,
    /// The nodes that share an encrypted network with this one.
    pub peers: Vec<ProtectedPeer>,
    /// Packets dropped that no key of any peer was for, by cause.
    pub strays: BTreeMap<String, u64>,
    /// Datagrams of encrypted networks that came in clear and were dropped.
    pub clear_dropped_in: u64,
    /// Datagrams of encrypted networks that would have left in clear and were dropped.
    pub clear_dropped_out: u64,
}

/// Traffic of encrypted networks between this node and another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProtectedPeer {
    /// Id of the node.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Its data-path address.
    #[schema(value_type = String)]
    pub vtep: IpAddr,
    /// Where its packets come from, once one came: another address or port than its own when an
    /// address translator is between.
    #[schema(value_type = Option<String>)]
    pub remote: Option<SocketAddr>,
    /// `protected`, or `blocked`: then nothing goes to it and nothing of it is accepted.
    pub state: ProtectionState,
    /// Why it is blocked.
    pub reason: Option<String>,
    /// Number of the key that this node sends with.
    pub epoch_out: Option<u64>,
    /// Number of the newest key that it receives with.
    pub epoch_in: Option<u64>,
    /// Seconds since this node began to send with its key, where this agent saw that.
    pub age_s: Option<u64>,
    /// Packets sent.
    pub packets_out: u64,
    /// Bytes sent: what was wrapped.
    pub bytes_out: u64,
    /// Packets received and accepted.
    pub packets_in: u64,
    /// Bytes received and accepted: what was wrapped.
    pub bytes_in: u64,
    /// Packets from and for it that were dropped, by cause.
    pub drops: BTreeMap<String, u64>,
    /// Milliseconds since a packet of it was accepted; `null` before the first.
    pub last_received_ms: Option<u64>,
}

/// Whether traffic with a node is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProtectionState {
    /// It is.
    Protected,
    /// It cannot be, so there is none.
    Blocked,
}

impl std::fmt::Display for ProtectionState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Protected => "protected",
            Self::Blocked => "blocked",
        })
    }
}

/// What `init` and `join` lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Joined {
    /// Id of this node.
    pub node: String,
    /// Name of this node.
    pub name: String,
    /// Id of the cluster.
    pub cluster: String,
    /// Whether this node votes.
    pub role: Role,
    /// Control address that this node advertises.
    #[schema(value_type = String)]
    pub addr: SocketAddr,
}

/// What admits a node, and where.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Role that it grants.
    pub role: Role,
    /// `WFTKN-1-<digest of the CA>-<secret>`.
    pub token: String,
    /// Managers that a joiner may be pointed at, this node first if it is one.
    #[schema(value_type = Vec<String>)]
    pub managers: Vec<SocketAddr>,
}

/// What one node's kernel reflects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// Id of the node.
    pub node: String,
    /// Name of the node.
    pub name: String,
    /// Log index that its kernel reflects.
    pub revision: u64,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("role", &self.role)
            .field("managers", &self.managers)
            .finish_non_exhaustive()
    }
}
