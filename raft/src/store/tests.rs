use std::io;
use std::sync::Arc;

use openraft::StorageError;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};

use super::*;
use crate::command::{Command, Proposal};
use crate::consensus::{LogId, Machine, Payload, Replica, TypeConfig, Vote};
use crate::model::View;
use crate::watch::{WatchHub, WatchLimits};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, (tempfile::TempDir, Store)> for Builder {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Store), LogStore, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path(), header(), claim(dir.path())).unwrap();
        let hub = WatchHub::new(View::default(), WatchLimits::default());
        let machine = Machine::new(Replica::default(), hub, store.snapshots());
        let log = store.log();
        Ok(((dir, store), log, machine))
    }
}

fn header() -> Header {
    Header {
        node: NodeId::new([1; 10]),
        cluster: ClusterId::new([2; 10]),
        raft_id: 1,
    }
}

/// The claim of each store's own: these tests open one directory at a time.
fn claim(dir: &Path) -> Arc<DirLock> {
    let own = dir.join("claim");
    Arc::new(DirLock::acquire(&own).unwrap())
}

fn reopen(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, header().node, header().cluster, claim(dir))
}

fn entry(index: u64) -> Entry {
    let proposal = Proposal {
        request: [index as u8; 16],
        time_ms: index,
        command: Command::RemoveNode {
            id: NodeId::new([index as u8; 10]),
        },
    };
    let payload = EntryPayload::Normal(Payload(Arc::new(proposal)));
    Entry {
        log_id: id(index),
        payload,
    }
}

fn id(index: u64) -> LogId {
    LogId::new(*Vote::new_committed(1, 1).leader_id(), index)
}

async fn append(log: &mut LogStore, indexes: std::ops::Range<u64>) -> io::Result<()> {
    let (flushed, done) = TypeConfig::oneshot();
    log.append(indexes.map(entry), IOFlushed::signal(flushed))
        .await?;
    done.await.map_err(io::Error::other)?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_and_state_machine_keep_the_raft_librarys_contract() {
    Suite::test_all(Builder).await.unwrap();
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), header(), claim(dir.path())).unwrap();
    let mut log = store.log();
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    append(&mut log, 0..100).await.unwrap();
    log.truncate_after(Some(id(89))).await.unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(id(9)),
        ..SnapshotMeta::default()
    };
    store.snapshots().save(&meta, Bytes::new()).await.unwrap();
    log.purge(id(9)).await.unwrap();
    append(&mut log, 90..95).await.unwrap();
    // A crash: the files as they are, copied while the store is open.
    let copy = tempfile::tempdir().unwrap();
    for name in [Store::FILE, Sealer::FILE] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let again = reopen(copy.path()).unwrap();
    let mut read = again.log();
    assert_eq!(
        read.read_vote().await.unwrap(),
        Some(Vote::new_committed(1, 1))
    );
    let state = read.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(id(9)), Some(id(94)))
    );
    let entries = read.try_get_log_entries(..).await.unwrap();
    assert_eq!(entries, (10..95).map(entry).collect::<Vec<_>>());
    again.close().await;
    store.close().await;
}

#[tokio::test]
async fn many_appends_share_few_transactions_and_stay_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), header(), claim(dir.path())).unwrap();
    let mut log = store.log();
    let mut waiting = Vec::new();
    for index in 0..500 {
        let (flushed, done) = TypeConfig::oneshot();
        log.append([entry(index)], IOFlushed::signal(flushed))
            .await
            .unwrap();
        let read = log.try_get_log_entries(index..=index).await.unwrap();
        assert_eq!(read, [entry(index)], "readable before it is flushed");
        waiting.push(done);
    }
    for done in waiting {
        done.await.unwrap().unwrap();
    }
    store.close().await;
    drop(store);
    let again = reopen(dir.path()).unwrap();
    assert_eq!(
        again.log().try_get_log_entries(..).await.unwrap().len(),
        500
    );
    again.close().await;
}

