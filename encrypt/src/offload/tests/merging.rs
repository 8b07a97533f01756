//! Received frames put together.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::offload::vnet::{DATA_VALID, GSO_TCPV4, GSO_UDP_TUNNEL_IPV4, NEEDS_CSUM};

/// What is changed, and how.
type Change<T> = (&'static str, fn(&mut T));

fn forms() -> [Config; 4] {
    [
        tunnel(false),
        tunnel(true),
        bridge_port(Layout::Basic),
        bridge_port(Layout::Buffers),
    ]
}

/// How many frames each write has.
fn counts(config: Config, frames: &[Vec<u8>]) -> Vec<usize> {
    let written = coalesce(&mut Coalescer::new(config), frames);
    let apart: Vec<_> = written
        .iter()
        .flat_map(|(_, b)| taken_apart(&config, b))
        .collect();
    assert_eq!(apart.len(), frames.len());
    for (count, bytes) in &written {
        assert_eq!(taken_apart(&config, bytes).len(), *count);
    }
    written.into_iter().map(|(count, _)| count).collect()
}

/// TCP segments of 100 bytes, as a sender with segmentation makes them.
fn stream(segments: usize) -> Vec<Vec<u8>> {
    Packet::plain(false, true, &vec![0x5a; segments * 100]).segments(100)
}

/// The packet changed, as the continuation of `stream(3)`.
fn after(change: impl Fn(&mut Packet)) -> Vec<usize> {
    let mut frames = stream(3);
    let mut next = Packet::plain(false, true, &[1; 100]);
    next.sequence = next.sequence.wrapping_add(300);
    next.id = next.id.wrapping_add(3);
    change(&mut next);
    frames.push(next.frame());
    counts(tunnel(false), &frames)
}

proptest! {
    #[test]
    fn segments_of_a_flow_become_one_packet_and_the_same_segments_again(
        mut packet in packets(9000), size in 100usize..2000, form in 0usize..4,
    ) {
        (packet.fin, packet.cwr) = (false, false);
        let size = size.max(packet.payload.len() / 40);
        let frames = packet.segments(size);
        let mut coalescer = Coalescer::new(forms()[form]);
        for _ in 0..2 {
            let written = coalesce(&mut coalescer, &frames);
            prop_assert_eq!(written.len(), 1);
            prop_assert_eq!(written[0].0, frames.len());
            prop_assert_eq!(&taken_apart(&forms()[form], &written[0].1), &frames);
        }
    }

    #[test]
    fn of_any_batch_every_frame_comes_out_as_it_was_and_flows_keep_their_order(
        flows in prop::collection::vec((packets(3000), 50usize..700), 1..6),
        picks in prop::collection::vec((any::<prop::sample::Index>(), 0u8..40, any::<u16>()), 1..60),
        form in 0usize..4,
    ) {
        // Every flow has addresses of its own; frames are taken from them in turn, some damaged.
        let mut queues: Vec<_> = (1u8..).zip(flows).map(|(host, (mut packet, size))| {
            packet.host = host;
            packet.segments(size).into_iter().cycle()
        }).collect();
        let mut frames = Vec::new();
        for (index, damage, at) in picks {
            let count = queues.len();
            let mut frame = queues[index.index(count)].next().unwrap();
            // Not what says which flow it is of: type, version, protocol, addresses, ports.
            let flow = if frame[14] >> 4 == 6 { 20..58 } else { 23..38 };
            let at = usize::from(at) % frame.len().min(140);
            if damage < 4 && !(12..15).contains(&at) && !flow.contains(&at) {
                frame[at] ^= 1 << (damage * 2);
            }
            frames.push(frame);
        }
        let config = forms()[form];
        let written = coalesce(&mut Coalescer::new(config), &frames);
        let mut out = Vec::new();
        for (count, bytes) in &written {
            let apart = taken_apart(&config, bytes);
            prop_assert_eq!(apart.len(), *count);
            out.extend(apart);
        }
        prop_assert_eq!(by_flow(&out), by_flow(&frames));
    }
}

/// Frames by what distinguishes the flows above, in order. The identification of IPv4 packets that
/// must not be fragmented may change.
fn by_flow(frames: &[Vec<u8>]) -> BTreeMap<(bool, u8), Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for frame in frames {
        let is_v6 = frame[20..30].iter().filter(|byte| **byte == 0xfd).count() > 5;
        let host = frame[if is_v6 { 37 } else { 29 }];
        let mut frame = frame.clone();
        if !is_v6 && frame[20] & 0x40 != 0 {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
        }
        flows.entry((is_v6, host)).or_default().push(frame);
    }
    flows
}

