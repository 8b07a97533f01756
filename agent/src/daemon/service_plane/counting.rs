use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt;
use futures_util::stream;
use tracing::{debug, warn};
use weft_lb::stats::{Stats, StatsError, StatsSpec};
use weft_netns::Identity;
use weft_overlay::NetnsRef;

use super::namespace::{Unopened, open};
use super::plan::Wanted;
use crate::translate::services::counted::{self, Counted};

/// Name of the nftables table that counts in a container.
pub(super) const TABLE: &str = "weft-stats";
/// Containers that are worked on at a time; what they wait for is mostly the kernel.
const AT_A_TIME: usize = 4;

/// The counters of this node's backends: a table in the namespace of each container that has any.
/// To count is no condition of anything else: what fails is told, tried again with the next full
/// pass, and its numbers are not known until then.
#[derive(Debug, Default)]
pub(super) struct Counting {
    held: BTreeMap<Identity, Held>,
    /// Containers whose connections are not counted, and why.
    failed: BTreeMap<Identity, String>,
    /// What an earlier agent may have left has been looked for.
    swept: bool,
}

#[derive(Debug)]
struct Held {
    /// Held open, so that nobody else can change it.
    stats: Stats,
    /// What it counts.
    spec: StatsSpec,
    /// Ways to the namespace.
    netns: BTreeSet<NetnsRef>,
}

/// What is to be done in a container.
struct Job {
    place: Identity,
    netns: BTreeSet<NetnsRef>,
    stats: Option<Stats>,
    /// `None`: there are to be no counters.
    spec: Option<StatsSpec>,
}

impl From<StatsError> for Unopened {
    fn from(error: StatsError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl Counting {
    /// Has counted what is wanted, looking at it with `full` even where nothing changed. Answers
    /// with how many changes that took.
    pub(super) async fn reconcile(&mut self, wanted: Wanted<'_>, full: bool) -> usize {
        let Wanted {
            view, index, here, ..
        } = wanted;
        let counted = counted::counted(view, index, here);
        let mut jobs = self.removals(|place| counted.contains_key(place));
        if !std::mem::replace(&mut self.swept, true) {
            jobs.extend(sweeps(wanted, &counted));
        }
        for (place, counted) in counted {
            let spec = counted.spec();
            let settled = |held: &Held| held.spec == spec;
            if !full && self.held.get(&place).is_some_and(settled) {
                continue;
            }
            jobs.push(Job {
                place,
                netns: counted.netns,
                stats: self.held.remove(&place).map(|held| held.stats),
                spec: Some(spec),
            });
        }
        self.carry_out(jobs).await
    }

    /// Takes away every table that is known.
    pub(super) async fn remove_all(&mut self) {
        let jobs = self.removals(|_| false);
        self.carry_out(jobs).await;
        *self = Self::default();
    }

    fn removals(&mut self, stays: impl Fn(&Identity) -> bool) -> Vec<Job> {
        let gone = self.held.extract_if(.., |place, _| !stays(place));
        let job = |(place, held): (Identity, Held)| Job {
            place,
            netns: held.netns,
            stats: Some(held.stats),
            spec: None,
        };
        gone.map(job).collect()
    }

    async fn carry_out(&mut self, jobs: Vec<Job>) -> usize {
        let jobs = jobs.into_iter().map(|job| async move {
            let work = move || perform(job);
            tokio::task::spawn_blocking(work).await
        });
        let done: Vec<_> = stream::iter(jobs)
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        let mut ops = 0;
        for done in done {
            match done {
                Ok(done) => ops += self.note(done),
                Err(error) => warn!(%error, "connections of a container could not be counted"),
            }
        }
        ops
    }

    fn note(&mut self, (place, outcome): (Identity, Outcome)) -> usize {
        let why = match outcome {
            Outcome::Counting(held, ops) => {
                self.held.insert(place, held);
                self.failed.remove(&place);
                return ops;
            }
            Outcome::None => {
                self.failed.remove(&place);
                return 0;
            }
            Outcome::Failed(why) => why,
        };
        if self.failed.get(&place) != Some(&why) {
            warn!(
                ?place,
                why, "connections of a container are not counted; trying again"
            );
        }
        self.failed.insert(place, why);
        0
    }
}

/// Containers in which an earlier agent may have left counters that are not wanted any more.
fn sweeps(wanted: Wanted<'_>, counted: &BTreeMap<Identity, Counted>) -> Vec<Job> {
    let Wanted {
        view, index, here, ..
    } = wanted;
    let places = index.places_on(here.node).into_iter();
    let others = places.filter(|place| !counted.contains_key(place));
    let job = |place| {
        let container = crate::translate::services::container(view, index, here, place)?;
        Some(Job {
            place,
            netns: container.netns,
            stats: None,
            spec: None,
        })
    };
    others.filter_map(job).collect()
}

/// What came of a [`Job`].
enum Outcome {
    /// It counts, after so many changes.
    Counting(Held, usize),
    /// There is nothing to count, or the container has ended.
    None,
    /// Why it does not.
    Failed(String),
}

/// Does it. Blocks.
fn perform(job: Job) -> (Identity, Outcome) {
    let Job {
        place,
        netns,
        stats,
        spec,
    } = job;
    let Some(spec) = spec else {
        if let Err(Unopened::Failed(why)) = remove(&netns, stats) {
            debug!(?place, why, "counters of a container could not be removed");
        }
        return (place, Outcome::None);
    };
    let outcome = match make(&netns, stats, &spec) {
        Ok((stats, ops)) => Outcome::Counting(Held { stats, spec, netns }, ops),
        Err(Unopened::Gone) => Outcome::None,
        Err(Unopened::Failed(why)) => Outcome::Failed(why),
    };
    (place, outcome)
}

fn make(
    netns: &BTreeSet<NetnsRef>,
    stats: Option<Stats>,
    spec: &StatsSpec,
) -> Result<(Stats, usize), Unopened> {
    // Also when the table is held open, or the container would never be seen to end.
    let namespace = open(netns)?;
    let mut stats = match stats {
        Some(stats) => stats,
        None => Stats::open(&namespace, TABLE)?,
    };
    let ops = stats.reconcile(spec)?;
    Ok((stats, ops))
}

fn remove(netns: &BTreeSet<NetnsRef>, stats: Option<Stats>) -> Result<(), Unopened> {
    let stats = match stats {
        Some(stats) => stats,
        None => Stats::open(&open(netns)?, TABLE)?,
    };
    Ok(stats.remove()?)
}
