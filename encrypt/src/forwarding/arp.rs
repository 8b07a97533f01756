//! Answers to ARP requests (RFC 826).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::{ANSWER, ETHERNET, Mac, Question};

const LENGTH: usize = 28;
/// Hardware type Ethernet, protocol type IPv4, their lengths, request.
const REQUEST: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 1];
const REPLY: [u8; 8] = [0, 1, 0x08, 0, 6, 4, 0, 2];

/// The answer to what follows an Ethernet header of type ARP. Replies are no questions.
pub(super) fn answer(
    payload: &[u8],
    neighbours: &BTreeMap<IpAddr, Mac>,
    out: &mut [u8; ANSWER],
) -> Question {
    let Some(packet) = payload.first_chunk::<LENGTH>() else {
        return Question::Unknown;
    };
    let (operation, rest) = packet.split_at(REQUEST.len());
    if operation != REQUEST {
        return Question::None;
    }
    // Of sender and target, hardware address before protocol address.
    let (sender, target) = rest.split_at(10);
    let Some(asked) = target.last_chunk::<4>() else {
        return Question::Unknown;
    };
    let Some(mac) = neighbours.get(&IpAddr::from(Ipv4Addr::from(*asked))) else {
        return Question::Unknown;
    };
    let hardware = &sender[..6];
    out[..6].copy_from_slice(hardware);
    out[6..12].copy_from_slice(mac);
    out[12..14].copy_from_slice(&[0x08, 0x06]);
    out[14..22].copy_from_slice(&REPLY);
    out[22..28].copy_from_slice(mac);
    out[28..32].copy_from_slice(asked);
    out[32..42].copy_from_slice(sender);
    Question::Answered(ETHERNET + LENGTH)
}
