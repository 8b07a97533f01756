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
//! Where the kernel has no such super-packets (before Linux 6.17), each network's bridge has a TAP
//! `esp0` as a port instead, whose frames are wrapped here ([`Form::Port`]):
//!
//! ```text
//!  bridge of the network  --- super-packets of 64 KiB --- bridge of the network
//!        v  esp0, in the sandbox                               ^  esp0, in the sandbox
//!  looked up, wrapped in VXLAN, sealed                   opened, put together
//!        v                                                     |
//!  UDP socket, port 4500  ---------- ESP in UDP ---------- UDP socket, port 4500
//! ```
//!
//! A device is there as long as a process holds it; rule, route and what else the host has to
//! have for it are not this module's. Nothing leaves without a key: what cannot be sealed is
//! dropped and counted.

mod engine;
mod error;
mod hand_over;
mod keepalive;
mod open;
mod port;
mod ports;
mod probe;
mod receive;
mod socket;
pub(crate) mod sys;
mod tables;
mod tap;
mod transmit;

pub use error::{PathError, StartError};
pub use hand_over::{HandedOver, HandedOverState};
pub use probe::probe_form;
pub use tap::{IFNAME, PORT_IFNAME};

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, PipeWriter};
use std::net::IpAddr;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::esp::Spi;
use crate::keys::SaKey;
use crate::path::{Form, PathSpec, PathState, SaName};
use crate::sa::{InboundSa, Limits, OutboundSa};

use engine::{Engine, Shared, Source};
use open::Opened;
use ports::Ports;
use socket::EspSocket;

/// Cores from which on there is a thread for each. With fewer, one thread is the fastest: what it
/// forwards for needs cores, too.
const MANY_CORES: usize = 4;
/// Most threads.
const MOST_THREADS: usize = 16;
/// A data path that runs, until it is dropped or [handed over](Userspace::hand_over).
///
/// Changes are in effect when the call returns. They wait for a batch of packets at most.
pub struct Userspace {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<(Source, EspSocket)>>,
    /// How many threads it has, or is to have.
    sockets: usize,
    /// Held by whoever changes what it is to be.
    changing: Mutex<()>,
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
        let Opened {
            tables,
            pairs,
            config,
        } = match from {
            None => Opened::open(&spec, threads.clamp(1, MOST_THREADS))?,
            Some(from) => Opened::adopt(&spec, from)?,
        };
        let (reader, writer) = io::pipe().map_err(StartError::Thread)?;
        let mut path = Self {
            shared: Arc::new(Shared::new(tables)),
            threads: Vec::new(),
            sockets: pairs.len(),
            changing: Mutex::new(()),
            end: Some(writer),
        };
        path.want(&spec).map_err(StartError::HandOver)?;
        for (index, pair) in pairs.into_iter().enumerate() {
            let end = reader.try_clone().map_err(StartError::Thread)?;
            let engine = Engine::new(pair, end, index == 0, config);
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
    /// Ports that are not open are tried; packets go on meanwhile.
    ///
    /// # Errors
    /// [`PathError::Moved`], [`PathError::OtherForm`].
    pub fn want(&self, spec: &PathSpec) -> Result<(), PathError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let none = BTreeMap::new();
        let wanted = match spec.form {
            Form::Vxlan => &none,
            Form::Port => &spec.ports,
        };
        let needed = {
            let tables = self.shared.read();
            tables.check(spec)?;
            tables.ports.needed(wanted)
        };
        let made = Ports::make(wanted, &needed, self.sockets);
        let gone = {
            let mut tables = self.shared.write();
            tables.want(spec)?;
            tables.ports.want(wanted, made)
        };
        // To take a device away takes some milliseconds.
        drop(gone);
        Ok(())
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
        let (sources, sockets): (Vec<_>, Vec<_>) = self.stop().into_iter().unzip();
        let mut tables = self.shared.write();
        let state = HandedOverState::of(&tables);
        let taps = sources.into_iter().filter_map(|source| match source {
            Source::Tunnel(tap) => Some(OwnedFd::from(tap)),
            Source::Ports { .. } => None,
        });
        let fds = taps
            .chain(std::mem::take(&mut tables.ports).into_queues())
            .chain(sockets.into_iter().map(OwnedFd::from));
        (state, fds.collect())
    }

    /// After this nothing is sealed or opened any more.
    fn stop(&mut self) -> Vec<(Source, EspSocket)> {
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
