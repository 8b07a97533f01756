use std::collections::BTreeSet;
use std::fmt;

use weft_netns::{Identity, Netns};
use weft_overlay::NetnsRef;

/// Why a container's namespace is not open.
#[derive(Debug)]
pub(super) enum Unopened {
    /// The container has ended.
    Gone,
    /// It cannot be opened, or what was to be done in it failed.
    Failed(String),
}

impl fmt::Display for Unopened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the container has ended"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// Opens a namespace by the first way that still leads to it. Blocks where a file system does.
pub(super) fn open(netns: &BTreeSet<NetnsRef>) -> Result<Netns, Unopened> {
    let mut unopened = Unopened::Gone;
    for reference in netns {
        if reference.is_gone() {
            continue;
        }
        let meant = Identity {
            device: reference.device,
            inode: reference.inode,
        };
        match Netns::open(&reference.path) {
            Ok(found) if found.identity() == meant => return Ok(found),
            // It went a moment ago.
            Ok(_) => {}
            Err(_) if reference.is_gone() => {}
            Err(error) => unopened = Unopened::Failed(error.to_string()),
        }
    }
    Err(unopened)
}
