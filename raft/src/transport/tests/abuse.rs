use quinn::VarInt;

use super::*;

/// Sends bytes on a fresh stream, ends it, and waits for the connection to be closed for it.
async fn send_raw(identity: &Arc<Identity>, to: SocketAddr, bytes: &[u8]) -> VarInt {
    let (_transport, connection) = raw_connection(identity, to).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    let closed = timeout(SOON, connection.closed()).await.unwrap();
    match closed {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code,
        e => panic!("{e}"),
    }
}

#[tokio::test]
async fn bad_frames_are_counted_cost_the_connection_and_nobody_else() {
    let authority = authority();
    let (server, echo) = server(&member(&authority, Role::Manager));
    let to = server.local_addr();
    let good = client(&member(&authority, Role::Worker));
    good.call(to, None, &b"x"[..], SOON).await.unwrap();
    let bad = member(&authority, Role::Worker);
    for bytes in [
        &b""[..],
        &[1],
        &[1, 0, 0],
        &[1, 0, 0, 0, 9, 1, 2],
        &[2, 0, 0, 0, 9, 1],
    ] {
        // A call without a frame is refused alone.
        if bytes != [1] {
            assert_eq!(
                send_raw(&bad, to, bytes).await,
                code::BAD_FRAME,
                "{bytes:?}"
            );
        }
    }
    assert_eq!(server.counters().closed_truncated, 4);
    for len in [(16u32 << 20) + 1, u32::MAX] {
        let bytes = [&[1], &len.to_be_bytes()[..]].concat();
        assert_eq!(send_raw(&bad, to, &bytes).await, code::BAD_FRAME);
    }
    assert_eq!(server.counters().closed_oversized, 2);
    for kind in [0, 3, 255] {
        let code = send_raw(&bad, to, &[kind, 0, 0, 0, 0]).await;
        assert_eq!(code, code::BAD_FRAME);
    }
    assert_eq!(server.counters().closed_unknown_kind, 3);
    assert_eq!(echo.calls(), 1);
    good.call(to, None, &b"x"[..], SOON).await.unwrap();
    assert_eq!(good.counters().dialled, 1);
}

#[tokio::test]
async fn a_bad_frame_later_in_a_stream_costs_the_connection_too() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let to = server.local_addr();
    let bad = member(&authority, Role::Worker);
    let bytes = [&[2, 0, 0, 0, 1, 7][..], &[0xff; 8]].concat();
    assert_eq!(send_raw(&bad, to, &bytes).await, code::BAD_FRAME);
    assert_eq!(server.counters().closed_oversized, 1);
}

#[tokio::test]
async fn garbage_datagrams_are_counted_and_harm_nobody() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let to = server.local_addr();
    let socket = std::net::UdpSocket::bind(loopback()).unwrap();
    let mut sent = 0;
    for len in [1usize, 20, 1200, 1500, 9000] {
        for first in [0x00, 0x3f, 0x80, 0x40, 0xc3, 0xff] {
            let mut datagram = vec![0xa5; len];
            datagram[0] = first;
            socket.send_to(&datagram, to).unwrap();
            sent += 1;
        }
    }
    until(&server, |c| c.datagrams_received == sent).await;
    assert_eq!(server.counters().not_quic, sent / 2);
    let client = client(&member(&authority, Role::Worker));
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
}

#[tokio::test]
async fn a_stranger_may_not_open_streams() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let stranger = Transport::bind(loopback(), Limits::default()).unwrap();
    let connection = stranger_connection(&stranger, &authority, server.local_addr()).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[2, 0, 0, 0, 1, 7]).await.unwrap();
    let error = recv.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error, quinn::ReadError::Reset(code::REFUSED));
    assert_eq!(server.counters().refused_streams, 1);
    assert_eq!(server.counters().streams_served, 0);
}

async fn stranger_connection(
    transport: &Transport,
    authority: &Authority,
    to: SocketAddr,
) -> Connection {
    let core = &transport.core;
    let (config, _) =
        tls::pinned_client(&authority.digest(), tls::Protocol::Calls, &core.limits).unwrap();
    let dialled = core.endpoint.connect_with(config, to, tls::SERVER_NAME);
    dialled.unwrap().await.unwrap()
}

#[tokio::test]
async fn a_strangers_frames_are_small() {
    let authority = authority();
    let (server, echo) = server(&member(&authority, Role::Manager));
    let to = server.local_addr();
    let stranger = Transport::bind(loopback(), Limits::default()).unwrap();
    let pin = authority.digest();
    stranger
        .call_pinned(to, &pin, vec![0; 64 << 10], SOON)
        .await
        .unwrap();
    let error = stranger
        .call_pinned(to, &pin, vec![0; (64 << 10) + 1], SOON)
        .await;
    assert!(error.is_err());
    until(&server, |c| c.closed_oversized == 1).await;
    assert_eq!(echo.calls(), 1);
}

#[tokio::test]
async fn a_stranger_that_asks_nothing_is_sent_away() {
    let authority = authority();
    let limits = Limits {
        request_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let (server, _) = server_with(&member(&authority, Role::Manager), limits);
    let stranger = Transport::bind(loopback(), Limits::default()).unwrap();
    let connection = stranger_connection(&stranger, &authority, server.local_addr()).await;
    match timeout(SOON, connection.closed()).await.unwrap() {
        quinn::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, code::EXPIRED);
        }
        e => panic!("{e}"),
    }
}

