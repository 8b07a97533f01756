//! A health check's command: a process that supervises it in an endpoint's namespace.
//!
//! Between the agent and the command it makes sure that nothing is left of the command, whatever
//! it started, when it has ended, took too long or the agent is gone.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_child_subreaper;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use weft_overlay::NetnsRef;

use super::children;
use super::error::RunError;
use super::exec::show_etc;
use super::launcher::{self, Streams};
use super::mounts;
use super::namespace::open_verified;
use super::program;
use super::signals::{SignalStream, Signals};
use super::supervision::Event;

/// The supervising process's command line.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The agent's run directory.
    #[arg(long)]
    run_dir: PathBuf,
    /// Path of the network namespace.
    #[arg(long)]
    netns: String,
    /// `st_dev` of its file.
    #[arg(long)]
    device: u64,
    /// `st_ino` of its file.
    #[arg(long)]
    inode: u64,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The supervising process of `command`. It ends all of it when its own standard input, a pipe, is
/// closed. Its exit status is 0 when the command's is; otherwise it says why on its standard
/// output.
pub(crate) fn check_command(run_dir: &Path, netns: &NetnsRef, command: &[String]) -> Command {
    let mut supervisor = Command::new("/proc/self/exe");
    supervisor
        .arg0("weft")
        .args(["internal", "container", "check"])
        .arg("--run-dir")
        .arg(run_dir)
        .arg("--netns")
        .arg(&netns.path)
        .arg(format!("--device={}", netns.device))
        .arg(format!("--inode={}", netns.inode))
        .arg("--")
        .args(command);
    supervisor
}

/// The supervising process.
pub(super) fn check(args: &CheckArgs) -> ExitCode {
    let reason = match supervise(args) {
        Ok(Some(Event::Exited(0))) => return ExitCode::SUCCESS,
        Ok(Some(Event::Exited(status))) => format!("the command exited with status {status}"),
        Ok(Some(Event::Killed(signal))) => format!("the command was ended by signal {signal}"),
        Ok(_) => "the command was ended".to_owned(),
        Err(error) => error.to_string(),
    };
    // An agent that does not listen any more needs no reason.
    let _ = writeln!(io::stdout(), "{reason}");
    ExitCode::FAILURE
}

/// How the command ended; `None` when it had to be ended.
fn supervise(args: &CheckArgs) -> Result<Option<Event>, RunError> {
    let failed = |error| RunError::system("the command cannot be supervised", error);
    set_child_subreaper(true).map_err(|errno| failed(errno.into()))?;
    let signals = Signals::block().map_err(failed)?;
    let program = args.command.first().map(OsString::as_os_str);
    program::check(
        program.unwrap_or_default(),
        std::env::var_os("PATH").as_deref(),
    )?;
    enter(args)?;
    super::runtime()?.block_on(async {
        let signals = SignalStream::new(signals).map_err(failed)?;
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        let agent = Receiver::from_owned_fd(input).map_err(failed)?;
        let null = File::options()
            .write(true)
            .open("/dev/null")
            .map_err(failed)?;
        let child = launcher::start(&args.command, Streams::Piped(null.into()))?;
        let mut command = children::Command::new(child);
        let ended = tokio::select! {
            ended = until_ended(&mut command, &signals) => Some(ended.map_err(failed)?),
            () = until_closed(agent) => None,
        };
        children::end_all().await;
        Ok(ended)
    })
}

/// While the process has one thread.
fn enter(args: &CheckArgs) -> Result<(), RunError> {
    let namespace = open_verified(&args.netns, args.device, args.inode)?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| RunError::system("the endpoint's namespace cannot be entered", errno))?;
    mounts::unshare_mounts(false)?;
    show_etc(&args.run_dir, args.inode, &[])
}

async fn until_ended(command: &mut children::Command, signals: &SignalStream) -> io::Result<Event> {
    loop {
        let end = |event: &Event| matches!(event, Event::Exited(_) | Event::Killed(_));
        if let Some(event) = command.changes().into_iter().find(end) {
            return Ok(event);
        }
        // Whatever came is worth a look; what is for the agent's terminal is not for the command.
        signals.next().await?;
    }
}

async fn until_closed(mut pipe: Receiver) {
    let mut ignored = [0; 64];
    while pipe.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
}
