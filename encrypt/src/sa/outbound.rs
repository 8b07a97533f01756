//! The sealing side.

use std::ops::Range;

use super::{Limits, RekeyReason};
use crate::aead::Cipher;
use crate::esp::{
    HEADROOM, ICV, LONGEST, NEXT_HEADER_UDP, Spi, TRAILER, padding, sealed_length, write_header,
    write_trailer,
};
use crate::keys::SaKey;
use crate::{OutboundCounters, esp};

/// An outbound security association: seals datagrams for one peer with one key.
///
/// Sequence numbers have 64 bits, start at 1 (RFC 4303 section 3.3.3) and are the IV as well. Each
/// is used once: it is taken before the packet is sealed, and at the hard limits, far before it
/// could wrap, the association stops for good. `&mut self` keeps two threads from taking the same.
#[derive(Debug)]
pub struct OutboundSa {
    spi: Spi,
    cipher: Cipher,
    limits: Limits,
    /// Sequence number of the packet sealed last; zero before the first.
    sequence: u64,
    counters: OutboundCounters,
}

/// A packet that was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where it is in the buffer, from SPI to ICV: the payload of a UDP datagram.
    pub packet: Range<usize>,
    /// Its sequence number.
    pub sequence: u64,
    /// The association should be followed by another. Said again with every packet until it is.
    pub rekey: Option<RekeyReason>,
}

/// Why a packet was not sealed. Nothing may be sent instead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The association has sealed as much as its key may.
    #[error(
        "association is at its hard limit ({packets} packets, {bytes} bytes): a new key is needed"
    )]
    Exhausted {
        /// Packets sealed.
        packets: u64,
        /// Bytes of payload sealed.
        bytes: u64,
    },
    /// The payload is not within the buffer.
    #[error("payload {start}..{end} is not within the buffer of {length} bytes")]
    OutOfBuffer {
        /// Where it was said to start.
        start: usize,
        /// Where it was said to end.
        end: usize,
        /// Length of the buffer.
        length: usize,
    },
    /// No room for the header in front of the payload.
    #[error(
        "payload has {found} bytes of room before it: {} are needed",
        esp::HEADROOM
    )]
    NoHeadroom {
        /// Bytes in front of the payload.
        found: usize,
    },
    /// No room for padding, trailer and ICV behind the payload.
    #[error("payload has {found} bytes of room behind it: {needed} are needed")]
    NoTailroom {
        /// Bytes behind the payload.
        found: usize,
        /// Bytes needed behind it.
        needed: usize,
    },
    /// The packet would not fit in a datagram.
    #[error(
        "payload of {payload} bytes is too long: the packet may have {}",
        esp::LONGEST
    )]
    TooLong {
        /// Bytes of payload.
        payload: usize,
    },
}

impl OutboundSa {
    /// An association that has sealed nothing. `spi` is the receiver's choice.
    ///
    /// The key must never have been given to another outbound association.
    pub fn new(spi: Spi, key: SaKey, limits: Limits) -> Self {
        Self {
            spi,
            cipher: Cipher::new(&key),
            limits,
            sequence: 0,
            counters: OutboundCounters::default(),
        }
    }

    /// An association that goes on where another process, which must have stopped, left off.
    ///
    /// `sequence` is the last sequence number that may have been used, not the last one known to
    /// be sent. The packets before count towards the limits, the bytes only as `bytes` says.
    pub fn resume(spi: Spi, key: SaKey, limits: Limits, sequence: u64, bytes: u64) -> Self {
        let mut resumed = Self::new(spi, key, limits);
        resumed.sequence = sequence;
        resumed.counters.packets = sequence;
        resumed.counters.bytes = bytes;
        resumed
    }

    /// Seals the payload, a transport header (UDP) and what follows it, where it is.
    ///
    /// The [`HEADROOM`] bytes before it and up to [`esp::TAILROOM`] bytes behind it in the buffer
    /// are overwritten. After an error the buffer is as it was, but for [`SealError::TooLong`] from
    /// the cipher, which no payload within [`esp::LONGEST`] leads to.
    ///
    /// # Errors
    /// See [`SealError`]. None uses up a sequence number that was not sealed with.
    pub fn seal(&mut self, buffer: &mut [u8], payload: Range<usize>) -> Result<Sealed, SealError> {
        self.seal_as(buffer, payload, NEXT_HEADER_UDP)
    }

    pub(crate) fn seal_as(
        &mut self,
        buffer: &mut [u8],
        payload: Range<usize>,
        next_header: u8,
    ) -> Result<Sealed, SealError> {
        let bytes = payload.len() as u64;
        let packet = match layout(buffer.len(), &payload) {
            Ok(packet) => packet,
            Err(error) => {
                self.counters.bad_buffer += 1;
                return Err(error);
            }
        };
        let OutboundCounters {
            packets,
            bytes: before,
            ..
        } = self.counters;
        if !self.limits.admit(self.sequence, before, bytes) {
            self.counters.exhausted += 1;
            return Err(SealError::Exhausted {
                packets,
                bytes: before,
            });
        }
        // Within the hard limit, so this does not wrap. Taken before anything can go wrong.
        self.sequence += 1;
        let sequence = self.sequence;
        let too_long = SealError::TooLong {
            payload: payload.len(),
        };
        let (header, ciphertext, icv) = parts(&mut buffer[packet.clone()]).ok_or(too_long)?;
        write_header(header, self.spi, sequence);
        write_trailer(&mut ciphertext[payload.len()..], next_header);
        *icv = self
            .cipher
            .seal(self.spi.get(), sequence, sequence.to_be_bytes(), ciphertext)
            .map_err(|_| too_long)?;
        self.counters.packets += 1;
        self.counters.bytes += bytes;
        let rekey = self.limits.due(self.sequence, self.counters.bytes);
        Ok(Sealed {
            packet,
            sequence,
            rekey,
        })
    }

    /// The SPI that its packets carry.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// Sequence number of the packet sealed last; zero before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether a successor is due.
    pub fn rekey(&self) -> Option<RekeyReason> {
        self.limits.due(self.sequence, self.counters.bytes)
    }

    /// What it has sealed, and refused to.
    pub fn counters(&self) -> OutboundCounters {
        self.counters
    }
}

/// Where in the buffer the packet comes to lie.
fn layout(buffer: usize, payload: &Range<usize>) -> Result<Range<usize>, SealError> {
    let Range { start, end } = *payload;
    if start > end || end > buffer {
        return Err(SealError::OutOfBuffer {
            start,
            end,
            length: buffer,
        });
    }
    let length = sealed_length(payload.len());
    if length > LONGEST {
        return Err(SealError::TooLong {
            payload: payload.len(),
        });
    }
    let begin = start
        .checked_sub(HEADROOM)
        .ok_or(SealError::NoHeadroom { found: start })?;
    let needed = padding(payload.len()) + TRAILER + ICV;
    if buffer - end < needed {
        return Err(SealError::NoTailroom {
            found: buffer - end,
            needed,
        });
    }
    Ok(begin..begin + length)
}

type Parts<'a> = (&'a mut [u8; HEADROOM], &'a mut [u8], &'a mut [u8; ICV]);

/// Header and IV, what is encrypted, and ICV.
fn parts(packet: &mut [u8]) -> Option<Parts<'_>> {
    let (header, rest) = packet.split_first_chunk_mut()?;
    let (ciphertext, icv) = rest.split_last_chunk_mut()?;
    Some((header, ciphertext, icv))
}
