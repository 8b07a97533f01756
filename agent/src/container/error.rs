use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::namespace::NamespaceError;
use super::program::ProgramError;
use super::supervision::signal_status;
use crate::exit::{CliError, EXIT_REFUSED};

/// Why a command was not run in an endpoint's namespace. Its text is one line.
#[derive(Debug, Error)]
pub enum RunError {
    /// The agent was not there or said no.
    #[error(transparent)]
    Agent(#[from] CliError),
    /// The command itself.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The namespace to enter.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A signal came before the command was started.
    #[error("ended by {0} before the command was started")]
    Interrupted(Signal),
    /// A file of the host that the container's is shown over.
    #[error(
        "{} leads to {}, which does not exist; make that file, it may be empty",
        place.display(),
        missing.display()
    )]
    MissingFile {
        /// `/etc/resolv.conf` or `/etc/hosts`.
        place: PathBuf,
        /// What it is or links to.
        missing: PathBuf,
    },
    /// The endpoint is somebody else's to enter.
    #[error("endpoint `{endpoint}` is on node `{node}`; run this there")]
    OtherNode {
        /// As it was named.
        endpoint: String,
        /// Where it is.
        node: String,
    },
    /// The namespace at the endpoint's path is another one by now, or not programmed yet.
    #[error(
        "the namespace of endpoint `{endpoint}` has no interface {ifname} with address {mac}; \
         see `weft endpoint inspect {endpoint}`"
    )]
    NoInterface {
        /// As it was named.
        endpoint: String,
        /// Looked for.
        ifname: String,
        /// Looked for.
        mac: String,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    System {
        /// What could not be done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What the process that supervises the command said.
    #[error("{}", .0.message)]
    Reported(Failure),
}

/// A failure as the supervising process tells it to the one that the user started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line.
    pub message: String,
    /// What to exit with.
    pub status: u8,
}

impl RunError {
    /// What the process exits with.
    pub fn status(&self) -> u8 {
        match self {
            Self::Agent(error) => error.status(),
            Self::Program(error) => error.status(),
            Self::Interrupted(signal) => signal_status(*signal as i32),
            Self::Reported(failure) => failure.status,
            _ => EXIT_REFUSED,
        }
    }

    pub(super) fn system(what: impl fmt::Display, source: impl Into<io::Error>) -> Self {
        Self::System {
            what: what.to_string(),
            source: source.into(),
        }
    }

    /// For the process that the user started.
    pub(super) fn failure(&self) -> Failure {
        Failure {
            message: self.to_string(),
            status: self.status(),
        }
    }
}
