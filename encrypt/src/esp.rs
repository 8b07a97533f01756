//! The bytes of an ESP packet in UDP: what stands where, and how long it is.
//!
//! ```text
//!  UDP header (8)      outer, written by whoever sends; its checksum is not ours
//!  SPI (4)             RFC 4303 section 2.1            \ additional authenticated data, with the
//!  sequence, low (4)   section 2.2                     / high half of the sequence between them
//!  IV (8)              RFC 4106 section 3.1: the whole 64-bit sequence number
//!  payload             inner UDP header, VXLAN header, Ethernet frame   \
//!  padding (0..=3)     1, 2, 3                                          | encrypted
//!  pad length (1)      section 2.4                                      |
//!  next header (1)     17, UDP                                          /
//!  ICV (16)            RFC 4106 section 6
//! ```
//!
//! Transport mode (RFC 4303 section 3.1.1): the inner IP header is the outer one, so none is in the
//! payload. The high half of the sequence number is authenticated and never sent (section 2.2.1).

mod udp;

pub use udp::{Encapsulated, KEEPALIVE, NON_ESP_MARKER, classify};

use std::fmt;

use serde::{Deserialize, Serialize};

/// SPI and the low half of the sequence number (RFC 4303 section 2).
pub const HEADER: usize = 8;
/// Explicit IV of AES-GCM (RFC 4106 section 3.1).
pub const IV: usize = 8;
/// Pad length and next header (RFC 4303 section 2).
pub const TRAILER: usize = 2;
/// Integrity check value: the full tag (RFC 4106 section 6), never a shortened one.
pub const ICV: usize = 16;
/// What padding and trailer must end on: 4 bytes (RFC 4303 section 2.4), GCM needs no more
/// (RFC 4106 section 3.2).
pub const ALIGNMENT: usize = 4;
/// Bytes that sealing writes before the payload.
pub const HEADROOM: usize = HEADER + IV;
/// Most bytes that sealing writes behind the payload.
pub const TAILROOM: usize = (ALIGNMENT - 1) + TRAILER + ICV;
/// Shortest packet that can be one: an empty payload has two bytes of padding.
pub const SHORTEST: usize = HEADROOM + ALIGNMENT + ICV;
/// Longest packet: what fits in one UDP datagram over IPv4 (RFC 791: 65,535 with 20 and 8 bytes of
/// headers).
pub const LONGEST: usize = 65_535 - 20 - 8;
/// Next header of what weft wraps: UDP.
pub const NEXT_HEADER_UDP: u8 = 17;
/// Next header of a dummy packet, to be dropped in silence (RFC 4303 section 2.6).
pub const NEXT_HEADER_DUMMY: u8 = 59;

/// Security parameters index: which SA of the receiver a packet belongs to (RFC 4303 section 2.1).
///
/// The receiver chooses it. Zero is for local use and 1 to 255 are reserved, so none of them can be
/// made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Spi(u32);

impl Spi {
    /// First SPI that may be on the wire.
    pub const FIRST: u32 = 256;

