//! A kernel made of an [`Observed`]: performs ops as the real one does, and panics where the real one
//! would refuse or where something would be lost. Spec-independent.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::gateway::layout;
use crate::gateway::observed::{Container, Hub, HubNamespace, HubPort, Observed, Route, Rule};
use crate::gateway::op::{Op, Place};
use crate::gateway::plan::switches::FORWARD6;
use crate::gateway::record::Record;
use crate::observed::{Bridge, Inner, Link, Peer};
use crate::op::LinkChange;

pub(super) fn apply(kernel: &mut Observed, op: &Op) {
    match op {
        Op::DeleteHostLink { name } => assert!(kernel.strays.remove(name), "{op}"),
        Op::CreateNamespace => {
            assert_eq!(kernel.hub, HubNamespace::Absent);
            kernel.hub = HubNamespace::Present(Box::default());
        }
        Op::DeleteNamespace => {
            assert_ne!(kernel.hub, HubNamespace::Absent);
            kernel.hub = HubNamespace::Absent;
        }
        Op::Tune => hub(kernel).tuned = true,
        Op::DeleteLink { name } => delete(kernel, name),
        // Which containers are meant is known from outside only.
        Op::ClearContainer { .. } => {}
        Op::CreateBridge { mtu } => {
            let hub = hub(kernel);
            assert!(hub.bridge.is_none() && !hub.strays.contains("br0"), "{op}");
            hub.bridge = Some(Bridge {
                link: down(*mtu),
                plain: true,
            });
        }
        Op::SimplifyBridge => hub(kernel).bridge.as_mut().expect("the bridge").plain = true,
        Op::SetBridge { change } => {
            let bridge = hub(kernel).bridge.as_mut().expect("the bridge");
            set_link(&mut bridge.link, change);
        }
        Op::CreatePair { .. } => create(kernel, op),
        Op::SetPort {
            port,
            isolate,
            link,
            ..
        } => {
            let hub = hub(kernel);
            assert!(hub.bridge.is_some(), "{op}");
            let port = hub.ports.get_mut(port).expect("the port");
            if link.bridge.is_some() {
                (port.bridged, port.isolated) = (true, false);
            }
            assert!(!isolate || port.bridged, "{op}: no port");
            port.isolated |= isolate;
            set_link(&mut port.link, link);
        }
        Op::SetInner { place, change } => {
            let inner = inner(kernel, place);
            inner.mac = change.mac.unwrap_or(inner.mac);
            inner.mtu = change.mtu.unwrap_or(inner.mtu);
            inner.ipv6_off &= !change.ipv6;
            inner.up |= change.raise;
        }
        Op::AddAddress { place, address } => {
            let inner = inner(kernel, place);
            assert!(address.addr().is_ipv4() || !inner.ipv6_off, "{op}: no IPv6");
            inner.addresses.insert(*address);
        }
        Op::RemoveAddress { place, address } => remove_address(kernel, op, place, address),
        Op::SetSwitch { name, value } => set_switch(kernel, name, value),
        routing => route(kernel, routing),
    }
}

fn hub(kernel: &mut Observed) -> &mut Hub {
    match &mut kernel.hub {
        HubNamespace::Present(hub) => hub,
        other => panic!("no hub: {other:?}"),
    }
}

fn down(mtu: u32) -> Link {
    Link {
        mtu,
        ..Link::default()
    }
}

fn set_link(link: &mut Link, change: &LinkChange) {
    link.mtu = change.mtu.unwrap_or(link.mtu);
    link.alias = change.alias.clone().or(link.alias.take());
    link.quiet |= change.quiet;
    link.up |= change.raise;
}

fn create(kernel: &mut Observed, op: &Op) {
    let Op::CreatePair {
        place,
        port,
        mtu,
        mac,
    } = op
    else {
        panic!("{op}");
    };
    match place {
        Place::Host => assert!(!kernel.strays.contains(layout::HOST_END), "{op}"),
        Place::Leg(leg) => {
            let here = kernel.legs.get(leg);
            let free = matches!(here, Some(Container::Here { taken: false, .. }));
            assert!(free, "{op}: {here:?}");
        }
    }
    let hub = hub(kernel);
    assert!(hub.bridge.is_some() && *port == place.port(), "{op}");
    assert!(!hub.strays.contains(port), "{op}: in the way");
    let made = HubPort {
        link: down(*mtu),
        bridged: true,
        isolated: false,
        peer: Peer::Home(Inner {
            ifname: place.ifname().to_owned(),
            mac: *mac,
            mtu: *mtu,
            ipv6_off: true,
            ..Inner::default()
        }),
    };
    assert_eq!(hub.ports.insert(port.clone(), made), None, "{op}");
}

