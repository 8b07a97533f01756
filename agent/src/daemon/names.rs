//! Names inside this node's containers: keeps what they mean in step with the cluster's state, and has
//! the data-plane process answer them.
//!
//! What is wanted is a whole each time, in parts that are shared with the one before; the process is told
//! the parts that differ. A process that has just come is told everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};
use weft_lb::dns::Zone;
use weft_netns::Identity;
use weft_raft::model::{Change, EndpointId, NetworkId, View};

use super::dataplane::{Dataplane, Need};
use crate::config::Config;
use crate::dataplane::Place;
use crate::dataplane::client::Link;
use crate::dataplane::dns::{DnsSpec, DnsState, PlaceSpec};
use crate::translate::services::Here;
use crate::translate::{Index, dns};

/// Where hosts say who knows other names.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How often it is looked what is answered although nothing has changed.
const LOOK: Duration = Duration::from_secs(5);
/// First and longest pause before what has failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long the rest of a node waits for new containers' names.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of names inside this node's containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NamesReport {
    /// Up to which wish this is.
    number: u64,
    /// What is answered, once that is known.
    pub(super) state: Option<DnsState>,
    /// Why what is wanted is not answered, if so.
    pub(super) error: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Numbered {
    /// Zero until something was wanted, be it nothing: what an earlier agent said goes on until then.
    number: u64,
    spec: Arc<DnsSpec>,
}

/// Names as the rest of the agent sees them. Dropping this leaves the process alone.
#[derive(Debug)]
pub(super) struct Names {
    wanted: watch::Sender<Numbered>,
    report: watch::Receiver<Arc<NamesReport>>,
    task: JoinHandle<()>,
    resolv_conf: PathBuf,
    /// As they were made last.
    zones: BTreeMap<NetworkId, Arc<Zone>>,
    places: BTreeMap<Identity, PlaceSpec>,
    dirty: BTreeSet<NetworkId>,
    all_dirty: bool,
    /// Where they were not answered last.
    seen: BTreeMap<String, String>,
    /// Whether it was worth waiting for the process the last time.
    answers: bool,
}

impl Names {
    /// Wants nothing yet. To be called inside a tokio runtime.
    pub(super) fn start(config: &Config, dataplane: &Dataplane) -> Self {
        let (wanted, follow) = watch::channel(Numbered::default());
        let (sender, report) = watch::channel(Arc::default());
        let keeper = Keeper {
            place: Place::new(&config.run_dir),
            need: dataplane.dns_need(),
            wanted: follow,
            report: sender,
            told: None,
            numbers: 0,
            next_look: Instant::now(),
            pause: RETRY.0,
        };
        Self {
            wanted,
            report,
            task: tokio::spawn(keeper.keep()),
            resolv_conf: PathBuf::from(RESOLV_CONF),
            zones: BTreeMap::new(),
            places: BTreeMap::new(),
            dirty: BTreeSet::new(),
            all_dirty: true,
            seen: BTreeMap::new(),
            answers: true,
        }
    }

    /// Where the latest report can be read.
    pub(super) fn reports(&self) -> watch::Receiver<Arc<NamesReport>> {
        self.report.clone()
    }

