//! Which of the kernel's associations is which key: what the kernel cannot say of them.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::path::SaName;

/// Name of the file in the run directory. There are no keys in it.
const FILE: &str = "esp-kernel.json";
/// A file that is longer is none of ours: an entry takes about 150 bytes.
const LONGEST: u64 = 64 << 20;

/// An association that was given to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: SaName,
    /// Of this node, or of the peer.
    pub(super) inbound: bool,
}

impl Entry {
    /// What the kernel has it by: the address that its packets go to, and the SPI.
    pub(super) fn key(&self, local: IpAddr) -> (IpAddr, u32) {
        let to = if self.inbound { local } else { self.name.peer };
        (to, self.name.spi.get())
    }
}

/// All of them, on disk before the kernel has them and until after it has them.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Ledger {
    /// Reads what an earlier process left. A file that cannot be read as one says nothing: then the
    /// associations are nobody's, and go.
    pub(super) fn open(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        let entries = match read(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "kernel associations are not known");
                Vec::new()
            }
        };
        Self { path, entries }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn add(&mut self, entry: Entry) -> io::Result<()> {
        self.entries.push(entry);
        self.write().inspect_err(|_| {
            self.entries.pop();
        })
    }

    /// Keeps those only. That it cannot be written does not matter: what the kernel does not have is not
    /// adopted.
    pub(super) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        let before = self.entries.len();
        self.entries.retain(keep);
        if self.entries.len() != before
            && let Err(error) = self.write()
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot be written");
        }
    }

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.entries)?;
        let new = self.path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&new)?.write_all(&text)?;
        // No sync: it has to outlive this process, and not the kernel, which has the associations.
        fs::rename(&new, &self.path)
    }
}

fn read(path: &Path) -> io::Result<Vec<Entry>> {
    if fs::metadata(path)?.len() > LONGEST {
        return Err(io::Error::other("it is too long"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
