//! Following the replicated state by revision.
//!
//! A [`WatchHub`] owns the current [`View`] of one node and a bounded ring of the changes that
//! led to it, under one lock: a snapshot and the deltas after it can therefore never leave a gap.
//! Managers feed it from the state machine, workers from their session; what is local follows it
//! by [`WatchHub::subscribe`].
//!
//! Nothing is queued per subscriber. A [`Subscription`] holds a position and reads the shared ring
//! at its own pace; one that the ring has run away from is given the view as a whole and goes on
//! from there. The view is handed out as an [`Arc`] and copied (its maps, not its rows) only
//! when it changes while somebody still holds it.

mod ring;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use crate::model::{Change, Revision, View};
use ring::Ring;

/// What a subscriber is given. Revisions strictly increase, except that a snapshot of another
/// cluster starts anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Everything: replaces what the subscriber has.
    Snapshot(Arc<View>),
    /// What led from the previous item's revision to this one.
    Changes {
        /// The revision reached.
        revision: Revision,
        /// Changed rows; none when log entries changed none.
        changes: Arc<[Change]>,
    },
}

impl WatchItem {
    /// The revision that a follower has reached with this item.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Snapshot(view) => view.revision,
            Self::Changes { revision, .. } => *revision,
        }
    }
}

/// How much history a hub keeps for subscribers to resume from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchLimits {
    /// Revisions with changes.
    pub entries: usize,
    /// Approximate memory of those changes in bytes. The newest entry is kept whatever it takes.
    pub bytes: usize,
}

impl Default for WatchLimits {
    /// 8,192 changes or 16 MiB: some minutes of heavy churn, less than the state itself.
    fn default() -> Self {
        Self {
            entries: 8192,
            bytes: 16 << 20,
        }
    }
}

/// The current view and its recent history; see the module. A cheap handle: clones share it.
#[derive(Clone, Debug)]
pub struct WatchHub {
    shared: Arc<RwLock<Shared>>,
    // Only wakes; what there is to read is found under the lock.
    tick: Arc<watch::Sender<()>>,
}

#[derive(Debug)]
struct Shared {
    view: Arc<View>,
    ring: Ring,
    // Counts clusters, so that a revision of the last one is not taken for a place in the ring.
    epoch: u64,
}

impl WatchHub {
    /// A hub that starts at `view`, without history.
    pub fn new(view: View, limits: WatchLimits) -> Self {
        let ring = Ring::new(view.revision, limits);
        Self {
            shared: Arc::new(RwLock::new(Shared {
                view: Arc::new(view),
                ring,
                epoch: 0,
            })),
            tick: Arc::new(watch::Sender::new(())),
        }
    }

    /// Takes in what a log entry changed; nothing, for one that only moves the revision. Returns
    /// whether it was news: a revision that is already reflected is ignored.
    pub fn publish(&self, revision: Revision, changes: Arc<[Change]>) -> bool {
        {
            let mut shared = self.write();
            if revision <= shared.view.revision {
                return false;
            }
            Arc::make_mut(&mut shared.view).apply(revision, &changes);
            shared.ring.push(revision, changes);
        }
        self.tick.send_replace(());
        true
    }

    /// Replaces the view as a whole: a snapshot was installed, or the node joined or left a
    /// cluster. Every subscriber that is behind is given it. Returns whether it was news: within
    /// one cluster a view that is not newer is ignored.
    pub fn reset(&self, view: View) -> bool {
        {
            let mut shared = self.write();
            let cluster = |view: &View| view.cluster.as_ref().map(|cluster| cluster.id);
            if cluster(&view) != cluster(&shared.view) {
                shared.epoch += 1;
            } else if view.revision <= shared.view.revision {
                return false;
            }
            shared.ring.restart(view.revision);
            shared.view = Arc::new(view);
        }
        self.tick.send_replace(());
        true
    }

    /// The current view. While it is held, the next change costs a copy of the view's maps: for
    /// a short look use [`Self::with_view`].
    pub fn view(&self) -> Arc<View> {
        self.read().view.clone()
    }

    /// Looks at the current view in place. Changes wait meanwhile: `look` must be short and must
    /// not call the hub.
    pub fn with_view<R>(&self, look: impl FnOnce(&View) -> R) -> R {
        look(&self.read().view)
    }

    /// The current view's revision.
    pub fn revision(&self) -> Revision {
        self.read().view.revision
    }

    /// Resolves once the view reflects `revision`. Has no time limit of its own.
    pub async fn wait_revision(&self, revision: Revision) {
        let mut tick = self.tick.subscribe();
        while self.revision() < revision {
            if tick.changed().await.is_err() {
                return;
            }
        }
    }

    /// Follows from `from`, the revision that the subscriber reflects: by deltas as long as the
    /// ring reaches back that far, else by one snapshot first. Without `from` by a snapshot. A
    /// `from` that is still to come is waited for.
    pub fn subscribe(&self, from: impl Into<Option<Revision>>) -> Subscription {
        Subscription {
            shared: self.shared.clone(),
            tick: self.tick.subscribe(),
            position: from.into(),
            epoch: self.read().epoch,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shared> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One follower of a [`WatchHub`]; holds a position, no items.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<RwLock<Shared>>,
    tick: watch::Receiver<()>,
    // `None`: nothing reflected yet.
    position: Option<Revision>,
    epoch: u64,
}

impl Subscription {
    /// The next item; `None` once the hub is gone and everything was read. May be cancelled
    /// without losing anything.
    pub async fn next(&mut self) -> Option<WatchItem> {
        loop {
            // Before looking: what is published between the look and the wait wakes the wait.
            self.tick.borrow_and_update();
            if let Some(item) = self.try_next() {
                return Some(item);
            }
            self.tick.changed().await.ok()?;
        }
    }

    /// Waits until a node's row may have changed, passing over everything else; `None` when there
    /// will be no more changes. May be cancelled without losing anything.
    pub(crate) async fn next_node_change(&mut self) -> Option<()> {
        loop {
            let told = match self.next().await? {
                WatchItem::Snapshot(_) => true,
                WatchItem::Changes { changes, .. } => changes
                    .iter()
                    .any(|change| matches!(change, Change::Node(_) | Change::NodeGone(_))),
            };
            if told {
                return Some(());
            }
        }
    }

    /// The next item if there is one already.
    pub fn try_next(&mut self) -> Option<WatchItem> {
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        let item = shared.after(self.position.filter(|_| self.epoch == shared.epoch))?;
        self.position = Some(item.revision());
        self.epoch = shared.epoch;
        Some(item)
    }

    /// The revision that the items given so far lead to; `None` before the first snapshot.
    pub fn position(&self) -> Option<Revision> {
        self.position
    }
}

impl Shared {
    fn after(&self, position: Option<Revision>) -> Option<WatchItem> {
        let Some(position) = position.filter(|p| self.ring.reaches(*p)) else {
            return Some(WatchItem::Snapshot(self.view.clone()));
        };
        if let Some((revision, changes)) = self.ring.after(position) {
            return Some(WatchItem::Changes { revision, changes });
        }
        // Entries without changes take no place in the ring and are told of as one.
        (self.view.revision > position).then(|| WatchItem::Changes {
            revision: self.view.revision,
            changes: Arc::default(),
        })
    }
}

#[cfg(test)]
mod tests;
