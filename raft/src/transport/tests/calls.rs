use super::*;

#[tokio::test]
async fn a_call_is_answered_and_the_handler_learns_who_calls() {
    let authority = authority();
    let (manager, worker) = (
        member(&authority, Role::Manager),
        member(&authority, Role::Worker),
    );
    let (server, echo) = server(&manager);
    let client = client(&worker);
    let to = server.local_addr();
    for len in [0, 1, 4, 1000, 1 << 20, 16 << 20] {
        let body: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let answer = client
            .call(to, Some(manager.node), body.clone(), SOON)
            .await;
        assert_eq!(answer.unwrap(), body, "{len}");
    }
    let expected = Caller::Member {
        node: worker.node,
        role: Role::Worker,
        cluster: CLUSTER,
    };
    let from = client.local_addr();
    assert_eq!(*echo.last_caller.lock().unwrap(), Some((expected, from)));
    let (ours, theirs) = (client.counters(), server.counters());
    assert_eq!((ours.dialled, ours.calls_made), (1, 6));
    assert_eq!((theirs.accepted, theirs.calls_served), (1, 6));
    assert_eq!((ours.outbound_open, theirs.inbound_open), (1, 1));
    let link = &client.links()[0];
    assert_eq!(
        (link.node, link.addr, link.outbound),
        (manager.node, to, true)
    );
    assert_eq!(server.links()[0].node, worker.node);
}

#[tokio::test]
async fn calls_work_over_ipv6_and_between_an_ipv6_socket_and_ipv4() {
    let authority = authority();
    let (a, b) = (
        member(&authority, Role::Manager),
        member(&authority, Role::Manager),
    );
    for (listen, dial) in [
        ("[::1]:0", "::1"),
        ("[::]:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1"),
    ] {
        let server = Transport::bind(listen.parse().unwrap(), Limits::default()).unwrap();
        let echo = Arc::new(Echo::default());
        server.serve(echo.clone());
        server.set_identity(a.clone()).unwrap();
        let to = SocketAddr::new(dial.parse().unwrap(), server.local_addr().port());
        for from in ["[::]:0", "127.0.0.1:0"] {
            if dial == "::1" && from != "[::]:0" {
                continue;
            }
            let client = Transport::bind(from.parse().unwrap(), Limits::default()).unwrap();
            client.set_identity(b.clone()).unwrap();
            client
                .call(to, Some(a.node), &b"x"[..], SOON)
                .await
                .unwrap();
            let (_, seen) = echo.last_caller.lock().unwrap().unwrap();
            assert_eq!(seen.ip(), to.ip(), "{listen} {from}");
        }
    }
}

#[tokio::test]
async fn callers_at_the_same_time_share_one_dial() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let (server, echo) = server(&identity);
    let client = client(&member(&authority, Role::Worker));
    let calls = (0..100u32).map(|i| {
        let (client, to) = (client.clone(), server.local_addr());
        async move {
            let body = i.to_be_bytes().to_vec();
            assert_eq!(
                client.call(to, None, body.clone(), SOON).await.unwrap(),
                body
            );
        }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(echo.calls(), 100);
    assert_eq!(
        (client.counters().dialled, server.counters().accepted),
        (1, 1)
    );
}

#[tokio::test]
async fn a_node_without_identity_neither_calls_nor_answers() {
    let authority = authority();
    let nobody = Transport::bind(loopback(), Limits::default()).unwrap();
    let error = nobody.call(loopback(), None, &b"x"[..], SOON).await;
    assert!(matches!(error, Err(CallError::NoIdentity)), "{error:?}");
    nobody.serve(Arc::new(Echo::default()));
    let client = client(&member(&authority, Role::Worker));
    let wait = Duration::from_millis(300);
    let error = client
        .call(nobody.local_addr(), None, &b"x"[..], wait)
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");
    assert!(!error.maybe_delivered());
    nobody
        .set_identity(member(&authority, Role::Manager))
        .unwrap();
    client
        .call(nobody.local_addr(), None, &b"x"[..], SOON)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_call_finds_a_server_that_was_restarted_on_its_port() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let (server, _) = server(&identity);
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    for _ in 0..3 {
        client.call(to, None, &b"x"[..], SOON).await.unwrap();
    }
    server.close().await;
    let again = Transport::bind(to, Limits::default()).unwrap();
    again.set_identity(identity).unwrap();
    again.serve(Arc::new(Echo::default()));
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
    assert_eq!(client.counters().dialled, 2);
}

#[tokio::test]
async fn a_server_that_was_killed_and_restarted_with_its_key_resets_old_connections() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let limits = Limits {
        idle_timeout: SOON * 6,
        ..Limits::default()
    };
    let bind = |to| Transport::bind_as(to, limits.clone(), identity.key()).unwrap();
    let first = bind(loopback());
    first.set_identity(identity.clone()).unwrap();
    first.serve(Arc::new(Echo::default()));
    let to = first.local_addr();
    let client = Transport::bind(loopback(), limits.clone()).unwrap();
    client
        .set_identity(member(&authority, Role::Worker))
        .unwrap();
    let peer = client.core.peer(to, None).await.unwrap();
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
    // As a killed process: the port is free and nobody was told.
    first.core.socket.shut();
    let second = bind(to);
    second.set_identity(identity.clone()).unwrap();
    second.serve(Arc::new(Echo::default()));
    let begun = Instant::now();
    let lost = timeout(SOON, peer.connection.closed()).await.unwrap();
    assert_eq!(lost, quinn::ConnectionError::Reset);
    assert!(begun.elapsed() < SOON);
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_goes_silent_is_noticed() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let peer = client.core.peer(to, None).await.unwrap();
    let begun = Instant::now();
    server.core.socket.shut();
    let lost = timeout(SOON, peer.connection.closed()).await.unwrap();
    assert_eq!(lost, quinn::ConnectionError::TimedOut);
    assert!(begun.elapsed() > Duration::from_secs(1));
    until(&client, |c| c.outbound_open == 0).await;
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_is_given_up_alone() {
    let authority = authority();
    let (server, echo) = server(&member(&authority, Role::Manager));
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
    let wait = Duration::from_millis(500);
    let error = client.call(to, None, &b"wait"[..], wait).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error:?}");
    assert!(error.maybe_delivered());
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
    echo.release.notify_one();
    assert_eq!(client.counters().dialled, 1);
    assert_eq!(server.counters().closed_truncated, 0);
}

