//! What a manager keeps on disk: the Raft log, its vote and its snapshot, in one crash-safe
//! database (`raft.redb`), every record sealed with the node's own key (`seal.key`).
//!
//! One thread owns the database and writes it, see [`thread`]. Reading happens at start only,
//! when every record is opened and checked; afterwards the log is served from memory.

pub(crate) mod files;
mod lock;
mod log;
mod seal;
mod tables;
mod thread;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use redb::{Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use lock::LockError;

pub(crate) use lock::DirLock;
pub(crate) use log::LogStore;

use crate::codec;
use crate::consensus::{Entry, RaftId, SnapshotMeta};
use crate::model::{ClusterId, NodeId};
use log::{Log, Stored};
use seal::Sealer;
use tables::meta;
use thread::{Job, Queue};

/// Memory for database pages, bytes. The log is served from memory, so pages are only read to be
/// written.
const PAGE_CACHE: usize = 4 << 20;

/// Whose store it is. Checked at start, so that a store copied from another node is noticed
/// before it votes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The node that writes it.
    pub(crate) node: NodeId,
    /// The cluster that it is of.
    pub(crate) cluster: ClusterId,
    /// The node's id in the Raft membership.
    pub(crate) raft_id: RaftId,
}

/// Why a store could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file that belongs to the store is not there.
    #[error("{} is missing: {}", path.display(), advice(path))]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// A file of the store is not what was written.
    #[error("{} is damaged ({reason}): {}", path.display(), advice(path))]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What was noticed.
        reason: String,
    },
    /// The store is another node's or cluster's.
    #[error("{} belongs to another node or cluster: {}", path.display(), advice(path))]
    Foreign {
        /// Which.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn advice(path: &Path) -> String {
    let dir = path.parent().unwrap_or(path).display();
    format!("restore {dir} from a backup, or remove {dir} and join the cluster again")
}

