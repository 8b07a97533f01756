//! Containers: network namespaces that belong to somebody, and the ones that `weft run` makes.
//!
//! ```text
//! weft run ----> shim ----> launcher = command
//!   passes on      new network and mount namespaces, resolv.conf, hosts; attaches;
//!   signals        supervises; at the end ends what is left, detaches, removes the files
//! ```
//!
//! Every arrow is a new process of the same program: what happens between fork and exec cannot be
//! done safely in a copy of another process. The shim is tied to `weft run` by a death signal, and
//! the command to the shim, so that nothing goes on unattended; with `--detach` the shim leads a
//! session of its own and needs neither `weft run` nor the agent to go on.
//!
//! A container ends with its command, whatever that left running included, or when its last
//! endpoint is detached: `SIGTERM` then, and `SIGKILL` ten seconds later. Detaching one of several
//! endpoints takes away its interface only.
//!
//! Invariants: no endpoint of a container outlives its files and namespace (whoever kills the shim
//! leaves that to a `weft run` that waits, or else to the agent, which removes endpoints whose
//! namespace is gone, and to the next `weft run`, which sweeps); nothing is mounted that the host sees; the process that changes
//! namespaces has one thread.

mod check;
mod children;
mod directory;
mod endpoints;
mod error;
mod exec;
mod files;
mod fresh;
mod launcher;
mod log;
mod mounts;
mod namespace;
mod output;
mod program;
mod run;
mod shim;
mod signals;
mod supervision;
mod supervisor;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub(crate) use check::check_command;
pub use error::{Failure, RunError};
pub use namespace::{NamespaceError, NetnsIdentity, boot_id, identify, open_verified};
pub use program::ProgramError;

use crate::cli::Context;
use crate::cli::args::{ExecArgs, RunArgs};
use crate::exit::CliError;
use run::Place;

/// `weft run`. The exit status is the command's, 128 and the number for a signal; 127 and 126 when
/// there is no such command or it does not run.
///
/// # Errors
/// When the agent was not there or said no; nothing is left then.
pub fn run(context: &Context, args: RunArgs) -> Result<ExitCode, CliError> {
    let mut named = args.network.iter().enumerate();
    if let Some((_, twice)) = named.find(|(place, name)| args.network[..*place].contains(name)) {
        return Err(CliError::usage(format!(
            "--network {twice} is given twice; name each network once"
        )));
    }
    conclude(run::run(place(context), &args))
}

/// `weft exec`.
///
/// # Errors
/// As for [`run()`].
pub fn exec(context: &Context, args: ExecArgs) -> Result<ExitCode, CliError> {
    conclude(exec::exec(place(context), &args.endpoint, &args.command).map(|never| match never {}))
}

/// A helper process of `run`.
///
/// # Errors
/// When its command line is none.
pub fn internal(args: Vec<OsString>) -> Result<ExitCode, CliError> {
    let internal = Internal::try_parse_from(args)
        .map_err(|error| CliError::usage(error.to_string().replace('\n', " ")))?;
    Ok(match internal.helper {
        Helper::Shim(args) => shim::shim(&args),
        Helper::Launch(args) => launcher::launch(&args),
        Helper::Check(args) => check::check(&args),
    })
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct Internal {
    #[command(subcommand)]
    helper: Helper,
}

#[derive(Debug, Subcommand)]
enum Helper {
    Shim(shim::ShimArgs),
    Launch(launcher::LaunchArgs),
    Check(check::CheckArgs),
}

/// The agent's run directory is where its socket is.
fn place(context: &Context) -> Place<'_> {
    Place {
        socket: &context.socket,
        run_dir: context.socket.parent().unwrap_or(Path::new("/")),
    }
}

/// Where the namespace of a process is while it lives.
fn netns_of(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// One thread, which changing namespaces and the death signal need.
fn runtime() -> Result<tokio::runtime::Runtime, RunError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::system("the agent cannot be asked", error))
}

fn conclude(result: Result<u8, RunError>) -> Result<ExitCode, CliError> {
    match result {
        Ok(status) => Ok(ExitCode::from(status)),
        Err(RunError::Agent(error)) => Err(error),
        Err(error) => {
            eprintln!("weft: {error}");
            Ok(ExitCode::from(error.status()))
        }
    }
}
