use super::*;
use crate::codec;
use crate::transport::{PeerClose, PeerDialError};
use crate::wire::PeerGreeting;

fn secret(session: &PeerSession, label: &[u8], context: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    session.export(&mut out, label, context).unwrap();
    out
}

fn offer() -> Bytes {
    codec::encode(&PeerGreeting::Offer).unwrap().into()
}

#[tokio::test]
async fn both_sides_have_the_same_secrets_and_other_sessions_have_others() {
    let (mut low, at_low, mut high, at_high) = two_joined().await;
    assert_eq!((at_low.node, at_high.node), (high.id, low.id));
    assert_eq!(at_low.id, at_high.id);
    let one = secret(&at_low, b"one", b"");
    assert_eq!(one, secret(&at_high, b"one", b""));
    assert_ne!(one, secret(&at_low, b"two", b""));
    assert_ne!(one, secret(&at_low, b"one", b"context"));
    assert_eq!(
        secret(&at_low, b"one", b"context"),
        secret(&at_high, b"one", b"context")
    );
    assert_eq!(
        at_low.export(&mut [0; 8161], b"one", b""),
        Err(ExportError { len: 8161 })
    );

    low.peering.renew(high.id);
    assert_eq!(low.down().await, (high.id, at_low.id));
    assert_eq!(high.down().await, (low.id, at_low.id));
    let (second_low, second_high) = (low.up().await, high.up().await);
    assert_eq!(second_low.id, second_high.id);
    assert_ne!(second_low.id, at_low.id);
    assert_ne!(secret(&second_low, b"one", b""), one);

    // The node that does not dial may ask for a new one as well.
    high.peering.renew(low.id);
    assert_eq!(low.down().await, (high.id, second_low.id));
    assert_eq!(high.down().await, (low.id, second_low.id));
    let (third_low, third_high) = (low.up().await, high.up().await);
    assert_eq!(third_low.id, third_high.id);
    assert_ne!(
        secret(&third_low, b"one", b""),
        secret(&second_low, b"one", b"")
    );
    // One that has ended still yields its own.
    assert_eq!(secret(&at_low, b"one", b""), one);
    assert!(!at_low.send(Bytes::from_static(b"late")));
}

#[tokio::test]
async fn messages_arrive_in_order_both_ways() {
    let (mut low, at_low, mut high, at_high) = two_joined().await;
    // No more than wait at once, however slow the machine is.
    for number in 0..60u8 {
        assert!(at_low.send(Bytes::from(vec![number; MAX_PEER_MESSAGE])));
        assert!(at_high.send(Bytes::from(vec![number])));
    }
    assert!(!at_low.send(Bytes::from(vec![0; MAX_PEER_MESSAGE + 1])));
    for number in 0..60u8 {
        let (session, body) = high.message().await;
        assert_eq!(session, at_low.id);
        assert_eq!(body, vec![number; MAX_PEER_MESSAGE]);
        assert_eq!(low.message().await, (at_low.id, vec![number].into()));
    }
    assert!(at_high.send(Bytes::new()));
    assert_eq!(low.message().await.1, Bytes::new());
}

#[tokio::test]
async fn who_is_not_wanted_is_refused_until_wanted() {
    let (mut low, mut high) = two();
    introduce(&[&low, &high]);
    low.want(&[&high]);
    let why = low.trouble().await;
    let expected = format!(
        "{} does not want a session with this node (yet)",
        high.addr()
    );
    assert_eq!(why, expected);
    high.want(&[&low]);
    let (at_low, at_high) = (low.up().await, high.up().await);
    assert_eq!(at_low.id, at_high.id);

    high.want(&[]);
    assert_eq!(high.down().await, (low.id, at_high.id));
    assert_eq!(low.down().await, (high.id, at_high.id));
    assert_eq!(low.trouble().await, expected);
    high.want(&[&low]);
    assert_eq!(low.up().await.id, high.up().await.id);
}

#[tokio::test]
async fn a_node_that_is_removed_is_cut_and_let_in_no_more() {
    let (mut low, at_low, mut high, at_high) = two_joined().await;
    low.hear(Change::NodeGone(high.id));
    assert_eq!(low.down().await, (high.id, at_low.id));
    assert_eq!(high.down().await, (low.id, at_high.id));
    let dialled = high.transport.dial_peer(low.addr(), low.id, offer()).await;
    assert!(
        matches!(dialled, Err(PeerDialError::NotWanted { .. })),
        "{dialled:?}"
    );
    // It may come back.
    low.hear_of(high.id, high.addr());
    assert_eq!(low.up().await.id, high.up().await.id);
}

