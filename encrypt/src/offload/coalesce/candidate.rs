//! What a received frame is to the coalescer.

use super::{Config, Form};
use crate::offload::checksum;
use crate::offload::frame::{Frame, TCP};
use crate::offload::outer::ETHERNET;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// A checksum of TCP or IPv4 that is taken for right where zero would be. Segmentation writes zero,
/// so a frame that has it does not come back as it was.
const MINUS_ZERO: [u8; 2] = [0xff; 2];

/// What a frame is.
#[derive(Debug)]
pub(super) enum Look {
    /// A segment that may be merged with others of its flow.
    Candidate(Candidate),
    /// One of the flow of this hash that may not: nothing of the flow may be merged across it.
    Flow(u64),
    /// Of no flow that there could be candidates of.
    NoFlow,
    /// Of whichever flow.
    Unknown,
}

/// TCP with payload and nothing but ACK and PSH, or UDP with payload, all checksums right.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) shape: Frame,
    /// Hash of addresses, ports and protocol.
    pub(super) flow: u64,
    /// Bytes of payload, not zero.
    pub(super) payload: usize,
    /// Sequence number; zero for UDP.
    pub(super) sequence: u32,
    /// Identification; zero for IPv6.
    pub(super) id: u16,
    /// Nothing may follow it: PSH is set.
    pub(super) last: bool,
}

impl Candidate {
    pub(super) fn look(frame: &[u8], config: &Config) -> Look {
        let Some(shape) = Frame::parse(frame) else {
            return if Frame::is_of_another_protocol(frame) {
                Look::NoFlow
            } else {
                Look::Unknown
            };
        };
        let flow = shape.flow(frame);
        match Self::find(shape, flow, frame, config) {
            Some(candidate) => Look::Candidate(candidate),
            None => Look::Flow(flow),
        }
    }

    fn find(shape: Frame, flow: u64, frame: &[u8], config: &Config) -> Option<Self> {
        let payload = frame.len() - shape.payload;
        let is_plain = shape.ip == ETHERNET && (shape.v6 || shape.transport == ETHERNET + 20);
        let wanted = if shape.protocol == TCP {
            config.tcp
        } else {
            config.udp
        };
        if !is_plain || !wanted || payload == 0 {
            return None;
        }
        let header = frame.get(shape.transport..shape.payload)?;
        let (sequence, last) = if shape.protocol == TCP {
            tcp(header)?
        } else {
            // A datagram without checksum would get one.
            let has_checksum = header.get(6..8)? != [0, 0];
            (0, has_checksum.then_some(false)?)
        };
        let id = if shape.v6 {
            0
        } else {
            let ip = frame.get(shape.ip..shape.transport)?;
            if !checksum::is_right(checksum::sum(ip)) || ip.get(10..12)? == MINUS_ZERO {
                return None;
            }
            u16::from_be_bytes(*ip.get(4..)?.first_chunk()?)
        };
        is_undamaged(&shape, frame).then_some(Self {
            shape,
            flow,
            payload,
            sequence,
            id,
            last,
        })
    }

    /// Whether the virtio header of a frame that goes out alone may say that its checksum is right.
    /// Of little use before a tunnel, whose own header takes what it says for itself.
    pub(super) fn may_be_called_valid(config: &Config) -> bool {
        matches!(config.form, Form::Frame(_))
    }
}

/// Sequence number, and whether PSH is set, of a segment that has no other flag than it and ACK.
fn tcp(header: &[u8]) -> Option<(u32, bool)> {
    let fixed: &[u8; 20] = header.first_chunk()?;
    let flags = fixed[13];
    if flags & !PSH != ACK || fixed[12] & 0x0f != 0 || fixed[16..18] == MINUS_ZERO {
        return None;
    }
    let sequence = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
    Some((sequence, flags & PSH != 0))
}

/// Whether the checksum over pseudo-header, header and payload is right.
fn is_undamaged(shape: &Frame, frame: &[u8]) -> bool {
    let (Some(addresses), Some(segment)) =
        (frame.get(shape.addresses()), frame.get(shape.transport..))
    else {
        return false;
    };
    let pseudo = checksum::pseudo(addresses, shape.protocol, segment.len());
    checksum::is_right(checksum::add(pseudo, checksum::sum(segment)))
}
