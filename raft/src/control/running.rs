use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::counters::Counters;
use super::local::{self, Local};
use super::numbers::{GATHERINGS, SourceSlot};
use super::peers::Peers;
use super::reports::Reports;
use super::sessions::Sessions;
use super::{ControlConfig, Member, Timing, server};
use crate::codec;
use crate::consensus::Group;
use crate::model::{NodeId, Role};
use crate::peering::{self, Door, Keeper, Peering};
use crate::transport::{CallError, Transport};
use crate::watch::WatchHub;
use crate::wire::{Leader, Request, Response};

/// Requests that one node has under way to the leader; half of what a connection carries.
const FORWARDS: usize = 128;

/// A membership in effect: everything that runs between joining and leaving a cluster.
pub(crate) struct Running {
    pub(super) member: Member,
    pub(super) hub: WatchHub,
    pub(super) transport: Transport,
    /// Managers only.
    pub(super) group: Option<Group>,
    pub(super) timing: Timing,
    pub(super) peers: Peers,
    pub(super) reports: Reports,
    pub(super) sessions: Sessions,
    pub(super) counters: Arc<Counters>,
    pub(super) not_after: SystemTime,
    data_dir: PathBuf,
    local: Mutex<Local>,
    /// Who leads, for a node that does not take part in elections.
    leader_hint: watch::Sender<Option<Leader>>,
    /// Room for requests on their way to the leader, so that heartbeats and reports, which share
    /// the connection, do not wait behind a crowd of them.
    pub(super) forwards: Semaphore,
    /// What this node has counted.
    pub(super) numbers: SourceSlot,
    /// Room for questions about what others have counted.
    pub(super) gatherings: Semaphore,
    /// Where other nodes' connections for peering go.
    pub(super) door: Door,
    tasks: Mutex<JoinSet<()>>,
}

/// What a membership is started with.
pub(super) struct Parts {
    pub(super) member: Member,
    pub(super) not_after: SystemTime,
    pub(super) local: Local,
    pub(super) transport: Transport,
    pub(super) group: Option<Group>,
    pub(super) numbers: SourceSlot,
    pub(super) peering: Peering,
}

impl Running {
    /// Takes up the work of a member: lets others in and starts the tasks.
    pub(super) fn start(
        parts: Parts,
        config: &ControlConfig,
        hub: WatchHub,
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        let (door, incoming) = peering::doorway();
        let running = Arc::new(Self {
            member: parts.member,
            hub,
            transport: parts.transport,
            group: parts.group,
            timing: config.timing,
            peers: Peers::default(),
            reports: Reports::new(),
            sessions: Sessions::default(),
            counters,
            not_after: parts.not_after,
            data_dir: config.data_dir.clone(),
            local: Mutex::new(parts.local),
            leader_hint: watch::Sender::new(None),
            forwards: Semaphore::new(FORWARDS),
            numbers: parts.numbers,
            gatherings: Semaphore::new(GATHERINGS),
            door,
            tasks: Mutex::new(JoinSet::new()),
        });
        running
            .transport
            .serve(Arc::new(server::Server::new(&running)));
        running.spawn(|it| async move { it.keep_probing().await });
        let keeper = Keeper::new(
            running.member.node,
            running.transport.clone(),
            running.hub.clone(),
            &parts.peering,
        );
        running.spawn(|_| keeper.run(incoming));
        match running.member.role {
            Role::Manager => {
                running.spawn(|it| async move { it.keep_relaying().await });
                running.spawn(|it| async move { it.keep_judging().await });
                running.spawn(|it| async move { it.keep_membership().await });
                running.spawn(|it| async move { it.keep_disconnecting().await });
            }
            Role::Worker => running.spawn(|it| async move { it.keep_following().await }),
        }
        running
    }

