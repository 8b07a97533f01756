//! Reads links, routes and rules, and performs changes, over netlink.

use std::net::IpAddr;

use libc::{EAFNOSUPPORT, EEXIST, ENODEV, ENOENT, EOPNOTSUPP, ESRCH};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkExtentMask, LinkFlags,
    LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use weft_netns::Netns;
use weft_netns::rtnl::{Request, Rtnl, RtnlError};

use super::plan::{Family, Observed, Op, Steer, Tap, Told, Way};
use super::{HostError, PROTOCOL, ROUTE_TABLE, RULE_PRIORITY, TAP, TAP_ADDRESS, TAP_QUEUE};

/// Metric of the route to the device.
const METRIC_DEVICE: u32 = 1;
/// Metric of the route to nowhere.
const METRIC_NOWHERE: u32 = 0x7768;
/// Where the host's own packets "come in".
const LOOPBACK: &str = "lo";
const IPV6_OFF: &str = "ipv6/conf/lo/disable_ipv6";
const LOOSE: &str = "2";

fn loose_switch() -> String {
    format!("ipv4/conf/{TAP}/rp_filter")
}

fn step<E: ToString>(doing: &str) -> impl Fn(E) -> HostError {
    move |reason| HostError::Step {
        doing: doing.to_owned(),
        reason: reason.to_string(),
    }
}

/// Reads what there is.
pub(super) fn observe(rtnl: &mut Rtnl, netns: &Netns) -> Result<Observed, HostError> {
    let switches = netns.sysctls(&[IPV6_OFF, &loose_switch()]);
    let switches = switches.map_err(step("tell its switches"))?;
    let value = |at: usize| switches.get(at).and_then(Option::as_deref);
    let mut tap = tap(rtnl).map_err(step("tell its devices"))?;
    if let Some(tap) = &mut tap {
        tap.loose = value(1) == Some(LOOSE);
    }
    let index = tap.as_ref().map(|tap| tap.index);
    Ok(Observed {
        ipv6: value(0) == Some("0"),
        rules: rules(rtnl).map_err(step("tell its rules"))?,
        routes: routes(rtnl, index).map_err(step("tell its routes"))?,
        tap,
    })
}

/// Performs changes in order, up to the first that fails. Returns how many were performed.
pub(super) fn apply(rtnl: &mut Rtnl, netns: &Netns, ops: &[Op]) -> (usize, Option<HostError>) {
    for (done, op) in ops.iter().enumerate() {
        let result = match op {
            Op::Loosen => {
                let set = netns.set_sysctl(&loose_switch(), LOOSE);
                set.map_err(|e| e.to_string())
            }
            other => requests(other)
                .iter()
                .try_for_each(|request| rtnl.change(request))
                .map_err(|e| e.to_string()),
        };
        if let Err(reason) = result {
            return (done, Some(step(&op.to_string())(reason)));
        }
        tracing::debug!(%op, "done");
    }
    (ops.len(), None)
}

fn requests(op: &Op) -> Vec<Request> {
    const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
    let gone: &'static [i32] = &[ENOENT, ESRCH];
    let one = |message, flags, tolerate| {
        vec![Request {
            message,
            flags,
            tolerate,
        }]
    };
    match op {
        Op::Block(family) => {
            let message = RouteNetlinkMessage::NewRoute(route_message(*family, None));
            one(message, NEW, &[EEXIST])
        }
        Op::Open { family, index } => {
            let message = RouteNetlinkMessage::NewRoute(route_message(*family, Some(*index)));
            one(message, NEW, &[EEXIST])
        }
        Op::Steer(steer) => {
            let message = RouteNetlinkMessage::NewRule(rule_message(*steer));
            one(message, NEW, &[EEXIST])
        }
        // What is not ours is taken away as the kernel tells it.
        Op::RemoveRule(told) => one(RouteNetlinkMessage::DelRule(told.clone()), 0, gone),
        Op::RemoveRoute(told) => one(RouteNetlinkMessage::DelRoute(told.clone()), 0, gone),
        Op::Tune { index, mtu, anew } => tuning(*index, *mtu, *anew),
        Op::Address { index } => {
            let message = RouteNetlinkMessage::NewAddress(address_message(*index));
            one(message, NEW, &[EEXIST])
        }
        Op::Loosen => Vec::new(),
    }
}

