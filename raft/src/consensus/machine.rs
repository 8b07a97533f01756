use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::{Entry, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};
use crate::codec;
use crate::state::State;
use crate::store::SnapshotStore;
use crate::watch::WatchHub;

pub(crate) type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, Bytes>;

/// The replicated state as the Raft library drives it. It is in memory; a restart rebuilds it
/// from the last snapshot and the log up to what is known to be committed.
#[derive(Debug)]
pub(crate) struct Machine {
    replica: Replica,
    hub: WatchHub,
    snapshots: SnapshotStore,
    /// Up to where the snapshot on disk reaches.
    saved: Option<LogId>,
}

/// The state, to be looked at by others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
}

impl Replica {
    /// Looks at the state. `look` must be short: applying waits for it.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.read().state)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machine {
    /// An empty machine that tells `hub` what it changes.
    pub(crate) fn new(replica: Replica, hub: WatchHub, snapshots: SnapshotStore) -> Self {
        Self {
            replica,
            hub,
            snapshots,
            saved: None,
        }
    }

    fn apply_one(&self, entry: &Entry) -> Reply {
        let index = entry.log_id.index;
        let mut inner = self.replica.write();
        inner.applied = Some(entry.log_id);
        let (reply, changes) = match &entry.payload {
            EntryPayload::Blank => {
                inner.state.advance(index);
                (Reply(None), Vec::new())
            }
            EntryPayload::Normal(payload) => {
                let (outcome, changes) = inner.state.apply(index, &payload.0);
                (Reply(Some(outcome)), changes)
            }
            EntryPayload::Membership(membership) => {
                inner.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                inner.state.advance(index);
                (Reply(None), Vec::new())
            }
        };
        drop(inner);
        self.hub.publish(index, changes.into());
        reply
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let inner = self.replica.read();
        Ok((inner.applied, inner.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let reply = self.apply_one(&entry);
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let inner = self.replica.read();
        Builder {
            state: inner.state.clone(),
            meta: SnapshotMeta {
                last_log_id: inner.applied,
                last_membership: inner.membership.clone(),
            },
            snapshots: self.snapshots.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> io::Result<()> {
        let encoded = data.clone();
        let state = tokio::task::spawn_blocking(move || codec::decode::<State>(&encoded))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        // At start this is the snapshot that was just read from the disk.
        let known = self.snapshots.load().await?;
        if known.is_none_or(|(known, _)| known.last_log_id != meta.last_log_id) {
            self.snapshots.save(meta, data).await?;
        }
        self.saved = meta.last_log_id;
        let view = state.view().clone();
        {
            let mut inner = self.replica.write();
            inner.state = state;
            inner.applied = meta.last_log_id;
            inner.membership = meta.last_membership.clone();
        }
        self.hub.reset(view);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let loaded = self.snapshots.load().await?;
        Ok(loaded.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// A copy of the state (of its maps; rows are shared) on its way to the disk.
#[derive(Debug)]
pub(crate) struct Builder {
    state: State,
    meta: SnapshotMeta,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let state = std::mem::take(&mut self.state);
        let data = tokio::task::spawn_blocking(move || codec::encode(&state))
            .await
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let data = Bytes::from(data);
        self.snapshots.save(&self.meta, data.clone()).await?;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: data,
        })
    }
}
