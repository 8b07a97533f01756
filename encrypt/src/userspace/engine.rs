//! The threads: each forwards in both directions between its queues of the devices and one socket.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::offload::Config;

use super::receive::{self, Receive};
use super::socket::EspSocket;
use super::sys::{self, Epoll};
use super::tables::Tables;
use super::tap::{IFNAME, Tap};
use super::transmit::{self, Transmit};

/// How often it is seen to what nothing else wakes a thread for.
const TICK: Duration = Duration::from_secs(1);

/// What the threads and whoever controls them share.
pub(super) struct Shared {
    tables: RwLock<Tables>,
    start: Instant,
    stopped: AtomicBool,
    error: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(tables: Tables) -> Self {
        Self {
            tables: RwLock::new(tables),
            start: Instant::now(),
            stopped: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Says to all threads that they shall end; a busy one looks here, an idle one at its pipe.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Relaxed);
    }

    pub(super) fn error(&self) -> Option<String> {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.clone()
    }

    fn fail(&self, error: String) {
        self.set_error(Some(error));
    }

    fn set_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// Where the frames of one thread come from, and go to.
#[derive(Debug)]
pub(super) enum Source {
    /// Its queue of the tunnel device.
    Tunnel(Tap),
    /// Its queues of all ports, which are [`Ports`](super::ports::Ports)' own.
    Ports {
        /// Number of the thread.
        thread: usize,
        /// Says which of them have frames.
        poll: Arc<Epoll>,
    },
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tunnel(tap) => tap.as_fd(),
            Self::Ports { poll, .. } => poll.as_fd(),
        }
    }
}

/// What one thread has for itself.
pub(super) struct Engine {
    pub(super) source: Source,
    pub(super) socket: EspSocket,
    /// Its other end is closed when the thread shall end.
    pub(super) end: PipeReader,
    /// The first thread does what is to be done once.
    pub(super) first: bool,
    transmit: Transmit,
    receive: Receive,
}

impl Engine {
    pub(super) fn new(
        (source, socket): (Source, EspSocket),
        end: PipeReader,
        first: bool,
        config: Config,
    ) -> Self {
        Self {
            source,
            socket,
            end,
            first,
            transmit: Transmit::new(),
            receive: Receive::new(config),
        }
    }

    /// Forwards until it shall end, and gives back what it worked with.
    pub(super) fn run(mut self, shared: &Shared) -> (Source, EspSocket) {
        let (mut tick_ms, mut spin) = (0, Spin::new());
        let mut ready = Ready::ALL;
        while !shared.stopped.load(Relaxed) {
            let now_ms = shared.now_ms();
            if now_ms >= tick_ms {
                tick_ms = now_ms + TICK.as_millis() as u64;
                self.tick(shared, now_ms);
            }
            let worked = match self.forward(shared, now_ms, &mut ready) {
                Ok(worked) => worked,
                Err(error) => {
                    shared.fail(format!(
                        "device {IFNAME} is gone ({error}), and is made again"
                    ));
                    self.restore(shared);
                    continue;
                }
            };
            let longest = match ready {
                Ready::ALL => continue,
                Ready::NONE => Duration::from_millis(tick_ms - now_ms),
                _ => Duration::ZERO,
            };
            let soon = worked
                && !longest.is_zero()
                && spin.until(|| self.look(&mut ready, Duration::ZERO));
            if !soon {
                self.look(&mut ready, longest);
            }
        }
        (self.source, self.socket)
    }

    /// One batch in each direction that may have packets; says whether there were any. A direction
    /// of which less than a batch was there has none left.
    fn forward(&mut self, shared: &Shared, now_ms: u64, ready: &mut Ready) -> io::Result<bool> {
        let Self { source, socket, .. } = self;
        let tables = shared.read();
        let mut any = false;
        if ready.socket {
            let received = self.receive.forward(&tables, source, socket, now_ms);
            ready.socket = received == receive::BUFFERS;
            any = received > 0;
        }
        if ready.tap {
            let (transmit, sent) = (&mut self.transmit, &mut ready.tap);
            any |= match source {
                Source::Tunnel(tap) => {
                    let frames = transmit.forward(&tables, tap, socket, now_ms)?;
                    *sent = frames == transmit::BATCH;
                    frames > 0
                }
                Source::Ports { thread, poll } => {
                    let queues = (*thread, &**poll);
                    let (found, more) = transmit.forward_ports(&tables, queues, socket, now_ms);
                    *sent = more;
                    found
                }
            };
        }
        Ok(any)
    }

    fn tick(&mut self, shared: &Shared, now_ms: u64) {
        self.learn_mac();
        if self.first {
            self.transmit
                .keep_alive(&shared.read(), &self.socket, now_ms);
        }
    }

    fn learn_mac(&mut self) {
        if let Source::Tunnel(tap) = &self.source
            && let Ok(mac) = tap.hardware_address()
        {
            self.receive.set_mac(mac);
        }
    }

    /// Somebody has removed the tunnel device: makes it again, with the keys as they are. How it is set
    /// up is seen to by whoever did at first.
    fn restore(&mut self, shared: &Shared) {
        while !shared.stopped.load(Relaxed) {
            match Tap::open_queue(IFNAME, false) {
                Ok(tap) => {
                    self.source = Source::Tunnel(tap);
                    self.learn_mac();
                    shared.set_error(None);
                    return;
                }
                Err((what, error)) => shared.fail(format!(
                    "device {IFNAME} is gone and cannot be made again: {what}: {error}"
                )),
            }
            // Until then, or until it shall end. An error is one of a wrong call only.
            let _ = sys::poll([(self.end.as_fd(), libc::POLLIN)], TICK);
        }
    }

    /// Waits until there is something to do; says whether there is.
    fn look(&self, ready: &mut Ready, longest: Duration) -> bool {
        let wanted = [
            (self.source.as_fd(), libc::POLLIN),
            (self.socket.as_fd(), libc::POLLIN),
            (self.end.as_fd(), libc::POLLIN),
        ];
        // An error is one of a wrong call only: everything is tried then.
        let [tap, socket, end] = sys::poll(wanted, longest).unwrap_or([1; 3]);
        ready.tap |= tap != 0;
        ready.socket |= socket != 0;
        tap | socket | end != 0
    }
}

/// Which directions may have packets.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ready {
    tap: bool,
    socket: bool,
}

impl Ready {
    const ALL: Self = Self {
        tap: true,
        socket: true,
    };
    const NONE: Self = Self {
        tap: false,
        socket: false,
    };
}

/// Looks for the next packet for a while before it sleeps, as an answer often follows: to wake a
/// processor takes longer than all else that is done for a packet.
///
/// Only while nobody else wants the processor. It is offered to others at each look; when it comes
/// back late, somebody took it, and for a while nothing is tried.
struct Spin {
    not_before: Instant,
}

impl Spin {
    /// How long the next packet is looked for.
    const LENGTH: Duration = Duration::from_micros(50);
    /// A look that takes longer was one at which somebody else had the processor.
    const LATE: Duration = Duration::from_micros(15);
    /// How long it is left alone then.
    const PAUSE: Duration = Duration::from_millis(50);

    fn new() -> Self {
        Self {
            not_before: Instant::now(),
        }
    }

    /// Looks until something is found; says whether it was.
    fn until(&mut self, mut found: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        let mut last = start;
        if start < self.not_before {
            return false;
        }
        while last - start < Self::LENGTH {
            if found() {
                return true;
            }
            thread::yield_now();
            let now = Instant::now();
            if now - last > Self::LATE {
                self.not_before = now + Self::PAUSE;
                return false;
            }
            last = now;
        }
        false
    }
}
