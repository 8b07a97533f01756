//! From what is wanted and what there is to what has to be done.

mod faults;
mod locals;
#[cfg(test)]
mod model;
pub mod names;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::observed::{
    Bridge, EndpointNamespace, Link, Membership, Namespace, Observed, Peer, Port, Sandbox, Tap,
    Vxlan, VxlanFixed,
};
use crate::op::{LinkChange, OUTER_TTL, Op};
use crate::spec::{SandboxSpec, Tunnel};

pub use faults::{endpoint_faults, network_fault};

/// The changes that make a network look like its spec, in an order in which they can be performed;
/// none if it does. Without a spec the network is removed.
///
/// Pure. Applied to what was observed, they lead to a state for which there is nothing to do. An
/// endpoint that cannot be attached (see [`endpoint_faults`], [`EndpointNamespace`]) is left out.
pub fn plan(id: &str, spec: Option<&SandboxSpec>, observed: &Observed) -> Vec<Op> {
    let mut ops: Vec<Op> = observed
        .host_links
        .iter()
        .map(|name| Op::DeleteHostLink { name: name.clone() })
        .collect();
    let Some(spec) = spec else {
        removal(&observed.namespace, &mut ops);
        return ops;
    };
    let fresh = Sandbox::default();
    let sandbox = match &observed.namespace {
        Namespace::Present(sandbox) => sandbox,
        Namespace::Stale => {
            ops.extend([Op::DeleteNamespace, Op::CreateNamespace]);
            &fresh
        }
        Namespace::Absent => {
            ops.push(Op::CreateNamespace);
            &fresh
        }
    };
    let targets = targets(spec, observed);
    let mut planner = Planner::new(id, spec, sandbox, targets, ops);
    planner.clear_the_way();
    planner.bridge();
    planner.vxlan();
    planner.tap();
    planner.tables();
    planner.locals();
    planner.ops
}

/// The VXLAN device goes first: that frees its VNI and port in the host's namespace even if the
/// sandbox's namespace lives on because somebody is looking into it. The veths go one by one, so
/// that the containers' ends are gone when this is done; the end of a namespace is asynchronous. So
/// does the TAP device: the program that has it open holds the namespace.
fn removal(namespace: &Namespace, ops: &mut Vec<Op>) {
    let delete = |name: &String| Op::DeleteLink { name: name.clone() };
    match namespace {
        Namespace::Absent => return,
        Namespace::Stale => {}
        Namespace::Present(sandbox) => {
            if sandbox.vxlan.is_some() {
                ops.push(delete(&names::VXLAN.to_owned()));
            }
            if sandbox.tap.is_some() {
                ops.push(delete(&names::TAP.to_owned()));
            }
            ops.extend(sandbox.strays.iter().map(delete));
            ops.extend(sandbox.ports.keys().map(delete));
        }
    }
    ops.push(Op::DeleteNamespace);
}

/// What is to be done about an endpoint of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Bring its interface into shape.
    Attach { loopback_up: bool },
    /// Leave what there is and make nothing: it cannot be seen, or what is in its place is not ours.
    Leave,
    /// Its namespace is gone: so is its port.
    Drop,
}

fn targets<'a>(spec: &'a SandboxSpec, observed: &Observed) -> BTreeMap<&'a str, Target> {
    let faults = endpoint_faults(spec);
    let target = |endpoint: &String| match observed.endpoints.get(endpoint) {
        Some(EndpointNamespace::Gone) => Target::Drop,
        _ if faults.contains_key(endpoint) => Target::Leave,
        Some(EndpointNamespace::Here {
            loopback_up,
            taken: false,
        }) => Target::Attach {
            loopback_up: *loopback_up,
        },
        Some(EndpointNamespace::Here { taken: true, .. } | EndpointNamespace::Unusable(_))
        | None => Target::Leave,
    };
    spec.locals
        .keys()
        .map(|endpoint| (endpoint.as_str(), target(endpoint)))
        .collect()
}

struct Planner<'a> {
    id: &'a str,
    spec: &'a SandboxSpec,
    sandbox: &'a Sandbox,
    /// By endpoint id.
    targets: BTreeMap<&'a str, Target>,
    /// Ports that stay, by name.
    ports: BTreeMap<&'a str, &'a Port>,
    /// The VXLAN device, if it stays.
    vxlan: Option<&'a Vxlan>,
    /// The TAP device, if it is there and to be used.
    tap: Option<&'a Tap>,
    ops: Vec<Op>,
}

