//! The last step before the command: a process of its own that becomes the command.
//!
//! It exists because what must happen between fork and exec (the death signal, the signal mask)
//! cannot be done safely in a forked copy of another process.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

use clap::Args;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{close, getppid, pipe};

use super::error::RunError;
use super::program::ProgramError;
use super::signals::Signals;

/// Longest message about a failed start; the kernel's are short, a program's name may not be.
const MAX_REPORT_BYTES: u64 = 64 << 10;

/// The launcher's command line.
#[derive(Debug, Args)]
pub(super) struct LaunchArgs {
    /// Process that must be the parent.
    #[arg(long)]
    parent: i32,
    /// Descriptor of a pipe; it hears why the command was not started, or nothing.
    #[arg(long)]
    report: RawFd,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Where a command's input and output go.
#[derive(Debug)]
pub(super) enum Streams {
    /// Where the supervisor's go.
    Inherited,
    /// No input; both outputs into this pipe.
    Piped(OwnedFd),
}

/// Starts `command` and answers with the process once it is the command that runs. The command
/// dies with the thread that called this.
pub(super) fn start(command: &[OsString], streams: Streams) -> Result<Child, RunError> {
    let failed = |error: io::Error| RunError::system("the command cannot be started", error);
    let program = command.first().cloned().unwrap_or_default();
    // Inheritable, unlike what the standard library makes; only this end loses that at once.
    let (reader, writer) = pipe().map_err(|errno| failed(errno.into()))?;
    fcntl(&reader, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|errno| failed(errno.into()))?;
    let mut launcher = Command::new("/proc/self/exe");
    launcher
        .arg0("weft")
        .args(["internal", "container", "launch"])
        .arg(format!("--parent={}", std::process::id()))
        .arg(format!("--report={}", writer.as_raw_fd()))
        .arg("--")
        .args(command);
    if let Streams::Piped(output) = streams {
        let error_output = output.try_clone().map_err(failed)?;
        launcher
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(error_output);
    }
    let child = launcher.spawn().map_err(failed)?;
    drop(writer);
    let mut report = String::new();
    File::from(reader)
        .take(MAX_REPORT_BYTES)
        .read_to_string(&mut report)
        .map_err(failed)?;
    // The pipe closes without a word when the launcher has become the command.
    match report.trim().parse() {
        Ok(errno) => Err(ProgramError::new(&program, io::Error::from_raw_os_error(errno)).into()),
        Err(_) if report.is_empty() => Ok(child),
        Err(_) => Err(failed(io::Error::other(report))),
    }
}

/// The launcher process: becomes the command, or says why not and ends.
pub(super) fn launch(args: &LaunchArgs) -> ExitCode {
    // Opened anew so that it closes when the command starts; the inherited one would not.
    let report = OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", args.report));
    let _ = close(args.report);
    let error = become_command(args);
    let message = match error.raw_os_error() {
        Some(errno) => errno.to_string(),
        None => error.to_string(),
    };
    if let Ok(mut report) = report {
        let _ = report.write_all(message.as_bytes());
    }
    ExitCode::FAILURE
}

fn become_command(args: &LaunchArgs) -> io::Error {
    let prepare = || -> io::Result<()> {
        set_pdeathsig(Signal::SIGKILL)?;
        // A parent that died before it was asked for sends nothing.
        if getppid().as_raw() != args.parent {
            return Err(io::Error::other("the supervising process is gone"));
        }
        Signals::unblock_all()
    };
    if let Err(error) = prepare() {
        return error;
    }
    match args.command.split_first() {
        Some((program, arguments)) => Command::new(program).args(arguments).exec(),
        None => io::ErrorKind::NotFound.into(),
    }
}
