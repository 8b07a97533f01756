//! Super-packets taken apart.

use proptest::prelude::*;

use super::*;
use crate::offload::vnet::{
    GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_UDP_TUNNEL_IPV4, GSO_UDP_TUNNEL_IPV6, NEEDS_CSUM,
};

proptest! {
    #[test]
    fn segments_are_what_another_implementation_would_have_sent_one_by_one(
        packet in packets(9000), size in 1usize..2000, outer_v6 in any::<bool>(),
    ) {
        let size = size.max(packet.payload.len() / 40);
        let expected = packet.segments(size);
        let (vnet, frame) = packet.super_frame(size);
        prop_assert_eq!(&of_frame(&vnet, &frame).unwrap(), &expected);
        let (vnet, packet) = in_tunnel(vnet, &frame, outer_v6);
        prop_assert_eq!(&of_tunnel(&vnet, &packet).unwrap(), &expected);
    }

    #[test]
    fn an_open_checksum_is_finished_and_all_else_is_left_alone(
        packet in packets(3000), outer_v6 in any::<bool>(),
    ) {
        let complete = packet.frame();
        let (mut vnet, mut frame) = packet.super_frame(100);
        vnet.gso_type = 0;
        let transport = packet.transport();
        let length = frame.len() - transport;
        let addresses = if packet.v6 { 22..54 } else { 26..34 };
        let protocol = if packet.tcp { 6 } else { 17 };
        let pseudo = checksum::pseudo(&frame[addresses], protocol, length);
        let at = transport + usize::from(vnet.csum_offset);
        frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let mut expected = complete;
        if expected[at..at + 2] == [0, 0] {
            // The other way to write the same sum, see `Plan::Finish`.
            expected[at..at + 2].fill(0xff);
        }
        prop_assert_eq!(&of_frame(&vnet, &frame).unwrap(), &vec![expected.clone()]);
        let (vnet, packet) = in_tunnel(vnet, &frame, outer_v6);
        prop_assert_eq!(&of_tunnel(&vnet, &packet).unwrap(), &vec![expected]);
    }

    #[test]
    fn a_frame_that_needs_nothing_is_sent_as_it_is(
        frame in prop::collection::vec(any::<u8>(), 14..2000), outer_v6 in any::<bool>(),
    ) {
        let vnet = Vnet::default();
        prop_assert_eq!(&of_frame(&vnet, &frame).unwrap(), &vec![frame.clone()]);
        let (mut vnet, packet) = in_tunnel(vnet, &frame, outer_v6);
        prop_assert_eq!(&of_tunnel(&vnet, &packet).unwrap(), &vec![frame.clone()]);
        // The checksum of the outer UDP header is open.
        (vnet.flags, vnet.csum_start, vnet.csum_offset) = (NEEDS_CSUM, vnet.outer_th_offset, 6);
        prop_assert_eq!(&of_tunnel(&vnet, &packet).unwrap(), &vec![frame]);
    }
}

#[test]
fn a_super_packet_of_64_kib_fits() {
    let payload: Vec<u8> = (0..65_000_u32).map(|n| n as u8).collect();
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let packet = Packet::plain(v6, tcp, &payload);
        let (vnet, frame) = packet.super_frame(1356);
        let segments = of_frame(&vnet, &frame).unwrap();
        assert_eq!(segments.len(), 48);
        assert_eq!(segments, packet.segments(1356));
    }
}

#[test]
fn one_segment_is_as_the_rfcs_have_it() {
    // Two bytes of TCP, one in each segment, with CWR, FIN and PSH.
    let mut packet = Packet::plain(false, true, &[0xaa, 0xbb]);
    (packet.fin, packet.psh, packet.cwr) = (true, true, true);
    packet.options.clear();
    let (vnet, frame) = packet.super_frame(1);
    let segments = of_frame(&vnet, &frame).unwrap();
    assert_eq!(segments.len(), 2);
    // IP: length 41, identification 0xfffe and its successor, checksum.
    let first = [
        0x45, 0, 0, 41, 0xff, 0xfe, 0x40, 0, 64, 6, 0x26, 0x02, 10, 0, 0, 7, 10, 0, 0, 200,
    ];
    let mut second = first;
    (second[5], second[11]) = (0xff, 0x01);
    assert_eq!(segments[0][14..34], first);
    assert_eq!(segments[1][14..34], second);
    // TCP: sequence number, then flags CWR and ACK, then FIN, PSH and ACK.
    assert_eq!(segments[0][38..42], [0xff, 0xff, 0xff, 0x00]);
    assert_eq!(segments[1][38..42], [0xff, 0xff, 0xff, 0x01]);
    assert_eq!((segments[0][47], segments[1][47]), (0x90, 0x19));
    assert_eq!(
        (segments[0][54..].to_vec(), segments[1][54..].to_vec()),
        (vec![0xaa], vec![0xbb])
    );
}