/// All that counts from when it comes up is set before: then nothing is ever sent by itself.
fn tuning(index: u32, mtu: u32, anew: bool) -> Vec<Request> {
    let link = |flags: LinkFlags, mask: LinkFlags, attributes| {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = flags;
        message.header.change_mask = mask;
        message.attributes = attributes;
        Request {
            message: RouteNetlinkMessage::SetLink(message),
            flags: 0,
            tolerate: &[],
        }
    };
    let none = LinkFlags::empty();
    let size = link(none, none, vec![LinkAttribute::Mtu(mtu)]);
    let up = link(LinkFlags::Up, LinkFlags::Up, Vec::new());
    if !anew {
        return vec![size, up];
    }
    let settings = vec![LinkAttribute::TxQueueLen(TAP_QUEUE)];
    let quiet = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let quiet = AfSpecUnspec::Inet6(vec![quiet]);
    let mut quiet = link(none, none, vec![LinkAttribute::AfSpecUnspec(vec![quiet])]);
    // A device that has no IPv6 makes no addresses.
    quiet.tolerate = &[EAFNOSUPPORT];
    vec![
        // While it is up, that gives it back the IPv6 that too small a one took.
        size,
        link(none, LinkFlags::Up, Vec::new()),
        link(LinkFlags::Noarp, LinkFlags::Noarp, settings),
        quiet,
        up,
    ]
}

fn tap(rtnl: &mut Rtnl) -> Result<Option<Tap>, RtnlError> {
    let mut query = LinkMessage::default();
    query.attributes = vec![
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
        LinkAttribute::IfName(TAP.to_owned()),
    ];
    let found = rtnl.get(RouteNetlinkMessage::GetLink(query), &[ENODEV])?;
    let Some(RouteNetlinkMessage::NewLink(link)) = found else {
        return Ok(None);
    };
    let mut tap = Tap {
        index: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        ..Tap::default()
    };
    let (mut queue, mut tun) = (false, false);
    // A device without IPv6 has nothing to say by it.
    let mut quiet = true;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => tap.mtu = *mtu,
            LinkAttribute::TxQueueLen(length) => queue = *length == TAP_QUEUE,
            LinkAttribute::LinkInfo(infos) => tun = infos.contains(&LinkInfo::Kind(InfoKind::Tun)),
            LinkAttribute::AfSpecUnspec(families) => quiet = is_quiet(families),
            _ => {}
        }
    }
    // A TUN has no link layer.
    tap.is_tap = tun && link.header.link_layer_type == LinkLayerType::Ether;
    tap.tuned = queue && quiet && link.header.flags.contains(LinkFlags::Noarp);
    tap.address = has_address(rtnl, tap.index)?;
    Ok(Some(tap))
}

fn is_quiet(families: &[AfSpecUnspec]) -> bool {
    let mut settings = families.iter().flat_map(|family| match family {
        AfSpecUnspec::Inet6(settings) => settings.as_slice(),
        _ => &[],
    });
    !settings.any(|setting| {
        matches!(setting, AfSpecInet6::AddrGenMode(mode) if *mode != In6AddrGenMode::None)
    })
}

fn has_address(rtnl: &mut Rtnl, index: u32) -> Result<bool, RtnlError> {
    let mut query = AddressMessage::default();
    query.header.family = AddressFamily::Inet;
    query.header.index = index;
    let wanted = AddressAttribute::Local(IpAddr::V4(TAP_ADDRESS));
    let objects = dump(rtnl, &RouteNetlinkMessage::GetAddress(query))?;
    Ok(objects.iter().any(|object| match object {
        RouteNetlinkMessage::NewAddress(message) => {
            message.header.index == index && message.attributes.contains(&wanted)
        }
        _ => false,
    }))
}

fn address_message(index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Host;
    let address = IpAddr::V4(TAP_ADDRESS);
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn rules(rtnl: &mut Rtnl) -> Result<Vec<Told<Steer, RuleMessage>>, RtnlError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let mut query = RuleMessage::default();
        query.header.family = number(family);
        for object in dump(rtnl, &RouteNetlinkMessage::GetRule(query))? {
            if let RouteNetlinkMessage::NewRule(message) = object
                && let Some(port) = our_rule(&message)
            {
                found.push((port.map(|port| Steer { family, port }), message));
            }
        }
    }
    Ok(found)
}

