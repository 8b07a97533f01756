use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::identity::JoinToken;
use crate::model::{Availability, ClusterId, NodeId, Revision, Role};
use crate::transport::{Limits, TransportCounters};
use crate::watch::WatchLimits;

/// What a control plane is opened with.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Where everything that must survive is kept; made if need be.
    pub data_dir: PathBuf,
    /// Heartbeats, elections, failure detection.
    pub timing: Timing,
    /// Version of the agent, shown in the node's row.
    pub version: String,
    /// What is spent on peers at most.
    pub limits: Limits,
    /// How much history watchers may resume from.
    pub watch: WatchLimits,
    /// When the log is folded into a snapshot.
    pub compaction: Compaction,
}

impl ControlConfig {
    /// The defaults for a data directory.
    pub fn new(data_dir: impl Into<PathBuf>, version: impl Into<String>) -> Self {
        Self {
            data_dir: data_dir.into(),
            timing: Timing::default(),
            version: version.into(),
            limits: Limits::default(),
            watch: WatchLimits::default(),
            compaction: Compaction::default(),
        }
    }
}

/// Heartbeats, elections, failure detection. The same on all managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often the leader says that it is there.
    pub heartbeat: Duration,
    /// A follower that hears nothing calls an election after a random time between this ..
    pub election_min: Duration,
    /// .. and this.
    pub election_max: Duration,
    /// How often a node reports to the leader.
    pub report: Duration,
    /// A node whose reports stay away for so long is marked down.
    pub detection: Duration,
}

impl Default for Timing {
    /// For a LAN: heartbeat 50 ms, election 150-300 ms, detection 1 s.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            report: Duration::from_millis(200),
            detection: Duration::from_secs(1),
        }
    }
}

/// When the log is folded into a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// Log entries after which a snapshot is made.
    pub snapshot_every: u64,
    /// Entries before the snapshot that are kept, so that a follower which was away for a short
    /// time needs no snapshot.
    pub keep: u64,
}

impl Default for Compaction {
    /// A snapshot every 4,096 entries, 1,024 kept: some megabytes of log.
    fn default() -> Self {
        Self {
            snapshot_every: 4096,
            keep: 1024,
        }
    }
}

/// What this process is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Whether it votes.
    pub role: Role,
    /// Of which cluster.
    pub cluster: ClusterId,
}

/// What a node says of itself when it becomes a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Wanted name.
    pub name: String,
    /// VTEP.
    pub data_path_addr: IpAddr,
    /// MTU in bytes of the device that carries it.
    pub underlay_mtu: u32,
    /// Prefixes in the host's routing table, default routes left out.
    pub host_routes: Vec<IpNet>,
}

/// What a new cluster is made of.
#[derive(Clone, Debug)]
pub struct InitRequest {
    /// Where to listen; port 0 takes a free one, which then replaces the advertised port too.
    pub listen: SocketAddr,
    /// Address that peers dial.
    pub advertise: SocketAddr,
    /// Of the first manager.
    pub facts: NodeFacts,
    /// UDP port of every node's VXLAN device.
    pub data_path_port: u16,
    /// Where subnets come from; empty: 10.0.0.0/8.
    pub pools: Vec<Ipv4Net>,
    /// Prefix length of a subnet from `pools`.
    pub pool_mask_length: u8,
    /// Lifetime of node certificates.
    pub cert_expiry: Duration,
    /// Of the first manager.
    pub availability: Availability,
}

/// What joining a cluster takes.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Names the cluster's CA and grants the role.
    pub token: JoinToken,
    /// Managers to ask, in order.
    pub remotes: Vec<SocketAddr>,
    /// Where to listen; port 0 takes a free one, which then replaces the advertised port too.
    pub listen: SocketAddr,
    /// Address that peers dial.
    pub advertise: SocketAddr,
    /// Of this node.
    pub facts: NodeFacts,
    /// Of this node.
    pub availability: Availability,
}

/// How the control plane is doing, as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct ControlStatus {
    /// `None` before init or join.
    pub member: Option<Member>,
    /// Own control address.
    pub addr: Option<SocketAddr>,
    /// Who leads, as far as is known.
    pub leader: Option<NodeId>,
    /// Raft term; 0 on workers.
    pub term: u64,
    /// What the local view reflects.
    pub revision: Revision,
    /// What the local kernel was last reported to reflect.
    pub applied: Revision,
    /// Managers and how many of them are needed.
    pub managers: Quorum,
    /// The other managers; on a leader the workers too.
    pub peers: Vec<PeerStatus>,
    /// Of the control port.
    pub transport: TransportCounters,
    /// Requests that were refused.
    pub requests: RequestCounters,
    /// The store; `None` on workers.
    pub store: Option<StoreStatus>,
    /// Why this manager takes no part in consensus any more, if it does not: its store failed.
    pub fault: Option<String>,
    /// End of the own certificate's validity.
    pub certificate_not_after: Option<SystemTime>,
}

/// Managers of a cluster, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// All of them.
    pub total: usize,
    /// Those that answer this node, itself included.
    pub reachable: usize,
    /// How many it takes to change anything.
    pub needed: usize,
}

/// One other node, as this node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub node: NodeId,
    /// Control address.
    pub addr: SocketAddr,
    /// Whether it votes.
    pub role: Role,
    /// Whether it answered lately.
    pub reachable: bool,
    /// Time of the last answered probe.
    pub rtt: Option<Duration>,
}

/// Requests of others that were not carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounters {
    /// Messages that this version cannot read.
    pub undecodable: u64,
    /// Requests that the caller's role does not allow.
    pub unauthorised: u64,
    /// Join requests refused for their secret.
    pub bad_tokens: u64,
}

/// The log and its snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStatus {
    /// Index of the last entry in the log.
    pub last_log: Revision,
    /// Index up to which the state machine has applied it.
    pub applied: Revision,
    /// Index up to which the snapshot reaches.
    pub snapshot: Revision,
    /// Index up to which the log was removed.
    pub purged: Revision,
}
