//! Damaged input for every decoder: nothing panics, and what comes out keeps its promises.

use super::outer::Outer;
use super::test_frames::{PEER4, PORT, Packet, in_tunnel, inner, wrapper};
use super::vnet::{Layout, Vnet};
use super::*;
use crate::inner::HEADERS;

/// Always the same numbers (xorshift64*, Vigna 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Changes some bytes, mostly of the headers, or the length.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let length = bytes.len();
            let limit = if self.below(8) == 0 {
                length
            } else {
                length.min(140)
            };
            let at = self.below(limit);
            let value = self.next() as u8;
            match (self.below(8), bytes.get_mut(at)) {
                (0, _) => bytes.truncate(at),
                (1, _) => bytes.insert(at.min(length), value),
                (2, Some(byte)) => *byte = if value & 1 == 0 { 0 } else { 0xff },
                (3..=5, Some(byte)) => *byte ^= 1 << (value & 7),
                (_, Some(byte)) => *byte = value,
                (_, None) => {}
            }
        }
    }
}

/// What a TAP may give in both forms: super-packets, open checksums, complete ones.
fn seeds() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut ports, mut tunnels) = (Vec::new(), Vec::new());
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let packet = Packet::plain(v6, tcp, &[7; 700]);
        let (vnet, frame) = packet.super_frame(300);
        let open = Vnet {
            gso_type: 0,
            ..vnet
        };
        for vnet in [vnet, open, Vnet::default()] {
            ports.push([&vnet.to_bytes()[..10], &frame].concat());
            for v6 in [false, true] {
                let (vnet, packet) = in_tunnel(vnet, &frame, v6);
                tunnels.push([vnet.to_bytes().as_slice(), &packet].concat());
            }
        }
    }
    (ports, tunnels)
}

fn write_all(segments: &Segments<'_>, frame: usize) {
    let mut out = vec![0; 70_000];
    assert!((1..=MAX_SEGMENTS).contains(&segments.count()));
    for index in 0..segments.count() {
        let length = segments.length(index);
        assert!(length <= frame + HEADERS && length <= segments.length(0));
        assert_eq!(segments.write(index, &mut out), Some(length));
    }
}

fn read(bytes: &[u8], tunnel: bool) -> Result<(), Rejection> {
    if tunnel {
        let (vnet, packet) = Vnet::parse(bytes, Layout::Tunnel)?;
        let outer = Outer::parse(packet, PORT)?;
        let length = outer.frame.len();
        write_all(
            &Segments::new(&vnet, outer.inner, packet, outer.frame)?,
            length,
        );
    } else {
        let (vnet, frame) = Vnet::parse(bytes, Layout::Basic)?;
        write_all(
            &Segments::new(&vnet, inner(), frame, 0..frame.len())?,
            frame.len(),
        );
    }
    Ok(())
}

#[test]
fn damaged_packets_of_a_tap_are_segmented_or_refused() {
    let (ports, tunnels) = seeds();
    let mut numbers = Numbers(0x5eed);
    let mut counters = RejectionCounters::default();
    let mut fine = 0;
    for round in 0..60_000 {
        let (seeds, tunnel) = if round % 2 == 0 {
            (&ports, false)
        } else {
            (&tunnels, true)
        };
        let mut bytes = seeds[numbers.below(seeds.len())].clone();
        numbers.damage(&mut bytes);
        match read(&bytes, tunnel) {
            Ok(()) => fine += 1,
            Err(cause) => counters.count(cause),
        }
    }
    // Both happen, or the test tests nothing.
    assert!(fine > 10_000, "{fine}");
    assert!(
        counters.short_vnet > 0 && counters.bad_offload > 0,
        "{counters:?}"
    );
    assert!(
        counters.bad_length > 0 && counters.not_tunnel > 0,
        "{counters:?}"
    );
    assert!(
        counters.unsegmentable > 0 && counters.not_ip > 0,
        "{counters:?}"
    );
    assert!(
        counters.bad_checksum_offset > 0 && counters.outer_header > 0,
        "{counters:?}"
    );
}

#[test]
fn packets_cut_off_at_every_length_are_segmented_or_refused() {
    let (ports, tunnels) = seeds();
    for (seeds, tunnel) in [(ports, false), (tunnels, true)] {
        for seed in seeds {
            assert_eq!(read(&seed, tunnel), Ok(()));
            for length in 0..seed.len().min(300) {
                let _ = read(&seed[..length], tunnel);
            }
        }
    }
}

#[test]
fn random_bytes_are_segmented_or_refused() {
    let mut numbers = Numbers(7);
    for _ in 0..20_000 {
        let length = numbers.below(200);
        let bytes: Vec<u8> = (0..length).map(|_| numbers.next() as u8).collect();
        let _ = read(&bytes, true);
        let _ = read(&bytes, false);
    }
}

#[test]
fn damaged_frames_are_merged_or_not_and_none_is_lost() {
    let mut numbers = Numbers(0xf00d);
    let mut coalescer = Coalescer::new(Config {
        form: Form::Tunnel(wrapper(false)),
        tcp: true,
        udp: true,
    });
    let streams: Vec<Vec<Vec<u8>>> = [(false, true), (true, true), (false, false), (true, false)]
        .iter()
        .map(|(v6, tcp)| Packet::plain(*v6, *tcp, &[7; 700]).segments(100))
        .collect();
    for _ in 0..3000 {
        let mut frames = streams[numbers.below(4)].clone();
        for _ in 0..=numbers.below(3) {
            let index = numbers.below(frames.len());
            numbers.damage(&mut frames[index]);
        }
        let mut taken = Vec::new();
        for (buffer, frame) in frames.iter().enumerate() {
            let arrival = Arrival {
                peer: PEER4,
                tos: 0,
                inner: inner(),
                buffer,
                frame: 0..frame.len(),
            };
            if coalescer.push(arrival, frame).is_ok() {
                taken.push(frame.clone());
            }
        }
        let mut out = Vec::new();
        coalescer.flush(
            |buffer| &frames[buffer],
            |merged| {
                let bytes: Vec<u8> = merged.slices.iter().flat_map(|s| s.to_vec()).collect();
                let (vnet, packet) = Vnet::parse(&bytes, Layout::Tunnel).unwrap();
                let outer = Outer::parse(packet, PORT).unwrap();
                let segments = Segments::new(&vnet, outer.inner, packet, outer.frame).unwrap();
                assert_eq!(segments.count(), merged.segments);
                let mut buffer = vec![0; 2000];
                for index in 0..segments.count() {
                    let length = segments.write(index, &mut buffer).unwrap();
                    out.push(buffer[HEADERS..length].to_vec());
                }
            },
        );
        taken.sort();
        out.sort();
        assert_eq!(out, taken);
    }
}
