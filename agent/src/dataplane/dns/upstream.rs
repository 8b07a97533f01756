//! The host's resolvers, asked from the host's namespace, which is this process's own.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tracing::debug;
use weft_lb::dns::{Exchange, NameServer, Policy, Query, ResolvConf, Step, Transport, UDP_MAX};

use super::counts::{Counter, add};

/// UDP and TCP.
const PORT: u16 = 53;
/// How long the file is trusted to be as it was.
const LOOK: Duration = Duration::from_secs(1);
/// A file of resolvers is some lines.
const FILE_MAX: u64 = 64 << 10;
/// How long one resolver may take at most. Programs wait for five seconds by default
/// (`RES_TIMEOUT`, resolv.conf(5)): in that time another one has been asked.
const TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// How often all of them are asked.
const ATTEMPTS: u32 = 2;
/// How long a query may take. Whoever asked has given up by then.
const LIMIT: Duration = Duration::from_secs(10);
/// Packets that are read from a resolver for one answer.
const STRAYS_MAX: usize = 32;

/// The host's resolvers.
#[derive(Debug)]
pub(super) struct Upstreams {
    inner: Mutex<Inner>,
    started: Instant,
    random: SystemRandom,
}

#[derive(Debug, Default)]
struct Inner {
    path: PathBuf,
    looked_at: Option<Instant>,
    /// Tells one content of the file from another: device, inode, size and time of change.
    stamp: Option<(u64, u64, u64, i64, i64)>,
    conf: ResolvConf,
    error: Option<String>,
}

impl Upstreams {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            started: Instant::now(),
            random: SystemRandom::new(),
        }
    }

    /// Reads that file from now on.
    pub(super) fn read_from(&self, path: &Path) {
        let mut inner = self.inner();
        if inner.path != path {
            *inner = Inner {
                path: path.to_owned(),
                ..Inner::default()
            };
        }
        inner.look();
    }

    /// Whom to ask, and why there is nobody, if so.
    pub(super) fn known(&self) -> (Vec<SocketAddr>, Option<String>) {
        let mut inner = self.inner();
        inner.look();
        let servers = inner.servers();
        let refused = inner.conf.refused.first();
        let why = || match refused {
            Some(address) => format!(
                "{} names {address}, which is where containers ask: it is not asked",
                inner.path.display()
            ),
            None => format!("{} names no name server", inner.path.display()),
        };
        let error = servers
            .is_empty()
            .then(|| inner.error.clone().unwrap_or_else(why));
        (servers, error)
    }

    /// Asks them; what the client is told then.
    pub(super) async fn ask(&self, query: Query, counter: &Counter) -> Vec<u8> {
        let (servers, policy) = {
            let mut inner = self.inner();
            inner.look();
            (inner.servers(), inner.policy())
        };
        let mut exchange = Exchange::new(query, servers, policy, self.now());
        let mut step = exchange.next(self.id(), self.now());
        loop {
            step = match step {
                Step::Answer(answer) => {
                    add(&counter.forwarded);
                    return answer;
                }
                Step::Fail(answer) => {
                    add(&counter.failed);
                    return answer;
                }
                Step::Ask {
                    upstream,
                    transport,
                    until,
                } => {
                    let patience = until.saturating_sub(self.now());
                    let asked = async {
                        match transport {
                            Transport::Udp => self.by_udp(&mut exchange, upstream, counter).await,
                            Transport::Tcp => self.by_tcp(&mut exchange, upstream).await,
                        }
                    };
                    match timeout(patience, asked).await {
                        Ok(Ok(step)) => step,
                        Ok(Err(error)) => {
                            debug!(%upstream, %error, "a name server does not answer");
                            exchange.next(self.id(), self.now())
                        }
                        Err(_) => exchange.next(self.id(), self.now()),
                    }
                }
            };
        }
    }

    async fn by_udp(
        &self,
        exchange: &mut Exchange,
        upstream: SocketAddr,
        counter: &Counter,
    ) -> io::Result<Step> {
        let any = match upstream {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        // A port that nobody can foresee, each time; nobody else's packets come in.
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(upstream).await?;
        socket.send(exchange.packet()).await?;
        let mut buffer = vec![0; usize::from(UDP_MAX)];
        for _ in 0..STRAYS_MAX {
            let length = socket.recv(&mut buffer).await?;
            let message = buffer.get(..length).unwrap_or_default();
            if let Some(step) = exchange.take(message, self.id(), self.now()) {
                return Ok(step);
            }
            add(&counter.strays);
        }
        Err(io::Error::other("it sends something else"))
    }

    async fn by_tcp(&self, exchange: &mut Exchange, upstream: SocketAddr) -> io::Result<Step> {
        let mut stream = TcpStream::connect(upstream).await?;
        write(&mut stream, exchange.packet()).await?;
        let length = stream.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        let step = exchange.take(&message, self.id(), self.now());
        step.ok_or_else(|| io::Error::other("it sends something else"))
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn id(&self) -> u16 {
        let mut bytes = [0; 2];
        // Without it there is still the port.
        let _ = self.random.fill(&mut bytes);
        u16::from_be_bytes(bytes)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves it consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends one message of a stream.
pub(super) async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

impl Inner {
    /// Reads the file if it has changed.
    fn look(&mut self) {
        let now = Instant::now();
        if self
            .looked_at
            .is_some_and(|at| now.duration_since(at) < LOOK)
        {
            return;
        }
        self.looked_at = Some(now);
        let found = fs::metadata(&self.path);
        let stamp = found.as_ref().ok().map(|found| {
            let changed = (found.ctime(), found.ctime_nsec());
            (found.dev(), found.ino(), found.len(), changed.0, changed.1)
        });
        if stamp.is_some() && stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        let text = match found {
            Ok(found) if found.len() > FILE_MAX => Err(io::Error::other("it is too long")),
            _ => fs::read_to_string(&self.path),
        };
        match text {
            Ok(text) => {
                self.conf = ResolvConf::parse(&text);
                self.error = None;
            }
            Err(error) => {
                self.conf = ResolvConf::default();
                self.error = Some(format!("{} cannot be read: {error}", self.path.display()));
            }
        }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.conf
            .name_servers
            .iter()
            .filter_map(socket_address)
            .collect()
    }

    fn policy(&self) -> Policy {
        let said = self.conf.timeout.unwrap_or(TIMEOUT_MAX);
        Policy {
            timeout: said.min(TIMEOUT_MAX),
            attempts: self.conf.attempts.unwrap_or(ATTEMPTS),
            limit: LIMIT,
        }
    }
}

/// Where a resolver is; `None` if its interface is not there.
fn socket_address(server: &NameServer) -> Option<SocketAddr> {
    match (server.address, &server.interface) {
        (IpAddr::V6(address), Some(interface)) => {
            let scope = if_nametoindex(interface.as_str()).ok()?;
            Some(SocketAddrV6::new(address, PORT, 0, scope).into())
        }
        (address, _) => Some(SocketAddr::new(address, PORT)),
    }
}
