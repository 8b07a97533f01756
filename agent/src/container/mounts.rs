//! The two files of `/etc` that a container has for itself.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::RunError;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTS: &str = "/etc/hosts";

/// What this process's `/etc/resolv.conf` and `/etc/hosts` are to show.
#[derive(Clone, Copy, Debug)]
pub(super) struct EtcFiles<'a> {
    pub(super) resolv_conf: &'a Path,
    pub(super) hosts: &'a Path,
}

/// Gives this process a mount namespace of its own, and with `network` a network namespace too.
/// What the host mounts later appears in it; what it mounts does not appear on the host
/// (mount_namespaces(7), "slave").
pub(super) fn unshare_mounts(network: bool) -> Result<(), RunError> {
    let flags = if network {
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET
    } else {
        CloneFlags::CLONE_NEWNS
    };
    unshare(flags).map_err(|errno| {
        RunError::system(
            "a namespace cannot be made; it takes root or CAP_SYS_ADMIN",
            errno,
        )
    })?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(|errno| RunError::system("the mounts cannot be kept from the host", errno))
}

/// Binds the files over the host's, in this mount namespace only.
pub(super) fn show(files: EtcFiles<'_>) -> Result<(), RunError> {
    for (file, place) in [(files.resolv_conf, RESOLV_CONF), (files.hosts, HOSTS)] {
        let target = target_of(Path::new(place))?;
        let none = None::<&str>;
        mount(Some(file), &target, none, MsFlags::MS_BIND, none).map_err(|errno| {
            RunError::system(format!("{place} of the container cannot be shown"), errno)
        })?;
    }
    Ok(())
}

/// The file itself where the host has a symbolic link, as with systemd-resolved. Mounting needs
/// something to mount on.
fn target_of(place: &Path) -> Result<PathBuf, RunError> {
    place.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let missing = std::fs::read_link(place).unwrap_or_else(|_| place.to_owned());
            RunError::MissingFile {
                place: place.to_owned(),
                missing,
            }
        }
        _ => RunError::system(format!("{} cannot be found", place.display()), error),
    })
}
