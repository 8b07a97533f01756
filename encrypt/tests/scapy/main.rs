//! weft's ESP beside that of scapy, which shares no code with it: each opens what the other sealed,
//! and refuses what was changed on the way.

#![expect(clippy::unwrap_used, reason = "tests in which everything is their own")]

mod decoder;

use decoder::{Decoder, TestKey, Told, hex};
use weft_encrypt::Refusal;
use weft_encrypt::esp::{HEADROOM, Spi, TAILROOM};
use weft_encrypt::inner::{Inner, Vni};
use weft_encrypt::keys::SaKey;
use weft_encrypt::sa::{InboundSa, Limits, OutboundSa};

const INNER_PORT: u16 = 4790;
const KEY: TestKey = TestKey {
    spi: 0xc0ff_ee01,
    key: *b"0123456789abcdef0123456789abcdefSALT",
};
const OTHER: TestKey = TestKey {
    spi: 0x0000_0100,
    key: [0x5a; 36],
};
/// Every padding, the empty frame, what fills an MTU of 1500 and of 9000, and the longest.
const FRAMES: [usize; 12] = [
    0,
    1,
    2,
    3,
    4,
    5,
    14,
    60,
    1422,
    8922,
    9001,
    65_507 - 16 - 16 - 18 - 3,
];

fn spi(key: TestKey) -> Spi {
    Spi::new(key.spi).unwrap()
}

fn frame(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + length) as u8).collect()
}

fn datagram(vni: u32, frame: &[u8]) -> Vec<u8> {
    let inner = Inner {
        source: 50_000,
        destination: INNER_PORT,
        vni: Vni::new(vni).unwrap(),
    };
    [inner.to_bytes(frame.len()).unwrap().as_slice(), frame].concat()
}

/// An association whose next packet has the number behind `sequence`.
fn outbound(key: TestKey, sequence: u64) -> OutboundSa {
    let limits = Limits::new((1 << 33, 1 << 33), (1 << 38, 1 << 38)).unwrap();
    OutboundSa::resume(spi(key), SaKey::from_bytes(key.key), limits, sequence, 0)
}

fn sealed(sa: &mut OutboundSa, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xee; HEADROOM + payload.len() + TAILROOM];
    let range = HEADROOM..HEADROOM + payload.len();
    buffer[range.clone()].copy_from_slice(payload);
    let sealed = sa.seal(&mut buffer, range).unwrap();
    buffer[sealed.packet].to_vec()
}

fn brief(told: &Told) -> String {
    let mut text = format!("{told:?}");
    text.truncate(400);
    text
}

