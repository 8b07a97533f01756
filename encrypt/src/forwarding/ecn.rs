//! Congestion marks through a tunnel (RFC 6040), as far as the kernel's VXLAN device is not there to
//! do it.

use crate::offload::checksum;

const MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;
const ETHERNET: usize = 14;

/// The frame has to be dropped: the underlay was congested, and its sender knows no marks (RFC 6040
/// section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("congested underlay marked a packet whose sender does not know marks")]
pub struct Congested;

/// ECN field of the outer header: that of the inner one ("normal mode", RFC 6040 section 4.1), and
/// none for what is not IP.
pub fn outer(frame: &[u8]) -> u8 {
    match locate(frame) {
        Some(Ip::V4(header)) => header[1] & MASK,
        Some(Ip::V6([_, second])) => second >> 4 & MASK,
        None => NOT_ECT,
    }
}

/// Takes what the outer header says over into the frame (RFC 6040 section 4.2). `tos` is the outer
/// type of service or traffic class.
///
/// The IPv4 header checksum is changed by the difference, so a wrong one stays wrong.
///
/// # Errors
/// [`Congested`]; the frame is as it was.
pub fn decapsulate(frame: &mut [u8], tos: u8) -> Result<(), Congested> {
    let inner = outer(frame);
    let mark = match (locate(frame), tos & MASK, inner) {
        (None, _, _) => return Ok(()),
        (_, CE, NOT_ECT) => return Err(Congested),
        (_, CE, _) => CE,
        (_, ECT_1, ECT_0) => ECT_1,
        _ => return Ok(()),
    };
    match locate(frame) {
        Some(Ip::V4(header)) => {
            let old = u16::from_be_bytes([header[0], header[1]]);
            let new = u16::from_be_bytes([header[0], header[1] & !MASK | mark]);
            let sum = u16::from_be_bytes([header[10], header[11]]);
            // RFC 1624 section 3.
            let sum = !checksum::add(checksum::add(!sum, !old), new);
            frame[ETHERNET + 1] = new.to_be_bytes()[1];
            frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        }
        Some(Ip::V6([_, second])) => frame[ETHERNET + 1] = second & !(MASK << 4) | mark << 4,
        None => {}
    }
    Ok(())
}

/// The start of an IP header.
enum Ip {
    V4([u8; 20]),
    V6([u8; 2]),
}

fn locate(frame: &[u8]) -> Option<Ip> {
    let (ethernet, packet) = frame.split_first_chunk::<ETHERNET>()?;
    match [ethernet[12], ethernet[13]] {
        [0x08, 0x00] => packet.first_chunk().copied().map(Ip::V4),
        [0x86, 0xdd] => packet.first_chunk().copied().map(Ip::V6),
        _ => None,
    }
}
