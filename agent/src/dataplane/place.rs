//! Where data-plane processes are found: in the agent's run directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// A symbolic link to the socket of the process that is in charge.
const CURRENT: &str = "dataplane.sock";
/// The process's own socket is `dataplane-<pid>.sock`.
const PREFIX: &str = "dataplane-";
const SUFFIX: &str = ".sock";
/// Held while a process takes over.
const LOCK: &str = "dataplane.lock";
/// Only its own user may speak to it.
const MODE: u32 = 0o600;
/// Most sockets that are looked at.
const SOCKETS_MAX: usize = 64;

/// The places in one run directory.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    dir: PathBuf,
}

impl Place {
    pub(crate) fn new(run_dir: &Path) -> Self {
        let dir = run_dir.to_owned();
        Self { dir }
    }

    pub(crate) fn run_dir(&self) -> &Path {
        &self.dir
    }

    /// Leads to the process that is in charge, if there is one.
    pub(crate) fn current(&self) -> PathBuf {
        self.dir.join(CURRENT)
    }

    /// The socket that a process has.
    pub(crate) fn of(&self, pid: u32) -> PathBuf {
        self.dir.join(format!("{PREFIX}{pid}{SUFFIX}"))
    }

    /// The sockets of all processes, and what dead ones left.
    pub(crate) fn all(&self) -> Vec<PathBuf> {
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            let pid = name.and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
            pid.is_some_and(|pid| pid.parse::<u32>().is_ok())
        };
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(is_ours);
        paths.take(SOCKETS_MAX).collect()
    }

    /// Waits until no other process takes over.
    pub(super) fn lock(&self) -> io::Result<Flock<File>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.dir.join(LOCK))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    /// Listens for who has something to say to this process.
    pub(super) fn listen(&self) -> io::Result<UnixListener> {
        let path = self.of(std::process::id());
        // Of an earlier process with this number.
        remove(&path)?;
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(MODE))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Puts this process in charge.
    pub(super) fn take_charge(&self) -> io::Result<()> {
        let new = self.dir.join(format!("{CURRENT}.new"));
        remove(&new)?;
        symlink(
            self.of(std::process::id()).file_name().unwrap_or_default(),
            &new,
        )?;
        fs::rename(&new, self.current())
    }

    /// Leaves nothing of this process behind. With the lock held.
    pub(super) fn leave(&self) -> io::Result<()> {
        let own = self.of(std::process::id());
        let leads = fs::read_link(self.current()).ok();
        if leads.as_deref().map(Path::as_os_str) == own.file_name() {
            remove(&self.current())?;
        }
        remove(&own)
    }

    /// Removes the socket of a process that is no more.
    pub(crate) fn forget(path: &Path) {
        // Another look finds it again when this fails.
        let _ = fs::remove_file(path);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_leads_to_who_is_in_charge_until_they_leave() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path());
        assert!(place.all().is_empty());
        let listener = place.listen().unwrap();
        let own = place.of(std::process::id());
        assert_eq!(place.all(), std::slice::from_ref(&own));
        assert_eq!(
            fs::metadata(&own).unwrap().permissions().mode() & 0o777,
            MODE
        );
        place.take_charge().unwrap();
        std::os::unix::net::UnixStream::connect(place.current()).unwrap();
        drop(listener);
        // One that starts with the same number finds no obstacle.
        let _listener = place.listen().unwrap();
        place.leave().unwrap();
        assert!(fs::symlink_metadata(place.current()).is_err());
        assert!(place.all().is_empty());
    }

    #[test]
    fn a_link_to_another_stays() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path());
        symlink("dataplane-1.sock", place.current()).unwrap();
        let _listener = place.listen().unwrap();
        place.leave().unwrap();
        assert!(fs::symlink_metadata(place.current()).is_ok());
    }
}
