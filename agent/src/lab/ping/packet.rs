//! Echo requests and replies as bytes.

use std::net::IpAddr;

use crate::lab::PATTERN;

/// Type of an echo request and its reply: RFC 792, page 14; RFC 4443, sections 4.1 and 4.2.
const TYPES_V4: (u8, u8) = (8, 0);
const TYPES_V6: (u8, u8) = (128, 129);
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const ICMP_HEADER: usize = 8;
/// The number of the request, in the data; the sequence number of ICMP is too short for long runs.
const NUMBER: usize = 8;

/// A run of requests from one process to one address.
pub(super) struct Echo {
    v6: bool,
    identifier: u16,
    request: Vec<u8>,
}

impl Echo {
    /// Requests that make IP packets of `size` bytes, as far as there is room for a header.
    pub(super) fn new(to: IpAddr, size: u16, process: u32) -> Self {
        let v6 = to.is_ipv6();
        let header = if v6 { IPV6_HEADER } else { IPV4_HEADER };
        let length = usize::from(size)
            .saturating_sub(header)
            .max(ICMP_HEADER + NUMBER);
        let [.., high, low] = process.to_be_bytes();
        Self {
            v6,
            identifier: u16::from_be_bytes([high, low]),
            request: vec![PATTERN; length],
        }
    }

    /// The request of that number.
    pub(super) fn request(&mut self, number: u64) -> &[u8] {
        let kind = if self.v6 { TYPES_V6.0 } else { TYPES_V4.0 };
        let mut head = [0; ICMP_HEADER + NUMBER];
        head[0] = kind;
        head[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        let [.., high, low] = number.to_be_bytes();
        head[6..8].copy_from_slice(&[high, low]);
        head[8..].copy_from_slice(&number.to_be_bytes());
        if let Some(start) = self.request.first_chunk_mut() {
            *start = head;
        }
        // The kernel fills in the checksum of ICMPv6 (RFC 3542, section 3.1).
        if !self.v6 {
            let sum = checksum(&self.request).to_be_bytes();
            self.request[2..4].copy_from_slice(&sum);
        }
        &self.request
    }

    /// The number of the request that a received packet answers. IPv4 raw sockets deliver the
    /// packet with its header (raw(7)), IPv6 ones without.
    pub(super) fn reply(&self, packet: &[u8]) -> Option<u64> {
        let message = if self.v6 {
            packet
        } else {
            packet.get(usize::from(packet.first()? & 0x0f) * 4..)?
        };
        let kind = if self.v6 { TYPES_V6.1 } else { TYPES_V4.1 };
        let identifier = message.get(4..6)?;
        if *message.first()? != kind || identifier != self.identifier.to_be_bytes() {
            return None;
        }
        message
            .get(ICMP_HEADER..)?
            .first_chunk()
            .map(|number| u64::from_be_bytes(*number))
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).fold(0_u64, |sum, pair| {
        let high = u64::from(pair.first().copied().unwrap_or(0));
        sum + (high << 8) + u64::from(pair.get(1).copied().unwrap_or(0))
    });
    let folded = (0..3).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16));
    !u16::try_from(folded).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_reply(request: &[u8], kind: u8, header: usize) -> Vec<u8> {
        let mut packet = vec![0; header];
        if header > 0 {
            packet[0] = 0x40 | u8::try_from(header / 4).unwrap();
        }
        packet.extend_from_slice(request);
        packet[header] = kind;
        packet
    }

    #[test]
    fn a_request_has_the_length_asked_for_and_a_checksum_that_adds_up() {
        for size in [44_u16, 84, 1450, 1451] {
            let mut echo = Echo::new("10.0.0.1".parse().unwrap(), size, 0x1234_5678);
            let request = echo.request(7).to_vec();
            assert_eq!(request.len(), usize::from(size) - IPV4_HEADER);
            assert_eq!((request[0], &request[4..8]), (8, &[0x56, 0x78, 0, 7][..]));
            // RFC 1071: the sum over data with its checksum is all ones.
            assert_eq!(checksum(&request), 0);
            assert_eq!(echo.request(7), request);
        }
    }

    #[test]
    fn only_replies_to_own_requests_are_taken() {
        let mut echo = Echo::new("10.0.0.1".parse().unwrap(), 84, 1);
        let request = echo.request(70_000).to_vec();
        for header in [20, 24] {
            assert_eq!(echo.reply(&as_reply(&request, 0, header)), Some(70_000));
        }
        assert_eq!(echo.reply(&as_reply(&request, 8, 20)), None, "a request");
        let other = Echo::new("10.0.0.1".parse().unwrap(), 84, 2);
        assert_eq!(
            other.reply(&as_reply(&request, 0, 20)),
            None,
            "another process"
        );
        let mut six = Echo::new("fd00::1".parse().unwrap(), 84, 1);
        let request = six.request(3).to_vec();
        assert_eq!(
            (request.len(), six.reply(&as_reply(&request, 129, 0))),
            (44, Some(3))
        );
    }

    #[test]
    fn packets_that_are_cut_short_are_no_replies() {
        let mut echo = Echo::new("10.0.0.1".parse().unwrap(), 84, 1);
        let packet = as_reply(echo.request(1), 0, 20);
        for length in 0..IPV4_HEADER + ICMP_HEADER + NUMBER {
            assert_eq!(echo.reply(&packet[..length]), None, "{length}");
        }
    }
}
