use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::net::if_::if_nameindex;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use thiserror::Error;
use weft_raft::model::Attachment;

/// The namespace of the process, not of one of its threads.
const OWN_NETNS: &str = "/proc/self/ns/net";

/// Which network namespace a path led to. The device and inode tell it from another namespace
/// that the same path comes to mean later (a process id that is used again, a reboot).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetnsIdentity {
    /// Where it can be opened: `/proc/PID/ns/net` or a bind mount; absolute.
    pub path: String,
    /// `st_dev` of the namespace file.
    pub device: u64,
    /// `st_ino` of the namespace file.
    pub inode: u64,
    /// `/proc/sys/kernel/random/boot_id` at the time of looking.
    pub boot_id: String,
    /// Names of the interfaces in it at that time.
    pub interfaces: Vec<String>,
}

/// Why a path or process does not lead to a network namespace that can be attached or entered.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// Neither or both of the two ways to name it.
    #[error("name the namespace by either a process id or a path, not by neither or both")]
    Unnamed,
    /// Paths mean different things to different processes unless they are absolute.
    #[error("namespace path `{}` is not absolute; give one that starts with /", .0.display())]
    NotAbsolute(PathBuf),
    /// The replicated state holds text.
    #[error("namespace path `{}` is not UTF-8; bind it somewhere else", .0.display())]
    NotText(PathBuf),
    /// `ESRCH` or `ENOENT` on `/proc/PID`.
    #[error("there is no process {0}, or it has ended; give the id of a running one")]
    NoProcess(u32),
    /// `ENOENT` on a path.
    #[error("namespace `{}` does not exist", .0.display())]
    Missing(PathBuf),
    /// A file of another kind, or a namespace of another kind.
    #[error(
        "`{}` is not a network namespace; give /proc/PID/ns/net or a bind mount of one",
        .0.display()
    )]
    NotNetwork(PathBuf),
    /// The one that the agent itself lives in.
    #[error(
        "`{}` is the host's own network namespace; only a container's can be attached",
        .0.display()
    )]
    Own(PathBuf),
    /// The path means another namespace than it did.
    #[error("namespace `{0}` is gone; the path now leads to another one")]
    Replaced(String),
    /// The kernel refused.
    #[error("namespace `{}` cannot be {what}: {source}", path.display())]
    System {
        /// What was tried, as a participle.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Finds out which network namespace `/proc/<pid>/ns/net` or `path` leads to.
///
/// The file is only touched once the kernel has said that it is a namespace, so naming a device
/// or a FIFO does nothing to it.
///
/// # Errors
/// When it does not exist, is no network namespace, may not be entered, or is the caller's own.
pub fn identify(pid: Option<u32>, path: Option<&Path>) -> Result<NetnsIdentity, NamespaceError> {
    let path = match (pid, path) {
        (Some(pid), None) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        (None, Some(path)) => path.to_owned(),
        _ => return Err(NamespaceError::Unnamed),
    };
    let namespace = open_namespace(&path).map_err(|error| match (pid, error) {
        (Some(pid), NamespaceError::Missing(_)) => NamespaceError::NoProcess(pid),
        (_, error) => error,
    })?;
    let (device, inode) = file_id(&namespace, &path)?;
    let own = Path::new(OWN_NETNS);
    if (device, inode) == file_id(&open_namespace(own)?, own)? {
        return Err(NamespaceError::Own(path));
    }
    let interfaces = interfaces_in(namespace, &path)?;
    let text = path.to_str().map(str::to_owned);
    Ok(NetnsIdentity {
        path: text.ok_or(NamespaceError::NotText(path))?,
        device,
        inode,
        boot_id: boot_id()?,
        interfaces,
    })
}

/// Opens the namespace that was identified as `device` and `inode`.
///
/// # Errors
/// [`NamespaceError::Missing`] or [`NamespaceError::Replaced`] when it is not there any more.
pub fn open_verified(path: &str, device: u64, inode: u64) -> Result<OwnedFd, NamespaceError> {
    let namespace = open_namespace(Path::new(path))?;
    if file_id(&namespace, Path::new(path))? == (device, inode) {
        Ok(namespace)
    } else {
        Err(NamespaceError::Replaced(path.to_owned()))
    }
}

impl From<NetnsIdentity> for Attachment {
    fn from(identity: NetnsIdentity) -> Self {
        Self {
            path: identity.path,
            device: identity.device,
            inode: identity.inode,
            boot_id: identity.boot_id,
        }
    }
}

/// Opens a namespace of any kind for `setns`.
pub(super) fn open_network(path: &Path) -> Result<OwnedFd, NamespaceError> {
    open_namespace(path)
}

/// Inode of the network namespace that this process is in.
pub(super) fn own_inode() -> Result<u64, NamespaceError> {
    let own = Path::new(OWN_NETNS);
    file_id(&open_namespace(own)?, own).map(|(_, inode)| inode)
}

/// Tells this boot from every other one; process ids and inodes are only unique within one.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> Result<String, NamespaceError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|source| NamespaceError::System {
            what: "told from one before a reboot",
            path: path.to_owned(),
            source,
        })
}