    fn spawn<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let task = task(Arc::clone(self));
        self.lock_tasks().spawn(task);
    }

    /// Ends everything; the port and the store are free afterwards.
    pub(super) async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.lock_tasks());
        tasks.shutdown().await;
        if let Some(group) = &self.group {
            group.stop().await;
        }
        self.transport.close().await;
    }

    /// Ends everything without waiting, for an owner that goes away without [`Self::stop`].
    pub(super) fn abandon(self: Arc<Self>) {
        self.lock_tasks().abort_all();
        // Requests in work hold on to the membership, so it does not end by being dropped.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { self.stop().await });
        }
    }

    /// Ends a worker's tasks, as if the process were held.
    #[cfg(test)]
    pub(super) async fn cut(&self) {
        let mut tasks = std::mem::take(&mut *self.lock_tasks());
        tasks.shutdown().await;
    }

    /// Goes on after [`Self::cut`].
    #[cfg(test)]
    pub(super) fn follow_again(self: &Arc<Self>) {
        self.spawn(|it| async move { it.keep_following().await });
    }

    fn lock_tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All managers: from the view, or before there is one, as they were last known.
    pub(super) fn managers(&self) -> Vec<(NodeId, SocketAddr)> {
        let managers = self.hub.with_view(|view| {
            let managers = view
                .nodes
                .values()
                .filter(|node| node.role == Role::Manager);
            managers
                .map(|node| (node.id, node.addr))
                .collect::<Vec<_>>()
        });
        if managers.is_empty() {
            self.lock_local().managers.clone()
        } else {
            managers
        }
    }

    /// Keeps the managers' addresses for the next start, if they changed.
    pub(super) fn remember_managers(&self) {
        let managers = self.managers();
        let mut local = self.lock_local();
        if local.managers == managers {
            return;
        }
        local.managers = managers;
        if let Err(error) = local::save(&self.data_dir, &local) {
            tracing::warn!(%error, "the managers' addresses could not be saved");
        }
    }

    fn lock_local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request to one manager.
    pub(super) async fn ask(
        &self,
        addr: SocketAddr,
        node: NodeId,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        let malformed = |error: codec::CodecError| CallError::Malformed {
            to: addr,
            reason: error.to_string(),
        };
        let body = codec::encode(request).map_err(malformed)?;
        let answer = self.transport.call(addr, Some(node), body, timeout).await?;
        codec::decode(&answer).map_err(malformed)
    }

    /// Who leads, as far as this node knows.
    pub(super) fn leader(&self) -> Option<Leader> {
        let Some(group) = &self.group else {
            return *self.leader_hint.borrow();
        };
        let (id, peer) = group.leader()?;
        let row = group.replica().with(|state| {
            state.raft_node(id).map(|node| Leader {
                node: node.id,
                addr: node.addr,
            })
        });
        row.or_else(|| {
            peer.map(|peer| Leader {
                node: peer.node,
                addr: peer.addr,
            })
        })
    }

    pub(super) fn set_leader_hint(&self, leader: Option<Leader>) {
        self.leader_hint
            .send_if_modified(|hint| std::mem::replace(hint, leader) != leader);
    }

    /// Resolves when the hint names another node.
    pub(super) async fn leader_hint_other_than(&self, node: NodeId) {
        let mut hint = self.leader_hint.subscribe();
        let other = |hint: &Option<Leader>| hint.is_some_and(|leader| leader.node != node);
        if hint.wait_for(other).await.is_err() {
            std::future::pending().await
        }
    }

    pub(super) fn is_leader(&self) -> bool {
        self.group.as_ref().is_some_and(Group::is_leader)
    }

    /// Where this node keeps its files.
    pub(super) fn data_dir(&self) -> &std::path::Path {
        &self.data_dir
    }

    /// Own control address.
    pub(super) fn addr(&self) -> SocketAddr {
        let row = self
            .hub
            .with_view(|view| view.nodes.get(&self.member.node).map(|n| n.addr));
        row.unwrap_or_else(|| self.lock_local().advertise)
    }
}
