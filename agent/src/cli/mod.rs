//! The `weft` command.

pub mod args;
pub mod table;
mod usage;
mod verbs;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use crate::api::client::Client;
use crate::config::{self, Config, Overrides};
use crate::exit::CliError;
use args::{AgentArgs, Cli, InternalCommand, Verb};

/// What every verb may need.
#[derive(Clone, Debug)]
pub struct Context {
    /// The agent's socket.
    pub socket: PathBuf,
}

impl Context {
    /// A client of the agent.
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// Runs what talks to the agent, on this thread: no other thread is made.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(runtime.block_on(future))
    }
}

/// Does what the command line says. The process has one thread until a verb makes more.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = match Cli::try_parse() {
        Ok(cli) => dispatch(cli),
        Err(error) => return usage::report(&error, &arguments),
    };
    outcome.unwrap_or_else(|error| {
        complain(&error);
        error.exit_code()
    })
}

/// Writes an error as it is always written. A reader that went away is not told.
pub fn complain(error: &CliError) {
    if !matches!(error, CliError::BrokenPipe) {
        let line = error.to_string().replace(['\n', '\r'], " ");
        // Nowhere is left to complain to when this fails.
        let _ = writeln!(io::stderr(), "weft: {line}");
    }
}

/// Writes what went well with a reservation.
pub fn warn(message: &str) {
    let line = message.replace(['\n', '\r'], " ");
    let _ = writeln!(io::stderr(), "weft: warning: {line}");
}

fn dispatch(cli: Cli) -> Result<ExitCode, CliError> {
    let context = |socket| Context {
        socket: config::client_socket(socket, env_path("WEFT_RUN_DIR")),
    };
    match cli.verb {
        Verb::Agent(args) => agent(args, cli.socket),
        Verb::Dataplane(args) => {
            crate::dataplane::run(args.run_dir, args.log.log_format, args.log.log_level)
                .map_err(|error| CliError::failed(chain(&error)))
        }
        Verb::Run(args) => crate::container::run(&context(cli.socket), args),
        Verb::Exec(args) => crate::container::exec(&context(cli.socket), args),
        Verb::Lab(command) => crate::lab::run(&context(cli.socket), command),
        Verb::Internal(InternalCommand::Container { args }) => crate::container::internal(args),
        Verb::Internal(InternalCommand::Lab { args }) => crate::lab::internal(args),
        Verb::Completions { shell } => completions(shell),
        verb => {
            let context = context(cli.socket);
            let client = context.client();
            let mut out = io::stdout();
            context.block_on(verbs::run(verb, &client, &mut out))??;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn agent(args: AgentArgs, socket: Option<PathBuf>) -> Result<ExitCode, CliError> {
    let failed = |error: anyhow::Error| CliError::failed(chain(&error));
    let config = Config::load(Overrides {
        file: args.config,
        data_dir: args.data_dir,
        run_dir: args.run_dir,
        socket,
        node_name: args.node_name,
        log_format: args.log.log_format,
        log_level: args.log.log_level,
        metrics: args.metrics,
        encryption: args.encryption,
        rekey: args.rekey,
    })
    .map_err(|error| failed(error.into()))?;
    crate::log::init(&config).map_err(failed)?;
    crate::daemon::run(config).map_err(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// The error and its causes, each said once.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn completions(shell: Shell) -> Result<ExitCode, CliError> {
    // The library offers hidden subcommands too.
    let full = Cli::command();
    let shown = full.get_subcommands().filter(|verb| !verb.is_hide_set());
    let mut offered = clap::Command::new("weft")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(full.get_arguments())
        .subcommands(shown);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut offered, "weft", &mut script);
    io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// An empty variable counts as none.
fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests;