/// Ethernet, IP and UDP in front of a packet, as a network card sees it.
fn on_the_wire(packet: &[u8], version: u8) -> Vec<u8> {
    let udp = u16::try_from(packet.len() + 8).unwrap().to_be_bytes();
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if version == 4 {
        let [high, low] = u16::try_from(packet.len() + 28).unwrap().to_be_bytes();
        bytes.extend([8, 0, 0x45, 0, high, low, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        bytes.extend([192, 0, 2, 1, 192, 0, 2, 2]);
    } else {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, udp[0], udp[1], 17, 64]);
        for last in [1, 2] {
            bytes.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
    }
    bytes.extend([0x11, 0x94, 0x11, 0x94, udp[0], udp[1], 0, 0]);
    bytes.extend_from_slice(packet);
    bytes
}

#[test]
fn scapy_opens_what_is_sealed_here() {
    let decoder = Decoder::new(&[KEY, OTHER]);
    // The first packet of an association, the change of the high half of the sequence number, and
    // far behind it.
    let starts = [0, u64::from(u32::MAX) - 6, (1 << 32) + 0x8000_0000];
    let (mut frames, mut expected) = (Vec::new(), Vec::new());
    for (number, start) in starts.into_iter().enumerate() {
        let key = [KEY, OTHER][number % 2];
        let mut sa = outbound(key, start);
        for (sequence, length) in (start + 1..).zip(FRAMES) {
            let payload = datagram(0x12_3456, &frame(length));
            let version = if length % 2 == 0 { 4 } else { 6 };
            frames.push(on_the_wire(&sealed(&mut sa, &payload), version));
            let (from, to) = match version {
                4 => ("192.0.2.1", "192.0.2.2"),
                _ => ("2001:db8::1", "2001:db8::2"),
            };
            expected.push(Told {
                from: from.to_owned(),
                to: to.to_owned(),
                spi: key.spi,
                sequence,
                next_header: 17,
                payload: hex(&payload),
                source: 50_000,
                destination: INNER_PORT,
                vni: 0x12_3456,
                frame: hex(&frame(length)),
                error: None,
            });
        }
    }
    let told = decoder.open_frames(&frames);
    assert_eq!(told.len(), expected.len());
    for (told, expected) in told.iter().zip(&expected) {
        // The longest would fill screens.
        assert!(
            told == expected,
            "{} is not {}",
            brief(told),
            brief(expected)
        );
    }
}

#[test]
fn what_scapy_seals_is_opened_here() {
    let decoder = Decoder::new(&[KEY]);
    // Never further ahead than the sender of one subspace can be taken for.
    let sequences = (1..).step_by(0x7000_0000).take(FRAMES.len().min(5));
    let clear: Vec<(u64, Vec<u8>)> = sequences
        .flat_map(|start: u64| (start..).zip(FRAMES))
        .map(|(sequence, length)| (sequence, datagram(4097, &frame(length))))
        .collect();
    assert!(clear.last().unwrap().0 >> 32 > 0, "the high half moves");
    let asked: Vec<_> = clear
        .iter()
        .map(|(sequence, payload)| (KEY.spi, *sequence, payload.as_slice()))
        .collect();
    let packets = decoder.seal(&asked);
    assert_eq!(packets.len(), clear.len());
    let mut sa = InboundSa::new(spi(KEY), SaKey::from_bytes(KEY.key));
    for (packet, (sequence, payload)) in packets.into_iter().zip(clear) {
        let mut buffer = packet.clone();
        let opened = sa.open(&mut buffer).unwrap();
        assert_eq!(opened.sequence, sequence);
        assert_eq!(buffer[opened.payload.clone()], payload);
        let (inner, _) = Inner::parse(&buffer[opened.payload], INNER_PORT).unwrap();
        assert_eq!(inner.vni.get(), 4097);
        assert_eq!(sa.open(&mut packet.clone()), Err(Refusal::Replayed));
    }
}

/// That scapy agrees means something only if it also disagrees.
#[test]
fn scapy_refuses_what_was_changed_on_the_way() {
    let decoder = Decoder::new(&[KEY]);
    let mut sa = outbound(KEY, (1 << 32) + 77);
    let packet = sealed(&mut sa, &datagram(4097, &frame(64)));
    // Sequence number, IV, ciphertext, ICV; not the SPI, which has no such association then.
    let damaged: Vec<_> = (4..packet.len())
        .map(|at| {
            let mut packet = packet.clone();
            packet[at] ^= 1;
            on_the_wire(&packet, 4)
        })
        .collect();
    for told in decoder.open_frames(&damaged) {
        assert_eq!(told.error.as_deref(), Some("integrity check failed"));
        assert_eq!(told.payload, "");
    }
    let strange = sealed(&mut outbound(OTHER, 0), &datagram(4097, &frame(64)));
    let wrong_key = TestKey {
        spi: OTHER.spi,
        ..KEY
    };
    for (keys, error) in [
        (vec![KEY], "unknown spi"),
        (vec![wrong_key], "integrity check failed"),
    ] {
        let told = Decoder::new(&keys).open_frames(&[on_the_wire(&strange, 6)]);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].error.as_deref(), Some(error));
    }
}