/// A descriptor good for `fstat` and `setns` on a file that is on nsfs (nsfs(5)).
fn open_namespace(path: &Path) -> Result<OwnedFd, NamespaceError> {
    if !path.is_absolute() {
        return Err(NamespaceError::NotAbsolute(path.to_owned()));
    }
    // `O_PATH` opens nothing: a tape is not rewound and a FIFO does not block.
    let handle = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| refused(path, "opened", errno))?;
    let kind = fstatfs(&handle).map_err(|errno| refused(path, "looked at", errno))?;
    if kind.filesystem_type() != NSFS_MAGIC {
        return Err(NamespaceError::NotNetwork(path.to_owned()));
    }
    File::open(format!("/proc/self/fd/{}", handle.as_raw_fd()))
        .map(OwnedFd::from)
        .map_err(|source| NamespaceError::System {
            what: "opened",
            path: path.to_owned(),
            source,
        })
}

fn file_id(namespace: &OwnedFd, path: &Path) -> Result<(u64, u64), NamespaceError> {
    let stat = fstat(namespace).map_err(|errno| refused(path, "looked at", errno))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Enters the namespace on a thread of its own and looks around, which proves two things at once:
/// that its kind is right (`setns` compares it with the flag, setns(2)) and that this process may
/// work in it.
fn interfaces_in(namespace: OwnedFd, path: &Path) -> Result<Vec<String>, NamespaceError> {
    let entered = std::thread::Builder::new()
        .name("netns-check".to_owned())
        .spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let found = if_nameindex()?;
            let names = found.iter().map(|one| one.name().to_string_lossy());
            Ok(names.map(String::from).collect())
        })
        .map_err(|source| NamespaceError::System {
            what: "checked",
            path: path.to_owned(),
            source,
        })?
        .join()
        .unwrap_or(Err(Errno::EIO));
    match entered {
        Ok(names) => Ok(names),
        Err(Errno::EINVAL) => Err(NamespaceError::NotNetwork(path.to_owned())),
        Err(errno) => Err(refused(path, "entered", errno)),
    }
}

fn refused(path: &Path, what: &'static str, errno: Errno) -> NamespaceError {
    match errno {
        Errno::ENOENT | Errno::ESRCH | Errno::ENOTDIR => NamespaceError::Missing(path.to_owned()),
        errno => NamespaceError::System {
            what,
            path: path.to_owned(),
            source: errno.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_named_by_exactly_one_of_process_and_path() {
        assert!(matches!(identify(None, None), Err(NamespaceError::Unnamed)));
        let both = identify(Some(1), Some(Path::new("/proc/1/ns/net")));
        assert!(matches!(both, Err(NamespaceError::Unnamed)));
    }

    #[test]
    fn a_process_that_is_not_there_is_named_by_its_id() {
        let error = identify(Some(u32::MAX), None).unwrap_err();
        assert!(
            matches!(error, NamespaceError::NoProcess(u32::MAX)),
            "{error}"
        );
    }

    #[test]
    fn a_path_that_is_not_there_or_relative_is_refused() {
        let missing = identify(None, Some(Path::new("/nonexistent/net"))).unwrap_err();
        assert!(matches!(missing, NamespaceError::Missing(_)), "{missing}");
        let relative = identify(None, Some(Path::new("net"))).unwrap_err();
        assert!(
            matches!(relative, NamespaceError::NotAbsolute(_)),
            "{relative}"
        );
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused_untouched() {
        for path in ["/dev/null", "/proc/self/status", "/"] {
            let error = identify(None, Some(Path::new(path))).unwrap_err();
            assert!(matches!(error, NamespaceError::NotNetwork(_)), "{error}");
        }
    }

    #[test]
    fn a_namespace_of_another_kind_is_refused() {
        let error = identify(None, Some(Path::new("/proc/self/ns/uts"))).unwrap_err();
        // An ordinary user may enter no namespace at all, and the kernel says that first.
        let named = match &error {
            NamespaceError::NotNetwork(_) => true,
            NamespaceError::System { what, .. } => *what == "entered",
            _ => false,
        };
        assert!(named, "{error}");
    }

    #[test]
    fn the_own_namespace_is_refused() {
        let error = identify(Some(std::process::id()), None).unwrap_err();
        assert!(matches!(error, NamespaceError::Own(_)), "{error}");
    }

    #[test]
    fn another_inode_under_the_same_path_is_noticed() {
        let own = OWN_NETNS;
        let (device, inode) =
            file_id(&open_namespace(Path::new(own)).unwrap(), Path::new(own)).unwrap();
        assert!(open_verified(own, device, inode).is_ok());
        let error = open_verified(own, device, inode + 1).unwrap_err();
        assert!(matches!(error, NamespaceError::Replaced(_)), "{error}");
    }
}
