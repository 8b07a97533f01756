//! Names inside containers: in each, a server on 127.0.0.11, port 53, over UDP and TCP, whose sockets are
//! opened in the container's namespace and served here. No packet rule leads to it.
//!
//! A socket keeps its namespace. So it is looked whether the container is still there, and not left to
//! the agent alone to say.

mod counts;
mod server;
mod spec;
mod upstream;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tracing::{info, warn};
use weft_netns::{Identity, Netns};

use self::server::{Server, Serving, Shared, Sockets};
pub(crate) use counts::DnsCounts;
pub(crate) use spec::{DnsSpec, DnsUpdate, PlaceSpec};

/// How often it is looked whether containers have gone.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// What is answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DnsState {
    /// In how many containers.
    pub(crate) serving: usize,
    /// In which it is not, and why.
    pub(crate) failed: BTreeMap<String, String>,
    /// Who is asked for other names.
    pub(crate) upstreams: Vec<String>,
    /// Why nobody is, if so.
    pub(crate) upstream_error: Option<String>,
    /// What was asked.
    pub(crate) counts: DnsCounts,
}

/// What another process needs to answer in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DnsHandedOver {
    number: u64,
    spec: DnsSpec,
    /// The containers of the sockets that follow: for each UDP, then TCP.
    sockets: Vec<String>,
}

impl DnsHandedOver {
    /// How many descriptors follow.
    pub(super) fn descriptors(&self) -> usize {
        self.sockets.len().saturating_mul(2)
    }
}

/// A socket that is handed over.
#[derive(Debug)]
pub(super) enum DnsSocket {
    Udp(Arc<UdpSocket>),
    Tcp(Arc<TcpListener>),
}

impl AsFd for DnsSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

/// The servers of one process.
#[derive(Debug)]
pub(super) struct Dns {
    inner: Mutex<Inner>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Inner {
    needed: bool,
    /// Another process answers.
    succeeded: bool,
    /// Number of the last update.
    number: Option<u64>,
    spec: DnsSpec,
    serving: BTreeMap<String, Serving>,
    failed: BTreeMap<String, String>,
}

impl Dns {
    /// Answers nobody.
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            shared: Arc::new(Shared::new()),
        }
    }

    /// Whether the process is needed for it.
    pub(super) fn is_needed(&self) -> bool {
        self.inner().needed
    }

    /// Whether others are asked for somebody.
    pub(super) fn is_busy(&self) -> bool {
        self.shared.is_busy()
    }

    /// Whether it is needed from now on. If not, nobody is answered.
    pub(super) fn need(&self, needed: bool) {
        let mut inner = self.inner();
        if inner.succeeded {
            return;
        }
        match needed {
            true => inner.needed = true,
            false => *inner = Inner::default(),
        }
    }

    /// Another process answers from now on.
    pub(super) fn succeeded(&self) {
        *self.inner() = Inner {
            succeeded: true,
            ..Inner::default()
        };
    }

    /// Answers so from now on; what is answered then. What failed is tried again. To be called inside
    /// a tokio runtime. Blocks for some milliseconds for each new container.
    ///
    /// # Errors
    /// In one line, when nothing comes of it.
    pub(super) fn want(&self, update: DnsUpdate) -> Result<DnsState, String> {
        let mut inner = self.inner();
        if inner.succeeded {
            return Err("another process answers names".to_owned());
        }
        if update.after.is_some() && update.after != inner.number {
            return Err("an update of names follows one that is not known here".to_owned());
        }
        inner.needed = true;
        inner.number = Some(update.number);
        inner.spec.apply(update);
        self.shared.upstreams.read_from(&inner.spec.resolv_conf);
        inner.serve(&self.shared);
        Ok(self.state(&inner))
    }

    /// Closes what is in containers that have gone: their namespaces would stay.
    pub(super) fn look(&self) {
        let mut inner = self.inner();
        let Inner { spec, serving, .. } = &mut *inner;
        serving.retain(|key, _| {
            let place = spec.places.get(key);
            place.is_some_and(|place| !place.netns.iter().all(|netns| netns.is_gone()))
        });
    }

    /// What another process needs to answer in its place, which is no end of it here yet.
    pub(super) fn to_hand_over(&self) -> Option<(DnsHandedOver, Vec<DnsSocket>)> {
        let inner = self.inner();
        let number = inner.number?;
        let sockets = inner.serving.values().flat_map(|serving| {
            let Sockets { udp, tcp } = &serving.sockets;
            [DnsSocket::Udp(udp.clone()), DnsSocket::Tcp(tcp.clone())]
        });
        let handed = DnsHandedOver {
            number,
            spec: inner.spec.clone(),
            sockets: inner.serving.keys().cloned().collect(),
        };
        Some((handed, sockets.collect()))
    }

    /// Goes on with what another process has handed over. To be called inside a tokio runtime.
    pub(super) fn adopt(&self, handed: DnsHandedOver, sockets: Vec<OwnedFd>) -> io::Result<()> {
        let mut inner = self.inner();
        inner.needed = true;
        inner.number = Some(handed.number);
        inner.spec = handed.spec;
        self.shared.upstreams.read_from(&inner.spec.resolv_conf);
        let mut sockets = sockets.into_iter();
        for key in handed.sockets {
            let (Some(udp), Some(tcp)) = (sockets.next(), sockets.next()) else {
                break;
            };
            let Some(place) = inner.spec.places.get(&key) else {
                continue;
            };
            let site = inner.spec.site(place);
            let sockets = Sockets::adopt(udp, tcp)?;
            let serving = Server::start(&self.shared, site, sockets);
            inner.serving.insert(key, serving);
        }
        Ok(())
    }

    fn state(&self, inner: &Inner) -> DnsState {
        let (upstreams, upstream_error) = self.shared.upstreams.known();
        DnsState {
            serving: inner.serving.len(),
            failed: inner.failed.clone(),
            upstreams: upstreams.iter().map(|at| at.ip().to_string()).collect(),
            upstream_error,
            counts: self.shared.counter.read(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves it consistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn serve(&mut self, shared: &Arc<Shared>) {
        let places = &self.spec.places;
        self.serving.retain(|key, _| places.contains_key(key));
        let mut failed = BTreeMap::new();
        for (key, place) in places {
            let site = self.spec.site(place);
            if let Some(serving) = self.serving.get(key) {
                serving.server.set(site);
                continue;
            }
            match open(place) {
                Ok(sockets) => {
                    let serving = Server::start(shared, site, sockets);
                    self.serving.insert(key.clone(), serving);
                    info!(container = key, "names are answered");
                }
                Err(why) => {
                    if self.failed.get(key) != Some(&why) {
                        warn!(container = key, why, "names are not answered");
                    }
                    failed.insert(key.clone(), why);
                }
            }
        }
        self.failed = failed;
    }
}

/// Opens the sockets by the first way that still leads to the container.
fn open(place: &PlaceSpec) -> Result<Sockets, String> {
    let mut why = "the container has ended".to_owned();
    for reference in &place.netns {
        let meant = Identity {
            device: reference.device,
            inode: reference.inode,
        };
        match Netns::open(&reference.path) {
            Ok(found) if found.identity() == meant => return Sockets::open(&found),
            Ok(_) => {}
            Err(_) if reference.is_gone() => {}
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}
