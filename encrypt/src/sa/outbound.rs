//! The sealing side.

use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::{Limits, RekeyReason};
use crate::aead::Cipher;
use crate::esp::{
    HEADROOM, ICV, LONGEST, NEXT_HEADER_DUMMY, NEXT_HEADER_UDP, Spi, TRAILER, padding,
    sealed_length, write_header, write_trailer,
};
use crate::keys::SaKey;
use crate::{OutboundCounters, esp};

/// An outbound security association: seals datagrams for one peer with one key.
///
/// Sequence numbers have 64 bits, start at 1 (RFC 4303 section 3.3.3) and are the IV as well. Each
/// is used once, whichever thread seals: it is [reserved](OutboundSa::reserve) before the packet is
/// sealed, and at the hard limits, far before it could wrap, the association stops for good.
#[derive(Debug)]
pub struct OutboundSa {
    spi: Spi,
    /// For the process that takes over ([`OutboundSa::resume`]), and nobody else.
    key: SaKey,
    cipher: Cipher,
    limits: Limits,
    /// Highest sequence number that was reserved; zero before the first.
    sequence: AtomicU64,
    bytes: AtomicU64,
    exhausted: AtomicU64,
    bad_buffer: AtomicU64,
}

/// Sequence numbers of an association that belong to whoever holds this, and to be used once. What
/// is left over is never used.
#[derive(Debug)]
pub struct Reserved<'a> {
    association: &'a OutboundSa,
    /// Sequence number used last.
    used: u64,
    /// Last one that may be used.
    last: u64,
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
        Self::resume(spi, key, limits, 0, 0)
    }

    /// An association that goes on where another process, which must have stopped, left off.
    ///
    /// `sequence` is the last sequence number that may have been used, not the last one known to
    /// be sent. The packets before count towards the limits, the bytes only as `bytes` says.
    pub fn resume(spi: Spi, key: SaKey, limits: Limits, sequence: u64, bytes: u64) -> Self {
        Self {
            spi,
            cipher: Cipher::new(&key),
            key,
            limits,
            sequence: AtomicU64::new(sequence),
            bytes: AtomicU64::new(bytes),
            exhausted: AtomicU64::new(0),
            bad_buffer: AtomicU64::new(0),
        }
    }

    /// Takes so many sequence numbers, for packets with so many bytes of payload in all.
    ///
    /// # Errors
    /// [`SealError::Exhausted`] if that is more than the key may seal; then none is taken.
    pub fn reserve(&self, packets: u64, bytes: u64) -> Result<Reserved<'_>, SealError> {
        let before = self
            .bytes
            .fetch_update(Relaxed, Relaxed, |sum| self.limits.add_bytes(sum, bytes));
        let taken = before.and_then(|_| {
            self.sequence
                .fetch_update(Relaxed, Relaxed, |sum| {
                    self.limits.add_packets(sum, packets)
                })
                .inspect_err(|_| {
                    self.bytes.fetch_sub(bytes, Relaxed);
                })
        });
        match taken {
            Ok(used) => Ok(Reserved {
                association: self,
                used,
                last: used + packets,
            }),
            Err(_) => {
                self.exhausted.fetch_add(packets, Relaxed);
                Err(self.is_exhausted())
            }
        }
    }

    /// Seals the payload, a transport header (UDP) and what follows it, where it is.
    ///
    /// The [`HEADROOM`] bytes before it and up to [`esp::TAILROOM`] bytes behind it in the buffer
    /// are overwritten. After an error the buffer is as it was, but for [`SealError::TooLong`] from
    /// the cipher, which no payload within [`esp::LONGEST`] leads to.
    ///
    /// # Errors
    /// See [`SealError`]. None uses up a sequence number that was not sealed with.
    pub fn seal(&self, buffer: &mut [u8], payload: Range<usize>) -> Result<Sealed, SealError> {
        self.seal_as(buffer, payload, NEXT_HEADER_UDP)
    }

    /// Seals a dummy packet (RFC 4303 section 2.6) into the buffer: it shows that its sender lives.
    ///
    /// # Errors
    /// As [`OutboundSa::seal`]: a buffer of [`HEADROOM`] and [`esp::TAILROOM`] bytes is enough.
    pub fn seal_dummy(&self, buffer: &mut [u8]) -> Result<Sealed, SealError> {
        self.seal_as(buffer, HEADROOM..HEADROOM, NEXT_HEADER_DUMMY)
    }

    pub(crate) fn seal_as(
        &self,
        buffer: &mut [u8],
        payload: Range<usize>,
        next_header: u8,
    ) -> Result<Sealed, SealError> {
        self.layout(buffer.len(), &payload)?;
        self.reserve(1, payload.len() as u64)?
            .seal_as(buffer, payload, next_header)
    }

    fn layout(&self, buffer: usize, payload: &Range<usize>) -> Result<Range<usize>, SealError> {
        layout(buffer, payload).inspect_err(|_| {
            self.bad_buffer.fetch_add(1, Relaxed);
        })
    }

    fn is_exhausted(&self) -> SealError {
        SealError::Exhausted {
            packets: self.sequence(),
            bytes: self.bytes.load(Relaxed),
        }
    }

    /// The SPI that its packets carry.
    pub fn spi(&self) -> Spi {
        self.spi
    }

    /// The key, for [`OutboundSa::resume`] in the process that takes over. Whoever reads it must
    /// have stopped sealing.
    pub(crate) fn key(&self) -> &SaKey {
        &self.key
    }

    /// Highest sequence number that may have been used; zero before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Relaxed)
    }

    /// Whether a successor is due.
    pub fn rekey(&self) -> Option<RekeyReason> {
        self.limits.due(self.sequence(), self.bytes.load(Relaxed))
    }

    /// What it has sealed, and refused to.
    pub fn counters(&self) -> OutboundCounters {
        OutboundCounters {
            packets: self.sequence(),
            bytes: self.bytes.load(Relaxed),
            exhausted: self.exhausted.load(Relaxed),
            bad_buffer: self.bad_buffer.load(Relaxed),
        }
    }
}

impl Reserved<'_> {
    /// As [`OutboundSa::seal`], with the next of the sequence numbers.
    ///
    /// # Errors
    /// As [`OutboundSa::seal`]; [`SealError::Exhausted`] when all are used.
    pub fn seal(&mut self, buffer: &mut [u8], payload: Range<usize>) -> Result<Sealed, SealError> {
        self.seal_as(buffer, payload, NEXT_HEADER_UDP)
    }

    fn seal_as(
        &mut self,
        buffer: &mut [u8],
        payload: Range<usize>,
        next_header: u8,
    ) -> Result<Sealed, SealError> {
        let sa = self.association;
        let packet = sa.layout(buffer.len(), &payload)?;
        if self.used >= self.last {
            return Err(sa.is_exhausted());
        }
        // Taken before anything can go wrong.
        self.used += 1;
        let sequence = self.used;
        let too_long = SealError::TooLong {
            payload: payload.len(),
        };
        let (header, ciphertext, icv) = parts(&mut buffer[packet.clone()]).ok_or(too_long)?;
        write_header(header, sa.spi, sequence);
        write_trailer(&mut ciphertext[payload.len()..], next_header);
        *icv = sa
            .cipher
            .seal(sa.spi.get(), sequence, sequence.to_be_bytes(), ciphertext)
            .map_err(|_| too_long)?;
        Ok(Sealed {
            packet,
            sequence,
            rekey: sa.rekey(),
        })
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
