//! Being `weft`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

/// The roles that this process has made links for. Held while one is made.
static LINKED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// Runs what this process was started as, if that is not the test itself: `weft`, or the probe
/// that looks at a host from inside it.
///
/// Called first in `main`: nothing else may have started a thread.
pub fn act_by_name() -> Option<ExitCode> {
    let exe = std::env::current_exe().ok()?;
    match exe.file_name()?.to_str()? {
        "weft" => Some(weft_agent::cli::main()),
        "probe" | "ping" => Some(crate::probe::main()),
        _ => None,
    }
}

/// A path by which this program is `weft`.
pub fn weft_exe() -> Result<PathBuf> {
    known_as("weft")
}

/// A path by which this program is the probe.
pub fn probe_exe() -> Result<PathBuf> {
    known_as("probe")
}

/// A path by which this program is `ping`.
pub fn ping_exe() -> Result<PathBuf> {
    known_as("ping")
}

/// A hard link, since a process knows its own file by the path that it was started by.
fn known_as(role: &'static str) -> Result<PathBuf> {
    // Cases ask at the same time.
    let mut linked = LINKED.lock().unwrap_or_else(PoisonError::into_inner);
    let exe = std::env::current_exe().context("this program's own file is not known")?;
    let name = exe
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let dir = exe
        .parent()
        .unwrap_or(Path::new("/"))
        .join(format!("{name}.weft"));
    fs::create_dir_all(&dir)?;
    let link = dir.join(role);
    let same = |a: &Path, b: &Path| -> std::io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let (a, b) = (fs::metadata(a)?, fs::metadata(b)?);
        Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    // A copy is another file and yet as good; labs that run it must not lose it.
    if !linked.contains(role) && !same(&exe, &link).unwrap_or(false) {
        let new = dir.join(format!("{role}-{}", std::process::id()));
        fs::hard_link(&exe, &new).or_else(|_| copy(&exe, &new))?;
        fs::rename(&new, &link)?;
    }
    linked.insert(role);
    Ok(link)
}

/// By a process of its own: what is open here for writing, a process that another case starts
/// meanwhile may inherit, and such a file is not executed (ETXTBSY, execve(2)).
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let copied = std::process::Command::new("cp")
        .arg(from)
        .arg(to)
        .status()?;
    match copied.success() {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("cp ended with {copied}"))),
    }
}
