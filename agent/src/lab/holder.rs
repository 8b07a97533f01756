//! The holder: a process that makes one host's namespaces and keeps them by staying.

use std::{
    fs::{self, File},
    io::{BufRead, Write},
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use nix::{
    fcntl::{OFlag, open},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
    unistd::sethostname,
};
use serde::{Deserialize, Serialize};

use super::{enter::BIN_DIR, underlay};

/// The holder says this when its namespaces exist, and waits for orders.
pub(crate) const NAMESPACES: &str = "namespaces";
/// Order: the host's interface is there, bring it up.
pub(crate) const CABLE: &str = "cable";
/// Order, followed by the new MTU of the host's interface in bytes.
pub(crate) const MTU: &str = "mtu";
/// The holder says this when an order is done.
pub(crate) const DONE: &str = "done";
/// Where a host keeps what lies under the directories that it has its own view of.
const UNDER: &str = "/run/lab";
const NONE: Option<&str> = None;

/// One host, as its holder is told of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HoldSpec {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) exe: PathBuf,
    /// Directory on a real file system for `/var/lib/weft`.
    pub(crate) state: Option<PathBuf>,
}

/// Makes the host and holds it, doing what standard input says, until that ends.
pub(crate) fn run(spec: &HoldSpec) -> anyhow::Result<ExitCode> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS)
        .context("cannot make the host's namespaces")?;
    sethostname(&spec.name).context("cannot set the hostname")?;
    own_files(spec)?;
    say(NAMESPACES)?;
    for order in std::io::stdin().lock().lines() {
        let order = order?;
        match order.split_once(' ') {
            None if order == CABLE => underlay::configure_host(spec.address)?,
            Some((MTU, bytes)) => underlay::set_host_mtu(bytes.parse()?)?,
            _ => bail!("unknown order {order:?}"),
        }
        say(DONE)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say(word: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{word}")?;
    out.flush().context("the supervisor went away")
}

/// Gives the host its own `/run`, `/etc`, `/var/lib` and `/sys`; the rest is the machine's.
fn own_files(spec: &HoldSpec) -> anyhow::Result<()> {
    // Opened first: they may lie under what is covered next.
    let exe = open_path(&spec.exe)?;
    let state = spec.state.as_deref().map(open_path).transpose()?;
    tmpfs("/run")?;
    fs::create_dir(BIN_DIR)?;
    let weft = Path::new(BIN_DIR).join("weft");
    File::create(&weft)?;
    bind(&exe, &weft)?;

    fs::create_dir(UNDER)?;
    shadow("/etc", &["hostname", "hosts", "resolv.conf", "weft"])?;
    fs::create_dir("/etc/weft")?;
    fs::write("/etc/hostname", format!("{}\n", spec.name))?;
    fs::write("/etc/hosts", hosts_file())?;
    fs::write(
        "/etc/resolv.conf",
        "# no resolver can be reached from a lab\n",
    )?;

    shadow("/var/lib", &["weft"])?;
    fs::create_dir("/var/lib/weft")?;
    if let Some(state) = state {
        bind(&state, Path::new("/var/lib/weft"))?;
    }
    if let Err(error) = own_sys() {
        eprintln!(
            "weft: lab: {} shows another network in /sys: {error:#}",
            spec.name
        );
    }
    Ok(())
}

/// Every host that the lab may have, so that a host that is added is known.
fn hosts_file() -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    for (number, name) in underlay::numbered_hosts() {
        text.push_str(&format!("{}\t{name}\n", underlay::address(number)));
    }
    text
}

/// Covers `dir` with a directory in memory that links to everything in it but `but`, so that new
/// entries can be made without touching the machine's and without the right to write there.
fn shadow(dir: &str, but: &[&str]) -> anyhow::Result<()> {
    let under = Path::new(UNDER).join(dir.trim_start_matches('/').replace('/', "-"));
    fs::create_dir(&under)?;
    mount(
        Some(dir),
        &under,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .with_context(|| format!("cannot move {dir} aside"))?;
    tmpfs(dir)?;
    for entry in fs::read_dir(&under).with_context(|| format!("cannot read {dir}"))? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| but.contains(&name)) {
            continue;
        }
        // A relative link means the same here as there only if it is made anew.
        let target = match entry.file_type()?.is_symlink() {
            true => fs::read_link(entry.path())?,
            false => entry.path(),
        };
        std::os::unix::fs::symlink(target, Path::new(dir).join(name))?;
    }
    Ok(())
}

/// `/sys/class/net` shows the network namespace that sysfs was mounted in (sysfs(5)).
fn own_sys() -> anyhow::Result<()> {
    let cgroups = open_path(Path::new("/sys/fs/cgroup"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("sysfs"), "/sys", Some("sysfs"), flags, NONE).context("cannot mount /sys")?;
    if let Ok(cgroups) = cgroups {
        bind(&cgroups, Path::new("/sys/fs/cgroup"))?;
    }
    Ok(())
}

fn tmpfs(target: &str) -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("weft-lab"),
        target,
        Some("tmpfs"),
        flags,
        Some("mode=0755"),
    )
    .with_context(|| format!("cannot mount a tmpfs on {target}"))
}

fn open_path(path: &Path) -> anyhow::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

fn bind(source: &OwnedFd, target: &Path) -> anyhow::Result<()> {
    let source = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount(
        Some(source.as_str()),
        target,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .with_context(|| format!("cannot mount over {}", target.display()))
}
