use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _};

use ipnet::IpNet;
use libc::{EAFNOSUPPORT, ENODEV, ENOENT, EOPNOTSUPP};
use netlink_packet_route::link::InfoKind;
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use weft_netns::{EntryState, Netns};

use super::session::{Place, Session, Unopened, open_endpoint};
use super::view::{EntryView, LinkView, address, link_query, static_route};
use crate::ApplyError;
use crate::observed::{
    Bridge, EndpointNamespace, Forward, Inner, Membership, Namespace, Neighbour, Observed, Peer,
    Port, Sandbox, Tap, Vxlan,
};
use crate::op::{ROUTE_PROTOCOL, SWITCHES};
use crate::plan::names;
use crate::spec::{LocalEndpoint, SandboxSpec, StaticRoute};
use weft_netns::rtnl::{Rtnl, RtnlError};

impl Session<'_> {
    /// Reads the network's state, and opens what it takes to change it.
    pub(super) fn observe(&mut self, spec: Option<&SandboxSpec>) -> Result<Observed, ApplyError> {
        let mut observed = Observed {
            host_links: self.host_links()?,
            ..Observed::default()
        };
        let mut links = Vec::new();
        observed.namespace = match self.open_sandbox()? {
            EntryState::Absent => Namespace::Absent,
            EntryState::Stale => Namespace::Stale,
            EntryState::Namespace => {
                let (sandbox, found) = self.sandbox()?;
                links = found;
                Namespace::Present(Box::new(sandbox))
            }
        };
        self.endpoints.clear();
        for (id, local) in spec.iter().flat_map(|spec| &spec.locals) {
            let port = links.iter().find(|link| link.name == names::port(id));
            let (state, inner) = self.endpoint(id, local, port);
            observed.endpoints.insert(id.clone(), state);
            if let (Some(inner), Namespace::Present(sandbox)) = (inner, &mut observed.namespace)
                && let Some(port) = sandbox.ports.get_mut(&names::port(id))
            {
                port.peer = Peer::Home(inner);
            }
        }
        Ok(observed)
    }

    fn host_links(&mut self) -> Result<BTreeSet<String>, ApplyError> {
        let name = names::host_vxlan(&self.network);
        let link = get_link(&mut self.host_rtnl, link_query(Some(&name), 0))
            .map_err(|e| failed("look for links in the host's namespace", &e))?;
        Ok(link.into_iter().map(|link| link.name).collect())
    }

    fn sandbox(&mut self) -> Result<(Sandbox, Vec<LinkView>), ApplyError> {
        let host = self.host;
        let Some(place) = &mut self.sandbox else {
            return Ok(Default::default());
        };
        let doing = "read the sandbox";
        let tuned = tuned(&place.netns).map_err(|reason| ApplyError {
            doing: doing.to_owned(),
            reason,
        })?;
        let links = links(&mut place.rtnl).map_err(|e| failed(doing, &e))?;
        let mut sandbox = Sandbox {
            tuned,
            ..Sandbox::default()
        };
        let host_id =
            namespace_id(&mut place.rtnl, host).map_err(|e| failed("number the host", &e))?;
        let bridge = links.iter().find(|link| is_bridge(link));
        let bridge_index = bridge.map(|link| link.index);
        for link in &links {
            sort_link(&mut sandbox, link, bridge_index, host_id);
        }
        tables(&mut sandbox, &mut place.rtnl, &links).map_err(|e| failed(doing, &e))?;
        Ok((sandbox, links))
    }

    /// What an endpoint's namespace is like, and its interface in there if it has one.
    fn endpoint(
        &mut self,
        id: &str,
        local: &LocalEndpoint,
        port: Option<&LinkView>,
    ) -> (EndpointNamespace, Option<Inner>) {
        let mut place = match open_endpoint(&local.netns) {
            Ok(place) => place,
            Err(Unopened::Gone) => return (EndpointNamespace::Gone, None),
            Err(Unopened::Unusable(why)) => return (EndpointNamespace::Unusable(why), None),
        };
        let seen = self
            .our_interface(&mut place, port)
            .and_then(|ours| inside(&mut place, local, ours));
        match seen {
            Ok((state, inner)) => {
                self.endpoints.insert(id.to_owned(), place);
                (state, inner)
            }
            Err(e) => (EndpointNamespace::Unusable(e.to_string()), None),
        }
    }

    /// The other end of `port`, if it is in this namespace: the kernel's own word for it, which no
    /// name or address that somebody chose can imitate.
    fn our_interface(
        &mut self,
        place: &mut Place,
        port: Option<&LinkView>,
    ) -> Result<Option<LinkView>, RtnlError> {
        let (Some(sandbox), Some(port)) = (&mut self.sandbox, port) else {
            return Ok(None);
        };
        let (Some(peer), Some(home)) = (port.peer, port.other_namespace) else {
            return Ok(None);
        };
        if port.kind != Some(InfoKind::Veth)
            || namespace_id(&mut sandbox.rtnl, &place.netns)? != Some(home)
        {
            return Ok(None);
        }
        get_link(&mut place.rtnl, link_query(None, peer))
    }
}

