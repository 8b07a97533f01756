use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Held for as long as an agent uses a data directory. The kernel lets go of it when the process
/// ends, however it ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

/// Why a data directory could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It is used by another agent.
    #[error("another weft agent (pid {pid}) uses {}; stop it or choose another --data-dir", dir.display())]
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

impl DirLock {
    /// Name of the lock file in a data directory.
    pub(crate) const FILE: &str = "agent.lock";

    /// Makes the directory if need be (mode 0700) and claims it.
    pub(crate) fn acquire(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(Self::FILE);
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        if !dir.is_dir() {
            make_private_dir(dir).map_err(failed)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message: a holder that is just starting has not written it yet.
                let read = (&file).take(16).read_to_string(&mut pid);
                let pid = match (read, pid.trim()) {
                    (Ok(_), text) if !text.is_empty() => text.to_owned(),
                    _ => "unknown".to_owned(),
                };
                return Err(LockError::Held {
                    pid,
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

fn make_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_directory_is_refused_with_the_holders_pid_and_free_again_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirLock::acquire(dir.path()).unwrap();
        let refused = DirLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("pid {}", std::process::id())),
            "{refused}"
        );
        assert!(
            refused.contains(&dir.path().display().to_string()),
            "{refused}"
        );
        drop(held);
        DirLock::acquire(dir.path()).unwrap();
    }
}
