//! How the command line ends: one line of error and an exit status.

use std::path::PathBuf;
use std::process::ExitCode;

use thiserror::Error;

use crate::api::types::{ApiError, ErrorCode};

/// Refused or failed.
pub const EXIT_REFUSED: u8 = 1;
/// The command line makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// The agent cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 3;
/// No leader, or timed out.
pub const EXIT_UNAVAILABLE: u8 = 4;

/// Why a verb did not do what it was asked. Its text is one line.
#[derive(Debug, Error)]
pub enum CliError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Refused or failed on this side of the socket.
    #[error("{0}")]
    Failed(String),
    /// Nobody answers on the agent's socket.
    #[error("no agent answers on {}: {reason}; {hint}", socket.display())]
    Unreachable {
        /// Where one was looked for.
        socket: PathBuf,
        /// What happened.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The agent said no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Whoever read the output has gone; nothing is said about it.
    #[error("the reader of the output went away")]
    BrokenPipe,
}

impl CliError {
    /// [`CliError::Failed`].
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// [`CliError::Usage`].
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// What the process exits with.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Failed(_) => EXIT_REFUSED,
            Self::Unreachable { .. } => EXIT_UNREACHABLE,
            Self::Api(error) => match error.code {
                ErrorCode::NoLeader | ErrorCode::TimedOut => EXIT_UNAVAILABLE,
                _ => EXIT_REFUSED,
            },
            // As a shell reports a process that SIGPIPE ended.
            Self::BrokenPipe => 141,
        }
    }

    /// [`CliError::status`] for `main`.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::Failed(error.to_string())
        }
    }
}
