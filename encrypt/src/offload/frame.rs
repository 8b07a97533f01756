//! Where in an inner frame TCP or UDP is.

use std::ops::Range;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERNET: usize = 14;
/// 802.1Q and 802.1ad tags that are looked behind.
const MOST_TAGS: usize = 2;
/// Odd, with bits of no pattern (2^64 divided by the golden ratio).
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// TCP or UDP in IP in an Ethernet frame, not fragmented, all lengths right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// IPv6, else IPv4.
    pub(crate) v6: bool,
    /// Where the IP header begins.
    pub(crate) ip: usize,
    /// [`TCP`] or [`UDP`].
    pub(crate) protocol: u8,
    /// Where the transport header begins.
    pub(crate) transport: usize,
    /// Where the payload begins; it ends with the frame.
    pub(crate) payload: usize,
}

impl Frame {
    /// Looks into a frame. IPv4 options and VLAN tags are passed over.
    ///
    /// Nothing is found if it is no IP, not TCP or UDP, a fragment, has IPv6 extension headers,
    /// padding behind the IP packet, or a length in a header that is not right.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (ip, kind) = behind_tags(bytes)?;
        let packet = bytes.get(ip..)?;
        let (v6, (protocol, header)) = match kind {
            IPV4 => (false, ipv4(packet)?),
            IPV6 => (true, ipv6(packet)?),
            _ => return None,
        };
        let transport = ip + header;
        let segment = bytes.get(transport..)?;
        let header = match protocol {
            TCP => tcp(segment)?,
            UDP => udp(segment)?,
            _ => return None,
        };
        Some(Self {
            v6,
            ip,
            protocol,
            transport,
            payload: transport + header,
        })
    }

    /// Whether the frame is certainly not of a TCP or UDP flow. IPv6 extension headers may hide one.
    pub(crate) fn is_of_another_protocol(bytes: &[u8]) -> bool {
        let Some((ip, kind)) = behind_tags(bytes) else {
            return true;
        };
        match kind {
            IPV4 => !matches!(bytes.get(ip + 9), Some(&TCP | &UDP)),
            IPV6 => bytes.get(ip + 6) == Some(&ICMPV6),
            _ => true,
        }
    }

    /// Where the source and destination addresses are, one behind the other.
    pub(crate) fn addresses(&self) -> Range<usize> {
        if self.v6 {
            self.ip + 8..self.ip + 40
        } else {
            self.ip + 12..self.ip + 20
        }
    }

    /// Hash of addresses, ports and protocol; its high bits are the best ones.
    ///
    /// Those who can choose them can make flows share a hash, so nothing but speed may depend on it.
    pub(crate) fn flow(&self, frame: &[u8]) -> u64 {
        let addresses = frame.get(self.addresses()).unwrap_or_default();
        let ports = frame.get(self.transport..self.transport + 4);
        let (addresses, _) = addresses.as_chunks::<4>();
        let (ports, _) = ports.unwrap_or_default().as_chunks::<4>();
        let words = addresses.iter().chain(ports);
        words
            .fold(u64::from(self.protocol), |hash, word| {
                (hash ^ u64::from(u32::from_ne_bytes(*word)))
                    .wrapping_mul(MIX)
                    .rotate_left(29)
            })
            .wrapping_mul(MIX)
    }

    /// Where the checksum is in the transport header.
    pub(crate) fn checksum_offset(&self) -> usize {
        if self.protocol == TCP { 16 } else { 6 }
    }
}

/// Where what is behind Ethernet and VLAN tags begins, and its type.
fn behind_tags(bytes: &[u8]) -> Option<(usize, [u8; 2])> {
    let mut at = ETHERNET;
    let mut kind = chunk(bytes, at - 2)?;
    for _ in 0..MOST_TAGS {
        if matches!(kind, [0x81, 0x00] | [0x88, 0xa8]) {
            kind = chunk(bytes, at + 2)?;
            at += 4;
        }
    }
    Some((at, kind))
}

/// Protocol and header length of an unfragmented IPv4 packet.
fn ipv4(packet: &[u8]) -> Option<(u8, usize)> {
    let fixed: &[u8; 20] = packet.first_chunk()?;
    let header = usize::from(fixed[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & !0x4000 != 0;
    let fine = fixed[0] >> 4 == 4 && header >= 20 && total == packet.len() && !fragment;
    (fine && header <= total).then_some((fixed[9], header))
}

/// Next header and header length of an IPv6 packet.
fn ipv6(packet: &[u8]) -> Option<(u8, usize)> {
    let fixed: &[u8; 40] = packet.first_chunk()?;
    let payload = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    (fixed[0] >> 4 == 6 && payload == packet.len() - fixed.len()).then_some((fixed[6], fixed.len()))
}

/// Header length of a TCP segment.
fn tcp(segment: &[u8]) -> Option<usize> {
    let fixed: &[u8; 20] = segment.first_chunk()?;
    let header = usize::from(fixed[12] >> 4) * 4;
    (header >= 20 && header <= segment.len()).then_some(header)
}

/// Header length of a UDP datagram.
fn udp(segment: &[u8]) -> Option<usize> {
    let fixed: &[u8; 8] = segment.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    (length == segment.len()).then_some(fixed.len())
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
