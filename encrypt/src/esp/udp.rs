//! UDP encapsulation of ESP (RFC 3948): what a datagram on the port carries.

use super::Spi;
use crate::Refusal;

/// The one byte of a keepalive (RFC 3948 section 2.3).
pub const KEEPALIVE: u8 = 0xff;
/// Four zero bytes where an SPI would be: not ESP (RFC 3948 section 2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];

/// What the payload of a UDP datagram on the port of ESP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulated<'a> {
    /// Keeps a NAT binding alive, says nothing (RFC 3948 section 2.3). To be dropped.
    Keepalive,
    /// Behind the non-ESP marker (RFC 3948 section 2.2): what follows it. weft sends none.
    NonEsp(&'a [u8]),
    /// An ESP packet for the SA of this SPI, perhaps (RFC 3948 section 2.1). Nothing of it is
    /// authenticated yet.
    Esp(Spi),
}

/// Tells what the payload of a UDP datagram is, from its length and first four bytes.
///
/// # Errors
/// [`Refusal::BadLength`] for less than an SPI that is no keepalive, [`Refusal::UnknownSpi`] for
/// the reserved SPIs 1 to 255 (RFC 4303 section 2.1).
pub fn classify(datagram: &[u8]) -> Result<Encapsulated<'_>, Refusal> {
    if datagram == [KEEPALIVE] {
        return Ok(Encapsulated::Keepalive);
    }
    let Some((first, rest)) = datagram.split_first_chunk::<4>() else {
        return Err(Refusal::BadLength);
    };
    if *first == NON_ESP_MARKER {
        return Ok(Encapsulated::NonEsp(rest));
    }
    match Spi::new(u32::from_be_bytes(*first)) {
        Some(spi) => Ok(Encapsulated::Esp(spi)),
        None => Err(Refusal::UnknownSpi),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_marker_and_spi_are_told_apart() {
        assert_eq!(classify(&[0xff]), Ok(Encapsulated::Keepalive));
        assert_eq!(classify(&[0, 0, 0, 0]), Ok(Encapsulated::NonEsp(&[])));
        assert_eq!(classify(&[0, 0, 0, 0, 9]), Ok(Encapsulated::NonEsp(&[9])));
        let spi = Spi::new(0xff00_0000).unwrap();
        assert_eq!(classify(&[0xff, 0, 0, 0, 1, 2]), Ok(Encapsulated::Esp(spi)));
    }

    #[test]
    fn what_is_too_short_or_reserved_is_refused() {
        for short in [&[][..], &[0xfe], &[0xff, 0xff], &[0, 0, 0]] {
            assert_eq!(classify(short), Err(Refusal::BadLength));
        }
        for reserved in 1..=255 {
            assert_eq!(classify(&[0, 0, 0, reserved, 0]), Err(Refusal::UnknownSpi));
        }
    }
}