#[tokio::test]
async fn what_no_frame_can_hold_is_refused_on_either_side() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let body = vec![0; (16 << 20) + 1];
    let error = client.call(to, None, body, SOON).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge { .. }), "{error:?}");
    let error = client.call(to, None, &b"big"[..], SOON).await.unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }), "{error:?}");
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
    assert_eq!(client.counters().dialled, 1);
}

#[tokio::test]
async fn a_new_certificate_leaves_open_connections_alone_and_serves_new_ones() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let (server, _) = server(&identity);
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let mut stream = client.open(to, None, &b"first"[..], SOON).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap(), "first");
    let key = NodeKey::from_der(&identity.key().to_der()).unwrap();
    let csr = key.csr().unwrap();
    let cert = authority.sign(&csr, Role::Manager, DAY * 2, SystemTime::now());
    let renewed = Identity::new(key, &cert.unwrap(), authority.cert_der()).unwrap();
    server.set_identity(Arc::new(renewed)).unwrap();
    stream.send(&b"second"[..]).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap(), "second");
    let other = super::client(&member(&authority, Role::Worker));
    other
        .call(to, Some(identity.node), &b"x"[..], SOON)
        .await
        .unwrap();
    let renewed = server.identity().unwrap();
    assert!(renewed.not_after > identity.not_after);
}

#[tokio::test]
async fn disconnecting_a_node_closes_both_directions_and_it_may_come_again() {
    let authority = authority();
    let (a, b) = (
        member(&authority, Role::Manager),
        member(&authority, Role::Manager),
    );
    let ((one, _), (two, _)) = (server(&a), server(&b));
    one.call(two.local_addr(), None, &b"x"[..], SOON)
        .await
        .unwrap();
    two.call(one.local_addr(), None, &b"x"[..], SOON)
        .await
        .unwrap();
    assert_eq!(one.links().len(), 2);
    one.disconnect(b.node);
    until(&one, |c| c.inbound_open + c.outbound_open == 0).await;
    until(&two, |c| c.inbound_open + c.outbound_open == 0).await;
    two.call(one.local_addr(), None, &b"x"[..], SOON)
        .await
        .unwrap();
}

#[tokio::test]
async fn nothing_can_be_called_on_a_closed_transport() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let client = client(&member(&authority, Role::Worker));
    client.close().await;
    let error = client
        .call(server.local_addr(), None, &b"x"[..], SOON)
        .await;
    assert!(matches!(error, Err(CallError::Closed)), "{error:?}");
}

#[tokio::test]
async fn closing_lets_go_of_the_handler_and_dropping_frees_the_port() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let (server, echo) = server(&identity);
    let client = client(&member(&authority, Role::Worker));
    client
        .call(server.local_addr(), None, &b"x"[..], SOON)
        .await
        .unwrap();
    server.close().await;
    let begun = Instant::now();
    while Arc::strong_count(&echo) > 1 {
        assert!(begun.elapsed() < SOON);
        tokio::task::yield_now().await;
    }
    let to = client.local_addr();
    drop(client);
    while let Err(e) = Transport::bind(to, Limits::default()) {
        assert!(begun.elapsed() < SOON, "{e}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
