//! What ESP around VXLAN leaves of the underlay's MTU.

use crate::esp::{ALIGNMENT, HEADROOM, ICV, TRAILER, sealed_length};
use crate::inner;

/// Bytes of a UDP header (RFC 768).
const UDP: u32 = 8;
/// Bytes of an untagged Ethernet header, which VXLAN carries (RFC 7348 section 5).
const ETHERNET: u32 = 14;
/// Least MTU that is of use to an endpoint: what every IPv4 host must be able to receive (RFC 791).
pub const LEAST_ENDPOINT_MTU: u32 = 576;

/// IP version of the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 20 bytes of header, no options.
    V4,
    /// 40 bytes of header, no extension headers (RFC 8200).
    V6,
}

impl Family {
    const fn header(self) -> u32 {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// The underlay is too narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "underlay mtu {underlay} leaves {left} bytes for an endpoint: {LEAST_ENDPOINT_MTU} are needed"
)]
pub struct TooNarrow {
    /// MTU of the underlay.
    pub underlay: u32,
    /// What it would leave.
    pub left: u32,
}

/// Largest IP packet of an endpoint whose sealed form fits in one packet of the underlay.
///
/// 1,408 for 1,500 over IPv4, 1,388 over IPv6. The ciphertext must end on 4 bytes (RFC 4303 section
/// 2.4), so of four successive underlay MTUs only the first leaves more than the one before.
///
/// # Errors
/// [`TooNarrow`] if that is less than [`LEAST_ENDPOINT_MTU`].
pub fn endpoint_mtu(underlay: u32, family: Family) -> Result<u32, TooNarrow> {
    let around = family.header() + UDP + (HEADROOM + ICV) as u32;
    let ciphertext = underlay.saturating_sub(around) / ALIGNMENT as u32 * ALIGNMENT as u32;
    let left = ciphertext.saturating_sub(TRAILER as u32 + inner::HEADERS as u32 + ETHERNET);
    if left < LEAST_ENDPOINT_MTU {
        Err(TooNarrow { underlay, left })
    } else {
        Ok(left)
    }
}

/// Length on the underlay, IP header included, of an endpoint's IP packet of this length.
pub fn underlay_length(packet: u32, family: Family) -> u32 {
    let payload = inner::HEADERS + (ETHERNET as usize) + packet as usize;
    (sealed_length(payload) as u32).saturating_add(family.header() + UDP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mtus_of_the_design_come_out() {
        assert_eq!(endpoint_mtu(1500, Family::V4), Ok(1408));
        assert_eq!(endpoint_mtu(1500, Family::V6), Ok(1388));
        assert_eq!(endpoint_mtu(9000, Family::V4), Ok(8908));
        assert_eq!(endpoint_mtu(9000, Family::V6), Ok(8888));
        assert_eq!(endpoint_mtu(1280, Family::V6), Ok(1168));
    }

    #[test]
    fn an_endpoint_packet_of_the_mtu_fits_and_one_more_byte_does_not() {
        for family in [Family::V4, Family::V6] {
            for underlay in 700..10_000 {
                let mtu = endpoint_mtu(underlay, family).unwrap();
                assert!(
                    underlay_length(mtu, family) <= underlay,
                    "{underlay} {family:?}"
                );
                assert!(
                    underlay_length(mtu + 1, family) > underlay,
                    "{underlay} {family:?}"
                );
            }
        }
    }

    #[test]
    fn an_underlay_that_is_too_narrow_is_refused() {
        for underlay in 0..668 {
            assert!(endpoint_mtu(underlay, Family::V4).is_err(), "{underlay}");
        }
        assert_eq!(endpoint_mtu(668, Family::V4), Ok(576));
        assert_eq!(
            endpoint_mtu(0, Family::V6),
            Err(TooNarrow {
                underlay: 0,
                left: 0
            })
        );
    }
}
