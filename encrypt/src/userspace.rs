//! The user-space data path: ESP in UDP by threads of this process, for kernels without it and
//! wherever it is wanted.
//!
//! ```text
//!  VXLAN device of the kernel            VXLAN socket of the kernel
//!        |  rule and route to                  ^
//!        v  wf-esp                             |  as if it came from the peer in clear
//!  TAP wf-esp  --- super-packets of 64 KiB --- TAP wf-esp
//!        |  taken apart, sealed                ^  opened, put together
//!        v                                     |
//!  UDP socket, port 4500  --- ESP in UDP --- UDP socket, port 4500
//! ```
//!
//! The device is there as long as a process holds it; rule, route and what else the host has to
//! have for it are not this module's. Nothing leaves without a key: what cannot be sealed is
//! dropped and counted.

mod engine;
mod hand_over;
mod keepalive;
mod probe;
mod receive;
mod socket;
pub(crate) mod sys;
mod tables;
mod tap;
mod transmit;

pub use hand_over::{HandedOver, HandedOverState};
pub use probe::probe_form;
pub use tap::{IFNAME, PORT_IFNAME};

use std::fmt;
use std::io::{self, PipeWriter};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::esp::Spi;
use crate::keys::SaKey;
use crate::offload::outer::Wrapper;
use crate::path::{Form, PathSpec, PathState, SaName};
use crate::sa::{InboundSa, InsertError, Limits, OutboundSa};

use engine::{Engine, Shared};
use socket::EspSocket;
use tables::Tables;
use tap::Tap;

/// Cores from which on there is a thread for each. With fewer, one thread is the fastest: what it
/// forwards for needs cores, too.
const MANY_CORES: usize = 4;
/// Most threads.
const MOST_THREADS: usize = 16;
/// Source address of the frames that the kernel gets: locally administered, and not the TAP's.
const PEER_MAC: [u8; 6] = [0x02, 0x77, 0x66, 0xff, 0xff, 0xff];

/// Why the data path could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The TAP.
    #[error("tap {IFNAME} cannot be used: {what}: {source}")]
    Tap {
        /// What was refused.
        what: &'static str,
        /// By the kernel.
        source: io::Error,
    },
    /// Super-packets of UDP tunnels do not pass.
    #[error(
        "super-packets of udp tunnels do not pass taps of this kernel (Linux 6.17 and later): {0}"
    )]
    Probe(String),
    /// The form is not one that can be carried.
    #[error("form {0} of the data path cannot be carried yet: vxlan can")]
    Form(Form),
    /// The UDP socket.
    #[error("udp socket at {local} cannot be used: {source}")]
    Socket {
        /// Where it was to be bound.
        local: SocketAddr,
        /// By the kernel.
        source: io::Error,
    },
    /// A thread or a pipe to it.
    #[error("thread of the data path cannot be started: {0}")]
    Thread(io::Error),
    /// What an earlier process handed over.
    #[error("what was handed over cannot be gone on with: {0}")]
    HandOver(PathError),
}

/// Why a change was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The peer is not one.
    #[error("{0} is not a peer of the specification: only those are")]
    UnknownPeer(IpAddr),
    /// The association was not taken in.
    #[error(transparent)]
    Insert(#[from] InsertError),
    /// The key is not newer than the one that is sealed with.
    #[error(
        "key was sealed with already, or is older than the one that is: a later epoch is needed"
    )]
    UsedKey,
    /// The tunnel end is another.
    #[error("the data path is at {local}, port {port}: it has to be started again to move")]
    Moved {
        /// Where it is.
        local: IpAddr,
        /// At which port.
        port: u16,
    },
    /// State that was handed over is damaged.
    #[error("state has keys, windows or descriptors of a wrong size or number")]
    BadState,
}

/// A data path that runs, until it is dropped or [handed over](Userspace::hand_over).
///
/// Changes are in effect when the call returns. They wait for a batch of packets at most.
pub struct Userspace {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<(Tap, EspSocket)>>,
    /// Closed to end the threads.
    end: Option<PipeWriter>,
}

