use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Below the run directory.
const CONTAINERS: &str = "containers";
const LOCK: &str = "lock";
const PASSING_PREFIX: &str = ".passing-";
/// Logs of ended containers that are kept, the newest ones. With the limit of one log this bounds
/// what they take of a run directory, which is memory on most hosts.
const KEPT_LOGS: usize = 16;

/// Where one container's files are while it lives: `<run-dir>/containers/<inode of its network
/// namespace>`. Removed when this is dropped; what a killed supervisor left is removed by the next
/// one.
#[derive(Debug)]
pub(super) struct Directory {
    containers: PathBuf,
    path: PathBuf,
    // Held for as long as the container lives.
    _lock: Flock<File>,
}

impl Directory {
    /// Makes the directory of the container whose network namespace has `inode`.
    ///
    /// # Errors
    /// When the run directory is not there or may not be written.
    pub(super) fn create(run_dir: &Path, inode: u64) -> io::Result<Self> {
        let containers = run_dir.join(CONTAINERS);
        make_containers(&containers)?;
        // Held while a directory exists without its own lock being taken.
        let sweeping = lock(File::open(&containers)?, FlockArg::LockExclusive)?;
        sweep(&containers)?;
        let path = directory_of(run_dir, inode);
        DirBuilder::new().mode(0o755).create(&path)?;
        let lock = File::create_new(path.join(LOCK))
            .and_then(|file| lock(file, FlockArg::LockExclusiveNonblock))
            .inspect_err(|_| {
                let _ = fs::remove_dir_all(&path);
            })?;
        drop(sweeping);
        Ok(Self {
            containers,
            path,
            _lock: lock,
        })
    }

    /// What the container sees as `/etc/resolv.conf`.
    pub(super) fn resolv_conf(&self) -> PathBuf {
        resolv_conf_in(&self.path)
    }

    /// What the container sees as `/etc/hosts`.
    pub(super) fn hosts(&self) -> PathBuf {
        hosts_in(&self.path)
    }

    /// Output of a detached command.
    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Whether nobody has removed it.
    pub(super) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Removes everything but the log, which becomes `<run-dir>/containers/<name>.log` and is kept
    /// for as long as it is among the newest.
    pub(super) fn remove_keeping_log(self, name: &str) {
        let kept = self.containers.join(name).with_extension("log");
        if fs::rename(self.log(), kept).is_ok() {
            let _ = prune_logs(&self.containers);
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The run directory itself may be gone, as after an uninstall.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Where the files of the container with this namespace are, if it is one of `weft run`.
pub(super) fn directory_of(run_dir: &Path, inode: u64) -> PathBuf {
    run_dir.join(CONTAINERS).join(inode.to_string())
}

/// The file in a container's directory that it sees as `/etc/resolv.conf`.
pub(super) fn resolv_conf_in(directory: &Path) -> PathBuf {
    directory.join("resolv.conf")
}

/// The file in a container's directory that it sees as `/etc/hosts`.
pub(super) fn hosts_in(directory: &Path) -> PathBuf {
    directory.join("hosts")
}

fn lock(file: File, how: FlockArg) -> io::Result<Flock<File>> {
    Flock::lock(file, how).map_err(|(_, errno)| errno.into())
}

/// Removes what killed supervisors left in the run directory.
pub(super) fn sweep_run_dir(run_dir: &Path) -> io::Result<()> {
    let containers = run_dir.join(CONTAINERS);
    let _sweeping = lock(File::open(&containers)?, FlockArg::LockExclusive)?;
    sweep(&containers)
}

/// A file that a path can be bound to, in the run directory and yet of no container. Removed when
/// this is dropped; a bind mount of it stays.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) path: PathBuf,
    // Keeps it from being swept.
    _containers: Flock<File>,
}

impl Passing {
    /// # Errors
    /// When the run directory is not there or may not be written.
    pub(super) fn create(run_dir: &Path, name: &str) -> io::Result<Self> {
        let containers = run_dir.join(CONTAINERS);
        make_containers(&containers)?;
        let held = lock(File::open(&containers)?, FlockArg::LockShared)?;
        let path = containers.join(format!("{PASSING_PREFIX}{}-{name}", std::process::id()));
        File::create(&path)?;
        Ok(Self {
            path,
            _containers: held,
        })
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn make_containers(containers: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(containers) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Removes directories that no supervisor holds, and passing files. To be called under the lock.
fn sweep(containers: &Path) -> io::Result<()> {
    for entry in fs::read_dir(containers)? {
        let path = entry?.path();
        if !path.is_dir() {
            let passing = path.file_name().and_then(|name| name.to_str());
            if passing.is_some_and(|name| name.starts_with(PASSING_PREFIX)) {
                let _ = fs::remove_file(&path);
            }
            continue;
        }
        let held = match File::open(path.join(LOCK)) {
            Ok(file) => matches!(
                Flock::lock(file, FlockArg::LockExclusiveNonblock),
                Err((_, Errno::EWOULDBLOCK))
            ),
            Err(_) => false,
        };
        if !held {
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

fn prune_logs(containers: &Path) -> io::Result<()> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(containers)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            logs.push((entry.metadata()?.modified()?, path));
        }
    }
    logs.sort();
    let surplus = logs.len().saturating_sub(KEPT_LOGS);
    for (_, path) in logs.into_iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_directory_that_was_dropped() {
        let run_dir = tempfile::tempdir().unwrap();
        let directory = Directory::create(run_dir.path(), 7).unwrap();
        fs::write(directory.hosts(), "x").unwrap();
        assert!(directory.exists());
        drop(directory);
        assert!(!directory_of(run_dir.path(), 7).exists());
    }

    #[test]
    fn a_directory_of_a_live_container_is_refused_to_a_second_one() {
        let run_dir = tempfile::tempdir().unwrap();
        let first = Directory::create(run_dir.path(), 7).unwrap();
        let error = Directory::create(run_dir.path(), 7).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(first.exists());
    }

    #[test]
    fn what_a_killed_supervisor_left_is_removed_and_the_living_are_spared() {
        let run_dir = tempfile::tempdir().unwrap();
        let living = Directory::create(run_dir.path(), 1).unwrap();
        let dead = directory_of(run_dir.path(), 2);
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let _new = Directory::create(run_dir.path(), 3).unwrap();
        assert!(living.exists());
        assert!(!dead.exists());
    }

    #[test]
    fn only_the_newest_logs_are_kept() {
        let run_dir = tempfile::tempdir().unwrap();
        for number in 0..KEPT_LOGS as u64 + 3 {
            let directory = Directory::create(run_dir.path(), number).unwrap();
            fs::write(directory.log(), "x").unwrap();
            directory.remove_keeping_log(&format!("endpoint{number}"));
        }
        let left = fs::read_dir(run_dir.path().join(CONTAINERS)).unwrap();
        assert_eq!(left.count(), KEPT_LOGS);
    }

    #[test]
    fn a_missing_run_directory_is_not_made() {
        let run_dir = tempfile::tempdir().unwrap();
        let missing = run_dir.path().join("missing");
        assert!(Directory::create(&missing, 1).is_err());
        assert!(!missing.exists());
    }
}
