//! A kernel made of an [`Observed`]: performs ops as the real one does, and panics where the real one
//! would refuse. Spec-independent.

use std::collections::BTreeSet;

use super::names;
use crate::observed::{
    Bridge, EndpointNamespace, Forward, Inner, Link, Membership, Namespace, Neighbour, Observed,
    Peer, Port, Sandbox, Vxlan, VxlanFixed,
};
use crate::op::{InnerChange, LinkChange, OUTER_TTL, Op};
use crate::spec::Mac;

pub(super) fn apply(kernel: &mut Observed, op: &Op) {
    match op {
        Op::DeleteHostLink { name } => assert!(kernel.host_links.remove(name)),
        Op::CreateNamespace => {
            assert_eq!(kernel.namespace, Namespace::Absent);
            kernel.namespace = Namespace::Present(Box::default());
        }
        Op::DeleteNamespace => {
            assert_ne!(kernel.namespace, Namespace::Absent);
            kernel.namespace = Namespace::Absent;
        }
        Op::RaiseLoopback { endpoint } => {
            let Some(EndpointNamespace::Here { loopback_up, .. }) =
                kernel.endpoints.get_mut(endpoint)
            else {
                panic!("{op}: no namespace");
            };
            *loopback_up = true;
        }
        Op::CreateVeth { endpoint, .. } => {
            let here = kernel.endpoints.get(endpoint);
            let free = matches!(here, Some(EndpointNamespace::Here { taken: false, .. }));
            assert!(free, "{op}: {here:?}");
            inside(sandbox(kernel), op);
        }
        _ => inside(sandbox(kernel), op),
    }
}

fn sandbox(kernel: &mut Observed) -> &mut Sandbox {
    match &mut kernel.namespace {
        Namespace::Present(sandbox) => sandbox,
        other => panic!("no sandbox: {other:?}"),
    }
}

fn inside(sandbox: &mut Sandbox, op: &Op) {
    match op {
        Op::Tune => sandbox.tuned = true,
        Op::DeleteLink { name } => delete(sandbox, name),
        Op::CreateBridge { name, mtu } => {
            assert!(sandbox.bridge.is_none() && !sandbox.strays.contains(name));
            sandbox.bridge = Some(Bridge {
                link: down(*mtu),
                plain: true,
            });
        }
        Op::SimplifyBridge { .. } => sandbox.bridge.as_mut().expect("a bridge").plain = true,
        Op::CreateVxlan {
            name,
            mtu,
            vni,
            vtep,
        } => {
            assert!(sandbox.vxlan.is_none() && !sandbox.strays.contains(name));
            sandbox.vxlan = Some(Vxlan {
                link: down(*mtu),
                member: Membership::default(),
                fixed: VxlanFixed {
                    vni: *vni,
                    port: vtep.port,
                    host_underlay: true,
                    usual: true,
                },
                local: Some(vtep.local),
                learning: false,
                ttl: OUTER_TTL,
                forwards: BTreeSet::new(),
                neighbours: [].into(),
            });
        }
        Op::SetVxlan { local, .. } => {
            let vxlan = sandbox.vxlan.as_mut().expect("a VXLAN device");
            let same = vxlan
                .local
                .is_some_and(|old| old.is_ipv4() == local.is_ipv4());
            assert!(same, "{op}: from {:?}", vxlan.local);
            (vxlan.local, vxlan.learning, vxlan.ttl) = (Some(*local), false, OUTER_TTL);
        }
        Op::CreateVeth { .. } => create_veth(sandbox, op),
        Op::SetLink { name, change, .. } => set_link(sandbox, name, change),
        Op::SetInner { ifname, change, .. } => set_inner(inner(sandbox, op, ifname), change),
        Op::AddAddress {
            ifname, address, ..
        } => {
            let inner = inner(sandbox, op, ifname);
            assert!(address.addr().is_ipv4() || !inner.ipv6_off, "{op}: no IPv6");
            assert!(inner.addresses.insert(*address));
        }
        Op::RemoveAddress {
            ifname, address, ..
        } => assert!(inner(sandbox, op, ifname).addresses.remove(address)),
        Op::AddRoute { ifname, route, .. } => {
            let inner = inner(sandbox, op, ifname);
            assert!(inner.up, "{op}: down");
            assert!(inner.routes.insert(*route), "{op}");
        }
        Op::RemoveRoute { ifname, route, .. } => {
            assert!(inner(sandbox, op, ifname).routes.remove(route), "{op}");
        }
        _ => entry(sandbox, op),
    }
}

