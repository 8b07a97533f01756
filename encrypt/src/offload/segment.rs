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
    Cut(Cut),
}

/// What the headers of all segments are made from. All sums are [`checksum`]'s.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cut {
    shape: Frame,
    /// Identification of the first segment.
    id: u16,
    /// Sequence number of the first segment.
    sequence: u32,
    /// Sum of the IPv4 header without length, identification and checksum.
    ip: u16,
    /// Sum of pseudo-header and transport header without lengths, sequence number, checksum, and, for
    /// TCP, the word of the flags.
    transport: u16,
}

impl Cut {
    fn new(shape: Frame, frame: &[u8]) -> Option<Self> {
        let sum = |from: usize, to: usize| frame.get(from..to).map(checksum::sum);
        let Frame { ip, transport, .. } = shape;
        let header = if shape.protocol == TCP {
            let (front, middle) = (
                sum(transport, transport + 4)?,
                sum(transport + 8, transport + 12)?,
            );
            let back = checksum::add(
                sum(transport + 14, transport + 16)?,
                sum(transport + 18, shape.payload)?,
            );
            checksum::add(checksum::add(front, middle), back)
        } else {
            sum(transport, transport + 4)?
        };
        let pseudo = checksum::pseudo(frame.get(shape.addresses())?, shape.protocol, 0);
        let (sum_of_ip, id) = if shape.v6 {
            (0, 0)
        } else {
            let front = checksum::add(sum(ip, ip + 2)?, sum(ip + 6, ip + 10)?);
            (
                checksum::add(front, sum(ip + 12, transport)?),
                get(frame, ip + 4),
            )
        };
        let sequence = match shape.protocol {
            TCP => u32::from_be_bytes(*frame.get(transport + 4..)?.first_chunk()?),
            _ => 0,
        };
        Some(Self {
            shape,
            id,
            sequence,
            ip: sum_of_ip,
            transport: checksum::add(pseudo, header),
        })
    }

    /// Makes the headers of a segment its own. `offset` is where its payload was in the whole.
    fn complete(&self, index: usize, offset: usize, is_last: bool, frame: &mut [u8]) {
        let Frame { ip, transport, .. } = self.shape;
        let length = (frame.len() - transport) as u16;
        if self.shape.v6 {
            put(frame, ip + 4, length);
        } else {
            let total = (frame.len() - ip) as u16;
            let id = self.id.wrapping_add(index as u16);
            put(frame, ip + 2, total);
            put(frame, ip + 4, id);
            let sum = checksum::add(checksum::add(self.ip, total), id);
            put(frame, ip + 10, !sum);
        }
        let payload = frame.get(self.shape.payload..).unwrap_or_default();
        // The length is in the pseudo-header.
        let mut sum = checksum::add(
            checksum::add(self.transport, checksum::sum(payload)),
            length,
        );
        let at = transport + self.shape.checksum_offset();
        if self.shape.protocol == TCP {
            let sequence = self.sequence.wrapping_add(offset as u32);
            let (high, low) = ((sequence >> 16) as u16, sequence as u16);
            put(frame, transport + 4, high);
            put(frame, transport + 6, low);
            let flags = &mut frame[transport + FLAGS];
            if index > 0 {
                *flags &= !CWR;
            }
            if !is_last {
                *flags &= !(FIN | PSH);
            }
            for more in [high, low, get(frame, transport + FLAGS - 1)] {
                sum = checksum::add(sum, more);
            }
            put(frame, at, !sum);
        } else {
            put(frame, transport + 4, length);
            put(frame, at, checksum::finish(checksum::add(sum, length)));
        }
    }
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
        let cut = Cut::new(frame, self.frame).ok_or(Rejection::Unsegmentable)?;
        self.plan = Plan::Cut(cut);
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
            Plan::Cut(cut) => {
                let is_last = index + 1 == self.count;
                cut.complete(index, index * self.size, is_last, frame);
            }
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
