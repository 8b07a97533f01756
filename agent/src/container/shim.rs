//! The process that makes a container, supervises its command and cleans up after it.
//!
//! It lives in the container's namespaces and holds them, so the agent finds the network namespace
//! at `/proc/PID/ns/net` of this process for exactly as long as somebody looks after the command.
//! It needs no agent to go on; only at the start, and to say that an endpoint is done with.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use nix::fcntl::OFlag;
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, close, dup2_stderr, dup2_stdout, getppid, pipe2, setsid};
use serde::{Deserialize, Serialize};

use super::children;
use super::endpoints::Endpoints;
use super::error::{Failure, RunError};
use super::fresh::Container;
use super::launcher::{self, Streams};
use super::output::Output;
use super::program;
use super::signals::{SignalStream, Signals};
use super::supervisor::Supervisor;
use crate::api::client::Client;
use crate::api::types::{AttachRequest, Endpoint};

/// The shim's command line.
#[derive(Debug, Args)]
pub(super) struct ShimArgs {
    /// The agent's socket.
    #[arg(long)]
    pub(super) socket: PathBuf,
    /// The agent's run directory.
    #[arg(long)]
    pub(super) run_dir: PathBuf,
    /// Process that waits for the command, and without which it ends; absent when detached.
    #[arg(long)]
    pub(super) starter: Option<i32>,
    /// [`AttachRequest`] as JSON, without the namespace; one for each network.
    #[arg(long, value_parser = parse_request)]
    pub(super) attach: Vec<AttachRequest>,
    #[arg(last = true, required = true)]
    pub(super) command: Vec<OsString>,
}

/// What a detached shim tells `weft run`, as one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The command runs, attached so.
    Started(Vec<Endpoint>),
    /// Nothing runs and nothing is left.
    Failed(Failure),
}

/// The shim process.
pub(super) fn shim(args: &ShimArgs) -> ExitCode {
    match supervise(args) {
        Ok(status) => ExitCode::from(status),
        Err(error) if args.starter.is_some() => {
            eprintln!("weft: {error}");
            ExitCode::from(error.status())
        }
        Err(error) => {
            // Nobody is left to be told when this fails.
            let _ = report(&Report::Failed(error.failure()));
            ExitCode::from(error.status())
        }
    }
}

fn parse_request(text: &str) -> Result<AttachRequest, serde_json::Error> {
    serde_json::from_str(text)
}

fn supervise(args: &ShimArgs) -> Result<u8, RunError> {
    let starter = args.starter.map(Pid::from_raw);
    let signals = become_supervisor(starter)
        .map_err(|error| RunError::system("the command cannot be supervised", error))?;
    let first = args
        .command
        .first()
        .map(OsString::as_os_str)
        .unwrap_or_default();
    program::check(first, std::env::var_os("PATH").as_deref())?;
    let runtime = super::runtime()?;
    let client = Client::new(&args.socket);
    // Before anything is made, so that there is nothing to undo where no agent is.
    runtime.block_on(client.status())?;
    let container = Container::enter_new(&args.run_dir)?;
    runtime.block_on(async {
        let signals = SignalStream::new(signals)
            .map_err(|error| RunError::system("no signals can be read", error))?;
        container.loopback_up().await?;
        let mut endpoints = Endpoints::new(client);
        let started = start(args, &container, &signals, &mut endpoints).await;
        let supervisor = match started {
            Ok((command, output)) => Supervisor::new(starter, command, output),
            Err(error) => {
                children::end_all().await;
                endpoints
                    .detach_all(&signals, true, container.directory())
                    .await;
                return Err(error);
            }
        };
        let status = supervisor.run(&signals, &endpoints).await;
        let attended = starter.is_some();
        endpoints
            .detach_all(&signals, attended, container.directory())
            .await;
        if let Some(id) = endpoints.first_id().filter(|_| !attended) {
            container.into_directory().remove_keeping_log(id);
        }
        Ok(status)
    })
}

/// Ties this process to the one that waits for it, or loosens it from everything.
fn become_supervisor(starter: Option<Pid>) -> io::Result<Signals> {
    match starter {
        Some(starter) => {
            set_pdeathsig(Signal::SIGTERM)?;
            // A starter that died before it was asked for sends nothing.
            if getppid() != starter {
                return Err(io::Error::other("`weft run` is gone"));
            }
        }
        None => {
            close_inherited()?;
            setsid()?;
        }
    }
    set_child_subreaper(true)?;
    Signals::block()
}

/// Closes what the caller happened to have open, so that nobody waits for the end of a pipe that
/// this process knows nothing of. Nothing else is open yet.
fn close_inherited() -> io::Result<()> {
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number: Option<RawFd> = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        open.extend(number.filter(|number| *number > 2));
    }
    for number in open {
        // The directory that was just read is among them, closed already.
        let _ = close(number);
    }
    Ok(())
}

/// Attaches, then starts: the interfaces are there when the command looks.
async fn start(
    args: &ShimArgs,
    container: &Container,
    signals: &SignalStream,
    endpoints: &mut Endpoints,
) -> Result<(children::Command, Option<Output>), RunError> {
    for request in &args.attach {
        let mut request = AttachRequest {
            netns: Some(container.netns()),
            ..request.clone()
        };
        if let Some(first) = endpoints.list().first().filter(|_| publishes(args)) {
            request.service.clone_from(&first.service);
        }
        endpoints.attach(&request, signals).await?;
    }
    if args.starter.is_some() && publishes(args) {
        endpoints.tell_chosen_ports(&args.attach).await;
    }
    container.name(&endpoints.hosts_entries())?;
    if args.starter.is_some() {
        let child = launcher::start(&args.command, Streams::Inherited)?;
        return Ok((children::Command::new(child), None));
    }
    let no_log = |error| RunError::system("the log cannot be made", error);
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| no_log(errno.into()))?;
    let output = Output::new(reader, &container.directory().log()).map_err(no_log)?;
    let child = launcher::start(&args.command, Streams::Piped(writer))?;
    // A `weft run` that is gone has told nobody about the container.
    report(&Report::Started(endpoints.list().to_vec()))
        .and_then(|()| leave_streams())
        .map_err(|error| RunError::system("`weft run` is gone", error))?;
    Ok((children::Command::new(child), Some(output)))
}

/// Whether the first endpoint makes a service, which the others are to join.
fn publishes(args: &ShimArgs) -> bool {
    let first = args.attach.first();
    first.is_some_and(|request| request.publish.is_some())
}

fn report(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

/// Lets go of the terminal and of the pipe that the report went into.
fn leave_streams() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    // A directory that is in use cannot be unmounted.
    std::env::set_current_dir("/")
}
