//! Why a packet was neither taken apart nor put together.

use serde::{Deserialize, Serialize};

/// Why a packet from or for a TAP was refused. It is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Rejection {
    /// The packet is shorter than the virtio network header.
    #[error("packet is shorter than the virtio network header before it")]
    ShortVnet,
    /// The packet, or what is wrapped in it, has a length that it cannot have.
    #[error("length in a header of the packet is not the length of the packet")]
    BadLength,
    /// No IP packet: what the kernel says of its own accord on the device, such as ARP.
    #[error("packet on the tunnel device is neither ipv4 nor ipv6")]
    NotIp,
    /// IP, and no VXLAN datagram to the port of encrypted networks.
    #[error("packet is not a vxlan datagram to the port of encrypted networks")]
    NotTunnel,
    /// Outer IP header with a fragment, or with options or extension headers.
    #[error("outer ip header is of a fragment or has options: a plain one is accepted")]
    OuterHeader,
    /// The virtio header asks for something that was not offered, or contradicts itself.
    #[error("segmentation asked for is unknown or contradictory: tcp and udp (uso) are accepted")]
    BadOffload,
    /// The checksum to finish is not within the frame.
    #[error("checksum to finish lies outside the frame")]
    BadChecksumOffset,
    /// The headers of a super-packet are not such that it can be taken apart.
    #[error(
        "frame to segment is not tcp or udp directly in ipv4 or ipv6, or is a fragment: only that \
         can be segmented"
    )]
    Unsegmentable,
    /// More segments than anybody makes.
    #[error("super-packet has more than {} segments", super::MAX_SEGMENTS)]
    TooManySegments,
    /// Longer than a UDP datagram can be.
    #[error("frame is longer than a datagram takes")]
    TooLong,
    /// The tunnel ends are of different IP versions.
    #[error("tunnel end of the peer is of another ip version than this node's")]
    Family,
}

/// How many packets were refused, by [`Rejection`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each is documented at the variant of Rejection that has its name"
)]
pub struct RejectionCounters {
    pub short_vnet: u64,
    pub bad_length: u64,
    pub not_ip: u64,
    pub not_tunnel: u64,
    pub outer_header: u64,
    pub bad_offload: u64,
    pub bad_checksum_offset: u64,
    pub unsegmentable: u64,
    pub too_many_segments: u64,
    pub too_long: u64,
    pub family: u64,
}

impl RejectionCounters {
    /// Counts a packet.
    pub fn count(&mut self, cause: Rejection) {
        let counter = match cause {
            Rejection::ShortVnet => &mut self.short_vnet,
            Rejection::BadLength => &mut self.bad_length,
            Rejection::NotIp => &mut self.not_ip,
            Rejection::NotTunnel => &mut self.not_tunnel,
            Rejection::OuterHeader => &mut self.outer_header,
            Rejection::BadOffload => &mut self.bad_offload,
            Rejection::BadChecksumOffset => &mut self.bad_checksum_offset,
            Rejection::Unsegmentable => &mut self.unsegmentable,
            Rejection::TooManySegments => &mut self.too_many_segments,
            Rejection::TooLong => &mut self.too_long,
            Rejection::Family => &mut self.family,
        };
        *counter = counter.wrapping_add(1);
    }
}
