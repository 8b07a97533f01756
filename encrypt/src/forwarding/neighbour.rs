//! Answers to neighbour solicitations (RFC 4861 section 7.2).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use super::{ANSWER, ETHERNET, Mac, Question};
use crate::offload::checksum;

const IPV6: usize = 40;
const ICMPV6: u8 = 58;
/// Type, code, checksum, reserved, target.
const SOLICITATION: usize = 24;
const TYPE_SOLICITATION: u8 = 135;
const TYPE_ADVERTISEMENT: u8 = 136;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Bytes of an option with a MAC address.
const OPTION: usize = 8;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// All nodes on the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// A neighbour solicitation that is valid (RFC 4861 section 7.1.1).
struct Solicitation {
    /// Who asks; unspecified to find out whether an address is in use (RFC 4862 section 5.4).
    source: Ipv6Addr,
    target: Ipv6Addr,
    /// Where the answer goes.
    mac: Mac,
}

/// The answer to a frame of type IPv6.
pub(super) fn answer(
    frame: &[u8],
    neighbours: &BTreeMap<IpAddr, Mac>,
    out: &mut [u8; ANSWER],
) -> Question {
    // Extension headers are not looked behind: nobody sends them here, and what has them is
    // forwarded like any other packet.
    let is_question = frame.get(ETHERNET + 6) == Some(&ICMPV6)
        && frame.get(ETHERNET + IPV6) == Some(&TYPE_SOLICITATION);
    if !is_question {
        return Question::None;
    }
    let Some(solicitation) = Solicitation::parse(frame) else {
        return Question::Unknown;
    };
    let Some(mac) = neighbours.get(&IpAddr::from(solicitation.target)) else {
        return Question::Unknown;
    };
    solicitation.advertise(mac, out);
    Question::Answered(ANSWER)
}

impl Solicitation {
    fn parse(frame: &[u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_first_chunk::<ETHERNET>()?;
        let (header, payload) = packet.split_first_chunk::<IPV6>()?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // Bytes behind it are Ethernet padding.
        let message = payload.get(..length)?;
        let (fixed, options) = message.split_first_chunk::<SOLICITATION>()?;
        let (addresses, target) = (&header[8..], fixed.last_chunk::<16>()?);
        let target = Ipv6Addr::from(*target);
        let source = Ipv6Addr::from(*addresses.first_chunk::<16>()?);
        let destination = Ipv6Addr::from(*addresses.last_chunk::<16>()?);
        let pseudo = checksum::pseudo(addresses, ICMPV6, message.len());
        let sum = checksum::add(pseudo, checksum::sum(message));
        let (hop_limit, code) = (header[7], fixed[1]);
        if hop_limit != 255 || code != 0 || !checksum::is_right(sum) || target.is_multicast() {
            return None;
        }
        let option = source_option(options)?;
        if source.is_unspecified() && (option.is_some() || !is_solicited_node(destination)) {
            return None;
        }
        let sender = ethernet.get(6..12)?.first_chunk::<6>()?;
        Some(Self {
            source,
            target,
            mac: option.unwrap_or(*sender),
        })
    }

    /// RFC 4861 section 7.2.4.
    fn advertise(&self, mac: &Mac, out: &mut [u8; ANSWER]) {
        let (destination, to, flags) = if self.source.is_unspecified() {
            (ALL_NODES, ALL_NODES_MAC, OVERRIDE)
        } else {
            (self.source, self.mac, SOLICITED | OVERRIDE)
        };
        out.fill(0);
        out[..6].copy_from_slice(&to);
        out[6..12].copy_from_slice(mac);
        out[12..14].copy_from_slice(&[0x86, 0xdd]);
        let (header, message) = out[ETHERNET..].split_at_mut(IPV6);
        header[0] = 0x60;
        header[5] = message.len().to_le_bytes()[0];
        (header[6], header[7]) = (ICMPV6, 255);
        header[8..24].copy_from_slice(&self.target.octets());
        header[24..].copy_from_slice(&destination.octets());
        (message[0], message[4]) = (TYPE_ADVERTISEMENT, flags);
        message[8..24].copy_from_slice(&self.target.octets());
        message[24..26].copy_from_slice(&[OPTION_TARGET, 1]);
        message[26..].copy_from_slice(mac);
        let pseudo = checksum::pseudo(&header[8..], ICMPV6, message.len());
        let sum = checksum::add(pseudo, checksum::sum(message));
        message[2..4].copy_from_slice(&(!sum).to_be_bytes());
    }
}

/// The MAC address in the source link-layer address option, if there is one; nothing if the options
/// are malformed (RFC 4861 section 4.6).
fn source_option(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut found = None;
    while let Some([kind, units, ..]) = options.first_chunk::<2>() {
        let length = usize::from(*units) * 8;
        let (option, rest) = options.split_at_checked(length)?;
        if length == 0 {
            return None;
        }
        if *kind == OPTION_SOURCE && length == OPTION {
            found = option.last_chunk::<6>().copied();
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

/// Whether it is a solicited-node address (RFC 4291 section 2.7.1).
fn is_solicited_node(address: Ipv6Addr) -> bool {
    let prefix = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
    address.octets().starts_with(&prefix)
}
