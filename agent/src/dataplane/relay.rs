//! The relay: listening sockets, and an account of every backend's connections.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use weft_lb::relay::{self, Chooser, Member, RelaySpec, RelaySpecError, Use};

use super::connection;
use super::listening::{listen, set_mss};
use super::wire::{Backend, State};

/// Descriptors that are not for connections, which take two each.
const DESCRIPTORS_KEPT: u64 = 1024;
/// Most connections at a time, where the limit of descriptors allows so many.
const CONNECTIONS_MAX: u64 = 32_768;
/// Pause when a connection cannot be accepted because the host has no more descriptors or memory.
const SHORTAGE: Duration = Duration::from_millis(50);

/// The relay of one process.
#[derive(Debug)]
pub(super) struct Relay {
    inner: Mutex<Inner>,
    /// One for each connection.
    places: Arc<Semaphore>,
    most: u64,
    refused: AtomicU64,
    unreachable: AtomicU64,
    started: Instant,
    random: RandomState,
    drawn: AtomicU64,
    /// Something has happened after which there may be nothing left to do.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// As it was last told to do, if it was.
    wanted: Option<RelaySpec>,
    open: BTreeMap<SocketAddr, Open>,
    failed: BTreeMap<SocketAddr, String>,
    choosers: BTreeMap<SocketAddr, Chooser>,
    accounts: BTreeMap<Use, Arc<Account>>,
    succeeded: bool,
}

/// A socket that listens, and the task that accepts from it.
#[derive(Debug)]
struct Open {
    socket: Arc<TcpListener>,
    task: AbortHandle,
}

/// What there was and is of a backend's connections.
#[derive(Debug, Default)]
pub(super) struct Account {
    active: AtomicU64,
    total: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    over: CancellationToken,
}

/// A backend that was chosen for a connection, which counts for it while this exists.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) backend: SocketAddr,
    pub(super) account: Arc<Account>,
}

