//! Whole packets with fixed bytes.

use std::collections::BTreeMap;

use super::*;
use crate::esp::{HEADROOM, Spi, TAILROOM};
use crate::inner::{Inner, Vni};
use crate::keys::{Epoch, KeyContext, NetworkClass, Party, SaKey, derive};
use crate::test_util::{hex, secret};

/// Outer IPv4 and UDP header of the vector.
const OUTER: usize = 28;

/// Made with scapy, which computes ESP by itself; the file says how.
fn scapy() -> BTreeMap<&'static str, Vec<u8>> {
    include_str!("../../testdata/esp-in-udp.txt")
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| line.split_once(' ').unwrap())
        .map(|(name, value)| (name, hex(value)))
        .collect()
}

fn scapy_key(vector: &BTreeMap<&str, Vec<u8>>) -> SaKey {
    SaKey::from_bytes(
        [vector["key"].as_slice(), &vector["salt"]]
            .concat()
            .try_into()
            .unwrap(),
    )
}

fn scapy_names(vector: &BTreeMap<&str, Vec<u8>>) -> (Spi, u64) {
    let spi = u32::from_be_bytes(vector["spi"].as_slice().try_into().unwrap());
    let sequence = u64::from_be_bytes(vector["sequence"].as_slice().try_into().unwrap());
    (Spi::new(spi).unwrap(), sequence)
}

fn in_buffer(payload: &[u8]) -> (Vec<u8>, std::ops::Range<usize>) {
    let mut buffer = vec![0; HEADROOM + payload.len() + TAILROOM];
    let range = HEADROOM..HEADROOM + payload.len();
    buffer[range.clone()].copy_from_slice(payload);
    (buffer, range)
}

#[test]
fn scapy_seals_the_same_bytes() {
    let vector = scapy();
    let (spi, sequence) = scapy_names(&vector);
    let limits = Limits::new((1 << 33, 1 << 33), (1 << 38, 1 << 38)).unwrap();
    let mut sa = OutboundSa::resume(spi, scapy_key(&vector), limits, sequence - 1, 0);
    let (mut buffer, range) = in_buffer(&vector["payload"]);
    let sealed = sa.seal(&mut buffer, range).unwrap();
    assert_eq!(sealed.sequence, sequence);
    assert_eq!(buffer[sealed.packet], vector["packet"][OUTER..]);
}

#[test]
fn what_scapy_sealed_is_opened_and_is_the_vxlan_datagram() {
    let vector = scapy();
    let (spi, sequence) = scapy_names(&vector);
    let mut sa = InboundSa::new(spi, scapy_key(&vector)).starting_after(sequence - 1);
    let mut packet = vector["packet"][OUTER..].to_vec();
    let opened = sa.open(&mut packet).unwrap();
    assert_eq!(packet[opened.payload.clone()], vector["payload"]);
    let (inner, frame) = Inner::parse(&packet[opened.payload.clone()], 4790).unwrap();
    assert_eq!(
        (inner.source, inner.vni),
        (50_000, Vni::new(0x1001).unwrap())
    );
    assert_eq!(
        inner.to_bytes(frame.len()).unwrap(),
        vector["payload"][..frame.start]
    );
}

/// From the session's secret to the bytes on the wire. A change of any of them is a change of the
/// wire format, and needs another label.
#[test]
fn the_packet_of_a_session_secret_keeps_its_bytes() {
    let context = KeyContext {
        sender: Party([0xa0; 10]),
        receiver: Party([0xb0; 10]),
        class: NetworkClass(1),
        epoch: Epoch(1),
    };
    let key = derive(&secret(0), &context);
    let mut sa = OutboundSa::new(Spi::new(0x0001_0203).unwrap(), key, Limits::default());
    let inner = Inner {
        source: 50_000,
        destination: 4790,
        vni: Vni::new(4097).unwrap(),
    };
    let payload = [inner.to_bytes(5).unwrap().as_slice(), b"frame"].concat();
    let (mut buffer, range) = in_buffer(&payload);
    let sealed = sa.seal(&mut buffer, range).unwrap();
    assert_eq!(
        buffer[sealed.packet],
        hex(
            "00010203000000010000000000000001422430056a66b1cac30995e354b3818a \
             c7917c69c2f5f40fe249a2a5bb26df91808b4638affd4f93"
        )
    );
}