fn failed(doing: &str, error: &RtnlError) -> ApplyError {
    ApplyError {
        doing: doing.to_owned(),
        reason: error.to_string(),
    }
}

fn inside(
    place: &mut Place,
    local: &LocalEndpoint,
    ours: Option<LinkView>,
) -> Result<(EndpointNamespace, Option<Inner>), RtnlError> {
    let loopback = get_link(&mut place.rtnl, link_query(Some("lo"), 0))?;
    let holder = get_link(&mut place.rtnl, link_query(Some(&local.ifname), 0))?;
    let ours_index = ours.as_ref().map(|link| link.index);
    let state = EndpointNamespace::Here {
        loopback_up: loopback.is_some_and(|lo| lo.link.up),
        taken: holder.is_some_and(|holder| Some(holder.index) != ours_index),
    };
    let Some(ours) = ours else {
        return Ok((state, None));
    };
    let inner = Inner {
        addresses: addresses(&mut place.rtnl, ours.index)?,
        routes: static_routes(&mut place.rtnl, ours.index)?,
        ifname: ours.name,
        mac: ours.mac,
        mtu: ours.link.mtu,
        up: ours.link.up,
        alias: ours.link.alias,
        gso_max_segs: ours.gso_max_segs,
        gso_max_size: ours.gso_max_size,
        ipv6_off: ours.ipv6_off,
    };
    Ok((state, Some(inner)))
}

fn is_bridge(link: &LinkView) -> bool {
    link.name == names::BRIDGE && link.kind == Some(InfoKind::Bridge)
}

/// Puts a link of the sandbox where it belongs. Links that are neither ours nor in the way, such as
/// `lo` and the tunnel devices that some kernels put in every namespace, are nobody's business.
fn sort_link(sandbox: &mut Sandbox, link: &LinkView, bridge: Option<u32>, host: Option<i32>) {
    let bridged = bridge.is_some() && link.controller == bridge;
    let member = Membership {
        bridged,
        learning: bridged && link.learning,
    };
    let name = link.name.clone();
    match &link.kind {
        _ if is_bridge(link) => {
            sandbox.bridge = Some(Bridge {
                link: link.link.clone(),
                plain: link.is_plain_bridge(),
            });
        }
        Some(InfoKind::Vxlan) if name == names::VXLAN => {
            let settings = link.vxlan_settings();
            sandbox.vxlan = Some(Vxlan {
                link: link.link.clone(),
                member,
                fixed: settings.fixed(host.is_some() && link.other_namespace == host),
                local: settings.local,
                learning: settings.learning,
                ttl: settings.ttl,
                forwards: BTreeSet::new(),
                neighbours: BTreeMap::new(),
            });
        }
        Some(InfoKind::Tun) if name == names::TAP => {
            let link = link.link.clone();
            sandbox.tap = Some(Tap { link, member });
        }
        Some(InfoKind::Veth) if name.starts_with(names::PREFIX) => {
            let port = Port {
                link: link.link.clone(),
                member,
                peer: Peer::Elsewhere,
            };
            sandbox.ports.insert(name, port);
        }
        Some(InfoKind::Vxlan) => {
            sandbox.strays.insert(name);
        }
        _ if matches!(name.as_str(), names::BRIDGE | names::VXLAN | names::TAP)
            || name.starts_with(names::PREFIX) =>
        {
            sandbox.strays.insert(name);
        }
        _ => {}
    }
}

fn tables(sandbox: &mut Sandbox, rtnl: &mut Rtnl, links: &[LinkView]) -> Result<(), RtnlError> {
    let by_index: BTreeMap<u32, &str> = links
        .iter()
        .map(|link| (link.index, link.name.as_str()))
        .collect();
    if sandbox.bridge.is_none() && sandbox.vxlan.is_none() {
        return Ok(());
    }
    for message in neighbours(rtnl, AddressFamily::Bridge)? {
        let Some(name) = by_index.get(&message.header.ifindex) else {
            continue;
        };
        let entry = EntryView::new(&message);
        let Some(mac) = entry.mac else {
            continue;
        };
        if entry.of_bridge {
            // What the bridge made for its ports' own addresses is "permanent", what it learned
            // "reachable". A static entry is neither.
            if message.header.state == NeighbourState::Noarp && entry.vlan.is_none() {
                sandbox.stations.insert(mac, (*name).to_owned());
            }
        } else if *name == names::VXLAN
            && message.header.flags.contains(NeighbourFlags::Own)
            && let Some(vxlan) = &mut sandbox.vxlan
        {
            vxlan.forwards.insert(Forward {
                mac,
                vtep: entry.address,
                port: entry.port,
                vni: entry.vni,
                permanent: message.header.state == NeighbourState::Permanent,
            });
        }
    }
    let Some(vxlan) = &mut sandbox.vxlan else {
        return Ok(());
    };
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let messages = neighbours(rtnl, family)?;
        let ours = messages
            .iter()
            .filter(|m| by_index.get(&m.header.ifindex) == Some(&names::VXLAN));
        vxlan.neighbours.extend(ours.filter_map(neighbour));
    }
    Ok(())
}

