use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Config, Instant as _, RaftMetrics, SnapshotPolicy};

use super::machine::{Machine, Replica, Snapshot};
use super::network::Network;
use super::{Payload, Peer, RaftId, TypeConfig};
use crate::codec;
use crate::command::{Outcome, Proposal};
use crate::control::{Compaction, StoreStatus, Timing};
use crate::model::{NodeId, Role};
use crate::store::Store;
use crate::transport::Transport;
use crate::watch::WatchHub;
use crate::wire::{Failure, Request, Response, SnapshotPiece};

type Raft = openraft::Raft<TypeConfig, Machine>;
type Metrics = RaftMetrics<TypeConfig>;

/// Log entries that replication sends in one request; their bytes are limited by the log.
const ENTRIES_PER_REQUEST: u64 = 512;
/// How far a follower may be behind before it is sent a snapshot instead of the log, in
/// multiples of the snapshot interval.
const LAG_SNAPSHOTS: u64 = 2;
/// A new manager may vote once it is so few entries behind.
const CAUGHT_UP: u64 = 64;
/// Writes wait for the quorum's disks; a change of the membership takes two of them.
const MEMBERSHIP_TIMEOUT: Duration = Duration::from_secs(5);
/// A voter that acknowledged the leader within this time counts as being there.
const THERE: Duration = Duration::from_secs(1);
/// How often a new manager looks whether it votes.
const VOTING_POLL: Duration = Duration::from_millis(10);

/// One manager's part in the Raft group.
pub(crate) struct Group {
    raft: Raft,
    replica: Replica,
    store: Store,
    incoming: tokio::sync::Mutex<Incoming>,
}

/// A snapshot that is being put together.
#[derive(Default)]
struct Incoming {
    piece_of: Option<(super::Vote, super::SnapshotMeta, u64)>,
    data: Vec<u8>,
}

/// Why a proposal was not applied here.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// Somebody else leads, or nobody.
    NotLeader(Option<Peer>),
    /// Whether it is committed is not known; ask again with the same request id.
    Unknown,
    /// The library has stopped.
    Stopped(String),
}

/// What is started besides the store.
pub(crate) struct GroupConfig {
    pub(crate) timing: Timing,
    pub(crate) compaction: Compaction,
    pub(crate) hub: WatchHub,
    pub(crate) transport: Transport,
}

impl Group {
    /// Starts this manager's part: loads the snapshot, applies what is known to be committed.
    pub(crate) async fn start(store: Store, config: GroupConfig) -> Result<Self, String> {
        let replica = Replica::default();
        let machine = Machine::new(replica.clone(), config.hub, store.snapshots());
        let network = Network {
            transport: config.transport,
            replica: replica.clone(),
        };
        let settings = settings(&config.timing, &config.compaction)?;
        let id = store.header.raft_id;
        let raft = Raft::new(id, Arc::new(settings), network, store.log(), machine)
            .await
            .map_err(|error| error.to_string())?;
        let group = Self {
            raft,
            replica,
            store,
            incoming: tokio::sync::Mutex::default(),
        };
        let metrics = group.metrics();
        if metrics.membership_config.voter_ids().eq([id]) {
            // Nobody else to wait for.
            group
                .raft
                .trigger()
                .elect(false)
                .await
                .map_err(|error| error.to_string())?;
        }
        Ok(group)
    }

    /// Makes this manager the only member of a new group.
    pub(crate) async fn bootstrap(&self, peer: Peer) -> Result<(), String> {
        let members = BTreeMap::from([(self.id(), peer)]);
        self.raft
            .initialize(members)
            .await
            .map_err(|error| error.to_string())
    }

    /// Waits until this manager votes: before that the cluster is none the safer for it.
    pub(crate) async fn voting(&self) {
        loop {
            let metrics = self.metrics();
            let config = &metrics.membership_config;
            let settled = config.get_joint_config().len() == 1;
            if settled && config.voter_ids().any(|voter| voter == self.id()) {
                return;
            }
            tokio::time::sleep(VOTING_POLL).await;
        }
    }

    /// Hands leadership to another manager, if this one has it. Asks only.
    pub(crate) async fn hand_over(&self, to: RaftId) {
        if let Err(error) = self.raft.trigger().transfer_leader(to).await {
            tracing::debug!(%error, "leadership was not handed over");
        }
    }

