//! The launcher: makes the namespaces that a lab lives in, and outlives it to clean up.

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context, bail};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    unistd::{getegid, geteuid, setsid},
};
use serde::{Deserialize, Serialize};

use super::{
    LabDir,
    helper::{Role, helper},
};

/// What the launcher writes when the lab's hosts are up.
pub(crate) const READY: &str = "ready\n";

/// A lab as its launcher and supervisor are told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LabSpec {
    /// Found by the owner: within a user namespace the user's number is another.
    pub(crate) dir: LabDir,
    /// The program that is `weft` in the lab.
    pub(crate) exe: PathBuf,
    pub(crate) hosts: usize,
    pub(crate) mtu: u32,
    /// Directory for the agents' state; in memory when there is none.
    pub(crate) state: Option<PathBuf>,
}

/// Makes the namespaces, starts the supervisor as process 1 of the lab and waits for it.
///
/// Standard input is a pipe that ends with the owner of the lab, and so does the lab, until it is
/// told to go on without. Standard output carries [`READY`] or one line that says what failed;
/// standard error is the lab's locked log.
pub(crate) fn run(spec: &LabSpec) -> anyhow::Result<ExitCode> {
    let ended = supervise(spec);
    if let Err(error) = &ended {
        // An owner that has gone hears nothing, and needs nothing.
        let _ = write!(std::io::stdout(), "{error:#}");
    }
    // Whatever way the supervisor ended, everything in its namespaces went with it.
    spec.dir.remove()?;
    Ok(ExitCode::from(if ended?.success() { 0 } else { 1 }))
}

fn supervise(spec: &LabSpec) -> anyhow::Result<std::process::ExitStatus> {
    // Away from the terminal: its Ctrl-C is for the program that owns the lab.
    setsid().context("setsid")?;
    std::env::set_current_dir("/").context("cannot change to /")?;
    unshare_all()?;
    let mut supervisor = helper(&spec.exe, &Role::Supervise(spec.clone()))?
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", spec.exe.display()))?;
    let mut report = String::new();
    if let Some(mut out) = supervisor.stdout.take() {
        out.read_to_string(&mut report)
            .context("cannot hear the supervisor")?;
    }
    if report != READY {
        let status = supervisor.wait()?;
        if report.is_empty() {
            bail!(
                "the supervisor ended with {}",
                super::helper::how_it_ended(status)
            );
        }
        bail!("{report}");
    }
    // The supervisor notices by itself when the owner has gone.
    let _ = std::io::stdout().write_all(report.as_bytes());
    // Whoever started the lab reads until the end.
    nix::unistd::dup2_stdout(fs::File::options().write(true).open("/dev/null")?)?;
    supervisor.wait().context("cannot wait for the supervisor")
}

/// Leaves the caller's namespaces, by way of a user namespace where privilege is missing.
fn unshare_all() -> anyhow::Result<()> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() {
        match unshare(flags) {
            Err(Errno::EPERM) => {}
            other => return other.context("cannot make namespaces"),
        }
    }
    unshare(flags | CloneFlags::CLONE_NEWUSER).context(
        "cannot make a user namespace (sysctl user.max_user_namespaces, \
         kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns \
         decide; or run as root)",
    )?;
    // user_namespaces(7): one's own id may be mapped, after giving up setgroups(2).
    fs::write("/proc/self/setgroups", "deny").context("cannot give up setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("cannot map the user")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("cannot map the group")?;
    Ok(())
}
