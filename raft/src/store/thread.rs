//! The one thread that writes the database.
//!
//! Jobs are carried out in the order in which they were queued, votes among them: Raft may lose
//! data when a vote and a log write change places. Whatever waits in the queue goes into one
//! transaction, so that many clients share one flush (group commit). Callbacks run after it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use redb::{Database, Durability, ReadableDatabase, WriteTransaction};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::lock::DirLock;
use super::seal::Sealer;
use super::tables::{LOG, META, RawSnapshot, SNAPSHOT, SNAPSHOT_CHUNK, meta};
use crate::consensus::TypeConfig;

/// Jobs that may wait; who wants to queue another waits for room.
const QUEUE: usize = 4096;
/// Jobs that go into one transaction.
const BATCH_JOBS: usize = 1024;
/// Bytes that go into one transaction; one job more may be in it.
const BATCH_BYTES: usize = 8 << 20;
/// How long a commit index may wait for a transaction that has another reason. It is an
/// optimisation for restarts, so it does not pay for a flush of its own while writes go on.
const COMMITTED_LINGER: Duration = Duration::from_millis(20);

/// Something to be written.
pub(super) enum Job {
    /// Log entries, by index.
    Append {
        entries: Vec<(u64, Vec<u8>)>,
        flushed: IOFlushed<TypeConfig>,
    },
    /// Removes the entries after an index (all with `None`).
    Truncate { after: Option<u64> },
    /// Removes the entries up to an index and notes the last one's id.
    Purge { upto: u64, id: Vec<u8> },
    /// A named value, answered when it is on disk.
    Put {
        name: &'static str,
        value: Vec<u8>,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// The commit index, whenever convenient.
    Committed { id: Vec<u8> },
    /// A snapshot that takes the place of the one before, unless that one reaches further: the
    /// library builds one while it installs another.
    Snapshot {
        reaches: u64,
        meta: Vec<u8>,
        data: bytes::Bytes,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Reads the current snapshot back.
    ReadSnapshot {
        done: oneshot::Sender<io::Result<Option<RawSnapshot>>>,
    },
    /// Ends the thread once everything before is on disk.
    Stop,
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    jobs: Sender<(Job, Option<OwnedSemaphorePermit>)>,
    room: Arc<Semaphore>,
}

impl Queue {
    /// Queues a job, waiting for room.
    pub(super) async fn push(&self, job: Job) -> io::Result<()> {
        let permit = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .map_err(|_| stopped())?;
        self.jobs.send((job, Some(permit))).map_err(|_| stopped())
    }

    /// Queues a job and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Job,
    ) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        self.push(job(done)).await?;
        answer.await.map_err(|_| stopped())?
    }

    /// Asks the thread to end, without waiting.
    pub(super) fn stop(&self) {
        // A thread that has ended already needs no asking.
        let _ = self.jobs.send((Job::Stop, None));
    }
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the store is closed")
}

/// Starts the thread. It owns the database until it ends, and the claim on the directory as long,
/// so that no other agent finds the directory free before the last write is done.
pub(super) fn spawn(
    (database, sealer, claim): (Database, Sealer, Arc<DirLock>),
) -> io::Result<(Queue, JoinHandle<()>)> {
    let (sender, receiver) = channel();
    let writer = Writer {
        database,
        sealer,
        _claim: claim,
        committed: None,
        snapshot: 0,
        failed: None,
    };
    let thread = std::thread::Builder::new()
        .name("weft-store".to_owned())
        .spawn(move || writer.run(&receiver))?;
    let queue = Queue {
        jobs: sender,
        room: Arc::new(Semaphore::new(QUEUE)),
    };
    Ok((queue, thread))
}

type Queued = (Job, Option<OwnedSemaphorePermit>);

