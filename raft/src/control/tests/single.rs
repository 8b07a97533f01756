use super::*;
use crate::command::{Refusal, RefusalKind};
use crate::store::Store;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_manager_makes_a_cluster_and_has_it_again_after_a_restart() {
    let host = Host::first().await;
    let member = host.plane.membership().unwrap();
    let made = host.network("web").await.unwrap();
    assert_eq!(host.plane.with_view(|view| view.networks.len()), 2);
    host.plane.wait_revision(made.revision, LONG).await.unwrap();
    let before = host.plane.with_view(View::clone);

    let host = host.restarted().await;
    assert_eq!(host.plane.membership(), Some(member));
    assert!(
        host.revision() >= made.revision,
        "committed entries are applied at once"
    );
    until("leads again", || host.leads()).await;
    host.plane
        .with_view(|view| assert_eq!(view.networks, before.networks));
    let refused = host.network("web").await.unwrap_err();
    assert!(matches!(
        refused,
        ProposeError::Refused(Refusal {
            kind: RefusalKind::Conflict,
            ..
        })
    ));
    host.network("db").await.unwrap();
    host.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_vanishes_keeps_every_acknowledged_write() {
    let host = Host::first().await;
    let mut names = Vec::new();
    for number in 0..20 {
        let name = format!("n{number}");
        host.network(&name).await.unwrap();
        names.push(name);
    }
    // No shutdown: the tasks are cut off where they are.
    let Host { dir, plane } = host;
    drop(plane);
    let plane = reopened(dir.path()).await;
    let host = Host { dir, plane };
    until("all networks", || {
        host.plane.with_view(|view| {
            names
                .iter()
                .all(|name| view.networks.values().any(|network| network.name == *name))
        })
    })
    .await;
    host.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_on_the_directory_is_refused_with_the_first_ones_pid() {
    let host = Host::first().await;
    let error = ControlPlane::open(config(host.dir.path()))
        .await
        .map(drop)
        .unwrap_err();
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    host.network("still-works").await.unwrap();
    host.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_half_present_directory_is_refused_by_name_and_left_as_it_is() {
    let host = Host::first().await;
    host.network("web").await.unwrap();
    host.plane.shutdown().await;
    let path = host.dir.path().join(Store::FILE);
    let good = std::fs::read(&path).unwrap();
    let refused = async |file: &str| {
        let before = listing(host.dir.path());
        let error = ControlPlane::open(config(host.dir.path()))
            .await
            .map(drop)
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(file) && text.contains("restore"), "{text}");
        assert_eq!(listing(host.dir.path()), before);
    };
    std::fs::write(&path, &good[..good.len() / 3]).unwrap();
    refused(Store::FILE).await;
    std::fs::remove_file(&path).unwrap();
    refused(Store::FILE).await;
    std::fs::write(&path, &good).unwrap();
    for file in ["seal.key", "member", "node.crt"] {
        let file_path = host.dir.path().join(file);
        let kept = std::fs::read(&file_path).unwrap();
        std::fs::remove_file(&file_path).unwrap();
        refused(file).await;
        std::fs::write(&file_path, b"not what was written").unwrap();
        refused(file).await;
        std::fs::write(&file_path, kept).unwrap();
    }
    let plane = reopened(host.dir.path()).await;
    assert_eq!(plane.with_view(|view| view.networks.len()), 2);
    plane.shutdown().await;
}

fn listing(dir: &Path) -> Vec<(std::ffi::OsString, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .filter(|entry| entry.file_name() != "agent.lock")
        .map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_make_no_sense_are_refused_and_leave_nothing() {
    let host = Host::idle().await;
    let before = listing(host.dir.path());
    let request = InitRequest {
        data_path_port: 80,
        ..init_request()
    };
    let refused = host.plane.init(request).await.unwrap_err();
    assert!(matches!(refused, InitError::Refused(_)), "{refused}");
    assert_eq!(listing(host.dir.path()), before);
    assert_eq!(host.plane.membership(), None);
    let none = host.network("web").await.unwrap_err();
    assert!(matches!(none, ProposeError::NotMember));
    host.plane.init(init_request()).await.unwrap();
    let twice = host.plane.init(init_request()).await.unwrap_err();
    assert!(matches!(twice, InitError::AlreadyMember { .. }), "{twice}");
    host.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_manager_leaves_by_force_only_and_may_start_anew() {
    let host = Host::first().await;
    let first = host.plane.membership().unwrap();
    let mut items = host.plane.subscribe();
    assert!(items.next().await.unwrap().revision() > 0);
    assert!(matches!(
        host.plane.leave(false).await,
        Err(LeaveError::Manager { left: 0 })
    ));
    host.network("web").await.unwrap();
    host.plane.leave(true).await.unwrap();
    assert_eq!(host.plane.membership(), None);
    assert_eq!(host.plane.with_view(View::clone), View::default());
    assert!(listing(host.dir.path()).is_empty());
    let second = host.plane.init(init_request()).await.unwrap();
    assert_ne!(second.cluster, first.cluster);
    // Who followed from before sees the new cluster.
    let seen = async {
        while let Some(item) = items.next().await {
            if let crate::watch::WatchItem::Snapshot(view) = item
                && view
                    .cluster
                    .as_ref()
                    .is_some_and(|cluster| cluster.id == second.cluster)
            {
                return true;
            }
        }
        false
    };
    assert!(tokio::time::timeout(LONG, seen).await.unwrap());
    host.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_folded_into_snapshots_and_a_restart_starts_from_one() {
    let host = Host::first_with(|config| {
        config.compaction = Compaction {
            snapshot_every: 50,
            keep: 10,
        };
    })
    .await;
    for number in 0..120 {
        host.network(&format!("n{number}")).await.unwrap();
    }
    until("a snapshot and a short log", || {
        let store = host.plane.status().store.unwrap();
        store.snapshot > 0 && store.purged > 0
    })
    .await;
    let host = host.restarted().await;
    assert_eq!(host.plane.with_view(|view| view.networks.len()), 121);
    host.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_the_state_is_readable_in_the_files() {
    let host = Host::first_with(|config| {
        config.compaction = Compaction {
            snapshot_every: 5,
            keep: 0,
        };
    })
    .await;
    for number in 0..20 {
        host.network(&format!("confidential-{number}"))
            .await
            .unwrap();
    }
    let token: JoinToken = host
        .plane
        .token(Role::Manager)
        .await
        .unwrap()
        .parse()
        .unwrap();
    until("a snapshot", || {
        host.plane.status().store.unwrap().snapshot > 5
    })
    .await;
    host.plane.shutdown().await;
    for (name, bytes) in listing(host.dir.path()) {
        let holds = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        assert!(!holds(b"confidential"), "{name:?}");
        assert!(!holds(&token.secret), "{name:?}");
    }
}
