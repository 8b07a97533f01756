//! A packet for the TAP that grows.

use std::net::IpAddr;

use super::candidate::Candidate;
use super::{Arrival, Config, Form, MAX_DATAGRAMS, MAX_PIECES};
use crate::inner::{self, Inner, Vni};
use crate::offload::frame::{Frame, TCP, UDP};
use crate::offload::vnet::{
    DATA_VALID, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_UDP_TUNNEL_IPV4, GSO_UDP_TUNNEL_IPV6, Layout,
    NEEDS_CSUM, Vnet,
};
use crate::offload::{Rejection, checksum, outer};

/// Ethernet, IPv6 and the longest TCP header.
const LONGEST_INNER: usize = outer::ETHERNET + 40 + 60;
/// Most bytes of headers: virtio, outer, UDP and VXLAN, inner.
const LONGEST: usize = Layout::LONGEST + outer::LONGEST + inner::HEADERS + LONGEST_INNER;
const PSH: u8 = 0x08;

/// One frame, or the headers of several.
#[derive(Debug)]
pub(super) struct Entry {
    bytes: [u8; LONGEST],
    /// Bytes of headers in `bytes`.
    length: usize,
    /// Where in `bytes` the inner frame begins.
    inner_frame: usize,
    peer: IpAddr,
    tos: u8,
    inner: Inner,
    /// Index of the first piece.
    pub(super) head: usize,
    /// Index of the last piece.
    pub(super) tail: usize,
    segments: usize,
    group: Option<Group>,
}

/// What is known of segments that are, or could be, merged.
#[derive(Clone, Debug)]
struct Group {
    shape: Frame,
    /// Bytes of payload per segment.
    size: usize,
    /// Bytes of payload in all.
    payload: usize,
    sequence: u32,
    id: u16,
    /// How the second segment's identification differed from the first one's.
    step: Option<u16>,
    has_push: bool,
}

impl Entry {
    /// A packet of one frame. The headers of a candidate are copied, and its piece begins behind
    /// them; of another frame all is in the piece.
    pub(super) fn new(
        config: &Config,
        arrival: &Arrival,
        frame: &[u8],
        candidate: Option<&Candidate>,
        piece: usize,
    ) -> Result<Self, Rejection> {
        let mut entry = Self {
            bytes: [0; LONGEST],
            length: 0,
            inner_frame: 0,
            peer: arrival.peer,
            tos: arrival.tos,
            inner: arrival.inner,
            head: piece,
            tail: piece,
            segments: 1,
            group: candidate.map(Group::new),
        };
        entry.write_outer(config, frame.len())?;
        if let Some(candidate) = candidate {
            if Candidate::may_be_called_valid(config) {
                entry.bytes[0] = DATA_VALID;
            }
            let headers = frame
                .get(..candidate.shape.payload)
                .ok_or(Rejection::BadLength)?;
            let end = entry.inner_frame + headers.len();
            entry
                .bytes
                .get_mut(entry.inner_frame..end)
                .ok_or(Rejection::BadLength)?
                .copy_from_slice(headers);
            entry.length = end;
        }
        Ok(entry)
    }

    /// Writes what stands before a frame of this many bytes, but for the virtio header.
    fn write_outer(&mut self, config: &Config, frame: usize) -> Result<(), Rejection> {
        let at = match config.form {
            Form::Frame(layout) => layout.length(),
            Form::Tunnel(wrapper) => {
                let datagram = self.inner.to_bytes(frame).ok_or(Rejection::TooLong)?;
                let (_, out) = self.bytes.split_at_mut(Layout::Tunnel.length());
                let header = out.first_chunk_mut().ok_or(Rejection::BadLength)?;
                let length = wrapper.write(self.peer, self.tos, frame + inner::HEADERS, header)?;
                out[length..length + inner::HEADERS].copy_from_slice(&datagram);
                Layout::Tunnel.length() + length + inner::HEADERS
            }
        };
        self.inner_frame = at;
        self.length = self.length.max(at);
        Ok(())
    }

    /// Whether this frame continues the packet, so that segmentation would give both back.
    pub(super) fn takes(
        &self,
        arrival: &Arrival,
        frame: &[u8],
        candidate: &Candidate,
        longest: usize,
    ) -> bool {
        let Some(group) = &self.group else {
            return false;
        };
        let most = if candidate.shape.protocol == UDP {
            MAX_DATAGRAMS
        } else {
            MAX_PIECES
        };
        let headers = self.bytes.get(self.inner_frame..self.length);
        self.segments < most
            && group.shape.payload + group.payload + candidate.payload <= longest
            && (self.peer, self.tos, self.inner) == (arrival.peer, arrival.tos, arrival.inner)
            && group.continues(candidate, self.segments, headers.unwrap_or_default())
            && headers.is_some_and(|headers| are_alike(headers, frame, &group.shape))
    }

    /// Takes in a frame that [`Entry::takes`]. Returns whether it was the last one.
    pub(super) fn grow(&mut self, piece: usize, candidate: &Candidate) -> bool {
        self.tail = piece;
        self.segments += 1;
        match &mut self.group {
            Some(group) => group.grow(candidate),
            None => true,
        }
    }

