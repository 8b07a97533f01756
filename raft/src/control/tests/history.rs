use super::cluster::{shut, voters};
use super::*;
use crate::transport::{Limits, Transport};
use crate::watch::WatchItem;
use crate::wire::{Blob, JoinAsk};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_missed_a_thousand_changes_catches_up_by_deltas() {
    let host = Host::first().await;
    let worker = Host::joined(&host, Role::Worker).await;
    let kinds = catch_up(&host, &worker, 1000).await;
    assert!(
        !kinds.is_empty() && !kinds.contains(&"snapshot"),
        "{kinds:?}"
    );
    converged(&[&host, &worker]).await;
    shut([host, worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_is_too_far_behind_catches_up_by_a_snapshot() {
    let host = Host::first_with(|config| config.watch.entries = 50).await;
    let worker = Host::joined(&host, Role::Worker).await;
    let kinds = catch_up(&host, &worker, 200).await;
    assert_eq!(kinds.first(), Some(&"snapshot"), "{kinds:?}");
    converged(&[&host, &worker]).await;
    shut([host, worker]).await;
}

/// Stops a worker's session through `count` changes, then lets it follow again; says what its
/// own followers were given.
async fn catch_up(host: &Host, worker: &Host, count: usize) -> Vec<&'static str> {
    converged(&[host, worker]).await;
    let running = worker.plane.inner.running().unwrap();
    running.cut().await;
    let behind = worker.revision();
    let mut items = worker.plane.inner.hub.subscribe(Some(behind));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 1..=8 {
        let (plane, node) = (host.plane.clone(), host.id());
        tasks.spawn(async move {
            for number in 0..count / 8 {
                let change = crate::command::NodeChange {
                    // Every one is a change.
                    underlay_mtu: Some(task * 1000 + u32::try_from(number).unwrap()),
                    ..Default::default()
                };
                let command = Command::UpdateNode {
                    id: node,
                    change: Box::new(change),
                };
                plane.propose(command, LONG).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let last = host.revision();
    assert!(last >= behind + count as u64);
    assert_eq!(worker.revision(), behind);
    running.follow_again();
    worker.plane.wait_revision(last, LONG).await.unwrap();
    let mut kinds = Vec::new();
    while let Some(item) = items.try_next() {
        kinds.push(match item {
            WatchItem::Snapshot(_) => "snapshot",
            WatchItem::Changes { .. } => "changes",
        });
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_that_was_cut_short_is_taken_up_as_the_same_node() {
    let host = Host::first().await;
    let joiner = Host::idle().await;
    let request = host.join_request(Role::Manager).await;
    // The cluster admitted the node, which crashed before it had the answer.
    let key = local::begin_joining(joiner.dir.path()).unwrap();
    let transport = Transport::bind(LOOPBACK, Limits::default()).unwrap();
    let facts = facts();
    let ask = Request::Join(Box::new(JoinAsk {
        secret: Secret(request.token.secret),
        csr: Blob(key.csr().unwrap()),
        name: facts.name,
        addr: transport.local_addr(),
        data_path_addr: facts.data_path_addr,
        underlay_mtu: facts.underlay_mtu,
        host_routes: Vec::new(),
        availability: Availability::Active,
        version: "0".to_owned(),
    }));
    let body = codec::encode(&ask).unwrap();
    let digest = request.token.digest;
    let answer = transport
        .call_pinned(host.addr(), &digest, body, LONG)
        .await
        .unwrap();
    let answer: Response = codec::decode(&answer).unwrap();
    let Response::Joined(joined) = answer else {
        panic!("{answer:?}")
    };
    transport.close().await;

    let Host { dir, plane } = joiner;
    drop(plane);
    let plane = reopened(dir.path()).await;
    let joiner = Host { dir, plane };
    assert_eq!(joiner.plane.membership(), None);
    let member = joiner.plane.join(request).await.unwrap();
    assert_eq!(member.node, key.node_id());
    until("two voters", || voters(&host) == 2).await;
    converged(&[&host, &joiner]).await;
    host.plane.with_view(|view| {
        assert_eq!(view.nodes.len(), 2);
        assert_eq!(view.nodes[&member.node].raft_id, joined.raft_id);
        assert_eq!(view.nodes[&member.node].addr, joiner.addr());
    });
    shut([host, joiner]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manager_that_joins_a_long_history_starts_from_a_snapshot() {
    let host = Host::first_with(|config| {
        config.compaction = Compaction {
            snapshot_every: 50,
            keep: 5,
        };
    })
    .await;
    for number in 0..150 {
        host.network(&format!("n{number}")).await.unwrap();
    }
    until("the log is cut", || {
        host.plane.status().store.unwrap().purged > 50
    })
    .await;
    let second = Host::joined(&host, Role::Manager).await;
    converged(&[&host, &second]).await;
    until("two voters", || voters(&host) == 2).await;
    assert!(second.plane.status().store.unwrap().snapshot > 0);
    let second = second.restarted().await;
    assert_eq!(second.plane.with_view(|view| view.networks.len()), 151);
    second.network("by-the-second").await.unwrap();
    shut([host, second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leave_that_was_cut_short_is_finished_at_the_next_start() {
    let host = Host::first().await;
    host.plane.shutdown().await;
    std::fs::write(host.dir.path().join("leaving"), b"").unwrap();
    let plane = reopened(host.dir.path()).await;
    assert_eq!(plane.membership(), None);
    let left: Vec<_> = std::fs::read_dir(host.dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the lock file: {left:?}");
    plane.init(init_request()).await.unwrap();
    plane.shutdown().await;
}
