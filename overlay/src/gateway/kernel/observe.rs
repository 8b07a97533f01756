use std::collections::{BTreeMap, BTreeSet};

use libc::{EAFNOSUPPORT, ENOENT, EOPNOTSUPP};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::InfoKind;
use netlink_packet_route::route::{RouteHeader, RouteMessage};
use netlink_packet_route::rule::RuleMessage;
use weft_netns::EntryState;

use super::session::{Session, other_end};
use super::{doing, view};
use crate::ApplyError;
use crate::gateway::layout::{self, HOST_END, LEG, LEG_PROTOCOL, PROTOCOL, UPLINK};
use crate::gateway::observed::{
    Container, Family, Hub, HubNamespace, HubPort, Observed, Route, Rule,
};
use crate::gateway::plan::switches;
use crate::gateway::spec::GatewaySpec;
use crate::host::is_own_link;
use crate::kernel::observe::{addresses, get_link, links, tuned};
use crate::kernel::session::{Place, Unopened};
use crate::kernel::view::{LinkView, link_query};
use crate::observed::{Bridge, Inner, Peer};
use crate::plan::names;
use crate::spec::NetnsRef;
use weft_netns::rtnl::{Rtnl, RtnlError};

/// Reads the gateway's state, and opens what it takes to change it.
pub(super) fn observe(session: &mut Session<'_>) -> Result<Observed, ApplyError> {
    let mut observed = Observed::default();
    let ports = hub(session, &mut observed)?;
    host(session, &mut observed, &ports)?;
    if let Some(spec) = session.spec {
        legs(session, spec, &ports, &mut observed);
    }
    Ok(observed)
}

/// Reads some legs, on a gateway that is there: their ports in the hub, and the containers of those that
/// `part` still has.
pub(super) fn observe_legs(
    session: &mut Session<'_>,
    part: &GatewaySpec,
    keys: &BTreeSet<String>,
) -> Result<Observed, ApplyError> {
    let failed = doing("read the hub");
    session.open_hub()?;
    let place = session.hub.as_mut();
    let place = place.ok_or_else(|| failed("its namespace is not there".to_owned()))?;
    let mut get = |name: &str| {
        get_link(&mut place.rtnl, link_query(Some(name), 0)).map_err(|e| failed(e.to_string()))
    };
    let bridge = get(names::BRIDGE)?.map(|link| link.index);
    let mut hub = Hub::default();
    let mut ports = Vec::new();
    for key in keys {
        if let Some(link) = get(&layout::port(key))? {
            sort_link(&mut hub, &link, bridge);
            ports.push(link);
        }
    }
    let mut observed = Observed {
        ipv6: session
            .host
            .sysctls(&[switches::FORWARD6])
            .is_ok_and(|values| values.first().is_some_and(Option::is_some)),
        hub: HubNamespace::Present(Box::new(hub)),
        ..Observed::default()
    };
    legs(session, part, &ports, &mut observed);
    Ok(observed)
}

/// Reads the containers of legs. `ports` are their ends in the hub.
fn legs(
    session: &mut Session<'_>,
    spec: &GatewaySpec,
    ports: &[LinkView],
    observed: &mut Observed,
) {
    let ports: BTreeMap<&str, &LinkView> = ports
        .iter()
        .map(|port| (port.name.as_str(), port))
        .collect();
    for (key, netns) in &spec.legs {
        let name = layout::port(key);
        let port = ports.get(name.as_str()).copied();
        let egress = spec.egress.contains(key);
        let (container, inner) = container(session, netns, port, egress);
        observed.legs.insert(key.clone(), container);
        set_home(&mut observed.hub, &name, inner);
    }
}

/// Returns the hub's veths.
fn hub(session: &mut Session<'_>, observed: &mut Observed) -> Result<Vec<LinkView>, ApplyError> {
    observed.hub = match session.open_hub()? {
        EntryState::Absent => HubNamespace::Absent,
        EntryState::Stale => HubNamespace::Stale,
        EntryState::Namespace => HubNamespace::Present(Box::default()),
    };
    let (Some(place), HubNamespace::Present(hub)) = (&mut session.hub, &mut observed.hub) else {
        return Ok(Vec::new());
    };
    let failed = doing("read the hub");
    hub.tuned = tuned(&place.netns).map_err(&failed)?;
    let links = links(&mut place.rtnl).map_err(|e| failed(e.to_string()))?;
    let is_bridge =
        |link: &&LinkView| link.name == names::BRIDGE && link.kind == Some(InfoKind::Bridge);
    let bridge = links.iter().find(is_bridge).map(|link| link.index);
    for link in &links {
        sort_link(hub, link, bridge);
    }
    let is_port = |link: &LinkView| hub.ports.contains_key(&link.name);
    Ok(links.into_iter().filter(is_port).collect())
}

/// Puts a link of the hub where it belongs. Links that are neither ours nor in the way, such as `lo`
/// and the tunnel devices that some kernels put in every namespace, are nobody's business.
fn sort_link(hub: &mut Hub, link: &LinkView, bridge: Option<u32>) {
    let named_port = link.name == UPLINK || layout::is_port(&link.name);
    match &link.kind {
        Some(InfoKind::Bridge) if bridge == Some(link.index) => {
            hub.bridge = Some(Bridge {
                link: link.link.clone(),
                plain: link.is_plain_bridge(),
            });
        }
        Some(InfoKind::Veth) if named_port => {
            let bridged = bridge.is_some() && link.controller == bridge;
            let port = HubPort {
                link: link.link.clone(),
                bridged,
                isolated: bridged && link.isolated,
                peer: Peer::Elsewhere,
            };
            hub.ports.insert(link.name.clone(), port);
        }
        _ if named_port || link.name == names::BRIDGE => {
            hub.strays.insert(link.name.clone());
        }
        _ => {}
    }
}

