use super::*;
use crate::command::Object;

pub(super) async fn three_managers() -> [Host; 3] {
    let first = Host::first().await;
    let second = Host::joined(&first, Role::Manager).await;
    let third = Host::joined(&first, Role::Manager).await;
    let hosts = [first, second, third];
    until("three voters", || voters(&hosts[0]) == 3).await;
    hosts
}

pub(super) fn voters(host: &Host) -> usize {
    let running = host.plane.inner.running().unwrap();
    running
        .group
        .as_ref()
        .unwrap()
        .metrics()
        .committed_membership_config
        .voter_ids()
        .count()
}

pub(super) async fn shut(hosts: impl IntoIterator<Item = Host>) {
    for host in hosts {
        host.plane.shutdown().await;
    }
}

pub(super) fn leader_of(hosts: &[Host]) -> Option<usize> {
    hosts.iter().position(Host::leads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn managers_and_workers_come_to_the_same_view_whoever_proposes() {
    let managers = three_managers().await;
    let workers = [
        Host::joined(&managers[0], Role::Worker).await,
        Host::joined(&managers[1], Role::Worker).await,
    ];
    let all: Vec<&Host> = managers.iter().chain(&workers).collect();
    for (number, host) in all.iter().enumerate() {
        let made = host.network(&format!("from-{number}")).await.unwrap();
        host.plane.wait_revision(made.revision, LONG).await.unwrap();
    }
    converged(&all).await;
    let view = all[0].plane.with_view(View::clone);
    assert_eq!(view.nodes.len(), 5);
    assert_eq!(view.networks.len(), 6);
    let names: std::collections::BTreeSet<_> = view.nodes.values().map(|n| &n.name).collect();
    assert_eq!(names.len(), 5);
    let mut ids: Vec<u64> = view
        .nodes
        .values()
        .map(|n| n.raft_id)
        .filter(|id| *id > 0)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    drop(all);
    shut(managers.into_iter().chain(workers)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_go_on_after_the_leader_has_gone() {
    let mut hosts = Vec::from(three_managers().await);
    let worker = Host::joined(&hosts[0], Role::Worker).await;
    let made = hosts[1].network("before").await.unwrap();
    worker
        .plane
        .wait_revision(made.revision, LONG)
        .await
        .unwrap();
    let at = leader_of(&hosts).unwrap();
    let Host { dir, plane } = hosts.remove(at);
    // No shutdown: it does not hand over.
    drop(plane);
    let began = Instant::now();
    worker.network("after-by-worker").await.unwrap();
    let by_worker = began.elapsed();
    let made = hosts[0].network("after-by-manager").await.unwrap();
    println!("writes again after {by_worker:?}");
    worker
        .plane
        .wait_revision(made.revision, LONG)
        .await
        .unwrap();

    // It comes back and has what it missed.
    let plane = reopened(dir.path()).await;
    let leader = Host { dir, plane };
    leader
        .plane
        .wait_revision(made.revision, LONG)
        .await
        .unwrap();
    hosts.push(leader);
    let all: Vec<&Host> = hosts.iter().chain([&worker]).collect();
    converged(&all).await;
    drop(all);
    shut(hosts.into_iter().chain([worker])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_quorum_changes_fail_with_the_count_and_reading_goes_on() {
    let hosts = three_managers().await;
    hosts[0].network("web").await.unwrap();
    converged(&hosts.iter().collect::<Vec<_>>()).await;
    let [first, second, third] = hosts;
    second.plane.shutdown().await;
    third.plane.shutdown().await;
    until("the others are missed", || {
        first.plane.status().managers.reachable == 1
    })
    .await;
    let error = first
        .plane
        .propose(create_network("db"), Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no leader: 1 of 3 managers reachable, 2 needed"
    );
    assert_eq!(first.plane.with_view(|view| view.networks.len()), 2);
    let first = first.restarted().await;
    assert_eq!(
        first.plane.with_view(|view| view.networks.len()),
        2,
        "read without a quorum"
    );
    first.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_with_a_token_that_is_wrong_rotated_or_of_another_cluster_changes_nothing() {
    let host = Host::first().await;
    let other = Host::first().await;
    let joiner = Host::idle().await;
    let good = host.join_request(Role::Worker).await;

    let mut wrong = good.clone();
    wrong.token = JoinToken {
        digest: good.token.digest,
        secret: [7; 16],
    };
    let refused = joiner.plane.join(wrong).await.unwrap_err();
    assert!(matches!(refused, JoinError::WrongSecret), "{refused}");

    let mut elsewhere = good.clone();
    elsewhere.remotes = vec![other.addr()];
    let refused = joiner.plane.join(elsewhere).await.unwrap_err();
    assert!(
        matches!(refused, JoinError::OtherCluster { .. }),
        "{refused}"
    );

    let renewed = host.plane.rotate_token(Role::Worker).await.unwrap();
    let refused = joiner.plane.join(good.clone()).await.unwrap_err();
    assert!(matches!(refused, JoinError::WrongSecret), "{refused}");
    assert_eq!(host.plane.with_view(|view| view.nodes.len()), 1);
    assert_eq!(host.plane.status().requests.bad_tokens, 2);
    assert_eq!(joiner.plane.membership(), None);
    let left: Vec<_> = std::fs::read_dir(joiner.dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the lock file: {left:?}");

    let mut request = good;
    request.token = renewed.parse().unwrap();
    let member = joiner.plane.join(request.clone()).await.unwrap();
    assert_eq!(member.role, Role::Worker);
    let twice = joiner.plane.join(request).await.unwrap_err();
    assert!(matches!(twice, JoinError::AlreadyMember { .. }), "{twice}");
    shut([host, other, joiner]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_where_nobody_answers_says_so() {
    let host = Host::first().await;
    let joiner = Host::idle().await;
    let mut request = host.join_request(Role::Manager).await;
    host.plane.shutdown().await;
    request.remotes = vec![request.remotes[0]];
    let refused = joiner.plane.join(request).await.unwrap_err();
    assert!(
        matches!(refused, JoinError::Unreachable { .. }),
        "{refused}"
    );
    joiner.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_may_not_do_what_is_a_managers() {
    let host = Host::first().await;
    let worker = Host::joined(&host, Role::Worker).await;
    let forbidden = |error: ProposeError| assert!(matches!(error, ProposeError::Forbidden { .. }));
    forbidden(worker.plane.token(Role::Worker).await.unwrap_err());
    forbidden(worker.plane.rotate_token(Role::Worker).await.unwrap_err());
    let remove = Command::RemoveNode { id: host.id() };
    forbidden(
        worker
            .plane
            .propose(remove.clone(), LONG)
            .await
            .unwrap_err(),
    );
    // Nor if its own agent does not stop it.
    let running = worker.plane.inner.running().unwrap();
    let proposal = Proposal {
        request: [1; 16],
        time_ms: 0,
        command: remove,
    };
    for request in [
        Request::Propose(Arc::new(proposal)),
        Request::Token(Role::Manager),
    ] {
        let response = running
            .ask(host.addr(), host.id(), &request, LONG)
            .await
            .unwrap();
        assert!(
            matches!(response, Response::Failed(Failure::Unauthorised(_))),
            "{response:?}"
        );
    }
    assert_eq!(host.plane.status().requests.unauthorised, 2);
    let garbage = running
        .transport
        .call(host.addr(), None, vec![0, 1, 255, 255], LONG)
        .await;
    let answer: Response = codec::decode(&garbage.unwrap()).unwrap();
    assert!(
        matches!(answer, Response::Failed(Failure::Undecodable(_))),
        "{answer:?}"
    );
    let garbage = running
        .transport
        .call(host.addr(), None, vec![9, 9, 1], LONG)
        .await;
    let answer: Response = codec::decode(&garbage.unwrap()).unwrap();
    assert!(
        matches!(answer, Response::Failed(Failure::Undecodable(_))),
        "{answer:?}"
    );
    assert_eq!(host.plane.status().requests.undecodable, 2);
    host.network("unharmed").await.unwrap();
    drop(running);
    shut([host, worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_kernels_reflect_is_known_from_every_node() {
    let managers = three_managers().await;
    let worker = Host::joined(&managers[0], Role::Worker).await;
    let all: Vec<&Host> = managers.iter().chain([&worker]).collect();
    let made = worker.network("web").await.unwrap();
    for host in &all {
        host.plane.wait_revision(made.revision, LONG).await.unwrap();
        host.plane.report_applied(made.revision);
    }
    for host in &all {
        let deadline = Instant::now() + LONG;
        loop {
            let applied = host.plane.applied(LONG).await.unwrap();
            if applied.len() == 4 && applied.values().all(|r| *r == made.revision) {
                break;
            }
            assert!(Instant::now() < deadline, "{applied:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    drop(all);
    shut(managers.into_iter().chain([worker])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_goes_is_marked_down_and_ready_again_when_it_is_back() {
    let host = Host::first().await;
    let worker = Host::joined(&host, Role::Worker).await;
    let id = worker.id();
    let status = |host: &Host| host.plane.with_view(|view| view.nodes[&id].status);
    until("ready", || status(&host) == NodeStatus::Ready).await;
    // Past the leader's grace.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(status(&host), NodeStatus::Ready);
    worker.plane.shutdown().await;
    let gone = Instant::now();
    until("down", || status(&host) == NodeStatus::Down).await;
    println!("down after {:?}", gone.elapsed());
    let Host { dir, plane } = worker;
    drop(plane);
    let worker = Host {
        plane: reopened(dir.path()).await,
        dir,
    };
    let back = Instant::now();
    until("ready again", || status(&host) == NodeStatus::Ready).await;
    println!("ready after {:?}", back.elapsed());
    shut([host, worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_leave_and_the_rest_go_on() {
    let hosts = three_managers().await;
    let worker = Host::joined(&hosts[0], Role::Worker).await;
    worker.plane.leave(false).await.unwrap();
    assert_eq!(worker.plane.membership(), None);
    until("the worker is gone", || {
        hosts[0].plane.with_view(|v| v.nodes.len()) == 3
    })
    .await;
    // The leader itself leaves, then one of the two that are left.
    let mut hosts = Vec::from(hosts);
    let leader = hosts.remove(leader_of(&hosts).unwrap());
    assert!(matches!(
        leader.plane.leave(false).await,
        Err(LeaveError::Manager { left: 2 })
    ));
    leader.plane.leave(true).await.unwrap();
    hosts[0].network("two-left").await.unwrap();
    until("two voters", || hosts.iter().all(|host| voters(host) == 2)).await;
    let second = hosts.remove(1);
    second.plane.leave(true).await.unwrap();
    hosts[0].network("one-left").await.unwrap();
    assert_eq!(hosts[0].plane.with_view(|view| view.nodes.len()), 1);
    assert_eq!(voters(&hosts[0]), 1);
    // And one comes back, as another node.
    leader
        .plane
        .join(hosts[0].join_request(Role::Manager).await)
        .await
        .unwrap();
    until("two voters again", || voters(&hosts[0]) == 2).await;
    converged(&[&hosts[0], &leader]).await;
    shut(hosts.into_iter().chain([worker, leader, second])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn proposals_from_everywhere_at_once_give_nothing_twice() {
    let managers = three_managers().await;
    let worker = Host::joined(&managers[0], Role::Worker).await;
    let made = managers[0].network("shared").await.unwrap();
    let Object::Network(network) = made.object else {
        panic!("{made:?}")
    };
    let mut tasks = tokio::task::JoinSet::new();
    let each = 25;
    for (number, host) in managers.iter().chain([&worker]).enumerate() {
        for at in 0..each {
            let (plane, node, id) = (host.plane.clone(), host.id(), network.id);
            tasks.spawn(async move {
                let name = format!("e-{number}-{at}");
                plane
                    .propose(create_endpoint(&name, id, node), LONG)
                    .await
                    .unwrap();
                plane
                    .propose(create_network(&format!("n-{number}-{at}")), LONG)
                    .await
                    .unwrap();
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let all: Vec<&Host> = managers.iter().chain([&worker]).collect();
    converged(&all).await;
    let view = worker.plane.with_view(View::clone);
    assert_eq!(view.endpoints.len(), 4 * each);
    assert_eq!(view.networks.len(), 4 * each + 2);
    let addresses: std::collections::BTreeSet<_> = view
        .endpoints
        .values()
        .map(|endpoint| endpoint.ipv4)
        .collect();
    assert_eq!(addresses.len(), 4 * each);
    drop(all);
    shut(managers.into_iter().chain([worker])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_join_at_once_all_become_members() {
    let first = Host::first().await;
    let roles = [
        Role::Manager,
        Role::Worker,
        Role::Manager,
        Role::Worker,
        Role::Worker,
    ];
    let joining = roles.map(|role| Host::joined(&first, role));
    let mut hosts = futures_util::future::join_all(joining).await;
    hosts.push(first);
    let all: Vec<&Host> = hosts.iter().collect();
    converged(&all).await;
    let first = all[all.len() - 1];
    assert_eq!(first.plane.with_view(|view| view.nodes.len()), 6);
    until("three voters", || voters(first) == 3).await;
    drop(all);
    shut(hosts).await;
}
