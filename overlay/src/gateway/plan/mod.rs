//! From what is wanted and what there is to what has to be done.

mod assign;
mod legs;
#[cfg(test)]
mod model;
mod routing;
pub(crate) mod switches;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::layout::{self, BRIDGE};
use super::observed::{GatewayBridge, LegPort, Observed};
use super::op::{Op, Place};
use super::record::Record;
use super::spec::{GatewaySpec, mac};
use crate::observed::{Link, Peer};
use crate::op::LinkChange;
use crate::spec::NetnsRef;

pub use assign::{Assigned, assign};

/// The changes that make the gateway look like its spec, in an order in which they can be performed;
/// none if it does. Without a spec the gateway is removed, except for the switches: others may have
/// come to rely on them.
///
/// Pure. Applied to what was observed, they lead to a state for which there is nothing to do.
pub fn plan(spec: Option<&GatewaySpec>, observed: &Observed) -> Vec<Op> {
    let Some(spec) = spec else {
        return removal(observed);
    };
    let mut planner = Planner {
        spec,
        observed,
        assigned: assign(spec, observed),
        ops: Vec::new(),
    };
    planner.clear_the_way();
    planner.bridge();
    planner.legs();
    planner.routing();
    planner.switches();
    planner.ops
}

fn removal(observed: &Observed) -> Vec<Op> {
    let mut ops = Vec::new();
    let (rules, routes) = (BTreeSet::new(), BTreeSet::new());
    routing::change(
        &mut ops,
        &Place::Host,
        (&rules, &observed.rules),
        (&routes, &observed.routes),
    );
    for (name, port) in &observed.ports {
        remove_port(&mut ops, name, port, &BTreeSet::new());
    }
    let bridge = observed.bridge.as_ref().map(|_| BRIDGE.to_owned());
    let names = observed.strays.iter().cloned().chain(bridge);
    ops.extend(names.map(|name| Op::DeleteLink { name }));
    ops
}

/// The rules of a container that keeps a leg are seen to with the leg.
fn remove_port(ops: &mut Vec<Op>, name: &str, port: &LegPort, keep: &BTreeSet<&NetnsRef>) {
    let record = port.link.alias.as_deref().and_then(Record::from_alias);
    let netns = record.and_then(|record| record.netns);
    let clear = netns.filter(|netns| !keep.contains(netns));
    ops.extend(clear.map(|netns| Op::ClearContainer { netns }));
    ops.push(Op::DeleteLink {
        name: name.to_owned(),
    });
}

struct Planner<'a> {
    spec: &'a GatewaySpec,
    observed: &'a Observed,
    assigned: Assigned,
    ops: Vec<Op>,
}

impl<'a> Planner<'a> {
    fn clear_the_way(&mut self) {
        let strays = self.observed.strays.iter();
        self.ops
            .extend(strays.map(|name| Op::DeleteLink { name: name.clone() }));
        let stay: BTreeSet<String> = self
            .spec
            .legs
            .keys()
            .filter(|key| self.kept(key).is_some())
            .map(|key| layout::port(key))
            .collect();
        let containers = self.spec.legs.values().collect();
        for (name, port) in &self.observed.ports {
            if !stay.contains(name) {
                remove_port(&mut self.ops, name, port, &containers);
            }
        }
    }

    /// The host's end of a leg, if it stays.
    fn kept(&self, key: &str) -> Option<&'a LegPort> {
        let port = self.observed.ports.get(&layout::port(key))?;
        let right = matches!(&port.peer, Peer::Home(inner) if inner.ifname == layout::LEG);
        // What cannot be worked on stays as it is.
        (right || self.assigned.failed.contains_key(key))
            .then_some(port)
            .filter(|_| !self.assigned.gone.contains(key))
    }

    fn bridge(&mut self) {
        let (mtu, mac) = (self.spec.mtu, mac(self.spec.bridge4()));
        let fresh = GatewayBridge {
            link: Link {
                mtu,
                ..Link::default()
            },
            mac,
            plain: true,
            addresses: BTreeSet::new(),
        };
        let bridge = self.observed.bridge.as_ref().unwrap_or_else(|| {
            self.ops.push(Op::CreateBridge { mtu, mac });
            &fresh
        });
        if !bridge.plain {
            self.ops.push(Op::SimplifyBridge);
        }
        let link = LinkChange {
            mtu: (bridge.link.mtu != mtu).then_some(mtu),
            // It is given its link-local address.
            quiet: !bridge.link.quiet,
            raise: !bridge.link.up,
            ..LinkChange::default()
        };
        let mac = (bridge.mac != mac).then_some(mac);
        if mac.is_some() || link != LinkChange::default() {
            self.ops.push(Op::SetBridge { mac, link });
        }
        self.turn_ipv6_on(BRIDGE);
        let mut wanted = BTreeSet::from([self.spec.net4(self.spec.bridge4())]);
        if self.observed.ipv6 {
            wanted.extend([self.spec.net6(self.spec.bridge6()), layout::link_local()]);
        }
        self.addresses(&Place::Host, &wanted, &bridge.addresses);
    }

    /// Returns whether IPv4 addresses were taken away. The first of an IPv4 network takes the others of
    /// it along, and with the last one go the interface's routes; so what is wanted is added again.
    fn addresses(
        &mut self,
        place: &Place,
        wanted: &BTreeSet<IpNet>,
        there: &BTreeSet<IpNet>,
    ) -> bool {
        let unwanted: Vec<IpNet> = there.difference(wanted).copied().collect();
        let disturbed = unwanted.iter().any(|net| net.addr().is_ipv4());
        self.ops
            .extend(unwanted.into_iter().map(|address| Op::RemoveAddress {
                place: place.clone(),
                address,
            }));
        let missing = wanted
            .iter()
            .filter(|net| !there.contains(*net) || (disturbed && net.addr().is_ipv4()));
        self.ops.extend(missing.map(|address| Op::AddAddress {
            place: place.clone(),
            address: *address,
        }));
        disturbed
    }
}
