use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{SnapshotResponse, TransferLeaderResponse};
use openraft::{RaftNetworkFactory, RaftNetworkV2};

use super::machine::{Replica, Snapshot};
use super::{
    AppendRequest, AppendResponse, Peer, RaftId, TransferLeaderRequest, TypeConfig, Vote,
    VoteRequest, VoteResponse,
};
use crate::codec;
use crate::transport::{CallError, Transport};
use crate::wire::{Blob, Request, Response, SnapshotPiece};

/// Entries wait for the follower's disk, so they are given longer than a heartbeat.
const APPEND_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a snapshot in one request.
const SNAPSHOT_PIECE: usize = 1 << 20;
/// For one piece; installing the whole follows the last one.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses between attempts to reach a follower that does not answer; the last one repeats.
const BACKOFF_MS: [u64; 4] = [10, 25, 50, 100];

/// Carries the Raft library's messages over the transport.
#[derive(Clone)]
pub(crate) struct Network {
    pub(super) transport: Transport,
    pub(super) replica: Replica,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: RaftId, peer: &Peer) -> Link {
        Link {
            network: self.clone(),
            target,
            peer: *peer,
        }
    }
}

/// The way to one other manager.
pub(crate) struct Link {
    network: Network,
    target: RaftId,
    peer: Peer,
}

impl Link {
    /// Where the manager is now: its row in the state is newer than the Raft membership.
    fn addr(&self) -> SocketAddr {
        let row = self
            .network
            .replica
            .with(|state| state.raft_node(self.target).map(|n| n.addr));
        row.unwrap_or(self.peer.addr)
    }

    async fn ask(&self, request: &Request, timeout: Duration) -> Result<Response, Failed> {
        let body = codec::encode(request).map_err(|error| Failed::Other(error.to_string()))?;
        let answer = self
            .network
            .transport
            .call(self.addr(), Some(self.peer.node), body, timeout)
            .await
            .map_err(|error| match error {
                CallError::TimedOut { .. } | CallError::Lost { .. } => {
                    Failed::Other(error.to_string())
                }
                other => Failed::Unreachable(other.to_string()),
            })?;
        codec::decode(&answer).map_err(|error| Failed::Unreachable(error.to_string()))
    }
}

/// `Unreachable` makes the library pause before the next attempt.
enum Failed {
    Unreachable(String),
    Other(String),
}

impl Failed {
    fn unexpected(response: &Response) -> Self {
        Self::Unreachable(match response {
            Response::Failed(failure) => format!("refused: {failure:?}"),
            _ => "the answer does not fit the request".to_owned(),
        })
    }
}

impl From<Failed> for RPCError<TypeConfig> {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unreachable(reason) => Unreachable::from_string(reason).into(),
            Failed::Other(reason) => NetworkError::from_string(reason).into(),
        }
    }
}

impl From<Failed> for StreamingError<TypeConfig> {
    fn from(failed: Failed) -> Self {
        RPCError::from(failed).into()
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, RPCError<TypeConfig>> {
        let timeout = match request.entries.is_empty() {
            true => option.hard_ttl(),
            false => APPEND_TIMEOUT,
        };
        match self.ask(&Request::Append(request), timeout).await? {
            Response::Append(response) => Ok(response),
            other => Err(Failed::unexpected(&other).into()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        match self.ask(&Request::Vote(request), option.hard_ttl()).await? {
            Response::Vote(response) => Ok(response),
            other => Err(Failed::unexpected(&other).into()),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RPCError<TypeConfig>> {
        match self
            .ask(&Request::PreVote(request), option.hard_ttl())
            .await?
        {
            Response::Vote(response) => Ok(response),
            other => Err(Failed::unexpected(&other).into()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = send_snapshot(self, vote, &snapshot);
        tokio::select! {
            sent = sending => Ok(SnapshotResponse::new(sent?)),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self
            .ask(&Request::TransferLeader(request), option.hard_ttl())
            .await?
        {
            Response::Done => Ok(Ok(())),
            other => Err(Failed::unexpected(&other).into()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF_MS.last().copied().unwrap_or(100);
        let pauses = BACKOFF_MS.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}

async fn send_snapshot(link: &Link, vote: Vote, snapshot: &Snapshot) -> Result<Vote, Failed> {
    let data = &snapshot.snapshot;
    let total = data.len() as u64;
    let mut offset = 0;
    loop {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|at| data.get(at..))
            .unwrap_or_default();
        let piece = rest.get(..SNAPSHOT_PIECE).unwrap_or(rest);
        let request = Request::Snapshot(Box::new(SnapshotPiece {
            vote,
            meta: snapshot.meta.clone(),
            total,
            offset,
            data: Blob(piece.to_vec()),
        }));
        match link.ask(&request, SNAPSHOT_TIMEOUT).await? {
            Response::SnapshotTaken(taken) if taken > offset && taken < total => offset = taken,
            // The other side lost what it had: from the start.
            Response::SnapshotTaken(0) if offset > 0 => offset = 0,
            Response::SnapshotInstalled(vote) => return Ok(vote),
            other => return Err(Failed::unexpected(&other)),
        }
    }
}
