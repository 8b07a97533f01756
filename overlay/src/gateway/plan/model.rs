//! A kernel made of an [`Observed`]: performs ops as the real one does, and panics where the real one
//! would refuse or where something would be lost. Spec-independent.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::gateway::layout::{self, BRIDGE, LEG};
use crate::gateway::observed::{Container, GatewayBridge, LegPort, Observed, Route, Rule};
use crate::gateway::op::{Op, Place};
use crate::gateway::plan::switches::FORWARD6;
use crate::gateway::record::Record;
use crate::observed::{Inner, Link, Peer};
use crate::op::LinkChange;

pub(super) fn apply(kernel: &mut Observed, op: &Op) {
    match op {
        Op::DeleteLink { name } => delete(kernel, name),
        // Which containers are meant is known from outside only.
        Op::ClearContainer { .. } => {}
        Op::CreateBridge { mtu, mac } => {
            assert!(
                kernel.bridge.is_none() && !kernel.strays.contains(BRIDGE),
                "{op}"
            );
            kernel.bridge = Some(GatewayBridge {
                link: down(*mtu),
                mac: *mac,
                plain: true,
                addresses: BTreeSet::new(),
            });
        }
        Op::SimplifyBridge => bridge(kernel).plain = true,
        Op::SetBridge { mac, link } => {
            let bridge = bridge(kernel);
            bridge.mac = mac.unwrap_or(bridge.mac);
            set_link(&mut bridge.link, link);
        }
        Op::CreateLeg {
            leg,
            port,
            mtu,
            mac,
        } => {
            assert!(
                kernel.bridge.is_some() && *port == layout::port(leg),
                "{op}"
            );
            assert!(!kernel.strays.contains(port), "{op}: in the way");
            let here = kernel.legs.get(leg);
            assert!(
                matches!(here, Some(Container::Here { taken: false, .. })),
                "{op}: {here:?}"
            );
            let made = LegPort {
                link: down(*mtu),
                bridged: true,
                isolated: false,
                peer: Peer::Home(Inner {
                    ifname: LEG.to_owned(),
                    mac: *mac,
                    mtu: *mtu,
                    ipv6_off: true,
                    ..Inner::default()
                }),
            };
            assert_eq!(kernel.ports.insert(port.clone(), made), None, "{op}");
        }
        Op::SetPort {
            port,
            isolate,
            link,
            ..
        } => {
            assert!(kernel.bridge.is_some(), "{op}");
            let port = kernel.ports.get_mut(port).expect("the port");
            if link.bridge.is_some() {
                (port.bridged, port.isolated) = (true, false);
            }
            assert!(!isolate || port.bridged, "{op}: no port");
            port.isolated |= isolate;
            set_link(&mut port.link, link);
        }
        Op::SetInner { leg, change } => {
            let inner = inner(kernel, leg);
            inner.mac = change.mac.unwrap_or(inner.mac);
            inner.mtu = change.mtu.unwrap_or(inner.mtu);
            inner.ipv6_off &= !change.ipv6;
            inner.up |= change.raise;
        }
        Op::AddAddress { place, address } => {
            if let Place::Leg(leg) = place {
                let v6 = address.addr().is_ipv6();
                assert!(!v6 || !inner(kernel, leg).ipv6_off, "{op}: no IPv6");
            }
            addresses(kernel, place).insert(*address);
        }
        Op::RemoveAddress { place, address } => remove_address(kernel, op, place, address),
        Op::SetSwitch { name, value } => set_switch(kernel, name, value),
        routing => route(kernel, routing),
    }
}

fn down(mtu: u32) -> Link {
    Link {
        mtu,
        ..Link::default()
    }
}

fn bridge(kernel: &mut Observed) -> &mut GatewayBridge {
    kernel.bridge.as_mut().expect("the bridge")
}

fn set_link(link: &mut Link, change: &LinkChange) {
    link.mtu = change.mtu.unwrap_or(link.mtu);
    link.alias = change.alias.clone().or(link.alias.take());
    link.quiet |= change.quiet;
    link.up |= change.raise;
}

fn inner<'a>(kernel: &'a mut Observed, leg: &str) -> &'a mut Inner {
    let port = kernel.ports.get_mut(&layout::port(leg)).expect("a port");
    match &mut port.peer {
        Peer::Home(inner) => inner,
        Peer::Elsewhere => panic!("{leg} is not at home"),
    }
}

fn addresses<'a>(kernel: &'a mut Observed, place: &Place) -> &'a mut BTreeSet<IpNet> {
    match place {
        Place::Host => &mut bridge(kernel).addresses,
        Place::Leg(leg) => &mut inner(kernel, leg).addresses,
    }
}

/// As the worst of kernels: with any IPv4 address go all others, and with them the routes.
fn remove_address(kernel: &mut Observed, op: &Op, place: &Place, address: &IpNet) {
    let there = addresses(kernel, place);
    // It may have gone with another one.
    assert!(there.remove(address) || address.addr().is_ipv4(), "{op}");
    if address.addr().is_ipv4() {
        there.retain(|net| net.addr().is_ipv6());
        if let Place::Leg(leg) = place {
            let (_, routes) = container(kernel, leg);
            routes.retain(|route| {
                route.destination.addr().is_ipv6() || route.device.as_deref() != Some(LEG)
            });
        }
    }
}

fn container<'a>(
    kernel: &'a mut Observed,
    leg: &str,
) -> (&'a mut BTreeSet<Rule>, &'a mut BTreeSet<Route>) {
    match kernel.legs.get_mut(leg) {
        Some(Container::Here { rules, routes, .. }) => (rules, routes),
        other => panic!("{leg}: {other:?}"),
    }
}

fn delete(kernel: &mut Observed, name: &str) {
    let stray = kernel.strays.remove(name);
    let bridge = name == BRIDGE && kernel.bridge.take().is_some();
    let port = kernel.ports.remove(name);
    assert!(stray || bridge || port.is_some(), "{name} is not there");
    if bridge {
        for port in kernel.ports.values_mut() {
            (port.bridged, port.isolated) = (false, false);
        }
    }
    let home = matches!(port.map(|port| port.peer), Some(Peer::Home(_)));
    for (leg, container) in kernel.legs.iter_mut().filter(|_| home) {
        if let Container::Here { routes, .. } = container
            && layout::port(leg) == name
        {
            routes.retain(|route| route.device.as_deref() != Some(LEG));
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
    let mesh = kernel.mesh;
    let (rules, routes) = match op {
        Op::SetRoute { place, .. }
        | Op::RemoveRoute { place, .. }
        | Op::AddRule { place, .. }
        | Op::RemoveRule { place, .. } => match place {
            Place::Host => (&mut kernel.rules, &mut kernel.routes),
            Place::Leg(leg) => container(kernel, leg),
        },
        other => panic!("not a change of routing: {other}"),
    };
    let same = |one: &Route, other: &Route| {
        (one.table, one.destination, one.metric) == (other.table, other.destination, other.metric)
    };
    match op {
        Op::SetRoute {
            place,
            route,
            replace,
        } => {
            assert!(*place != Place::Host || mesh, "{op}: no interface");
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

/// The address that the alias of a leg's port says.
pub(super) fn recorded(kernel: &Observed, leg: &str) -> Option<Record> {
    let port = kernel.ports.get(&layout::port(leg))?;
    port.link.alias.as_deref().and_then(Record::from_alias)
}
