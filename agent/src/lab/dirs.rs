//! Where a running lab is found: one directory per lab, private to its user.
//!
//! ```text
//! <base>/<name>/            0700, owned by the user
//!     lab.log               the lab's own log, and its lock
//!     control.sock          the supervisor's requests
//!     logs/<host>.log       standard error of that host's agent
//! ```
//! `lab.log` is the standard error of every process that makes the lab, opened once and locked: the
//! lock is held exactly as long as one of them lives. A directory whose log can be locked is stale.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::LabError;

/// The lab that is meant when no name is given.
pub const DEFAULT_NAME: &str = "default";
/// Longest name of a lab, so that the control socket's path fits `sun_path` (108 bytes, unix(7)).
const NAME_MAX: usize = 32;
/// Time between two tries of the lock of a new lab.
const POLL: Duration = Duration::from_millis(2);
/// How often the lock is tried.
const LOCK_TRIES: u32 = 10;

/// The directory of one lab; the directory itself may or may not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabDir {
    name: String,
    path: PathBuf,
}

impl LabDir {
    /// The directory of the lab `name` of the calling user.
    ///
    /// # Errors
    /// The name is not a lab's name, or no base directory can be used.
    pub fn new(name: &str) -> Result<Self, LabError> {
        let path = base()?.join(checked_name(name)?);
        Ok(Self {
            name: name.to_owned(),
            path,
        })
    }

    /// Every directory of a lab of the calling user, live or stale, by name.
    ///
    /// # Errors
    /// The base directory cannot be used or read.
    pub fn all() -> Result<Vec<Self>, LabError> {
        let base = base()?;
        let entries = match fs::read_dir(&base) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(LabError::io(format!("cannot read {}", base.display())))?,
        };
        let mut found: Vec<Self> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| checked_name(name).is_ok())
            .map(|name| Self {
                path: base.join(&name),
                name,
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The supervisor's socket.
    pub fn control(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The lab's own log.
    pub fn log(&self) -> PathBuf {
        self.path.join("lab.log")
    }

    /// The log of one host's agent.
    pub fn host_log(&self, host: &str) -> PathBuf {
        self.path.join("logs").join(format!("{host}.log"))
    }

    /// Makes the directory for a new lab, over a stale one if there is one; the returned log is
    /// locked and must become the lab's standard error.
    ///
    /// # Errors
    /// A lab of that name is up, or the directory cannot be made.
    pub(crate) fn create(&self) -> Result<File, LabError> {
        let base = self.path.parent().unwrap_or(Path::new("/"));
        loop {
            make_private(base)?;
            match make_private(&self.path) {
                // The base went between the two steps, with the last lab that was in it.
                Err(LabError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    continue;
                }
                other => other?,
            }
            let log = match open_log(&self.log()) {
                // Removed between the two steps, by a lab of that name that was just ending.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(self.cannot("open the log of"))?,
            };
            // Whoever asks whether the lab is live holds the lock for an instant.
            let mut tries = 0..LOCK_TRIES;
            while log.try_lock().is_err() {
                if tries.next().is_none() {
                    return Err(LabError::AlreadyUp {
                        name: self.name.clone(),
                    });
                }
                std::thread::sleep(POLL);
            }
            if !is_same_file(&log, &self.log()) {
                continue;
            }
            self.empty().map_err(self.cannot("clean up"))?;
            log.set_len(0).map_err(self.cannot("clean up"))?;
            fs::create_dir(self.path.join("logs")).map_err(self.cannot("prepare"))?;
            return Ok(log);
        }
    }

    /// Whether a process of the lab is alive.
    pub fn is_live(&self) -> bool {
        match OpenOptions::new().read(true).open(self.log()) {
            Ok(log) => log.try_lock().is_err(),
            Err(_) => false,
        }
    }

    /// Removes the directory of a lab that has ended by whatever way; leaves a live one alone.
    /// Returns whether nothing is left.
    ///
    /// # Errors
    /// Something in the directory cannot be removed.
    pub fn remove_if_stale(&self) -> Result<bool, LabError> {
        if !self.path.exists() {
            return Ok(true);
        }
        // Held until the directory is gone, so that a lab that starts now is not swept away.
        let log = OpenOptions::new().read(true).open(self.log());
        if log.as_ref().is_ok_and(|log| log.try_lock().is_err()) {
            return Ok(false);
        }
        self.remove()?;
        Ok(true)
    }

    /// Removes the directory, and the base when it was the last.
    pub(crate) fn remove(&self) -> Result<(), LabError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.cannot("remove")(error));
            }
            _ => {}
        }
        // Fails when other labs are there, which is right.
        let _ = self.path.parent().map(fs::remove_dir);
        Ok(())
    }

    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.path() == self.log() {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn cannot(&self, verb: &str) -> impl FnOnce(io::Error) -> LabError {
        LabError::io(format!("cannot {verb} {}", self.path.display()))
    }
}

