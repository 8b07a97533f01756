use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::getpid;
use rtnetlink::LinkUnspec;

use super::directory::Directory;
use super::error::RunError;
use super::files::{self, HostsEntry};
use super::mounts::{self, EtcFiles};
use super::namespace;

/// In a network namespace the loopback device always comes first.
const LOOPBACK_INDEX: u32 = 1;

/// A container that this process has become: it lives in a network namespace of its own, and its
/// `/etc/resolv.conf` and `/etc/hosts` are the files in `directory`.
#[derive(Debug)]
pub(super) struct Container {
    directory: Directory,
}

impl Container {
    /// Moves this process, which must have one thread, into a new container.
    ///
    /// # Errors
    /// When the kernel refuses; the process may have left its namespaces, so it should end.
    pub(super) fn enter_new(run_dir: &Path) -> Result<Self, RunError> {
        mounts::unshare_mounts(true)?;
        let inode = namespace::own_inode()?;
        let directory = Directory::create(run_dir, inode).map_err(|error| {
            RunError::system(
                format!("no container can be kept in {}", run_dir.display()),
                error,
            )
        })?;
        let container = Self { directory };
        let resolv_conf = files::resolv_conf(&files::host_resolv_conf());
        write_public(&container.directory.resolv_conf(), &resolv_conf)?;
        container.name(&[])?;
        mounts::show(EtcFiles {
            resolv_conf: &container.directory.resolv_conf(),
            hosts: &container.directory.hosts(),
        })?;
        Ok(container)
    }

    /// Brings the loopback device up.
    pub(super) async fn loopback_up(&self) -> Result<(), RunError> {
        let failed = |error| RunError::system("the loopback device cannot be brought up", error);
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
        let connection = tokio::spawn(connection);
        let up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
        let result = handle.link().set(up).execute().await;
        connection.abort();
        result.map_err(|error| failed(std::io::Error::other(error)))
    }

    /// Fills `/etc/hosts`. The file stays the same one, since it is bound in other places.
    pub(super) fn name(&self, entries: &[HostsEntry]) -> Result<(), RunError> {
        write_public(&self.directory.hosts(), &files::hosts(entries))
    }

    /// Path of the namespace, good for as long as this process lives.
    pub(super) fn netns(&self) -> PathBuf {
        super::netns_of(getpid().as_raw())
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn into_directory(self) -> Directory {
        self.directory
    }
}

/// Writes a file that every user of the container may read, whatever the umask is.
pub(super) fn write_public(path: &Path, text: &str) -> Result<(), RunError> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o644)))
        .map_err(|error| RunError::system(format!("{} cannot be written", path.display()), error))
}
