use super::*;

async fn refused(client: &Transport, to: SocketAddr, expect: Option<NodeId>) -> CallError {
    client.call(to, expect, &b"x"[..], SOON).await.unwrap_err()
}

#[tokio::test]
async fn members_of_another_ca_are_refused_by_either_side() {
    let (ours, theirs) = (authority(), authority());
    let (server, echo) = server(&member(&ours, Role::Manager));
    let client = client(&member(&theirs, Role::Manager));
    let error = refused(&client, server.local_addr(), None).await;
    assert!(matches!(error, CallError::NotTrusted { .. }), "{error:?}");
    assert_eq!(echo.calls(), 0);
    until(&server, |c| c.handshakes_failed == 1).await;
}

/// Trusts our CA and shows a certificate of its own: the server must see through it.
#[tokio::test]
async fn a_client_certificate_of_another_ca_is_refused_by_the_server() {
    let (ours, theirs) = (authority(), authority());
    let (server, echo) = server(&member(&ours, Role::Manager));
    let impostor = client(&member(&theirs, Role::Manager));
    let trusting = Credentials::new(member(&ours, Role::Manager)).unwrap();
    let showing = Credentials::new(member(&theirs, Role::Manager)).unwrap();
    let mixed = trusting.showing(&showing);
    *impostor.core.credentials.write().unwrap() = Some(Arc::new(mixed));
    let error = refused(&impostor, server.local_addr(), None).await;
    assert!(matches!(error, CallError::Refused { .. }), "{error:?}");
    assert!(!error.maybe_delivered());
    assert_eq!(echo.calls(), 0);
    assert_eq!(server.counters().refused_tls, 1);
    assert_eq!(server.counters().accepted, 0);
}

#[tokio::test]
async fn a_certificate_of_our_ca_for_another_cluster_is_refused() {
    let ours = authority();
    let (server, echo) = server(&member(&ours, Role::Manager));
    let node = client(&member(&ours, Role::Worker));
    let elsewhere = ClusterId::new([8; 10]);
    let mut credentials = Credentials::new(member(&ours, Role::Worker)).unwrap();
    credentials.set_cluster(elsewhere);
    *node.core.credentials.write().unwrap() = Some(Arc::new(credentials));
    let error = refused(&node, server.local_addr(), None).await;
    assert!(error.to_string().contains("another cluster"), "{error}");
    assert_eq!(echo.calls(), 0);
}