    /// Ends the library's tasks and closes the store.
    pub(crate) async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not end cleanly");
        }
        self.store.close().await;
    }

    pub(crate) fn id(&self) -> RaftId {
        self.store.header.raft_id
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// A copy: holding on to the library's own would block it.
    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// Who votes, as far as this manager knows.
    pub(crate) fn voters(&self) -> Vec<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let config = &metrics.membership_config;
        let peers = config.voter_ids().filter_map(|id| config.get_node(&id));
        peers.map(|peer| peer.node).collect()
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// Who leads, as far as this manager knows.
    pub(crate) fn leader(&self) -> Option<(RaftId, Option<Peer>)> {
        // The same source as `leader_other_than`, so that the two agree.
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        let id = metrics.current_leader?;
        Some((id, metrics.membership_config.get_node(&id).copied()))
    }

    /// Resolves when the leader is another than `known`, or none.
    pub(crate) async fn leader_other_than(&self, known: Option<RaftId>) {
        let mut metrics = self.raft.server_metrics();
        loop {
            if metrics.borrow_watched().current_leader != known {
                return;
            }
            if metrics.changed().await.is_err() {
                // The library has stopped; nothing will ever change.
                return std::future::pending().await;
            }
        }
    }

    /// Has a proposal committed and applied; only the leader can.
    pub(crate) async fn write(&self, proposal: Arc<Proposal>) -> Result<Outcome, WriteError> {
        match self.raft.client_write(Payload(proposal)).await {
            Ok(response) => response.data.0.ok_or(WriteError::Unknown),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(WriteError::NotLeader(to.leader_node))
            }
            Err(RaftError::APIError(_)) => Err(WriteError::Unknown),
            Err(RaftError::Fatal(fatal)) => Err(WriteError::Stopped(fatal.to_string())),
        }
    }

    /// Answers another manager's Raft request; `None` for other requests.
    pub(crate) async fn answer(&self, request: Request) -> Option<Response> {
        Some(match request {
            Request::Append(request) => self
                .raft
                .append_entries(request)
                .await
                .map_or_else(other, Response::Append),
            Request::Vote(request) => self
                .raft
                .vote(request)
                .await
                .map_or_else(other, Response::Vote),
            Request::PreVote(request) => self
                .raft
                .pre_vote(request)
                .await
                .map_or_else(other, Response::Vote),
            Request::Snapshot(piece) => self.take_piece(*piece).await,
            Request::TransferLeader(request) => {
                match self.raft.handle_transfer_leader(request).await {
                    Ok(Ok(())) => Response::Done,
                    Ok(Err(error)) => other(error),
                    Err(error) => other(error),
                }
            }
            Request::Removed(id) => {
                let metrics = self.metrics();
                let gone = metrics.committed_membership_config.get_node(&id).is_none();
                Response::Removed(self.is_leader() && gone)
            }
            _ => return None,
        })
    }

    async fn take_piece(&self, piece: SnapshotPiece) -> Response {
        let mut incoming = self.incoming.lock().await;
        if piece.total > codec::MAX_LEN as u64 {
            return other("the snapshot is larger than any may be");
        }
        let key = (piece.vote, piece.meta, piece.total);
        if piece.offset == 0 {
            *incoming = Incoming {
                piece_of: Some(key.clone()),
                data: piece.data.0,
            };
        } else if incoming.piece_of.as_ref() == Some(&key)
            && incoming.data.len() as u64 == piece.offset
        {
            incoming.data.extend_from_slice(&piece.data.0);
        } else {
            return Response::SnapshotTaken(0);
        }
        let (vote, meta, total) = key;
        let taken = incoming.data.len() as u64;
        if taken > total {
            *incoming = Incoming::default();
            return other("the snapshot is longer than it said");
        }
        if taken < total {
            return Response::SnapshotTaken(taken);
        }
        let whole = std::mem::take(&mut *incoming);
        let snapshot = Snapshot {
            meta,
            snapshot: Bytes::from(whole.data),
        };
        match self.raft.install_full_snapshot(vote, snapshot).await {
            Ok(response) => Response::SnapshotInstalled(response.vote),
            Err(error) => other(error),
        }
    }

    /// One step that brings the Raft membership closer to the managers in the state. Only the
    /// leader's steps succeed. Returns whether there may be another.
    pub(crate) async fn reconcile_membership(&self) -> Result<bool, String> {
        let wanted = self.replica.with(|state| {
            let managers = state
                .view()
                .nodes
                .values()
                .filter(|node| node.role == Role::Manager);
            let peer = |node: &Arc<crate::model::Node>| Peer {
                node: node.id,
                addr: node.addr,
            };
            managers
                .map(|node| (node.raft_id, peer(node)))
                .collect::<BTreeMap<_, _>>()
        });
        let metrics = self.metrics();
        let Some(step) = next_step(&wanted, &metrics) else {
            return Ok(false);
        };
        tracing::info!(?step, "changing the Raft membership");
        let done = match step {
            Step::Learn(id, peer) => {
                tokio::time::timeout(MEMBERSHIP_TIMEOUT, self.raft.add_learner(id, peer, false))
                    .await
            }
            Step::Change(change) => {
                let change = self.raft.change_membership(change, false);
                tokio::time::timeout(MEMBERSHIP_TIMEOUT, change).await
            }
        };
        match done {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no quorum answered in time".to_owned()),
        }
    }

    /// Why the library has stopped, if it has.
    pub(crate) fn fault(&self) -> Option<String> {
        self.metrics()
            .running_state
            .err()
            .map(|error| error.to_string())
    }

    pub(crate) fn store_status(&self) -> StoreStatus {
        let metrics = self.metrics();
        let index = |id: Option<super::LogId>| id.map_or(0, |id| id.index);
        StoreStatus {
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: index(metrics.last_applied),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
        }
    }
}

