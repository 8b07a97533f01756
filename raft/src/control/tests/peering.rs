use tokio::sync::mpsc;
use tokio::time::timeout;

use super::cluster::{leader_of, shut, voters};
use super::*;
use crate::peering::{PeerEvent, PeerSession};
use crate::transport::{CallError, PeerDialError};
use crate::wire::PeerGreeting;

type Events = mpsc::Receiver<PeerEvent>;

/// On a busy machine a node may be silent for longer than a second, and slow to dial.
fn patient(config: &mut ControlConfig) {
    config.limits.idle_timeout = LONG * 2;
    config.limits.peering_patience = LONG * 2;
}

async fn joined(to: &Host, role: Role) -> Host {
    let host = Host::idle_with(patient).await;
    host.plane.join(to.join_request(role).await).await.unwrap();
    host
}

fn want(host: &Host, others: &[&Host]) {
    let others = others.iter().map(|other| other.id()).collect();
    host.plane.peering().want(others);
}

/// The next event that is not about trouble.
async fn event(events: &mut Events) -> PeerEvent {
    loop {
        match timeout(LONG, events.recv()).await.unwrap().unwrap() {
            PeerEvent::Trouble { .. } => {}
            event => return event,
        }
    }
}

async fn up(events: &mut Events) -> PeerSession {
    match event(events).await {
        PeerEvent::Up(session) => session,
        other => panic!("{other:?}"),
    }
}

async fn down(events: &mut Events) -> u64 {
    match event(events).await {
        PeerEvent::Down { session, .. } => session,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn workers_have_sessions_that_a_change_of_the_leader_does_not_disturb() {
    let first = Host::first_with(patient).await;
    let mut managers = vec![first];
    for _ in 0..2 {
        managers.push(joined(&managers[0], Role::Manager).await);
    }
    until("three voters", || voters(&managers[0]) == 3).await;
    let one = joined(&managers[0], Role::Worker).await;
    let other = joined(&managers[1], Role::Worker).await;
    let (mut at_one, mut at_other) = (one.plane.peering().events(), other.plane.peering().events());
    want(&one, &[&other]);
    want(&other, &[&one]);
    let (session, peer) = (up(&mut at_one).await, up(&mut at_other).await);
    assert_eq!((session.id, peer.node), (peer.id, one.id()));

    let leader = managers.remove(leader_of(&managers).unwrap());
    leader.plane.shutdown().await;
    let made = managers[0].network("after").await.unwrap();
    for worker in [&one, &other] {
        let heard = worker.plane.wait_revision(made.revision, LONG).await;
        heard.unwrap();
    }
    assert!(session.send("still".into()));
    let (node, session, body) = (one.id(), session.id, "still".into());
    let message = PeerEvent::Message {
        node,
        session,
        body,
    };
    assert_eq!(event(&mut at_other).await, message);
    shut(managers.into_iter().chain([one, other])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_was_removed_is_cut_and_refused_by_name() {
    let slow = |config: &mut ControlConfig| {
        patient(config);
        config.limits.handshake_timeout = LONG;
    };
    let first = Host::first_with(slow).await;
    let worker = Host::idle_with(slow).await;
    let join = first.join_request(Role::Worker).await;
    worker.plane.join(join).await.unwrap();
    let mut at_first = first.plane.peering().events();
    let mut at_worker = worker.plane.peering().events();
    want(&first, &[&worker]);
    want(&worker, &[&first]);
    let session = up(&mut at_first).await.id;
    assert_eq!(up(&mut at_worker).await.id, session);

    let remove = Command::RemoveNode { id: worker.id() };
    first.plane.propose(remove, LONG).await.unwrap();
    assert_eq!(down(&mut at_first).await, session);
    assert_eq!(down(&mut at_worker).await, session);
    let offer = codec::encode(&PeerGreeting::Offer).unwrap();
    let transport = worker.plane.inner.running().unwrap().transport.clone();
    let dialled = transport.dial_peer(first.addr(), first.id(), offer.into());
    match dialled.await {
        Err(PeerDialError::Call(CallError::Refused { reason, .. })) => {
            assert_eq!(reason, "not a member");
        }
        other => panic!("{other:?}"),
    }
    shut([first, worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sessions_end_with_the_agent_and_the_membership_and_come_back() {
    let first = Host::first_with(patient).await;
    let worker = joined(&first, Role::Worker).await;
    let mut at_first = first.plane.peering().events();
    let mut at_worker = worker.plane.peering().events();
    want(&first, &[&worker]);
    want(&worker, &[&first]);
    let before = up(&mut at_first).await.id;
    assert_eq!(up(&mut at_worker).await.id, before);

    let worker = worker.restarted_with(patient).await;
    assert_eq!(down(&mut at_first).await, before);
    // Whoever reads on from before the restart is told how it ended.
    assert_eq!(down(&mut at_worker).await, before);
    until("the old handles are gone", || at_worker.is_closed()).await;
    let mut at_worker = worker.plane.peering().events();
    want(&worker, &[&first]);
    let after = up(&mut at_first).await.id;
    assert_eq!(up(&mut at_worker).await.id, after);
    assert_ne!(after, before);

    worker.plane.leave(false).await.unwrap();
    assert_eq!(down(&mut at_worker).await, after);
    assert_eq!(down(&mut at_first).await, after);
    // What is wanted counts for the next membership, as which it is another node.
    let again = first.join_request(Role::Worker).await;
    worker.plane.join(again).await.unwrap();
    want(&first, &[&worker]);
    let next = up(&mut at_first).await;
    assert_eq!(next.node, worker.id());
    assert_eq!(up(&mut at_worker).await.id, next.id);
    shut([first, worker]).await;
}
