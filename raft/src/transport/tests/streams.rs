use super::*;

fn watch_ends(echo: &Echo) -> mpsc::UnboundedReceiver<Option<StreamError>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    *echo.ended.lock().unwrap() = Some(sender);
    receiver
}

#[tokio::test]
async fn frames_go_both_ways_until_one_side_finishes() {
    let authority = authority();
    let (server, echo) = server(&member(&authority, Role::Manager));
    let mut ends = watch_ends(&echo);
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let stream = client.open(to, None, &b"first"[..], SOON).await.unwrap();
    let (mut sender, mut receiver) = stream.split();
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "first");
    let sending = tokio::spawn(async move {
        for i in 0..1000u32 {
            sender.send(vec![i as u8; i as usize]).await.unwrap();
        }
        sender.finish();
    });
    for i in 0..1000u32 {
        let body = receiver.recv().await.unwrap().unwrap();
        assert_eq!(body, vec![i as u8; i as usize]);
    }
    assert!(receiver.recv().await.unwrap().is_none());
    assert!(ends.recv().await.unwrap().is_none());
    sending.await.unwrap();
    assert_eq!(server.counters().streams_served, 1);
}

#[tokio::test]
async fn a_snapshot_of_tens_of_megabytes_passes_in_frames() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let client = client(&member(&authority, Role::Manager));
    let to = server.local_addr();
    let stream = client.open(to, None, Bytes::new(), SOON).await.unwrap();
    let (mut sender, mut receiver) = stream.split();
    let block: Bytes = vec![0x5a; 1 << 20].into();
    let sent = block.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..40 {
            sender.send(sent.clone()).await.unwrap();
        }
        sender.finish();
    });
    assert!(receiver.recv().await.unwrap().unwrap().is_empty());
    for _ in 0..40 {
        assert!(receiver.recv().await.unwrap().unwrap() == block);
    }
    assert!(receiver.recv().await.unwrap().is_none());
    sending.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_dropped_ends_as_an_error_on_the_other_side() {
    let authority = authority();
    let (server, echo) = server(&member(&authority, Role::Manager));
    let mut ends = watch_ends(&echo);
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let mut stream = client.open(to, None, &b"first"[..], SOON).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap(), "first");
    drop(stream);
    let end = ends.recv().await.unwrap();
    assert!(matches!(end, Some(StreamError::Closed)), "{end:?}");
    client.call(to, None, &b"x"[..], SOON).await.unwrap();
    assert_eq!(client.counters().dialled, 1);
}

#[tokio::test]
async fn the_sender_notices_that_nobody_reads_any_more() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let stream = client.open(to, None, &b"first"[..], SOON).await.unwrap();
    let (mut sender, _receiver) = stream.split();
    server.close().await;
    timeout(SOON, sender.closed()).await.unwrap();
    let error = sender.send(&b"x"[..]).await.unwrap_err();
    assert!(matches!(error, StreamError::Lost(_)), "{error:?}");
}

#[tokio::test]
async fn a_frame_over_the_limit_is_refused_before_it_is_sent() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let mut stream = client.open(to, None, &b"first"[..], SOON).await.unwrap();
    let error = stream.send(vec![0; (16 << 20) + 1]).await.unwrap_err();
    assert!(matches!(error, StreamError::TooLarge { .. }), "{error:?}");
    stream.send(&b"x"[..]).await.unwrap();
    assert_eq!(stream.recv().await.unwrap().unwrap(), "first");
    assert_eq!(stream.recv().await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn a_send_that_was_cancelled_half_way_makes_the_stream_unusable_not_garbled() {
    let authority = authority();
    let (server, echo) = server(&member(&authority, Role::Manager));
    let mut ends = watch_ends(&echo);
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let mut stream = client.open(to, None, &b"first"[..], SOON).await.unwrap();
    // The echo is not read, so flow control stops it, and us after it.
    let block: Bytes = vec![1; 16 << 20].into();
    let wait = Duration::from_millis(500);
    while let Ok(sent) = timeout(wait, stream.send(block.clone())).await {
        sent.unwrap();
    }
    let error = stream.send(&b"x"[..]).await.unwrap_err();
    assert!(matches!(error, StreamError::Cancelled), "{error:?}");
    stream.finish();
    let end = ends.recv().await.unwrap();
    assert!(matches!(end, Some(StreamError::Closed)), "{end:?}");
    assert_eq!(server.counters().closed_truncated, 0);
}

#[tokio::test]
async fn receiving_may_be_cancelled_without_loss() {
    let authority = authority();
    let (server, _) = server(&member(&authority, Role::Manager));
    let client = client(&member(&authority, Role::Worker));
    let to = server.local_addr();
    let stream = client.open(to, None, &b"first"[..], SOON).await.unwrap();
    let (mut sender, mut receiver) = stream.split();
    let sending = tokio::spawn(async move {
        for i in 0..50u8 {
            sender.send(vec![i; 10_000]).await.unwrap();
        }
        sender.finish();
    });
    let mut received = Vec::new();
    loop {
        let tick = Duration::from_micros(50);
        match timeout(tick, receiver.recv()).await {
            Ok(Ok(Some(body))) => received.push(body),
            Ok(Ok(None)) => break,
            Ok(Err(e)) => panic!("{e}"),
            Err(_) => {}
        }
    }
    sending.await.unwrap();
    assert_eq!(received.len(), 51);
    for (i, body) in received.iter().skip(1).enumerate() {
        assert_eq!(*body, vec![i as u8; 10_000]);
    }
}