#[tokio::test]
async fn a_new_connection_of_the_same_node_replaces_the_old_one() {
    let [low, high] = &identities(2)[..] else {
        unreachable!()
    };
    let mut high = Site::new(high);
    // An agent that is killed leaves a connection behind of which it knows nothing.
    let agent = bound(low);
    high.hear_of(low.node, agent.local_addr());
    high.peering.want(BTreeSet::from([low.node]));
    let (addr, id) = (high.addr(), high.id);
    let (left_behind, _) = agent.dial_peer(addr, id, offer()).await.unwrap();
    let before = high.up().await;
    let (now, _) = agent.dial_peer(addr, id, offer()).await.unwrap();
    assert_eq!(high.down().await, (low.node, before.id));
    let after = high.up().await;
    assert_ne!(after.id, before.id);
    let closed = timeout(LONG, left_behind.closed()).await.unwrap();
    assert!(closed.contains("another session counts"), "{closed}");
    now.close(PeerClose::Ending);
    assert_eq!(high.down().await, (low.node, after.id));
}

#[tokio::test]
async fn an_agent_that_restarts_elsewhere_is_dialled_there() {
    for lower_moves in [true, false] {
        let (mut low, _, mut high, _) = two_joined().await;
        let (moving, staying) = if lower_moves {
            (&mut low, &mut high)
        } else {
            (&mut high, &mut low)
        };
        moving.move_away().await;
        moving.down().await;
        staying.down().await;
        staying.hear_of(moving.id, moving.addr());
        assert_eq!(moving.up().await.id, staying.up().await.id);
    }
}

#[tokio::test]
async fn crossing_dials_settle_on_one_session() {
    let [low, high] = &identities(2)[..] else {
        unreachable!()
    };
    let hasty = Limits {
        peering_patience: Duration::from_millis(100),
        ..limits()
    };
    let (mut low, mut high) = (Site::new(low), Site::with(high, hasty));
    introduce(&[&low, &high]);
    // The lower one cannot get through: somebody else is where it dials.
    let other = Site::new(&identities(1)[0]);
    low.hear_of(high.id, other.addr());
    low.want(&[&high]);
    high.want(&[&low]);
    let (at_low, at_high) = (low.up().await, high.up().await);
    assert_eq!(at_low.id, at_high.id);
    // From here on both can, and both try at once when a session ends.
    low.hear_of(high.id, high.addr());
    let mut last = at_low.id;
    for round in 0..20 {
        let renewing = if round % 2 == 0 { &low } else { &high };
        let other = if round % 2 == 0 { high.id } else { low.id };
        renewing.peering.renew(other);
        let (at_low, at_high) = settle(&mut low, &mut high, last).await;
        assert_eq!(at_low.id, at_high.id);
        last = at_low.id;
    }
}

/// Reads on until both have another session than `last`, and the same.
async fn settle(low: &mut Site, high: &mut Site, last: u64) -> (PeerSession, PeerSession) {
    let mut current: [Option<PeerSession>; 2] = [None, None];
    loop {
        if let [Some(a), Some(b)] = &current
            && a.id == b.id
            && a.id != last
        {
            return (a.clone(), b.clone());
        }
        let (place, event) = tokio::select! {
            event = low.event() => (0, event),
            event = high.event() => (1, event),
        };
        match event {
            PeerEvent::Up(session) => current[place] = Some(session),
            PeerEvent::Down { .. } => current[place] = None,
            PeerEvent::Trouble { .. } => {}
            PeerEvent::Message { .. } => panic!("{event:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_nodes_at_once() {
    let identities = identities(51);
    // In the middle of the ids: dials some and is dialled by the others.
    let mut sites: Vec<_> = identities.iter().map(Site::new).collect();
    let mut centre = sites.remove(25);
    for site in &sites {
        introduce(&[&centre, site]);
        site.want(&[&centre]);
    }
    centre.want(&sites.iter().collect::<Vec<_>>());
    let mut ids = BTreeSet::new();
    for _ in &sites {
        let session = centre.up().await;
        assert!(ids.insert((session.node, session.id)));
        assert!(session.send(Bytes::from_static(b"hello")));
    }
    for site in &mut sites {
        let session = site.up().await;
        assert!(ids.contains(&(site.id, session.id)));
        assert_eq!(site.message().await, (session.id, "hello".into()));
    }
    centre.want(&[]);
    for site in &mut sites {
        assert_eq!(site.down().await.0, centre.id);
    }
}

#[tokio::test]
async fn who_asks_in_another_way_is_refused_and_disturbs_nothing() {
    let (mut low, session, high, _) = two_joined().await;
    let agent = bound(&high.identity);
    let answer = codec::encode(&PeerGreeting::Accept).unwrap();
    for offer in [Bytes::new(), "hello".into(), answer.into()] {
        let refused = agent.dial_peer(low.addr(), low.id, offer).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("it speaks another version"), "{refused}");
    }
    // Who dials although the lower id has a session that works: that one counts.
    let refused = agent.dial_peer(low.addr(), low.id, offer()).await;
    assert!(
        matches!(refused, Err(PeerDialError::Superseded { .. })),
        "{refused:?}"
    );
    assert!(session.send("still".into()));
    low.want(&[]);
    assert_eq!(low.down().await, (high.id, session.id));
}