    /// Makes a super-packet of it, if it has several segments.
    pub(super) fn finish(&mut self, config: &Config) {
        let Some(group) = self.group.take_if(|_| self.segments > 1) else {
            return;
        };
        let frame = group.shape.payload + group.payload;
        // It did fit a shorter frame, and `takes` knows how long this one may be.
        if self.write_outer(config, frame).is_err() {
            return;
        }
        let (before, headers) = self.bytes.split_at_mut(self.inner_frame);
        group.finish(headers, frame);
        let layout = match config.form {
            Form::Tunnel(_) => Layout::Tunnel,
            Form::Frame(layout) => layout,
        };
        let packet = before.len() - layout.length();
        let vnet = group.vnet(config, packet).to_bytes();
        before[..layout.length()].copy_from_slice(&vnet[..layout.length()]);
    }

    /// The bytes before the first piece.
    pub(super) fn headers(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Which network it is of.
    pub(super) fn vni(&self) -> Vni {
        self.inner.vni
    }

    /// How many frames it has.
    pub(super) fn segments(&self) -> usize {
        self.segments
    }
}

impl Group {
    fn new(candidate: &Candidate) -> Self {
        Self {
            shape: candidate.shape.clone(),
            size: candidate.payload,
            payload: candidate.payload,
            sequence: candidate.sequence,
            id: candidate.id,
            step: None,
            has_push: candidate.last,
        }
    }

    /// Whether sizes, sequence number and identification of this one follow.
    fn continues(&self, candidate: &Candidate, segments: usize, headers: &[u8]) -> bool {
        let sequence = self.sequence.wrapping_add(self.payload as u32);
        candidate.shape == self.shape
            && candidate.payload <= self.size
            && (self.shape.protocol == UDP || candidate.sequence == sequence)
            && (self.shape.v6 || self.follows(candidate.id, segments, headers))
    }

    /// Whether the identification is one more than the last segment's, as segmentation makes it, or
    /// the same in all of a flow that must not be fragmented.
    fn follows(&self, id: u16, segments: usize, headers: &[u8]) -> bool {
        let difference = id.wrapping_sub(self.id);
        let is_atomic = headers
            .get(self.shape.ip + 6)
            .is_some_and(|flags| flags & 0x40 != 0);
        let grows = difference == segments as u16 && self.step != Some(0);
        let stays = difference == 0 && is_atomic && self.step.is_none_or(|step| step == 0);
        grows || stays
    }

    /// Returns whether nothing may follow.
    fn grow(&mut self, candidate: &Candidate) -> bool {
        self.payload += candidate.payload;
        self.step.get_or_insert(candidate.id.wrapping_sub(self.id));
        self.has_push = candidate.last;
        candidate.last || candidate.payload < self.size
    }

    /// Makes the first segment's headers those of the whole, `frame` bytes long.
    fn finish(&self, headers: &mut [u8], frame: usize) {
        let Frame { ip, transport, .. } = self.shape;
        let length = frame - transport;
        if self.shape.v6 {
            put(headers, ip + 4, length as u16);
        } else {
            put(headers, ip + 2, (frame - ip) as u16);
            put(headers, ip + 10, 0);
            let sum = checksum::sum(&headers[ip..transport]);
            put(headers, ip + 10, !sum);
        }
        if self.shape.protocol == TCP {
            headers[transport + 13] |= if self.has_push { PSH } else { 0 };
        } else {
            put(headers, transport + 4, length as u16);
        }
        // Of an open checksum, the field has the pseudo-header's share, not complemented.
        let addresses = &headers[self.shape.addresses()];
        let pseudo = checksum::pseudo(addresses, self.shape.protocol, length);
        put(headers, transport + self.shape.checksum_offset(), pseudo);
    }

    /// The virtio header of the whole, whose inner frame begins at this byte.
    fn vnet(&self, config: &Config, packet: usize) -> Vnet {
        let kind = match (self.shape.protocol, self.shape.v6) {
            (TCP, false) => GSO_TCPV4,
            (TCP, true) => GSO_TCPV6,
            _ => GSO_UDP_L4,
        };
        let mut vnet = Vnet {
            flags: NEEDS_CSUM,
            gso_type: kind,
            hdr_len: (packet + self.shape.payload) as u16,
            gso_size: self.size as u16,
            csum_start: (packet + self.shape.transport) as u16,
            csum_offset: self.shape.checksum_offset() as u16,
            ..Vnet::default()
        };
        if let Form::Tunnel(wrapper) = config.form {
            vnet.gso_type |= match wrapper.local {
                IpAddr::V4(_) => GSO_UDP_TUNNEL_IPV4,
                IpAddr::V6(_) => GSO_UDP_TUNNEL_IPV6,
            };
            vnet.outer_th_offset = wrapper.length() as u16;
            vnet.inner_nh_offset = (packet + self.shape.ip) as u16;
        }
        vnet
    }
}

/// Whether all in two frames' headers is the same that is not a length, a checksum, a position in
/// the flow or PSH. Both have this shape.
fn are_alike(a: &[u8], b: &[u8], shape: &Frame) -> bool {
    let same = |from: usize, to: usize| a.get(from..to).is_some_and(|a| b.get(from..to) == Some(a));
    let Frame { ip, transport, .. } = *shape;
    let is_ip_alike = if shape.v6 {
        same(0, ip + 4) && same(ip + 6, transport)
    } else {
        same(0, ip + 2) && same(ip + 6, ip + 10) && same(ip + 12, transport)
    };
    let is_transport_alike = if shape.protocol == TCP {
        // Ports; acknowledgment and data offset; window; urgent pointer and options.
        same(transport, transport + 4)
            && same(transport + 8, transport + 13)
            && same(transport + 14, transport + 16)
            && same(transport + 18, shape.payload)
    } else {
        same(transport, transport + 4)
    };
    is_ip_alike && is_transport_alike
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
