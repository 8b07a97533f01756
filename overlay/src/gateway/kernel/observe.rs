use std::collections::BTreeSet;

use libc::{EAFNOSUPPORT, EOPNOTSUPP};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::InfoKind;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use weft_netns::Netns;

use super::{doing, view};
use crate::ApplyError;
use crate::gateway::layout::{self, BRIDGE, LEG, LEG_PROTOCOL, PROTOCOL};
use crate::gateway::observed::{Container, GatewayBridge, LegPort, Observed, Route, Rule};
use crate::gateway::plan::switches;
use crate::gateway::spec::GatewaySpec;
use crate::host::is_own_link;
use crate::kernel::observe::{addresses, get_link, links, namespace_id};
use crate::kernel::rtnl::{Rtnl, RtnlError};
use crate::kernel::session::{Place, Unopened, open_endpoint};
use crate::kernel::view::{LinkView, link_query};
use crate::observed::{Inner, Peer};
use crate::spec::NetnsRef;

/// Reads the gateway's state. Containers are opened one after the other: a host may have more of them
/// than this process may have open files.
pub(super) fn observe(
    host: &Netns,
    rtnl: &mut Rtnl,
    spec: Option<&GatewaySpec>,
) -> Result<Observed, ApplyError> {
    let failed = |e: RtnlError| doing("read the host's namespace")(e.to_string());
    let links = links(rtnl).map_err(failed)?;
    let mesh = spec.and_then(|spec| spec.mesh.as_ref());
    let mesh = mesh.map(|mesh| mesh.ifname.as_str());
    let mut observed = Observed::default();
    switches_of(&mut observed, host, mesh, &links).map_err(doing("read the host's switches"))?;
    for link in &links {
        host_link(&mut observed, rtnl, link, &links).map_err(failed)?;
        observed.mesh |= Some(link.name.as_str()) == mesh && link.link.up;
    }
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("#{index}"), |link| link.name.clone())
    };
    observed.rules = rules(rtnl, PROTOCOL).map_err(failed)?;
    observed.routes = routes(rtnl, PROTOCOL, name).map_err(failed)?;
    for (key, netns) in spec.iter().flat_map(|spec| &spec.legs) {
        let port = links.iter().find(|link| link.name == layout::port(key));
        let (container, inner) = container(host, rtnl, netns, port);
        observed.legs.insert(key.clone(), container);
        if let (Some(inner), Some(port)) = (inner, observed.ports.get_mut(&layout::port(key))) {
            port.peer = Peer::Home(inner);
        }
    }
    Ok(observed)
}

fn switches_of(
    observed: &mut Observed,
    host: &Netns,
    mesh: Option<&str>,
    links: &[LinkView],
) -> Result<(), String> {
    let read = |names: &[String]| {
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        host.sysctls(&borrowed).map_err(|e| e.to_string())
    };
    let names = switches::names(mesh);
    let values = read(&names)?;
    let found = names.into_iter().zip(values);
    observed.switches = found
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    observed.ipv6 = observed.switches.contains_key(switches::FORWARD6);
    if !switches::forwards6(observed) {
        // A port's bridge has the addresses, and so follows, in its place.
        let candidates: Vec<&str> = links
            .iter()
            .filter(|link| link.controller.is_none() && !is_own_link(&link.name))
            .map(|link| link.name.as_str())
            .filter(|name| *name != "lo" && Some(*name) != mesh)
            .collect();
        let names: Vec<String> = candidates
            .iter()
            .flat_map(|name| {
                ["accept_ra", "forwarding"].map(|switch| format!("ipv6/conf/{name}/{switch}"))
            })
            .collect();
        let values = read(&names)?;
        let follows = |values: &[Option<String>]| {
            let [accept, forward] = values else {
                return false;
            };
            accept.as_deref() == Some("1") && forward.as_deref() == Some("0")
        };
        let listeners = candidates.iter().zip(values.chunks(2));
        observed.listeners = listeners
            .filter(|(_, values)| follows(values))
            .map(|(name, _)| (*name).to_owned())
            .collect();
    }
    Ok(())
}

fn host_link(
    observed: &mut Observed,
    rtnl: &mut Rtnl,
    link: &LinkView,
    links: &[LinkView],
) -> Result<(), RtnlError> {
    match &link.kind {
        Some(InfoKind::Bridge) if link.name == BRIDGE => {
            observed.bridge = Some(GatewayBridge {
                link: link.link.clone(),
                mac: link.mac,
                plain: link.is_plain_bridge(),
                addresses: addresses(rtnl, link.index)?,
            });
        }
        Some(InfoKind::Veth) if layout::is_port(&link.name) => {
            let bridge = links.iter().find(|link| link.name == BRIDGE);
            let bridge = bridge.filter(|bridge| bridge.kind == Some(InfoKind::Bridge));
            let bridged = bridge.is_some_and(|bridge| link.controller == Some(bridge.index));
            let port = LegPort {
                link: link.link.clone(),
                bridged,
                isolated: bridged && link.isolated,
                peer: Peer::Elsewhere,
            };
            observed.ports.insert(link.name.clone(), port);
        }
        _ if link.name == BRIDGE || layout::is_port(&link.name) => {
            observed.strays.insert(link.name.clone());
        }
        _ => {}
    }
    Ok(())
}

