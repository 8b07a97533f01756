use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Name of the lock file in a run directory.
const FILE: &str = "agent.lock";
/// More digits than a process id has.
const MAX_PID_LEN: u64 = 16;

/// Held for as long as an agent uses a run directory: what carries weft's mark there and is not
/// wanted is removed, so two agents would remove each other's sandboxes.
///
/// The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct RunClaim {
    _file: File,
}

/// Why a run directory could not be claimed.
#[derive(Debug, Error)]
pub(super) enum ClaimError {
    /// It is used by another agent.
    #[error(
        "another weft agent (pid {pid}) uses {}; stop it, or give this one its own --run-dir \
         and --data-dir",
        dir.display()
    )]
    Held {
        /// As the holder wrote it; `unknown` if it is just starting.
        pid: String,
        /// The directory.
        dir: PathBuf,
    },
    /// The lock file cannot be made or locked.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl RunClaim {
    /// Claims a directory that exists.
    pub(super) fn acquire(dir: &Path) -> Result<Self, ClaimError> {
        let path = dir.join(FILE);
        let failed = |source| ClaimError::Io {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ClaimError::Held {
                    pid: holder(&file),
                    dir: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Only for the message: a holder that is just starting has not written it yet.
fn holder(file: &File) -> String {
    let mut pid = String::new();
    match file.take(MAX_PID_LEN).read_to_string(&mut pid) {
        Ok(_) if !pid.trim().is_empty() => pid.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_has_one_agent_and_the_refusal_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = RunClaim::acquire(dir.path()).unwrap();
        let refused = RunClaim::acquire(dir.path()).unwrap_err().to_string();
        let pid = format!("pid {}", std::process::id());
        assert!(refused.contains(&pid), "{refused}");
        assert!(
            refused.contains(&dir.path().display().to_string()),
            "{refused}"
        );
        drop(held);
        RunClaim::acquire(dir.path()).unwrap();
    }
}
