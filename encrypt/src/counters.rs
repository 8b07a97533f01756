//! Why packets were refused, and how many.

use serde::{Deserialize, Serialize};

/// Why a received packet was dropped.
///
/// Down to [`Refusal::AuthFailed`] anyone who can send datagrams can raise these counters. What
/// comes after it needs a holder of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// No ESP packet has this length.
    #[error("length of the packet is one that ESP cannot have: 36 to 65507 in steps of 4 are")]
    BadLength,
    /// No inbound SA has this SPI.
    #[error("spi belongs to no inbound security association")]
    UnknownSpi,
    /// The sequence number was seen before.
    #[error("sequence number was received before: each is accepted once")]
    Replayed,
    /// The sequence number is left of the replay window. Of a packet whose integrity check failed
    /// this says that its number is likelier to be an old one than one 2^31 ahead.
    #[error("sequence number is older than the replay window")]
    TooOld,
    /// The ICV is wrong: damaged, forged, or of another key or epoch.
    #[error("integrity check failed: only packets sealed with this association's key are accepted")]
    AuthFailed,
    /// The padding is not 1, 2, 3, ... or longer than the packet.
    #[error("padding of the decrypted packet is malformed: 1, 2, 3, ... is accepted")]
    BadPadding,
    /// The payload is neither UDP nor a dummy packet.
    #[error("next header of the decrypted packet is not udp")]
    WrongNextHeader,
    /// A dummy packet (RFC 4303 section 2.6): dropped, and no fault.
    #[error("dummy packet: carries nothing")]
    Dummy,
    /// The payload is not a VXLAN datagram for the port of encrypted networks.
    #[error("decrypted payload is not a vxlan datagram to the port of encrypted networks")]
    BadInner,
}

/// Counters of the receiving side. They only grow, and wrap never in practice (64 bits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboundCounters {
    /// Packets opened.
    pub packets: u64,
    /// Bytes of payload in the packets opened.
    pub bytes: u64,
    /// See [`Refusal::BadLength`].
    pub bad_length: u64,
    /// See [`Refusal::UnknownSpi`].
    pub unknown_spi: u64,
    /// See [`Refusal::Replayed`].
    pub replayed: u64,
    /// See [`Refusal::TooOld`].
    pub too_old: u64,
    /// See [`Refusal::AuthFailed`].
    pub auth_failed: u64,
    /// See [`Refusal::BadPadding`].
    pub bad_padding: u64,
    /// See [`Refusal::WrongNextHeader`].
    pub wrong_next_header: u64,
    /// See [`Refusal::Dummy`].
    pub dummy: u64,
    /// See [`Refusal::BadInner`].
    pub bad_inner: u64,
}

impl InboundCounters {
    /// Counts a packet that was opened, with this many bytes of payload.
    pub fn opened(&mut self, bytes: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }

    /// Counts a packet that was dropped.
    pub fn refused(&mut self, cause: Refusal) {
        let counter = match cause {
            Refusal::BadLength => &mut self.bad_length,
            Refusal::UnknownSpi => &mut self.unknown_spi,
            Refusal::Replayed => &mut self.replayed,
            Refusal::TooOld => &mut self.too_old,
            Refusal::AuthFailed => &mut self.auth_failed,
            Refusal::BadPadding => &mut self.bad_padding,
            Refusal::WrongNextHeader => &mut self.wrong_next_header,
            Refusal::Dummy => &mut self.dummy,
            Refusal::BadInner => &mut self.bad_inner,
        };
        *counter = counter.wrapping_add(1);
    }

    /// Adds another association's.
    pub fn add(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.packets, other.packets),
            (&mut self.bytes, other.bytes),
            (&mut self.bad_length, other.bad_length),
            (&mut self.unknown_spi, other.unknown_spi),
            (&mut self.replayed, other.replayed),
            (&mut self.too_old, other.too_old),
            (&mut self.auth_failed, other.auth_failed),
            (&mut self.bad_padding, other.bad_padding),
            (&mut self.wrong_next_header, other.wrong_next_header),
            (&mut self.dummy, other.dummy),
            (&mut self.bad_inner, other.bad_inner),
        ] {
            *sum = sum.wrapping_add(more);
        }
    }

    /// Packets dropped, of all causes.
    pub fn all_refused(&self) -> u64 {
        [
            self.bad_length,
            self.unknown_spi,
            self.replayed,
            self.too_old,
            self.auth_failed,
            self.bad_padding,
            self.wrong_next_header,
            self.dummy,
            self.bad_inner,
        ]
        .iter()
        .fold(0, |sum, count| sum.wrapping_add(*count))
    }
}

/// Counters of the sending side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundCounters {
    /// Packets sealed.
    pub packets: u64,
    /// Bytes of payload sealed.
    pub bytes: u64,
    /// Packets not sealed because the association has reached a limit.
    pub exhausted: u64,
    /// Packets not sealed because the buffer or the payload has a wrong size.
    pub bad_buffer: u64,
}

impl OutboundCounters {
    /// Adds another association's.
    pub fn add(&mut self, other: Self) {
        for (sum, more) in [
            (&mut self.packets, other.packets),
            (&mut self.bytes, other.bytes),
            (&mut self.exhausted, other.exhausted),
            (&mut self.bad_buffer, other.bad_buffer),
        ] {
            *sum = sum.wrapping_add(more);
        }
    }
}