#[test]
fn a_merged_packet_is_laid_out_as_the_kernel_wants_it() {
    let frames = stream(3);
    let written = coalesce(&mut Coalescer::new(tunnel(false)), &frames);
    let [(3, bytes)] = written.as_slice() else {
        panic!("{} packets", written.len());
    };
    let (vnet, packet) = Vnet::parse(bytes, Layout::Tunnel).unwrap();
    let expected = Vnet {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4,
        hdr_len: 50 + 14 + 20 + 32,
        gso_size: 100,
        csum_start: 84,
        csum_offset: 16,
        num_buffers: 0,
        outer_th_offset: 34,
        inner_nh_offset: 64,
    };
    assert_eq!(vnet, expected);
    // Outer IP, outer UDP and inner IP have the length of the whole.
    assert_eq!(packet.len(), 50 + 14 + 20 + 32 + 300);
    assert_eq!(packet[16..18], 402_u16.to_be_bytes());
    assert_eq!(packet[38..40], 382_u16.to_be_bytes());
    assert_eq!(packet[40..42], [0, 0]);
    assert_eq!(packet[66..68], 352_u16.to_be_bytes());
    // 10.0.0.7 + 10.0.0.200 + 6 + 332, not complemented.
    assert_eq!(
        packet[100..102],
        (0x1400_u16 + 7 + 200 + 6 + 332).to_be_bytes()
    );
    let parsed = etherparse::SlicedPacket::from_ethernet(&packet[50..]).unwrap();
    let Some(etherparse::NetSlice::Ipv4(ip)) = parsed.net else {
        panic!("{:?}", parsed.net);
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
}

#[test]
fn on_a_bridge_port_offsets_count_from_the_frame() {
    let mut coalescer = Coalescer::new(bridge_port(Layout::Basic));
    let written = coalesce(&mut coalescer, &stream(2));
    let (vnet, frame) = Vnet::parse(&written[0].1, Layout::Basic).unwrap();
    assert_eq!((vnet.gso_type, vnet.csum_start), (GSO_TCPV4, 34));
    assert_eq!(usize::from(vnet.hdr_len) + 200, frame.len());
    let written = coalesce(&mut coalescer, &stream(1));
    let (vnet, _) = Vnet::parse(&written[0].1, Layout::Basic).unwrap();
    let expected = Vnet {
        flags: DATA_VALID,
        ..Vnet::default()
    };
    assert_eq!(vnet, expected);
}

#[test]
fn only_what_segmentation_gives_back_is_merged() {
    assert_eq!(after(|_| {}), [4]);
    assert_eq!(after(|p| p.psh = true), [4]);
    assert_eq!(after(|p| p.payload.truncate(1)), [4]);
    let changes: [Change<Packet>; 12] = [
        ("longer", |p| p.payload.push(0)),
        ("a pure acknowledgment", |p| p.payload.clear()),
        ("lost", |p| p.sequence += 1),
        ("again", |p| p.sequence = p.sequence.wrapping_sub(100)),
        ("acknowledgment", |p| p.acknowledgment += 1),
        ("window", |p| p.window += 1),
        ("type of service", |p| p.tos = 2),
        ("time to live", |p| p.ttl = 63),
        ("identification", |p| p.id += 1),
        ("options", |p| p.options[11] ^= 1),
        ("fewer options", |p| p.options.clear()),
        ("may be fragmented", |p| p.may_fragment = true),
    ];
    for (what, change) in changes {
        assert_eq!(after(change), [3, 1], "{what}");
    }
    assert_eq!(after(|p| p.fin = true), [3, 1]);
    assert_eq!(after(|p| p.cwr = true), [3, 1]);
    assert_eq!(after(|p| p.source += 1), [3, 1]);
}

#[test]
fn what_is_sealed_by_another_peer_or_in_another_network_is_not_merged() {
    let frames = stream(2);
    let first = Arrival {
        peer: PEER4,
        tos: 0,
        inner: inner(),
        buffer: 0,
        frame: 0..frames[0].len(),
    };
    let changes: [Change<Arrival>; 4] = [
        ("peer", |a| a.peer = "192.0.2.3".parse().unwrap()),
        ("ECN", |a| a.tos = 3),
        ("source port", |a| a.inner.source += 1),
        ("network", |a| {
            a.inner.vni = crate::inner::Vni::new(1).unwrap()
        }),
    ];
    for (what, change) in changes {
        let mut coalescer = Coalescer::new(tunnel(false));
        coalescer.push(first.clone(), &frames[0]).unwrap();
        let mut second = Arrival {
            buffer: 1,
            ..first.clone()
        };
        change(&mut second);
        coalescer.push(second, &frames[1]).unwrap();
        assert_eq!(flush(&mut coalescer, &frames).len(), 2, "{what}");
    }
}

#[test]
fn nothing_overtakes_a_frame_of_its_flow() {
    let all = stream(4);
    let mut pure = Packet::plain(false, true, &[]);
    pure.sequence = pure.sequence.wrapping_add(200);
    let mut damaged = all[1].clone();
    *damaged.last_mut().unwrap() ^= 1;
    let mut fragment = all[1].clone();
    fragment[21] = 9;
    for (what, between) in [
        ("ack", pure.frame()),
        ("damaged", damaged),
        ("fragment", fragment),
    ] {
        let frames = [
            all[0].clone(),
            all[1].clone(),
            between,
            all[2].clone(),
            all[3].clone(),
        ];
        assert_eq!(counts(tunnel(false), &frames), [2, 1, 2], "{what}");
    }
    // Another flow's frames, and those of no flow, may be overtaken.
    let mut icmp = all[1].clone();
    icmp[23] = 1;
    let other = Packet { host: 9, ..pure };
    for between in [icmp, other.frame(), vec![0xff; 60]] {
        let frames = [
            all[0].clone(),
            all[1].clone(),
            between,
            all[2].clone(),
            all[3].clone(),
        ];
        assert_eq!(counts(tunnel(false), &frames), [4, 1]);
    }
}

#[test]
fn a_short_or_pushed_segment_is_the_last_one() {
    let mut packet = Packet::plain(false, true, &[1; 250]);
    let mut frames = packet.segments(100);
    packet.sequence = packet.sequence.wrapping_add(250);
    packet.id = packet.id.wrapping_add(3);
    packet.psh = true;
    packet.payload.truncate(100);
    frames.push(packet.frame());
    packet.sequence = packet.sequence.wrapping_add(100);
    packet.id = packet.id.wrapping_add(1);
    frames.extend(packet.segments(50));
    assert_eq!(counts(tunnel(false), &frames), [3, 1, 2]);
}

#[test]
fn damage_is_not_covered_up() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let good = Packet::plain(v6, tcp, &[0x5a; 300]).segments(100);
        for damaged in 0..3 {
            let mut frames = good.clone();
            *frames[damaged].last_mut().unwrap() ^= 0x10;
            let config = tunnel(v6);
            let written = coalesce(&mut Coalescer::new(config), &frames);
            let out: Vec<_> = written
                .iter()
                .flat_map(|(_, b)| taken_apart(&config, b))
                .collect();
            assert_eq!(out, frames);
            // It went out alone, as it came.
            assert!(
                written
                    .iter()
                    .any(|(n, b)| *n == 1 && b.ends_with(&frames[damaged]))
            );
        }
    }
}

