//! From what is wanted and what there is to what has to be done.

mod assign;
mod legs;
#[cfg(test)]
mod model;
mod pairs;
mod routing;
pub(crate) mod switches;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::layout::{self, UPLINK};
use super::observed::{Hub, HubNamespace, HubPort, Observed};
use super::op::{Op, Place};
use super::record::Record;
use super::spec::GatewaySpec;
use crate::observed::{Bridge, Link, Peer};
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
    let (empty, mut ops) = (Hub::default(), Vec::new());
    let hub = match &observed.hub {
        HubNamespace::Present(hub) => hub,
        HubNamespace::Stale => {
            ops.extend([Op::DeleteNamespace, Op::CreateNamespace]);
            &empty
        }
        HubNamespace::Absent => {
            ops.push(Op::CreateNamespace);
            &empty
        }
    };
    let mut planner = Planner {
        spec,
        observed,
        hub,
        assigned: assign(spec, observed, &BTreeSet::new()),
        ops,
    };
    planner.clear_the_way();
    planner.bridge();
    planner.host();
    planner.legs();
    planner.routing();
    planner.switches();
    planner.ops
}

/// The changes that make the legs of a part of a spec look like it, on a gateway that is otherwise as
/// wanted; see `GatewaySpec::part`. `observed` has of the hub only what is of these legs, and `taken` are
/// the addresses of the others.
pub fn plan_part(part: &GatewaySpec, observed: &Observed, taken: &BTreeSet<Ipv4Addr>) -> Vec<Op> {
    let HubNamespace::Present(hub) = &observed.hub else {
        return Vec::new();
    };
    let mut planner = Planner {
        spec: part,
        observed,
        hub,
        assigned: assign(part, observed, taken),
        ops: Vec::new(),
    };
    planner.remove_ports();
    planner.legs();
    planner.ops
}

/// The veths go one by one, so that the others' ends are gone when this is done; the end of a
/// namespace is asynchronous.
fn removal(observed: &Observed) -> Vec<Op> {
    let mut ops = Vec::new();
    let (rules, routes) = (BTreeSet::new(), BTreeSet::new());
    routing::change(
        &mut ops,
        &Place::Host,
        (&rules, &observed.rules),
        (&routes, &observed.routes),
    );
    if let HubNamespace::Present(hub) = &observed.hub {
        for (name, port) in &hub.ports {
            remove_port(&mut ops, name, port, &BTreeSet::new());
        }
        let strays = hub.strays.iter().cloned();
        ops.extend(strays.map(|name| Op::DeleteLink { name }));
    }
    if observed.hub != HubNamespace::Absent {
        ops.push(Op::DeleteNamespace);
    }
    let strays = observed.strays.iter().cloned();
    ops.extend(strays.map(|name| Op::DeleteHostLink { name }));
    ops
}

/// The rules of a container that keeps a leg are seen to with the leg.
fn remove_port(ops: &mut Vec<Op>, name: &str, port: &HubPort, keep: &BTreeSet<&NetnsRef>) {
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
    hub: &'a Hub,
    assigned: Assigned,
    ops: Vec<Op>,
}

impl<'a> Planner<'a> {
    fn clear_the_way(&mut self) {
        if !self.hub.tuned {
            self.ops.push(Op::Tune);
        }
        let in_host = self.observed.strays.iter().cloned();
        self.ops
            .extend(in_host.map(|name| Op::DeleteHostLink { name }));
        let strays = self.hub.strays.iter().cloned();
        self.ops.extend(strays.map(|name| Op::DeleteLink { name }));
        self.remove_ports();
    }

    /// Those of legs that are not wanted, or not as they are.
    fn remove_ports(&mut self) {
        let legs = self.spec.legs.keys().cloned().map(Place::Leg);
        let stay: BTreeSet<String> = legs
            .chain([Place::Host])
            .filter(|place| self.kept(place).is_some())
            .map(|place| place.port())
            .collect();
        let containers = self.spec.legs.values().collect();
        for (name, port) in &self.hub.ports {
            if !stay.contains(name) {
                remove_port(&mut self.ops, name, port, &containers);
            }
        }
    }

    /// The hub's end of a pair, if it stays.
    fn kept(&self, place: &Place) -> Option<&'a HubPort> {
        let port = self.hub.ports.get(&place.port())?;
        let right = matches!(&port.peer, Peer::Home(inner) if inner.ifname == place.ifname());
        let stays = match place {
            Place::Host => right,
            Place::Leg(key) if self.assigned.gone.contains(key) => false,
            // What cannot be worked on stays as it is.
            Place::Leg(key) => right || self.assigned.failed.contains_key(key),
        };
        stays.then_some(port)
    }

    fn bridge(&mut self) {
        let mtu = self.spec.mtu;
        let fresh = Bridge {
            link: Link {
                mtu,
                ..Link::default()
            },
            plain: true,
        };
        let bridge = self.hub.bridge.as_ref().unwrap_or_else(|| {
            self.ops.push(Op::CreateBridge { mtu });
            &fresh
        });
        if !bridge.plain {
            self.ops.push(Op::SimplifyBridge);
        }
        let change = LinkChange {
            mtu: (bridge.link.mtu != mtu).then_some(mtu),
            quiet: !bridge.link.quiet,
            raise: !bridge.link.up,
            ..LinkChange::default()
        };
        if change != LinkChange::default() {
            self.ops.push(Op::SetBridge { change });
        }
    }

    /// The host's own interface.
    fn host(&mut self) {
        let mut addresses = BTreeSet::from([self.spec.net4(self.spec.host4())]);
        if self.observed.ipv6 {
            addresses.extend([self.spec.net6(self.spec.host6()), layout::link_local()]);
        }
        let alias = format!("weft-gw:{UPLINK}");
        self.pair(&Place::Host, self.spec.host4(), alias, addresses);
    }
}