/// The port of a rule of ours; none within for one that we would not have made, none at all for
/// another's. An attribute that this program does not know says nothing: it would be one that the kernel
/// adds to every rule.
fn our_rule(message: &RuleMessage) -> Option<Option<u16>> {
    let ours = RuleAttribute::Protocol(PROTOCOL.into());
    if !message.attributes.contains(&ours) {
        return None;
    }
    let header = &message.header;
    let mut plain = header.action == RuleAction::ToTable
        && header.flags.is_empty()
        && (header.tos, header.src_len, header.dst_len) == (0, 0, 0);
    let (mut priority, mut table, mut from_host, mut udp) = (0, 0, false, false);
    let mut port = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Iifname(name) => from_host = name == LOOPBACK,
            RuleAttribute::IpProtocol(protocol) => udp = *protocol == IpProtocol::Udp,
            RuleAttribute::DestinationPortRange(range) if range.start == range.end => {
                port = Some(range.start);
            }
            RuleAttribute::Protocol(_)
            // What the kernel says where there is none.
            | RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::Other(_) => {}
            _ => plain = false,
        }
    }
    plain &= priority == RULE_PRIORITY && table == ROUTE_TABLE && from_host && udp;
    Some(port.filter(|_| plain))
}

fn rule_message(steer: Steer) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = number(steer.family);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Protocol(PROTOCOL.into()),
        RuleAttribute::Priority(RULE_PRIORITY),
        RuleAttribute::Table(ROUTE_TABLE),
        RuleAttribute::Iifname(LOOPBACK.to_owned()),
        RuleAttribute::IpProtocol(IpProtocol::Udp),
        RuleAttribute::DestinationPortRange(RulePortRange {
            start: steer.port,
            end: steer.port,
        }),
    ];
    message
}

fn routes(rtnl: &mut Rtnl, device: Option<u32>) -> Result<Vec<Told<Way, RouteMessage>>, RtnlError> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let mut query = RouteMessage::default();
        query.header.address_family = number(family);
        query.attributes.push(RouteAttribute::Table(ROUTE_TABLE));
        for object in dump(rtnl, &RouteNetlinkMessage::GetRoute(query))? {
            if let RouteNetlinkMessage::NewRoute(message) = object
                && message
                    .attributes
                    .contains(&RouteAttribute::Table(ROUTE_TABLE))
            {
                let way = way(&message, device);
                found.push((way.map(|device| Way { family, device }), message));
            }
        }
    }
    Ok(found)
}

/// Whether a route of our table leads to the device or nowhere; none for one that we would not have made.
fn way(message: &RouteMessage, device: Option<u32>) -> Option<bool> {
    let header = &message.header;
    let (mut metric, mut out, mut plain) = (0, None, true);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(index) => out = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                plain = false;
            }
            _ => {}
        }
    }
    plain &= header.protocol == PROTOCOL.into()
        && (
            header.destination_prefix_length,
            header.source_prefix_length,
        ) == (0, 0)
        && header.tos == 0;
    match (header.kind, metric) {
        (RouteType::Unicast, METRIC_DEVICE) => {
            (plain && device.is_some() && out == device).then_some(true)
        }
        // IPv6 tells the loopback device with it.
        (RouteType::BlackHole, METRIC_NOWHERE) => plain.then_some(false),
        _ => None,
    }
}

fn route_message(family: Family, device: Option<u32>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = number(family);
    message.header.protocol = PROTOCOL.into();
    message.attributes.push(RouteAttribute::Table(ROUTE_TABLE));
    let metric = match device {
        Some(index) => {
            message.header.kind = RouteType::Unicast;
            message.header.scope = RouteScope::Link;
            message.attributes.push(RouteAttribute::Oif(index));
            METRIC_DEVICE
        }
        None => {
            message.header.kind = RouteType::BlackHole;
            METRIC_NOWHERE
        }
    };
    message.attributes.push(RouteAttribute::Priority(metric));
    message
}

fn number(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
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
