use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use super::check::{Check, Probe, Target, Verdict};

/// First probes of endpoints that come together start so far apart.
const SPACING: Duration = Duration::from_millis(2);
/// An endpoint that never answered is looked at again after this, then after twice as long and so
/// on up to its interval, so that it is not known late that its program has come up.
const START_PAUSE: Duration = Duration::from_millis(100);
/// Doublings of [`START_PAUSE`] after which it is longer than any interval.
const MAX_DOUBLINGS: u16 = 20;

/// How many probes may run at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections.
    pub(super) network: usize,
    /// Commands.
    pub(super) exec: usize,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Probes that were started.
    pub started: u64,
    /// Those among them that had to wait because too many others ran.
    pub delayed: u64,
}

/// One probe that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run(u64);

/// A probe to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) run: Run,
    pub(super) endpoint: String,
    pub(super) target: Target,
}

/// Says which probe is to be started when, and what its result means.
///
/// An endpoint's probes start at points of time that are an interval apart and that a hash places
/// for each endpoint somewhere else, so that they spread. Outside of that rhythm are the first
/// probes of an endpoint until one succeeds: it is to be known soon that an endpoint serves.
#[derive(Debug)]
pub(super) struct Schedule {
    origin: Instant,
    seed: u64,
    entries: BTreeMap<String, Entry>,
    network: Lane,
    exec: Lane,
    /// Probes of endpoints that changed or went meanwhile are among them until they end.
    running: BTreeMap<Run, Running>,
    counters: Counters,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    turn: Turn,
    /// When its first probe was started.
    since: Option<Instant>,
    /// As it was told last; `None` before it is known.
    health: Option<bool>,
    /// In a row.
    failures: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Due(Instant),
    Running(Run),
}

#[derive(Debug)]
struct Running {
    endpoint: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Network,
    Exec,
}

/// Probes that count against one limit.
#[derive(Debug)]
struct Lane {
    limit: usize,
    running: usize,
    due: BTreeSet<(Instant, String)>,
    /// When it was last seen that no more could be started.
    last_full: Option<Instant>,
}

impl Schedule {
    /// With nothing to do. What came out with another `seed` has its probes at other times.
    pub(super) fn new(now: Instant, seed: u64, limits: Limits) -> Self {
        Self {
            origin: now,
            seed,
            entries: BTreeMap::new(),
            network: Lane::new(limits.network),
            exec: Lane::new(limits.exec),
            running: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Replaces what is to be looked at. An endpoint whose target is another one than before is
    /// looked at as if it were new.
    pub(super) fn set(&mut self, now: Instant, targets: BTreeMap<String, Target>) {
        let same = |name: &String, entry: &Entry| targets.get(name) == Some(&entry.target);
        let gone: Vec<String> = self
            .entries
            .iter()
            .filter(|(name, entry)| !same(name, entry))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(entry) = self.entries.remove(&name)
                && let Turn::Due(at) = entry.turn
            {
                self.lane(entry.kind()).due.remove(&(at, name));
            }
        }
        let known = &self.entries;
        let new = targets.into_iter().filter(|(n, _)| !known.contains_key(n));
        let mut new: Vec<(String, Target)> = new.collect();
        new.sort_by_cached_key(|(name, _)| self.hash(name));
        for (place, (name, target)) in (0..).zip(new) {
            let at = now + SPACING * place;
            let entry = Entry {
                target,
                turn: Turn::Due(at),
                since: None,
                health: None,
                failures: 0,
            };
            self.lane(entry.kind()).due.insert((at, name.clone()));
            self.entries.insert(name, entry);
        }
    }

    /// A probe to start now, if there is one. To be asked until there is none.
    pub(super) fn start(&mut self, now: Instant) -> Option<Start> {
        let kind = [Kind::Network, Kind::Exec]
            .into_iter()
            .find(|kind| self.lane(*kind).wakeup().is_some_and(|at| at <= now))?;
        let (at, endpoint) = self.lane(kind).due.pop_first()?;
        let run = Run(self.counters.started);
        let entry = self.entries.get_mut(&endpoint)?;
        entry.turn = Turn::Running(run);
        entry.since.get_or_insert(now);
        let target = entry.target.clone();
        let lane = self.lane(kind);
        lane.running += 1;
        let delayed = lane.last_full.is_some_and(|full| at <= full);
        self.counters.started += 1;
        self.counters.delayed += u64::from(delayed);
        let running = Running {
            endpoint: endpoint.clone(),
            kind,
        };
        self.running.insert(run, running);
        Some(Start {
            run,
            endpoint,
            target,
        })
    }

    /// When [`Self::start`] is to be asked again although nothing happened.
    pub(super) fn wakeup(&self) -> Option<Instant> {
        let lanes = [&self.network, &self.exec];
        lanes.into_iter().filter_map(Lane::wakeup).min()
    }

    /// Takes in how a probe ended; answers when the endpoint's health is another one than before.
    /// A probe of what has changed meanwhile says nothing.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        run: Run,
        outcome: Result<(), String>,
    ) -> Option<Verdict> {
        let Running { endpoint, kind } = self.running.remove(&run)?;
        self.lane(kind).release(now);
        let phase = self.hash(&endpoint);
        let entry = self.entries.get_mut(&endpoint)?;
        if entry.turn != Turn::Running(run) {
            return None;
        }
        let judged = entry.judge(now, outcome);
        let at = match entry.start_pause() {
            Some(pause) => now + pause,
            None => next_point(self.origin, now, entry.target.check.interval, phase),
        };
        entry.turn = Turn::Due(at);
        self.lane(kind).due.insert((at, endpoint.clone()));
        let (healthy, reason) = judged?;
        Some(Verdict {
            endpoint,
            healthy,
            reason,
        })
    }

    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Network => &mut self.network,
            Kind::Exec => &mut self.exec,
        }
    }

    fn hash(&self, endpoint: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, endpoint).hash(&mut hasher);
        hasher.finish()
    }
}

