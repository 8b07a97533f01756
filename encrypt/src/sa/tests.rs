//! Sealing against opening, and everything hostile in between.

use proptest::prelude::*;

use super::*;
use crate::esp::{
    HEADROOM, LONGEST, NEXT_HEADER_DUMMY, SHORTEST, Spi, TAILROOM, padding, sealed_length,
};
use crate::keys::SaKey;
use crate::replay::WINDOW;
use crate::{InboundCounters, Refusal};

const SPI: u32 = 0x1234_5678;

fn spi(number: u32) -> Spi {
    Spi::new(number).unwrap()
}

fn key(byte: u8) -> SaKey {
    SaKey::from_bytes([byte; 36])
}

fn outbound() -> OutboundSa {
    OutboundSa::new(spi(SPI), key(1), Limits::default())
}

fn inbound() -> InboundSa {
    InboundSa::new(spi(SPI), key(1))
}

fn table() -> InboundTable {
    let mut table = InboundTable::new();
    table.insert(inbound()).unwrap();
    table
}

fn seal(sa: &OutboundSa, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xdd; HEADROOM + payload.len() + TAILROOM];
    let range = HEADROOM..HEADROOM + payload.len();
    buffer[range.clone()].copy_from_slice(payload);
    let sealed = sa.seal(&mut buffer, range).unwrap();
    buffer[sealed.packet].to_vec()
}

fn small_limits(packets: (u64, u64), bytes: (u64, u64)) -> OutboundSa {
    OutboundSa::new(spi(SPI), key(1), Limits::new(packets, bytes).unwrap())
}

