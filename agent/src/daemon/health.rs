//! Keeps what the cluster knows of this node's backends true to what their health checks find.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};
use weft_raft::command::Command;
use weft_raft::control::ControlPlane;
use weft_raft::model::{BackendState, Endpoint, EndpointId, NodeId, Revision, View};
use weft_raft::state::limits;

use crate::health::{Counters, Prober, Target, Verdict};
use crate::translate;

/// How long the cluster may take to hear of it before it is told anew.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);
/// What is found out within this time after the cluster was told is told together.
const TELL_PAUSE: Duration = Duration::from_millis(50);
/// How often the rows are compared although nothing was found out.
const RESYNC: Duration = Duration::from_secs(10);

type Targets = Arc<BTreeMap<EndpointId, Target>>;
/// What was found of each endpoint last.
type Found = BTreeMap<EndpointId, Verdict>;

/// What this node knows of why backends of its own are not healthy.
#[derive(Clone, Debug)]
pub(super) struct Reasons(watch::Receiver<Found>);

impl Reasons {
    /// Why an endpoint is unhealthy, if it is.
    pub(super) fn of(&self, row: &Endpoint) -> Option<String> {
        let found = self.0.borrow();
        let reason = found.get(&row.id)?.reason.clone();
        reason.filter(|_| row.backend == BackendState::Unhealthy)
    }
}

/// Looks after the health of this node's backends.
#[derive(Debug)]
pub(super) struct Health {
    targets: watch::Sender<Targets>,
    /// Of which state of the cluster they are.
    seen: Option<(Revision, NodeId)>,
    reasons: Reasons,
    counters: watch::Receiver<Counters>,
    task: JoinHandle<()>,
}

impl Health {
    /// Starts with nothing to look after. To be called inside a tokio runtime.
    pub(super) fn start(control: ControlPlane, run_dir: &Path) -> Self {
        let (targets, follow) = watch::channel(Targets::default());
        let (found, reasons) = watch::channel(Found::new());
        let prober = Prober::new(run_dir);
        let counters = prober.counters();
        let keeper = Keeper {
            control,
            prober,
            targets: Targets::default(),
            found,
        };
        Self {
            targets,
            seen: None,
            reasons: Reasons(reasons),
            counters,
            task: tokio::spawn(keeper.run(follow)),
        }
    }

    /// Where it can be read what is wrong.
    pub(super) fn reasons(&self) -> Reasons {
        self.reasons.clone()
    }

    /// How many probes there were.
    pub(super) fn counters(&self) -> watch::Receiver<Counters> {
        self.counters.clone()
    }

    /// Looks after the backends that `view` has on `local`.
    pub(super) fn watch(&mut self, view: &View, local: NodeId, boot_id: &str) {
        let now = Some((view.revision, local));
        if self.seen != now {
            self.seen = now;
            self.set(translate::health_targets(view, local, boot_id));
        }
    }

    /// Looks after nothing.
    pub(super) fn watch_none(&mut self) {
        self.seen = None;
        self.set(BTreeMap::new());
    }

    fn set(&self, targets: BTreeMap<EndpointId, Target>) {
        self.targets.send_if_modified(|now| {
            let changed = **now != targets;
            if changed {
                *now = Arc::new(targets);
            }
            changed
        });
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    control: ControlPlane,
    prober: Prober,
    targets: Targets,
    found: watch::Sender<Found>,
}

/// The cluster is being told; one thing after the other, so that the last one holds.
type Telling = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Keeper {
    async fn run(mut self, mut follow: watch::Receiver<Targets>) {
        let mut telling = None;
        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if telling.is_none() {
                telling = self.tell();
            }
            tokio::select! {
                changed = follow.changed() => match changed {
                    Ok(()) => self.set(follow.borrow_and_update().clone()),
                    Err(_) => return,
                },
                verdict = self.prober.next() => self.note(verdict),
                () = done(&mut telling) => telling = None,
                _ = resync.tick() => {}
            }
        }
    }

    fn set(&mut self, targets: Targets) {
        // What was found of something else says nothing.
        self.found
            .send_modify(|found| found.retain(|id, _| targets.get(id) == self.targets.get(id)));
        let named = targets.iter().map(|(id, t)| (id.to_string(), t.clone()));
        self.prober.set(named.collect());
        self.targets = targets;
    }

    fn note(&mut self, verdict: Verdict) {
        let Ok(id) = verdict.endpoint.parse() else {
            return;
        };
        match &verdict.reason {
            None => info!(endpoint = %id, "healthy"),
            Some(reason) => info!(endpoint = %id, reason, "unhealthy"),
        }
        self.found.send_modify(|found| {
            found.insert(id, verdict);
        });
    }

    /// Tells what the rows do not say yet, if there is such a thing.
    fn tell(&self) -> Option<Telling> {
        let states = |found: &Found| found.iter().map(|(id, v)| (*id, v.healthy)).collect();
        let found: Vec<(EndpointId, bool)> = states(&self.found.borrow());
        let look = |view: &View| translate::health_news(view, found.into_iter());
        let mut news = self.control.with_view(look);
        // The rest is found to differ again.
        news.truncate(limits::BACKENDS_PER_COMMAND);
        if news.is_empty() {
            return None;
        }
        let control = self.control.clone();
        Some(Box::pin(async move {
            let told = control.propose(Command::SetBackends(news), TELL_TIMEOUT);
            match told.await {
                // Until the row says so here, it would be told again.
                Ok(applied) => {
                    let _ = control.wait_revision(applied.revision, TELL_TIMEOUT).await;
                }
                Err(error) => debug!(%error, "the cluster could not be told of backends yet"),
            }
            tokio::time::sleep(TELL_PAUSE).await;
        }))
    }
}

async fn done(telling: &mut Option<Telling>) {
    match telling {
        Some(telling) => telling.await,
        None => std::future::pending().await,
    }
}
