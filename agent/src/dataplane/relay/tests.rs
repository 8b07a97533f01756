use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener as Server, TcpStream as Client};
use std::sync::atomic::AtomicU16;
use std::thread;

use weft_lb::relay::{Listener, Scheduler};

use super::*;

fn relay() -> Arc<Relay> {
    Arc::new(Relay::new(4096))
}

/// Where nobody listens, nor does another test: an address of this process's own, and no port that
/// the kernel gives anybody by itself (`net.ipv4.ip_local_port_range`).
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let port = NEXT.fetch_add(1, Ordering::Relaxed);
    SocketAddr::from(([127, a | 0x80, b, c], port))
}

fn listener(backends: &[SocketAddr], tag: u64) -> Listener {
    let member = Member { weight: 1, tag };
    Listener {
        scheduler: Scheduler::RoundRobin,
        affinity_s: None,
        mss: None,
        backends: backends.iter().map(|at| (*at, member)).collect(),
    }
}

/// Accepts one connection, reads to its end, and answers with the length and all of it.
fn server() -> (SocketAddr, thread::JoinHandle<()>) {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    (at, serving)
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let work = tokio::task::spawn_blocking(work);
    async { work.await.unwrap() }
}

#[tokio::test]
async fn bytes_follow_the_header_and_the_end_of_one_side_is_passed_on() {
    let relay = relay();
    let (at, (backend, serving)) = (free(), server());
    relay.want([(at, listener(&[backend], 1))].into()).unwrap();
    let sent: Vec<u8> = (0..1_000_000u32).map(|i| i.to_le_bytes()[1]).collect();
    let sending = sent.clone();
    let (from, all) = blocking(move || {
        let mut client = Client::connect(at).unwrap();
        let mut writer = client.try_clone().unwrap();
        let writing = thread::spawn(move || {
            writer.write_all(&sending).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        writing.join().unwrap();
        (client.local_addr().unwrap(), all)
    })
    .await;
    serving.join().unwrap();
    let (header, rest) = all.split_at(28);
    assert_eq!(header, relay::header::v2(from, at));
    assert!(rest == sent);
    let state = relay.state();
    let counted: Vec<_> = { state.backends.iter() }
        .map(|backend| (backend.total, backend.bytes_in, backend.bytes_out))
        .collect();
    assert_eq!(counted, [(1, 1_000_000, 1_000_028)]);
}

#[tokio::test]
async fn who_refuses_is_passed_over_and_without_anybody_the_client_is_reset() {
    let relay = relay();
    let (at, (backend, serving)) = (free(), server());
    relay
        .want([(at, listener(&[free(), backend], 1))].into())
        .unwrap();
    let ask = move || {
        // It may be reset as soon as it is connected.
        let mut client = Client::connect(at).unwrap();
        client.write_all(b"x")?;
        client.shutdown(Shutdown::Write)?;
        let mut all = Vec::new();
        client.read_to_end(&mut all)
    };
    assert_eq!(blocking(ask).await.unwrap(), 29);
    serving.join().unwrap();
    relay.want([(at, listener(&[free()], 1))].into()).unwrap();
    assert!(blocking(ask).await.is_err());
    assert_eq!(relay.state().unreachable, 1);
}

#[tokio::test]
async fn connections_of_a_backend_that_goes_are_reset_and_then_all_is_done() {
    let relay = relay();
    let server = Server::bind("127.0.0.1:0").unwrap();
    let (at, backend) = (free(), server.local_addr().unwrap());
    relay.want([(at, listener(&[backend], 1))].into()).unwrap();
    let mut client = blocking(move || Client::connect(at).unwrap()).await;
    let take = move || {
        let (mut taken, _) = server.accept().unwrap();
        taken.read_exact(&mut [0; 28]).unwrap();
        taken
    };
    let _taken = blocking(take).await;
    assert!(!relay.is_done());
    // Another has its address.
    relay.want([(at, listener(&[backend], 2))].into()).unwrap();
    let error = blocking(move || client.read(&mut [0]).unwrap_err()).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    relay.want(RelaySpec::new()).unwrap();
    while !relay.is_done() {
        relay.changed.notified().await;
    }
    // The socket goes with the task that was stopped.
    while Client::connect(at).is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn sockets_that_were_handed_over_lose_nobody() {
    let (old, new) = (relay(), relay());
    let (at, (backend, serving)) = (free(), server());
    old.want([(at, listener(&[backend], 1))].into()).unwrap();
    let (wanted, sockets) = old.to_hand_over();
    let copies = sockets.iter().map(|(at, socket)| {
        use std::os::fd::AsFd;
        (*at, socket.as_fd().try_clone_to_owned().unwrap())
    });
    new.adopt(wanted, copies.collect()).unwrap();
    drop(sockets);
    old.succeeded();
    assert!(old.is_done() && old.state().succeeded && !new.is_done());
    let length = blocking(move || {
        let mut client = Client::connect(at).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all.len()
    });
    assert_eq!(length.await, 28);
    serving.join().unwrap();
    assert_eq!(new.state().backends.len(), 1);
    // What is no port here is said.
    let odd: SocketAddr = "127.0.0.1:0".parse().unwrap();
    assert!(new.want([(odd, listener(&[], 1))].into()).is_err());
}

#[tokio::test]
async fn too_many_connections_are_refused_and_counted() {
    let relay = Arc::new(Relay::new(0));
    let server = Server::bind("127.0.0.1:0").unwrap();
    let (at, backend) = (free(), server.local_addr().unwrap());
    relay.want([(at, listener(&[backend], 1))].into()).unwrap();
    let first = blocking(move || Client::connect(at).unwrap()).await;
    let taken = blocking(move || server.accept().unwrap()).await;
    let refused = move || Client::connect(at).and_then(|mut client| client.read(&mut [0]));
    assert!(blocking(refused).await.is_err());
    assert_eq!((relay.state().connections, relay.state().refused), (1, 1));
    drop((first, taken));
}