/// `None` for what the kernel keeps for itself: multicast addresses need no resolution.
fn neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Neighbour)> {
    let entry = EntryView::new(message);
    let address = entry.address?;
    if message.header.state == NeighbourState::Noarp || address.is_multicast() {
        return None;
    }
    let neighbour = Neighbour {
        mac: entry.mac.unwrap_or_default(),
        permanent: message.header.state == NeighbourState::Permanent,
    };
    Some((address, neighbour))
}

pub(crate) fn tuned(netns: &Netns) -> Result<bool, String> {
    let switches = SWITCHES.map(|(name, _)| name);
    let values = netns.sysctls(&switches).map_err(|e| e.to_string())?;
    Ok(SWITCHES
        .iter()
        .zip(values)
        .all(|((_, wanted), value)| value.is_none_or(|value| value == *wanted)))
}

pub(crate) fn get_link(
    rtnl: &mut Rtnl,
    query: RouteNetlinkMessage,
) -> Result<Option<LinkView>, RtnlError> {
    Ok(match rtnl.get(query, &[ENODEV])? {
        Some(RouteNetlinkMessage::NewLink(message)) => Some(LinkView::new(message)),
        _ => None,
    })
}

pub(crate) fn links(rtnl: &mut Rtnl) -> Result<Vec<LinkView>, RtnlError> {
    let objects = rtnl.dump(&link_query(None, 0))?;
    Ok(objects
        .into_iter()
        .filter_map(|object| match object {
            RouteNetlinkMessage::NewLink(message) => Some(LinkView::new(message)),
            _ => None,
        })
        .collect())
}

fn neighbours(rtnl: &mut Rtnl, family: AddressFamily) -> Result<Vec<NeighbourMessage>, RtnlError> {
    let mut query = NeighbourMessage::default();
    query.header.family = family;
    let objects = match rtnl.dump(&RouteNetlinkMessage::GetNeighbour(query)) {
        Err(e) if matches!(e.errno(), Some(EAFNOSUPPORT | EOPNOTSUPP)) => Vec::new(),
        objects => objects?,
    };
    Ok(objects
        .into_iter()
        .filter_map(|object| match object {
            RouteNetlinkMessage::NewNeighbour(message) => Some(message),
            _ => None,
        })
        .collect())
}

pub(crate) fn addresses(rtnl: &mut Rtnl, index: u32) -> Result<BTreeSet<IpNet>, RtnlError> {
    let query = RouteNetlinkMessage::GetAddress(Default::default());
    let objects = rtnl.dump(&query)?;
    Ok(objects
        .iter()
        .filter_map(|object| match object {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                address(message)
            }
            _ => None,
        })
        .collect())
}

/// Routes of ours by an interface. The kernel leaves out those of others.
pub(crate) fn static_routes(
    rtnl: &mut Rtnl,
    index: u32,
) -> Result<BTreeSet<StaticRoute>, RtnlError> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        query.header.protocol = ROUTE_PROTOCOL.into();
        let objects = match rtnl.dump(&RouteNetlinkMessage::GetRoute(query)) {
            Err(e) if matches!(e.errno(), Some(EAFNOSUPPORT | EOPNOTSUPP | ENOENT)) => continue,
            objects => objects?,
        };
        found.extend(objects.iter().filter_map(|object| match object {
            RouteNetlinkMessage::NewRoute(message) => static_route(message, index),
            _ => None,
        }));
    }
    Ok(found)
}

/// The number that the socket's namespace knows another one by; `None` if it does not know it, in
/// which case no link can have its other end there.
pub(crate) fn namespace_id(rtnl: &mut Rtnl, netns: &Netns) -> Result<Option<i32>, RtnlError> {
    let Ok(descriptor) = u32::try_from(netns.as_fd().as_raw_fd()) else {
        return Ok(None);
    };
    let mut query = NsidMessage::default();
    query.attributes = vec![NsidAttribute::Fd(descriptor)];
    let answer = rtnl.get(RouteNetlinkMessage::GetNsId(query), &[])?;
    let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else {
        return Ok(None);
    };
    Ok(answer
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
            _ => None,
        }))
}

/// Links that a crash left in the host's namespace, with the network or endpoint that each says it is
/// of: a tunnel on its way into a sandbox, or a sandbox's end of a veth pair. Where the host itself is
/// an endpoint, the container's end is in its namespace too and belongs there; its name is the
/// endpoint's choice and never that of a port.
pub(super) fn left_over_host_links(
    rtnl: &mut Rtnl,
) -> Result<Vec<(String, Option<String>)>, RtnlError> {
    let left_over = |link: LinkView| {
        let owner = link
            .link
            .alias
            .as_deref()
            .and_then(|alias| alias.strip_prefix(names::ALIAS_PREFIX))
            .map(str::to_owned);
        let ours = match (&link.kind, &owner) {
            (Some(InfoKind::Vxlan), _) => names::is_host_vxlan(&link.name),
            (Some(InfoKind::Veth), Some(owner)) => link.name == names::port(owner),
            _ => false,
        };
        ours.then_some((link.name, owner))
    };
    Ok(links(rtnl)?.into_iter().filter_map(left_over).collect())
}
