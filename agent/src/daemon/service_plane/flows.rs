//! Flows of containers, as connection tracking has them. All of this blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_lb::flows::{Flows, FlowsError};
use weft_lb::spec::{Backend, ServiceKey};
use weft_netns::Netns;
use weft_netns::conntrack::Conntrack;
use weft_netns::nft::NftError;
use weft_overlay::NetnsRef;

use super::namespace::{Unopened, open};
use crate::translate::services::Members;

/// A backend of a service, by their addresses.
pub(super) type Backed = (ServiceKey, IpAddr);

impl From<FlowsError> for Unopened {
    fn from(error: FlowsError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Forgets a container's flows to backends that are no more: the next datagram goes to another, and
/// the next segment of a connection is answered by a reset. To be called after the table was
/// changed.
pub(super) fn forget<'a>(
    netns: &BTreeSet<NetnsRef>,
    gone: impl IntoIterator<Item = &'a Backed>,
) -> Result<(), Unopened> {
    let mut flows = Flows::open(&open(netns)?)?;
    for (service, address) in gone {
        flows.forget(&whole(*address), Some(service))?;
    }
    Ok(())
}

/// Forgets a container's flows to backends of services that are not among the `members` of these;
/// how many backends that was.
pub(super) fn forget_strays(netns: &Netns, members: &Members) -> Result<usize, FlowsError> {
    let mut flows = Flows::open(netns)?;
    let counts = flows.count(&members.keys().copied().collect())?;
    let mut strays = 0;
    for (service, backends) in counts {
        let known = members.get(&service);
        for backend in backends.keys() {
            if known.is_none_or(|known| !known.contains(&backend.address)) {
                flows.forget(backend, Some(&service))?;
                strays += 1;
            }
        }
    }
    Ok(strays)
}

/// How many flows that are not over others have begun to a container, by the address that they
/// were sent to; `own` are the container's. Only a container with a table has its flows tracked.
pub(super) fn begun_by_others(
    netns: &BTreeSet<NetnsRef>,
    own: &BTreeSet<IpAddr>,
) -> Result<BTreeMap<IpAddr, u64>, Unopened> {
    let failed = |error: NftError| Unopened::Failed(error.to_string());
    let mut conntrack = Conntrack::open_in(&open(netns)?).map_err(failed)?;
    let mut counts = BTreeMap::new();
    let counted = conntrack.flows(|flow| {
        let (from, to) = (flow.original.source, flow.original.destination);
        if !(flow.ended || own.contains(&from.address) || from.address.is_loopback()) {
            *counts.entry(to.address).or_default() += 1;
        }
    });
    counted.map_err(failed)?;
    Ok(counts)
}

fn whole(address: IpAddr) -> Backend {
    Backend {
        address,
        port: None,
    }
}
