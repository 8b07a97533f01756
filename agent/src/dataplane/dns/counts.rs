//! What was asked and answered so far.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use weft_lb::dns::Kind;

/// Numbers of queries, since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DnsCounts {
    /// Answered with records.
    pub(crate) answered: u64,
    /// Of names that have no such records.
    pub(crate) no_data: u64,
    /// Of names that do not exist.
    pub(crate) no_name: u64,
    /// Refused for what they are.
    pub(crate) refused: u64,
    /// Not understood.
    pub(crate) malformed: u64,
    /// Answered by others.
    pub(crate) forwarded: u64,
    /// For others, none of whom has answered.
    pub(crate) failed: u64,
    /// For others, refused because there were too many.
    pub(crate) limited: u64,
    /// What others sent that was no answer.
    pub(crate) strays: u64,
}

/// Counts.
#[derive(Debug, Default)]
pub(super) struct Counter {
    answered: AtomicU64,
    no_data: AtomicU64,
    no_name: AtomicU64,
    refused: AtomicU64,
    pub(super) malformed: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) limited: AtomicU64,
    pub(super) strays: AtomicU64,
}

impl Counter {
    /// Counts an answer of ours.
    pub(super) fn answer(&self, kind: Kind) {
        add(match kind {
            Kind::Answered => &self.answered,
            Kind::NoData => &self.no_data,
            Kind::NoName => &self.no_name,
            Kind::Refused => &self.refused,
            Kind::Malformed => &self.malformed,
        });
    }

    /// What was counted.
    pub(super) fn read(&self) -> DnsCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        DnsCounts {
            answered: read(&self.answered),
            no_data: read(&self.no_data),
            no_name: read(&self.no_name),
            refused: read(&self.refused),
            malformed: read(&self.malformed),
            forwarded: read(&self.forwarded),
            failed: read(&self.failed),
            limited: read(&self.limited),
            strays: read(&self.strays),
        }
    }
}

/// One more.
pub(super) fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
