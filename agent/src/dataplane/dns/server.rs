//! The sockets in one container, and what comes in there.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::debug;
use weft_lb::dns::{Budget, OWN_ADDRESS, Query, Site, Transport, Verdict, resolve};
use weft_netns::Netns;

use super::counts::{Counter, add};
use super::upstream::{Upstreams, write};

/// UDP and TCP.
const PORT: u16 = 53;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// Longest query in bytes. One with many options is some hundred.
const QUERY_MAX: usize = 4096;
/// Connections of one container at a time.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may be silent (RFC 7766 section 6.2.3: "of the order of a few seconds").
const IDLE: Duration = Duration::from_secs(10);
/// Queries of one container that others are asked at a time.
const PENDING_MAX: usize = 256;
/// And of all containers.
const PENDING_ALL_MAX: usize = 1024;
/// Queries of one container that others are asked: each second, and at once after a pause.
const FORWARD_RATE: (u32, u32) = (1000, 2000);
/// Pause when a socket has an error.
const SHORTAGE: Duration = Duration::from_millis(50);

/// What all containers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) counter: Counter,
    pub(super) upstreams: Upstreams,
    pending: Arc<Semaphore>,
    started: Instant,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            counter: Counter::default(),
            upstreams: Upstreams::new(),
            pending: Arc::new(Semaphore::new(PENDING_ALL_MAX)),
            started: Instant::now(),
        }
    }

    /// Whether others are being asked.
    pub(super) fn is_busy(&self) -> bool {
        self.pending.available_permits() < PENDING_ALL_MAX
    }
}

/// One container.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    site: RwLock<Arc<Site>>,
    turn: AtomicU64,
    budget: Mutex<Budget>,
    pending: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// Its sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) udp: Arc<UdpSocket>,
    pub(super) tcp: Arc<TcpListener>,
}

/// Sockets that are served until this is dropped.
#[derive(Debug)]
pub(super) struct Serving {
    pub(super) server: Arc<Server>,
    pub(super) sockets: Sockets,
    tasks: [AbortHandle; 2],
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Sockets {
    /// Opens them in a container. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// In one line.
    pub(super) fn open(netns: &Netns) -> Result<Self, String> {
        let at = SocketAddr::from((OWN_ADDRESS, PORT));
        let opened = netns.run(|| Ok::<_, String>((udp(at)?, tcp(at)?)));
        let (udp, tcp) = opened.map_err(|error| error.to_string())??;
        let into_tokio = || -> io::Result<Self> {
            Ok(Self {
                udp: Arc::new(UdpSocket::from_std(udp)?),
                tcp: Arc::new(TcpListener::from_std(tcp)?),
            })
        };
        into_tokio().map_err(|error| error.to_string())
    }

    /// Goes on with those of another process. To be called inside a tokio runtime.
    pub(super) fn adopt(udp: OwnedFd, tcp: OwnedFd) -> io::Result<Self> {
        let (udp, tcp) = (StdUdpSocket::from(udp), StdTcpListener::from(tcp));
        // The other process set it so already; it is a property of what both share.
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Self {
            udp: Arc::new(UdpSocket::from_std(udp)?),
            tcp: Arc::new(TcpListener::from_std(tcp)?),
        })
    }
}

fn udp(at: SocketAddr) -> Result<StdUdpSocket, String> {
    let open = || -> io::Result<StdUdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        bind(&socket, at)?;
        Ok(socket.into())
    };
    open().map_err(|error| refused("UDP", &error))
}

fn tcp(at: SocketAddr) -> Result<StdTcpListener, String> {
    let open = || -> io::Result<StdTcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        bind(&socket, at)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|error| refused("TCP", &error))
}

fn bind(socket: &Socket, at: SocketAddr) -> io::Result<()> {
    // The loopback device may be about to come up.
    socket.set_freebind_v4(true)?;
    // Connections that ended a moment ago are no obstacle, nor is a program that answers elsewhere
    // and says so as well.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())
}

fn refused(protocol: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{protocol} port {PORT} of {OWN_ADDRESS} is taken by a program in the container; have it \
             listen on the container's own address"
        ),
        _ => format!("{protocol} port {PORT} of {OWN_ADDRESS} cannot be opened: {error}"),
    }
}