    /// Until names are not answered somewhere where they were, or are again.
    pub(super) async fn changed(&mut self) {
        while self.report.changed().await.is_ok() {
            let report = self.report.borrow_and_update();
            let failed = report.state.as_ref().map(|state| &state.failed);
            if failed.is_some_and(|failed| *failed != self.seen) {
                self.seen = failed.cloned().unwrap_or_default();
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// The view was replaced as a whole.
    pub(super) fn snapshot(&mut self) {
        self.all_dirty = true;
    }

    /// The view changes so.
    pub(super) fn changes(&mut self, before: &View, changes: &[Change]) {
        self.dirty.extend(dns::touched(before, changes));
    }

    /// Whether nothing has changed since the last pass.
    pub(super) fn is_clean(&self) -> bool {
        !self.all_dirty && self.dirty.is_empty()
    }

    /// Has the process answer what is wanted now, and waits for that where a container is new: it is not
    /// to ask before it is answered.
    pub(super) async fn reconcile(&mut self, view: &View, index: &Index, here: Here<'_>) {
        if self.is_clean() {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        let all = std::mem::take(&mut self.all_dirty);
        let places = dns::places(view, here);
        let is_new = places.keys().any(|key| !self.places.contains_key(key));
        let on = places.values().flat_map(|place| &place.zones);
        let networks: BTreeSet<NetworkId> = on.filter_map(|id| id.parse().ok()).collect();
        self.zones.retain(|network, _| networks.contains(network));
        for network in networks {
            if !all && !dirty.contains(&network) && self.zones.contains_key(&network) {
                continue;
            }
            let Some(zone) = dns::zone(view, index, network, here.node) else {
                self.zones.remove(&network);
                continue;
            };
            if self.zones.get(&network).is_none_or(|old| **old != zone) {
                self.zones.insert(network, Arc::new(zone));
            }
        }
        self.places = places;
        let number = self.want();
        if is_new && self.answers {
            self.answers = self.is_told(number).await;
        } else if self.report.borrow().error.is_none() {
            self.answers = true;
        }
    }

    /// Not a member of any cluster: there are no names.
    pub(super) fn clear(&mut self) {
        self.zones.clear();
        self.places.clear();
        self.all_dirty = true;
        self.want();
    }

    /// Endpoints of this node's containers in which names are not answered, and why.
    pub(super) fn failed(&self, view: &View, here: Here<'_>) -> BTreeMap<EndpointId, String> {
        let report = self.report.borrow().clone();
        let Some(state) = report
            .state
            .as_ref()
            .filter(|state| !state.failed.is_empty())
        else {
            return BTreeMap::new();
        };
        let rows = view.endpoints.values().filter(|row| row.node == here.node);
        rows.filter_map(|row| {
            let why = state.failed.get(&key(Identity {
                device: row.attachment.device,
                inode: row.attachment.inode,
            }))?;
            Some((
                row.id,
                format!("names are not answered in its container: {why}"),
            ))
        })
        .collect()
    }

    fn want(&mut self) -> u64 {
        let zones = self.zones.iter();
        let places = self.places.iter();
        let spec = DnsSpec {
            resolv_conf: self.resolv_conf.clone(),
            zones: zones
                .map(|(id, zone)| (id.to_string(), zone.clone()))
                .collect(),
            places: places
                .map(|(place, spec)| (key(*place), spec.clone()))
                .collect(),
        };
        let mut number = 0;
        self.wanted.send_if_modified(|wanted| {
            number = wanted.number;
            if wanted.number > 0 && *wanted.spec == spec {
                return false;
            }
            wanted.number += 1;
            wanted.spec = Arc::new(spec);
            number = wanted.number;
            true
        });
        number
    }

    async fn is_told(&mut self, number: u64) -> bool {
        let mut report = self.report.clone();
        let done = |report: &Arc<NamesReport>| report.number >= number && report.error.is_none();
        let told = timeout(PATIENCE, report.wait_for(done)).await;
        if told.is_err() {
            debug!("names are not answered in new containers yet");
        }
        told.is_ok()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a container is named to the process.
fn key(place: Identity) -> String {
    format!("{}-{}", place.device, place.inode)
}

/// Tells the process.
struct Keeper {
    place: Place,
    need: Need,
    wanted: watch::Receiver<Numbered>,
    report: watch::Sender<Arc<NamesReport>>,
    /// To whom what was told last.
    told: Option<(Link, u64, Arc<DnsSpec>)>,
    /// Updates so far.
    numbers: u64,
    next_look: Instant,
    pause: Duration,
}

impl Keeper {
    async fn keep(mut self) {
        loop {
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() {
                    return;
                },
                () = gone(self.told.as_ref()) => self.told = None,
                () = sleep_until(self.next_look) => {}
            }
            self.pass().await;
        }
    }

    async fn pass(&mut self) {
        let Numbered { number, spec } = self.wanted.borrow_and_update().clone();
        self.next_look = Instant::now() + LOOK;
        if number == 0 {
            return;
        }
        let (state, error) = match spec.places.is_empty() {
            true => {
                self.need.set(false);
                self.told = None;
                (None, None)
            }
            false => {
                self.need.set(true);
                match self.tell(spec).await {
                    Ok(state) => (Some(state), None),
                    Err(error) => (None, Some(error)),
                }
            }
        };
        let failed = state.as_ref().is_some_and(|state| !state.failed.is_empty());
        if error.is_some() || failed {
            self.next_look = Instant::now() + self.pause;
            self.pause = (self.pause * 2).min(RETRY.1);
        } else {
            self.pause = RETRY.0;
        }
        self.complain(error.as_ref());
        let report = Arc::new(NamesReport {
            number,
            state,
            error,
        });
        self.report.send_if_modified(|old| {
            let changed = *old != report;
            *old = report;
            changed
        });
    }

    async fn tell(&mut self, spec: Arc<DnsSpec>) -> Result<DnsState, String> {
        let said = |error| format!("the data-plane process: {error}");
        self.numbers += 1;
        let (mut link, update) = match self.told.take() {
            Some((link, number, before)) => {
                (link, spec.since(Some((number, &*before)), self.numbers))
            }
            None => {
                let link = Link::connect(&self.place.current()).await;
                let link =
                    link.map_err(|error| format!("the data-plane process is not there: {error}"))?;
                if !link.is_understood() {
                    return Err("the data-plane process is of another version".to_owned());
                }
                (link, spec.since(None, self.numbers))
            }
        };
        let state = link.dns(update).await.map_err(said)?;
        self.told = Some((link, self.numbers, spec));
        Ok(state)
    }

    /// What starts is no trouble yet.
    fn complain(&self, error: Option<&String>) {
        let known = self.report.borrow().error.clone();
        if let Some(error) = error.filter(|error| known.as_ref() == Some(error))
            && self.pause == RETRY.1
        {
            warn!(error, "names are not answered as they should be");
        }
    }
}

async fn gone(told: Option<&(Link, u64, Arc<DnsSpec>)>) {
    match told {
        Some((link, ..)) => link.gone().await,
        None => std::future::pending().await,
    }
}