/// Base directory of the calling user's labs: `/run/weft-lab` for root, else in the user's runtime
/// directory, else in `/tmp` under the user's number.
fn base() -> Result<PathBuf, LabError> {
    let uid = nix::unistd::geteuid();
    let run = Path::new("/run");
    if uid.is_root() && fs::metadata(run).is_ok_and(|meta| meta.uid() == 0) {
        return Ok(run.join("weft-lab"));
    }
    if let Some(dir) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)
        && fs::metadata(&dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid.as_raw())
    {
        return Ok(dir.join("weft-lab"));
    }
    let base = PathBuf::from(format!("/tmp/weft-lab-{uid}"));
    match fs::symlink_metadata(&base) {
        Ok(_) => check_private(&base).map(|()| base),
        Err(_) => Ok(base),
    }
}

fn checked_name(name: &str) -> Result<&str, LabError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = (1..=NAME_MAX).contains(&name.len())
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || c == '-');
    if good {
        Ok(name)
    } else {
        Err(LabError::BadName {
            name: name.to_owned(),
        })
    }
}

/// Makes a directory that only its owner can enter, or checks that the one there is such.
fn make_private(path: &Path) -> Result<(), LabError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(LabError::io(format!(
            "cannot make {}",
            path.display()
        ))(error)),
        _ => check_private(path),
    }
}

/// Others could otherwise plant a directory of that name in `/tmp` and be asked for namespaces.
fn check_private(path: &Path) -> Result<(), LabError> {
    let refuse = |reason: &str| {
        Err(LabError::Directory {
            path: path.to_owned(),
            reason: reason.to_owned(),
        })
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => refuse(&error.to_string()),
        Ok(meta) if !meta.is_dir() => refuse("it is not a directory"),
        Ok(meta) if meta.uid() != nix::unistd::geteuid().as_raw() => {
            refuse("it belongs to another user")
        }
        Ok(meta) if meta.mode() & 0o077 != 0 => refuse("others may enter it; mode 0700 is needed"),
        Ok(_) => Ok(()),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)
}

fn is_same_file(open: &File, path: &Path) -> bool {
    match (open.metadata(), fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_plain_file_names_are_refused() {
        for good in ["a", "default", "t-1", "0", &"x".repeat(NAME_MAX)] {
            assert_eq!(checked_name(good).ok(), Some(good));
        }
        for bad in [
            "",
            "-a",
            "a/b",
            "..",
            "A",
            "a b",
            "ü",
            &"x".repeat(NAME_MAX + 1),
        ] {
            assert!(checked_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_directory_that_others_may_enter_or_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        DirBuilder::new().mode(0o755).create(&open).unwrap();
        assert!(make_private(&open).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(make_private(&link).is_err());
        let good = dir.path().join("good");
        make_private(&good).unwrap();
        make_private(&good).unwrap();
    }

    #[test]
    fn labs_that_come_and_go_at_the_same_time_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..4 {
                let path = dir.path().join("base").join(format!("t{number}"));
                let lab = LabDir {
                    name: format!("t{number}"),
                    path,
                };
                scope.spawn(move || {
                    for _ in 0..200 {
                        let log = lab.create().unwrap();
                        lab.remove().unwrap();
                        drop(log);
                    }
                });
            }
        });
        assert!(!dir.path().join("base").exists());
    }

    #[test]
    fn a_lab_is_live_exactly_while_its_log_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base").join("t");
        fs::create_dir(dir.path().join("base")).unwrap();
        fs::set_permissions(
            dir.path().join("base"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        let lab = LabDir {
            name: "t".into(),
            path,
        };
        let log = lab.create().unwrap();
        fs::write(lab.control(), "").unwrap();
        assert!(lab.is_live());
        assert!(matches!(lab.create(), Err(LabError::AlreadyUp { .. })));
        assert!(!lab.remove_if_stale().unwrap());
        drop(log);
        assert!(!lab.is_live());
        let log = lab.create().unwrap();
        assert!(!lab.control().exists(), "what the stale lab left is gone");
        drop(log);
        assert!(lab.remove_if_stale().unwrap());
        assert!(!lab.path().exists());
    }
}
