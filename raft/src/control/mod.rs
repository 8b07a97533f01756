//! The control plane of one agent: the handle that the rest of the agent holds.
//!
//! [`ControlPlane`] is idle until `init` or `join` and again after `leave`; in between a
//! `Running` membership does the work: a manager takes part in Raft, a worker follows a
//! manager. Both kinds feed one [`WatchHub`], have commands carried out by the leader wherever it
//! is, and report what their kernel reflects.

mod admit;
mod authorise;
mod counters;
mod enter;
mod error;
mod join;
mod leave;
mod local;
mod membership;
mod numbers;
mod peers;
mod reports;
mod route;
mod running;
mod server;
mod session;
mod sessions;
mod status;
mod types;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

pub use error::{InitError, JoinError, LeaveError, OpenError, ProposeError, TimedOut};
pub use numbers::{BackendNumbers, NumbersOf, NumbersSource};
pub use types::{
    Compaction, ControlConfig, ControlStatus, InitRequest, JoinRequest, Member, NodeFacts,
    PeerStatus, Quorum, RequestCounters, StoreStatus, Timing,
};

pub use crate::store::{LockError, StoreError};

use crate::codec;
use crate::command::{Applied, Command, JoinSecret, Proposal};
use crate::identity::{CaDigest, JoinToken};
use crate::model::{NodeId, Revision, Role, ServiceId, View};
use crate::peering::Peering;
use crate::store::DirLock;
use crate::watch::{Subscription, WatchHub};
use crate::wire::{Failure, Request, Response, Secret};
use counters::Counters;
use numbers::SourceSlot;
use running::Running;

/// Largest encoded command. A node with a thousand routes takes about 10 KiB.
const MAX_PROPOSAL: usize = 128 << 10;
/// For reading and rotating tokens.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);

/// The control plane of one agent. Clones share it.
#[derive(Clone)]
pub struct ControlPlane {
    inner: Arc<Inner>,
}

struct Inner {
    config: ControlConfig,
    hub: WatchHub,
    counters: Arc<Counters>,
    numbers: SourceSlot,
    peering: Peering,
    running: RwLock<Option<Arc<Running>>>,
    /// Held while the membership changes.
    change: tokio::sync::Mutex<()>,
    /// The claim on the data directory; gone after shutdown.
    claim: Mutex<Option<Arc<DirLock>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let running = self
            .running
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.take() {
            running.abandon();
        }
    }
}

impl Inner {
    fn running(&self) -> Option<Arc<Running>> {
        self.running
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_running(&self, running: Option<Arc<Running>>) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = running;
    }

    fn claim(&self) -> Option<Arc<DirLock>> {
        self.claim
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn member(&self) -> Result<Arc<Running>, ProposeError> {
        self.running().ok_or(ProposeError::NotMember)
    }
}

impl ControlPlane {
    /// Claims the data directory and resumes the membership that it holds, if any.
    ///
    /// # Errors
    /// A damaged or half-present directory is refused with the file's name and what to do; it is
    /// never started empty over.
    pub async fn open(config: ControlConfig) -> Result<Self, OpenError> {
        let claim = Arc::new(DirLock::acquire(&config.data_dir)?);
        let inner = Inner {
            hub: WatchHub::new(View::default(), config.watch),
            config,
            counters: Arc::default(),
            numbers: SourceSlot::default(),
            peering: Peering::default(),
            running: RwLock::new(None),
            change: tokio::sync::Mutex::new(()),
            claim: Mutex::new(Some(claim)),
        };
        let running = inner.resume().await?;
        inner.set_running(running);
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// What this node is; `None` before init or join.
    pub fn membership(&self) -> Option<Member> {
        self.inner.running().map(|running| running.member)
    }

    /// Makes a new cluster with this node as its first manager.
    ///
    /// # Errors
    /// See [`InitError`]; the node is as before.
    pub async fn init(&self, request: InitRequest) -> Result<Member, InitError> {
        self.inner.init(request).await
    }

    /// Joins a cluster.
    ///
    /// # Errors
    /// See [`JoinError`]; the node is as before and may try again.
    pub async fn join(&self, request: JoinRequest) -> Result<Member, JoinError> {
        self.inner.join(request).await
    }

    /// Leaves the cluster and removes what the data directory holds of it. Managers need `force`.
    /// With `force` a node leaves even if the cluster cannot be told.
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub async fn leave(&self, force: bool) -> Result<(), LeaveError> {
        self.inner.leave(force).await
    }

    /// Has a command carried out by the cluster; from any node. The answer comes once it is
    /// committed and applied on the leader. Retried until `timeout` with one request id, so it
    /// happens at most once.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(
        &self,
        command: Command,
        timeout: Duration,
    ) -> Result<Applied, ProposeError> {
        self.inner.member()?.propose(command, timeout).await
    }

    /// Looks at the local replica. `look` must be short and must not call back.
    pub fn with_view<R>(&self, look: impl FnOnce(&View) -> R) -> R {
        self.inner.hub.with_view(look)
    }

    /// Waits until the local view reflects a revision.
    ///
    /// # Errors
    /// [`TimedOut`] says how far it got.
    pub async fn wait_revision(
        &self,
        revision: Revision,
        timeout: Duration,
    ) -> Result<(), TimedOut> {
        let hub = &self.inner.hub;
        let waited = tokio::time::timeout(timeout, hub.wait_revision(revision)).await;
        waited.map_err(|_| TimedOut {
            wanted: revision,
            reached: hub.revision(),
        })
    }

    /// Follows the local view, from a snapshot on. Works across init, join and leave.
    pub fn subscribe(&self) -> Subscription {
        self.inner.hub.subscribe(None)
    }

