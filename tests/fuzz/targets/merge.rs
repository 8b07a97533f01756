//! Frames that were opened, put together for the TAP, and taken apart again.
#![no_main]

use std::cell::RefCell;
use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use weft_encrypt::inner::{HEADERS, Inner, Vni};
use weft_encrypt::offload::outer::{Outer, Wrapper};
use weft_encrypt::offload::vnet::{Layout, Vnet};
use weft_encrypt::offload::{Arrival, Coalescer, Config, Form, Segments};
use weft_fuzz::Input;

const PORT: u16 = 4790;
const MOST_FRAMES: usize = 64;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = input.byte();
    let local: IpAddr = match kind & 1 {
        0 => [192, 0, 2, 1].into(),
        _ => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
    };
    let tunnel = kind & 2 != 0;
    let form = if tunnel {
        let (source_mac, mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        Form::Tunnel(Wrapper {
            source_mac,
            mac,
            local,
        })
    } else {
        Form::Frame(if kind & 4 != 0 {
            Layout::Basic
        } else {
            Layout::Buffers
        })
    };
    let (tcp, udp) = (kind & 8 == 0, kind & 16 == 0);
    let mut coalescer = Coalescer::new(Config { form, tcp, udp });
    let frames = frames(&mut input);
    let mut taken = Vec::new();
    for (buffer, frame) in frames.iter().enumerate() {
        let inner = Inner {
            source: 50_000 + u16::from(kind & 32 != 0 && buffer % 2 == 0),
            destination: PORT,
            vni: Vni::new(4097).expect("a number"),
        };
        let arrival = Arrival {
            peer: local,
            tos: 0,
            inner,
            buffer,
            frame: 0..frame.len(),
        };
        if coalescer.push(arrival, frame).is_ok() {
            taken.push(frame.clone());
        }
    }
    let back = RefCell::new(Vec::new());
    coalescer.flush(
        |buffer| frames[buffer].as_slice(),
        |merged| {
            let written: Vec<u8> = merged
                .slices
                .iter()
                .flat_map(|s| s.iter().copied())
                .collect();
            let apart = taken_apart(&written, form);
            assert_eq!(apart.len(), merged.segments);
            if let ([one], true) = (apart.as_slice(), merged.segments == 1) {
                assert!(
                    taken.contains(one),
                    "a frame that was not merged was changed"
                );
            }
            back.borrow_mut().extend(apart);
        },
    );
    let mut back = back.into_inner();
    // Frames of several flows may pass one another.
    for frames in [&mut back, &mut taken] {
        frames
            .iter_mut()
            .for_each(|frame| forget_identification(frame));
        frames.sort();
    }
    assert_eq!(back.len(), taken.len());
    for (back, taken) in back.iter().zip(&taken) {
        assert_eq!(back, taken, "merged and taken apart it is another frame");
    }
});

/// Frames as they are, or each a variation of the one before, so that some belong together.
fn frames(input: &mut Input) -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    while !input.is_empty() && frames.len() < MOST_FRAMES {
        let frame = match (input.byte() % 4, frames.last()) {
            (0, Some(last)) => repeated(last),
            (1, Some(last)) => {
                let mut frame = last.clone();
                let at = usize::from(input.short());
                if let Some(byte) = frame.get_mut(at) {
                    *byte = input.byte();
                }
                frame
            }
            _ => input.bytes().to_vec(),
        };
        frames.push(frame);
    }
    frames
}

/// The segment of IPv4 and TCP that would follow, if that is what it is: IP id, sequence number and
/// checksums of it.
fn repeated(frame: &[u8]) -> Vec<u8> {
    let mut next = frame.to_vec();
    if next.len() < 54 || next[12..15] != [8, 0, 0x45] || next[23] != 6 {
        return next;
    }
    let total = usize::from(u16::from_be_bytes([next[16], next[17]]));
    let header = 20 + usize::from(next[46] >> 4) * 4;
    let (Some(payload), true) = (total.checked_sub(header), 14 + total == next.len()) else {
        return next;
    };
    if header < 40 {
        return next;
    }
    let add = |bytes: &mut [u8], value: usize| {
        let mut carry = value;
        for byte in bytes.iter_mut().rev() {
            carry += usize::from(*byte);
            *byte = carry as u8;
            carry >>= 8;
        }
    };
    add(&mut next[18..20], 1);
    add(&mut next[38..42], payload);
    next[24..26].fill(0);
    let sum = checksum(0, &next[14..34]);
    next[24..26].copy_from_slice(&sum.to_be_bytes());
    next[50..52].fill(0);
    let segment = (total - 20) as u32;
    let sum = checksum(6 + segment, &[&next[26..34], &next[34..]].concat());
    next[50..52].copy_from_slice(&sum.to_be_bytes());
    next
}

/// RFC 1071, word by word.
fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(start);
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What means nothing in an IPv4 packet that must not be fragmented (RFC 6864 section 4.1), and the
/// checksum over it.
fn forget_identification(frame: &mut [u8]) {
    if frame.len() >= 34 && frame[12..14] == [8, 0] && frame[20] & 0x40 != 0 {
        frame[18..20].fill(0);
        frame[24..26].fill(0);
    }
}

fn taken_apart(written: &[u8], form: Form) -> Vec<Vec<u8>> {
    let layout = match form {
        Form::Tunnel(_) => Layout::Tunnel,
        Form::Frame(layout) => layout,
    };
    let (vnet, packet) = Vnet::parse(written, layout).expect("a virtio header");
    let (inner, frame) = match form {
        Form::Tunnel(_) => {
            let outer = Outer::parse(packet, PORT).expect("outer headers");
            (outer.inner, outer.frame)
        }
        Form::Frame(_) => {
            let vni = Vni::new(4097).expect("a number");
            let inner = Inner {
                source: 50_000,
                destination: PORT,
                vni,
            };
            (inner, 0..packet.len())
        }
    };
    let segments = Segments::new(&vnet, inner, packet, frame).expect("what can be taken apart");
    let segment = |index| {
        let mut out = vec![0; segments.length(index)];
        segments.write(index, &mut out).expect("a segment");
        out.split_off(HEADERS)
    };
    (0..segments.count()).map(segment).collect()
}