struct Writer {
    database: Database,
    sealer: Sealer,
    _claim: Arc<DirLock>,
    /// A commit index that is not on disk yet, and until when it may wait.
    committed: Option<(Vec<u8>, Instant)>,
    /// Index up to which the newest snapshot that was taken in since the start reaches.
    snapshot: u64,
    /// The first failure. Nothing is written after it: what is on disk is a consistent prefix.
    failed: Option<String>,
}

/// What is to be answered once the transaction is on disk.
enum Waiting {
    Flushed(IOFlushed<TypeConfig>),
    Done(oneshot::Sender<io::Result<()>>),
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Queued>) {
        let mut batch = VecDeque::new();
        loop {
            let first = match &self.committed {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some((_, until)) => {
                    jobs.recv_timeout(until.saturating_duration_since(Instant::now()))
                }
            };
            match first {
                Ok(first) => collect(first, jobs, &mut batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.finish(),
            }
            if self.work_off(&mut batch) {
                return self.finish();
            }
        }
    }

    /// Carries out what was collected; says whether to stop.
    fn work_off(&mut self, batch: &mut VecDeque<Queued>) -> bool {
        let mut stop = false;
        let mut writes = Vec::with_capacity(batch.len());
        let mut reads = Vec::new();
        let mut passed_over = Vec::new();
        let mut permits = Vec::with_capacity(batch.len());
        for (job, permit) in batch.drain(..) {
            permits.push(permit);
            match job {
                Job::Stop => stop = true,
                Job::Committed { id } => {
                    let until = match self.committed.take() {
                        Some((_, until)) => until,
                        None => Instant::now() + COMMITTED_LINGER,
                    };
                    self.committed = Some((id, until));
                }
                Job::ReadSnapshot { done } => reads.push(done),
                Job::Snapshot { reaches, done, .. } if reaches < self.snapshot => {
                    passed_over.push(done);
                }
                job => {
                    if let Job::Snapshot { reaches, .. } = job {
                        self.snapshot = reaches;
                    }
                    writes.push(job);
                }
            }
        }
        let overdue = self
            .committed
            .as_ref()
            .is_some_and(|(_, until)| *until <= Instant::now());
        if !writes.is_empty() || overdue {
            self.commit(writes);
        }
        for done in passed_over {
            // The asker may have given up.
            let _ = done.send(
                self.failed
                    .clone()
                    .map_or(Ok(()), |e| Err(io::Error::other(e))),
            );
        }
        for done in reads {
            let read = self.read_snapshot();
            // The asker may have given up.
            let _ = done.send(read);
        }
        stop
    }

    fn finish(mut self) {
        if self.committed.is_some() {
            self.commit(Vec::new());
        }
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        let mut waiting = Vec::with_capacity(jobs.len());
        let result = match &self.failed {
            Some(reason) => {
                waiting = jobs.into_iter().filter_map(waiting_of).collect();
                Err(reason.clone())
            }
            None => self
                .transact(jobs, &mut waiting)
                .map_err(|error| error.to_string()),
        };
        if let Err(reason) = &result
            && self.failed.is_none()
        {
            tracing::error!(%reason, "the control plane's store cannot be written");
            self.failed = Some(reason.clone());
        }
        self.committed = None;
        for waiter in waiting {
            let answer = result.clone().map_err(io::Error::other);
            match waiter {
                Waiting::Flushed(flushed) => flushed.io_completed(answer),
                // The asker may have given up.
                Waiting::Done(done) => drop(done.send(answer)),
            }
        }
    }

    fn transact(&self, jobs: Vec<Job>, waiting: &mut Vec<Waiting>) -> io::Result<()> {
        let mut first_error = None;
        let mut transaction = self.database.begin_write().map_err(io::Error::other)?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(io::Error::other)?;
        transaction.set_two_phase_commit(true);
        for job in jobs {
            if first_error.is_none() {
                first_error = self.write(&transaction, &job).err();
            }
            waiting.extend(waiting_of(job));
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        if let Some((id, _)) = &self.committed {
            self.put(&transaction, meta::COMMITTED, id)?;
        }
        transaction.commit().map_err(io::Error::other)
    }

    fn write(&self, transaction: &WriteTransaction, job: &Job) -> io::Result<()> {
        match job {
            Job::Append { entries, .. } => {
                let mut log = transaction.open_table(LOG).map_err(io::Error::other)?;
                for (index, entry) in entries {
                    let sealed = self.sealer.seal("log", *index, entry)?;
                    log.insert(*index, sealed.as_slice())
                        .map_err(io::Error::other)?;
                }
                Ok(())
            }
            Job::Truncate { after } => {
                let from = after.map_or(0, |index| index + 1);
                let mut log = transaction.open_table(LOG).map_err(io::Error::other)?;
                log.retain_in(from.., |_, _| false)
                    .map_err(io::Error::other)
            }
            Job::Purge { upto, id } => {
                let mut log = transaction.open_table(LOG).map_err(io::Error::other)?;
                log.retain_in(..=*upto, |_, _| false)
                    .map_err(io::Error::other)?;
                drop(log);
                self.put(transaction, meta::PURGED, id)
            }
            Job::Put { name, value, .. } => self.put(transaction, name, value),
            Job::Snapshot { meta, data, .. } => self.write_snapshot(transaction, meta, data),
            Job::Committed { .. } | Job::ReadSnapshot { .. } | Job::Stop => Ok(()),
        }
    }

    fn put(&self, transaction: &WriteTransaction, name: &str, value: &[u8]) -> io::Result<()> {
        let sealed = self.sealer.seal(name, 0, value)?;
        let mut table = transaction.open_table(META).map_err(io::Error::other)?;
        table
            .insert(name, sealed.as_slice())
            .map_err(io::Error::other)?;
        Ok(())
    }

    fn write_snapshot(
        &self,
        transaction: &WriteTransaction,
        snapshot_meta: &[u8],
        data: &[u8],
    ) -> io::Result<()> {
        let mut table = transaction.open_table(SNAPSHOT).map_err(io::Error::other)?;
        table.retain(|_, _| false).map_err(io::Error::other)?;
        let mut chunks = 0;
        for chunk in data.chunks(SNAPSHOT_CHUNK) {
            let sealed = self.sealer.seal("snapshot", chunks, chunk)?;
            table
                .insert(chunks, sealed.as_slice())
                .map_err(io::Error::other)?;
            chunks += 1;
        }
        drop(table);
        let mut named = chunks.to_be_bytes().to_vec();
        named.extend_from_slice(snapshot_meta);
        self.put(transaction, meta::SNAPSHOT, &named)
    }

    fn read_snapshot(&self) -> io::Result<Option<RawSnapshot>> {
        let transaction = self.database.begin_read().map_err(io::Error::other)?;
        super::tables::read_snapshot(&transaction, &self.sealer)
    }
}

fn collect(first: Queued, jobs: &Receiver<Queued>, batch: &mut VecDeque<Queued>) {
    let mut bytes = size(&first.0);
    batch.push_back(first);
    while batch.len() < BATCH_JOBS && bytes < BATCH_BYTES {
        let Ok(next) = jobs.try_recv() else { return };
        bytes += size(&next.0);
        batch.push_back(next);
    }
}

fn size(job: &Job) -> usize {
    match job {
        Job::Append { entries, .. } => entries.iter().map(|(_, bytes)| bytes.len()).sum(),
        Job::Snapshot { data, .. } => data.len(),
        _ => 0,
    }
}

fn waiting_of(job: Job) -> Option<Waiting> {
    match job {
        Job::Append { flushed, .. } => Some(Waiting::Flushed(flushed)),
        Job::Put { done, .. } | Job::Snapshot { done, .. } => Some(Waiting::Done(done)),
        Job::Truncate { .. }
        | Job::Purge { .. }
        | Job::Committed { .. }
        | Job::ReadSnapshot { .. }
        | Job::Stop => None,
    }
}