#[test]
fn tagged_frames_and_ip_options_are_segmented() {
    let packet = Packet::plain(false, true, &[9; 1000]);
    let (vnet, frame) = packet.super_frame(400);
    let tag = |frame: &[u8]| [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    let expected: Vec<Vec<u8>> = packet.segments(400).iter().map(|f| tag(f)).collect();
    assert_eq!(of_frame(&vnet, &tag(&frame)), Ok(expected));

    // Four bytes of no operation.
    let optioned = |frame: &[u8]| {
        let mut frame = [&frame[..34], &[1, 1, 1, 1], &frame[34..]].concat();
        frame[14] = 0x46;
        let length = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[24..26].fill(0);
        let sum = !checksum::sum(&frame[14..38]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let expected: Vec<Vec<u8>> = packet.segments(400).iter().map(|f| optioned(f)).collect();
    assert_eq!(of_frame(&vnet, &optioned(&frame)), Ok(expected));
}

#[test]
fn what_cannot_be_segmented_is_refused_by_name() {
    let packet = Packet::plain(false, true, &[9; 1000]);
    let (good, frame) = packet.super_frame(400);
    let changed = |at: usize, value: u8| {
        let mut bytes = frame.clone();
        bytes[at] = value;
        of_frame(&good, &bytes).unwrap_err()
    };
    assert_eq!(changed(13, 6), Rejection::Unsegmentable, "no IP");
    assert_eq!(
        changed(20, 0x20),
        Rejection::Unsegmentable,
        "more fragments"
    );
    assert_eq!(changed(21, 1), Rejection::Unsegmentable, "a fragment");
    assert_eq!(changed(23, 132), Rejection::Unsegmentable, "SCTP");
    assert_eq!(
        changed(23, 17),
        Rejection::Unsegmentable,
        "UDP of another length"
    );
    assert_eq!(changed(17, 0), Rejection::Unsegmentable, "another length");
    assert_eq!(
        changed(46, 0x40),
        Rejection::Unsegmentable,
        "TCP header too short"
    );
    let offload = |change: &dyn Fn(&mut Vnet)| {
        let mut vnet = good;
        change(&mut vnet);
        of_frame(&vnet, &frame).unwrap_err()
    };
    assert_eq!(offload(&|v| v.gso_size = 0), Rejection::BadOffload);
    for kind in [
        2,
        3,
        6,
        0x10,
        0x7f,
        GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4,
        GSO_TCPV4 | GSO_UDP_TUNNEL_IPV6,
        GSO_UDP_TUNNEL_IPV4,
        GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6,
    ] {
        assert_eq!(
            offload(&|v| v.gso_type = kind),
            Rejection::BadOffload,
            "{kind:#x}"
        );
    }
    for kind in [GSO_TCPV6, GSO_UDP_L4, GSO_TCPV6 | GSO_ECN] {
        assert_eq!(
            offload(&|v| v.gso_type = kind),
            Rejection::Unsegmentable,
            "{kind:#x}"
        );
    }
    // In a tunnel, one without tunnel segmentation is of the outer header.
    let (vnet, wrapped) = in_tunnel(good, &frame, false);
    assert!(of_tunnel(&vnet, &wrapped).is_ok());
    for kind in [
        GSO_TCPV4,
        GSO_UDP_L4,
        GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6,
    ] {
        let vnet = Vnet {
            gso_type: kind,
            ..vnet
        };
        assert_eq!(
            of_tunnel(&vnet, &wrapped),
            Err(Rejection::BadOffload),
            "{kind:#x}"
        );
    }
}

#[test]
fn segments_without_number_and_frames_too_long_or_short_are_refused() {
    let packet = Packet::plain(true, true, &[9; MAX_SEGMENTS + 1]);
    let (vnet, frame) = packet.super_frame(1);
    assert_eq!(of_frame(&vnet, &frame), Err(Rejection::TooManySegments));
    let packet = Packet::plain(true, true, &[9; MAX_SEGMENTS]);
    let (vnet, frame) = packet.super_frame(1);
    assert_eq!(
        of_frame(&vnet, &frame).map(|all| all.len()),
        Ok(MAX_SEGMENTS)
    );
    let none = Vnet::default();
    for length in 0..14 {
        assert_eq!(
            of_frame(&none, &[0; 14][..length]),
            Err(Rejection::BadLength)
        );
    }
    assert!(of_frame(&none, &[0; 65_535 - HEADERS]).is_ok());
    assert_eq!(
        of_frame(&none, &[0; 65_536 - HEADERS]),
        Err(Rejection::TooLong)
    );
    let outside = Segments::new(&none, inner(), &[0; 100], 50..101);
    assert_eq!(outside.map(|s| s.count()), Err(Rejection::BadLength));
}

#[test]
fn a_checksum_outside_the_frame_is_refused() {
    let frame = [0; 60];
    for (start, offset, fine) in [
        (0, 0, true),
        (34, 16, true),
        (34, 24, true),
        (34, 25, false),
        (59, 0, false),
        (60, 0, false),
        (u16::MAX, u16::MAX, false),
        (0, u16::MAX, false),
    ] {
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            csum_start: start,
            csum_offset: offset,
            ..Vnet::default()
        };
        let expected = (!fine).then_some(Rejection::BadChecksumOffset);
        assert_eq!(of_frame(&vnet, &frame).err(), expected, "{start} {offset}");
        // In a tunnel, offsets count from the start of the packet, and before the frame only UDP
        // may be meant.
        let (mut vnet, packet) = in_tunnel(
            Vnet {
                csum_start: 0,
                ..vnet
            },
            &frame,
            false,
        );
        vnet.csum_start = start.saturating_add(50);
        assert_eq!(
            of_tunnel(&vnet, &packet).err(),
            expected,
            "{start} {offset}"
        );
        vnet.csum_start = 33;
        assert_eq!(of_tunnel(&vnet, &packet), Err(Rejection::BadChecksumOffset));
    }
}
