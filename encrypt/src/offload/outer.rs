//! What stands before VXLAN on the TAP: Ethernet, and IP from one tunnel end to the other.
//!
//! Neither is sent: ESP has the outer IP header as its own (RFC 4303 section 3.1.1), so only who it
//! is for, and its class, are taken out on one side and written anew on the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::Rejection;
use super::checksum;
use crate::inner::{self, Inner};

/// Bytes of an untagged Ethernet header.
pub const ETHERNET: usize = 14;
/// Bytes of the longest header that is written: Ethernet and IPv6.
pub const LONGEST: usize = ETHERNET + 40;
/// Bytes of the longest IP packet of UDP.
const LONGEST_IPV4: usize = 65_535;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

/// The headers before an inner frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Source address: a tunnel end of this node.
    pub source: IpAddr,
    /// Destination address: the tunnel end of the peer.
    pub destination: IpAddr,
    /// Type of service or traffic class; ECN is its two low bits (RFC 3168).
    pub tos: u8,
    /// UDP ports and VNI.
    pub inner: Inner,
    /// Where in the packet the inner frame is.
    pub frame: Range<usize>,
}

impl Outer {
    /// The headers of a packet that the kernel's VXLAN device sent, super-packet or not.
    ///
    /// Lengths in the headers are those of the whole super-packet. Bytes behind the IP packet are
    /// Ethernet padding and are left out. `port` is the inner port.
    ///
    /// # Errors
    /// [`Rejection::NotIp`], [`Rejection::NotTunnel`], [`Rejection::OuterHeader`] or
    /// [`Rejection::BadLength`].
    pub fn parse(packet: &[u8], port: u16) -> Result<Self, Rejection> {
        let (ethernet, ip) = packet
            .split_first_chunk::<ETHERNET>()
            .ok_or(Rejection::NotIp)?;
        let header = match [ethernet[12], ethernet[13]] {
            ETHERTYPE_IPV4 => Header::v4(ip)?,
            ETHERTYPE_IPV6 => Header::v6(ip)?,
            _ => return Err(Rejection::NotIp),
        };
        let datagram = ip
            .get(header.length..header.total)
            .ok_or(Rejection::BadLength)?;
        let destination = datagram.get(2..4).ok_or(Rejection::BadLength)?;
        if header.protocol != UDP || destination != port.to_be_bytes() {
            return Err(Rejection::NotTunnel);
        }
        let length = datagram.get(4..6).ok_or(Rejection::BadLength)?;
        if usize::from(u16::from_be_bytes([length[0], length[1]])) != datagram.len() {
            return Err(Rejection::BadLength);
        }
        let (inner, _) = Inner::parse(datagram, port).map_err(|_| Rejection::NotTunnel)?;
        Ok(Self {
            source: header.source,
            destination: header.destination,
            tos: header.tos,
            inner,
            frame: ETHERNET + header.length + inner::HEADERS..ETHERNET + header.total,
        })
    }
}

/// What is taken from an IP header.
struct Header {
    source: IpAddr,
    destination: IpAddr,
    tos: u8,
    protocol: u8,
    /// Bytes of the header.
    length: usize,
    /// Bytes of header and payload.
    total: usize,
}

impl Header {
    fn v4(ip: &[u8]) -> Result<Self, Rejection> {
        let header: &[u8; 20] = ip.first_chunk().ok_or(Rejection::BadLength)?;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        // 0x4000 is "don't fragment", all else in that word is of fragments.
        if header[0] != 0x45 || u16::from_be_bytes([header[6], header[7]]) & !0x4000 != 0 {
            return Err(Rejection::OuterHeader);
        }
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Ok(Self {
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            tos: header[1],
            protocol: header[9],
            length: header.len(),
            total,
        })
    }

