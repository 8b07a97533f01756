use std::path::Path;

use weft_netns::{EntryState, Netns, entry_state};

use super::doing;
use crate::ApplyError;
use crate::gateway::spec::GatewaySpec;
use crate::kernel::observe::{get_link, namespace_id};
use crate::kernel::session::{Place, Unopened, open_endpoint};
use crate::kernel::view::{LinkView, link_query};
use crate::spec::NetnsRef;
use weft_netns::rtnl::{Rtnl, RtnlError};

/// Everything that is held open while the gateway is looked at and changed. Containers are opened one
/// after the other: a host may have more of them than this process may have open files.
pub(super) struct Session<'a> {
    /// The hub's namespace file.
    pub(super) path: &'a Path,
    pub(super) host: &'a Netns,
    /// In the host's namespace.
    pub(super) rtnl: Rtnl,
    pub(super) hub: Option<Place>,
    pub(super) spec: Option<&'a GatewaySpec>,
}

impl<'a> Session<'a> {
    pub(super) fn open(
        host: &'a Netns,
        path: &'a Path,
        spec: Option<&'a GatewaySpec>,
    ) -> Result<Self, ApplyError> {
        let rtnl = open_strict(host).map_err(doing("open a netlink socket"))?;
        Ok(Self {
            path,
            host,
            rtnl,
            hub: None,
            spec,
        })
    }

    /// Opens the hub, if there is one, and says what its file is.
    pub(super) fn open_hub(&mut self) -> Result<EntryState, ApplyError> {
        let failed = doing("open the hub's namespace");
        let state = entry_state(self.path).map_err(|e| failed(e.to_string()))?;
        self.hub = match state {
            EntryState::Namespace => {
                let netns = Netns::open(self.path).map_err(|e| failed(e.to_string()))?;
                Some(Place::new(netns).map_err(failed)?)
            }
            EntryState::Absent | EntryState::Stale => None,
        };
        Ok(state)
    }

    /// Opens the container of a leg.
    pub(super) fn container(&self, netns: &NetnsRef) -> Result<Place, Unopened> {
        let place = open_endpoint(netns)?;
        if place.netns.identity() == self.host.identity() {
            let why = "it is the host itself, which needs no way to the host";
            return Err(Unopened::Unusable(why.to_owned()));
        }
        let strict = place.rtnl.strict();
        strict.map_err(|e| Unopened::Unusable(e.to_string()))?;
        Ok(place)
    }
}

fn open_strict(netns: &Netns) -> Result<Rtnl, String> {
    let rtnl = Rtnl::open(netns)?;
    rtnl.strict().map_err(|e| e.to_string())?;
    Ok(rtnl)
}

/// The other end of one of the hub's veths, if it is in the namespace of `netns` and `rtnl`: the
/// kernel's own word for it, which no name or address that somebody chose can imitate.
pub(super) fn other_end(
    hub: &mut Place,
    port: &LinkView,
    netns: &Netns,
    rtnl: &mut Rtnl,
) -> Result<Option<LinkView>, RtnlError> {
    let (Some(peer), Some(home)) = (port.peer, port.other_namespace) else {
        return Ok(None);
    };
    if namespace_id(&mut hub.rtnl, netns)? != Some(home) {
        return Ok(None);
    }
    get_link(rtnl, link_query(None, peer))
}
