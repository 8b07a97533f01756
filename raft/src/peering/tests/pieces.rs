//! What is between the sessions and their owner.

use super::super::outbox::INBOX;
use super::super::session::SEND_QUEUE;
use super::*;

fn body(number: usize) -> Bytes {
    Bytes::from(number.to_string())
}

/// Sessions that nobody sees the other end of.
async fn sessions(count: usize) -> Vec<PeerSession> {
    let (mut low, session, high, _) = two_joined().await;
    let mut sessions = vec![session];
    while sessions.len() < count {
        low.peering.renew(high.id);
        low.down().await;
        sessions.push(low.up().await);
    }
    sessions
}

#[tokio::test]
async fn a_queue_that_is_full_drops_the_oldest() {
    let session = sessions(1).await.remove(0);
    // Its own end takes nothing out any more.
    let queue = session::SendQueue::default();
    for number in 0..SEND_QUEUE + 3 {
        assert!(queue.push(body(number)));
    }
    for number in 3..SEND_QUEUE + 3 {
        assert_eq!(queue.next().await, body(number));
    }
    assert_eq!(queue.next().now_or_never(), None);
    queue.close();
    assert!(!queue.push(body(0)));
    assert!(!session.send(Bytes::from(vec![0; MAX_PEER_MESSAGE + 1])));
}

#[tokio::test]
async fn a_slow_reader_is_told_how_things_are_and_waits_for_nothing() {
    let [first, second] = &sessions(2).await[..] else {
        unreachable!()
    };
    let (outbox, node) = (Outbox::default(), first.node);
    let next = || outbox.next().now_or_never().flatten();
    // Nobody read of it: nothing is to tell.
    outbox.up(first.clone());
    outbox.down(node, first.id);
    assert_eq!(next(), None);

    outbox.up(first.clone());
    assert_eq!(next(), Some(PeerEvent::Up(first.clone())));
    outbox.message(node, first.id, body(1));
    outbox.message(node, second.id, body(2));
    outbox.up(second.clone());
    outbox.message(node, first.id, body(3));
    outbox.down(node, first.id);
    for number in 0..INBOX + 2 {
        outbox.message(node, second.id, body(number));
    }
    let session = first.id;
    assert_eq!(next(), Some(PeerEvent::Down { node, session }));
    assert_eq!(next(), Some(PeerEvent::Up(second.clone())));
    for number in 2..INBOX + 2 {
        let (session, body) = (second.id, body(number));
        let message = PeerEvent::Message {
            node,
            session,
            body,
        };
        assert_eq!(next(), Some(message));
    }
    outbox.down(node, second.id);
    outbox.trouble(node, "old".to_owned());
    outbox.trouble(node, "new".to_owned());
    let session = second.id;
    assert_eq!(next(), Some(PeerEvent::Down { node, session }));
    let why = "new".to_owned();
    assert_eq!(next(), Some(PeerEvent::Trouble { node, why }));
    assert_eq!(next(), None);
    outbox.close();
    assert_eq!(outbox.next().await, None);
}

#[tokio::test]
async fn events_are_taken_once_and_end_with_the_last_handle() {
    let peering = Peering::default();
    let mut events = peering.events();
    assert_eq!(peering.events().recv().await, None);
    drop(peering);
    assert_eq!(timeout(LONG, events.recv()).await.unwrap(), None);
}