fn other(error: impl ToString) -> Response {
    Response::Failed(Failure::Other(error.to_string()))
}

/// What is to be done next to the Raft membership.
#[derive(Debug)]
enum Step {
    Learn(RaftId, Peer),
    Change(ChangeMembers<RaftId, Peer>),
}

fn next_step(wanted: &BTreeMap<RaftId, Peer>, metrics: &Metrics) -> Option<Step> {
    // An empty state is one that was not loaded yet, not a cluster without managers.
    if wanted.is_empty() || !metrics.state.is_leader() {
        return None;
    }
    let config = &metrics.membership_config;
    let voters: BTreeSet<RaftId> = config.voter_ids().collect();
    if config.get_joint_config().len() > 1 {
        // An earlier change was cut short: asking for where it led to completes it.
        let target = config.get_joint_config().last()?.clone();
        return Some(Step::Change(ChangeMembers::ReplaceAllVoters(target)));
    }
    let new = wanted.iter().find(|(id, _)| config.get_node(id).is_none());
    if let Some((id, peer)) = new {
        return Some(Step::Learn(*id, *peer));
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let replication = metrics.replication.as_ref()?;
    let caught_up = |id: &RaftId| {
        let matched = replication.get(id).and_then(|id| id.map(|id| id.index));
        matched.is_some_and(|matched| matched + CAUGHT_UP >= last)
    };
    let ready = wanted
        .keys()
        .find(|id| !voters.contains(id) && caught_up(id));
    if let Some(id) = ready {
        return Some(Step::Change(ChangeMembers::AddVoterIds(BTreeSet::from([
            *id,
        ]))));
    }
    let gone = voters
        .iter()
        .find(|id| !wanted.contains_key(id) && goes_on_without(**id, &voters, metrics));
    if let Some(id) = gone {
        return Some(Step::Change(ChangeMembers::RemoveVoters(BTreeSet::from([
            *id,
        ]))));
    }
    let forgotten = config
        .nodes()
        .map(|(id, _)| *id)
        .find(|id| !wanted.contains_key(id) && !voters.contains(id));
    forgotten.map(|id| Step::Change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))))
}

/// Whether enough of the other voters are there to commit anything without the vote of `gone`, the
/// end of that change of membership to begin with. If not, its vote stays until more are back.
fn goes_on_without(gone: RaftId, voters: &BTreeSet<RaftId>, metrics: &Metrics) -> bool {
    let Some(heartbeats) = metrics.heartbeat.as_ref() else {
        return false;
    };
    let is_there = |id: &RaftId| {
        let heard = heartbeats.get(id).copied().flatten();
        *id == metrics.id || heard.is_some_and(|at| at.elapsed() < THERE)
    };
    let left: Vec<_> = voters.iter().filter(|id| **id != gone).collect();
    left.iter().filter(|id| is_there(id)).count() > left.len() / 2
}

/// The library waits for its lease, which is as long as its longest election timeout, and then for
/// a random election timeout. Both together are to be between `election_min` and `election_max`.
fn elections(timing: &Timing) -> (Duration, Duration) {
    let longest = timing.election_max / 2;
    let least = timing.heartbeat + timing.heartbeat / 2;
    let shortest = timing.election_min.saturating_sub(longest).max(least);
    (shortest, longest)
}

fn settings(timing: &Timing, compaction: &Compaction) -> Result<Config, String> {
    let (shortest, longest) = elections(timing);
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "weft".to_owned(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(shortest),
        election_timeout_max: millis(longest),
        enable_pre_vote: Some(true),
        // The commit index is written with a delay, so a restarted leader has to ask the others.
        enable_leader_restore: Some(false),
        max_payload_entries: ENTRIES_PER_REQUEST,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(compaction.snapshot_every),
        max_in_snapshot_log_to_keep: compaction.keep,
        purge_batch_size: 64,
        replication_lag_threshold: compaction.snapshot_every.saturating_mul(LAG_SNAPSHOTS),
        install_snapshot_timeout: 60_000,
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}
