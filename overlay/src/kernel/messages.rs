//! The netlink messages of the changes that take one or a few.

use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnet::IpNet;
use libc::{EADDRNOTAVAIL, EAFNOSUPPORT, EBUSY, EEXIST, ENODEV, ENOENT, EOPNOTSUPP, ESRCH};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use crate::observed::Forward;
use crate::op::{InnerChange, LinkChange, OUTER_TTL, ROUTE_METRIC, ROUTE_PROTOCOL};
use crate::spec::{Mac, StaticRoute, Vtep};
use weft_netns::rtnl::{Request, Rtnl, RtnlError};

const CREATE: u16 = NLM_F_CREATE | NLM_F_EXCL;
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;

pub(crate) fn request(
    message: RouteNetlinkMessage,
    flags: u16,
    tolerate: &'static [i32],
) -> Request {
    Request {
        message,
        flags,
        tolerate,
    }
}

/// Changes an existing link. `RTM_SETLINK` would ignore what is specific to its kind.
pub(crate) fn change(message: LinkMessage) -> Request {
    request(RouteNetlinkMessage::NewLink(message), 0, &[])
}

pub(crate) fn delete_link(name: &str) -> Request {
    let message = LinkUnspec::new_with_name(name).build();
    request(RouteNetlinkMessage::DelLink(message), 0, &[ENODEV])
}

fn bridge_options() -> [InfoBridge; 3] {
    [
        InfoBridge::MulticastSnooping(false),
        // With a default VLAN every static entry is made twice.
        InfoBridge::VlanDefaultPvid(0),
        InfoBridge::StpState(BridgeStpState::Disabled),
    ]
}

pub(crate) fn create_bridge(name: &str, mtu: u32) -> Request {
    let builder = LinkMessageBuilder::<LinkBridge>::new(name).mtu(mtu);
    let message = bridge_options()
        .into_iter()
        .fold(builder, LinkMessageBuilder::<LinkBridge>::append_info_data)
        .build();
    request(RouteNetlinkMessage::NewLink(message), CREATE, &[EEXIST])
}

pub(crate) fn simplify_bridge(name: &str) -> [Request; 2] {
    let set = |options: &[InfoBridge]| {
        let builder = LinkMessageBuilder::<LinkBridge>::new(name);
        let append = LinkMessageBuilder::<LinkBridge>::append_info_data;
        change(options.iter().cloned().fold(builder, append).build())
    };
    [
        // A bridge that cannot filter VLANs refuses to be told not to.
        Request {
            tolerate: &[EOPNOTSUPP],
            ..set(&[InfoBridge::VlanFiltering(false)])
        },
        set(&bridge_options()),
    ]
}

/// Sent on a socket of the host's namespace: the device is made in the sandbox, and its tunnel
/// socket is and stays in the namespace that the request came from. One request, so there is no
/// moment at which a crash leaves the device in the host's namespace.
///
/// An answer of `EEXIST` is not tolerated: it means that the VNI is in use.
pub(crate) fn create_vxlan(name: &str, mtu: u32, vni: u32, vtep: Vtep, sandbox: RawFd) -> Request {
    let builder = LinkVxlan::new(name, vni)
        .mtu(mtu)
        .setns_by_fd(sandbox)
        .port(vtep.port)
        .learning(false)
        .proxy(true)
        .ttl(OUTER_TTL)
        // The flag for IPv4. The inner packets have checksums of their own; an outer one makes the
        // kernel read every byte once more. RFC 7348 section 5 wants it zero.
        .udp_csum(false);
    let builder = match vtep.local {
        IpAddr::V4(local) => builder.local(local),
        // RFC 7348 wants the same over IPv6, where it takes an explicit permission to send and to
        // receive (RFC 6935, 6936). Set on IPv6 devices only: devices whose receive flags differ
        // cannot share a port, and others on this host may have IPv4 ones.
        IpAddr::V6(local) => builder
            .local6(local)
            .udp_zero_csum6_tx(true)
            .udp_zero_csum6_rx(true),
    };
    let message = RouteNetlinkMessage::NewLink(builder.build());
    request(message, CREATE, &[])
}

pub(crate) fn set_vxlan(name: &str, local: IpAddr) -> Request {
    let mut builder = LinkMessageBuilder::<LinkVxlan>::new(name);
    for info in [
        match local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        },
        InfoVxlan::Learning(false),
        InfoVxlan::Ttl(OUTER_TTL),
    ] {
        builder = builder.append_info_data(info);
    }
    change(builder.build())
}

/// Smallest number that a port is made with.
const INDICES_FROM: u32 = 1_000_000;