impl Entry {
    fn kind(&self) -> Kind {
        match self.target.check.probe {
            Probe::Tcp { .. } | Probe::Http { .. } => Kind::Network,
            Probe::Exec { .. } => Kind::Exec,
        }
    }

    /// Whether it is healthy and why not, when that is news.
    fn judge(
        &mut self,
        now: Instant,
        outcome: Result<(), String>,
    ) -> Option<(bool, Option<String>)> {
        match outcome {
            Ok(()) => {
                self.failures = 0;
                let before = self.health.replace(true);
                (before != Some(true)).then_some((true, None))
            }
            Err(reason) => {
                self.failures = self.failures.saturating_add(1);
                if !self.has_failed(now) {
                    return None;
                }
                self.health = Some(false);
                Some((false, Some(reason)))
            }
        }
    }

    /// Whether the failures are enough to call it unhealthy, which it was not yet.
    fn has_failed(&self, now: Instant) -> bool {
        let Check {
            interval, retries, ..
        } = self.target.check;
        let enough = self.failures >= retries;
        match self.health {
            Some(true) => enough,
            Some(false) => false,
            // As long as it would take without the additional probes at the start.
            None => {
                let time = interval * u32::from(retries.saturating_sub(1));
                enough && self.since.is_some_and(|since| now >= since + time)
            }
        }
    }

    /// How long to wait after a failure while nothing is known of the endpoint; `None` when its
    /// rhythm is to be kept.
    fn start_pause(&self) -> Option<Duration> {
        let doublings = self.failures.saturating_sub(1).min(MAX_DOUBLINGS);
        let pause = START_PAUSE * (1 << doublings);
        (self.health.is_none() && pause < self.target.check.interval).then_some(pause)
    }
}

impl Lane {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            running: 0,
            due: BTreeSet::new(),
            last_full: None,
        }
    }

    fn is_full(&self) -> bool {
        self.running >= self.limit
    }

    fn wakeup(&self) -> Option<Instant> {
        let (at, _) = self.due.first().filter(|_| !self.is_full())?;
        Some(*at)
    }

    fn release(&mut self, now: Instant) {
        if self.is_full() {
            self.last_full = Some(now);
        }
        self.running = self.running.saturating_sub(1);
    }
}

/// The first point of time after `now` that is a multiple of `interval` and `phase` after `origin`.
fn next_point(origin: Instant, now: Instant, interval: Duration, phase: u64) -> Instant {
    let interval = interval.as_nanos().max(1);
    let phase = u128::from(phase) % interval;
    let elapsed = now.saturating_duration_since(origin).as_nanos();
    let rounds = match elapsed.checked_sub(phase) {
        Some(since) => since / interval + 1,
        None => 0,
    };
    let at = phase + rounds * interval;
    // 2^64 ns are 584 years.
    origin + Duration::from_nanos(u64::try_from(at).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
