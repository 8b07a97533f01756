use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{self, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::check::{Check, Target, Verdict};
use super::probe;
use super::schedule::{Counters, Limits, Run, Schedule, Start};

/// Connections take microseconds on one machine; commands take processes.
const LIMITS: Limits = Limits {
    network: 64,
    exec: 8,
};

/// Looks after the health of endpoints. Probes that run are broken off when this is dropped.
#[derive(Debug)]
pub struct Prober {
    schedule: Schedule,
    probes: JoinSet<Result<(), String>>,
    runs: HashMap<task::Id, Run>,
    run_dir: Arc<Path>,
    counters: watch::Sender<Counters>,
}

impl Prober {
    /// With nothing to look after. In `run_dir` are the files that commands see of containers.
    pub fn new(run_dir: impl Into<PathBuf>) -> Self {
        let seed = RandomState::new().hash_one(());
        Self {
            schedule: Schedule::new(std::time::Instant::now(), seed, LIMITS),
            probes: JoinSet::new(),
            runs: HashMap::new(),
            run_dir: run_dir.into().into(),
            counters: watch::Sender::default(),
        }
    }

    /// Replaces what is to be looked after. An endpoint whose target differs from before is looked
    /// at as if it were new; numbers out of bounds are taken as the nearest one within them.
    pub fn set(&mut self, targets: BTreeMap<String, Target>) {
        let bounded = |target: Target| Target {
            check: Check::bounded(target.check),
            ..target
        };
        let targets = targets.into_iter().map(|(name, t)| (name, bounded(t)));
        self.schedule
            .set(std::time::Instant::now(), targets.collect());
    }

    /// The next endpoint whose health is known for the first time or has changed. Probes are only
    /// started while this is awaited; it may be cancelled.
    pub async fn next(&mut self) -> Verdict {
        loop {
            let now = std::time::Instant::now();
            while let Some(start) = self.schedule.start(now) {
                self.spawn(start);
            }
            self.counters.send_replace(self.schedule.counters());
            let wakeup = self.schedule.wakeup();
            tokio::select! {
                Some(ended) = self.probes.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok(ended) => ended,
                        Err(error) => (error.id(), Err(format!("the probe broke off: {error}"))),
                    };
                    let run = self.runs.remove(&id);
                    let now = std::time::Instant::now();
                    let verdict = run.and_then(|run| self.schedule.finish(now, run, outcome));
                    if let Some(verdict) = verdict {
                        return verdict;
                    }
                }
                () = until(wakeup) => {}
            }
        }
    }

    /// Where it can be followed what happened since the start.
    pub fn counters(&self) -> watch::Receiver<Counters> {
        self.counters.subscribe()
    }

    fn spawn(&mut self, start: Start) {
        let run_dir = self.run_dir.clone();
        let probe = async move { probe::perform(&start.target, &run_dir).await };
        let id = self.probes.spawn(probe).id();
        self.runs.insert(id, start.run);
    }
}

async fn until(time: Option<std::time::Instant>) {
    match time {
        Some(time) => sleep_until(Instant::from_std(time)).await,
        None => std::future::pending().await,
    }
}
