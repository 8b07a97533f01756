//! How many flows the backends of `least-conn` services have, as each namespace that balances such
//! services sees it: its own flows, as with IPVS.
//!
//! A task counts, off the threads of the runtime, and tells where something has changed. What
//! follows from the counts is made by the same pass as every other change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep};
use tracing::debug;
use weft_lb::flows::Flows;
use weft_lb::least_conn;
use weft_lb::spec::{Backend, Scheduler, Service, ServiceKey};
use weft_netns::Identity;
use weft_overlay::NetnsRef;

use super::lost::Site;

/// From one count to the next, at least and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// Between these, so many times as long as the last one took: it may have waited for a processor, or
/// there is much to count.
const PAUSE_FACTOR: u32 = 9;

/// A namespace that balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The host's own.
    Host,
    /// A container's.
    Container(Identity),
}

/// Flows of each backend, whatever the service: it has one load.
pub(super) type Load = BTreeMap<Backend, u64>;

/// Loads, by the namespace that sees them.
pub(super) type ByPlace = BTreeMap<Place, Load>;

/// What is to be counted where.
pub(super) type Counted = BTreeMap<Place, (BTreeSet<NetnsRef>, BTreeSet<ServiceKey>)>;

/// Follows the loads of backends.
#[derive(Debug)]
pub(super) struct Loads {
    counted: watch::Sender<Arc<Counted>>,
    found: watch::Receiver<Arc<ByPlace>>,
    /// What the last pass went by.
    known: Arc<ByPlace>,
    changed: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Loads {
    /// Starts with nothing to count. To be called inside a tokio runtime.
    pub(super) fn start() -> Self {
        let (counted, follow) = watch::channel(Arc::default());
        let (tell, found) = watch::channel(Arc::default());
        let changed = Arc::new(Notify::new());
        Self {
            counted,
            found,
            known: Arc::default(),
            task: tokio::spawn(keep(follow, tell, changed.clone())),
            changed,
        }
    }

    /// These are to be counted from now on.
    pub(super) fn set(&self, counted: Counted) {
        self.counted.send_if_modified(|now| {
            let changed = **now != counted;
            if changed {
                *now = Arc::new(counted);
            }
            changed
        });
    }

    /// Wakes whoever waits for it when there are other loads than before.
    pub(super) fn changed(&self) -> Arc<Notify> {
        self.changed.clone()
    }

    /// Takes in what was counted; where that changed.
    pub(super) fn take(&mut self) -> BTreeSet<Place> {
        let before = std::mem::replace(&mut self.known, self.found.borrow_and_update().clone());
        let places = before.keys().chain(self.known.keys());
        places
            .filter(|place| before.get(place) != self.known.get(place))
            .copied()
            .collect()
    }

    /// What was counted, as of the last [`take`](Self::take).
    pub(super) fn known(&self) -> Arc<ByPlace> {
        self.known.clone()
    }
}

impl Drop for Loads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Gives a service the weights that follow from loads, if that is how it chooses.
pub(super) fn weigh(service: &mut Service, load: Option<&Load>) {
    if let (Scheduler::LeastConnections, Some(load)) = (service.scheduler, load) {
        service.backends = least_conn::weights(load, &service.backends);
    }
}

async fn keep(
    mut follow: watch::Receiver<Arc<Counted>>,
    tell: watch::Sender<Arc<ByPlace>>,
    changed: Arc<Notify>,
) {
    loop {
        let counted = follow.borrow_and_update().clone();
        if counted.is_empty() && tell.borrow().is_empty() {
            if follow.changed().await.is_err() {
                return;
            }
            continue;
        }
        let started = Instant::now();
        let Ok(found) = spawn_blocking(move || count(&counted)).await else {
            return;
        };
        let differs = tell.send_if_modified(|known| {
            let differs = **known != found;
            if differs {
                *known = Arc::new(found);
            }
            differs
        });
        if differs {
            changed.notify_one();
        }
        sleep((started.elapsed() * PAUSE_FACTOR).clamp(PAUSE.0, PAUSE.1)).await;
    }
}

/// Blocks. Places without flows, and those that have ended, are left out.
fn count(counted: &Counted) -> ByPlace {
    let mut found = ByPlace::new();
    for (place, (netns, services)) in counted {
        match count_at(*place, netns, services) {
            Ok(load) if load.is_empty() => {}
            Ok(load) => {
                found.insert(*place, load);
            }
            Err(why) => debug!(?place, why, "flows of backends could not be counted"),
        }
    }
    found
}

fn count_at(
    place: Place,
    netns: &BTreeSet<NetnsRef>,
    services: &BTreeSet<ServiceKey>,
) -> Result<Load, String> {
    let site = match place {
        Place::Host => Site::Host,
        Place::Container(_) => Site::Container(netns.clone()),
    };
    let netns = site.open().map_err(|unopened| unopened.to_string())?;
    let mut flows = Flows::open(&netns).map_err(|error| error.to_string())?;
    let counts = flows.count(services).map_err(|error| error.to_string())?;
    let mut load = Load::new();
    for (backend, flows) in counts.into_values().flatten() {
        *load.entry(backend).or_default() += flows;
    }
    Ok(load)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(scheduler: Scheduler) -> Service {
        let backend = |last| (backend(last), 2);
        Service {
            scheduler,
            affinity: None,
            idle: None,
            backends: [backend(1), backend(2)].into(),
        }
    }

    fn backend(last: u8) -> Backend {
        Backend {
            address: [10, 0, 1, last].into(),
            port: None,
        }
    }

    #[test]
    fn only_services_that_choose_by_load_are_weighed() {
        let load = Load::from([(backend(1), 50)]);
        for scheduler in [Scheduler::Random, Scheduler::LeastConnections] {
            let mut weighed = service(scheduler);
            weigh(&mut weighed, None);
            assert_eq!(weighed, service(scheduler));
            weigh(&mut weighed, Some(&load));
            let weights: Vec<u16> = weighed.backends.into_values().collect();
            match scheduler {
                Scheduler::LeastConnections => assert_eq!(weights, [1, 16]),
                _ => assert_eq!(weights, [2, 2]),
            }
        }
    }
}