#[test]
fn datagrams_without_checksum_and_empty_ones_are_not_merged() {
    let mut frames = Packet::plain(false, false, &[1; 300]).segments(100);
    assert_eq!(counts(tunnel(false), &frames), [3]);
    frames[1][40..42].fill(0);
    assert_eq!(counts(tunnel(false), &frames), [1, 1, 1]);
    let empty = vec![Packet::plain(false, false, &[]).frame(); 3];
    assert_eq!(counts(tunnel(false), &empty), [1, 1, 1]);
}

#[test]
fn the_other_way_to_write_a_checksum_of_zero_is_kept() {
    // Of TCP in the second frame, then of IPv4.
    let mut frames = Packet::plain(false, true, &[1; 300]).segments(100);
    let urgent = 52;
    let sum = checksum::sum(&frames[1][50..52]);
    for frame in &mut frames {
        // So that the checksum of the second is zero; those of the others follow.
        frame[urgent..urgent + 2].copy_from_slice(&sum.to_be_bytes());
        let others = checksum::add(checksum::sum(&frame[50..52]), !sum);
        frame[50..52].copy_from_slice(&others.to_be_bytes());
    }
    frames[1][50..52].fill(0);
    assert_eq!(counts(tunnel(false), &frames), [3]);
    frames[1][50..52].fill(0xff);
    assert_eq!(counts(tunnel(false), &frames), [1, 1, 1]);

    let mut packet = Packet::plain(false, true, &[1; 300]);
    packet.id = 0;
    let id = packet.segments(100)[0][24..26].to_vec();
    // The second segment's identification is one more.
    packet.id = u16::from_be_bytes([id[0], id[1]]);
    let mut frames = packet.segments(100);
    assert_eq!(frames[0][24..26], [0, 0]);
    assert_eq!(counts(tunnel(false), &frames), [3]);
    frames[0][24..26].fill(0xff);
    assert_eq!(counts(tunnel(false), &frames), [1, 2]);
}

