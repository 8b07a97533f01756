use std::sync::atomic::{AtomicU64, Ordering};

use super::RequestCounters;

/// Counts what others asked for in vain.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) undecodable: AtomicU64,
    pub(super) unauthorised: AtomicU64,
    pub(super) bad_tokens: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> RequestCounters {
        RequestCounters {
            undecodable: self.undecodable.load(Ordering::Relaxed),
            unauthorised: self.unauthorised.load(Ordering::Relaxed),
            bad_tokens: self.bad_tokens.load(Ordering::Relaxed),
        }
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