/// The ends of a veth pair to be made.
pub(crate) struct VethEnds<'a> {
    pub(crate) port: &'a str,
    pub(crate) bridge: u32,
    pub(crate) mtu: u32,
    pub(crate) ifname: &'a str,
    pub(crate) mac: Mac,
    pub(crate) container: RawFd,
}

impl VethEnds<'_> {
    /// Number of the port, far above those that the kernel gives. It gives each namespace's from 1 up,
    /// as it does the container's end; ends that happen to have the same one look to it like one link
    /// without a lower one, and it says up to a second late that there is a carrier
    /// (`linkwatch_urgent_event`), before which a bridge forwards nothing.
    fn port_index(&self) -> u32 {
        // FNV-1a: any hash would do.
        let hash = { self.port.bytes() }.fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        INDICES_FROM + (hash >> 8)
    }
}

/// Makes a pair.
pub(crate) fn make_veth(rtnl: &mut Rtnl, ends: &VethEnds<'_>) -> Result<(), RtnlError> {
    let mut make = |index| {
        let results = rtnl.change_all(&[create_veth(ends, index)]);
        results.into_iter().collect::<Result<(), _>>()
    };
    match make(Some(ends.port_index())) {
        // The number is taken, or a name is, which the second try tells.
        Err(RtnlError::Refused { errno, .. }) if [EEXIST, EBUSY].contains(&errno) => make(None),
        made => made,
    }
}

/// One request makes both ends where they belong and under their final names, or nothing.
pub(crate) fn create_veth(ends: &VethEnds<'_>, port_index: Option<u32>) -> Request {
    let peer = LinkUnspec::new_with_name(ends.ifname)
        .mtu(ends.mtu)
        .address(ends.mac.0.to_vec())
        .setns_by_fd(ends.container)
        .build();
    let mut message = LinkMessageBuilder::<LinkVeth>::new(ends.port, ends.ifname)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(ends.mtu)
        .controller(ends.bridge)
        .build();
    message.header.index = port_index.unwrap_or_default();
    request(RouteNetlinkMessage::NewLink(message), CREATE, &[])
}

/// Several, because the kernel looks at a message's flags before it looks at the rest of it: a link
/// has to be quiet before it is up. `bridge` is the index of the bridge that `change` names.
pub(crate) fn set_link(name: &str, wanted: &LinkChange, bridge: Option<u32>) -> Vec<Request> {
    let link = || LinkUnspec::new_with_name(name);
    let mut requests = Vec::new();
    let mut first = link();
    if let Some(mtu) = wanted.mtu {
        first = first.mtu(mtu);
    }
    if let Some(alias) = &wanted.alias {
        first = first.alias(alias.as_str());
    }
    // No bridge has the number zero, which takes a link out of the one that it is in.
    let bridge = bridge.or(wanted.leave.then_some(0));
    if let Some(bridge) = bridge {
        first = first.controller(bridge);
    }
    if wanted.mtu.is_some() || wanted.alias.is_some() || bridge.is_some() {
        requests.push(change(first.build()));
    }
    if wanted.quiet {
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let message = link()
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![inet6]))
            .build();
        // No IPv6 in this kernel, or not on this link: nothing that could speak.
        requests.push(Request {
            tolerate: &[EAFNOSUPPORT, EOPNOTSUPP],
            ..change(message)
        });
    }
    if wanted.stop_learning {
        let message = link()
            .set_port_kind(InfoPortKind::Bridge)
            .set_port_data(InfoPortData::BridgePort(vec![InfoBridgePort::Learning(
                false,
            )]))
            .build();
        requests.push(change(message));
    }
    if wanted.raise {
        requests.push(change(link().up().build()));
    }
    requests
}

/// `index` is that of the interface inside the container.
pub(crate) fn set_inner(index: u32, wanted: &InnerChange) -> Vec<Request> {
    let link = || LinkUnspec::new_with_index(index);
    let mut first = link();
    if let Some(mac) = wanted.mac {
        first = first.address(mac.0.to_vec());
    }
    if let Some(mtu) = wanted.mtu {
        first = first.mtu(mtu);
    }
    if let Some(alias) = &wanted.alias {
        first = first.alias(alias.as_str());
    }
    if let Some(segments) = wanted.gso_max_segs {
        first = first.append_extra_attribute(LinkAttribute::GsoMaxSegs(segments));
    }
    if let Some(bytes) = wanted.gso_max_size {
        first = first.append_extra_attribute(LinkAttribute::GsoMaxSize(bytes));
    }
    let mut requests = vec![change(first.build())];
    if wanted.raise {
        requests.push(change(link().up().build()));
    }
    requests
}

pub(crate) fn raise(name: &str) -> Request {
    change(LinkUnspec::new_with_name(name).up().build())
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = family(address.addr());
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    message
}

