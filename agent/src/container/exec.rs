//! `weft exec`: becomes a program of the host inside an endpoint's namespace.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

use super::directory::{Passing, directory_of, hosts_in, resolv_conf_in};
use super::endpoints::hosts_entries;
use super::error::RunError;
use super::files;
use super::fresh::write_public;
use super::mounts::{self, EtcFiles};
use super::namespace;
use super::program::{self, ProgramError};
use super::run::Place;
use crate::api::client::Client;
use crate::api::types::Endpoint;

/// Returns only when it fails: the process becomes the command, so that signals and the exit
/// status are the command's own.
pub(super) fn exec(
    place: Place<'_>,
    endpoint: &str,
    command: &[OsString],
) -> Result<Infallible, RunError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(ProgramError::NotFound(OsString::new()).into());
    };
    program::check(program, std::env::var_os("PATH").as_deref())?;
    let found = ask(place.socket, endpoint)?;
    let inode = enter(&found.endpoint, endpoint)?;
    mounts::unshare_mounts(false)?;
    show_etc(place.run_dir, inode, &found.siblings)?;
    let error = Command::new(program).args(arguments).exec();
    Err(ProgramError::new(program, error).into())
}

struct Found {
    endpoint: Endpoint,
    /// The endpoints of the same container, this one included.
    siblings: Vec<Endpoint>,
}

fn ask(socket: &Path, name: &str) -> Result<Found, RunError> {
    super::runtime()?.block_on(async {
        let client = Client::new(socket);
        let endpoint = client.endpoint(name).await?;
        let own = client.status().await?.node;
        if own.as_ref() != Some(&endpoint.node_id) {
            return Err(RunError::OtherNode {
                endpoint: name.to_owned(),
                node: endpoint.node,
            });
        }
        let mut siblings = client.endpoints().await?;
        siblings.retain(|other| other.node_id == endpoint.node_id && other.netns == endpoint.netns);
        Ok(Found { endpoint, siblings })
    })
}

/// Enters the endpoint's network namespace, having made sure that it is the one: a process id may
/// have been used again, but then the namespace has no such interface.
fn enter(endpoint: &Endpoint, name: &str) -> Result<u64, RunError> {
    let namespace = namespace::open_network(Path::new(&endpoint.netns))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| {
        RunError::system(
            "the endpoint's namespace cannot be entered; it takes root or CAP_SYS_ADMIN",
            errno,
        )
    })?;
    if has_interface(endpoint) {
        Ok(namespace::own_inode()?)
    } else {
        Err(RunError::NoInterface {
            endpoint: name.to_owned(),
            ifname: endpoint.ifname.clone(),
            mac: endpoint.mac.clone(),
        })
    }
}

fn has_interface(endpoint: &Endpoint) -> bool {
    getifaddrs().is_ok_and(|mut interfaces| {
        interfaces.any(|interface| {
            let link = interface.address.as_ref().and_then(|a| a.as_link_addr());
            interface.interface_name == endpoint.ifname
                && link.is_some_and(|link| link.to_string() == endpoint.mac)
        })
    })
}

/// The files that a container of `weft run` has; for any other, files of the same kind that vanish
/// with the mount namespace.
pub(super) fn show_etc(run_dir: &Path, inode: u64, siblings: &[Endpoint]) -> Result<(), RunError> {
    let directory = directory_of(run_dir, inode);
    if directory.is_dir() {
        return mounts::show(EtcFiles {
            resolv_conf: &resolv_conf_in(&directory),
            hosts: &hosts_in(&directory),
        });
    }
    let passing = |name| {
        Passing::create(run_dir, name).map_err(|error| {
            RunError::system(
                format!("no file can be made in {}", run_dir.display()),
                error,
            )
        })
    };
    let (resolv_conf, hosts) = (passing("resolv.conf")?, passing("hosts")?);
    write_public(
        &resolv_conf.path,
        &files::resolv_conf(&files::host_resolv_conf()),
    )?;
    write_public(&hosts.path, &files::hosts(&hosts_entries(siblings)))?;
    mounts::show(EtcFiles {
        resolv_conf: &resolv_conf.path,
        hosts: &hosts.path,
    })
}
