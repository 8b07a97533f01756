//! Flows of containers, as connection tracking has them. All of this blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use weft_lb::flows::{Flows, FlowsError};
use weft_lb::spec::{Address, Family, Ports, ServiceKey};
use weft_netns::Netns;
use weft_netns::conntrack::{Conntrack, Flow};
use weft_netns::nft::NftError;
use weft_overlay::NetnsRef;

use super::lost::Suspect;
use super::namespace::{Unopened, open};
use crate::translate::services::Members;

impl From<FlowsError> for Unopened {
    fn from(error: FlowsError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Forgets the flows to backends that are no more: the next datagram goes to another, and the next
/// segment of a connection is answered by a reset. To be called after the table was changed.
pub(super) fn forget(netns: &Netns, gone: &[Suspect]) -> Result<(), Unopened> {
    let mut flows = Flows::open(netns)?;
    for (service, backend) in gone {
        flows.forget(backend, Some(service))?;
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
    let mut counts = BTreeMap::new();
    each_begun_by_others(
        &open(netns)?,
        |address| own.contains(&address),
        |flow| {
            let to = flow.original.destination.address;
            *counts.entry(to).or_default() += 1;
        },
    )?;
    Ok(counts)
}

/// Goes through the flows that are not over and that others have begun to a container.
pub(super) fn each_begun_by_others(
    netns: &Netns,
    is_own: impl Fn(IpAddr) -> bool,
    mut each: impl FnMut(&Flow),
) -> Result<(), Unopened> {
    let mut conntrack = Conntrack::open_in(netns).map_err(failed)?;
    let read = conntrack.flows(|flow| {
        let from = flow.original.source.address;
        if !(flow.ended || is_own(from) || from.is_loopback()) {
            each(&flow);
        }
    });
    read.map_err(failed)?;
    Ok(())
}

/// Those of the backends that there are flows with, and a port that one of them uses.
pub(super) fn in_use(
    netns: &Netns,
    backends: &BTreeSet<Suspect>,
) -> Result<BTreeMap<Suspect, SocketAddr>, Unopened> {
    let mut by_address: BTreeMap<IpAddr, Vec<Suspect>> = BTreeMap::new();
    for suspect in backends {
        let address = suspect.1.address;
        by_address.entry(address).or_default().push(*suspect);
    }
    let mut found = BTreeMap::new();
    let mut conntrack = Conntrack::open_in(netns).map_err(failed)?;
    let read = conntrack.flows(|flow| {
        let from = flow.reply.source;
        if !flow.rewritten || flow.ended || from.port == 0 {
            return;
        }
        let of_address = by_address.get(&from.address).into_iter().flatten();
        for suspect in of_address.filter(|(service, _)| leads_to(service, &flow)) {
            found.insert(*suspect, SocketAddr::new(from.address, from.port));
        }
    });
    read.map_err(failed)?;
    Ok(found)
}

/// Whether a flow was sent to a service.
fn leads_to(service: &ServiceKey, flow: &Flow) -> bool {
    let to = flow.original.destination;
    let address = match service.address {
        Address::Vip(address) => address == to.address,
        Address::Local(family) => (family == Family::V4) == to.address.is_ipv4(),
    };
    let port = match service.ports {
        Ports::All => true,
        Ports::One(_, port) => port.get() == to.port,
    };
    address && port
}

fn failed(error: NftError) -> Unopened {
    Unopened::Failed(error.to_string())
}