#[tokio::test]
async fn a_snapshot_is_read_back_whole_and_replaces_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), header(), claim(dir.path())).unwrap();
    let snapshots = store.snapshots();
    assert!(snapshots.load().await.unwrap().is_none());
    for (index, length) in [(5, 3 * tables::SNAPSHOT_CHUNK + 7), (6, 0), (7, 10)] {
        let meta = SnapshotMeta {
            last_log_id: Some(id(index)),
            ..SnapshotMeta::default()
        };
        let data = Bytes::from(vec![index as u8; length]);
        snapshots.save(&meta, data.clone()).await.unwrap();
        assert_eq!(snapshots.load().await.unwrap(), Some((meta, data)));
    }
    store.close().await;
}

#[tokio::test]
async fn a_store_that_is_not_what_was_written_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), header(), claim(dir.path())).unwrap();
    let mut log = store.log();
    append(&mut log, 0..50).await.unwrap();
    store.close().await;
    drop((log, store));
    let path = dir.path().join(Store::FILE);
    let key = dir.path().join(Sealer::FILE);
    let (good, good_key) = (std::fs::read(&path).unwrap(), std::fs::read(&key).unwrap());

    let refused = |file: &Path, what: &str| {
        let error = reopen(dir.path()).map(drop).unwrap_err().to_string();
        assert!(
            error.contains(&file.display().to_string()),
            "{what}: {error}"
        );
        assert!(error.contains("restore"), "{what}: {error}");
        assert!(!error.contains('\n'), "{what}: {error}");
    };
    std::fs::write(&path, b"").unwrap();
    refused(&path, "empty");
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    refused(&path, "cut in half");
    std::fs::write(&path, vec![0xa5; good.len()]).unwrap();
    refused(&path, "garbage");
    std::fs::remove_file(&path).unwrap();
    refused(&path, "missing");
    std::fs::write(&path, &good).unwrap();
    std::fs::write(&key, [7; 32]).unwrap();
    refused(&path, "another key");
    std::fs::write(&key, b"short").unwrap();
    refused(&key, "short key");
    std::fs::remove_file(&key).unwrap();
    refused(&key, "missing key");
    std::fs::write(&key, &good_key).unwrap();
    let other = Store::open(
        dir.path(),
        NodeId::new([9; 10]),
        header().cluster,
        claim(dir.path()),
    );
    assert!(matches!(other, Err(StoreError::Foreign { .. })));
    reopen(dir.path()).unwrap().close().await;
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_or_harmless_but_never_a_panic_or_another_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), header(), claim(dir.path())).unwrap();
    let mut log = store.log();
    append(&mut log, 0..50).await.unwrap();
    store.close().await;
    drop((log, store));
    let path = dir.path().join(Store::FILE);
    let good = std::fs::read(&path).unwrap();
    let expected: Vec<_> = (0..50).map(entry).collect();
    let (mut noticed, step) = (0, (good.len() / 200).max(1));
    for at in (0..good.len()).step_by(step).chain(0..64) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(&path, &bad).unwrap();
        match reopen(dir.path()) {
            Ok(store) => {
                let entries = store.log().try_get_log_entries(..).await.unwrap();
                assert_eq!(entries, expected, "byte {at}");
                store.close().await;
            }
            Err(error) => {
                assert!(
                    error.to_string().contains(Store::FILE),
                    "byte {at}: {error}"
                );
                noticed += 1;
            }
        }
    }
    assert!(noticed > 0);
}

#[tokio::test]
async fn a_snapshot_never_takes_the_place_of_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), header(), claim(dir.path())).unwrap();
    let snapshots = store.snapshots();
    let meta = |index| SnapshotMeta {
        last_log_id: Some(id(index)),
        ..SnapshotMeta::default()
    };
    // One from the leader is installed while one of the own state is still being built.
    let newer = Bytes::from_static(b"newer");
    snapshots.save(&meta(9), newer.clone()).await.unwrap();
    let older = Bytes::from_static(b"older");
    snapshots.save(&meta(5), older).await.unwrap();
    assert_eq!(snapshots.load().await.unwrap(), Some((meta(9), newer)));
    store.close().await;
}

#[tokio::test]
async fn a_log_that_begins_after_the_snapshot_ends_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path(), header(), claim(dir.path())).unwrap();
    let mut log = store.log();
    log.purge(id(5)).await.unwrap();
    store.close().await;
    drop((log, store));
    let error = reopen(dir.path()).unwrap_err().to_string();
    assert!(error.contains("raft.redb is damaged"), "{error}");
}
