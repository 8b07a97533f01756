//! The local API's Unix socket as a thing in the file system.
//!
//! Beside the socket lies `<socket>.lock`: held locked (flock(2)) by the agent that serves, and
//! naming the socket that it made by device and inode. So an agent that was killed leaves a socket
//! that the next one knows for weft's own and may remove, and anything else at that path is left
//! alone.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;

/// Owner and group may ask the agent; others may not (unix(7): connecting needs write permission).
const MODE: u32 = 0o660;
/// `sockaddr_un.sun_path` less the final zero byte.
const MAX_PATH: usize = 107;
/// What a lock file holds is shorter.
const MAX_RECORD: u64 = 256;

/// A socket that listens, and what proves that it is ours. The file goes when this is dropped.
#[derive(Debug)]
pub struct ApiSocket {
    path: PathBuf,
    identity: Inode,
    listener: Option<UnixListener>,
    _lock: Flock<File>,
}

/// Why the socket cannot be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The path does not fit the kernel's structure.
    #[error("the socket path {} is too long; {MAX_PATH} bytes at most", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// Another agent has it.
    #[error(
        "another agent serves {}; stop it, or give this one its own --run-dir and --data-dir",
        path.display()
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// What is there was not made by an agent.
    #[error(
        "{} is a {what} that is not ours; remove it, or choose another path with --socket",
        path.display()
    )]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Kind of file.
        what: &'static str,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode {
    device: u64,
    inode: u64,
}

impl ApiSocket {
    /// Listens at `path`, making its directory if need be. A socket that a dead agent left is
    /// replaced; whatever else is there is left alone and refused.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        if path.as_os_str().len() + suffixed(Path::new(""), NEW).as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong {
                path: path.to_owned(),
            });
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed("make the directory", parent))?;
        }
        refuse_foreign_kind(path)?;
        let mut lock = take_lock(path)?;
        clear_stale(path, &mut lock)?;
        let (listener, identity) = listen(path, &mut lock)?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            listener: Some(listener),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listening socket, once; non-blocking.
    pub(super) fn take_listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        if Inode::at(&self.path).is_ok_and(|found| found == Some(self.identity)) {
            // The lock file stays: removing it would race with the next agent locking it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Inode {
    /// `None` when nothing is there.
    fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(data) => Ok(Some(Self {
                device: data.dev(),
                inode: data.ino(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(lock: &mut File) -> io::Result<Option<Self>> {
        let mut text = String::new();
        lock.rewind()?;
        lock.take(MAX_RECORD).read_to_string(&mut text)?;
        let mut words = text.split_ascii_whitespace();
        let mut number = || words.next()?.parse().ok();
        Ok(number()
            .zip(number())
            .map(|(device, inode)| Self { device, inode }))
    }

    fn write(self, lock: &mut File) -> io::Result<()> {
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{} {}", self.device, self.inode)
    }
}

const LOCK: &str = ".lock";
const NEW: &str = ".new";

/// Before anything is made beside it.
fn refuse_foreign_kind(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Ok(data) if data.file_type().is_socket() => Ok(()),
        Ok(data) => Err(SocketError::Foreign {
            path: path.to_owned(),
            what: kind_of(data.file_type()),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at", path)(error)),
    }
}

fn take_lock(path: &Path) -> Result<Flock<File>, SocketError> {
    let lock_path = suffixed(path, LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&lock_path)
        .map_err(failed("open", &lock_path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            SocketError::InUse {
                path: path.to_owned(),
            }
        } else {
            failed("lock", &lock_path)(errno.into())
        }
    })
}

/// Removes the socket that the lock file names; refuses another one.
fn clear_stale(path: &Path, lock: &mut File) -> Result<(), SocketError> {
    // Half-made by an agent that was killed: the name is ours, and so is the lock.
    let new = suffixed(path, NEW);
    refuse_foreign_kind(&new)?;
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &new)(error));
        }
        _ => {}
    }
    let Some(found) = Inode::at(path).map_err(failed("look at", path))? else {
        return Ok(());
    };
    let ours = Inode::read(lock).map_err(failed("read the lock of", path))?;
    if ours != Some(found) || is_answered(path).map_err(failed("look at", path))? {
        return Err(SocketError::Foreign {
            path: path.to_owned(),
            what: "socket",
        });
    }
    fs::remove_file(path).map_err(failed("remove", path))
}

/// Whether somebody listens. Does not wait for a listener that is too busy to accept.
fn is_answered(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error),
    }
}

/// The socket appears at `path` only once it has its mode and the lock file names it.
fn listen(path: &Path, lock: &mut File) -> Result<(UnixListener, Inode), SocketError> {
    let new = suffixed(path, NEW);
    let listener = UnixListener::bind(&new).map_err(failed("listen at", &new))?;
    let mut finish = || -> io::Result<Inode> {
        listener.set_nonblocking(true)?;
        fs::set_permissions(&new, Permissions::from_mode(MODE))?;
        let identity = Inode::at(&new)?.ok_or(io::ErrorKind::NotFound)?;
        identity.write(lock)?;
        fs::hard_link(&new, path)?;
        Ok(identity)
    };
    let linked = finish();
    fs::remove_file(&new).map_err(failed("remove", &new))?;
    let identity = linked.map_err(failed("make", path))?;
    Ok((listener, identity))
}

fn kind_of(kind: fs::FileType) -> &'static str {
    if kind.is_file() {
        "regular file"
    } else if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symbolic link"
    } else {
        "special file"
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_is_for_owner_and_group_and_goes_with_its_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/weft.sock");
        let socket = ApiSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_agent_is_refused_and_the_first_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.sock");
        let first = ApiSocket::bind(&path).unwrap();
        let error = ApiSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        ApiSocket::bind(&path).unwrap();
    }

    #[test]
    fn the_socket_of_a_killed_agent_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.sock");
        let mut killed = ApiSocket::bind(&path).unwrap();
        // What a kill leaves: the files, without their holder.
        drop(killed.take_listener());
        killed.path = dir.path().join("elsewhere");
        drop(killed);
        assert!(UnixStream::connect(&path).is_err());
        let _next = ApiSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn an_agent_killed_between_making_and_naming_its_socket_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weft.sock");
        drop(ApiSocket::bind(&path).unwrap());
        let new = suffixed(&path, NEW);
        drop(UnixListener::bind(&new).unwrap());
        let _next = ApiSocket::bind(&path).unwrap();
        assert!(!new.exists());
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "precious").unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let dead = dir.path().join("dead.sock");
        drop(UnixListener::bind(&dead).unwrap());
        let live = dir.path().join("live.sock");
        let _live = UnixListener::bind(&live).unwrap();
        for (path, what) in [
            (&file, "regular file"),
            (&link, "symbolic link"),
            (&dead, "socket"),
            (&live, "socket"),
        ] {
            let error = ApiSocket::bind(path).unwrap_err().to_string();
            assert!(
                error.contains(&format!("{what} that is not ours")),
                "{error}"
            );
            assert!(path.symlink_metadata().is_ok());
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
        UnixStream::connect(&live).unwrap();
    }

    #[test]
    fn a_path_that_the_kernel_cannot_hold_is_refused() {
        let path = Path::new("/tmp").join("x".repeat(MAX_PATH));
        let error = ApiSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::TooLong { .. }), "{error}");
    }
}
