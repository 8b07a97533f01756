//! Frames made by another implementation (`etherparse`), and super-packets as a kernel makes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, TcpHeader,
};
use proptest::prelude::*;

use super::outer::{self, Wrapper};
use super::vnet::{
    GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_UDP_TUNNEL_IPV4, GSO_UDP_TUNNEL_IPV6,
    NEEDS_CSUM, Vnet,
};
use crate::inner::{HEADERS, Inner, Vni};

pub(crate) const PORT: u16 = 4790;
pub(crate) const LOCAL4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub(crate) const PEER4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
pub(crate) const LOCAL6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
pub(crate) const PEER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
const ETHERNET: usize = 14;

/// A flow, and what a packet of it carries.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    /// Last byte of the addresses.
    pub(crate) host: u8,
    pub(crate) source: u16,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) may_fragment: bool,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) window: u16,
    pub(crate) fin: bool,
    pub(crate) psh: bool,
    pub(crate) cwr: bool,
    /// TCP options, as many as are a multiple of four.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    /// A packet with this payload, whose other fields are of no interest.
    pub(crate) fn plain(v6: bool, tcp: bool, payload: &[u8]) -> Self {
        Self {
            v6,
            tcp,
            host: 7,
            source: 40_000,
            tos: 0,
            ttl: 64,
            id: 0xfffe,
            may_fragment: false,
            sequence: 0xffff_ff00,
            acknowledgment: 77,
            window: 500,
            fin: false,
            psh: false,
            cwr: false,
            options: vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8],
            payload: payload.to_vec(),
        }
    }

    /// The complete frame, all checksums right.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut out = Vec::new();
        let kind = if self.tcp {
            IpNumber::TCP
        } else {
            IpNumber::UDP
        };
        let ip = if self.v6 {
            let mut header = Ipv6Header {
                traffic_class: self.tos,
                flow_label: Ipv6FlowLabel::try_new(0x4_2424).unwrap(),
                hop_limit: self.ttl,
                next_header: kind,
                ..Ipv6Header::default()
            };
            header.source = [0xfd; 16];
            header.destination = [0xfd; 16];
            header.source[15] = self.host;
            header.destination[15] = 200;
            ethernet.ip(etherparse::IpHeaders::Ipv6(header, Default::default()))
        } else {
            let source = [10, 0, 0, self.host];
            let mut header = Ipv4Header::new(0, self.ttl, kind, source, [10, 0, 0, 200]).unwrap();
            header.dscp = (self.tos >> 2).try_into().unwrap();
            header.ecn = (self.tos & 3).try_into().unwrap();
            header.identification = self.id;
            header.dont_fragment = !self.may_fragment;
            header.fragment_offset = IpFragOffset::ZERO;
            ethernet.ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
        };
        if self.tcp {
            let mut tcp = TcpHeader::new(self.source, 80, self.sequence, self.window);
            tcp.acknowledgment_number = self.acknowledgment;
            (tcp.ack, tcp.fin, tcp.psh, tcp.cwr) = (true, self.fin, self.psh, self.cwr);
            tcp.set_options_raw(&self.options).unwrap();
            ip.tcp_header(tcp).write(&mut out, &self.payload).unwrap();
        } else {
            let builder = ip.udp(self.source, 53);
            builder.write(&mut out, &self.payload).unwrap();
        }
        out
    }

    /// The frames that segmentation has to make of it.
    pub(crate) fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let parts: Vec<&[u8]> = self.payload.chunks(size).collect();
        let mut out = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            let mut packet = self.clone();
            packet.payload = part.to_vec();
            packet.id = self.id.wrapping_add(index as u16);
            packet.sequence = self.sequence.wrapping_add((index * size) as u32);
            packet.fin &= is_last;
            packet.psh &= is_last;
            packet.cwr &= index == 0;
            out.push(packet.frame());
        }
        out
    }

    /// Bytes of headers before the payload.
    pub(crate) fn headers(&self) -> usize {
        let transport = if self.tcp { 20 + self.options.len() } else { 8 };
        self.transport() + transport
    }

    /// Where TCP or UDP begins.
    pub(crate) fn transport(&self) -> usize {
        ETHERNET + if self.v6 { 40 } else { 20 }
    }

    fn checksum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    /// The super-packet as a kernel gives it away on a bridge port: the checksum field has the sum
    /// of the pseudo-header only.
    pub(crate) fn super_frame(&self, size: usize) -> (Vnet, Vec<u8>) {
        let mut frame = self.frame();
        let transport = self.transport();
        let at = transport + self.checksum_offset();
        frame[at..at + 2].copy_from_slice(&0xabcd_u16.to_be_bytes());
        let kind = match (self.tcp, self.v6) {
            (true, false) => GSO_TCPV4,
            (true, true) => GSO_TCPV6,
            _ => GSO_UDP_L4,
        };
        let vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type: kind | if self.cwr { GSO_ECN } else { 0 },
            hdr_len: self.headers() as u16,
            gso_size: size as u16,
            csum_start: transport as u16,
            csum_offset: self.checksum_offset() as u16,
            ..Vnet::default()
        };
        (vnet, frame)
    }
}

pub(crate) fn inner() -> Inner {
    Inner {
        source: 55_555,
        destination: PORT,
        vni: Vni::new(4711).unwrap(),
    }
}

pub(crate) fn wrapper(v6: bool) -> Wrapper {
    Wrapper {
        source_mac: [2, 0, 0, 0, 9, 9],
        mac: [2, 0, 0, 0, 8, 8],
        local: if v6 { LOCAL6 } else { LOCAL4 },
    }
}

pub(crate) fn peer(v6: bool) -> IpAddr {
    if v6 { PEER6 } else { PEER4 }
}

/// The frame and its virtio header as the kernel's VXLAN device sends them.
pub(crate) fn in_tunnel(mut vnet: Vnet, frame: &[u8], v6: bool) -> (Vnet, Vec<u8>) {
    let mut header = [0; outer::LONGEST];
    let length = wrapper(v6)
        .write(peer(v6), 3, frame.len() + HEADERS, &mut header)
        .unwrap();
    let before = length + HEADERS;
    let datagram = inner().to_bytes(frame.len()).unwrap();
    if vnet.is_super_packet() {
        vnet.gso_type |= if v6 {
            GSO_UDP_TUNNEL_IPV6
        } else {
            GSO_UDP_TUNNEL_IPV4
        };
    }
    vnet.csum_start += before as u16;
    vnet.hdr_len += before as u16;
    vnet.outer_th_offset = length as u16;
    vnet.inner_nh_offset = (before + ETHERNET) as u16;
    (vnet, [&header[..length], &datagram, frame].concat())
}

prop_compose! {
    /// Any packet that may be segmented.
    pub(crate) fn packets(longest: usize)(
        (v6, tcp, may_fragment) in any::<(bool, bool, bool)>(),
        (host, source) in (1u8..100, any::<u16>()),
        (tos, ttl, id) in any::<(u8, u8, u16)>(),
        (sequence, acknowledgment, window) in any::<(u32, u32, u16)>(),
        (fin, psh, cwr) in any::<(bool, bool, bool)>(),
        options in prop::collection::vec(any::<[u8; 4]>(), 0..=10),
        payload in prop::collection::vec(any::<u8>(), 1..longest),
    ) -> Packet {
        let options = options.concat();
        Packet {
            v6, tcp, host, source, tos, ttl, id, may_fragment, sequence, acknowledgment, window,
            fin, psh, cwr, options, payload,
        }
    }
}