#[tokio::test]
async fn a_request_that_does_not_arrive_is_given_up() {
    let authority = authority();
    let limits = Limits {
        request_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let (server, _) = server_with(&member(&authority, Role::Manager), limits);
    let bad = member(&authority, Role::Worker);
    let (_transport, connection) = raw_connection(&bad, server.local_addr()).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1, 0, 0, 0, 9, 1]).await.unwrap();
    let error = recv.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error, quinn::ReadError::Reset(code::FAILED));
    assert_eq!(server.counters().calls_timed_out, 1);
    assert!(connection.close_reason().is_none());
}

#[tokio::test]
async fn calls_beyond_the_limit_are_refused_and_counted() {
    let authority = authority();
    let limits = Limits {
        max_calls: 1,
        ..Limits::default()
    };
    let (server, echo) = server_with(&member(&authority, Role::Manager), limits);
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.call(to, None, &b"wait"[..], SOON).await })
    };
    echo.waiting.notified().await;
    let error = client.call(to, None, &b"x"[..], SOON).await.unwrap_err();
    assert!(matches!(error, CallError::Overloaded { .. }), "{error:?}");
    assert!(!error.maybe_delivered());
    echo.release.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap(), "wait");
    assert_eq!((echo.calls(), server.counters().overload), (1, 1));
    until(&server, |c| c.calls_served == 1).await;
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
}

#[tokio::test]
async fn request_bytes_beyond_the_limit_are_refused() {
    let authority = authority();
    let limits = Limits {
        max_request_bytes: 1000,
        ..Limits::default()
    };
    let (server, _) = server_with(&member(&authority, Role::Manager), limits);
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let error = client
        .call(to, None, vec![0; 1001], SOON)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Overloaded { .. }), "{error:?}");
    client.call(to, None, vec![0; 1000], SOON).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_refused_and_strangers_do_not_displace_members() {
    let authority = authority();
    let limits = Limits {
        max_connections: 2,
        max_stranger_connections: 1,
        ..Limits::default()
    };
    let (server, _) = server_with(&member(&authority, Role::Manager), limits);
    let to = server.local_addr();
    let stranger = Transport::bind(loopback(), Limits::default()).unwrap();
    let held = stranger_connection(&stranger, &authority, to).await;
    until(&server, |c| c.inbound_open == 1).await;
    let error = stranger
        .call_pinned(to, &authority.digest(), &b"x"[..], SOON)
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, CallError::Overloaded { .. }), "{error:?}");
    let members: Vec<_> = (0..3)
        .map(|_| client(&member(&authority, Role::Worker)))
        .collect();
    for member in &members[..2] {
        member.call(to, None, &b"x"[..], SOON).await.unwrap();
    }
    let error = members[2]
        .call(to, None, &b"x"[..], SOON)
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Overloaded { .. }), "{error:?}");
    assert_eq!(server.counters().overload, 2);
    members[0].close().await;
    until(&server, |c| c.inbound_open == 2).await;
    members[2].call(to, None, &b"x"[..], SOON).await.unwrap();
    assert!(held.close_reason().is_none());
}

#[tokio::test]
async fn a_member_with_too_many_connections_loses_its_oldest() {
    let authority = authority();
    let limits = Limits {
        max_connections_per_node: 2,
        ..Limits::default()
    };
    let (server, _) = server_with(&member(&authority, Role::Manager), limits);
    let identity = member(&authority, Role::Worker);
    let to = server.local_addr();
    let (_first, oldest) = raw_connection(&identity, to).await;
    let (_second, kept) = raw_connection(&identity, to).await;
    let (_third, newest) = raw_connection(&identity, to).await;
    timeout(SOON, oldest.closed()).await.unwrap();
    assert!(kept.close_reason().is_none() && newest.close_reason().is_none());
    assert_eq!(server.counters().overload, 1);
}

#[tokio::test]
async fn under_load_an_address_must_prove_itself_and_handshakes_are_limited() {
    let authority = authority();
    let limits = Limits {
        retry_above: 0,
        ..Limits::default()
    };
    let (server, _) = server_with(&member(&authority, Role::Manager), limits);
    let client = client(&member(&authority, Role::Worker));
    client
        .call(server.local_addr(), None, &b"x"[..], SOON)
        .await
        .unwrap();
    assert_eq!(
        (server.counters().retries, server.counters().accepted),
        (1, 1)
    );
    let limits = Limits {
        max_handshakes: 0,
        ..Limits::default()
    };
    let (server, _) = server_with(&member(&authority, Role::Manager), limits);
    let error = client
        .call(server.local_addr(), None, &b"x"[..], SOON)
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, CallError::Overloaded { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_answers_nonsense_is_an_error_for_its_caller() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let liar = Transport::bind(loopback(), Limits::default()).unwrap();
    liar.set_identity(identity).unwrap();
    let credentials = liar.core.credentials().unwrap();
    let config = credentials.server(&liar.core.limits).unwrap();
    liar.core.endpoint.set_server_config(Some(config));
    let endpoint = liar.core.endpoint.clone();
    tokio::spawn(async move {
        for answer in [&b""[..], &[0, 0], &[0, 0, 0, 9, 1], &[0xff; 4]] {
            let connection = endpoint.accept().await.unwrap().await.unwrap();
            let (mut send, _recv) = connection.accept_bi().await.unwrap();
            send.write_all(answer).await.unwrap();
            send.finish().unwrap();
            connection.closed().await;
        }
    });
    let caller = member(&authority, Role::Worker);
    for _ in 0..4 {
        let client = client(&caller);
        let error = client.call(liar.local_addr(), None, &b"x"[..], SOON).await;
        let error = error.unwrap_err();
        let malformed = matches!(
            error,
            CallError::Malformed { .. } | CallError::TooLarge { .. }
        );
        assert!(malformed, "{error:?}");
        client.close().await;
    }
}
