//! What can go wrong with a lab, said in one line each.

use std::{io, path::PathBuf};

/// Why a lab could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The lab's name would not make a plain file name.
    #[error("lab name {name:?} refused: use 1 to 32 of a-z, 0-9 and '-', the first not '-'")]
    BadName {
        /// The name as given.
        name: String,
    },
    /// A number of hosts, managers or an MTU is outside what a lab can have.
    #[error("{what} {given} refused: a lab takes {accepted}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// The number as given.
        given: usize,
        /// The accepted range.
        accepted: &'static str,
    },
    /// A lab of that name runs already.
    #[error(
        "lab {name:?} is up already: `weft lab down --name {name}` ends it, --name takes another"
    )]
    AlreadyUp {
        /// The lab's name.
        name: String,
    },
    /// No lab of that name runs.
    #[error("lab {name:?} is not up: `weft lab up --name {name}` starts it")]
    NotUp {
        /// The lab's name.
        name: String,
    },
    /// The lab has no host of that name.
    #[error("lab {lab:?} has no host {host:?}: it has {known}")]
    NoSuchHost {
        /// The lab's name.
        lab: String,
        /// The name as given.
        host: String,
        /// The hosts that exist, as text.
        known: String,
    },
    /// A directory that should hold the lab's files cannot be trusted or used.
    #[error("directory {} refused: {reason}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The lab's supervisor did not come up.
    #[error("lab {name:?} did not start: {reason}")]
    Start {
        /// The lab's name.
        name: String,
        /// What the supervisor or its launcher reported.
        reason: String,
    },
    /// The supervisor refused a request.
    #[error("{0}")]
    Refused(String),
    /// A command that forms the cluster failed on a host.
    #[error("`{command}` on {host} failed: {reason}")]
    Command {
        /// The host.
        host: String,
        /// The command line.
        command: String,
        /// Its error output, or how it ended.
        reason: String,
    },
    /// Something did not happen in time.
    #[error("{what}: not within {seconds} s")]
    TimedOut {
        /// What was waited for, with what is known of why not.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl LabError {
    /// Wraps a system error with what was being done; for `map_err`.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
