//! What is sent of one packet from a TAP.

use std::ops::Range;

use super::checksum;
use super::frame::{Frame, TCP};
use super::vnet::{
    GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_UDP_TUNNEL_IPV4, GSO_UDP_TUNNEL_IPV6,
    NEEDS_CSUM, Vnet,
};
use super::{Rejection, outer};
use crate::inner::{self, Inner};

/// Most segments of one super-packet: 64 KiB in the smallest that Linux makes of TCP (48 bytes,
/// `TCP_MIN_SND_MSS`) are fewer.
pub const MAX_SEGMENTS: usize = 2048;
/// Longest frame that a UDP length can say.
const LONGEST_FRAME: usize = 65_535 - inner::HEADERS;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;
/// Where the flags are in a TCP header (RFC 9293 section 3.1).
const FLAGS: usize = 13;

/// The payloads that one packet becomes: UDP header, VXLAN header, complete frame.
///
/// Count and lengths are known before anything is written, and all but the last have the same
/// length, so that they can be laid out for `UDP_SEGMENT`. Nothing is allocated.
#[derive(Clone, Debug)]
pub struct Segments<'a> {
    inner: Inner,
    frame: &'a [u8],
    /// Bytes of frame that each segment begins with.
    headers: usize,
    /// Bytes of payload per segment; all of it if there is one.
    size: usize,
    count: usize,
    plan: Plan,
}

/// What is to be done to a copy of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing.
    Whole,
    /// Finish the checksum over `from..`, which is at `at`.
    Finish { from: usize, at: usize },
    /// Cut it up.
    Cut(Frame),
}

impl<'a> Segments<'a> {
    /// What becomes of `packet[frame]`.
    ///
    /// `vnet` is the header that came with `packet`, and its offsets count from the start of
    /// `packet`. With the kernel's VXLAN device, `inner` and `frame` are those of
    /// [`outer::Outer::parse`]; without, the frame is all of the packet.
    ///
    /// What needs no segmentation is sent whole, whatever it is: VLAN tags, fragments, protocols
    /// nobody knows. An open checksum is finished as the header says.
    ///
    /// # Errors
    /// [`Rejection::BadOffload`], [`Rejection::BadChecksumOffset`], [`Rejection::Unsegmentable`],
    /// [`Rejection::TooManySegments`], [`Rejection::TooLong`], [`Rejection::BadLength`].
    pub fn new(
        vnet: &Vnet,
        inner: Inner,
        packet: &'a [u8],
        frame: Range<usize>,
    ) -> Result<Self, Rejection> {
        let before = frame.start;
        let frame = packet.get(frame).ok_or(Rejection::BadLength)?;
        if frame.len() < outer::ETHERNET {
            return Err(Rejection::BadLength);
        }
        let mut segments = Self {
            inner,
            frame,
            headers: 0,
            size: frame.len(),
            count: 1,
            plan: Plan::Whole,
        };
        if vnet.is_super_packet() {
            segments.cut(vnet, before > 0)?;
        } else if vnet.flags & NEEDS_CSUM != 0 {
            segments.plan = finish(vnet, before, frame.len())?;
        }
        if segments.length(0) > LONGEST_FRAME + inner::HEADERS {
            return Err(Rejection::TooLong);
        }
        Ok(segments)
    }

    fn cut(&mut self, vnet: &Vnet, tunnel: bool) -> Result<(), Rejection> {
        const TUNNEL: u8 = GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6;
        let is_tunnel = matches!(
            vnet.gso_type & TUNNEL,
            GSO_UDP_TUNNEL_IPV4 | GSO_UDP_TUNNEL_IPV6
        );
        let size = usize::from(vnet.gso_size);
        if is_tunnel != tunnel || (!tunnel && vnet.gso_type & TUNNEL != 0) || size == 0 {
            return Err(Rejection::BadOffload);
        }
        let kind = vnet.gso_type & !(TUNNEL | GSO_ECN);
        if !matches!(kind, GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4) {
            return Err(Rejection::BadOffload);
        }
        let frame = Frame::parse(self.frame).ok_or(Rejection::Unsegmentable)?;
        let found = match (frame.protocol, frame.v6) {
            (TCP, false) => GSO_TCPV4,
            (TCP, true) => GSO_TCPV6,
            _ => GSO_UDP_L4,
        };
        if kind != found {
            return Err(Rejection::Unsegmentable);
        }
        self.headers = frame.payload;
        self.size = size;
        self.count = (self.frame.len() - frame.payload).div_ceil(size).max(1);
        self.plan = Plan::Cut(frame);
        if self.count > MAX_SEGMENTS {
            return Err(Rejection::TooManySegments);
        }
        Ok(())
    }