/// What a leg's container is like, and the leg's interface in there if it has one.
fn container(
    host: &Netns,
    rtnl: &mut Rtnl,
    netns: &NetnsRef,
    port: Option<&LinkView>,
) -> (Container, Option<Inner>) {
    let mut place = match open_endpoint(netns) {
        Ok(place) => place,
        Err(Unopened::Gone) => return (Container::Gone, None),
        Err(Unopened::Unusable(why)) => return (Container::Unusable(why), None),
    };
    if place.netns.identity() == host.identity() {
        let why = "it is the host itself, which needs no way to the host".to_owned();
        return (Container::Unusable(why), None);
    }
    let seen = place
        .rtnl
        .strict()
        .map_err(RtnlError::from)
        .and_then(|()| our_interface(rtnl, &mut place, port))
        .and_then(|ours| inside(&mut place, ours));
    seen.unwrap_or_else(|e| (Container::Unusable(e.to_string()), None))
}

/// The other end of `port`, if it is in this namespace: the kernel's own word for it, which no name or
/// address that somebody chose can imitate.
fn our_interface(
    rtnl: &mut Rtnl,
    place: &mut Place,
    port: Option<&LinkView>,
) -> Result<Option<LinkView>, RtnlError> {
    let veth = port.filter(|port| port.kind == Some(InfoKind::Veth));
    let ends = veth.and_then(|port| Some((port.peer?, port.other_namespace?)));
    let Some((peer, home)) = ends else {
        return Ok(None);
    };
    if namespace_id(rtnl, &place.netns)? != Some(home) {
        return Ok(None);
    }
    get_link(&mut place.rtnl, link_query(None, peer))
}

fn inside(
    place: &mut Place,
    ours: Option<LinkView>,
) -> Result<(Container, Option<Inner>), RtnlError> {
    let holder = get_link(&mut place.rtnl, link_query(Some(LEG), 0))?;
    let index = ours.as_ref().map(|link| link.index);
    let name = |found: u32| {
        let named = holder.as_ref().filter(|holder| holder.index == found);
        named.map_or_else(|| format!("#{found}"), |_| LEG.to_owned())
    };
    let container = Container::Here {
        taken: holder
            .as_ref()
            .is_some_and(|holder| Some(holder.index) != index),
        rules: rules(&mut place.rtnl, LEG_PROTOCOL)?,
        routes: routes(&mut place.rtnl, LEG_PROTOCOL, name)?,
    };
    let Some(ours) = ours else {
        return Ok((container, None));
    };
    let inner = Inner {
        addresses: addresses(&mut place.rtnl, ours.index)?,
        ifname: ours.name,
        mac: ours.mac,
        mtu: ours.link.mtu,
        up: ours.link.up,
        ipv6_off: ours.ipv6_off,
        ..Inner::default()
    };
    Ok((container, Some(inner)))
}

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

pub(super) fn rules(rtnl: &mut Rtnl, protocol: u8) -> Result<BTreeSet<Rule>, RtnlError> {
    let found = rule_messages(rtnl, protocol)?;
    Ok(found.into_iter().map(|(rule, _)| rule).collect())
}

/// Rules with how the kernel tells them.
pub(super) fn rule_messages(
    rtnl: &mut Rtnl,
    protocol: u8,
) -> Result<Vec<(Rule, RuleMessage)>, RtnlError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let mut query = RuleMessage::default();
        query.header.family = family;
        let objects = dump(rtnl, &RouteNetlinkMessage::GetRule(query))?;
        found.extend(objects.into_iter().filter_map(|object| match object {
            RouteNetlinkMessage::NewRule(message) => {
                Some((view::rule(&message, protocol)?, message))
            }
            _ => None,
        }));
    }
    Ok(found)
}

/// The kernel leaves out the routes of others, of which there may be a million.
fn routes(
    rtnl: &mut Rtnl,
    protocol: u8,
    name: impl Fn(u32) -> String,
) -> Result<BTreeSet<Route>, RtnlError> {
    let mut found = BTreeSet::new();
    for family in FAMILIES {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        query.header.protocol = protocol.into();
        let objects = dump(rtnl, &RouteNetlinkMessage::GetRoute(query))?;
        found.extend(objects.iter().filter_map(|object| match object {
            RouteNetlinkMessage::NewRoute(message) => view::route(message, protocol, &name),
            _ => None,
        }));
    }
    Ok(found)
}

/// A family that the kernel does not have has nothing.
fn dump(
    rtnl: &mut Rtnl,
    query: &RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
    match rtnl.dump(query) {
        Err(e) if matches!(e.errno(), Some(EAFNOSUPPORT | EOPNOTSUPP)) => Ok(Vec::new()),
        objects => objects,
    }
}
