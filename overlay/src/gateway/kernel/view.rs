//! Rules and routes as far as we look at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, IpProtocol};

use crate::gateway::observed::{Action, Family, Route, Rule, Select};

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

/// A rule of our protocol number; `None` for another's. An attribute that this program does not know says
/// nothing: it would be one that the kernel adds to every rule.
pub(super) fn rule(message: &RuleMessage, protocol: u8) -> Option<Rule> {
    let header = &message.header;
    let family = family(header.family)?;
    let mut ours = false;
    let mut odd = header.flags.contains(RuleFlags::Invert) || header.tos != 0;
    let (mut priority, mut table, mut target) = (0, u32::from(header.table), 0);
    let mut seen = Selectors::default();
    let mut near = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Protocol(number) => ours = *number == protocol.into(),
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Goto(number) => target = *number,
            RuleAttribute::FwMark(bits) => seen.mark = *bits,
            RuleAttribute::FwMask(bits) => seen.mask = *bits,
            RuleAttribute::Source(address) => seen.from = Some((*address, header.src_len)),
            RuleAttribute::IpProtocol(IpProtocol::Udp) => seen.udp = true,
            RuleAttribute::SourcePortRange(range) => seen.ports = Some((range.start, range.end)),
            RuleAttribute::SuppressPrefixLen(0) => near = true,
            // What the kernel says where there is none.
            RuleAttribute::SuppressPrefixLen(u32::MAX)
            | RuleAttribute::SuppressIfGroup(u32::MAX)
            | RuleAttribute::Other(_) => {}
            _ => odd = true,
        }
    }
    let select = seen.select(family);
    odd |= select.is_none();
    let action = match header.action {
        RuleAction::ToTable if near => Action::Near(table),
        RuleAction::ToTable => Action::Table(table),
        RuleAction::Goto => Action::Goto(target),
        RuleAction::Nop => Action::Nop,
        other => Action::Other(other.into()),
    };
    ours.then_some(Rule {
        family,
        priority,
        select: select.unwrap_or(Select::All),
        action,
        odd,
    })
}

/// What a rule says of the packets that it is for.
#[derive(Default)]
struct Selectors {
    mark: u32,
    mask: u32,
    /// With the prefix length.
    from: Option<(IpAddr, u8)>,
    udp: bool,
    ports: Option<(u16, u16)>,
}

impl Selectors {
    /// `None` for what none of our rules says.
    fn select(&self, family: Family) -> Option<Select> {
        const NO_SOURCE: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 32);
        match (self.mask, self.from, self.udp, self.ports) {
            (0, None, false, None) => Some(Select::All),
            (mask, None, false, None) => Some(Select::Mark {
                value: self.mark,
                mask,
            }),
            (0, Some((address, length)), false, None) => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                (length == whole).then_some(Select::From(address))
            }
            (0, from, true, Some((first, last))) => {
                let wanted = (family == Family::V4).then_some(NO_SOURCE);
                (from == wanted).then_some(Select::Answers { first, last })
            }
            _ => None,
        }
    }
}

/// A route of our protocol number; `None` for another's. `name` tells the interface of an index.
pub(super) fn route(
    message: &RouteMessage,
    protocol: u8,
    name: impl Fn(u32) -> String,
) -> Option<Route> {
    let header = &message.header;
    let any = match family(header.address_family)? {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let local = header.kind == RouteType::Local;
    let mut odd = !(local || header.kind == RouteType::Unicast)
        || header.tos != 0
        || header.source_prefix_length != 0;
    let (mut destination, mut via, mut device) = (any, None, None);
    let (mut table, mut metric) = (u32::from(header.table), 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(index) => device = Some(name(*index)),
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::CacheInfo(_)
            | RouteAttribute::Preference(_)
            | RouteAttribute::Other(_) => {}
            _ => odd = true,
        }
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    (header.protocol == protocol.into()).then_some(Route {
        table,
        destination,
        metric,
        via,
        device,
        local,
        odd,
    })
}

/// Whose default route it is, if it is one of the main table and not of our protocol number.
pub(super) fn foreign_default(message: &RouteMessage, protocol: u8) -> Option<Family> {
    let header = &message.header;
    let main = header.table == RouteHeader::RT_TABLE_MAIN;
    let default = header.destination_prefix_length == 0 && header.protocol != protocol.into();
    family(header.address_family).filter(|_| main && default)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
