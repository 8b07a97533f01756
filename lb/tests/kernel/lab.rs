//! A client and backends on one switch, and programs in them that talk.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU16;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{self, shutdown};
use weft_lb::spec::{Address, Backend, Ports, Protocol, Scheduler, Service, ServiceKey, Spec};
use weft_lb::{Balancer, Report};

use super::ns::{Ns, join, switch};

pub(super) const TABLE: &str = "weft-lb";
/// Service addresses, on the link like those of an overlay network; nobody has them.
pub(super) const VIP4: &str = "10.1.0.200";
pub(super) const VIP6: &str = "fd00:1::200";
pub(super) const CLIENT4: &str = "10.1.0.1";
pub(super) const CLIENT6: &str = "fd00:1::1";
pub(super) const BACKENDS4: [&str; 3] = ["10.1.0.11", "10.1.0.12", "10.1.0.13"];
pub(super) const BACKENDS6: [&str; 3] = ["fd00:1::11", "fd00:1::12", "fd00:1::13"];
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// A client, three backends, and the switch between them.
pub(super) struct Lab {
    pub(super) client: Ns,
    pub(super) backends: [Ns; 3],
    _switch: Ns,
    servers: Vec<Server>,
}

impl Lab {
    pub(super) fn new() -> Self {
        let (client, middle) = (Ns::new(), Ns::new());
        let backends = [Ns::new(), Ns::new(), Ns::new()];
        let clients = [
            "10.1.0.1/24",
            "10.1.0.2/24",
            "10.1.0.3/24",
            "10.1.0.4/24",
            "fd00:1::1/64",
        ];
        join("eth0", (&client, &clients), (&middle, &[]));
        let places = [
            ("eth1", ["10.1.0.11/24", "fd00:1::11/64"]),
            ("eth2", ["10.1.0.12/24", "fd00:1::12/64"]),
            ("eth3", ["10.1.0.13/24", "fd00:1::13/64"]),
        ];
        for (backend, (ifname, addresses)) in backends.iter().zip(places) {
            join(ifname, (backend, &addresses), (&middle, &[]));
        }
        switch(&middle, &["eth0", "eth1", "eth2", "eth3"]);
        Self {
            client,
            backends,
            _switch: middle,
            servers: Vec::new(),
        }
    }

    /// With servers on a port of every backend, which answer with their own address.
    pub(super) fn serving(protocol: Protocol, port: u16) -> Self {
        let mut lab = Self::new();
        for (index, (v4, v6)) in BACKENDS4.iter().zip(BACKENDS6).enumerate() {
            for address in [v4, v6] {
                lab.serve(index, protocol, address, port);
            }
        }
        lab
    }

    pub(super) fn serve(&mut self, backend: usize, protocol: Protocol, address: &str, port: u16) {
        let at = SocketAddr::new(address.parse().unwrap(), port);
        let server = Server::new(&self.backends[backend], protocol, at);
        self.servers.push(server);
    }

    pub(super) fn balancer(&self) -> Balancer {
        balancer(&self.client)
    }

    /// Asks a service so often, each time anew; how often each backend answered. All of them saw
    /// the client's own address.
    pub(super) fn ask(&self, service: &ServiceKey, times: usize) -> BTreeMap<String, usize> {
        let to = address_of(service);
        let client = if to.is_ipv4() { CLIENT4 } else { CLIENT6 };
        let Ports::One(protocol, _) = service.ports else {
            panic!("no port: {service}");
        };
        ask(&self.client, protocol, client.parse().unwrap(), to, times)
    }

    /// A connection to a service, and the backend that it has.
    pub(super) fn connect(&self, service: &ServiceKey) -> Connection {
        let to = address_of(service);
        self.client
            .run(move || Connection::open(to).expect("a connection"))
    }
}

/// How often which backend answered when asked from an address that it is to see.
pub(super) fn ask(
    ns: &Ns,
    protocol: Protocol,
    from: IpAddr,
    to: SocketAddr,
    times: usize,
) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    ns.run(|| {
        for _ in 0..times {
            let (backend, seen) = match protocol {
                Protocol::Tcp => {
                    let connection = Connection::open(to).expect("a connection");
                    (connection.backend, connection.seen)
                }
                Protocol::Udp => ask_udp(SocketAddr::new(from, fresh_port()), to),
            };
            assert_eq!(seen.ip(), from, "{backend} saw another address");
            *answers.entry(backend).or_default() += 1;
        }
    });
    answers
}

/// A port that no flow had yet: one that comes again soon has the backend that it had.
pub(super) fn fresh_port() -> u16 {
    static COUNT: AtomicU16 = AtomicU16::new(0);
    10_000 + COUNT.fetch_add(1, Ordering::Relaxed) % 10_000
}

/// Asks by a datagram from that very address, in the calling thread's namespace: who answered, and
/// the address that it saw.
pub(super) fn ask_udp(from: SocketAddr, to: SocketAddr) -> (String, SocketAddr) {
    let socket = UdpSocket::bind(from).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    // A connected socket takes answers of the service's address only.
    socket.connect(to).unwrap();
    socket.send(b"who").unwrap();
    let mut answer = [0; 200];
    let len = socket.recv(&mut answer).expect("an answer");
    parse(std::str::from_utf8(&answer[..len]).unwrap())
}

