use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::tables::meta;
use super::thread::{Job, Queue};
use crate::codec;
use crate::consensus::{Entry, LogId, TypeConfig, Vote};

/// Bytes of entries that replication sends in one request; well below the frame limit.
const READ_BYTES: usize = 2 << 20;

/// The Raft log. What is in it can be read at once, from memory; the database holds the same
/// once the append was answered. All of it is in memory because it is short: it is folded into
/// a snapshot every few thousand entries.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    shared: Arc<RwLock<Log>>,
    queue: Queue,
}

/// The log's content.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) entries: VecDeque<Stored>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
}

/// An entry and its encoded size.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) entry: Entry,
    pub(super) size: usize,
}

impl Log {
    pub(super) fn last_id(&self) -> Option<LogId> {
        self.entries
            .back()
            .map(|stored| stored.entry.log_id)
            .or(self.purged)
    }

    fn first_index(&self) -> u64 {
        self.entries
            .front()
            .map_or(0, |stored| stored.entry.index())
    }

    /// Positions in `entries` of the indexes in `range`.
    fn positions(&self, range: &impl RangeBounds<u64>) -> std::ops::Range<usize> {
        let first = self.first_index();
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let length = self.entries.len();
        let place = |index: u64| {
            usize::try_from(index.saturating_sub(first)).map_or(length, |at| at.min(length))
        };
        let start = place(from);
        start..place(to).max(start)
    }
}

impl LogStore {
    pub(super) fn new(log: Log, queue: Queue) -> Self {
        Self {
            shared: Arc::new(RwLock::new(log)),
            queue,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Log> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Log> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let log = self.read();
        let positions = log.positions(&range);
        Ok(log
            .entries
            .range(positions)
            .map(|stored| stored.entry.clone())
            .collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.read().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let log = self.read();
        let mut bytes = 0;
        let entries = log
            .entries
            .range(log.positions(&(start..end)))
            .take_while(|stored| {
                let first = bytes == 0;
                bytes += stored.size.max(1);
                first || bytes <= READ_BYTES
            });
        Ok(entries.map(|stored| stored.entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.read();
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: log.last_id(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let value = encoded(vote)?;
        self.queue
            .ask(|done| Job::Put {
                name: meta::VOTE,
                value,
                done,
            })
            .await?;
        self.write().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(id) = committed else { return Ok(()) };
        self.write().committed = committed;
        self.queue.push(Job::Committed { id: encoded(&id)? }).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.read().committed)
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut stored = Vec::new();
        let mut records = Vec::new();
        for entry in entries {
            let record = encoded(&entry)?;
            let size = record.len();
            records.push((entry.index(), record));
            stored.push(Stored { entry, size });
        }
        // In memory first: an entry that is on its way to the disk can be read already.
        self.write().entries.extend(stored);
        self.queue
            .push(Job::Append {
                entries: records,
                flushed,
            })
            .await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let after = last.map(|id| id.index);
        {
            let mut log = self.write();
            let keep = log.positions(&(..after.map_or(0, |index| index + 1))).end;
            log.entries.truncate(keep);
        }
        self.queue.push(Job::Truncate { after }).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        {
            let mut log = self.write();
            let gone = log.positions(&(..=upto.index)).end;
            log.entries.drain(..gone);
            if log.purged.is_none_or(|purged| purged < upto) {
                log.purged = Some(upto);
            }
        }
        self.queue
            .push(Job::Purge {
                upto: upto.index,
                id: encoded(&upto)?,
            })
            .await
    }
}

fn encoded<T: serde::Serialize>(value: &T) -> io::Result<Vec<u8>> {
    codec::encode(value).map_err(io::Error::other)
}