fn entry(sandbox: &mut Sandbox, op: &Op) {
    match op {
        Op::SetStation { port, mac, .. } => {
            let bridged = match port.as_str() {
                names::VXLAN => sandbox.vxlan.as_ref().is_some_and(|v| v.member.bridged),
                names::TAP => sandbox.tap.as_ref().is_some_and(|t| t.member.bridged),
                port => sandbox.ports.get(port).is_some_and(|p| p.member.bridged),
            };
            assert!(bridged, "{op}: no port of the bridge");
            sandbox.stations.insert(*mac, port.clone());
            return;
        }
        Op::RemoveStation { port, mac } => {
            assert_eq!(sandbox.stations.remove(mac).as_ref(), Some(port), "{op}");
            return;
        }
        _ => {}
    }
    let vxlan = sandbox.vxlan.as_mut().expect("a VXLAN device");
    match op {
        Op::SetForward { mac, vtep, .. } => {
            let old: Vec<Forward> = vxlan
                .forwards
                .iter()
                .filter(|f| f.mac == *mac)
                .copied()
                .collect();
            assert!(*mac != Mac::ZERO && old.len() <= 1, "{op}: {old:?}");
            for old in old {
                assert!(old.vtep.is_some(), "{op}: cannot replace a next hop");
                vxlan.forwards.remove(&old);
            }
            vxlan.forwards.insert(Forward::to(*mac, *vtep));
        }
        Op::AddFlood { vtep, .. } => {
            assert!(vxlan.forwards.insert(Forward::to(Mac::ZERO, *vtep)), "{op}");
        }
        Op::RemoveForward { forward, .. } => assert!(vxlan.forwards.remove(forward), "{op}"),
        Op::SetNeighbour { address, mac, .. } => {
            // Entries of a device that is down do not stay.
            assert!(vxlan.link.up, "{op}: down");
            let neighbour = Neighbour {
                mac: *mac,
                permanent: true,
            };
            vxlan.neighbours.insert(*address, neighbour);
        }
        Op::RemoveNeighbour { address, .. } => {
            assert!(vxlan.neighbours.remove(address).is_some(), "{op}");
        }
        other => panic!("not an entry: {other}"),
    }
}

fn down(mtu: u32) -> Link {
    Link {
        mtu,
        ..Link::default()
    }
}

fn delete(sandbox: &mut Sandbox, name: &str) {
    let stray = sandbox.strays.remove(name);
    let port = sandbox.ports.remove(name).is_some();
    let vxlan = name == names::VXLAN && sandbox.vxlan.take().is_some();
    let tap = name == names::TAP && sandbox.tap.take().is_some();
    assert!(stray || port || vxlan || tap, "{name} is not there");
    sandbox.stations.retain(|_, port| port != name);
}

fn create_veth(sandbox: &mut Sandbox, op: &Op) {
    let Op::CreateVeth {
        port,
        mtu,
        ifname,
        mac,
        ..
    } = op
    else {
        panic!("{op}");
    };
    assert!(sandbox.bridge.is_some(), "{op}: no bridge");
    assert!(!sandbox.strays.contains(port), "{op}: in the way");
    let made = Port {
        link: down(*mtu),
        member: Membership {
            bridged: true,
            learning: true,
        },
        peer: Peer::Home(Inner {
            ifname: ifname.clone(),
            mac: *mac,
            mtu: *mtu,
            ipv6_off: true,
            ..Inner::default()
        }),
    };
    assert_eq!(sandbox.ports.insert(port.clone(), made), None, "{op}");
}

fn set_link(sandbox: &mut Sandbox, name: &str, change: &LinkChange) {
    let has_bridge = sandbox.bridge.is_some();
    let (link, member) = match name {
        names::BRIDGE => (&mut sandbox.bridge.as_mut().expect("a bridge").link, None),
        names::VXLAN => {
            let vxlan = sandbox.vxlan.as_mut().expect("a VXLAN device");
            (&mut vxlan.link, Some(&mut vxlan.member))
        }
        names::TAP => {
            let tap = sandbox.tap.as_mut().expect("a TAP device");
            (&mut tap.link, Some(&mut tap.member))
        }
        port => {
            let port = sandbox.ports.get_mut(port).expect("the port");
            (&mut port.link, Some(&mut port.member))
        }
    };
    link.mtu = change.mtu.unwrap_or(link.mtu);
    link.alias = change.alias.clone().or(link.alias.take());
    link.quiet |= change.quiet;
    link.up |= change.raise;
    if let Some(member) = member {
        if change.leave {
            *member = Membership::default();
            sandbox.stations.retain(|_, port| port != name);
        }
        if change.bridge.is_some() {
            assert!(has_bridge, "{name}: no bridge to join");
            *member = Membership {
                bridged: true,
                learning: true,
            };
        }
        if change.stop_learning {
            assert!(member.bridged, "{name}: no port");
            member.learning = false;
        }
    }
}

fn inner<'a>(sandbox: &'a mut Sandbox, op: &Op, ifname: &str) -> &'a mut Inner {
    let endpoint = op
        .endpoint()
        .expect("an op inside a container names its endpoint");
    let port = sandbox
        .ports
        .get_mut(&names::port(endpoint))
        .expect("a port");
    let Peer::Home(inner) = &mut port.peer else {
        panic!("{op}: not at home");
    };
    assert_eq!(inner.ifname, ifname, "{op}");
    inner
}

fn set_inner(inner: &mut Inner, change: &InnerChange) {
    inner.mac = change.mac.unwrap_or(inner.mac);
    inner.mtu = change.mtu.unwrap_or(inner.mtu);
    inner.gso_max_segs = change.gso_max_segs.unwrap_or(inner.gso_max_segs);
    inner.gso_max_size = change.gso_max_size.unwrap_or(inner.gso_max_size);
    inner.alias = change.alias.clone().or(inner.alias.take());
    inner.ipv6_off &= !change.ipv6;
    inner.up |= change.raise;
}