#[tokio::test]
async fn an_address_where_another_node_answers_is_refused_and_the_right_one_served() {
    let authority = authority();
    let identity = member(&authority, Role::Manager);
    let (server, echo) = server(&identity);
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let other = member(&authority, Role::Manager).node;
    for _ in 0..2 {
        let error = refused(&client, to, Some(other)).await;
        match error {
            CallError::WrongNode {
                expected, found, ..
            } => {
                assert_eq!((expected, found), (other, identity.node));
            }
            e => panic!("{e:?}"),
        }
        assert_eq!(echo.calls(), 0);
    }
    client
        .call(to, Some(identity.node), &b"x"[..], SOON)
        .await
        .unwrap();
    // Also when a connection to the address is open, which stays as it is.
    let error = refused(&client, to, Some(other)).await;
    assert!(matches!(error, CallError::WrongNode { .. }), "{error:?}");
    let before = client.counters().dialled;
    client
        .call(to, Some(identity.node), &b"x"[..], SOON)
        .await
        .unwrap();
    assert_eq!((echo.calls(), client.counters().dialled), (2, before));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_either_side() {
    let authority = authority();
    let past = SystemTime::now() - DAY * 30;
    let valid = member(&authority, Role::Manager);
    let (server, echo) = server(&member_at(&authority, Role::Manager, past));
    let error = refused(&client(&valid), server.local_addr(), None).await;
    assert!(
        error.to_string().to_lowercase().contains("expired"),
        "{error}"
    );
    assert_eq!(echo.calls(), 0);
    let (server, echo) = super::server(&valid);
    let expired = client(&member_at(&authority, Role::Manager, past));
    let error = refused(&expired, server.local_addr(), None).await;
    assert!(matches!(error, CallError::Refused { .. }), "{error:?}");
    assert_eq!(echo.calls(), 0);
}

#[tokio::test]
async fn a_certificate_from_the_future_is_refused_but_an_hour_of_clock_difference_is_not() {
    let authority = authority();
    let client = client(&member(&authority, Role::Worker));
    let ahead = |by| member_at(&authority, Role::Manager, SystemTime::now() + by);
    let (server, _) = server(&ahead(Duration::from_secs(3000)));
    client
        .call(server.local_addr(), None, &b"x"[..], SOON)
        .await
        .unwrap();
    let (server, _) = super::server(&ahead(DAY));
    refused(&client, server.local_addr(), None).await;
}

#[tokio::test]
async fn a_joiner_reaches_a_manager_of_the_pinned_ca_as_a_stranger() {
    let authority = authority();
    let (server, echo) = server(&member(&authority, Role::Manager));
    let joiner = Transport::bind(loopback(), Limits::default()).unwrap();
    let pin = authority.digest();
    let answer = joiner
        .call_pinned(server.local_addr(), &pin, &b"join"[..], SOON)
        .await;
    assert_eq!(answer.unwrap(), "join");
    let (caller, from) = echo.last_caller.lock().unwrap().unwrap();
    assert_eq!((caller, from), (Caller::Stranger, joiner.local_addr()));
    until(&server, |c| c.inbound_open == 0).await;
}

#[tokio::test]
async fn a_joiner_says_nothing_to_a_cluster_that_its_token_is_not_for() {
    let (ours, theirs) = (authority(), authority());
    let (server, echo) = server(&member(&theirs, Role::Manager));
    let joiner = Transport::bind(loopback(), Limits::default()).unwrap();
    let to = server.local_addr();
    let error = joiner
        .call_pinned(to, &ours.digest(), &b"secret"[..], SOON)
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, CallError::WrongCa { .. }), "{error:?}");
    until(&server, |c| c.handshakes_failed == 1).await;
    assert_eq!((echo.calls(), server.counters().accepted), (0, 0));
}

#[tokio::test]
async fn a_stolen_ca_certificate_without_its_signature_is_not_enough_for_a_joiner() {
    let (ours, theirs) = (authority(), authority());
    let (server, echo) = server(&member(&theirs, Role::Manager));
    let showing = Credentials::new(member(&theirs, Role::Manager)).unwrap();
    let config = showing.with_ca(ours.cert_der()).server(&server.core.limits);
    server
        .core
        .endpoint
        .set_server_config(Some(config.unwrap()));
    let joiner = Transport::bind(loopback(), Limits::default()).unwrap();
    let to = server.local_addr();
    let error = joiner
        .call_pinned(to, &ours.digest(), &b"secret"[..], SOON)
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, CallError::NotTrusted { .. }), "{error:?}");
    assert_eq!(echo.calls(), 0);
}

#[tokio::test]
async fn a_worker_cannot_take_a_joiner_in() {
    let authority = authority();
    let (server, echo) = server(&member(&authority, Role::Worker));
    let joiner = Transport::bind(loopback(), Limits::default()).unwrap();
    let to = server.local_addr();
    let error = joiner
        .call_pinned(to, &authority.digest(), &b"secret"[..], SOON)
        .await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("ask a manager"), "{error}");
    assert_eq!(echo.calls(), 0);
}

#[tokio::test]
async fn nobody_answers_a_joiner() {
    let limits = Limits {
        handshake_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let joiner = Transport::bind(loopback(), limits).unwrap();
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let to = silent.local_addr().unwrap();
    let pin = authority().digest();
    let error = joiner.call_pinned(to, &pin, &b"secret"[..], SOON).await;
    let error = error.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error:?}");
}
