use std::collections::VecDeque;
use std::sync::Arc;

use super::WatchLimits;
use crate::model::{Change, Revision};
use crate::state::cost;

/// The most recent changes, oldest first, within [`WatchLimits`].
#[derive(Debug)]
pub(super) struct Ring {
    entries: VecDeque<Entry>,
    // Every change after this revision is in `entries`.
    floor: Revision,
    bytes: usize,
    limits: WatchLimits,
}

#[derive(Debug)]
struct Entry {
    revision: Revision,
    changes: Arc<[Change]>,
    bytes: usize,
}

impl Ring {
    pub(super) fn new(floor: Revision, limits: WatchLimits) -> Self {
        Self {
            entries: VecDeque::new(),
            floor,
            bytes: 0,
            limits,
        }
    }

    /// Forgets everything; history begins after `floor`.
    pub(super) fn restart(&mut self, floor: Revision) {
        *self = Self::new(floor, self.limits);
    }

    /// Appends what led to `revision`, which is newer than everything here.
    pub(super) fn push(&mut self, revision: Revision, changes: Arc<[Change]>) {
        if changes.is_empty() {
            return;
        }
        let bytes = changes.iter().map(cost::of_change).sum();
        self.bytes += bytes;
        self.entries.push_back(Entry {
            revision,
            changes,
            bytes,
        });
        while self.entries.len() > 1
            && (self.entries.len() > self.limits.entries || self.bytes > self.limits.bytes)
        {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.bytes;
                self.floor = oldest.revision;
            }
        }
    }

    /// Whether every change after `position` is here.
    pub(super) fn reaches(&self, position: Revision) -> bool {
        position >= self.floor
    }

    /// The first entry after `position`.
    pub(super) fn after(&self, position: Revision) -> Option<(Revision, Arc<[Change]>)> {
        let next = self
            .entries
            .partition_point(|entry| entry.revision <= position);
        self.entries
            .get(next)
            .map(|entry| (entry.revision, entry.changes.clone()))
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }
}
