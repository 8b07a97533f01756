use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use weft_netns::{EntryState, Identity, Netns, NetnsError, entry_state};

use crate::ApplyError;
use crate::spec::NetnsRef;
use weft_netns::rtnl::Rtnl;

/// Everything that is held open while one network is looked at and changed.
pub(crate) struct Session<'a> {
    /// The network's id.
    pub(crate) network: String,
    /// The sandbox's namespace file.
    pub(crate) path: PathBuf,
    /// The namespace with the underlay.
    pub(crate) host: &'a Netns,
    pub(crate) host_rtnl: Rtnl,
    pub(crate) sandbox: Option<Place>,
    /// By endpoint id.
    pub(crate) endpoints: BTreeMap<String, Place>,
}

/// A namespace and a socket in it.
pub(crate) struct Place {
    pub(crate) netns: Netns,
    pub(crate) rtnl: Rtnl,
}

impl Place {
    pub(crate) fn new(netns: Netns) -> Result<Self, String> {
        let rtnl = Rtnl::open(&netns)?;
        Ok(Self { netns, rtnl })
    }
}

/// An endpoint's namespace that could not be opened.
pub(crate) enum Unopened {
    Gone,
    Unusable(String),
}

impl<'a> Session<'a> {
    pub(crate) fn open(network: &str, path: PathBuf, host: &'a Netns) -> Result<Self, ApplyError> {
        let host_rtnl = Rtnl::open(host).map_err(|reason| ApplyError {
            doing: "open a netlink socket".to_owned(),
            reason,
        })?;
        Ok(Self {
            network: network.to_owned(),
            path,
            host,
            host_rtnl,
            sandbox: None,
            endpoints: BTreeMap::new(),
        })
    }

    /// Opens the sandbox, if there is one, and says what its file is.
    pub(crate) fn open_sandbox(&mut self) -> Result<EntryState, ApplyError> {
        let failed = |reason| ApplyError {
            doing: "open the sandbox's namespace".to_owned(),
            reason,
        };
        let state = entry_state(&self.path).map_err(|e| failed(e.to_string()))?;
        self.sandbox = match state {
            EntryState::Namespace => {
                let netns = Netns::open(&self.path).map_err(|e| failed(e.to_string()))?;
                Some(Place::new(netns).map_err(failed)?)
            }
            EntryState::Absent | EntryState::Stale => None,
        };
        Ok(state)
    }
}

/// Opens an endpoint's namespace if it is still the one that is meant.
pub(crate) fn open_endpoint(reference: &NetnsRef) -> Result<Place, Unopened> {
    let netns = match Netns::open(&reference.path) {
        Ok(netns) => netns,
        // A process that is gone takes the links in its directory with it.
        Err(NetnsError::Open { source, .. })
            if source.kind() == io::ErrorKind::NotFound
                || source.raw_os_error() == Some(libc::ESRCH) =>
        {
            return Err(Unopened::Gone);
        }
        Err(NetnsError::NotANamespace { .. }) => return Err(Unopened::Gone),
        Err(e) => return Err(Unopened::Unusable(e.to_string())),
    };
    let meant = Identity {
        device: reference.device,
        inode: reference.inode,
    };
    if netns.identity() != meant {
        return Err(Unopened::Gone);
    }
    Place::new(netns).map_err(Unopened::Unusable)
}
