use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use futures_util::StreamExt;
use futures_util::stream;
use tracing::warn;
use weft_lb::Balancer;
use weft_netns::Identity;
use weft_overlay::NetnsRef;

use super::flows;
use super::loads::{Counted, Place};
use super::lost::{Site, Suspect, Suspects};
use super::namespace::{Unopened, open};
use super::plan::{Plan, Scope, Wanted, plan};
use super::table::{self, Done, Job, Outcome, Work};
use crate::translate::services::{self, ServicesDirty, Vip};

/// Containers that are worked on at a time; what they wait for is mostly the kernel.
const AT_A_TIME: usize = 4;
/// A table that turns out to be lost is made anew in the second round.
const ROUNDS: usize = 2;

/// The service addresses in this node's containers: a table in the namespace of each that has
/// any.
#[derive(Debug, Default)]
pub(super) struct Containers {
    /// Where a table is or may be.
    tables: BTreeMap<Identity, Table>,
    /// Containers whose table is not as wanted, and why.
    failed: BTreeMap<Identity, String>,
}

#[derive(Debug, Default)]
struct Table {
    /// Held open, so that nobody else can change it.
    balancer: Option<Balancer>,
    /// Ways to the namespace.
    netns: BTreeSet<NetnsRef>,
}

impl Containers {
    /// Brings what is in the scope to what is wanted; answers with how many changes that took.
    /// Flows to backends that have departed are forgotten, once no table leads to them.
    pub(super) async fn reconcile(
        &mut self,
        wanted: Wanted<'_>,
        scope: Scope<'_>,
        departed: &BTreeSet<(Vip, Ipv4Addr)>,
    ) -> usize {
        let mut ops = 0;
        let mut work = plan(wanted, &self.known(), scope);
        for _ in 0..ROUNDS {
            let mut lost = ServicesDirty::default();
            for done in self.carry_out(work).await {
                let place = (wanted.here.node, done.place);
                if matches!(done.outcome, Outcome::Lost(_)) {
                    lost.places.insert(place);
                }
                ops += self.note(done);
            }
            if lost.is_clean() {
                break;
            }
            work = plan(wanted, &self.known(), Scope::Touched(&lost));
        }
        self.forget(wanted, departed).await;
        ops
    }

    /// Takes away every table that is known.
    pub(super) async fn remove_all(&mut self) {
        let places = self.known().into_iter();
        let work = places.map(|place| (place, (Work::Remove, BTreeSet::new())));
        for done in self.carry_out(work.collect()).await {
            self.note(done);
        }
        self.failed.clear();
    }

    /// Containers whose tables are not as wanted, and why.
    pub(super) fn failed(&self) -> &BTreeMap<Identity, String> {
        &self.failed
    }

    /// Backends on nodes that are down, where a container may have flows to them.
    pub(super) fn suspects(&self, wanted: Wanted<'_>) -> Suspects {
        let Wanted {
            view, index, here, ..
        } = wanted;
        let mut suspects = Suspects::new();
        for (network, backends) in services::on_down_nodes(view, index) {
            for place in index.places_on_network(here.node, network) {
                if let Some(table) = self.tables.get(&place) {
                    let site = Site::Container(table.netns.clone());
                    suspects.entry(site).or_default().extend(&backends);
                }
            }
        }
        suspects
    }

    /// Services that choose by load, in the containers that balance them.
    pub(super) fn counted(&self, wanted: Wanted<'_>) -> Counted {
        let Wanted { index, here, .. } = wanted;
        let mut counted = Counted::new();
        for vip in index.vips_by_load() {
            for place in index.places_on_network(here.node, vip.0) {
                if let Some(table) = self.tables.get(&place) {
                    let counted = counted.entry(Place::Container(place));
                    let (_, services) = counted.or_insert_with(|| (table.netns.clone(), [].into()));
                    services.insert(services::key(vip));
                }
            }
        }
        counted
    }

    async fn carry_out(&mut self, work: Plan) -> Vec<Done> {
        let mut jobs = Vec::new();
        for (place, (work, netns)) in work {
            jobs.push(self.job(place, work, netns));
        }
        let running = jobs.into_iter().map(|job| async move {
            let place = job.place;
            let done = tokio::task::spawn_blocking(move || table::carry_out(job)).await;
            done.unwrap_or_else(|error| Done {
                place,
                balancer: None,
                outcome: Outcome::Failed(error.to_string()),
                lacking: None,
            })
        });
        let done = stream::iter(running).buffer_unordered(AT_A_TIME);
        done.collect().await
    }

    async fn forget(&self, wanted: Wanted<'_>, departed: &BTreeSet<(Vip, Ipv4Addr)>) {
        let mut work: BTreeMap<Identity, Vec<Suspect>> = BTreeMap::new();
        for (vip, address) in departed {
            // Where the address is gone, too, nothing would take the flows' next packets.
            if !wanted.index.is_service(*vip) {
                continue;
            }
            for place in wanted.index.places_on_network(wanted.here.node, vip.0) {
                let gone = (services::key(*vip), services::backend(*address));
                work.entry(place).or_default().push(gone);
            }
        }
        let jobs = work.into_iter().filter_map(|(place, gone)| {
            let netns = self.tables.get(&place)?.netns.clone();
            Some(async move {
                let work = move || flows::forget(&open(&netns)?, &gone);
                match tokio::task::spawn_blocking(work).await {
                    Ok(Ok(()) | Err(Unopened::Gone)) => {}
                    Ok(Err(Unopened::Failed(why))) => {
                        warn!(?place, why, "flows to backends that are no more may hang");
                    }
                    Err(error) => warn!(?place, %error, "flows could not be forgotten"),
                }
            })
        });
        stream::iter(jobs)
            .buffer_unordered(AT_A_TIME)
            .collect::<()>()
            .await;
    }

    fn known(&self) -> BTreeSet<Identity> {
        self.tables.keys().copied().collect()
    }

    fn job(&mut self, place: Identity, work: Work, netns: BTreeSet<NetnsRef>) -> Job {
        if matches!(work, Work::Make { .. }) {
            self.tables.entry(place).or_default();
        }
        let Some(table) = self.tables.get_mut(&place) else {
            return Job {
                place,
                netns,
                balancer: None,
                work,
            };
        };
        // A container that has been detached has no endpoint to know its namespace from.
        if !netns.is_empty() {
            table.netns = netns;
        }
        Job {
            place,
            netns: table.netns.clone(),
            balancer: table.balancer.take(),
            work,
        }
    }

    fn note(&mut self, done: Done) -> usize {
        let Done {
            place,
            balancer,
            outcome,
            lacking,
        } = done;
        let failed = match &outcome {
            Outcome::Failed(why) => Some(why.clone()),
            _ => lacking.map(str::to_owned),
        };
        match failed {
            Some(why) if self.failed.get(&place) == Some(&why) => {}
            Some(why) => {
                warn!(
                    ?place,
                    why, "service addresses could not be programmed; trying again"
                );
                self.failed.insert(place, why);
            }
            None => {
                self.failed.remove(&place);
            }
        }
        if matches!(outcome, Outcome::Failed(_)) {
            return 0;
        }
        match (&outcome, balancer) {
            (Outcome::Done(_), None) | (Outcome::Gone, _) => {
                self.tables.remove(&place);
            }
            (_, balancer) => self.tables.entry(place).or_default().balancer = balancer,
        }
        match outcome {
            Outcome::Done(ops) | Outcome::Lost(ops) => ops,
            Outcome::Gone | Outcome::Failed(_) => 0,
        }
    }
}
