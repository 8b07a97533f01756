//! The virtio network header (virtio 1.4 section 5.1.6, `include/uapi/linux/virtio_net.h`) that
//! stands before each packet of a TAP with `IFF_VNET_HDR`, little-endian (`TUNSETVNETLE`).

use super::Rejection;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum from `csum_start` is to be finished.
pub const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum has been found right.
pub const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM`: the segments' outer UDP checksums are to be written.
pub const UDP_TUNNEL_CSUM: u8 = 8;

/// `VIRTIO_NET_HDR_GSO_NONE`.
pub const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
pub const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`.
pub const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`: datagrams of `gso_size` bytes of payload, not fragments.
pub const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4`: what is to be segmented is within UDP in IPv4.
pub const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
/// `VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV6`: what is to be segmented is within UDP in IPv6.
pub const GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
/// `VIRTIO_NET_HDR_GSO_ECN`: the TCP segment has CWR set, which is for the first one only.
pub const GSO_ECN: u8 = 0x80;

/// How long the header is (`TUNSETVNETHDRSZ`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `struct virtio_net_hdr`: 10 bytes, a TAP's default.
    Basic,
    /// `struct virtio_net_hdr_mrg_rxbuf`: with `num_buffers`, 12 bytes.
    Buffers,
    /// `struct virtio_net_hdr_v1_hash_tunnel`: with the offsets of a tunnel, 24 bytes.
    Tunnel,
}

impl Layout {
    /// Bytes of the longest.
    pub const LONGEST: usize = 24;

    /// Bytes of the header.
    pub const fn length(self) -> usize {
        match self {
            Self::Basic => 10,
            Self::Buffers => 12,
            Self::Tunnel => 24,
        }
    }
}

/// A virtio network header. Nothing in it is checked; fields that the layout lacks are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vnet {
    /// [`NEEDS_CSUM`], [`DATA_VALID`], [`UDP_TUNNEL_CSUM`].
    pub flags: u8,
    /// `GSO_*` of this module.
    pub gso_type: u8,
    /// Bytes of all headers of a super-packet; a hint when read.
    pub hdr_len: u16,
    /// Bytes of payload per segment.
    pub gso_size: u16,
    /// Where the checksum begins: bytes from the start of the packet.
    pub csum_start: u16,
    /// Where the checksum is to be written: bytes from `csum_start`.
    pub csum_offset: u16,
    /// Receive buffers that the packet is in; a TAP ignores it.
    pub num_buffers: u16,
    /// Where the outer UDP header is: bytes from the start of the packet.
    pub outer_th_offset: u16,
    /// Where the inner IP header is: bytes from the start of the packet.
    pub inner_nh_offset: u16,
}

impl Vnet {
    /// The header at the start of what was read from a TAP, and the packet behind it.
    ///
    /// # Errors
    /// [`Rejection::ShortVnet`] if it is cut off.
    pub fn parse(bytes: &[u8], layout: Layout) -> Result<(Self, &[u8]), Rejection> {
        let (header, packet) = bytes
            .split_at_checked(layout.length())
            .ok_or(Rejection::ShortVnet)?;
        let mut all = [0; Layout::LONGEST];
        for (to, from) in all.iter_mut().zip(header) {
            *to = *from;
        }
        let field = |at: usize| u16::from_le_bytes([all[at], all[at + 1]]);
        let vnet = Self {
            flags: all[0],
            gso_type: all[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
            num_buffers: field(10),
            // Bytes 12 to 19 are hash value, hash report and padding: of no use here.
            outer_th_offset: field(20),
            inner_nh_offset: field(22),
        };
        Ok((vnet, packet))
    }

    /// The header's bytes; only the first `layout.length()` of them are it.
    pub fn to_bytes(&self) -> [u8; Layout::LONGEST] {
        let mut bytes = [0; Layout::LONGEST];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        for (at, value) in [
            (2, self.hdr_len),
            (4, self.gso_size),
            (6, self.csum_start),
            (8, self.csum_offset),
            (10, self.num_buffers),
            (20, self.outer_th_offset),
            (22, self.inner_nh_offset),
        ] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Whether the packet is to be segmented.
    pub const fn is_super_packet(&self) -> bool {
        self.gso_type & !GSO_ECN != GSO_NONE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Layout; 3] = [Layout::Basic, Layout::Buffers, Layout::Tunnel];

    #[test]
    fn the_header_of_a_tunnel_super_packet_as_linux_writes_it_is_read() {
        // Seen on 6.18: TCP in IPv4 within VXLAN in IPv4.
        let bytes = [
            0x09, 0x21, 0x74, 0, 0x4c, 0x05, 84, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 34, 0, 64,
            0, 0xee,
        ];
        let (vnet, packet) = Vnet::parse(&bytes, Layout::Tunnel).unwrap();
        assert_eq!(packet, [0xee]);
        assert_eq!(
            vnet,
            Vnet {
                flags: NEEDS_CSUM | UDP_TUNNEL_CSUM,
                gso_type: GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4,
                hdr_len: 116,
                gso_size: 1356,
                csum_start: 84,
                csum_offset: 16,
                num_buffers: 0,
                outer_th_offset: 34,
                inner_nh_offset: 64,
            }
        );
        assert!(vnet.is_super_packet());
        assert_eq!(vnet.to_bytes(), bytes[..24]);
    }

    #[test]
    fn a_header_that_is_cut_off_is_refused() {
        for layout in ALL {
            for length in 0..layout.length() {
                assert_eq!(
                    Vnet::parse(&[0xff; 24][..length], layout),
                    Err(Rejection::ShortVnet)
                );
            }
            let (vnet, packet) = Vnet::parse(&[0xff; 24][..layout.length()], layout).unwrap();
            assert!(packet.is_empty());
            assert_eq!(vnet.num_buffers == 0, layout == Layout::Basic);
            assert_eq!(vnet.outer_th_offset == 0, layout != Layout::Tunnel);
        }
    }

    proptest! {
        #[test]
        fn what_was_read_is_written_again(mut bytes in any::<[u8; 24]>()) {
            bytes[12..20].fill(0);
            for layout in ALL {
                let (vnet, rest) = Vnet::parse(&bytes, layout).unwrap();
                prop_assert_eq!(rest, &bytes[layout.length()..]);
                prop_assert_eq!(&vnet.to_bytes()[..layout.length()], &bytes[..layout.length()]);
            }
        }
    }
}
