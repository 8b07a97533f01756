//! Whole packets with fixed bytes.

use std::collections::BTreeMap;

use super::*;
use crate::Refusal;
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
    let sa = OutboundSa::resume(spi, scapy_key(&vector), limits, sequence - 1, 0);
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

/// The AES-256 packet of draft-mcgrew-gcm-test-01 whose extended sequence number is the highest. It
/// carries an IP packet and says ICMP, which weft does not take, but only after it was opened: SPI,
/// both halves of the sequence number, IV, ciphertext, padding and ICV are right.
#[test]
fn the_published_packet_with_an_extended_sequence_number_is_opened() {
    let key = hex(
        "6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961\
                   7475726e",
    );
    let spi = Spi::new(0x796b_6963).unwrap();
    let published = hex("796b6963ffffffff333021696765746d\
         f97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86\
         4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9d0937ba2945f669368661a329fb4c053");
    let plaintext = hex(
        "45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364\
         65666768696a6b6c6d6e6f707172737401020201",
    );
    let association = |before| {
        let key = SaKey::from_bytes(key.clone().try_into().unwrap());
        InboundSa::new(spi, key).starting_after(before)
    };
    let mut packet = published.clone();
    let mut sa = association(u64::MAX - 1);
    assert_eq!(sa.open(&mut packet), Err(Refusal::WrongNextHeader));
    assert_eq!(packet[HEADROOM..][..plaintext.len()], plaintext);
    assert_eq!(sa.top(), u64::MAX);
    // With another high half it is another packet.
    let mut sa = association(u64::from(u32::MAX) - 1);
    assert_eq!(sa.open(&mut published.clone()), Err(Refusal::AuthFailed));
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
    let sa = OutboundSa::new(Spi::new(0x0001_0203).unwrap(), key, Limits::default());
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