pub(crate) fn add_address(index: u32, address: IpNet) -> Request {
    const POINT_TO_POINT: u8 = 31;
    let mut message = address_message(index, address);
    match address {
        IpNet::V4(net) if net.prefix_len() < POINT_TO_POINT => {
            let broadcast = AddressAttribute::Broadcast(net.broadcast());
            message.attributes.push(broadcast);
        }
        IpNet::V4(_) => {}
        // The cluster gave it to one endpoint; detection would hold it back for a second.
        IpNet::V6(_) => {
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            message.attributes.push(flags);
        }
    }
    request(RouteNetlinkMessage::NewAddress(message), CREATE, &[EEXIST])
}

pub(crate) fn remove_address(index: u32, address: IpNet) -> Request {
    let message = address_message(index, address);
    let message = RouteNetlinkMessage::DelAddress(message);
    request(message, 0, &[EADDRNOTAVAIL])
}

fn route_message(index: u32, route: &StaticRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    let destination = route.destination;
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = ROUTE_PROTOCOL.into();
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Oif(index),
        RouteAttribute::Priority(ROUTE_METRIC),
    ];
    if destination.prefix_len() > 0 {
        let address = RouteAttribute::Destination(destination.addr().into());
        message.attributes.push(address);
    }
    match route.via {
        Some(via) => {
            let via = RouteAttribute::Gateway(via.into());
            message.attributes.push(via);
        }
        None => message.header.scope = RouteScope::Link,
    }
    message
}

/// Behind those that somebody else made to the same destination.
pub(crate) fn add_route(index: u32, route: &StaticRoute) -> Request {
    let mut message = route_message(index, route);
    if route.via.is_some() {
        message.header.flags = RouteFlags::Onlink;
    }
    let message = RouteNetlinkMessage::NewRoute(message);
    request(message, NLM_F_CREATE | NLM_F_APPEND, &[EEXIST])
}

pub(crate) fn remove_route(index: u32, route: &StaticRoute) -> Request {
    let message = RouteNetlinkMessage::DelRoute(route_message(index, route));
    request(message, 0, &[ENOENT, ESRCH])
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn forward_message(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

pub(crate) fn set_forward(index: u32, mac: Mac, vtep: IpAddr) -> Request {
    let mut message = forward_message(index, mac);
    let destination = NeighbourAttribute::Destination(vtep.into());
    message.attributes.push(destination);
    request(RouteNetlinkMessage::NewNeighbour(message), REPLACE, &[])
}

pub(crate) fn add_flood(index: u32, vtep: IpAddr) -> Request {
    let mut message = forward_message(index, Mac::ZERO);
    let destination = NeighbourAttribute::Destination(vtep.into());
    message.attributes.push(destination);
    let flags = NLM_F_CREATE | NLM_F_APPEND;
    let message = RouteNetlinkMessage::NewNeighbour(message);
    request(message, flags, &[EEXIST])
}

/// Without a destination the whole entry goes; that would take the other copies of what floods too.
pub(crate) fn remove_forward(index: u32, forward: &Forward) -> Request {
    let mut message = forward_message(index, forward.mac);
    if forward.mac == Mac::ZERO {
        let destination = forward
            .vtep
            .map(|vtep| NeighbourAttribute::Destination(vtep.into()));
        let port = forward.port.map(NeighbourAttribute::Port);
        let vni = forward.vni.map(NeighbourAttribute::Vni);
        let which = destination.into_iter().chain(port).chain(vni);
        message.attributes.extend(which);
    }
    request(RouteNetlinkMessage::DelNeighbour(message), 0, &[ENOENT])
}

fn station_message(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = forward_message(index, mac);
    // "Permanent" would make it an address of the bridge itself; "no ARP" is a static entry.
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller;
    message
}

pub(crate) fn set_station(index: u32, mac: Mac) -> Request {
    let message = RouteNetlinkMessage::NewNeighbour(station_message(index, mac));
    request(message, REPLACE, &[])
}

pub(crate) fn remove_station(index: u32, mac: Mac) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(station_message(index, mac));
    request(message, 0, &[ENOENT])
}

fn neighbour_message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

pub(crate) fn set_neighbour(index: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = neighbour_message(index, address);
    let mac = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
    message.attributes.push(mac);
    request(RouteNetlinkMessage::NewNeighbour(message), REPLACE, &[])
}

pub(crate) fn remove_neighbour(index: u32, address: IpAddr) -> Request {
    let message = RouteNetlinkMessage::DelNeighbour(neighbour_message(index, address));
    request(message, 0, &[ENOENT, ESRCH])
}
