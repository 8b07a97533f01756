//! Whose connections are counted in a container, and whose what was counted is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;

use weft_lb::spec as lb;
use weft_lb::stats::{Counts, StatsSpec, Totals};
use weft_netns::Identity;
use weft_overlay::NetnsRef;
use weft_overlay::gateway::layout::LEG;
use weft_raft::model::{Endpoint, EndpointId, NodeId, Protocol, ServiceId, View};

use super::index::identity;
use super::{Here, ServiceIndex};
use crate::translate::netns;

/// A container of this node with backends, and what is to be counted there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Ways to its namespace.
    pub(crate) netns: BTreeSet<NetnsRef>,
    /// Addresses of all its endpoints.
    pub(crate) own: BTreeSet<IpAddr>,
    /// Its endpoints that are backends, by address. Networks may overlap.
    pub(crate) addresses: BTreeMap<Ipv4Addr, BTreeSet<EndpointId>>,
    /// Its backends behind published ports, by the port that these lead to. A container that is in a
    /// service with several endpoints is one backend there, and the first of them stands for it. Of
    /// two services with the same port nobody can tell, then, whose connection it is: it is taken
    /// for one of both.
    pub(crate) ports: BTreeMap<Target, BTreeSet<EndpointId>>,
}

/// A port of a container that published ones lead to.
pub(crate) type Target = (lb::Protocol, NonZeroU16);

/// The containers of this node whose connections are counted.
pub(crate) fn counted(
    view: &View,
    index: &ServiceIndex,
    here: Here<'_>,
) -> BTreeMap<Identity, Counted> {
    let rows = index.endpoints_on(here.node);
    let rows = rows.filter(|row| row.attachment.boot_id == here.boot_id);
    of_rows(view, &rows.collect::<Vec<_>>())
}

/// The same of any node, without an index.
pub(crate) fn counted_on(view: &View, node: NodeId) -> BTreeMap<Identity, Counted> {
    let rows = view.endpoints.values().map(AsRef::as_ref);
    of_rows(
        view,
        &rows.filter(|row| row.node == node).collect::<Vec<_>>(),
    )
}

/// The rows of each container are in the order of their ids: the first one stays the first whatever
/// comes after it.
fn of_rows(view: &View, rows: &[&Endpoint]) -> BTreeMap<Identity, Counted> {
    let mut found: BTreeMap<Identity, Counted> = BTreeMap::new();
    let mut seen: BTreeSet<(Identity, ServiceId)> = BTreeSet::new();
    for row in rows {
        let Some(service) = row.service.and_then(|id| view.services.get(&id)) else {
            continue;
        };
        let place = identity(&row.attachment);
        let counted = found.entry(place).or_default();
        if let Some(address) = row.ipv4 {
            let named = counted.addresses.entry(address).or_default();
            named.insert(row.id);
        }
        if !seen.insert((place, service.id)) {
            continue;
        }
        let targets = service.ports.iter();
        for target in targets.filter_map(|port| target(port.protocol, port.target)) {
            counted.ports.entry(target).or_default().insert(row.id);
        }
    }
    for row in rows {
        if let Some(counted) = found.get_mut(&identity(&row.attachment)) {
            counted.netns.insert(netns(&row.attachment));
            counted.own.extend(row.addresses());
        }
    }
    found
}

impl Counted {
    /// What its namespace is to count.
    pub(crate) fn spec(&self) -> StatsSpec {
        StatsSpec {
            addresses: self.addresses.keys().copied().collect(),
            leg: LEG.to_owned(),
            ports: self.ports.keys().copied().collect(),
        }
    }

    /// What each backend has taken and answered. One that its namespace does not count yet is not in
    /// it.
    pub(crate) fn share(&self, totals: &Totals) -> BTreeMap<EndpointId, Counts> {
        let mut shares = BTreeMap::new();
        for (address, ids) in &self.addresses {
            if let Some(counts) = totals.addresses.get(address) {
                shares.extend(ids.iter().map(|id| (*id, *counts)));
            }
        }
        for (port, ids) in &self.ports {
            let counts = totals.ports.get(port).copied();
            for id in ids {
                match (shares.get_mut(id), counts) {
                    (Some(share), Some(counts)) => *share += counts,
                    // Half of it is not all of it.
                    (_, None) => drop(shares.remove(id)),
                    (None, _) => {}
                }
            }
        }
        shares
    }

