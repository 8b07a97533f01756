//! Programs that tell who they are and whom they see, and questions to them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, shutdown};
use weft_lb::spec::Protocol;

use super::ns::Ns;

/// For what should come.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// For what should not. A counter tells beside it that it did not come late.
pub(super) const PATIENCE: Duration = Duration::from_millis(400);
/// How long a question in a datagram waits before it is repeated, from the same port.
const REPEAT: Duration = Duration::from_secs(2);

pub(super) const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// Who answered, and the address that it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) who: String,
    pub(super) seen: IpAddr,
}

impl Answer {
    fn parse(line: &str) -> Self {
        let (who, seen) = line.trim().split_once(' ').expect("an answer");
        let seen: IpAddr = seen.parse().expect(seen);
        Self {
            who: who.to_owned(),
            seen: seen.to_canonical(),
        }
    }
}

/// Asks from that namespace.
pub(super) fn ask(ns: &Ns, protocol: Protocol, to: SocketAddr) -> io::Result<Answer> {
    ask_within(ns, protocol, to, DEADLINE)
}

/// Whether nobody answers for a while, and nobody refuses either.
pub(super) fn is_silent(ns: &Ns, protocol: Protocol, to: SocketAddr) -> bool {
    let answer = ask_within(ns, protocol, to, PATIENCE);
    let kinds = [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock];
    answer.is_err_and(|error| kinds.contains(&error.kind()))
}

fn ask_within(ns: &Ns, protocol: Protocol, to: SocketAddr, limit: Duration) -> io::Result<Answer> {
    ns.run(|| match protocol {
        Protocol::Tcp => Ok(Connection::open(to, limit)?.answer),
        Protocol::Udp => ask_udp(to, limit),
    })
}

fn ask_udp(to: SocketAddr, limit: Duration) -> io::Result<Answer> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // A connected socket takes answers of that address only.
    socket.connect(to)?;
    socket.set_read_timeout(Some(limit.min(REPEAT)))?;
    let start = Instant::now();
    loop {
        socket.send(b"who")?;
        let mut answer = [0; 200];
        match socket.recv(&mut answer) {
            Ok(len) => return Ok(Answer::parse(std::str::from_utf8(&answer[..len]).unwrap())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < limit => {}
            Err(error) => return Err(error),
        }
    }
}

/// A TCP connection to a server.
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
    pub(super) answer: Answer,
}

impl Connection {
    /// In the calling thread's namespace.
    pub(super) fn open(to: SocketAddr, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, limit)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let answer = Answer::parse(&line);
        Ok(Self { stream, answer })
    }

    /// Sends so many bytes there and back, at once.
    pub(super) fn echo(&mut self, len: usize) {
        let mut out = self.stream.get_ref().try_clone().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || out.write_all(&vec![b'x'; len]).expect("bytes sent"));
            let mut back = vec![0; len];
            self.stream.read_exact(&mut back).expect("bytes back");
            assert!(back.iter().all(|byte| *byte == b'x'));
        });
    }
}

/// A program on a port of all addresses of a namespace, over TCP and UDP, until it is dropped.
pub(super) struct Server {
    stop: Arc<AtomicBool>,
    listener: TcpListener,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(super) fn new(ns: &Ns, name: &str, port: u16) -> Self {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let bind = || Ok::<_, io::Error>((TcpListener::bind(any)?, UdpSocket::bind(any)?));
        let (tcp, udp) = ns.run(bind).expect("a free port");
        let stop = Arc::new(AtomicBool::new(false));
        let listener = tcp.try_clone().unwrap();
        let (first, second) = (name.to_owned(), name.to_owned());
        let (stop_tcp, stop_udp) = (Arc::clone(&stop), Arc::clone(&stop));
        let threads = vec![
            std::thread::spawn(move || serve_tcp(&tcp, &first, &stop_tcp)),
            std::thread::spawn(move || serve_udp(&udp, &second, &stop_udp)),
        ];
        Self {
            stop,
            listener,
            threads,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Ends a wait for connections.
        let _ = shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while let Ok((mut stream, peer)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let hello = format!("{name} {}\n", peer.ip());
        std::thread::spawn(move || {
            let _ = stream.write_all(hello.as_bytes());
            let mut back = stream.try_clone().expect("a stream");
            let _ = io::copy(&mut back, &mut stream);
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
            let _ = socket.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    }
}
