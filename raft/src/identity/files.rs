//! Small files that must be there whole or not at all, and that only their owner may read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::IdentityError;

/// Keys and certificates are under 2 KiB; whatever is larger is something else.
const MAX_LEN: u64 = 64 << 10;
const OWNER_ONLY_FILE: u32 = 0o600;
const OWNER_ONLY_DIR: u32 = 0o700;
const OTHERS: u32 = 0o077;

/// The contents, or `None` where there is no such file. Wiped when dropped.
pub(super) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(path, "cannot be opened", &e)),
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MAX_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| failed(path, "cannot be read", &e))?;
    if bytes.len() as u64 > MAX_LEN {
        let text = "larger than any key or certificate; another program's file?";
        return Err(problem(path, text));
    }
    Ok(Some(bytes))
}

/// As [`read`], and refuses a file that others may read or write.
pub(super) fn read_secret(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, IdentityError> {
    if let Ok(meta) = fs::metadata(path)
        && meta.permissions().mode() & OTHERS != 0
    {
        let mode = meta.permissions().mode() & 0o777;
        let text = format!("a private key with mode {mode:04o} is open to others; chmod 600 it");
        return Err(problem(path, text));
    }
    read(path)
}

/// Makes `dir` (and what is above it) for the owner only, unless it exists.
pub(super) fn make_dir(dir: &Path) -> Result<(), IdentityError> {
    DirBuilder::new()
        .recursive(true)
        .mode(OWNER_ONLY_DIR)
        .create(dir)
        .map_err(|e| failed(dir, "cannot be created", &e))
}

/// Replaces the file in one step: after a crash it has the old or the new contents.
pub(super) fn replace(path: &Path, contents: &[u8]) -> Result<(), IdentityError> {
    let partial = partial_path(path);
    let write = || -> io::Result<()> {
        remove_if_there(&partial)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(OWNER_ONLY_FILE)
            .open(&partial)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        sync_dir_of(path)
    };
    write().map_err(|e| failed(path, "cannot be written", &e))
}

/// Removes the file and what an interrupted [`replace`] left; nothing there is no error.
pub(super) fn remove(path: &Path) -> Result<(), IdentityError> {
    let gone = || -> io::Result<()> {
        let partly = remove_if_there(&partial_path(path))?;
        if remove_if_there(path)? || partly {
            sync_dir_of(path)?;
        }
        Ok(())
    };
    gone().map_err(|e| failed(path, "cannot be removed", &e))
}

fn partial_path(path: &Path) -> PathBuf {
    path.with_added_extension("partial")
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// A rename is durable when its directory is.
fn sync_dir_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn failed(path: &Path, what: &str, error: &io::Error) -> IdentityError {
    problem(path, format!("{what}: {error}"))
}

pub(super) fn problem(path: &Path, problem: impl Into<String>) -> IdentityError {
    IdentityError::File {
        path: path.to_owned(),
        problem: problem.into(),
    }
}
