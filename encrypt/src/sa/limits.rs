//! How much one key may seal.

/// Why an association should be followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RekeyReason {
    /// As many packets were sealed as the soft limit says.
    Packets,
    /// As many bytes were sealed as the soft limit says.
    Bytes,
}

/// Limits of one outbound association. At the soft ones it asks for its successor and goes on, at
/// the hard ones it stops.
///
/// What bounds them is how well AES-GCM keeps a secret: an attacker's advantage grows with the
/// square of the AES blocks under one key, and is about 2^-57 at 2^34.5 blocks, the bound that TLS
/// 1.3 takes (RFC 8446 section 5.5). With 2^38 bytes, which are 2^34 blocks, and two further blocks
/// for each of 2^33 packets at most, a key stays within twice that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    soft_packets: u64,
    soft_bytes: u64,
    hard_packets: u64,
    hard_bytes: u64,
}

/// Why limits were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// A soft limit is zero or above the hard one.
    #[error("soft limit {soft} is not usable: 1 to the hard limit {hard} is accepted")]
    Soft {
        /// The soft limit asked for.
        soft: u64,
        /// The hard limit beside it.
        hard: u64,
    },
    /// A hard limit is above what the cipher allows.
    #[error("hard limit {hard} is more than one key may protect: at most {most} is accepted")]
    Hard {
        /// The hard limit asked for.
        hard: u64,
        /// The most that is accepted.
        most: u64,
    },
}

impl Limits {
    /// Most packets that any limits allow.
    pub const MOST_PACKETS: u64 = 1 << 33;
    /// Most bytes of payload that any limits allow.
    pub const MOST_BYTES: u64 = 1 << 38;

    /// Limits by packets and by bytes, each `(soft, hard)`.
    ///
    /// # Errors
    /// See [`LimitsError`].
    pub fn new(packets: (u64, u64), bytes: (u64, u64)) -> Result<Self, LimitsError> {
        for ((soft, hard), most) in [(packets, Self::MOST_PACKETS), (bytes, Self::MOST_BYTES)] {
            if hard > most {
                return Err(LimitsError::Hard { hard, most });
            }
            if soft == 0 || soft > hard {
                return Err(LimitsError::Soft { soft, hard });
            }
        }
        Ok(Self {
            soft_packets: packets.0,
            soft_bytes: bytes.0,
            hard_packets: packets.1,
            hard_bytes: bytes.1,
        })
    }

    /// The sum of packets, unless that is more than may be sealed.
    pub(crate) fn add_packets(&self, sealed: u64, more: u64) -> Option<u64> {
        sealed
            .checked_add(more)
            .filter(|sum| *sum <= self.hard_packets)
    }

    /// The sum of bytes, unless that is more than may be sealed.
    pub(crate) fn add_bytes(&self, sealed: u64, more: u64) -> Option<u64> {
        sealed
            .checked_add(more)
            .filter(|sum| *sum <= self.hard_bytes)
    }

    /// The hard limits, by packets and by bytes.
    pub(crate) fn hard(&self) -> (u64, u64) {
        (self.hard_packets, self.hard_bytes)
    }

    /// Whether a successor is due after so many packets and bytes.
    pub(crate) fn due(&self, packets: u64, bytes: u64) -> Option<RekeyReason> {
        if packets >= self.soft_packets {
            Some(RekeyReason::Packets)
        } else if bytes >= self.soft_bytes {
            Some(RekeyReason::Bytes)
        } else {
            None
        }
    }
}

impl Default for Limits {
    /// Successor after 2^31 packets or 2^37 bytes (at 10 Gbit/s a hundred seconds), stop at twice
    /// that: as much time again for the successor to come.
    fn default() -> Self {
        Self {
            soft_packets: 1 << 31,
            soft_bytes: Self::MOST_BYTES / 2,
            hard_packets: 1 << 32,
            hard_bytes: Self::MOST_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_a_key_cannot_bear_are_refused() {
        let fine = (1, 10);
        let most = Limits::MOST_PACKETS;
        assert_eq!(
            Limits::new((1, most + 1), fine),
            Err(LimitsError::Hard {
                hard: most + 1,
                most
            })
        );
        let most = Limits::MOST_BYTES;
        assert_eq!(
            Limits::new(fine, (1, most + 1)),
            Err(LimitsError::Hard {
                hard: most + 1,
                most
            })
        );
        assert_eq!(
            Limits::new((0, 10), fine),
            Err(LimitsError::Soft { soft: 0, hard: 10 })
        );
        assert_eq!(
            Limits::new(fine, (11, 10)),
            Err(LimitsError::Soft { soft: 11, hard: 10 })
        );
        assert!(Limits::new((1, 1), (1, 1)).is_ok());
    }

    #[test]
    fn the_default_limits_would_be_accepted() {
        let d = Limits::default();
        let made = Limits::new(
            (d.soft_packets, d.hard_packets),
            (d.soft_bytes, d.hard_bytes),
        )
        .unwrap();
        assert_eq!(made, d);
    }
}
