//! A client, a director and two backends, with programs in them that talk.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_test_netns::{Ns, join, route};

/// The address that clients speak to.
pub(crate) const DIRECTOR: &str = "10.0.0.1";
/// Where the director sends them.
pub(crate) const BACKENDS: [&str; 2] = ["10.0.1.2", "10.0.2.2"];
/// The port there.
pub(crate) const SERVED_PORT: u16 = 8080;
/// How long one measurement takes. A machine whose clock counts instructions needs no longer one.
const LENGTH: Duration = Duration::from_millis(500);
/// No answer takes longer.
const DEADLINE: Duration = Duration::from_secs(30);
/// The client asks for an answer.
const ASK: u8 = b'a';
/// The client sends much, and wants an answer when all is there.
const STREAM: u8 = b's';

pub(crate) struct World {
    pub(crate) director: Ns,
    client: Ns,
    _backends: [Ns; 2],
    /// Connections that each backend had.
    served: [Arc<AtomicU64>; 2],
}

impl World {
    pub(crate) fn new() -> Self {
        let (client, director) = (Ns::new(), Ns::new());
        let backends = [Ns::new(), Ns::new()];
        join(
            "eth0",
            (&client, &["10.0.0.2/24"]),
            (&director, &["10.0.0.1/24"]),
        );
        join(
            "eth1",
            (&backends[0], &["10.0.1.2/24"]),
            (&director, &["10.0.1.1/24"]),
        );
        join(
            "eth2",
            (&backends[1], &["10.0.2.2/24"]),
            (&director, &["10.0.2.1/24"]),
        );
        let everything = (Ipv4Addr::UNSPECIFIED, 0);
        route(&backends[0], everything, Ipv4Addr::new(10, 0, 1, 1));
        route(&backends[1], everything, Ipv4Addr::new(10, 0, 2, 1));
        director.0.set_sysctl("ipv4/ip_forward", "1").unwrap();
        for end in [&client, &backends[0], &backends[1]] {
            let (name, value) = ("ipv4/tcp_congestion_control", "cubic");
            end.0.set_sysctl(name, value).unwrap();
        }
        let served = backends.each_ref().map(|backend| {
            let served = Arc::new(AtomicU64::new(0));
            serve(backend, Arc::clone(&served));
            served
        });
        Self {
            director,
            client,
            _backends: backends,
            served,
        }
    }

    /// Connections per second, one after another, each with an answer, of which a backend closes
    /// every one first.
    pub(crate) fn connections(&self, port: u16) -> f64 {
        self.client.run(|| {
            let start = Instant::now();
            let mut count = 0u32;
            while start.elapsed() < LENGTH {
                let mut connection = open(port, ASK);
                let mut answer = Vec::new();
                connection.read_to_end(&mut answer).unwrap();
                assert_eq!(answer, [ASK]);
                count += 1;
            }
            f64::from(count) / start.elapsed().as_secs_f64()
        })
    }

    /// Mbit/s of one stream from the client to a backend.
    pub(crate) fn throughput(&self, port: u16) -> f64 {
        self.client.run(|| {
            let block = vec![0; 64 << 10];
            let mut connection = open(port, STREAM);
            let start = Instant::now();
            let mut blocks = 0u32;
            while start.elapsed() < LENGTH {
                connection.write_all(&block).unwrap();
                blocks += 1;
            }
            connection.shutdown(std::net::Shutdown::Write).unwrap();
            // The backend has read all.
            connection.read_exact(&mut [0]).unwrap();
            let bits = f64::from(blocks) * 8.0 * 65_536.0;
            bits / start.elapsed().as_secs_f64() / 1e6
        })
    }

    /// That both backends had their share. (Where many services take turns, most choose by chance.)
    pub(crate) fn check_spread(&self, who: &str) {
        let served = self.served.each_ref().map(|s| s.load(Ordering::SeqCst));
        let apart = served[0].abs_diff(served[1]);
        let all = served[0] + served[1];
        assert!(apart <= all / 20 + 2, "{who} is one-sided: {served:?}");
    }
}

/// A connection to the published port, from the calling thread's namespace, with what it is for.
fn open(port: u16, purpose: u8) -> TcpStream {
    let to = SocketAddr::new(DIRECTOR.parse().unwrap(), port);
    let mut connection = TcpStream::connect_timeout(&to, DEADLINE).expect("a connection");
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    connection.write_all(&[purpose]).unwrap();
    connection
}

/// Answers one connection after another until the process ends.
fn serve(backend: &Ns, served: Arc<AtomicU64>) {
    let listener = backend.run(|| TcpListener::bind(("0.0.0.0", SERVED_PORT)).unwrap());
    thread::spawn(move || {
        let mut buffer = vec![0; 256 << 10];
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            served.fetch_add(1, Ordering::SeqCst);
            let mut purpose = [0];
            connection.read_exact(&mut purpose).unwrap();
            while purpose[0] == STREAM && connection.read(&mut buffer).unwrap() > 0 {}
            connection.write_all(&purpose).unwrap();
        }
    });
}
