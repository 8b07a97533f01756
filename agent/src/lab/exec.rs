//! `weft lab exec`: a program of the machine, inside a host of a lab.

use std::{
    ffi::OsString,
    io::{self, IsTerminal},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus},
};

use futures_util::future::select_all;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::signal::unix;

use super::{
    LabDir, LabError,
    control::Control,
    enter::{self, Namespaces},
};

/// Exit status for a program that is there but cannot be run (POSIX sh, 2.8.2).
const CANNOT_RUN: u8 = 126;
/// Exit status for a program that is not found (POSIX sh, 2.8.2).
const NOT_FOUND: u8 = 127;
/// What a shell adds to a signal's number to make an exit status.
const BY_SIGNAL: i32 = 128;
/// What is passed on to the program.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Runs `argv` on `host`, passes signals to it and returns its exit status.
///
/// The calling process must have one thread; it enters the host's namespaces for good.
///
/// # Errors
/// The lab is not up, has no such host, or its namespaces cannot be entered.
pub fn exec(name: &str, host: &str, argv: &[OsString]) -> Result<ExitCode, LabError> {
    let dir = LabDir::new(name)?;
    let mut control = Control::connect(&dir)?;
    let holder = control.find(host)?.holder;
    let namespaces = open(&control, holder)?;
    let cwd = std::env::current_dir();
    namespaces
        .enter()
        .map_err(|error| LabError::Refused(format!("{error:#}")))?;
    // Entering a mount namespace moves to its root (setns(2)).
    if let Ok(cwd) = cwd {
        let _ = std::env::set_current_dir(cwd);
    }
    let Some((program, args)) = argv.split_first() else {
        return Err(LabError::Refused("no command given".to_owned()));
    };
    let mut command = Command::new(program);
    command.args(args);
    enter::prepare(&mut command);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(LabError::io("cannot take signals"))?;
    let ran = runtime.block_on(async {
        // Handlers, which the command does not inherit, and before it starts, so that none is lost.
        let mut signals = Signals::take()?;
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ok(Err(error)),
        };
        signals.pass_until_end(&mut child).await.map(Ok)
    });
    let status = match ran.map_err(LabError::io("cannot wait for the command"))? {
        Ok(status) => status,
        Err(error) => {
            eprintln!("weft: cannot run {}: {error}", Path::new(program).display());
            let missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(ExitCode::from(if missing { NOT_FOUND } else { CANNOT_RUN }));
        }
    };
    let code = status
        .code()
        .unwrap_or(BY_SIGNAL + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Opens the namespaces of a host's holder, by way of the supervisor's view of the lab.
fn open(control: &Control, holder: i32) -> Result<Namespaces, LabError> {
    let ns = proc_dir(control.supervisor(), holder).join("ns");
    let opened = Namespaces::open(&ns).map_err(|error| LabError::Refused(format!("{error:#}")))?;
    // If the supervisor still holds its end now, its process id was its own all the time.
    match control.is_open() {
        true => Ok(opened),
        false => Err(LabError::Refused("the lab ended meanwhile".to_owned())),
    }
}

/// The directory of a process of the lab in the lab's own `/proc`, seen from outside.
pub(crate) fn proc_dir(supervisor: i32, pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{supervisor}/root/proc/{pid}"))
}

/// The signals that concern a child.
struct Signals {
    forwarded: Vec<(Signal, unix::Signal)>,
    ended: unix::Signal,
}

impl Signals {
    fn take() -> io::Result<Self> {
        let take = |signal: Signal| {
            let kind = unix::SignalKind::from_raw(signal as i32);
            Ok((signal, unix::signal(kind)?))
        };
        Ok(Self {
            forwarded: FORWARDED.into_iter().map(take).collect::<io::Result<_>>()?,
            ended: unix::signal(unix::SignalKind::child())?,
        })
    }

    async fn pass_until_end(&mut self, child: &mut Child) -> io::Result<ExitStatus> {
        let pid = Pid::from_raw(child.id().cast_signed());
        // What the terminal sends reaches the child by itself: it is in the same process group.
        let terminal = io::stdin().is_terminal();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let next = self.forwarded.iter_mut().map(|(signal, taken)| {
                let signal = *signal;
                Box::pin(async move {
                    taken.recv().await;
                    signal
                })
            });
            tokio::select! {
                _ = self.ended.recv() => {}
                (signal, _, _) = select_all(next) => {
                    if !(terminal && matches!(signal, Signal::SIGINT | Signal::SIGQUIT)) {
                        kill(pid, signal)?;
                    }
                }
            }
        }
    }
}