impl Server {
    /// Serves a container's sockets. To be called inside a tokio runtime.
    pub(super) fn start(shared: &Arc<Shared>, site: Site, sockets: Sockets) -> Serving {
        let server = Arc::new(Self {
            shared: shared.clone(),
            site: RwLock::new(Arc::new(site)),
            turn: AtomicU64::new(0),
            budget: Mutex::new(Budget::new(FORWARD_RATE.0, FORWARD_RATE.1)),
            pending: Arc::new(Semaphore::new(PENDING_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        let datagrams = tokio::spawn(server.clone().datagrams(sockets.udp.clone()));
        let streams = tokio::spawn(server.clone().streams(sockets.tcp.clone()));
        let tasks = [datagrams.abort_handle(), streams.abort_handle()];
        Serving {
            server,
            sockets,
            tasks,
        }
    }

    /// Answers so from now on.
    pub(super) fn set(&self, site: Site) {
        *self.site.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(site);
    }

    /// All of an answer is of one state.
    fn resolve(&self, packet: &[u8], transport: Transport) -> Verdict {
        if packet.len() > QUERY_MAX {
            add(&self.shared.counter.malformed);
            return Verdict::Ignore;
        }
        let site = { self.site.read() }
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let verdict = resolve(&site, packet, transport, turn);
        match &verdict {
            Verdict::Answer(_, kind) => self.shared.counter.answer(*kind),
            Verdict::Ignore => add(&self.shared.counter.malformed),
            Verdict::Forward(_) => {}
        }
        verdict
    }

    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        // One more, to know a longer one.
        let mut buffer = vec![0; QUERY_MAX + 1];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    debug!(%error, "a query could not be received");
                    sleep(SHORTAGE).await;
                    continue;
                }
            };
            let packet = buffer.get(..length).unwrap_or_default();
            // Who does not read is not waited for; there is no other reason why sending should fail.
            match self.resolve(packet, Transport::Udp) {
                Verdict::Ignore => {}
                Verdict::Answer(answer, _) => drop(socket.try_send_to(&answer, from)),
                Verdict::Forward(query) => match self.admit() {
                    None => drop(socket.try_send_to(&query.refused(), from)),
                    Some(admitted) => {
                        let (server, socket) = (self.clone(), socket.clone());
                        tokio::spawn(async move {
                            let answer = server.forward(query).await;
                            drop(socket.send_to(&answer, from).await);
                            drop(admitted);
                        });
                    }
                },
            }
        }
    }

    async fn streams(self: Arc<Self>, socket: Arc<TcpListener>) {
        loop {
            let stream = match socket.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "a connection could not be accepted");
                    sleep(SHORTAGE).await;
                    continue;
                }
            };
            // Closed at once when there are too many.
            if let Ok(place) = self.connections.clone().try_acquire_owned() {
                let server = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = server.stream(stream).await {
                        debug!(%error, "a connection has ended");
                    }
                    drop(place);
                });
            }
        }
    }

    /// One query after the other.
    async fn stream(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let read = async {
                let length = usize::from(stream.read_u16().await?);
                if length > QUERY_MAX {
                    add(&self.shared.counter.malformed);
                    return Err(io::Error::other("a query that is too long"));
                }
                let mut packet = vec![0; length];
                stream.read_exact(&mut packet).await?;
                Ok(packet)
            };
            let packet = timeout(IDLE, read).await??;
            let answer = match self.resolve(&packet, Transport::Tcp) {
                Verdict::Ignore => return Ok(()),
                Verdict::Answer(answer, _) => answer,
                Verdict::Forward(query) => match self.admit() {
                    None => query.refused(),
                    Some(_admitted) => self.forward(query).await,
                },
            };
            timeout(IDLE, write(&mut stream, &answer)).await??;
        }
    }

    /// Whether others may be asked one more query.
    fn admit(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let now = self.shared.started.elapsed();
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = budget
            .take(now)
            .then_some(())
            .and_then(|()| self.pending.clone().try_acquire_owned().ok())
            .and_then(|own| Some((own, self.shared.pending.clone().try_acquire_owned().ok()?)));
        if admitted.is_none() {
            add(&self.shared.counter.limited);
        }
        admitted
    }

    async fn forward(&self, query: Query) -> Vec<u8> {
        let Shared {
            upstreams, counter, ..
        } = &*self.shared;
        upstreams.ask(query, counter).await
    }
}