fn inner<'a>(kernel: &'a mut Observed, place: &Place) -> &'a mut Inner {
    let port = hub(kernel).ports.get_mut(&place.port()).expect("a port");
    match &mut port.peer {
        Peer::Home(inner) => inner,
        Peer::Elsewhere => panic!("{place} is not at home"),
    }
}

/// As the worst of kernels: with any IPv4 address go all others, and with them the routes.
fn remove_address(kernel: &mut Observed, op: &Op, place: &Place, address: &IpNet) {
    let there = &mut inner(kernel, place).addresses;
    // It may have gone with another one.
    assert!(there.remove(address) || address.addr().is_ipv4(), "{op}");
    if address.addr().is_ipv4() {
        there.retain(|net| net.addr().is_ipv6());
        let (_, routes) = routing(kernel, place);
        routes.retain(|route| {
            let ours = route.device.as_deref() == Some(place.ifname());
            route.destination.addr().is_ipv6() || !ours
        });
    }
}

fn routing<'a>(
    kernel: &'a mut Observed,
    place: &Place,
) -> (&'a mut BTreeSet<Rule>, &'a mut BTreeSet<Route>) {
    match place {
        Place::Host => (&mut kernel.rules, &mut kernel.routes),
        Place::Leg(leg) => match kernel.legs.get_mut(leg) {
            Some(Container::Here { rules, routes, .. }) => (rules, routes),
            other => panic!("{leg}: {other:?}"),
        },
    }
}

fn delete(kernel: &mut Observed, name: &str) {
    let hub = hub(kernel);
    let stray = hub.strays.remove(name);
    let port = hub.ports.remove(name);
    assert!(stray || port.is_some(), "{name} is not there");
    if !matches!(port.map(|port| port.peer), Some(Peer::Home(_))) {
        return;
    }
    let here = kernel
        .legs
        .iter()
        .filter(|(_, c)| matches!(c, Container::Here { .. }));
    let legs = here.map(|(leg, _)| Place::Leg(leg.clone()));
    for place in legs.chain([Place::Host]).collect::<Vec<_>>() {
        if place.port() == name {
            let (_, routes) = routing(kernel, &place);
            routes.retain(|route| route.device.as_deref() != Some(place.ifname()));
        }
    }
}

fn set_switch(kernel: &mut Observed, name: &str, value: &str) {
    if name == FORWARD6 {
        assert!(kernel.listeners.is_empty(), "the host loses its routers");
    }
    let listener = name
        .strip_prefix("ipv6/conf/")
        .and_then(|rest| rest.strip_suffix("/accept_ra"));
    if let Some(interface) = listener {
        kernel.listeners.remove(interface);
    }
    kernel.switches.insert(name.to_owned(), value.to_owned());
}

fn route(kernel: &mut Observed, op: &Op) {
    let place = op.place().expect("a change of routing has a place");
    let mesh = kernel.mesh;
    let (rules, routes) = routing(kernel, place);
    let same = |one: &Route, other: &Route| {
        (one.table, one.destination, one.metric) == (other.table, other.destination, other.metric)
    };
    match op {
        Op::SetRoute {
            place,
            route,
            replace,
        } => {
            let there = mesh || route.device.as_deref() == Some(place.ifname());
            assert!(there, "{op}: no interface");
            let old: Vec<Route> = routes
                .iter()
                .filter(|old| same(old, route))
                .cloned()
                .collect();
            assert!(!replace || old.len() == 1, "{op}: {old:?}");
            routes.retain(|old| !replace || !same(old, route));
            routes.insert(route.clone());
        }
        Op::RemoveRoute { route, .. } => assert!(routes.remove(route), "{op}"),
        Op::AddRule { rule, .. } => assert!(rules.insert(*rule), "{op}"),
        Op::RemoveRule { rule, .. } => assert!(rules.remove(rule), "{op}"),
        other => panic!("not a change of routing: {other}"),
    }
}

/// What the alias of a leg's port says.
pub(super) fn recorded(kernel: &mut Observed, leg: &str) -> Option<Record> {
    let port = hub(kernel).ports.get(&layout::port(leg))?;
    port.link.alias.as_deref().and_then(Record::from_alias)
}