proptest! {
    #[test]
    fn opening_what_was_sealed_gives_the_payload_wherever_it_lay(
        payload in prop::collection::vec(any::<u8>(), 0..2000),
        before in 0usize..70,
        behind in 0usize..70,
    ) {
        let mut buffer = vec![0xdd; before + HEADROOM];
        buffer.extend_from_slice(&payload);
        let end = buffer.len();
        buffer.resize(end + TAILROOM + behind, 0xdd);
        let sealed = outbound().seal(&mut buffer, before + HEADROOM..end).unwrap();
        prop_assert_eq!(sealed.packet.clone(), before..before + sealed_length(payload.len()));
        prop_assert_eq!(sealed.sequence, 1);
        prop_assert!(buffer[..before].iter().all(|byte| *byte == 0xdd));
        prop_assert!(buffer[sealed.packet.end..].iter().all(|byte| *byte == 0xdd));
        let packet = &mut buffer[sealed.packet];
        let opened = inbound().open(packet).unwrap();
        prop_assert_eq!(opened.sequence, 1);
        prop_assert_eq!(&packet[opened.payload], payload.as_slice());
    }

    #[test]
    fn random_bytes_are_refused_and_counted_once(
        mut packet in prop::collection::vec(any::<u8>(), 0..200),
        ours in any::<bool>(),
    ) {
        if let (true, Some(first)) = (ours, packet.first_chunk_mut::<4>()) {
            *first = SPI.to_be_bytes();
        }
        let table = table();
        prop_assert!(table.open(&mut packet).is_err());
        let here = table.counters(spi(SPI)).unwrap();
        prop_assert_eq!(here.all_refused() + table.strays().all_refused(), 1);
        prop_assert_eq!(here.packets, 0);
    }

    #[test]
    fn packets_in_any_order_and_number_are_opened_once_each(
        order in prop::collection::vec(0usize..60, 1..200),
    ) {
        let sa = outbound();
        let packets: Vec<_> = (0..60u8).map(|n| seal(&sa, &[n; 9])).collect();
        let table = table();
        let mut seen = std::collections::BTreeSet::new();
        for index in order {
            let result = table.open(&mut packets[index].clone()).map(|_| ());
            let expected = if seen.insert(index) { Ok(()) } else { Err(Refusal::Replayed) };
            prop_assert_eq!(result, expected);
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_and_counted_by_cause() {
    let packet = seal(&outbound(), b"whatever is in it");
    for bit in 0..packet.len() * 8 {
        let table = table();
        let mut flipped = packet.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let cause = table.open(&mut flipped).unwrap_err();
        let here = table.counters(spi(SPI)).unwrap();
        let expected = match bit / 8 {
            0..4 => Refusal::UnknownSpi,
            // Sequence number 1 becomes 0.
            7 if bit % 8 == 0 => Refusal::Replayed,
            _ => Refusal::AuthFailed,
        };
        assert_eq!(cause, expected, "bit {bit}");
        assert_eq!(here.all_refused() + table.strays().all_refused(), 1);
        assert_eq!((here.packets, here.bytes), (0, 0));
        // The window has not moved: the packet itself still comes in.
        table.open(&mut packet.clone()).unwrap();
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let packet = seal(&outbound(), b"whatever is in it");
    for length in 0..packet.len() {
        let table = table();
        let cause = table.open(&mut packet[..length].to_vec()).unwrap_err();
        let whole = length >= SHORTEST && length.is_multiple_of(4);
        assert_eq!(
            cause,
            if whole {
                Refusal::AuthFailed
            } else {
                Refusal::BadLength
            }
        );
    }
    for more in 1..40 {
        let longer = [packet.as_slice(), &vec![0; more]].concat();
        let cause = table().open(&mut longer.clone()).unwrap_err();
        let whole = more % 4 == 0;
        assert_eq!(
            cause,
            if whole {
                Refusal::AuthFailed
            } else {
                Refusal::BadLength
            }
        );
    }
}

#[test]
fn packets_of_another_key_epoch_or_association_are_refused() {
    let packet = seal(&outbound(), b"payload");
    let mut other_key = InboundSa::new(spi(SPI), key(2));
    assert_eq!(
        other_key.open(&mut packet.clone()),
        Err(Refusal::AuthFailed)
    );
    let mut other_spi = InboundSa::new(spi(SPI + 1), key(1));
    assert_eq!(
        other_spi.open(&mut packet.clone()),
        Err(Refusal::UnknownSpi)
    );
    let mut readdressed = packet;
    readdressed[..4].copy_from_slice(&(SPI + 1).to_be_bytes());
    assert_eq!(other_spi.open(&mut readdressed), Err(Refusal::AuthFailed));
}

#[test]
fn a_replay_is_refused_in_the_window_and_left_of_it() {
    let sa = outbound();
    let first = seal(&sa, b"first");
    let mut table = table();
    table.open(&mut first.clone()).unwrap();
    assert_eq!(
        table.open(&mut first.clone()).unwrap_err(),
        Refusal::Replayed
    );
    for _ in 0..WINDOW {
        table.open(&mut seal(&sa, b"")).unwrap();
    }
    assert_eq!(table.open(&mut first.clone()).unwrap_err(), Refusal::TooOld);
    let expected = InboundCounters {
        packets: 1 + WINDOW,
        bytes: 5,
        replayed: 1,
        too_old: 1,
        ..InboundCounters::default()
    };
    assert_eq!(table.remove(spi(SPI)), Some(expected));
    assert_eq!(
        table.open(&mut first.clone()).unwrap_err(),
        Refusal::UnknownSpi
    );
    assert_eq!(table.strays().unknown_spi, 1);
}

#[test]
fn a_forged_packet_far_ahead_does_not_move_the_window() {
    let sa = outbound();
    let (first, mut forged) = (seal(&sa, b"first"), seal(&sa, b"forged"));
    forged[4..8].copy_from_slice(&0x7000_0000u32.to_be_bytes());
    let mut association = inbound();
    assert_eq!(association.open(&mut forged), Err(Refusal::AuthFailed));
    assert_eq!(association.top(), 0);
    association.open(&mut first.clone()).unwrap();
}

#[test]
fn the_high_half_of_the_sequence_number_is_authenticated_and_carried_over() {
    let limits = Limits::new((1 << 33, 1 << 33), (1 << 38, 1 << 38)).unwrap();
    let last = (1u64 << 32) - 3;
    let sa = OutboundSa::resume(spi(SPI), key(1), limits, last, 0);
    let mut association = inbound().starting_after(last);
    let mut packets: Vec<_> = (0..6u8).map(|n| (n, seal(&sa, &[n]))).collect();
    assert_eq!(packets[2].1[4..8], [0; 4], "the low half wraps");
    packets.swap(1, 4);
    for (n, mut packet) in packets.clone() {
        let opened = association.open(&mut packet).unwrap();
        assert_eq!(opened.sequence, last + 1 + u64::from(n));
        assert_eq!(packet[opened.payload], [n]);
    }
    // To a receiver that has not got that far, the same low half means another number.
    let (_, mut packet) = packets[3].clone();
    assert_eq!(inbound().open(&mut packet), Err(Refusal::AuthFailed));
}

#[test]
fn sealing_stops_for_good_at_the_packet_limit_and_asks_for_a_successor_before() {
    let sa = small_limits((3, 5), (1000, 1000));
    let mut buffer = [0; 100];
    let mut sequences = Vec::new();
    for number in 1..=5 {
        let sealed = sa.seal(&mut buffer, 20..30).unwrap();
        assert_eq!(sealed.rekey, (number >= 3).then_some(RekeyReason::Packets));
        sequences.push(sealed.sequence);
    }
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
    for _ in 0..3 {
        let before = buffer;
        let refused = sa.seal(&mut buffer, 20..30);
        assert_eq!(
            refused,
            Err(SealError::Exhausted {
                packets: 5,
                bytes: 50
            })
        );
        assert_eq!(buffer, before, "nothing is written");
    }
    assert_eq!((sa.sequence(), sa.counters().exhausted), (5, 3));
}

#[test]
fn sealing_stops_at_the_byte_limit() {
    let sa = small_limits((100, 100), (25, 40));
    let mut buffer = [0; 100];
    assert_eq!(sa.seal(&mut buffer, 20..40).unwrap().rekey, None);
    assert_eq!(
        sa.seal(&mut buffer, 20..40).unwrap().rekey,
        Some(RekeyReason::Bytes)
    );
    let refused = sa.seal(&mut buffer, 20..21);
    assert_eq!(
        refused,
        Err(SealError::Exhausted {
            packets: 2,
            bytes: 40
        })
    );
    assert_eq!(sa.rekey(), Some(RekeyReason::Bytes));
}

#[test]
fn an_association_that_is_resumed_uses_no_sequence_number_again() {
    let limits = Limits::new((3, 5), (1000, 1000)).unwrap();
    let sa = OutboundSa::resume(spi(SPI), key(1), limits, 4, 990);
    let mut buffer = [0; 100];
    assert_eq!(sa.seal(&mut buffer, 20..30).unwrap().sequence, 5);
    assert!(sa.seal(&mut buffer, 20..20).is_err());
    let at_the_end = OutboundSa::resume(spi(SPI), key(1), limits, u64::MAX, 0);
    assert!(at_the_end.seal(&mut buffer, 20..30).is_err());
}

#[test]
fn buffers_without_room_are_refused_and_use_up_no_sequence_number() {
    let sa = outbound();
    let mut buffer = vec![0; LONGEST + 100];
    for payload in 0..9usize {
        let needed = padding(payload) + 2 + 16;
        let length = HEADROOM + payload + needed;
        let range = HEADROOM..HEADROOM + payload;
        assert_eq!(
            sa.seal(&mut buffer[..length - 1], range.clone()),
            Err(SealError::NoTailroom {
                found: needed - 1,
                needed
            })
        );
        assert!(sa.seal(&mut buffer[..length], range).is_ok());
    }
    assert_eq!(
        sa.seal(&mut buffer, 15..20),
        Err(SealError::NoHeadroom { found: 15 })
    );
    for (start, end) in [(20, 19), (20, usize::MAX), (usize::MAX, usize::MAX)] {
        let length = buffer.len();
        let refused = sa.seal(&mut buffer, start..end);
        assert_eq!(refused, Err(SealError::OutOfBuffer { start, end, length }));
    }
    // Header, IV and ICV are 32 bytes and the rest a multiple of 4: at most 65,504 in all.
    let (fits, too_long) = (LONGEST - 37, LONGEST - 36);
    assert!(sa.seal(&mut buffer, 16..16 + fits).is_ok());
    assert_eq!(
        sa.seal(&mut buffer, 16..16 + too_long),
        Err(SealError::TooLong { payload: too_long })
    );
    assert_eq!((sa.sequence(), sa.counters().bad_buffer), (10, 14));
}

#[test]
fn a_payload_that_is_not_udp_is_refused_after_it_was_authenticated() {
    let sa = outbound();
    let table = table();
    for (next_header, cause) in [
        (NEXT_HEADER_DUMMY, Refusal::Dummy),
        (4, Refusal::WrongNextHeader),
        (0, Refusal::WrongNextHeader),
    ] {
        let mut buffer = [0; 100];
        let sealed = sa.seal_as(&mut buffer, 20..60, next_header).unwrap();
        assert_eq!(table.open(&mut buffer[sealed.packet]), Err(cause));
    }
    let here = table.counters(spi(SPI)).unwrap();
    assert_eq!(
        (here.dummy, here.wrong_next_header, here.all_refused()),
        (1, 2, 3)
    );
}

#[test]
fn a_second_association_of_the_same_spi_is_refused() {
    let mut table = table();
    let again = table.insert(inbound());
    assert_eq!(again, Err(InsertError::SpiTaken { spi: spi(SPI) }));
    assert_eq!(table.spis().collect::<Vec<_>>(), [spi(SPI)]);
}

#[test]
fn what_an_opened_payload_is_refused_for_is_counted_where_it_belongs() {
    let table = table();
    table.refuse(spi(SPI), Refusal::BadInner);
    table.refuse(spi(SPI + 1), Refusal::BadInner);
    assert_eq!(table.counters(spi(SPI)).unwrap().bad_inner, 1);
    assert_eq!(table.strays().bad_inner, 1);
}

#[test]
fn associations_do_not_print_their_keys() {
    let text = format!(
        "{:?} {:?}",
        OutboundSa::new(spi(SPI), key(0xab), Limits::default()),
        table()
    );
    assert!(
        !text.contains("171") && !text.to_lowercase().contains("ab, "),
        "{text}"
    );
    assert!(text.contains("cipher: Cipher"), "{text}");
}
