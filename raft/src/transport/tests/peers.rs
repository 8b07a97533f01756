use std::sync::Mutex;

use super::*;

/// Keeps every connection for peering that is opened.
#[derive(Default)]
struct Keeping(Mutex<Vec<(PeerConnection, Bytes)>>);

impl Handler for Keeping {
    fn call(&self, _: Caller, _: SocketAddr, body: Bytes) -> BoxFuture<'_, Vec<u8>> {
        async move { body.to_vec() }.boxed()
    }

    fn stream(&self, _: Caller, _: SocketAddr, _: Bytes, _: FrameStream) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn peering(&self, _: Caller, mut connection: PeerConnection, offer: Bytes) {
        let mut stream = connection.take_stream().unwrap();
        tokio::spawn(async move {
            stream.send(&b"yes"[..]).await.unwrap();
            // Whoever dialled ends it.
            let _ = stream.recv().await;
        });
        self.0.lock().unwrap().push((connection, offer));
    }
}

fn patient() -> Limits {
    Limits {
        idle_timeout: SOON * 2,
        handshake_timeout: SOON,
        request_timeout: SOON,
        ..Limits::default()
    }
}

fn serving(identity: &Arc<Identity>, limits: Limits) -> (Transport, Arc<Keeping>) {
    let transport = Transport::bind(loopback(), limits).unwrap();
    let handler = Arc::new(Keeping::default());
    transport.set_identity(identity.clone()).unwrap();
    transport.serve(handler.clone());
    (transport, handler)
}

#[tokio::test]
async fn a_node_without_peering_says_that_none_is_wanted() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let (server, _) = server_with(&identity, patient());
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let dialled = client.dial_peer(to, identity.node, "hello".into()).await;
    assert!(
        matches!(dialled, Err(PeerDialError::NotWanted { .. })),
        "{dialled:?}"
    );
}

#[tokio::test]
async fn a_stranger_gets_no_connection_for_peering() {
    let authority = authority();
    let (server, handler) = serving(&member(&authority, Role::Manager), patient());
    let stranger = Transport::bind(loopback(), patient()).unwrap();
    let pin = CaDigest::of(authority.cert_der());
    let (config, _) = tls::pinned_client(&pin, tls::Protocol::Peering, &patient()).unwrap();
    let to = server.local_addr();
    let connecting = stranger
        .core
        .endpoint
        .connect_with(config, to, tls::SERVER_NAME);
    let connection = connecting.unwrap().await.unwrap();
    let closed = timeout(SOON, connection.closed())
        .await
        .unwrap()
        .to_string();
    assert!(closed.contains("only members may ask for this"), "{closed}");
    assert!(handler.0.lock().unwrap().is_empty());
    assert_eq!(server.counters().accepted, 0);
}

#[tokio::test]
async fn one_member_has_so_many_connections_for_peering_and_no_more() {
    let authority = authority();
    let limits = Limits {
        max_peerings_per_node: 2,
        max_peerings: 3,
        ..patient()
    };
    let identity = member(&authority, Role::Manager);
    let (server, handler) = serving(&identity, limits);
    let [one, other] = [(); 2].map(|()| client(&member(&authority, Role::Worker)));
    let to = server.local_addr();
    let dial = async |from: &Transport| from.dial_peer(to, identity.node, "hello".into()).await;
    let overloaded = |dialled: &Result<_, PeerDialError>| {
        matches!(
            dialled,
            Err(PeerDialError::Call(CallError::Overloaded { .. }))
        )
    };
    let (first, answer) = dial(&one).await.unwrap();
    assert_eq!(answer, &b"yes"[..]);
    assert_eq!(handler.0.lock().unwrap()[0].1, &b"hello"[..]);
    let _second = dial(&one).await.unwrap();
    assert!(overloaded(&dial(&one).await));
    let _third = dial(&other).await.unwrap();
    assert!(overloaded(&dial(&other).await));
    assert_eq!(server.counters().overload, 2);
    assert_eq!(server.counters().inbound_open, 3);
    assert_eq!(one.counters().outbound_open, 2);
    // Calls have connections of their own.
    one.call(to, None, &b"x"[..], SOON).await.unwrap();

    first.close(PeerClose::Renewed);
    until(&server, |c| c.inbound_open == 3).await;
    let (fourth, _) = dial(&other).await.unwrap();
    drop(fourth);
    until(&server, |c| c.inbound_open == 3).await;
    drop(first);
    until(&one, |c| c.outbound_open == 2).await;
}

/// What both sides export is tried in `peering`; that it is what TLS yields to whoever has the
/// connection, and to nobody else, is the library's.
#[tokio::test]
async fn a_message_over_the_limit_is_neither_sent_nor_read() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let (server, handler) = serving(&identity, patient());
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let (mut peer, _) = client
        .dial_peer(to, identity.node, "hello".into())
        .await
        .unwrap();
    let mut stream = peer.take_stream().unwrap();
    let sent = stream.send(vec![0; MAX_PEER_MESSAGE + 1]).await;
    assert!(
        matches!(sent, Err(StreamError::TooLarge { .. })),
        "{sent:?}"
    );
    // What our side would not send.
    let offer = vec![0; MAX_PEER_MESSAGE + 1].into();
    let dialled = client.dial_peer(to, identity.node, offer).await;
    assert!(
        matches!(dialled, Err(PeerDialError::Call(_))),
        "{dialled:?}"
    );
    until(&server, |c| c.closed_oversized == 1).await;
    assert_eq!(handler.0.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_agent_that_was_killed_and_restarted_resets_what_others_had_dialled() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let bind = |to| {
        let transport = Transport::bind_as(to, patient(), identity.key()).unwrap();
        transport.set_identity(identity.clone()).unwrap();
        transport.serve(Arc::new(Keeping::default()));
        transport
    };
    let first = bind(loopback());
    let to = first.local_addr();
    let client = Transport::bind(loopback(), patient()).unwrap();
    let worker = member(&authority, Role::Worker);
    client.set_identity(worker).unwrap();
    let dial = || client.dial_peer(to, identity.node, "hello".into());
    let (peer, _) = dial().await.unwrap();
    // As a killed process: the port is free and nobody was told.
    first.core.socket.shut();
    let _second = bind(to);
    // Long before it would count as silent.
    let closed = timeout(SOON, peer.closed()).await.unwrap();
    assert_eq!(closed, "reset by peer");
    dial().await.unwrap();
}