    /// How many payloads there are: at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the payload of this index, counted from zero. All but the last have the length of
    /// the first, and the last is not longer. Zero if there is none of this index.
    pub fn length(&self, index: usize) -> usize {
        match self.part(index) {
            Some(part) => inner::HEADERS + self.headers + part.len(),
            None => 0,
        }
    }

    /// Writes the payload of this index to the start of `out`, and returns its length.
    ///
    /// Nothing, and then nothing was written, if there is none of this index or `out` is shorter
    /// than [`Segments::length`] says.
    pub fn write(&self, index: usize, out: &mut [u8]) -> Option<usize> {
        let part = self.part(index)?;
        let length = inner::HEADERS + self.headers + part.len();
        let (headers, frame) = out
            .get_mut(..length)?
            .split_first_chunk_mut::<{ inner::HEADERS }>()?;
        *headers = self.inner.to_bytes(frame.len())?;
        let (front, payload) = frame.split_at_mut(self.headers);
        front.copy_from_slice(self.frame.get(..self.headers)?);
        payload.copy_from_slice(part);
        match &self.plan {
            Plan::Whole => {}
            Plan::Finish { from, at } => {
                // Whichever protocol it is: as Linux does (`skb_checksum_help`), never zero.
                let sum = checksum::sum(frame.get(*from..)?);
                put(frame, *at, checksum::finish(sum));
            }
            Plan::Cut(shape) => self.complete(shape, index, frame),
        }
        Some(length)
    }

    /// The bytes of the frame, behind the headers, that the segment of this index has.
    fn part(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.count {
            return None;
        }
        let payload = self.frame.get(self.headers..)?;
        let start = index * self.size;
        payload.get(start..payload.len().min(start + self.size))
    }

    /// Makes the headers of a segment its own.
    fn complete(&self, shape: &Frame, index: usize, frame: &mut [u8]) {
        let transport = frame.len() - shape.transport;
        if shape.v6 {
            put(frame, shape.ip + 4, transport as u16);
        } else {
            let header = shape.ip..shape.transport;
            let id = get(frame, shape.ip + 4).wrapping_add(index as u16);
            put(frame, shape.ip + 2, (frame.len() - shape.ip) as u16);
            put(frame, shape.ip + 4, id);
            put(frame, shape.ip + 10, 0);
            let sum = checksum::sum(&frame[header]);
            put(frame, shape.ip + 10, !sum);
        }
        if shape.protocol == TCP {
            let at = shape.transport + 4;
            let high = u32::from(get(frame, at)) << 16;
            let sequence = high | u32::from(get(frame, at + 2));
            let sequence = sequence.wrapping_add((index * self.size) as u32);
            put(frame, at, (sequence >> 16) as u16);
            put(frame, at + 2, sequence as u16);
            let flags = &mut frame[shape.transport + FLAGS];
            if index > 0 {
                *flags &= !CWR;
            }
            if index + 1 < self.count {
                *flags &= !(FIN | PSH);
            }
        } else {
            put(frame, shape.transport + 4, transport as u16);
        }
        let at = shape.transport + shape.checksum_offset();
        put(frame, at, 0);
        let pseudo = checksum::pseudo(&frame[shape.addresses()], shape.protocol, transport);
        let sum = checksum::add(pseudo, checksum::sum(&frame[shape.transport..]));
        let is_tcp = shape.protocol == TCP;
        put(frame, at, if is_tcp { !sum } else { checksum::finish(sum) });
    }
}

/// What is to be done for a checksum that is open. The outer UDP checksum is not ours to write: it
/// is zero on the wire.
fn finish(vnet: &Vnet, before: usize, frame: usize) -> Result<Plan, Rejection> {
    let start = usize::from(vnet.csum_start);
    if before > 0 && start + inner::HEADERS == before {
        return Ok(Plan::Whole);
    }
    let from = start
        .checked_sub(before)
        .ok_or(Rejection::BadChecksumOffset)?;
    let at = from + usize::from(vnet.csum_offset);
    if at + 2 > frame {
        return Err(Rejection::BadChecksumOffset);
    }
    Ok(Plan::Finish { from, at })
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
