//! Flows that others have with this node's backends, as the backends' own namespaces see them: the
//! whole of them, wherever the clients are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_netns::Identity;
use weft_overlay::NetnsRef;
use weft_raft::model::{Endpoint, EndpointId, NodeId, View};

use super::flows;
use crate::translate;

/// A container of this node and those of its endpoints that are backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inbound {
    netns: BTreeSet<NetnsRef>,
    /// Addresses of all its endpoints.
    own: BTreeSet<IpAddr>,
    /// Those whose flows are asked for.
    backends: BTreeMap<EndpointId, IpAddr>,
}

/// The container of one backend of this node; `None` when its flows are not tracked.
pub(super) fn of(view: &View, row: &Endpoint) -> Option<Inbound> {
    let mut places = places(view, row.node, |other| other.id == row.id);
    places.pop_first().map(|(_, place)| place)
}

/// The containers of a node with backends whose flows are tracked, which they are where the
/// service has an address that the container balances itself.
fn places(
    view: &View,
    node: NodeId,
    wanted: impl Fn(&Endpoint) -> bool,
) -> BTreeMap<Identity, Inbound> {
    let local = || view.endpoints.values().filter(|row| row.node == node);
    let place = |row: &Endpoint| Identity {
        device: row.attachment.device,
        inode: row.attachment.inode,
    };
    let mut places: BTreeMap<Identity, Inbound> = BTreeMap::new();
    for row in local().filter(|row| is_tracked(view, row) && wanted(row)) {
        let found = places.entry(place(row)).or_default();
        found
            .backends
            .extend(row.ipv4.map(|v4| (row.id, v4.into())));
    }
    for row in local() {
        if let Some(found) = places.get_mut(&place(row)) {
            found.netns.insert(translate::netns(&row.attachment));
            found.own.extend(row.addresses());
        }
    }
    places
}

fn is_tracked(view: &View, row: &Endpoint) -> bool {
    let service = row.service.and_then(|id| view.services.get(&id));
    let mut networks = service.iter().flat_map(|service| &service.networks);
    networks.any(|on| on.network == row.network && on.vip.is_some())
}

impl Inbound {
    /// How many flows each backend has. Blocks.
    pub(super) fn count(&self) -> Result<BTreeMap<EndpointId, u64>, String> {
        let counts = flows::begun_by_others(&self.netns, &self.own);
        let counts = counts.map_err(|unopened| unopened.to_string())?;
        Ok(self.share(&counts))
    }

    /// What was sent to no endpoint's address has come by another way, which may lead to any.
    fn share(&self, counts: &BTreeMap<IpAddr, u64>) -> BTreeMap<EndpointId, u64> {
        let elsewhere: u64 = counts
            .iter()
            .filter(|(address, _)| !self.own.contains(address))
            .map(|(_, count)| count)
            .sum();
        let of = |address| counts.get(address).copied().unwrap_or(0) + elsewhere;
        let backends = self.backends.iter();
        backends.map(|(id, address)| (*id, of(address))).collect()
    }
}
