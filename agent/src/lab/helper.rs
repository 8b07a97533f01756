//! The processes that make a lab: the `weft` program again, under a hidden first argument.
//!
//! Namespaces are entered by fresh single-threaded processes that execute the program anew, never
//! between `fork` and `exec`, so nothing here needs `unsafe`.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode, ExitStatus},
};

use serde::{Deserialize, Serialize};

use super::{
    enter::EnterSpec,
    holder::HoldSpec,
    launch::LabSpec,
    ping::PingSpec,
    web::{FetchSpec, PullSpec, ServeSpec},
};
use crate::exit::CliError;

/// The words that make `weft` a helper; a [`Role`] as JSON follows.
const HELPER: [&str; 2] = ["internal", "lab"];

/// What a helper process is to be.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Makes the lab's namespaces and waits for the supervisor.
    Launch(LabSpec),
    /// Runs the lab, as process 1 of its pid namespace.
    Supervise(LabSpec),
    /// Holds the namespaces of one host.
    Hold(HoldSpec),
    /// Enters a host from inside the lab and becomes another program.
    Enter(EnterSpec),
    /// Pings from where it runs.
    Ping(PingSpec),
    /// Says who it is and whom it sees.
    Serve(ServeSpec),
    /// Asks such a server.
    Fetch(FetchSpec),
    /// Has such a server send much.
    Pull(PullSpec),
    /// Looks at what goes over a wire.
    Watch,
}

/// Becomes a helper process of a lab. The process must have one thread.
pub fn internal(args: Vec<OsString>) -> Result<ExitCode, CliError> {
    let role = match args.as_slice() {
        [json] => json
            .to_str()
            .and_then(|json| serde_json::from_str(json).ok()),
        _ => None,
    };
    let done = match role {
        None => return Err(CliError::usage("this is not for use by hand")),
        Some(Role::Launch(spec)) => super::launch::run(&spec),
        Some(Role::Supervise(spec)) => super::supervisor::run(spec),
        Some(Role::Hold(spec)) => super::holder::run(&spec),
        Some(Role::Enter(spec)) => super::enter::run(&spec),
        Some(Role::Ping(spec)) => super::ping::run(&spec),
        Some(Role::Serve(spec)) => super::web::serve(&spec),
        Some(Role::Fetch(spec)) => super::web::fetch(&spec),
        Some(Role::Pull(spec)) => super::web::pull(&spec),
        Some(Role::Watch) => super::watch::run(),
    };
    done.map_err(|error| CliError::failed(format!("lab: {error:#}")))
}

/// A command that runs `exe` as `weft`, whatever the file is called.
pub(crate) fn weft(exe: &Path) -> Command {
    let mut command = Command::new(exe);
    command.arg0("weft");
    command
}

/// A command that runs `exe` as a helper.
pub(crate) fn helper(exe: &Path, role: &Role) -> serde_json::Result<Command> {
    let mut command = weft(exe);
    command.args(arguments(role)?);
    Ok(command)
}

/// The arguments that make `weft` that helper.
pub(crate) fn arguments(role: &Role) -> serde_json::Result<[String; 3]> {
    let [first, second] = HELPER.map(str::to_owned);
    Ok([first, second, serde_json::to_string(role)?])
}

/// How a process ended, as a shell's user would say it.
pub(crate) fn how_it_ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("signal {signal}"),
            Err(_) => format!("signal {signal}"),
        },
        (None, None) => status.to_string(),
    }
}