impl Userspace {
    /// Starts it in the network namespace of this thread, or goes on where another process left
    /// off.
    ///
    /// # Errors
    /// See [`StartError`]. What was handed over is then dropped, and the device with it.
    pub fn start(spec: PathSpec, from: Option<HandedOver>) -> Result<Self, StartError> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let threads = if cores < MANY_CORES { 1 } else { cores };
        Self::start_with(spec, from, threads)
    }

    /// The same with so many threads, at least 1 and at most 16, if it is a start from nothing.
    ///
    /// # Errors
    /// As [`Userspace::start`].
    pub fn start_with(
        spec: PathSpec,
        from: Option<HandedOver>,
        threads: usize,
    ) -> Result<Self, StartError> {
        let local = SocketAddr::new(spec.local, spec.esp_port);
        if spec.form != Form::Vxlan {
            return Err(StartError::Form(spec.form));
        }
        let (tables, pairs) = match from {
            None => (
                Tables::new(spec),
                open(local, threads.clamp(1, MOST_THREADS))?,
            ),
            Some(from) => adopt(&spec, from)?,
        };
        let (reader, writer) = io::pipe().map_err(StartError::Thread)?;
        let mut path = Self {
            shared: Arc::new(Shared::new(tables)),
            threads: Vec::new(),
            end: Some(writer),
        };
        for (index, pair) in pairs.into_iter().enumerate() {
            let mac = pair.0.hardware_address();
            let wrapper = Wrapper {
                source_mac: PEER_MAC,
                mac: mac.map_err(|source| StartError::Tap {
                    what: "its address",
                    source,
                })?,
                local: local.ip(),
            };
            let end = reader.try_clone().map_err(StartError::Thread)?;
            let engine = Engine::new(pair, end, index == 0, wrapper);
            let shared = Arc::clone(&path.shared);
            let thread = thread::Builder::new()
                .name(format!("esp-{index}"))
                .spawn(move || engine.run(&shared))
                .map_err(StartError::Thread)?;
            path.threads.push(thread);
        }
        Ok(path)
    }

    /// Takes over another specification. Keys with peers that are no longer in it are erased.
    ///
    /// # Errors
    /// [`PathError::Moved`].
    pub fn want(&self, spec: &PathSpec) -> Result<(), PathError> {
        self.shared.write().want(spec)
    }

    /// Opens packets of this association from now on.
    ///
    /// # Errors
    /// [`PathError::UnknownPeer`], [`PathError::Insert`].
    pub fn install_inbound(&self, name: SaName, key: SaKey) -> Result<(), PathError> {
        let sa = InboundSa::new(name.spi, key);
        self.shared.write().install_inbound(name, sa)
    }

    /// Seals with this association from now on, instead of the one before, whose key is erased.
    ///
    /// The key must never have been given to another association that seals.
    ///
    /// # Errors
    /// [`PathError::UnknownPeer`], [`PathError::UsedKey`].
    pub fn switch_outbound(&self, name: SaName, key: SaKey) -> Result<(), PathError> {
        let sa = OutboundSa::new(name.spi, key, Limits::default());
        self.shared.write().switch_outbound(name, sa)
    }

    /// Opens packets of this association no longer, and erases its key.
    pub fn remove_inbound(&self, spi: Spi) {
        self.shared.write().remove_inbound(spi);
    }

    /// Erases all keys with a peer: nothing comes from or goes to it any more.
    pub fn remove_peer(&self, peer: IpAddr) {
        self.shared.write().remove_peer(peer);
    }

    /// What it is at that moment.
    pub fn state(&self) -> PathState {
        let mut state = self.shared.read().state(self.shared.now_ms());
        // They end by themselves only when something is very wrong.
        let ended = self.threads.iter().any(JoinHandle::is_finished);
        let ended = ended.then(|| "a thread of the data path has ended".to_owned());
        state.error = self.shared.error().or(ended);
        state
    }

    /// Stops, and gives everything to whoever goes on ([`HandedOver::new`]): packets wait in the
    /// descriptors until then, as many frames per thread as the device's queue is long.
    pub fn hand_over(mut self) -> (HandedOverState, Vec<OwnedFd>) {
        let pairs = self.stop();
        let (taps, sockets): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let taps = taps.into_iter().map(OwnedFd::from);
        let fds = taps.chain(sockets.into_iter().map(OwnedFd::from)).collect();
        (HandedOverState::of(&self.shared.read()), fds)
    }

    /// After this nothing is sealed or opened any more.
    fn stop(&mut self) -> Vec<(Tap, EspSocket)> {
        self.shared.stop();
        self.end = None;
        let threads = self.threads.drain(..);
        threads.filter_map(|thread| thread.join().ok()).collect()
    }
}

impl fmt::Debug for Userspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Userspace")
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        self.stop();
    }
}

type Pairs = Vec<(Tap, EspSocket)>;

fn open(local: SocketAddr, count: usize) -> Result<Pairs, StartError> {
    probe::probe().map_err(StartError::Probe)?;
    let taps = Tap::open(count).map_err(|(what, source)| StartError::Tap { what, source })?;
    let sockets =
        EspSocket::open(local, count).map_err(|source| StartError::Socket { local, source })?;
    Ok(taps.into_iter().zip(sockets).collect())
}

fn adopt(spec: &PathSpec, from: HandedOver) -> Result<(Tables, Pairs), StartError> {
    let HandedOver { state, fds } = from;
    let mut tables = state.into_tables().map_err(StartError::HandOver)?;
    tables.want(spec).map_err(StartError::HandOver)?;
    let count = fds.len() / 2;
    if fds.is_empty() || fds.len() != 2 * count {
        return Err(StartError::HandOver(PathError::BadState));
    }
    let mut fds = fds.into_iter();
    let taps: io::Result<Vec<Tap>> = fds.by_ref().take(count).map(Tap::adopt).collect();
    let taps = taps.map_err(|source| StartError::Tap {
        what: "what was handed over",
        source,
    })?;
    let sockets: io::Result<Vec<EspSocket>> = fds.map(EspSocket::adopt).collect();
    let sockets = sockets.map_err(|source| StartError::Socket {
        local: SocketAddr::new(spec.local, spec.esp_port),
        source,
    })?;
    Ok((tables, taps.into_iter().zip(sockets).collect()))
}
