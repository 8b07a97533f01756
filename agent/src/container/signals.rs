use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a command under `weft run` is sent when `weft run` gets it.
const PASSED_ON: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
];

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) signal: Signal,
    /// Sent by the kernel itself, as a terminal's Ctrl-C is: to every process of the foreground
    /// group, so the command got its own.
    pub(super) by_kernel: bool,
    /// Who sent it.
    pub(super) sender: Pid,
}

impl Arrival {
    /// Whether it asks a process to end that does not catch it.
    pub(super) fn ends(&self) -> bool {
        matches!(
            self.signal,
            Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP | Signal::SIGQUIT
        )
    }
}

/// The signals of this process, read one by one instead of interrupting it (signalfd(2)).
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals that are passed on, and `SIGCHLD`, for this thread and for every process
    /// that it starts. To be called while the process has one thread.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub(super) fn block() -> io::Result<Self> {
        let set: SigSet = PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect();
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { fd })
    }

    /// The mask that a freshly started program expects.
    pub(super) fn unblock_all() -> io::Result<()> {
        SigSet::empty().thread_set_mask().map_err(io::Error::from)
    }

    /// Waits for the next one.
    pub(super) fn wait(&self) -> io::Result<Arrival> {
        loop {
            match self.read() {
                Ok(Some(arrival)) => return Ok(arrival),
                Ok(None) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// `None` when none has arrived and the descriptor does not block.
    fn read(&self) -> nix::Result<Option<Arrival>> {
        while let Some(info) = self.fd.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if let Ok(signal) = Signal::try_from(number) {
                return Ok(Some(Arrival {
                    signal,
                    // SI_USER, SI_QUEUE and SI_TKILL are 0 and below (sigaction(2)).
                    by_kernel: info.ssi_code > 0,
                    sender: Pid::from_raw(i32::try_from(info.ssi_pid).unwrap_or(0)),
                }));
            }
        }
        Ok(None)
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_fd().as_raw_fd()
    }
}

/// [`Signals`] on a runtime.
#[derive(Debug)]
pub(super) struct SignalStream {
    fd: AsyncFd<Signals>,
}

impl SignalStream {
    /// # Errors
    /// Outside a runtime with I/O.
    pub(super) fn new(signals: Signals) -> io::Result<Self> {
        fcntl(&signals.fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that may give another descriptor each time \
                      they are asked; this one owns one and gives that"
        )]
        AsyncFd::with_interest(signals, Interest::READABLE).map(|fd| Self { fd })
    }

    /// Waits for the next one; nothing is lost when the future is dropped.
    pub(super) async fn next(&self) -> io::Result<Arrival> {
        loop {
            let mut guard = self.fd.readable().await?;
            match self.fd.get_ref().read()? {
                Some(arrival) => return Ok(arrival),
                None => guard.clear_ready(),
            }
        }
    }
}
