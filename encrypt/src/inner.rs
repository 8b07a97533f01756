//! What is wrapped: the inner UDP header, the VXLAN header and an Ethernet frame.
//!
//! Encrypted networks have a UDP port of their own, so that a kernel policy can tell them by it.
//! The inner checksum is zero, which RFC 7348 section 5 (VXLAN) and RFC 6935 (IPv6) allow and the
//! ICV makes needless; what is received is not compared, since the addresses it covers may have
//! been translated (RFC 3948 section 3.1.2).

use std::ops::Range;

use crate::Refusal;

/// Bytes of the inner UDP header (RFC 768).
pub const UDP: usize = 8;
/// Bytes of the VXLAN header (RFC 7348 section 5).
pub const VXLAN: usize = 8;
/// Bytes of both, which stand before the Ethernet frame.
pub const HEADERS: usize = UDP + VXLAN;
/// The flag that says that a VNI is there (RFC 7348 section 5). The other bits are ignored.
const VNI_VALID: u8 = 0x08;

/// VXLAN network identifier: 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The VNI of this number, or nothing above 24 bits.
    pub const fn new(number: u32) -> Option<Self> {
        if number < 1 << 24 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The headers of a wrapped datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Source port: a hash of the frame's flow.
    pub source: u16,
    /// Destination port: that of encrypted networks.
    pub destination: u16,
    /// Which network the frame is of.
    pub vni: Vni,
}

impl Inner {
    /// The headers for a frame of this many bytes; nothing if a UDP length cannot say it.
    pub fn to_bytes(&self, frame: usize) -> Option<[u8; HEADERS]> {
        let length = u16::try_from(frame.checked_add(HEADERS)?).ok()?;
        let ([s0, s1], [d0, d1]) = (self.source.to_be_bytes(), self.destination.to_be_bytes());
        let [l0, l1] = length.to_be_bytes();
        let [_, v0, v1, v2] = self.vni.0.to_be_bytes();
        Some([
            s0, s1, d0, d1, l0, l1, 0, 0, VNI_VALID, 0, 0, 0, v0, v1, v2, 0,
        ])
    }

    /// The headers at the start of an opened payload, and where in it the frame is.
    ///
    /// The UDP length must be that of the payload: weft sends no traffic flow padding (RFC 4303
    /// section 2.7), and takes none.
    ///
    /// # Errors
    /// [`Refusal::BadInner`] if it is cut off, says another length or port, or has no VNI.
    pub fn parse(payload: &[u8], port: u16) -> Result<(Self, Range<usize>), Refusal> {
        let headers: &[u8; HEADERS] = payload.first_chunk().ok_or(Refusal::BadInner)?;
        let [s0, s1, d0, d1, l0, l1, _, _, flags, _, _, _, v0, v1, v2, _] = *headers;
        let destination = u16::from_be_bytes([d0, d1]);
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length != payload.len() || destination != port || flags & VNI_VALID == 0 {
            return Err(Refusal::BadInner);
        }
        let source = u16::from_be_bytes([s0, s1]);
        let vni = Vni(u32::from_be_bytes([0, v0, v1, v2]));
        Ok((
            Self {
                source,
                destination,
                vni,
            },
            HEADERS..payload.len(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INNER: Inner = Inner {
        source: 50_000,
        destination: 4790,
        vni: Vni(0x12_3456),
    };

    fn datagram(frame: &[u8]) -> Vec<u8> {
        [INNER.to_bytes(frame.len()).unwrap().as_slice(), frame].concat()
    }

    #[test]
    fn headers_are_laid_out_as_the_rfcs_have_them_and_read_back() {
        let bytes = datagram(&[1, 2, 3]);
        assert_eq!(
            bytes,
            [
                0xc3, 0x50, 0x12, 0xb6, 0, 19, 0, 0, 8, 0, 0, 0, 0x12, 0x34, 0x56, 0, 1, 2, 3
            ]
        );
        assert_eq!(Inner::parse(&bytes, 4790), Ok((INNER, 16..19)));
    }

    #[test]
    fn other_ports_lengths_and_flags_are_refused() {
        let bytes = datagram(&[7; 40]);
        assert_eq!(Inner::parse(&bytes, 4789), Err(Refusal::BadInner));
        for cut in 0..bytes.len() {
            assert_eq!(Inner::parse(&bytes[..cut], 4790), Err(Refusal::BadInner));
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(Inner::parse(&longer, 4790), Err(Refusal::BadInner));
        let mut no_vni = bytes;
        no_vni[8] = 0xf7;
        assert_eq!(Inner::parse(&no_vni, 4790), Err(Refusal::BadInner));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert_eq!(Vni::new(1 << 24), None);
        assert_eq!(INNER.to_bytes(65_536 - HEADERS), None);
        assert_eq!(INNER.to_bytes(usize::MAX), None);
        assert!(INNER.to_bytes(65_535 - HEADERS).is_some());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Inner::parse(&bytes, 4790);
        }
    }
}
