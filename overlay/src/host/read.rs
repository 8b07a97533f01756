use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use futures_util::{Stream, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use rtnetlink::RouteMessageBuilder;
use tokio::task::JoinHandle;

use super::facts::{HostAddress, HostError, HostFacts, HostLink, is_own_link};
use super::routes::summarise;

/// `RTM_GETADDR` calls a temporary address of IPv6 (RFC 8981) by the bit that is "secondary" for
/// IPv4 (linux/if_addr.h: `IFA_F_TEMPORARY`).
const TEMPORARY: AddressFlags = AddressFlags::Secondary;

/// Reads addresses, links and routes of the calling thread's network namespace. To be called inside
/// a tokio runtime.
///
/// # Errors
/// When the netlink socket cannot be opened or a dump fails. Reading needs no privilege.
pub async fn facts() -> Result<HostFacts, HostError> {
    let route = RouteSocket::open()?;
    let links = collect("links", route.handle.link().get().execute()).await?;
    let mut links: Vec<HostLink> = links.iter().map(host_link).collect();
    links.sort_by_key(|link| link.index);
    let names: BTreeMap<u32, &str> = links.iter().map(|l| (l.index, l.name.as_str())).collect();
    let addresses = collect("addresses", route.handle.address().get().execute()).await?;
    let mut addresses: Vec<HostAddress> = addresses
        .iter()
        .filter_map(|message| host_address(message, &names))
        .collect();
    addresses.sort_by_key(|a| (a.ifindex, a.address));
    let (routes, routes_omitted) = summarise(foreign_prefixes(&route, &names).await?);
    Ok(HostFacts {
        addresses,
        routes,
        routes_omitted,
        links,
    })
}

/// The prefixes of all routes that count. Only they are kept of a table that may be large.
async fn foreign_prefixes(
    socket: &RouteSocket,
    names: &BTreeMap<u32, &str>,
) -> Result<Vec<IpNet>, HostError> {
    let mut prefixes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut wanted = RouteMessageBuilder::<IpAddr>::new().build();
        wanted.header.address_family = family;
        let routes = socket.handle.route().get(wanted).execute();
        let found = routes.try_filter_map(async |route| Ok(foreign_prefix(&route, names)));
        prefixes.extend(collect("routes", found).await?);
    }
    Ok(prefixes)
}

/// A route socket with its driving task, which ends with it.
pub(super) struct RouteSocket {
    pub(super) handle: rtnetlink::Handle,
    driver: JoinHandle<()>,
}

impl RouteSocket {
    pub(super) fn open() -> Result<Self, HostError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(HostError::Open)?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
        })
    }
}

impl Drop for RouteSocket {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn collect<T>(
    what: &'static str,
    dump: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, HostError> {
    dump.try_collect().await.map_err(|error| HostError::Read {
        what,
        source: io_error(error),
    })
}

pub(super) fn io_error(error: rtnetlink::Error) -> io::Error {
    if let rtnetlink::Error::NetlinkError(message) = &error {
        message.to_io()
    } else {
        io::Error::other(error)
    }
}

fn host_link(message: &LinkMessage) -> HostLink {
    let flags = message.header.flags;
    let mut link = HostLink {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        kind: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn host_address(message: &AddressMessage, names: &BTreeMap<u32, &str>) -> Option<HostAddress> {
    let (mut address, mut local) = (None, None);
    // The header has room for the first eight flags only.
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // On a point-to-point link `Address` is the peer's.
    let ip = local.or(address)?;
    let mut passing = AddressFlags::Deprecated | AddressFlags::Tentative | AddressFlags::Dadfailed;
    if ip.is_ipv6() {
        passing |= TEMPORARY;
    }
    Some(HostAddress {
        ifname: (*names.get(&message.header.index)?).to_owned(),
        ifindex: message.header.index,
        address: IpNet::new(ip, message.header.prefix_len).ok()?,
        global: matches!(
            message.header.scope,
            AddressScope::Universe | AddressScope::Site
        ),
        stable: !flags.intersects(passing),
    })
}

/// The destination of a route of the main table that leads elsewhere than to weft's own links.
/// Refusing routes (`blackhole`, ..) count: whoever set one claims the prefix.
fn foreign_prefix(message: &RouteMessage, names: &BTreeMap<u32, &str>) -> Option<IpNet> {
    let claims = matches!(
        message.header.kind,
        RouteType::Unicast | RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
    );
    if !claims
        || message.header.flags.contains(RouteFlags::Cloned)
        || table(message) != u32::from(RouteHeader::RT_TABLE_MAIN)
    {
        return None;
    }
    let own = |index: &u32| names.get(index).is_some_and(|name| is_own_link(name));
    let devices = devices(message);
    if !devices.is_empty() && devices.iter().all(own) {
        return None;
    }
    let destination = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::from(*ip)),
            _ => None,
        })?;
    IpNet::new(destination, message.header.destination_prefix_length).ok()
}

/// The header's table is eight bits wide; the attribute, where present, has all of it.
fn table(message: &RouteMessage) -> u32 {
    let long = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    long.unwrap_or(message.header.table.into())
}

fn devices(message: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => {
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    devices
}
