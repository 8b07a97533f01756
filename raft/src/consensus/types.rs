use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Outcome, Proposal};
use crate::model::NodeId;

openraft::declare_raft_types!(
    /// The types that the Raft library is used with.
    pub(crate) TypeConfig:
        D = Payload,
        R = Reply,
        Node = Peer,
);

/// A node's id in the Raft membership: 1 for the cluster's first manager, the index of the log
/// entry that admitted it for every other. Never used twice.
pub(crate) type RaftId = u64;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
pub(crate) type TransferLeaderRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub(crate) type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub(crate) type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;

/// What a log entry carries. Shared, because the log, replication and the state machine hold it
/// at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload(pub(crate) Arc<Proposal>);

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The command may hold secrets; the request id tells entries apart well enough.
        write!(f, "proposal {:032x}", u128::from_be_bytes(self.0.request))
    }
}

/// What applying an entry answered; `None` for the entries that Raft itself makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reply(pub(crate) Option<Outcome>);

/// What the Raft membership knows of a manager. The replicated state's row is newer and wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// Expected in the peer's certificate.
    pub(crate) node: NodeId,
    /// Control address.
    pub(crate) addr: SocketAddr,
}

#[cfg(test)]
impl Default for Peer {
    fn default() -> Self {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        Self {
            node: NodeId::new([0; 10]),
            addr,
        }
    }
}