    fn v6(ip: &[u8]) -> Result<Self, Rejection> {
        let (header, _) = ip.split_first_chunk::<40>().ok_or(Rejection::BadLength)?;
        let (first, addresses) = header.split_at(8);
        let (source, destination) = addresses.split_at(16);
        let address = |bytes: &[u8]| bytes.first_chunk().map(|b: &[u8; 16]| Ipv6Addr::from(*b));
        let (Some(source), Some(destination)) = (address(source), address(destination)) else {
            return Err(Rejection::BadLength);
        };
        if first[0] >> 4 != 6 {
            return Err(Rejection::OuterHeader);
        }
        Ok(Self {
            source: source.into(),
            destination: destination.into(),
            tos: first[0] << 4 | first[1] >> 4,
            protocol: first[6],
            length: header.len(),
            total: header.len() + usize::from(u16::from_be_bytes([first[4], first[5]])),
        })
    }
}

/// Headers that make a packet look as if the peer had sent it in clear to the kernel's VXLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapper {
    /// Source MAC address: any but the TAP's own.
    pub source_mac: [u8; 6],
    /// Destination MAC address: the TAP's, or the kernel takes it for somebody else's.
    pub mac: [u8; 6],
    /// Destination address: this node's tunnel end.
    pub local: IpAddr,
}

impl Wrapper {
    /// Bytes of the headers, Ethernet and IP.
    pub const fn length(&self) -> usize {
        match self.local {
            IpAddr::V4(_) => ETHERNET + 20,
            IpAddr::V6(_) => ETHERNET + 40,
        }
    }

    /// Most bytes of UDP datagram that the headers can announce.
    pub const fn longest_datagram(&self) -> usize {
        match self.local {
            IpAddr::V4(_) => LONGEST_IPV4 - 20,
            IpAddr::V6(_) => 65_535,
        }
    }

    /// Whether packets of this tunnel end can be written: it is of the same IP version.
    pub const fn takes(&self, peer: IpAddr) -> bool {
        self.local.is_ipv4() == peer.is_ipv4()
    }

    /// Writes the headers before a UDP datagram of this many bytes to the start of `out`, and
    /// returns how many they are: [`Wrapper::length`].
    ///
    /// `tos` is what the outer header of the ESP packet had: the kernel's VXLAN device copies its
    /// ECN to the inner packet (RFC 6040).
    ///
    /// # Errors
    /// [`Rejection::Family`] for a peer of the other IP version, [`Rejection::TooLong`] for a
    /// datagram longer than a packet may be.
    pub fn write(
        &self,
        peer: IpAddr,
        tos: u8,
        datagram: usize,
        out: &mut [u8; LONGEST],
    ) -> Result<usize, Rejection> {
        if datagram > self.longest_datagram() {
            return Err(Rejection::TooLong);
        }
        let (ethernet, ip) = out.split_at_mut(ETHERNET);
        ethernet[..6].copy_from_slice(&self.mac);
        ethernet[6..12].copy_from_slice(&self.source_mac);
        match (peer, self.local) {
            (IpAddr::V4(peer), IpAddr::V4(local)) => {
                ethernet[12..].copy_from_slice(&ETHERTYPE_IPV4);
                let total = (datagram + 20) as u16;
                let [l0, l1] = total.to_be_bytes();
                let ip = &mut ip[..20];
                ip[..12].copy_from_slice(&[0x45, tos, l0, l1, 0, 0, 0x40, 0, HOP_LIMIT, UDP, 0, 0]);
                ip[12..16].copy_from_slice(&peer.octets());
                ip[16..].copy_from_slice(&local.octets());
                let checksum = !checksum::sum(ip);
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            (IpAddr::V6(peer), IpAddr::V6(local)) => {
                ethernet[12..].copy_from_slice(&ETHERTYPE_IPV6);
                let [l0, l1] = (datagram as u16).to_be_bytes();
                let first = [0x60 | tos >> 4, tos << 4, 0, 0, l0, l1, UDP, HOP_LIMIT];
                ip[..8].copy_from_slice(&first);
                ip[8..24].copy_from_slice(&peer.octets());
                ip[24..].copy_from_slice(&local.octets());
            }
            _ => return Err(Rejection::Family),
        }
        Ok(self.length())
    }
}