fn set_home(hub: &mut HubNamespace, port: &str, inner: Option<Inner>) {
    if let (HubNamespace::Present(hub), Some(inner)) = (hub, inner)
        && let Some(port) = hub.ports.get_mut(port)
    {
        port.peer = Peer::Home(inner);
    }
}

fn host(
    session: &mut Session<'_>,
    observed: &mut Observed,
    ports: &[LinkView],
) -> Result<(), ApplyError> {
    let failed = |e: RtnlError| doing("read the host's namespace")(e.to_string());
    let links = links(&mut session.rtnl).map_err(failed)?;
    let mesh = session.spec.and_then(|spec| spec.mesh.as_ref());
    let mesh = mesh.map(|mesh| mesh.ifname.as_str());
    switches_of(session, observed, mesh, &links).map_err(doing("read the host's switches"))?;
    let mut ours = None;
    let uplink = ports.iter().find(|port| port.name == UPLINK);
    if let (Some(hub), Some(uplink)) = (&mut session.hub, uplink) {
        ours = other_end(hub, uplink, session.host, &mut session.rtnl).map_err(failed)?;
    }
    for link in &links {
        let is_ours = ours.as_ref().is_some_and(|ours| ours.index == link.index);
        if !is_ours && (link.name == HOST_END || layout::is_port(&link.name)) {
            observed.strays.insert(link.name.clone());
        }
        observed.mesh |= Some(link.name.as_str()) == mesh && link.link.up;
    }
    let ours = ours.map(|ours| inner(&mut session.rtnl, ours)).transpose();
    set_home(&mut observed.hub, UPLINK, ours.map_err(failed)?);
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("#{index}"), |link| link.name.clone())
    };
    observed.rules = rules(&mut session.rtnl, PROTOCOL).map_err(failed)?;
    observed.routes = routes(&mut session.rtnl, PROTOCOL, name).map_err(failed)?;
    Ok(())
}

fn switches_of(
    session: &Session<'_>,
    observed: &mut Observed,
    mesh: Option<&str>,
    links: &[LinkView],
) -> Result<(), String> {
    let read = |names: &[String]| {
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        session.host.sysctls(&borrowed).map_err(|e| e.to_string())
    };
    let names = switches::names(mesh);
    let values = read(&names)?;
    let found = names.into_iter().zip(values);
    observed.switches = found
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    observed.ipv6 = observed.switches.contains_key(switches::FORWARD6);
    if switches::forwards6(observed) {
        return Ok(());
    }
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
    Ok(())
}

/// What a leg's container is like, and the leg's interface in there if it has one.
fn container(
    session: &mut Session<'_>,
    netns: &NetnsRef,
    port: Option<&LinkView>,
    egress: bool,
) -> (Container, Option<Inner>) {
    let mut place = match session.container(netns) {
        Ok(place) => place,
        Err(Unopened::Gone) => return (Container::Gone, None),
        Err(Unopened::Unusable(why)) => return (Container::Unusable(why), None),
    };
    let ours = match (&mut session.hub, port) {
        (Some(hub), Some(port)) => other_end(hub, port, &place.netns, &mut place.rtnl),
        _ => Ok(None),
    };
    let seen = ours.and_then(|ours| inside(&mut place, ours, egress));
    seen.unwrap_or_else(|e| (Container::Unusable(e.to_string()), None))
}

fn inside(
    place: &mut Place,
    ours: Option<LinkView>,
    egress: bool,
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
        own_way: match egress {
            true => own_way(&mut place.rtnl)?,
            false => BTreeSet::new(),
        },
    };
    let inner = ours.map(|ours| inner(&mut place.rtnl, ours)).transpose()?;
    Ok((container, inner))
}

fn inner(rtnl: &mut Rtnl, ours: LinkView) -> Result<Inner, RtnlError> {
    Ok(Inner {
        addresses: addresses(rtnl, ours.index)?,
        ifname: ours.name,
        mac: ours.mac,
        mtu: ours.link.mtu,
        up: ours.link.up,
        ipv6_off: ours.ipv6_off,
        ..Inner::default()
    })
}

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

fn rules(rtnl: &mut Rtnl, protocol: u8) -> Result<BTreeSet<Rule>, RtnlError> {
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

/// Versions of IP for which the main table has a default route that is not ours.
fn own_way(rtnl: &mut Rtnl) -> Result<BTreeSet<Family>, RtnlError> {
    let mut found = BTreeSet::new();
    for family in FAMILIES {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        query.header.table = RouteHeader::RT_TABLE_MAIN;
        let objects = dump(rtnl, &RouteNetlinkMessage::GetRoute(query))?;
        found.extend(objects.iter().filter_map(|object| match object {
            RouteNetlinkMessage::NewRoute(message) => view::foreign_default(message, LEG_PROTOCOL),
            _ => None,
        }));
    }
    Ok(found)
}

/// A family that the kernel does not have has nothing, and a table that nothing was ever in is none.
fn dump(
    rtnl: &mut Rtnl,
    query: &RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
    match rtnl.dump(query) {
        Err(e) if matches!(e.errno(), Some(EAFNOSUPPORT | EOPNOTSUPP | ENOENT)) => Ok(Vec::new()),
        objects => objects,
    }
}
