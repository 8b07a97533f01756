//! Decisions, answers and marks.

use std::net::Ipv6Addr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::ecn::{Congested, decapsulate, outer};
use super::*;
use crate::offload::checksum;
use crate::offload::test_frames::{Packet, packets};

const ASKER: Mac = [2, 0, 0, 0, 0, 0x11];
const WEB: Mac = [2, 0, 0, 0, 0, 0x22];
const END: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
const WEB6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);
const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const SOLICITED_NODE: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 7);

fn table(flood: &[IpAddr]) -> Table {
    let remote = RemoteSpec {
        addresses: vec!["10.0.0.7".parse().unwrap(), WEB6.into()],
        vtep: END,
    };
    Table::new(
        &BTreeMap::from([(WEB, remote)]),
        &flood.iter().copied().collect(),
    )
    .unwrap()
}

fn decide(table: &Table, frame: &[u8]) -> (String, Vec<u8>) {
    let mut answer = [0xee; ANSWER];
    let decision = table.decide(frame, &mut answer);
    let length = match decision {
        Decision::Answer(length) => length,
        _ => 0,
    };
    (format!("{decision:?}"), answer[..length].to_vec())
}

fn arp(operation: u8, target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], ASKER].concat();
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(ASKER);
    frame.extend([10, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    frame.extend(target);
    frame
}

/// A neighbour solicitation with these options.
fn solicitation(source: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend(options);
    let mut header = vec![0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    header.extend(source.octets());
    header.extend(to.octets());
    let pseudo = checksum::pseudo(&header[8..], 58, message.len());
    let sum = !checksum::add(pseudo, checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let ethernet = [0x33, 0x33, 0xff, 0, 0, 7, 2, 0, 0, 0, 0, 0x11, 0x86, 0xdd];
    [&ethernet, header.as_slice(), &message].concat()
}

#[test]
fn an_arp_request_is_answered_as_the_rfc_has_it() {
    let (decision, answer) = decide(&table(&[]), &arp(1, [10, 0, 0, 7]));
    assert_eq!(decision, "Answer(42)");
    assert_eq!(
        answer[..14],
        [ASKER.as_slice(), &WEB, &[0x08, 0x06]].concat()
    );
    let parsed = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(NetSlice::Arp(reply)) = parsed.net else {
        panic!("{:?}", parsed.net);
    };
    assert_eq!(reply.operation(), etherparse::ArpOperation::REPLY);
    assert_eq!(
        (reply.sender_hw_addr(), reply.sender_protocol_addr()),
        (&WEB[..], &[10, 0, 0, 7][..])
    );
    assert_eq!(
        (reply.target_hw_addr(), reply.target_protocol_addr()),
        (&ASKER[..], &[10, 0, 0, 1][..])
    );
    // Padded to the least length of Ethernet, it is the same.
    let padded = [arp(1, [10, 0, 0, 7]), vec![0; 18]].concat();
    assert_eq!(decide(&table(&[]), &padded).1, answer);
}

#[test]
fn arp_that_cannot_be_answered_is_not_sent_on() {
    let flooding = table(&[END]);
    let unknown = "Drop(UnknownNeighbour)";
    assert_eq!(decide(&flooding, &arp(1, [10, 0, 0, 8])).0, unknown);
    let request = arp(1, [10, 0, 0, 7]);
    for length in 14..request.len() {
        assert_eq!(decide(&flooding, &request[..length]).0, unknown);
    }
    // A reply goes to whom it is for.
    let mut reply = arp(2, [10, 0, 0, 7]);
    reply[..6].copy_from_slice(&WEB);
    assert_eq!(decide(&flooding, &reply).0, "To(192.0.2.2)");
}

#[test]
fn a_solicitation_is_answered_as_the_rfc_has_it() {
    let other = [2, 0, 0, 0, 0, 0x33];
    let option = [&[1, 1], other.as_slice()].concat();
    let unknown_option = [253, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (source, options, to, destination, flags) in [
        (ASKER6, vec![], ASKER, ASKER6, 0x60),
        (ASKER6, option.clone(), other, ASKER6, 0x60),
        (
            ASKER6,
            [&unknown_option, option.as_slice()].concat(),
            other,
            ASKER6,
            0x60,
        ),
        (
            Ipv6Addr::UNSPECIFIED,
            vec![],
            [0x33, 0x33, 0, 0, 0, 1],
            "ff02::1".parse().unwrap(),
            0x20,
        ),
    ] {
        let question = solicitation(source, SOLICITED_NODE, WEB6, &options);
        let (decision, answer) = decide(&table(&[]), &question);
        assert_eq!(decision, "Answer(86)", "{source} {options:?}");
        assert_eq!(answer[..12], [to, WEB].concat());
        let parsed = SlicedPacket::from_ethernet(&answer).unwrap();
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) =
            (parsed.net, parsed.transport)
        else {
            panic!("no ICMPv6");
        };
        let header = ip.header();
        assert_eq!(
            (header.source_addr(), header.destination_addr()),
            (WEB6, destination)
        );
        assert_eq!(header.hop_limit(), 255);
        assert!(icmp.is_checksum_valid(header.source(), header.destination()));
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (136, 0));
        let expected = [&[flags, 0, 0, 0], WEB6.octets().as_slice(), &[2, 1], &WEB].concat();
        assert_eq!(icmp.slice()[4..], expected);
    }
}

#[test]
fn solicitations_that_are_not_valid_are_not_answered() {
    let good = solicitation(ASKER6, SOLICITED_NODE, WEB6, &[]);
    let flooding = table(&[END]);
    assert_eq!(decide(&flooding, &good).0, "Answer(86)");
    for (what, at) in [
        ("hop limit", 21),
        ("code", 55),
        ("checksum", 57),
        ("target", 77),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert_eq!(
            decide(&flooding, &bad).0,
            "Drop(UnknownNeighbour)",
            "{what}"
        );
    }
    for length in 55..good.len() {
        assert_eq!(
            decide(&flooding, &good[..length]).0,
            "Drop(UnknownNeighbour)"
        );
    }
    let unspecified = Ipv6Addr::UNSPECIFIED;
    for (what, source, to, target, options) in [
        (
            "multicast target",
            ASKER6,
            SOLICITED_NODE,
            SOLICITED_NODE,
            vec![],
        ),
        ("nobody's address", ASKER6, SOLICITED_NODE, ASKER6, vec![]),
        (
            "detection, not to the group",
            unspecified,
            WEB6,
            WEB6,
            vec![],
        ),
        (
            "detection with an option",
            unspecified,
            SOLICITED_NODE,
            WEB6,
            vec![1, 1, 2, 0, 0, 0, 0, 1],
        ),
        (
            "option without length",
            ASKER6,
            SOLICITED_NODE,
            WEB6,
            vec![1, 0, 2, 0, 0, 0, 0, 1],
        ),
        (
            "option too long",
            ASKER6,
            SOLICITED_NODE,
            WEB6,
            vec![1, 2, 2, 0, 0, 0, 0, 1],
        ),
        ("half an option", ASKER6, SOLICITED_NODE, WEB6, vec![1]),
    ] {
        let question = solicitation(source, to, target, &options);
        assert_eq!(
            decide(&flooding, &question).0,
            "Drop(UnknownNeighbour)",
            "{what}"
        );
    }
    // A router solicitation is no question of this kind.
    let mut router = good;
    router[54] = 133;
    assert_eq!(decide(&flooding, &router).0, "Flood([192.0.2.2])");
    assert_eq!(decide(&table(&[]), &router).0, "Drop(NotFlooded)");
}

#[test]
fn frames_go_where_their_address_is_and_nowhere_else() {
    let frame = |to: Mac| [to.as_slice(), &ASKER, &[0x08, 0], &[0; 46]].concat();
    let (quiet, flooding) = (table(&[]), table(&["192.0.2.9".parse().unwrap(), END]));
    assert_eq!(decide(&quiet, &frame(WEB)).0, "To(192.0.2.2)");
    assert_eq!(decide(&flooding, &frame(WEB)).0, "To(192.0.2.2)");
    assert_eq!(
        decide(&flooding, &frame(ASKER)).0,
        "Drop(UnknownDestination)"
    );
    assert_eq!(decide(&quiet, &frame([0xff; 6])).0, "Drop(NotFlooded)");
    assert_eq!(
        decide(&flooding, &frame([0xff; 6])).0,
        "Flood([192.0.2.2, 192.0.2.9])"
    );
    assert_eq!(
        decide(&flooding, &frame([1, 0, 0x5e, 0, 0, 5])).0,
        "Flood([192.0.2.2, 192.0.2.9])"
    );
    for length in 0..14 {
        assert_eq!(decide(&flooding, &frame(WEB)[..length]).0, "Drop(Short)");
    }
}

#[test]
fn tables_that_cannot_be_are_refused() {
    let make = |mac: Mac, addresses: Vec<IpAddr>| {
        let remote = RemoteSpec {
            addresses,
            vtep: END,
        };
        Table::new(&BTreeMap::from([(mac, remote)]), &BTreeSet::new()).err()
    };
    assert_eq!(
        make([3, 0, 0, 0, 0, 1], vec![]),
        Some(TableError::NotUnicast([3, 0, 0, 0, 0, 1]))
    );
    assert_eq!(make([0; 6], vec![]), Some(TableError::NotUnicast([0; 6])));
    assert_eq!(make(WEB, vec![END; MAX_ADDRESSES]), None);
    assert_eq!(
        make(WEB, vec![END; MAX_ADDRESSES + 1]),
        Some(TableError::TooLarge)
    );
    let remote = RemoteSpec {
        addresses: vec![END],
        vtep: END,
    };
    let twice = BTreeMap::from([(WEB, remote.clone()), (ASKER, remote.clone())]);
    assert_eq!(
        Table::new(&twice, &BTreeSet::new()),
        Err(TableError::Twice(END))
    );
    let mac = |n: usize| [2, 0, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8];
    let none = RemoteSpec {
        addresses: vec![],
        ..remote
    };
    let many = (0..=MAX_REMOTES).map(|n| (mac(n), none.clone())).collect();
    assert_eq!(
        Table::new(&many, &BTreeSet::new()),
        Err(TableError::TooLarge)
    );
}

#[test]
fn marks_go_through_the_tunnel_as_the_rfc_has_it() {
    // RFC 6040 figure 4, inner mark by row, outer by column: not-ECT, ECT(0), ECT(1), CE.
    let table = [
        (0, [Ok(0), Ok(0), Ok(0), Err(Congested)]),
        (2, [Ok(2), Ok(2), Ok(1), Ok(3)]),
        (1, [Ok(1), Ok(1), Ok(1), Ok(3)]),
        (3, [Ok(3), Ok(3), Ok(3), Ok(3)]),
    ];
    for v6 in [false, true] {
        for (inner, row) in table {
            for (tos, expected) in [0b1000, 0b1010, 0b1001, 0b1011].into_iter().zip(row) {
                let packet = |mark: u8| {
                    let plain = Packet::plain(v6, true, &[1; 20]);
                    Packet {
                        tos: 0xb0 | mark,
                        ..plain
                    }
                    .frame()
                };
                let mut frame = packet(inner);
                assert_eq!(outer(&frame), inner);
                let result = decapsulate(&mut frame, tos);
                assert_eq!(result, expected.map(|_| ()), "{v6} {inner} {tos}");
                assert_eq!(
                    frame,
                    packet(expected.unwrap_or(inner)),
                    "{v6} {inner} {tos}"
                );
            }
        }
    }
    let mut arp = arp(1, [10, 0, 0, 7]);
    let before = arp.clone();
    assert_eq!((outer(&arp), decapsulate(&mut arp, 3)), (0, Ok(())));
    assert_eq!(arp, before);
}

proptest! {
    #[test]
    fn a_header_checksum_that_is_wrong_stays_wrong(mut packet in packets(20), wrong in 1u16..0xffff) {
        (packet.v6, packet.tos) = (false, packet.tos & !3 | 2);
        let mut frame = packet.frame();
        let sum = checksum::add(u16::from_be_bytes([frame[24], frame[25]]), wrong);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let is_right = |frame: &[u8]| checksum::is_right(checksum::sum(&frame[14..34]));
        prop_assert!(!is_right(&frame));
        decapsulate(&mut frame, 3).unwrap();
        prop_assert!(!is_right(&frame));
        prop_assert_eq!(frame[15] & 3, 3);
    }

    #[test]
    fn a_flow_has_one_source_port(packet in packets(3000), size in 100usize..1000) {
        let frames = packet.segments(size);
        let port = source_port(&packet.super_frame(size).1);
        prop_assert!(port >= 49_152);
        prop_assert!(frames.iter().all(|frame| source_port(frame) == port));
    }

    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120), kind in 0usize..4,
    ) {
        let kinds = [[0x08, 0x06], [0x86, 0xdd], [0x08, 0], [0x81, 0]];
        if let Some(to) = bytes.get_mut(12..14) {
            to.copy_from_slice(&kinds[kind]);
        }
        let _ = decide(&table(&[END]), &bytes);
        let _ = (outer(&bytes), decapsulate(&mut bytes, 3), source_port(&bytes));
    }

    #[test]
    fn damaged_questions_do_not_make_it_panic(
        solicits in any::<bool>(), options in prop::collection::vec(any::<u8>(), 0..40),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut frame = if solicits {
            solicitation(ASKER6, SOLICITED_NODE, WEB6, &options)
        } else {
            arp(1, [10, 0, 0, 7])
        };
        for (at, value) in damage {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        let _ = decide(&table(&[END]), &frame);
        let length = cut.index(frame.len());
        let _ = decide(&table(&[END]), &frame[..length]);
    }
}

#[test]
fn ports_are_spread() {
    let ports: BTreeSet<u16> = (0..2000)
        .map(|n| Packet {
            source: n,
            ..Packet::plain(n % 2 == 0, true, &[1])
        })
        .map(|packet| source_port(&packet.frame()))
        .collect();
    assert!(ports.len() > 1800, "{}", ports.len());
}