/// An open store. The log is handed to Raft; the rest is for the state machine.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) header: Header,
    log: LogStore,
    queue: Queue,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Name of the database in a data directory.
    pub(crate) const FILE: &str = "raft.redb";

    /// Makes an empty store. What an attempt that was cut short left is replaced, so the caller
    /// must know that there is nothing to lose.
    pub(crate) fn create(
        dir: &Path,
        header: Header,
        claim: Arc<DirLock>,
    ) -> Result<Self, StoreError> {
        Self::wipe(dir)?;
        let path = dir.join(Self::FILE);
        let failed = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        let key_path = dir.join(Sealer::FILE);
        let sealer = Sealer::create(&key_path).map_err(|source| StoreError::Io {
            path: key_path.clone(),
            source,
        })?;
        let database = redb::Builder::new()
            .set_cache_size(PAGE_CACHE)
            .create(&path)
            .map_err(|error| failed(io::Error::other(error)))?;
        write_header(&database, &sealer, header).map_err(failed)?;
        private(&path)
            .and_then(|()| files::flush_directory_of(&path))
            .map_err(failed)?;
        Self::start(path, header, (database, sealer, claim), Log::default())
    }

    /// Opens a store and checks every record in it.
    pub(crate) fn open(
        dir: &Path,
        node: NodeId,
        cluster: ClusterId,
        claim: Arc<DirLock>,
    ) -> Result<Self, StoreError> {
        let path = dir.join(Self::FILE);
        let key_path = dir.join(Sealer::FILE);
        if !path.exists() {
            return Err(StoreError::Missing { path });
        }
        let sealer = match Sealer::load(&key_path) {
            Ok(Some(sealer)) => sealer,
            Ok(None) => return Err(StoreError::Missing { path: key_path }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(StoreError::Damaged {
                    path: key_path,
                    reason: error.to_string(),
                });
            }
            Err(source) => {
                return Err(StoreError::Io {
                    path: key_path,
                    source,
                });
            }
        };
        // The database library promises errors, not panics, for damaged files; this is for the
        // day on which it does not keep the promise.
        let read = catch_unwind(AssertUnwindSafe(|| read_all(&path, &sealer)));
        let (database, header, log) = match read {
            Ok(result) => result?,
            Err(_) => {
                let reason = "the database library gave up on it".to_owned();
                return Err(StoreError::Damaged { path, reason });
            }
        };
        if header.node != node || header.cluster != cluster {
            return Err(StoreError::Foreign { path });
        }
        Self::start(path, header, (database, sealer, claim), log)
    }

    /// Whether any file of a store is in `dir`.
    pub(crate) fn is_present(dir: &Path) -> bool {
        dir.join(Self::FILE).exists() || dir.join(Sealer::FILE).exists()
    }

    /// Removes the files of a store.
    pub(crate) fn wipe(dir: &Path) -> Result<(), StoreError> {
        for name in [Self::FILE, Sealer::FILE] {
            let path = dir.join(name);
            files::remove(&path).map_err(|source| StoreError::Io { path, source })?;
        }
        Ok(())
    }

    fn start(
        path: PathBuf,
        header: Header,
        owned: (Database, Sealer, Arc<DirLock>),
        log: Log,
    ) -> Result<Self, StoreError> {
        let (queue, thread) =
            thread::spawn(owned).map_err(|source| StoreError::Io { path, source })?;
        Ok(Self {
            header,
            log: LogStore::new(log, queue.clone()),
            queue,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The log, for Raft.
    pub(crate) fn log(&self) -> LogStore {
        self.log.clone()
    }

    /// The way to the snapshot, for the state machine.
    pub(crate) fn snapshots(&self) -> SnapshotStore {
        SnapshotStore {
            queue: self.queue.clone(),
        }
    }

    /// Ends the thread after everything queued is on disk.
    pub(crate) async fn close(&self) {
        self.queue.stop();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && tokio::task::spawn_blocking(move || thread.join())
                .await
                .is_err()
        {
            tracing::warn!("the store's thread could not be waited for");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.stop();
    }
}

/// Keeps the one current snapshot.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotStore {
    queue: Queue,
}

impl SnapshotStore {
    /// Replaces the snapshot; returns when it is on disk. One that does not reach as far as the
    /// one before is passed over: the log may be gone up to where that one reaches.
    pub(crate) async fn save(&self, described: &SnapshotMeta, data: Bytes) -> io::Result<()> {
        let meta = codec::encode(described).map_err(io::Error::other)?;
        let reaches = described.last_log_id.map_or(0, |id| id.index);
        self.queue
            .ask(|done| Job::Snapshot {
                reaches,
                meta,
                data,
                done,
            })
            .await
    }

    /// Reads the snapshot back.
    pub(crate) async fn load(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let Some((described, data)) = self.queue.ask(|done| Job::ReadSnapshot { done }).await?
        else {
            return Ok(None);
        };
        let meta = codec::decode(&described).map_err(io::Error::other)?;
        Ok(Some((meta, Bytes::from(data))))
    }
}

fn write_header(database: &Database, sealer: &Sealer, header: Header) -> io::Result<()> {
    let value = codec::encode(&header).map_err(io::Error::other)?;
    let sealed = sealer.seal(meta::HEADER, 0, &value)?;
    let mut transaction = database.begin_write().map_err(io::Error::other)?;
    transaction
        .set_durability(Durability::Immediate)
        .map_err(io::Error::other)?;
    transaction.set_two_phase_commit(true);
    {
        let mut table = transaction
            .open_table(tables::META)
            .map_err(io::Error::other)?;
        table
            .insert(meta::HEADER, sealed.as_slice())
            .map_err(io::Error::other)?;
    }
    transaction.commit().map_err(io::Error::other)
}

fn private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

fn read_all(path: &Path, sealer: &Sealer) -> Result<(Database, Header, Log), StoreError> {
    let damaged = |reason: String| StoreError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let database = redb::Builder::new()
        .set_cache_size(PAGE_CACHE)
        .open(path)
        .map_err(|error| match error {
            DatabaseError::Storage(redb::StorageError::Io(source))
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                StoreError::Io {
                    path: path.to_owned(),
                    source,
                }
            }
            DatabaseError::DatabaseAlreadyOpen => StoreError::Io {
                path: path.to_owned(),
                source: io::Error::other("another program has it open"),
            },
            other => damaged(other.to_string()),
        })?;
    let (header, log) = {
        let transaction = database
            .begin_read()
            .map_err(|error| damaged(error.to_string()))?;
        read_records(&transaction, sealer).map_err(|error| damaged(error.to_string()))?
    };
    Ok((database, header, log))
}

fn read_records(transaction: &ReadTransaction, sealer: &Sealer) -> io::Result<(Header, Log)> {
    let named = |name| tables::read_meta(transaction, sealer, name);
    let header = named(meta::HEADER)?.ok_or_else(|| invalid("it has no header"))?;
    let header = decoded(&header)?;
    let mut log = Log {
        vote: named(meta::VOTE)?
            .map(|bytes| decoded(&bytes))
            .transpose()?,
        committed: named(meta::COMMITTED)?
            .map(|bytes| decoded(&bytes))
            .transpose()?,
        purged: named(meta::PURGED)?
            .map(|bytes| decoded(&bytes))
            .transpose()?,
        ..Log::default()
    };
    let snapshot = match tables::read_snapshot(transaction, sealer)? {
        Some((described, _)) => decoded::<SnapshotMeta>(&described)?.last_log_id,
        None => None,
    };
    if log.purged > snapshot {
        return Err(invalid("the log begins after the snapshot ends"));
    }
    let mut next = log.purged.map_or(0, |id| id.index + 1);
    for (index, record) in tables::read_log(transaction, sealer)? {
        let entry: Entry = decoded(&record)?;
        if entry.index() != index || next != index {
            return Err(invalid("entries are missing from the log"));
        }
        next = index + 1;
        log.entries.push_back(Stored {
            entry,
            size: record.len(),
        });
    }
    if log.committed > log.last_id().max(snapshot) {
        return Err(invalid("the log ends before what was committed"));
    }
    Ok((header, log))
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    codec::decode(bytes).map_err(|error| invalid(&error.to_string()))
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_owned())
}

#[cfg(test)]
mod tests;
