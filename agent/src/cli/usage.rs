//! clap's errors in one line, as every other error.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory};

use super::args::Cli;
use crate::exit::{EXIT_REFUSED, EXIT_USAGE};

/// What the contract names and later versions bring, by verb. It is not offered, but whoever types
/// it is told so rather than that it is unknown.
const LATER_FLAGS: [(&str, &[&str]); 2] = [
    ("weft init", &["--autolock", "--force-new-cluster"]),
    ("weft network create", &["--opt"]),
];
const LATER_VERBS: [(&str, &[&str]); 3] = [
    (
        "weft",
        &[
            "doctor",
            "trace",
            "capture",
            "top",
            "ca",
            "unlock",
            "unlock-key",
            "backup",
            "restore",
            "cni",
            "docker-plugin",
            "man",
            "dataplane",
        ],
    ),
    ("weft node", &["update", "promote", "demote", "rm"]),
    ("weft network", &["prune"]),
];

/// Verbs whose command is easily typed without the `--` before it.
const TAKE_COMMAND: [&str; 3] = ["weft run", "weft exec", "weft lab exec"];
/// Its value must not be repeated into logs.
const SECRET_FLAG: &str = "--token";

/// Writes help and version to standard output, errors to standard error.
pub(super) fn report(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(EXIT_REFUSED),
        },
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(EXIT_USAGE)
        }
        _ => {
            let _ = writeln!(std::io::stderr(), "weft: {}", line(error, arguments));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The error as one line that ends with where help is. `arguments` are without the program's name.
pub(super) fn line(error: &clap::Error, arguments: &[OsString]) -> String {
    let path = path(&Cli::command(), arguments);
    let what = later(error, &path)
        .or_else(|| secret(error))
        .unwrap_or_else(|| flattened(error));
    let what = if error.kind() == ErrorKind::UnknownArgument && TAKE_COMMAND.contains(&&*path) {
        format!("{what}; the command to run goes after '--'")
    } else {
        what
    };
    format!("{what}; see '{path} --help'")
}

/// The verbs that were recognised: `weft network create`.
fn path(root: &Command, arguments: &[OsString]) -> String {
    let mut path = root.get_name().to_owned();
    let mut command = root;
    for argument in arguments {
        let Some(next) = argument.to_str().and_then(|a| command.find_subcommand(a)) else {
            continue;
        };
        command = next;
        path = format!("{path} {}", next.get_name());
    }
    path
}

fn later(error: &clap::Error, path: &str) -> Option<String> {
    let (kind, known) = match error.kind() {
        ErrorKind::UnknownArgument => (ContextKind::InvalidArg, &LATER_FLAGS[..]),
        ErrorKind::InvalidSubcommand => (ContextKind::InvalidSubcommand, &LATER_VERBS[..]),
        _ => return None,
    };
    let Some(ContextValue::String(typed)) = error.get(kind) else {
        return None;
    };
    let typed = typed.split('=').next().unwrap_or(typed);
    let (_, words) = known.iter().find(|(verb, _)| *verb == path)?;
    let full = if typed.starts_with('-') {
        typed.to_owned()
    } else {
        format!("{path} {typed}")
    };
    words
        .contains(&typed)
        .then(|| format!("this version of weft does not have '{full}' yet"))
}

/// What is wrong with a secret, without the secret.
fn secret(error: &clap::Error) -> Option<String> {
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(flag) if flag.starts_with(SECRET_FLAG) => {}
        _ => return None,
    }
    let reason = std::error::Error::source(error)?;
    Some(format!("invalid value for '{SECRET_FLAG}': {reason}"))
}

/// clap's text without its prefix, its usage and its line breaks.
fn flattened(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" ").replace(" tip: ", "; ")
}
