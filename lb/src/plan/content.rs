//! What the table says of a service.

use std::collections::{BTreeMap, BTreeSet};

use crate::class::{Class, Pick};
use crate::idle::{Times, Tracking};
use crate::observed::Entry;
use crate::spec::{Backend, Scheduler, Service, ServiceKey};
use crate::{hash, maglev, slots};

/// Numbers that are a backend's own start here, above those of all slots.
const NUMBERS_FROM: u32 = 1 << 31;
/// Beginning of the hash of a backend.
const NUMBER_SEED: u64 = 0x6e75_6d62_6572_0001;

/// What the table is to say of a service.
#[derive(Default)]
pub(super) struct Content {
    pub(super) class: Class,
    pub(super) backends: BTreeMap<u32, Backend>,
    pub(super) picks: BTreeMap<u32, u32>,
    pub(super) times: Times,
}

impl Content {
    /// With as few changes of what is there as can be.
    pub(super) fn new(
        key: &ServiceKey,
        service: &Service,
        entry: &Entry,
        tracking: Tracking,
    ) -> Self {
        let times = tracking.times(key, service);
        let (pick, slots) = slots(service, entry);
        let class = Class::new(key, pick, slots.len(), service.affinity_seconds());
        if class.affinity().is_none() {
            return Self {
                class,
                backends: (0..).zip(slots).collect(),
                picks: BTreeMap::new(),
                times,
            };
        }
        let numbers = numbers(&slots, entry);
        let picks = slots.iter().filter_map(|backend| numbers.get(backend));
        Self {
            class,
            picks: (0..).zip(picks.copied()).collect(),
            backends: numbers.into_iter().map(|(b, number)| (number, b)).collect(),
            times,
        }
    }
}

/// How a slot is picked, and the backend of each.
fn slots(service: &Service, entry: &Entry) -> (Pick, Vec<Backend>) {
    let active: Vec<(Backend, u16)> = service.active().collect();
    match service.scheduler {
        Scheduler::Maglev(size) => (Pick::Flow, maglev::table(&active, size)),
        Scheduler::Random | Scheduler::LeastConnections => {
            (Pick::Random, dense(&by_weight(&active), entry))
        }
        Scheduler::SourceHash => (Pick::Source, dense(&by_weight(&active), entry)),
        // Of one there is nothing to count.
        Scheduler::RoundRobin | Scheduler::WeightedRoundRobin if active.len() == 1 => (
            Pick::Random,
            active.iter().map(|(backend, _)| *backend).collect(),
        ),
        Scheduler::RoundRobin => {
            let once: Vec<(Backend, u32)> = active.iter().map(|(b, _)| (*b, 1)).collect();
            (Pick::RoundRobin, dense(&once, entry))
        }
        Scheduler::WeightedRoundRobin => {
            let wanted = by_weight(&active);
            let slots = if wanted.iter().all(|(_, count)| *count == 1) {
                dense(&wanted, entry)
            } else {
                slots::interleave(&wanted)
            };
            (Pick::RoundRobin, slots)
        }
    }
}

/// How many slots each backend has.
fn by_weight(active: &[(Backend, u16)]) -> Vec<(Backend, u32)> {
    let weights: Vec<u16> = active.iter().map(|(_, weight)| *weight).collect();
    let counts = slots::multiplicities(&weights);
    let backends = active.iter().map(|(backend, _)| *backend);
    backends.zip(counts).collect()
}

/// The slots, in the order that keeps most of what is there.
fn dense(wanted: &[(Backend, u32)], entry: &Entry) -> Vec<Backend> {
    slots::assign(&entry.order(), wanted)
}

/// The number of each backend: the one that it has, or one that is hardly ever another's. So
/// clients find a backend again that took no new flows for a while.
fn numbers(slots: &[Backend], entry: &Entry) -> BTreeMap<Backend, u32> {
    let owned = entry.backends.range(NUMBERS_FROM..);
    let mut taken: BTreeMap<u32, Backend> = owned.map(|(n, b)| (*n, *b)).collect();
    let present: BTreeMap<Backend, u32> = taken.iter().map(|(n, b)| (*b, *n)).collect();
    let backends: BTreeSet<Backend> = slots.iter().copied().collect();
    let mut number = |backend: Backend| {
        if let Some(number) = present.get(&backend) {
            return *number;
        }
        let [.., a, b, c, d] = hash::of_backend(NUMBER_SEED, &backend).to_be_bytes();
        let first = u32::from_be_bytes([a, b, c, d]) | NUMBERS_FROM;
        let mut numbers = (first..=u32::MAX).chain(NUMBERS_FROM..first);
        let free = numbers.find(|number| !taken.contains_key(number));
        let number = free.unwrap_or(first);
        taken.insert(number, backend);
        number
    };
    backends.into_iter().map(|b| (b, number(b))).collect()
}
