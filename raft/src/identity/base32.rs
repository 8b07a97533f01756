//! RFC 4648 section 6 base32 in lower case and without padding, for byte strings of known length.

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const BITS: u32 = 5;

/// Characters that `len` bytes take.
pub(super) const fn text_len(len: usize) -> usize {
    (len * 8).div_ceil(BITS as usize)
}

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(text_len(bytes.len()));
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= BITS {
            held -= BITS;
            text.push(digit(bits >> held));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        text.push(digit(bits << (BITS - held)));
    }
    text
}

fn digit(value: u32) -> char {
    char::from(ALPHABET[value as usize & 31])
}

/// Why a text is not base32 of `N` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base32Error {
    /// Other than `text_len(N)` characters.
    Length,
    /// A character outside the alphabet, or bits behind the last byte that are not zero.
    Character,
}

pub(super) fn decode<const N: usize>(text: &str) -> Result<[u8; N], Base32Error> {
    if text.chars().count() != text_len(N) {
        return Err(Base32Error::Length);
    }
    let mut bytes = [0; N];
    let mut slots = bytes.iter_mut();
    let (mut bits, mut held) = (0u32, 0u32);
    for character in text.bytes() {
        let value = ALPHABET.iter().position(|c| *c == character);
        let value = value.ok_or(Base32Error::Character)?;
        bits = bits << BITS | value as u32;
        held += BITS;
        if held >= 8 {
            held -= 8;
            if let Some(slot) = slots.next() {
                *slot = (bits >> held) as u8;
            }
            bits &= (1 << held) - 1;
        }
    }
    // Otherwise several texts would mean the same bytes.
    if bits == 0 {
        Ok(bytes)
    } else {
        Err(Base32Error::Character)
    }
}
