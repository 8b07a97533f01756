//! The netlink messages of changes that only the gateway makes.

use std::net::{IpAddr, Ipv4Addr};

use libc::{EEXIST, ENOENT, ESRCH};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{InfoBridgePort, InfoPortData, InfoPortKind};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use rtnetlink::LinkUnspec;

use crate::gateway::observed::{Action, Family, Route, Rule, Select};
use crate::kernel::messages::{change, request};
use weft_netns::rtnl::Request;

pub(super) fn isolate(name: &str) -> Request {
    let isolated = InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)]);
    let link = LinkUnspec::new_with_name(name);
    change(
        link.set_port_kind(InfoPortKind::Bridge)
            .set_port_data(isolated)
            .build(),
    )
}

/// `device` is the index of the route's.
pub(super) fn set_route(route: &Route, protocol: u8, device: u32, replace: bool) -> Request {
    let mut message = route_message(route, protocol);
    message.header.kind = if route.local {
        RouteType::Local
    } else {
        RouteType::Unicast
    };
    if route.via.is_some() {
        // The neighbour's address need not be in a network of the device's.
        message.header.flags = RouteFlags::Onlink;
    }
    message.attributes.push(RouteAttribute::Oif(device));
    let how = if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
    request(
        RouteNetlinkMessage::NewRoute(message),
        NLM_F_CREATE | how,
        &[EEXIST],
    )
}

pub(super) fn remove_route(route: &Route, protocol: u8) -> Request {
    let mut message = route_message(route, protocol);
    message.header.scope = RouteScope::NoWhere;
    // Gone with the device, or with its address.
    request(RouteNetlinkMessage::DelRoute(message), 0, &[ESRCH, ENOENT])
}

fn route_message(route: &Route, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    let destination = route.destination;
    message.header.address_family = family(Family::of(destination.addr()));
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.protocol = protocol.into();
    message.attributes.push(RouteAttribute::Table(route.table));
    if destination.prefix_len() > 0 {
        let address = RouteAttribute::Destination(destination.addr().into());
        message.attributes.push(address);
    }
    if route.metric > 0 {
        message
            .attributes
            .push(RouteAttribute::Priority(route.metric));
    }
    let via = route.via.map(|via| RouteAttribute::Gateway(via.into()));
    message.attributes.extend(via);
    message
}

pub(super) fn add_rule(rule: &Rule, protocol: u8) -> Request {
    let message = RouteNetlinkMessage::NewRule(rule_message(rule, protocol));
    request(message, NLM_F_CREATE | NLM_F_EXCL, &[EEXIST])
}

/// The kernel removes the first rule that is as the message says; our protocol number keeps it to
/// ours.
pub(super) fn remove_rule(rule: &Rule, protocol: u8) -> Request {
    remove_told_rule(rule_message(rule, protocol))
}

/// As the kernel itself tells a rule.
pub(super) fn remove_told_rule(message: RuleMessage) -> Request {
    request(RouteNetlinkMessage::DelRule(message), 0, &[ENOENT, ESRCH])
}

fn rule_message(rule: &Rule, protocol: u8) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.family);
    let mut attributes = vec![
        RuleAttribute::Protocol(protocol.into()),
        RuleAttribute::Priority(rule.priority),
    ];
    message.header.action = match rule.action {
        Action::Table(table) => {
            attributes.push(RuleAttribute::Table(table));
            RuleAction::ToTable
        }
        Action::Near(table) => {
            attributes.extend([
                RuleAttribute::Table(table),
                RuleAttribute::SuppressPrefixLen(0),
            ]);
            RuleAction::ToTable
        }
        Action::Goto(target) => {
            attributes.push(RuleAttribute::Goto(target));
            RuleAction::Goto
        }
        Action::Nop => RuleAction::Nop,
        Action::Other(action) => action.into(),
    };
    match rule.select {
        Select::All => {}
        Select::Mark { value, mask } => {
            attributes.extend([RuleAttribute::FwMark(value), RuleAttribute::FwMask(mask)]);
        }
        Select::From(address) => {
            message.header.src_len = match address {
                IpAddr::V4(_) => 32,
                IpAddr::V6(_) => 128,
            };
            attributes.push(RuleAttribute::Source(address));
        }
        Select::Answers { first, last } => {
            attributes.extend([
                RuleAttribute::IpProtocol(IpProtocol::Udp),
                RuleAttribute::SourcePortRange(RulePortRange {
                    start: first,
                    end: last,
                }),
            ]);
            if rule.family == Family::V4 {
                let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                message.header.src_len = 32;
                attributes.push(RuleAttribute::Source(none));
            }
        }
    }
    message.attributes = attributes;
    message
}

fn family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
