//! What the kernel's VXLAN device does, for nodes on which the data path has to do it itself: a TAP
//! is a port of the network's bridge, and every frame that the bridge has for other nodes comes
//! out of it.
//!
//! All is known beforehand (RFC 7348 section 4 learns it): [`Table`] says which tunnel end a MAC
//! address is behind, answers ARP (RFC 826) and neighbour discovery (RFC 4861) on the spot, and has
//! the list that broadcasts are copied to, if they are at all. [`ecn`] carries congestion marks from
//! outer to inner headers.
//!
//! What is read from the TAP, after its virtio header: [`Table::decide`]; then, for each tunnel end,
//! [`crate::offload::Segments`] of the whole packet with [`source_port`], sealed and sent with the
//! mark that [`ecn::outer`] says. An answer goes back behind an empty virtio header. What is
//! opened: [`ecn::decapsulate`], then [`crate::offload::Coalescer`] with no mark.

mod arp;
mod dropped;
pub mod ecn;
mod neighbour;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use dropped::{DropCounters, Dropped};

use crate::offload::frame::Frame;
use crate::path::RemoteSpec;

/// MAC address.
pub type Mac = [u8; 6];

/// Most remote endpoints of one network: those of a /16 prefix.
pub const MAX_REMOTES: usize = 65_536;
/// Most addresses of one remote endpoint.
pub const MAX_ADDRESSES: usize = 16;
/// Most tunnel ends that a frame is copied to.
pub const MAX_FLOOD: usize = 8192;
/// Bytes of the longest answer: Ethernet, IPv6, neighbour advertisement with one option.
pub const ANSWER: usize = 14 + 40 + 24 + 8;
const ETHERNET: usize = 14;

/// Where the frames of one network go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    forwarding: BTreeMap<Mac, IpAddr>,
    neighbours: BTreeMap<IpAddr, Mac>,
    flood: Vec<IpAddr>,
}

/// Why a table was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// More than [`MAX_REMOTES`], [`MAX_ADDRESSES`] or [`MAX_FLOOD`].
    #[error(
        "forwarding table is too large: {MAX_REMOTES} endpoints with {MAX_ADDRESSES} addresses \
         each and {MAX_FLOOD} nodes are accepted"
    )]
    TooLarge,
    /// The MAC address is zero or of a group.
    #[error("mac address {0:02x?} cannot be an endpoint's: only unicast ones are accepted")]
    NotUnicast(Mac),
    /// Two endpoints have the same address.
    #[error("address {0} is of two endpoints: each may be of one")]
    Twice(IpAddr),
}

/// What is to be done with a frame from the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Send it to this tunnel end.
    To(IpAddr),
    /// Send it to each of these (head-end replication).
    Flood(&'a [IpAddr]),
    /// Write so many bytes of the answer to the TAP, and nothing to the network.
    Answer(usize),
    /// Drop it.
    Drop(Dropped),
}

/// How an ARP request or neighbour solicitation is answered.
enum Question {
    /// The frame is none.
    None,
    /// Nobody here has the address, or the question is malformed.
    Unknown,
    /// Answered in so many bytes.
    Answered(usize),
}

impl Table {
    /// The table for these endpoints and, if broadcasts are copied, these tunnel ends.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn new(
        remotes: &BTreeMap<Mac, RemoteSpec>,
        flood: &BTreeSet<IpAddr>,
    ) -> Result<Self, TableError> {
        if remotes.len() > MAX_REMOTES || flood.len() > MAX_FLOOD {
            return Err(TableError::TooLarge);
        }
        let mut table = Self {
            flood: flood.iter().copied().collect(),
            ..Self::default()
        };
        for (mac, remote) in remotes {
            if is_group(mac) || *mac == [0; 6] {
                return Err(TableError::NotUnicast(*mac));
            }
            if remote.addresses.len() > MAX_ADDRESSES {
                return Err(TableError::TooLarge);
            }
            table.forwarding.insert(*mac, remote.vtep);
            for address in &remote.addresses {
                let before = table.neighbours.insert(*address, *mac);
                if before.is_some_and(|other| other != *mac) {
                    return Err(TableError::Twice(*address));
                }
            }
        }
        Ok(table)
    }

    /// What is to be done with a frame, or super-packet, from the bridge.
    ///
    /// ARP requests and neighbour solicitations are never sent on, whatever is known of the address
    /// that they ask for: as with `proxy` of the kernel's VXLAN device.
    pub fn decide(&self, frame: &[u8], answer: &mut [u8; ANSWER]) -> Decision<'_> {
        let Some((header, payload)) = frame.split_first_chunk::<ETHERNET>() else {
            return Decision::Drop(Dropped::Short);
        };
        let [d0, d1, d2, d3, d4, d5, .., t0, t1] = *header;
        let question = match [t0, t1] {
            [0x08, 0x06] => arp::answer(payload, &self.neighbours, answer),
            [0x86, 0xdd] => neighbour::answer(frame, &self.neighbours, answer),
            _ => Question::None,
        };
        match question {
            Question::Answered(length) => return Decision::Answer(length),
            Question::Unknown => return Decision::Drop(Dropped::UnknownNeighbour),
            Question::None => {}
        }
        let destination = [d0, d1, d2, d3, d4, d5];
        if !is_group(&destination) {
            return match self.forwarding.get(&destination) {
                Some(tunnel_end) => Decision::To(*tunnel_end),
                None => Decision::Drop(Dropped::UnknownDestination),
            };
        }
        if self.flood.is_empty() {
            return Decision::Drop(Dropped::NotFlooded);
        }
        Decision::Flood(&self.flood)
    }
}

/// Whether it is a multicast address, or the broadcast address (IEEE 802, the first bit sent).
const fn is_group(mac: &Mac) -> bool {
    mac[0] & 1 != 0
}

/// Source port of the UDP header: a hash of the frame's flow in the dynamic ports, which RFC 7348
/// section 5 recommends. All frames of a flow have the same, also when one is a super-packet.
pub fn source_port(frame: &[u8]) -> u16 {
    let hash = match Frame::parse(frame) {
        Some(shape) => shape.flow(frame),
        // MAC addresses and type.
        None => frame.iter().take(ETHERNET).fold(0, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }),
    };
    let [high, low, ..] = hash.to_be_bytes();
    u16::from_be_bytes([high | 0xc0, low])
}