#[test]
fn one_identification_for_all_is_merged_if_it_means_nothing() {
    let same = |may_fragment: bool| {
        let mut frames = Vec::new();
        let mut packet = Packet::plain(false, true, &[1; 100]);
        (packet.id, packet.may_fragment) = (0, may_fragment);
        for _ in 0..3 {
            frames.push(packet.frame());
            packet.sequence = packet.sequence.wrapping_add(100);
        }
        counts(tunnel(false), &frames)
    };
    assert_eq!(same(false), [3]);
    assert_eq!(same(true), [1, 1, 1]);
}

#[test]
fn nothing_is_merged_that_is_not_wanted() {
    for (tcp, udp) in [(true, false), (false, true), (false, false)] {
        let config = Config {
            tcp,
            udp,
            ..tunnel(true)
        };
        let merged = |wanted: bool| if wanted { vec![3] } else { vec![1; 3] };
        let segments = Packet::plain(true, true, &[1; 300]).segments(100);
        assert_eq!(counts(config, &segments), merged(tcp));
        let datagrams = Packet::plain(true, false, &[1; 300]).segments(100);
        assert_eq!(counts(config, &datagrams), merged(udp));
    }
}

#[test]
fn super_packets_end_at_the_limits() {
    for (config, packet, headers) in [
        (
            tunnel(false),
            Packet::plain(false, true, &[1; 140_000]),
            50 + 66,
        ),
        (
            tunnel(true),
            Packet::plain(true, true, &[1; 140_000]),
            70 + 86,
        ),
        (
            bridge_port(Layout::Basic),
            Packet::plain(true, false, &[1; 140_000]),
            62,
        ),
    ] {
        let frames = packet.segments(1356);
        let most = (65_535 - headers) / 1356;
        let counts = counts(config, &frames);
        assert_eq!(counts, [most, most, frames.len() - 2 * most]);
    }
    let small = Packet::plain(false, true, &[1; 300]).segments(1);
    assert_eq!(
        counts(tunnel(false), &small),
        [MAX_PIECES, MAX_PIECES, 300 - 2 * MAX_PIECES]
    );
    let small = Packet::plain(false, false, &[1; 100]).segments(1);
    assert_eq!(counts(tunnel(false), &small), [64, 36]);
}

#[test]
fn frames_that_cannot_be_written_are_refused() {
    let mut coalescer = Coalescer::new(tunnel(false));
    let arrival = |peer, frame| Arrival {
        peer,
        tos: 0,
        inner: inner(),
        buffer: 0,
        frame,
    };
    let bytes = vec![0; 70_000];
    let mut push = |peer, frame| coalescer.push(arrival(peer, frame), &bytes);
    assert_eq!(push(PEER4, 0..13), Err(Rejection::BadLength));
    assert_eq!(push(PEER4, 69_990..70_001), Err(Rejection::BadLength));
    assert_eq!(push(PEER4, 0..65_536 - 50), Err(Rejection::TooLong));
    assert_eq!(push(PEER6, 0..100), Err(Rejection::Family));
    assert_eq!(push(PEER4, 0..65_535 - 50), Ok(()));
    let written = flush(&mut coalescer, &[bytes]);
    assert_eq!(written.len(), 1);
    assert_eq!(written[0].1.len(), 24 + 65_535);
}