impl Account {
    /// Until the backend is no more.
    pub(super) async fn is_over(&self) {
        self.over.cancelled().await;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// One that does nothing. `descriptors` is how many the process may have.
    pub(super) fn new(descriptors: u64) -> Self {
        let most = (descriptors.saturating_sub(DESCRIPTORS_KEPT) / 2).clamp(1, CONNECTIONS_MAX);
        Self {
            inner: Mutex::default(),
            places: Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(1))),
            most,
            refused: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            started: Instant::now(),
            random: RandomState::new(),
            drawn: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    /// Goes on with what another process listens on and was told. To be called inside a tokio
    /// runtime, as [`want`](Self::want).
    pub(super) fn adopt(
        self: &Arc<Self>,
        wanted: Option<RelaySpec>,
        sockets: Vec<(SocketAddr, OwnedFd)>,
    ) -> io::Result<()> {
        let mut inner = self.inner();
        for (at, listener) in wanted.iter().flatten() {
            inner.choosers.insert(*at, Chooser::new(listener.clone()));
        }
        for (at, socket) in sockets {
            let socket = std::net::TcpListener::from(socket);
            // The other process set it so already; it is a property of what both share.
            socket.set_nonblocking(true)?;
            let open = self.open(at, TcpListener::from_std(socket)?);
            inner.open.insert(at, open);
        }
        if wanted.is_some() {
            inner.wanted = wanted;
        }
        Ok(())
    }

    /// Does exactly this from now on.
    pub(super) fn want(self: &Arc<Self>, wanted: RelaySpec) -> Result<(), RelaySpecError> {
        relay::check(&wanted)?;
        let mut inner = self.inner();
        let listening: BTreeSet<SocketAddr> = inner.open.keys().copied().collect();
        let used: BTreeSet<Use> = inner.accounts.keys().copied().collect();
        let plan = relay::plan(&wanted, &listening, &used);
        for at in &plan.close {
            inner.open.remove(at);
            info!(%at, "no more connections are taken");
        }
        for used in &plan.reset {
            if let Some(account) = inner.accounts.remove(used) {
                account.over.cancel();
            }
        }
        inner.choosers.retain(|at, _| wanted.contains_key(at));
        for (at, listener) in &wanted {
            match inner.choosers.get_mut(at) {
                Some(chooser) => chooser.update(listener.clone()),
                None => {
                    inner.choosers.insert(*at, Chooser::new(listener.clone()));
                }
            }
            if let Some(open) = inner.open.get(at)
                && let Err(error) = set_mss(&open.socket, listener.mss)
            {
                debug!(%at, %error, "segments stay as large as they were");
            }
        }
        inner.failed.clear();
        let missing = plan.open.into_iter().filter(|_| !inner.succeeded);
        for at in missing.collect::<Vec<_>>() {
            match listen(at, wanted.get(&at).and_then(|listener| listener.mss)) {
                Ok(socket) => {
                    let open = self.open(at, socket);
                    inner.open.insert(at, open);
                    info!(%at, "connections are taken");
                }
                Err(error) => {
                    warn!(%at, %error, "no connections can be taken");
                    inner.failed.insert(at, error.to_string());
                }
            }
        }
        inner.wanted = Some(wanted);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// What another process needs to listen in its place: what was wanted, and the sockets.
    pub(super) fn to_hand_over(&self) -> (Option<RelaySpec>, Vec<(SocketAddr, Arc<TcpListener>)>) {
        let inner = self.inner();
        let sockets = inner.open.iter();
        let sockets = sockets.map(|(at, open)| (*at, open.socket.clone()));
        (inner.wanted.clone(), sockets.collect())
    }

    /// Another process listens: this one finishes what it has.
    pub(super) fn succeeded(&self) {
        let mut inner = self.inner();
        inner.succeeded = true;
        inner.open.clear();
        drop(inner);
        self.changed.notify_one();
    }

    /// What it does.
    pub(super) fn state(&self) -> State {
        let inner = self.inner();
        let backends = inner.accounts.iter().map(|(used, account)| Backend {
            listener: used.listener,
            backend: used.backend,
            tag: used.tag,
            active: account.active.load(Ordering::Relaxed),
            total: account.total.load(Ordering::Relaxed),
            bytes_in: account.bytes_in.load(Ordering::Relaxed),
            bytes_out: account.bytes_out.load(Ordering::Relaxed),
        });
        State {
            succeeded: inner.succeeded,
            failed: inner.failed.clone(),
            backends: backends.collect(),
            connections: self.connections(),
            refused: self.refused.load(Ordering::Relaxed),
            unreachable: self.unreachable.load(Ordering::Relaxed),
        }
    }

    /// Whether it was told what to do.
    pub(super) fn is_told(&self) -> bool {
        self.inner().wanted.is_some()
    }

    /// Whether nothing is left that it is needed for.
    pub(super) fn is_done(&self) -> bool {
        let inner = self.inner();
        let idle = inner.wanted.as_ref().is_some_and(RelaySpec::is_empty);
        (idle || inner.succeeded) && self.connections() == 0
    }

    /// Who takes a connection that came to a listener; `None` when nobody who has not refused it.
    pub(super) fn choose(
        &self,
        listener: SocketAddr,
        client: SocketAddr,
        refused: &BTreeSet<SocketAddr>,
    ) -> Option<Taken> {
        let mut inner = self.inner();
        let Inner {
            choosers, accounts, ..
        } = &mut *inner;
        let chooser = choosers.get_mut(&listener)?;
        let of = |backend: SocketAddr, tag| Use {
            listener,
            backend,
            tag,
        };
        let active = |backend: &SocketAddr, member: &Member| {
            let account = accounts.get(&of(*backend, member.tag));
            account.map_or(0, |account| account.active.load(Ordering::Relaxed))
        };
        let random = self
            .random
            .hash_one(self.drawn.fetch_add(1, Ordering::Relaxed));
        let now = self.started.elapsed();
        let backend = chooser.choose(client, now, random, active, refused)?;
        let tag = chooser.listener().backends.get(&backend)?.tag;
        let account = accounts.entry(of(backend, tag)).or_default().clone();
        account.active.fetch_add(1, Ordering::Relaxed);
        account.total.fetch_add(1, Ordering::Relaxed);
        Some(Taken { backend, account })
    }

    pub(super) fn count_unreachable(&self) {
        self.unreachable.fetch_add(1, Ordering::Relaxed);
    }

    fn open(self: &Arc<Self>, at: SocketAddr, socket: TcpListener) -> Open {
        let socket = Arc::new(socket);
        let accepting = tokio::spawn(accept(self.clone(), at, socket.clone()));
        let task = accepting.abort_handle();
        Open { socket, task }
    }

    fn take(self: &Arc<Self>, listener: SocketAddr, client: TcpStream, from: SocketAddr) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            connection::reset(&client);
            return;
        };
        let relay = self.clone();
        tokio::spawn(async move {
            connection::serve(&relay, listener, client, from).await;
            drop(place);
            relay.changed.notify_one();
        });
    }

    fn connections(&self) -> u64 {
        self.most - (self.places.available_permits() as u64).min(self.most)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves it consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(relay: Arc<Relay>, at: SocketAddr, socket: Arc<TcpListener>) {
    loop {
        match socket.accept().await {
            Ok((client, from)) => relay.take(at, client, from),
            // accept(2): a connection that is over already says so here.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                debug!(%at, %error, "a connection could not be accepted");
                tokio::time::sleep(SHORTAGE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