pub(super) fn balancer(ns: &Ns) -> Balancer {
    Balancer::open(&ns.0, TABLE).unwrap()
}

/// A TCP connection to a backend.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    pub(super) backend: String,
    seen: SocketAddr,
}

impl Connection {
    /// In the calling thread's namespace.
    pub(super) fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let (backend, seen) = parse(&line);
        Ok(Self {
            stream,
            backend,
            seen,
        })
    }

    pub(super) fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }

    /// Sends a line there and back.
    pub(super) fn echo(&mut self, text: &str) {
        writeln!(self.stream.get_mut(), "{text}").expect("a line sent");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("a line back");
        assert_eq!(line.trim(), text);
    }
}

/// `BACKEND PEER`
fn parse(line: &str) -> (String, SocketAddr) {
    let (backend, seen) = line.trim().split_once(' ').expect("an answer");
    (backend.to_owned(), seen.parse().unwrap())
}

/// A program that tells who it is and whom it sees, until it is dropped.
struct Server {
    stop: Arc<AtomicBool>,
    listener: Option<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(ns: &Ns, protocol: Protocol, at: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, name) = (Arc::clone(&stop), at.to_string());
        let (listener, thread) = match protocol {
            Protocol::Tcp => {
                let listener = ns.run(|| TcpListener::bind(at)).unwrap();
                let handle = listener.try_clone().unwrap();
                let work = move || serve_tcp(&listener, &name, &stopped);
                (Some(handle), std::thread::spawn(work))
            }
            Protocol::Udp => {
                let socket = ns.run(|| UdpSocket::bind(at)).unwrap();
                (
                    None,
                    std::thread::spawn(move || serve_udp(&socket, &name, &stopped)),
                )
            }
        };
        Self {
            stop,
            listener,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            // Ends a wait for connections.
            let _ = shutdown(listener.as_raw_fd(), socket::Shutdown::Both);
        }
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while let Ok((mut stream, peer)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let hello = format!("{name} {peer}\n");
        std::thread::spawn(move || {
            let _ = stream.write_all(hello.as_bytes());
            let mut back = stream.try_clone().expect("a stream");
            let _ = std::io::copy(&mut back, &mut stream);
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
}

fn serve_udp(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    // How long a server outlives its end at most.
    let pause = Duration::from_millis(50);
    socket.set_read_timeout(Some(pause)).unwrap();
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
            let _ = socket.send_to(format!("{name} {peer}").as_bytes(), peer);
        }
    }
}

pub(super) fn vip(address: &str, protocol: Protocol, port: u16) -> ServiceKey {
    ServiceKey {
        address: Address::Vip(address.parse().unwrap()),
        ports: Ports::One(protocol, NonZeroU16::new(port).unwrap()),
    }
}

pub(super) fn all_ports(address: &str) -> ServiceKey {
    ServiceKey {
        address: Address::Vip(address.parse().unwrap()),
        ports: Ports::All,
    }
}

pub(super) fn address_of(service: &ServiceKey) -> SocketAddr {
    let (Address::Vip(address), Ports::One(_, port)) = (service.address, service.ports) else {
        panic!("no address with a port: {service}");
    };
    SocketAddr::new(address, port.get())
}

/// With port 0 it has none.
pub(super) fn backend(address: &str, port: u16) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        port: NonZeroU16::new(port),
    }
}

/// Backends on one port, each with a weight.
pub(super) fn service<'a>(
    scheduler: Scheduler,
    port: u16,
    backends: impl IntoIterator<Item = (&'a str, u16)>,
) -> Service {
    let backends = backends.into_iter();
    Service {
        scheduler,
        affinity: None,
        idle: None,
        backends: backends
            .map(|(address, weight)| (backend(address, port), weight))
            .collect(),
    }
}

/// One service of that kind over all backends of its family.
pub(super) fn all_of(key: ServiceKey, scheduler: Scheduler, port: u16) -> Spec {
    let backends = if address_of(&key).is_ipv4() {
        BACKENDS4
    } else {
        BACKENDS6
    };
    [(key, service(scheduler, port, backends.map(|b| (b, 1))))].into()
}

/// A counter of a namespace for IPv4, or for TCP over both: `Tcp`, `RetransSegs`.
pub(super) fn counter(ns: &Ns, group: &str, name: &str) -> u64 {
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
    let text = text.unwrap();
    // A line of names, a line of values.
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "))
        .map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let found = names.zip(values).find(|(n, _)| *n == name);
    found.unwrap().1.parse().unwrap()
}

/// A counter of a namespace for IPv6: `Icmp6InEchos`.
pub(super) fn counter6(ns: &Ns, name: &str) -> u64 {
    let text = ns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp6"));
    let text = text.unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != name);
    words.nth(1).unwrap().parse().unwrap()
}

/// Nothing had to be done.
pub(super) fn assert_settled(report: Report) {
    assert_eq!((report.ops, report.created), (0, false), "{report:?}");
}
