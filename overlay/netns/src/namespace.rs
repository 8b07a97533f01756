use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{NSFS_MAGIC, statfs};
use thiserror::Error;

/// The namespace of the thread that opens it (proc(5)).
const THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// More mounts than this on one file mean that something else keeps mounting there.
const STACKED_MOUNTS_MAX: usize = 16;

/// An open network namespace. It lives at least as long as this.
#[derive(Debug)]
pub struct Netns {
    file: File,
    identity: Identity,
}

/// What makes a network namespace this one and no other while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// `st_dev` of the namespace file.
    pub device: u64,
    /// `st_ino` of the namespace file.
    pub inode: u64,
}

/// A file in a directory of namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// File name.
    pub name: String,
    /// What the file is.
    pub state: EntryState,
}

/// What a path that should be a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryState {
    /// There is no such file.
    Absent,
    /// A file with no namespace mounted on it: left by a crash, or from before a reboot.
    Stale,
    /// A namespace.
    Namespace,
}

/// A namespace operation that failed.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// The path cannot be opened.
    #[error("cannot open network namespace {}: {source}", path.display())]
    Open {
        /// What was opened.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The path is something else.
    #[error("{} is not a network namespace; give /proc/PID/ns/net or a file that one is mounted on", path.display())]
    NotANamespace {
        /// What was opened.
        path: PathBuf,
    },
    /// A new namespace was asked for where one is.
    #[error("{} is a network namespace already", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// A step of making or removing a namespace failed.
    #[error("cannot {doing} for network namespace {}: {source}", path.display())]
    Step {
        /// What was being done.
        doing: &'static str,
        /// To which namespace.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The namespace cannot be entered.
    #[error("cannot enter network namespace: {source}")]
    Enter {
        /// Why it failed.
        source: io::Error,
    },
    /// Something inside the namespace failed.
    #[error("cannot {doing}: {source}")]
    Inside {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Netns {
    /// Opens the namespace at `path`, which may be `/proc/PID/ns/net` or a bind mount.
    ///
    /// # Errors
    /// When it is not there, not ours to open, or no namespace.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError::Open {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let kind = nix::sys::statfs::fstatfs(&file).map_err(|e| failed(e.into()))?;
        if kind.filesystem_type() != NSFS_MAGIC {
            return Err(NetnsError::NotANamespace {
                path: path.to_owned(),
            });
        }
        let metadata = file.metadata().map_err(failed)?;
        Ok(Self {
            file,
            identity: Identity {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
        })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted or not of this process's PID namespace.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(Path::new(THIS_THREAD))
    }

    /// A fresh namespace that ends when the last thing that uses it does.
    ///
    /// # Errors
    /// When this process may not make one (it takes CAP_SYS_ADMIN in its user namespace).
    pub fn anonymous() -> Result<Self, NetnsError> {
        on_helper_thread(|| {
            enter_new(Path::new("(unnamed)"))?;
            Self::current()
        })
    }

    /// What tells this namespace from others.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Runs `work` on a thread of its own that is in this namespace, and waits for it. The
    /// caller's thread stays where it is.
    ///
    /// `/proc/sys/net` shows the namespace of the thread that looks, so sysctls can be read and
    /// written in `work`. `/proc/net` does so too, through `/proc/self` of the whole process
    /// though: use `/proc/thread-self/net`.
    ///
    /// # Errors
    /// When the namespace cannot be entered (it takes CAP_SYS_ADMIN in the user namespace that
    /// owns it).
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, NetnsError> {
        on_helper_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|e| NetnsError::Enter { source: e.into() })?;
            Ok(work())
        })
    }

    /// Reads `/proc/sys/net/<name>` in this namespace; `None` when this kernel has no such switch.
    ///
    /// # Errors
    /// As [`Netns::sysctls`].
    pub fn sysctl(&self, name: &str) -> Result<Option<String>, NetnsError> {
        Ok(self.sysctls(&[name])?.pop().flatten())
    }

    /// Writes `/proc/sys/net/<name>` in this namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or there is no such switch, or it does not take the
    /// value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), NetnsError> {
        self.run(|| {
            fs::write(sysctl_path(name), value).map_err(|source| NetnsError::Inside {
                doing: format!("set net/{name} to {value}"),
                source,
            })
        })?
    }

    /// Reads switches below `/proc/sys/net` in this namespace, in order; `None` for one that this
    /// kernel does not have.
    ///
    /// # Errors
    /// When the namespace cannot be entered or a value cannot be read.
    pub fn sysctls(&self, names: &[&str]) -> Result<Vec<Option<String>>, NetnsError> {
        let read = |name: &&str| match fs::read_to_string(sysctl_path(name)) {
            Ok(value) => Ok(Some(value.trim().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(NetnsError::Inside {
                doing: format!("read net/{name}"),
                source,
            }),
        };
        self.run(|| names.iter().map(read).collect())?
    }

    /// Writes switches below `/proc/sys/net` in this namespace, leaving out those that this kernel
    /// does not have.
    ///
    /// # Errors
    /// When the namespace cannot be entered or a value is not taken.
    pub fn set_sysctls(&self, values: &[(&str, &str)]) -> Result<(), NetnsError> {
        let write = |(name, value): &(&str, &str)| match fs::write(sysctl_path(name), value) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetnsError::Inside {
                doing: format!("set net/{name} to {value}"),
                source,
            }),
            _ => Ok(()),
        };
        self.run(|| values.iter().try_for_each(write))?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Makes a new namespace and keeps it alive by mounting it on the file at `path`, which is made if
/// it is not there.
///
/// The mount is made in this process's mount namespace and follows the propagation of the file
/// system it is on: on a shared `/run` others see it come and go. What other mount namespaces
/// copied of it does not outlive [`delete`], which removes the file underneath.
///
/// # Errors
/// When there is a namespace at `path`, or a step fails; nothing but an empty file is left then.
pub fn create(path: &Path) -> Result<Netns, NetnsError> {
    if entry_state(path)? == EntryState::Namespace {
        return Err(NetnsError::Exists {
            path: path.to_owned(),
        });
    }
    let step = |doing| {
        move |source| NetnsError::Step {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(step("make the file"))?;
    on_helper_thread(|| {
        enter_new(path)?;
        mount(
            Some(THIS_THREAD),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .map_err(|e| step("mount it")(e.into()))
    })?;
    Netns::open(path)
}

/// Takes the name of a namespace away, in whatever state it is; the namespace ends with its last
/// user. Fine when there is nothing.
///
/// # Errors
/// When the mount or the file cannot be removed.
pub fn delete(path: &Path) -> Result<(), NetnsError> {
    let step = |doing, source| NetnsError::Step {
        doing,
        path: path.to_owned(),
        source,
    };
    for _ in 0..STACKED_MOUNTS_MAX {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point (any more), or no such file.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(e) => return Err(step("unmount it", e.into())),
        }
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(step("remove the file", e)),
        _ => Ok(()),
    }
}

/// What the file at `path` is.
///
/// # Errors
/// When it cannot be looked at.
pub fn entry_state(path: &Path) -> Result<EntryState, NetnsError> {
    match statfs(path) {
        Ok(kind) if kind.filesystem_type() == NSFS_MAGIC => Ok(EntryState::Namespace),
        Ok(_) => Ok(EntryState::Stale),
        Err(Errno::ENOENT) => Ok(EntryState::Absent),
        Err(e) => Err(NetnsError::Open {
            path: path.to_owned(),
            source: e.into(),
        }),
    }
}

/// The files in a directory of namespaces, by name. A directory that is not there has none.
///
/// # Errors
/// When it cannot be read.
pub fn list(dir: &Path) -> Result<Vec<Entry>, NetnsError> {
    let failed = |source| NetnsError::Open {
        path: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // A mount on a file does not change the type that the directory tells.
        if !entry.file_type().map_err(failed)?.is_file() {
            continue;
        }
        // We never make a name that is not UTF-8.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let state = entry_state(&entry.path())?;
        if state != EntryState::Absent {
            found.push(Entry { name, state });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn sysctl_path(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}

fn enter_new(path: &Path) -> Result<(), NetnsError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError::Step {
        doing: "unshare (it takes CAP_SYS_ADMIN)",
        path: path.to_owned(),
        source: e.into(),
    })
}

fn on_helper_thread<R: Send>(
    work: impl FnOnce() -> Result<R, NetnsError> + Send,
) -> Result<R, NetnsError> {
    thread::scope(|scope| {
        let helper = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|source| NetnsError::Enter { source })?;
        match helper.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
