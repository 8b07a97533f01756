use super::cluster::{leader_of, shut, three_managers};
use super::*;

/// What `asker`'s own agent would not send.
async fn raw(asker: &Host, to: &Host, request: &Request) -> Response {
    let running = asker.plane.inner.running().unwrap();
    running
        .ask(to.addr(), to.id(), request, LONG)
        .await
        .unwrap()
}

fn proposal(command: Command) -> Request {
    Request::Propose(Arc::new(Proposal {
        request: random().unwrap(),
        time_ms: 0,
        command,
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_command_too_large_for_replication_is_refused_before_it_is_in_the_log() {
    let first = Host::first().await;
    let second = Host::joined(&first, Role::Manager).await;
    let worker = Host::joined(&first, Role::Worker).await;
    // Fits the frame that asks for it, but not the one that would carry it on.
    let limits = crate::transport::Limits::default();
    let empty = codec::encode(&proposal(create_network(""))).unwrap().len();
    let name = "n".repeat(limits.max_frame - empty - 16);
    let leader = if first.leads() { &first } else { &second };
    let answer = raw(&worker, leader, &proposal(create_network(&name))).await;
    assert!(
        matches!(&answer, Response::Failed(Failure::Other(reason)) if reason.contains("at most")),
        "{answer:?}"
    );
    worker.network("after").await.unwrap();
    shut([first, second, worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manager_that_was_removed_is_told_no_secret_and_admits_nobody() {
    let [first, second, third] = three_managers().await;
    let gone = third.id();
    let remove = Command::RemoveNode { id: gone };
    first.plane.propose(remove, LONG).await.unwrap();
    let heard = |host: &Host| host.plane.with_view(|view| !view.nodes.contains_key(&gone));
    until("removed", || heard(&first) && heard(&second)).await;
    let leader = if first.leads() { &first } else { &second };
    let other = if first.leads() { &second } else { &first };
    let token = raw(&third, leader, &Request::Token(Role::Manager)).await;
    assert!(
        matches!(token, Response::Failed(Failure::Unauthorised(_))),
        "{token:?}"
    );
    let elsewhere = raw(&third, other, &Request::Token(Role::Manager)).await;
    assert!(!matches!(elsewhere, Response::Token(_)), "{elsewhere:?}");
    shut([first, second, third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manager_that_has_not_heard_of_a_node_yet_sends_it_to_the_leader() {
    let managers = three_managers().await;
    let leading = leader_of(&managers).unwrap();
    let follower = managers[(leading + 1) % 3].plane.inner.running().unwrap();
    // A node that joined a moment ago.
    let caller = crate::identity::Caller::Member {
        node: NodeId::new([7; 10]),
        role: Role::Worker,
        cluster: follower.member.cluster,
    };
    let body = codec::encode(&proposal(create_network("new"))).unwrap();
    let answer = follower.answer(caller, &body).await;
    assert!(
        matches!(answer, Response::Failed(Failure::NotLeader(Some(_), _))),
        "{answer:?}"
    );
    drop(follower);
    shut(managers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_follows_once_and_a_new_session_ends_the_one_before() {
    let host = Host::first().await;
    let worker = Host::joined(&host, Role::Worker).await;
    let running = worker.plane.inner.running().unwrap();
    // Only the sessions of this test.
    running.cut().await;
    let open = async || {
        let opening = codec::encode(&crate::wire::Opening::Watch { from: None }).unwrap();
        let to = host.addr();
        let mut stream = running
            .transport
            .open(to, None, opening, LONG)
            .await
            .unwrap();
        stream.recv().await.unwrap().unwrap();
        stream
    };
    let mut before = open().await;
    let mut after = open().await;
    let ended = tokio::time::timeout(LONG, async {
        while let Ok(Some(_)) = before.recv().await {}
    });
    ended.await.unwrap();
    after.recv().await.unwrap().unwrap();
    drop((before, after, running));
    shut([host, worker]).await;
}
