//! Packets of a peer that has the key and seals what it likes.
#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use weft_encrypt::Refusal;
use weft_encrypt::esp::{Spi, classify};
use weft_encrypt::inner::Inner;
use weft_encrypt::keys::SaKey;
use weft_encrypt::sa::{InboundSa, InboundTable};
use weft_fuzz::Input;

const SPI: u32 = 0x0102_0304;
const KEY: [u8; 36] = *b"0123456789abcdef0123456789abcdefSALT";
const NEXT_HEADER_UDP: u8 = 17;

fuzz_target!(|data: &[u8]| {
    let mut table = InboundTable::new();
    let spi = Spi::new(SPI).expect("one that is not reserved");
    let association = InboundSa::new(spi, SaKey::from_bytes(KEY));
    table.insert(association).expect("room");
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY[..32]).expect("a key"));
    let mut input = Input(data);
    let (mut sequence, mut seen, mut opened) = (0u64, BTreeSet::new(), 0u64);
    while !input.is_empty() {
        // Mostly small steps, back and forth.
        sequence = match input.byte() {
            0 => input.long(),
            1 => sequence.wrapping_add(u64::from(input.short()) << 16),
            step => sequence.wrapping_add_signed(i64::from(step.cast_signed())),
        };
        let plaintext = input.bytes();
        let mut packet = sealed(&key, sequence, plaintext);
        let _ = classify(&packet);
        match table.open(&mut packet) {
            Ok((found, told)) => {
                assert_eq!((found, told.sequence), (spi, sequence));
                assert!(seen.insert(sequence), "{sequence} was opened twice");
                let [payload @ .., pad, next_header] = plaintext else {
                    panic!("no trailer");
                };
                assert_eq!(*next_header, NEXT_HEADER_UDP);
                let length = payload.len() - usize::from(*pad);
                assert_eq!(packet[told.payload.clone()], payload[..length]);
                opened += 1;
                if Inner::parse(&packet[told.payload], 4790).is_err() {
                    table.refuse(spi, Refusal::BadInner);
                }
            }
            Err(Refusal::BadInner | Refusal::UnknownSpi) => panic!("not of {SPI}"),
            // It is looked up by the low half, the only one that is sent.
            Err(Refusal::Replayed) => {
                let low = sequence as u32;
                assert!(low == 0 || seen.iter().any(|seen| *seen as u32 == low));
            }
            Err(Refusal::BadPadding | Refusal::WrongNextHeader | Refusal::Dummy) => {
                assert!(seen.insert(sequence), "{sequence} was opened twice");
            }
            Err(_) => {}
        }
    }
    let counters = table.counters(spi).expect("the association");
    assert_eq!(counters.packets, opened);
});

fn sealed(key: &LessSafeKey, sequence: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&KEY[32..]);
    nonce[4..].copy_from_slice(&sequence.to_be_bytes());
    let mut aad = [0; 12];
    aad[..4].copy_from_slice(&SPI.to_be_bytes());
    aad[4..].copy_from_slice(&sequence.to_be_bytes());
    let mut text = plaintext.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut text)
        .expect("sealed");
    let (spi, low) = (SPI.to_be_bytes(), (sequence as u32).to_be_bytes());
    [&spi, &low, &sequence.to_be_bytes()[..], &text].concat()
}