impl<'a> Planner<'a> {
    fn new(
        id: &'a str,
        spec: &'a SandboxSpec,
        sandbox: &'a Sandbox,
        targets: BTreeMap<&'a str, Target>,
        ops: Vec<Op>,
    ) -> Self {
        let fixed = VxlanFixed {
            vni: spec.vni,
            port: spec.vtep.port,
            host_underlay: true,
            usual: true,
        };
        // The outer address family is that of the device's socket, and so cannot change either.
        let vxlan = sandbox.vxlan.as_ref().filter(|vxlan| {
            spec.tunnel == Tunnel::Vxlan
                && vxlan.fixed == fixed
                && vxlan
                    .local
                    .is_some_and(|l| l.is_ipv4() == spec.vtep.local.is_ipv4())
        });
        let owners: BTreeMap<String, &str> =
            targets.keys().map(|id| (names::port(id), *id)).collect();
        let stays = |name: &str, port: &Port| {
            let Some(owner) = owners.get(name) else {
                return false;
            };
            match targets.get(owner) {
                Some(Target::Attach { .. }) => {
                    let wanted = spec.locals.get(*owner).map(|local| &local.ifname);
                    matches!(&port.peer, Peer::Home(inner) if Some(&inner.ifname) == wanted)
                }
                Some(Target::Leave) => true,
                Some(Target::Drop) | None => false,
            }
        };
        let ports = sandbox
            .ports
            .iter()
            .filter(|(name, port)| stays(name, port))
            .map(|(name, port)| (name.as_str(), port))
            .collect();
        Self {
            id,
            spec,
            sandbox,
            targets,
            ports,
            vxlan,
            tap: sandbox.tap.as_ref().filter(|_| spec.tunnel == Tunnel::Port),
            ops,
        }
    }

    /// The port of the bridge that remote endpoints are behind.
    fn way_out(&self) -> Option<&'static str> {
        match self.spec.tunnel {
            Tunnel::Closed => None,
            Tunnel::Vxlan => Some(names::VXLAN),
            Tunnel::Port => self.tap.map(|_| names::TAP),
        }
    }

    fn clear_the_way(&mut self) {
        if !self.sandbox.tuned {
            self.ops.push(Op::Tune);
        }
        let wrong_vxlan =
            (self.sandbox.vxlan.is_some() && self.vxlan.is_none()).then(|| names::VXLAN.to_owned());
        let unwanted = self
            .sandbox
            .ports
            .keys()
            .filter(|name| !self.ports.contains_key(name.as_str()));
        let names = wrong_vxlan
            .iter()
            .chain(&self.sandbox.strays)
            .chain(unwanted)
            .map(|name| Op::DeleteLink { name: name.clone() });
        self.ops.extend(names);
        let tap = self.sandbox.tap.as_ref();
        let leave = self.tap.is_none() && tap.is_some_and(|tap| tap.member.bridged);
        // It is its program's to remove.
        let change = LinkChange {
            leave,
            ..LinkChange::default()
        };
        self.set_link(names::TAP, None, change);
    }

    fn bridge(&mut self) {
        let name = names::BRIDGE.to_owned();
        let mtu = self.spec.mtu;
        let fresh = Bridge {
            link: Link {
                mtu,
                ..Link::default()
            },
            plain: true,
        };
        let bridge = self.sandbox.bridge.as_ref().unwrap_or_else(|| {
            self.ops.push(Op::CreateBridge { name, mtu });
            &fresh
        });
        if !bridge.plain {
            let name = names::BRIDGE.to_owned();
            self.ops.push(Op::SimplifyBridge { name });
        }
        let change = link_change(mtu, names::alias(self.id), &bridge.link);
        self.set_link(names::BRIDGE, None, change);
    }

    fn vxlan(&mut self) {
        if self.spec.tunnel != Tunnel::Vxlan {
            return;
        }
        let name = names::VXLAN.to_owned();
        let (mtu, vtep) = (self.spec.mtu, self.spec.vtep);
        let change = if let Some(vxlan) = self.vxlan {
            if vxlan.local != Some(vtep.local) || vxlan.learning || vxlan.ttl != OUTER_TTL {
                let local = vtep.local;
                self.ops.push(Op::SetVxlan { name, local });
            }
            let change = link_change(mtu, names::alias(self.id), &vxlan.link);
            joined(change, vxlan.member)
        } else {
            let vni = self.spec.vni;
            self.ops.push(Op::CreateVxlan {
                name,
                mtu,
                vni,
                vtep,
            });
            let fresh = Link {
                mtu,
                ..Link::default()
            };
            let change = link_change(mtu, names::alias(self.id), &fresh);
            joined(change, Membership::default())
        };
        self.set_link(names::VXLAN, None, change);
    }

    fn tap(&mut self) {
        if let Some(tap) = self.tap {
            let change = link_change(self.spec.mtu, names::alias(self.id), &tap.link);
            self.set_link(names::TAP, None, joined(change, tap.member));
        }
    }

    fn set_link(&mut self, name: &str, endpoint: Option<&str>, change: LinkChange) {
        if change != LinkChange::default() {
            self.ops.push(Op::SetLink {
                name: name.to_owned(),
                endpoint: endpoint.map(str::to_owned),
                change,
            });
        }
    }
}

fn link_change(mtu: u32, alias: String, link: &Link) -> LinkChange {
    LinkChange {
        mtu: (link.mtu != mtu).then_some(mtu),
        quiet: !link.quiet,
        raise: !link.up,
        alias: (link.alias.as_ref() != Some(&alias)).then_some(alias),
        ..LinkChange::default()
    }
}

/// Completes a change so that the link is a port of the bridge from which nothing is learned.
fn joined(change: LinkChange, member: Membership) -> LinkChange {
    LinkChange {
        bridge: (!member.bridged).then(|| names::BRIDGE.to_owned()),
        // A link that becomes a port learns until it is told not to.
        stop_learning: !member.bridged || member.learning,
        ..change
    }
}
