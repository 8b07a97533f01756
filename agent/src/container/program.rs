//! Finding a command as a shell does, before anything is made for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use thiserror::Error;

/// As POSIX has it for a shell (Shell Command Language, 2.8.2).
const STATUS_NOT_FOUND: u8 = 127;
const STATUS_NOT_EXECUTABLE: u8 = 126;

/// Why a command cannot be started.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// No such file, or none in any directory of `PATH`.
    #[error("command `{}` is not found; give one in $PATH or a path to it", .0.display())]
    NotFound(OsString),
    /// The kernel would not run it.
    #[error("command `{}` cannot be executed: {source}", program.display())]
    NotExecutable {
        /// As it was given.
        program: OsString,
        /// Why not.
        source: io::Error,
    },
}

impl ProgramError {
    /// What a shell would exit with.
    pub fn status(&self) -> u8 {
        match self {
            Self::NotFound(_) => STATUS_NOT_FOUND,
            Self::NotExecutable { .. } => STATUS_NOT_EXECUTABLE,
        }
    }

    /// Tells from what execve(2) answered.
    pub(super) fn new(program: &OsStr, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            Self::NotFound(program.to_owned())
        } else {
            Self::NotExecutable {
                program: program.to_owned(),
                source,
            }
        }
    }
}

/// Whether `program` can be started, as far as it can be told without starting it.
///
/// # Errors
/// When it cannot.
pub(super) fn check(program: &OsStr, search_path: Option<&OsStr>) -> Result<(), ProgramError> {
    if program.as_bytes().contains(&b'/') {
        return executable(Path::new(program)).map_err(|error| ProgramError::new(program, error));
    }
    let mut denied = None;
    for directory in std::env::split_paths(search_path.unwrap_or(OsStr::new("/bin:/usr/bin"))) {
        let file = candidate(&directory, program);
        match executable(&file) {
            Ok(()) => return Ok(()),
            // A directory that may not be searched has nothing in it, as for a shell.
            Err(error) if file.exists() => denied = Some(error),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(error) => ProgramError::new(program, error),
        None => ProgramError::NotFound(program.to_owned()),
    })
}

/// An empty entry of `PATH` means the working directory.
fn candidate(directory: &Path, program: &OsStr) -> PathBuf {
    if directory.as_os_str().is_empty() {
        Path::new(".").join(program)
    } else {
        directory.join(program)
    }
}

fn executable(path: &Path) -> io::Result<()> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    access(path, AccessFlags::X_OK).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_found_in_the_search_path() {
        let path = OsStr::new("/nonexistent:/bin:/usr/bin");
        assert!(check(OsStr::new("sh"), Some(path)).is_ok());
        assert!(check(OsStr::new("/bin/sh"), None).is_ok());
    }

    #[test]
    fn what_is_not_there_is_127_and_what_does_not_run_is_126() {
        for (program, status) in [
            ("no-such-command", 127),
            ("/nonexistent/sh", 127),
            ("/etc", 126),
            ("/dev/null", 126),
            ("/etc/passwd", 126),
        ] {
            let error = check(OsStr::new(program), Some(OsStr::new("/bin"))).unwrap_err();
            assert_eq!(error.status(), status, "{error}");
        }
    }

    #[test]
    fn a_file_in_the_search_path_that_does_not_run_is_126() {
        let error = check(OsStr::new("passwd"), Some(OsStr::new("/etc"))).unwrap_err();
        assert_eq!(error.status(), 126, "{error}");
    }
}