    /// The backends that a connection to an address and port of the container is of.
    pub(crate) fn backends_at(
        &self,
        address: IpAddr,
        target: Option<Target>,
    ) -> impl Iterator<Item = EndpointId> {
        let ids = match address {
            IpAddr::V4(own) if self.own.contains(&address) => self.addresses.get(&own),
            // By the leg.
            _ => target.and_then(|target| self.ports.get(&target)),
        };
        ids.into_iter().flatten().copied()
    }
}

fn target(protocol: Protocol, port: u16) -> Option<Target> {
    let protocol = match protocol {
        Protocol::Tcp => lb::Protocol::Tcp,
        Protocol::Udp => lb::Protocol::Udp,
    };
    Some((protocol, NonZeroU16::new(port)?))
}

#[cfg(test)]
mod tests {
    use weft_raft::model::{PublishMode, PublishedPort, SourceMode};

    use super::*;
    use crate::translate::services::testing::{HERE, Known, client, member, place, service};

    fn published(target: u16) -> PublishedPort {
        PublishedPort {
            published: 8000 + target,
            target,
            protocol: Protocol::Tcp,
            mode: PublishMode::Ingress,
            ip: None,
            source: SourceMode::Preserve,
            allow_from: Vec::new(),
        }
    }

    fn port(number: u16) -> Target {
        (lb::Protocol::Tcp, NonZeroU16::new(number).unwrap())
    }

    fn counts(connections: u64) -> Counts {
        Counts {
            connections,
            ..Counts::default()
        }
    }

    /// Endpoints 2 and 3 are one container in service 1, which publishes port 80, on both of its
    /// networks; 4 is no backend; 5 is on another node.
    fn known() -> Known {
        let mut shop = service(1, &[1, 2]);
        shop.ports = vec![published(80)];
        let mut second = member(3, 2, 1, 1);
        second.attachment = member(2, 1, 1, 1).attachment;
        let rows = [
            member(2, 1, 1, 1),
            second,
            client(4, 1, 1),
            member(5, 1, 2, 1),
        ];
        Known::of(&[shop], &rows)
    }

    #[test]
    fn only_backends_of_this_node_are_counted_each_container_once() {
        let known = known();
        let found = counted(&known.view, &known.index, HERE);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [place(2)]);
        assert_eq!(found, counted_on(&known.view, HERE.node));
        let spec = found[&place(2)].spec();
        assert_eq!((spec.addresses.len(), spec.ports.len()), (2, 1));
        let later = Here {
            boot_id: "the next boot",
            ..HERE
        };
        assert_eq!(counted(&known.view, &known.index, later), BTreeMap::new());
    }

    #[test]
    fn a_published_connection_counts_once() {
        let known = known();
        let found = &counted(&known.view, &known.index, HERE)[&place(2)];
        let addresses: Vec<Ipv4Addr> = found.addresses.keys().copied().collect();
        let mut totals = Totals {
            addresses: [(addresses[0], counts(3)), (addresses[1], counts(4))].into(),
            ports: [(port(80), counts(10))].into(),
        };
        let shares = |totals: &Totals| {
            let shares = found.share(totals);
            shares
                .values()
                .map(|counts| counts.connections)
                .collect::<Vec<_>>()
        };
        assert_eq!(shares(&totals), [13, 4]);
        // One that is not counted yet is not said to have none.
        totals.addresses.remove(&addresses[1]);
        assert_eq!(shares(&totals), [13]);
        totals.ports.clear();
        assert_eq!(shares(&totals), [0; 0]);
    }

    #[test]
    fn a_flow_is_of_the_backend_that_it_was_sent_to() {
        let known = known();
        let found = &counted(&known.view, &known.index, HERE)[&place(2)];
        let at = |address: IpAddr, target| found.backends_at(address, target).collect::<Vec<_>>();
        let [first, second] = [2, 3].map(|number| EndpointId::new([number; 10]));
        let address = |id| IpAddr::from(known.view.endpoints[&id].ipv4.unwrap());
        assert_eq!(at(address(first), Some(port(80))), [first]);
        assert_eq!(at(address(second), None), [second]);
        for leg in ["172.31.0.2", "fd77:6566:7400::2"] {
            assert_eq!(at(leg.parse().unwrap(), Some(port(80))), [first]);
            assert_eq!(at(leg.parse().unwrap(), Some(port(81))), []);
        }
    }
}