    /// The join token of a role, as text. On managers only.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn token(&self, role: Role) -> Result<String, ProposeError> {
        self.inner.member()?.token(role).await
    }

    /// Replaces the join token of a role and returns the new one. On managers only.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn rotate_token(&self, role: Role) -> Result<String, ProposeError> {
        self.inner.member()?.rotate_token(role).await
    }

    /// Notes what this node's kernel reflects; it is passed on to the leader.
    pub fn report_applied(&self, revision: Revision) {
        if let Some(running) = self.inner.running() {
            running.reports.set_own(revision);
        }
    }

    /// What the ready nodes' kernels reflect, as the leader heard.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn applied(
        &self,
        timeout: Duration,
    ) -> Result<BTreeMap<NodeId, Revision>, ProposeError> {
        let running = self.inner.member()?;
        match running
            .ask_leader(&Request::Applied, Instant::now() + timeout)
            .await?
        {
            Response::Applied(applied) => Ok(applied),
            other => Err(running.unexpected(other)),
        }
    }

    /// Where others, who ask this node, learn of what its backends have taken and answered; until
    /// [`shutdown`](Self::shutdown).
    pub fn provide_numbers(&self, source: Arc<dyn NumbersSource>) {
        self.inner.numbers.set(Some(source));
    }

    /// What a service's backends on other nodes have taken and answered, as these nodes have
    /// counted it. Takes some seconds at most; of whoever has not answered by then it is said why
    /// nothing is known.
    ///
    /// # Errors
    /// [`ProposeError::NotMember`].
    pub async fn others_numbers(&self, service: ServiceId) -> Result<NumbersOf, ProposeError> {
        Ok(self.inner.member()?.others_numbers(service).await)
    }

    /// The sessions with other nodes, which last as long as memberships do.
    pub fn peering(&self) -> Peering {
        self.inner.peering.clone()
    }

    /// How the control plane is doing, as this node sees it.
    pub fn status(&self) -> ControlStatus {
        self.inner
            .running()
            .map_or_else(ControlStatus::default, |running| running.status())
    }

    /// Ends all tasks and flushes and closes the store. The directory is free afterwards.
    pub async fn shutdown(&self) {
        let _changing = self.inner.change.lock().await;
        // It may well hold this control plane.
        self.inner.numbers.set(None);
        if let Some(running) = self.inner.running() {
            self.inner.set_running(None);
            running.stop().await;
        }
        self.inner
            .claim
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}

impl Running {
    async fn propose(&self, command: Command, timeout: Duration) -> Result<Applied, ProposeError> {
        let Member { node, role, .. } = self.member;
        self.hub
            .with_view(|view| authorise::command(node, role, &command, view))
            .map_err(|reason| ProposeError::Forbidden { node, reason })?;
        let failed = |reason: String| ProposeError::Failed(reason);
        let request = random().map_err(|error| failed(error.to_string()))?;
        let proposal = Proposal {
            request,
            time_ms: now_ms(),
            command,
        };
        let len = codec::encode(&proposal)
            .map_err(|error| failed(error.to_string()))?
            .len();
        if len > MAX_PROPOSAL {
            return Err(ProposeError::TooLarge {
                len,
                limit: MAX_PROPOSAL,
            });
        }
        let request = Request::Propose(Arc::new(proposal));
        match self.ask_leader(&request, Instant::now() + timeout).await? {
            Response::Outcome(outcome) => outcome.map_err(ProposeError::Refused),
            other => Err(self.unexpected(other)),
        }
    }

    async fn token(&self, role: Role) -> Result<String, ProposeError> {
        let Member {
            node, role: own, ..
        } = self.member;
        if own == Role::Worker {
            let reason = "join tokens are kept by managers; ask on one of them".to_owned();
            return Err(ProposeError::Forbidden { node, reason });
        }
        match self
            .ask_leader(&Request::Token(role), Instant::now() + TOKEN_TIMEOUT)
            .await?
        {
            Response::Token(secret) => self.written_token(secret),
            other => Err(self.unexpected(other)),
        }
    }

    async fn rotate_token(&self, role: Role) -> Result<String, ProposeError> {
        let secret = random().map_err(|error| ProposeError::Failed(error.to_string()))?;
        let command = Command::RotateToken {
            role,
            secret: JoinSecret(secret),
        };
        self.propose(command, TOKEN_TIMEOUT).await?;
        self.written_token(Secret(secret))
    }

    fn written_token(&self, Secret(secret): Secret) -> Result<String, ProposeError> {
        let digest = self.hub.with_view(|view| {
            view.cluster
                .as_ref()
                .map(|cluster| CaDigest::of(&cluster.ca_cert))
        });
        let digest = digest.ok_or(ProposeError::NotMember)?;
        Ok(JoinToken { digest, secret }.to_string())
    }

    fn unexpected(&self, response: Response) -> ProposeError {
        match response {
            Response::Failed(Failure::Unauthorised(reason)) => ProposeError::Forbidden {
                node: self.member.node,
                reason,
            },
            Response::Failed(Failure::Refused(refusal)) => refusal.into(),
            Response::Failed(Failure::Undecodable(reason) | Failure::Other(reason)) => {
                ProposeError::Failed(reason)
            }
            Response::Failed(Failure::NotLeader(_, quorum)) => ProposeError::NoLeader(quorum),
            _ => ProposeError::Failed("its answer does not fit the request".to_owned()),
        }
    }
}

/// Bytes from the system's random source.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let failed = |_| io::Error::other("the system's random source failed");
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Milliseconds since the Unix epoch; 0 on a host whose clock is before it.
fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
