//! What is on the wire, opened and made by an implementation that shares no code with weft: scapy.

#[path = "../scapy/decoder.rs"]
mod decoder;

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use weft_encrypt::inner::{Inner, Vni};
use weft_encrypt::path::ESP_PORT;

use crate::capture::Capture;
use crate::lab::{Host, INNER_PORT, PORTS, Shape, V4, V6, VNI, peers, until};
use crate::traffic::exchange;
use decoder::{Decoder, TestKey, Told, hex, unhex};

/// Of the kernel's VXLAN devices.
pub(crate) const TUNNELS: &[(&str, fn())] = &[
    ("scapy_opens_what_is_on_the_wire", || opened(&V4)),
    ("scapy_opens_what_is_on_an_ipv6_wire", || opened(&V6)),
];

/// Of ports, on every kernel.
pub(crate) const PORT_CASES: &[(&str, fn())] =
    &[("scapy_opens_what_ports_put_on_the_wire", || opened(&PORTS))];

/// Requests, each with its answer.
const ROUNDS: u32 = 20;
/// Bytes of each, more than anything else has that comes by.
const LENGTH: usize = 400;

/// As [`crate::lab::key`] and [`crate::lab::name`] say.
fn key(number: u8) -> TestKey {
    TestKey {
        spi: 0x1000 + u32::from(number),
        key: [number; 36],
    }
}

fn opened(shape: &Shape) {
    let (left, right) = peers(shape);
    let inside = Capture::start(&right.inside, "vx0");
    let wire = Capture::start(&left.ns, "under");
    // One by one: packets that wait together are one super-packet on this wire.
    for _ in 0..ROUNDS {
        exchange(&left, &right, 1, Duration::ZERO, LENGTH);
    }
    let decoder = Decoder::new(&[key(1), key(2)]);
    let told = decoder.open_frames(&wire.finish());
    let arrived: BTreeSet<String> = inside.finish().iter().map(|frame| hex(frame)).collect();
    let clear = |told: &&Told| told.frame.len() >= 2 * LENGTH;
    for told in &told {
        assert_eq!(told.error, None, "{told:?}");
    }
    for (from, to, number) in [(&left, &right, 1), (&right, &left, 2)] {
        // Not what the kernel and the data path themselves send now and then.
        let of_one = told.iter().filter(|t| t.spi == key(number).spi);
        let told: Vec<&Told> = of_one.filter(clear).collect();
        assert_eq!(told.len(), ROUNDS as usize);
        let ascending = |pair: &[&Told]| pair[0].sequence < pair[1].sequence;
        assert!(told.windows(2).all(ascending), "{told:?}");
        for told in told {
            let ends = [&told.from, &told.to].map(|end| end.parse::<IpAddr>().unwrap());
            assert_eq!(ends, [from.end, to.end]);
            assert_eq!(told.next_header, 17);
            assert_eq!((told.destination, told.vni), (INNER_PORT, VNI));
            // What the containers got, byte for byte. What they send has no checksum yet.
            assert!(number == 2 || arrived.contains(&told.frame), "{told:?}");
        }
    }
    let seen = told.iter().rfind(clear).unwrap();
    takes_what_scapy_made(&decoder, seen, &left, &right);
}

/// A packet further on than those before, with a frame that was seen.
fn takes_what_scapy_made(decoder: &Decoder, seen: &Told, left: &Host, right: &Host) {
    let frame = unhex(&seen.frame);
    let inner = Inner {
        source: 50_000,
        destination: INNER_PORT,
        vni: Vni::new(VNI).unwrap(),
    };
    let payload = [inner.to_bytes(frame.len()).unwrap().as_slice(), &frame].concat();
    let packets = decoder.seal(&[(key(1).spi, 1000, &payload), (key(1).spi, 1000, &payload)]);
    let counters = || right.path().state().inbound[0].counters;
    let before = counters();
    let socket = left.ns.run(|| UdpSocket::bind((left.end, 0)).unwrap());
    for packet in packets {
        socket.send_to(&packet, (right.end, ESP_PORT)).unwrap();
    }
    until("one is opened, and not twice", || {
        let now = counters();
        (now.packets, now.replayed) == (before.packets + 1, before.replayed + 1)
    });
}