    /// The SPI of this number, or nothing for 0 to 255.
    pub const fn new(number: u32) -> Option<Self> {
        if number < Self::FIRST {
            None
        } else {
            Some(Self(number))
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Spi {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        Self::new(number)
            .ok_or_else(|| format!("spi {number} is reserved: 256 and more are accepted"))
    }
}

impl From<Spi> for u32 {
    fn from(spi: Spi) -> Self {
        spi.get()
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({self})")
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// Bytes of padding that a payload of this length gets (RFC 4303 section 2.4).
pub const fn padding(payload: usize) -> usize {
    (ALIGNMENT - (payload % ALIGNMENT + TRAILER) % ALIGNMENT) % ALIGNMENT
}

/// Length of the packet, from SPI to ICV, that a payload of this length becomes.
///
/// Only for payloads that [`LONGEST`] admits; longer ones are counted without overflow as far as
/// `usize` goes, and sealing refuses them.
pub const fn sealed_length(payload: usize) -> usize {
    payload.saturating_add(HEADROOM + padding(payload) + TRAILER + ICV)
}

/// Writes SPI, low half of the sequence number and IV (RFC 4303 section 2, RFC 4106 section 3.1).
pub(crate) fn write_header(header: &mut [u8; HEADROOM], spi: Spi, sequence: u64) {
    let bytes = sequence.to_be_bytes();
    header[..4].copy_from_slice(&spi.get().to_be_bytes());
    header[4..8].copy_from_slice(&bytes[4..]);
    header[8..].copy_from_slice(&bytes);
}

/// What stands in clear before the ciphertext of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) spi: u32,
    pub(crate) sequence_low: u32,
    pub(crate) iv: [u8; IV],
}

/// The header of a packet from SPI to ICV, if the packet's length is one that ESP can have.
pub(crate) fn read_header(packet: &[u8]) -> Option<Header> {
    let ciphertext = packet.len().checked_sub(HEADROOM + ICV)?;
    if packet.len() < SHORTEST || packet.len() > LONGEST || ciphertext % ALIGNMENT != 0 {
        return None;
    }
    let header: &[u8; HEADROOM] = packet.first_chunk()?;
    let [s0, s1, s2, s3, q0, q1, q2, q3, iv @ ..] = *header;
    Some(Header {
        spi: u32::from_be_bytes([s0, s1, s2, s3]),
        sequence_low: u32::from_be_bytes([q0, q1, q2, q3]),
        iv,
    })
}

/// Why the end of a decrypted packet is not a trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadPadding;

/// Writes padding, pad length and next header into the whole of `room` (RFC 4303 section 2.4).
pub(crate) fn write_trailer(room: &mut [u8], next_header: u8) {
    let padding = room.len().saturating_sub(TRAILER);
    for (byte, value) in room.iter_mut().zip(1u8..=u8::MAX).take(padding) {
        *byte = value;
    }
    if let Some(trailer) = room.last_chunk_mut::<TRAILER>() {
        // Our own padding is at most 3, see `padding`.
        *trailer = [padding.to_le_bytes()[0], next_header];
    }
}

/// Length of the payload, and the next header, of a decrypted `payload, padding, trailer`.
///
/// The padding must be 1, 2, 3, ... as the sender of GCM has to make it (RFC 4303 section 2.4).
pub(crate) fn read_trailer(plaintext: &[u8]) -> Result<(usize, u8), BadPadding> {
    let Some((rest, [pad_length, next_header])) = plaintext.split_last_chunk::<TRAILER>() else {
        return Err(BadPadding);
    };
    let payload = rest
        .len()
        .checked_sub(usize::from(*pad_length))
        .ok_or(BadPadding)?;
    let (_, padding) = rest.split_at_checked(payload).ok_or(BadPadding)?;
    if padding
        .iter()
        .zip(1u8..=u8::MAX)
        .any(|(found, expected)| *found != expected)
    {
        return Err(BadPadding);
    }
    Ok((payload, *next_header))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_and_trailer_end_on_four_bytes_with_the_least_padding() {
        for payload in 0..4096 {
            assert!(padding(payload) < ALIGNMENT);
            assert_eq!((payload + padding(payload) + TRAILER) % ALIGNMENT, 0);
        }
        assert_eq!(sealed_length(0), SHORTEST);
        assert_eq!(sealed_length(2), SHORTEST);
        assert_eq!(sealed_length(3), SHORTEST + 4);
        assert_eq!(sealed_length(usize::MAX), usize::MAX);
    }

    #[test]
    fn reserved_spis_cannot_be_made() {
        assert_eq!(Spi::new(0), None);
        assert_eq!(Spi::new(255), None);
        assert_eq!(Spi::new(256).map(Spi::get), Some(256));
        assert_eq!(
            format!("{:?}", Spi::new(0x1_0000).unwrap()),
            "Spi(0x00010000)"
        );
    }

    #[test]
    fn the_header_of_a_packet_whose_length_is_impossible_is_refused() {
        for length in 0..SHORTEST {
            assert_eq!(read_header(&vec![0xee; length]), None, "{length} bytes");
        }
        assert!(read_header(&[0xee; SHORTEST]).is_some());
        assert_eq!(read_header(&[0xee; SHORTEST + 1]), None);
        assert_eq!(read_header(&[0xee; SHORTEST + 2]), None);
        assert_eq!(read_header(&[0xee; SHORTEST + 3]), None);
        assert!(read_header(&[0xee; LONGEST - LONGEST % 4]).is_some());
        assert_eq!(read_header(&vec![0xee; LONGEST - LONGEST % 4 + 4]), None);
    }

    #[test]
    fn the_header_is_laid_out_as_the_rfc_has_it() {
        let mut header = [0; HEADROOM];
        write_header(
            &mut header,
            Spi::new(0x0102_0304).unwrap(),
            0x1112_1314_1516_1718,
        );
        assert_eq!(
            header,
            [
                1, 2, 3, 4, 0x15, 0x16, 0x17, 0x18, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18
            ]
        );
    }

    #[test]
    fn padding_of_every_length_is_read_back_and_damage_to_it_is_seen() {
        for padding in 0..=255usize {
            let mut plaintext = vec![0xaa; 7 + padding + TRAILER];
            write_trailer(&mut plaintext[7..], NEXT_HEADER_UDP);
            assert_eq!(read_trailer(&plaintext), Ok((7, NEXT_HEADER_UDP)));
            if padding > 0 {
                plaintext[7] ^= 1;
                assert_eq!(read_trailer(&plaintext), Err(BadPadding));
            }
        }
        assert_eq!(read_trailer(&[]), Err(BadPadding));
        assert_eq!(read_trailer(&[17]), Err(BadPadding));
        assert_eq!(read_trailer(&[0, 17]), Ok((0, 17)));
        assert_eq!(read_trailer(&[1, 17]), Err(BadPadding));
        assert_eq!(read_trailer(&[255, 17]), Err(BadPadding));
    }
}
