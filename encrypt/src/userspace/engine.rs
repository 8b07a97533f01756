//! The threads: each forwards in both directions between one queue of the TAP and one socket.

use std::io::PipeReader;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::offload::outer::Wrapper;

use super::receive::Receive;
use super::socket::EspSocket;
use super::sys;
use super::tables::Tables;
use super::tap::Tap;
use super::transmit::Transmit;

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
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// What one thread has for itself.
pub(super) struct Engine {
    pub(super) tap: Tap,
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
        (tap, socket): (Tap, EspSocket),
        end: PipeReader,
        first: bool,
        wrapper: Wrapper,
    ) -> Self {
        Self {
            tap,
            socket,
            end,
            first,
            transmit: Transmit::new(),
            receive: Receive::new(wrapper),
        }
    }

    /// Forwards until it shall end, and gives back what it worked with.
    pub(super) fn run(mut self, shared: &Shared) -> (Tap, EspSocket) {
        let mut tick_ms = 0;
        while !shared.stopped.load(Relaxed) {
            let now_ms = shared.now_ms();
            if now_ms >= tick_ms {
                tick_ms = now_ms + TICK.as_millis() as u64;
                self.tick(shared, now_ms);
            }
            match self.forward(shared, now_ms) {
                Ok(true) => {}
                Ok(false) => self.wait(Duration::from_millis(tick_ms - now_ms)),
                Err(error) => {
                    shared.fail(format!(
                        "the device of encrypted networks is gone ({error}): the data path has to \
                         be started again"
                    ));
                    break;
                }
            }
        }
        (self.tap, self.socket)
    }

    /// One batch in each direction; says whether there was any.
    fn forward(&mut self, shared: &Shared, now_ms: u64) -> std::io::Result<bool> {
        let Self { tap, socket, .. } = self;
        let tables = shared.read();
        let received = self.receive.forward(&tables, tap, socket, now_ms);
        let sent = self.transmit.forward(&tables, tap, socket, now_ms)?;
        Ok(received + sent > 0)
    }

    fn tick(&mut self, shared: &Shared, now_ms: u64) {
        if let Ok(mac) = self.tap.hardware_address() {
            self.receive.set_mac(mac);
        }
        if self.first {
            self.transmit
                .keep_alive(&shared.read(), &self.socket, now_ms);
        }
    }

    fn wait(&self, longest: Duration) {
        let wanted = [
            (self.tap.as_fd(), libc::POLLIN),
            (self.socket.as_fd(), libc::POLLIN),
            (self.end.as_fd(), libc::POLLIN),
        ];
        // An error is one of a wrong call only. The next read says what is wrong, if anything.
        let _ = sys::poll(wanted, longest);
    }
}
