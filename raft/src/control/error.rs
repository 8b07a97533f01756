use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Quorum;
use crate::command::Refusal;
use crate::identity::IdentityError;
use crate::model::{ClusterId, NodeId, Revision};
use crate::store::{LockError, StoreError};
use crate::transport::BindError;

/// Why the control plane could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory is used by another agent, or cannot be.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The node's key or certificates cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file is damaged or missing.
    #[error("{}: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The control port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Consensus could not be started.
    #[error("the control plane cannot start: {0}")]
    Raft(String),
}

/// Why no cluster was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// This node belongs to a cluster.
    #[error(
        "this node is already a member of cluster {cluster}; leave it first (weft leave --force)"
    )]
    AlreadyMember {
        /// Which.
        cluster: ClusterId,
    },
    /// A setting makes no sense.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The control port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A key or certificate could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The data directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Consensus could not be started.
    #[error("the control plane cannot start: {0}")]
    Raft(String),
}

/// Why a cluster was not joined. The node is as before.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// This node belongs to a cluster.
    #[error(
        "this node is already a member of cluster {cluster}; leave it first (weft leave --force)"
    )]
    AlreadyMember {
        /// Which.
        cluster: ClusterId,
    },
    /// Whoever answers has another CA than the token says.
    #[error(
        "the manager at {remote} belongs to another cluster than the token; take the token from \
         that cluster (weft token worker|manager on a manager of it)"
    )]
    OtherCluster {
        /// Who answered.
        remote: SocketAddr,
    },
    /// The token's secret is not, or no longer, one of the cluster's.
    #[error(
        "the cluster does not accept this join token; it may have been rotated: take the current \
         one (weft token worker|manager on a manager)"
    )]
    WrongSecret,
    /// An agent of another version.
    #[error("{remote} cannot read this agent's messages: {reason}; run the same version of weft")]
    Version {
        /// Who answered.
        remote: SocketAddr,
        /// As it says.
        reason: String,
    },
    /// The cluster does not take this node.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody answered.
    #[error("no manager answered at {remotes}: {reason}")]
    Unreachable {
        /// Who was asked.
        remotes: String,
        /// The last failure.
        reason: String,
    },
    /// Managers answered but the cluster has no leader.
    #[error("the cluster has no leader: {} of {} managers reachable, {} needed", .0.reachable, .0.total, .0.needed)]
    NoLeader(Quorum),
    /// No remote was given.
    #[error("no manager to join was given; name at least one HOST[:PORT]")]
    NoRemote,
    /// The control port cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A key or certificate could not be made or used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The data directory cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What was written.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Consensus could not be started.
    #[error("the control plane cannot start: {0}")]
    Raft(String),
}

/// Why a cluster was not left.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// There is none.
    #[error("this node is not a member of a cluster")]
    NotMember,
    /// A manager takes a vote and a copy of the log with it.
    #[error(
        "this node is a manager: leaving reduces the cluster to {left} managers; leave with \
         --force if that is meant"
    )]
    Manager {
        /// Managers that would be left.
        left: usize,
    },
    /// The cluster could not be told.
    #[error("the cluster was not told: {0}; leave with --force to go without that")]
    Propose(#[from] ProposeError),
    /// Identity or store could not be removed.
    #[error("cannot remove what this node has of the cluster: {0}")]
    Files(String),
    /// Local files could not be removed.
    #[error("cannot remove {}: {source}", path.display())]
    Remove {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a command was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// The state machine refused it; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too few managers answer; nothing changed as far as is known.
    #[error(
        "no leader: {} of {} managers reachable, {} needed",
        .0.reachable, .0.total, .0.needed
    )]
    NoLeader(Quorum),
    /// The answer did not come in time. The command may still be carried out.
    #[error("no answer from the leader within {0:?}; the change may still be made")]
    TimedOut(Duration),
    /// This node belongs to no cluster.
    #[error("this node is not a member of a cluster; use weft init or weft join")]
    NotMember,
    /// The command is too large for a log entry.
    #[error("a request of {len} bytes is refused; at most {limit} bytes are accepted")]
    TooLarge {
        /// Its size.
        len: usize,
        /// The largest that is accepted.
        limit: usize,
    },
    /// Something went wrong on the leader.
    #[error("the leader could not do it: {0}")]
    Failed(String),
    /// This node's role does not allow it.
    #[error("node {node} may not do this: {reason}")]
    Forbidden {
        /// Who asked.
        node: NodeId,
        /// Why not.
        reason: String,
    },
}

/// The local view did not reach a revision in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {wanted} was not reached in time; this node is at {reached}")]
pub struct TimedOut {
    /// Waited for.
    pub wanted: Revision,
    /// Reached.
    pub reached: Revision,
}
