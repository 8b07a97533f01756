//! Super-packets from what was received.

mod candidate;
mod entry;

use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::Range;

use super::Rejection;
use super::outer::{ETHERNET, Wrapper};
use super::vnet::Layout;
use crate::inner::{self, Inner, Vni};
use candidate::{Candidate, Look};
use entry::Entry;

/// Most segments of one super-packet.
pub const MAX_PIECES: usize = 128;
/// Most datagrams of one super-packet of UDP: `UDP_MAX_SEGMENTS` of Linux before 6.10.
const MAX_DATAGRAMS: usize = 64;
/// Longest packet that is written to the TAP.
const LONGEST_PACKET: usize = 65_535;
/// Flows of one batch that are told apart by their hash. Of two that share a slot, neither is
/// merged as long as they alternate.
const SLOTS: usize = 256;
/// No entry, no piece.
const NONE: usize = usize::MAX;

/// What is written to the TAP before an inner frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The TAP is the underlay of the kernel's VXLAN device: outer headers, UDP and VXLAN, and a
    /// virtio header of [`Layout::Tunnel`].
    Tunnel(Wrapper),
    /// The TAP is a bridge port: nothing but a virtio header of this layout.
    Frame(Layout),
}

impl Form {
    /// Most bytes that a frame may have, for all of the packet to fit.
    const fn longest_frame(&self) -> usize {
        match self {
            Self::Tunnel(wrapper) => LONGEST_PACKET - wrapper.length() - inner::HEADERS,
            Self::Frame(_) => LONGEST_PACKET,
        }
    }
}

/// How packets are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// What stands before frames.
    pub form: Form,
    /// TCP segments are merged: the TAP has `TUN_F_TSO4` and `TUN_F_TSO6`, and for
    /// [`Form::Tunnel`] `TUN_F_UDP_TUNNEL_GSO`.
    pub tcp: bool,
    /// UDP datagrams are merged: the TAP has `TUN_F_USO4` and `TUN_F_USO6`.
    pub udp: bool,
}

/// A payload that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Tunnel end of the peer that sealed it.
    pub peer: IpAddr,
    /// Type of service or traffic class of the outer header that it came with; usually only ECN.
    pub tos: u8,
    /// UDP ports and VNI, as [`Inner::parse`] found them.
    pub inner: Inner,
    /// Which receive buffer it is in: a number of the caller's choice.
    pub buffer: usize,
    /// Where in the buffer the frame is.
    pub frame: Range<usize>,
}

/// What is to be written to the TAP at once (`writev`).
#[derive(Clone, Copy, Debug)]
pub struct Merged<'a> {
    /// Headers, then payloads where they were received: at most one and [`MAX_PIECES`].
    pub slices: &'a [IoSlice<'a>],
    /// How many frames it has.
    pub segments: usize,
    /// Which network it is of.
    pub vni: Vni,
}

/// Makes super-packets of the payloads of one batch.
///
/// Frames of a flow leave in the order in which they came, and a frame that was not merged leaves
/// as it came, byte for byte. Merged are successive segments of a TCP flow, and datagrams of a UDP
/// flow, that segmentation would give back as they were. That includes their checksums: only frames
/// in which they are right are merged, so that no damage is covered up. One thing may differ: the
/// identification of IPv4 packets that all have the same and must not be fragmented, which means
/// nothing (RFC 6864 section 4.1).
///
/// Nothing is kept beyond [`Coalescer::flush`], and once its tables have grown to the size of the
/// caller's batches, nothing is allocated.
#[derive(Debug)]
pub struct Coalescer {
    config: Config,
    entries: Vec<Entry>,
    pieces: Vec<Piece>,
    /// By a flow's hash: its last entry, if it may grow.
    open: [usize; SLOTS],
}

/// Payload of one segment.
#[derive(Debug)]
struct Piece {
    buffer: usize,
    range: Range<usize>,
    next: usize,
}

impl Coalescer {
    /// One that holds nothing.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            entries: Vec::new(),
            pieces: Vec::new(),
            open: [NONE; SLOTS],
        }
    }

    /// How it puts packets together.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes in a frame: `buffer[arrival.frame]`.
    ///
    /// # Errors
    /// [`Rejection::BadLength`] if the frame is not within the buffer or shorter than an Ethernet
    /// header, [`Rejection::TooLong`], [`Rejection::Family`]. Then it was not taken in.
    pub fn push(&mut self, arrival: Arrival, buffer: &[u8]) -> Result<(), Rejection> {
        let frame = buffer
            .get(arrival.frame.clone())
            .ok_or(Rejection::BadLength)?;
        if frame.len() < ETHERNET {
            return Err(Rejection::BadLength);
        }
        if frame.len() > self.config.form.longest_frame() {
            return Err(Rejection::TooLong);
        }
        match Candidate::look(frame, &self.config) {
            Look::Candidate(candidate) => self.merge(arrival, frame, &candidate),
            Look::Flow(flow) => {
                self.open[slot(flow)] = NONE;
                self.add(arrival, frame, None)
            }
            Look::NoFlow => self.add(arrival, frame, None),
            Look::Unknown => {
                // It may be of any flow, a fragment for instance, so none goes on before it.
                self.open = [NONE; SLOTS];
                self.add(arrival, frame, None)
            }
        }
    }

    fn merge(
        &mut self,
        arrival: Arrival,
        frame: &[u8],
        candidate: &Candidate,
    ) -> Result<(), Rejection> {
        let slot = slot(candidate.flow);
        let longest = self.config.form.longest_frame();
        let grown = self
            .entries
            .get_mut(self.open[slot])
            .filter(|entry| entry.takes(&arrival, frame, candidate, longest));
        let Some(entry) = grown else {
            let index = self.entries.len();
            self.open[slot] = NONE;
            self.add(arrival, frame, Some(candidate))?;
            if !candidate.last {
                self.open[slot] = index;
            }
            return Ok(());
        };
        let piece = self.pieces.len();
        if let Some(tail) = self.pieces.get_mut(entry.tail) {
            tail.next = piece;
        }
        if entry.grow(piece, candidate) {
            self.open[slot] = NONE;
        }
        self.pieces.push(Piece {
            buffer: arrival.buffer,
            range: arrival.frame.start + candidate.shape.payload..arrival.frame.end,
            next: NONE,
        });
        Ok(())
    }

    /// A packet of its own.
    fn add(
        &mut self,
        arrival: Arrival,
        frame: &[u8],
        candidate: Option<&Candidate>,
    ) -> Result<(), Rejection> {
        let piece = self.pieces.len();
        let entry = Entry::new(&self.config, &arrival, frame, candidate, piece)?;
        self.entries.push(entry);
        let copied = candidate.map_or(0, |candidate| candidate.shape.payload);
        self.pieces.push(Piece {
            buffer: arrival.buffer,
            range: arrival.frame.start + copied..arrival.frame.end,
            next: NONE,
        });
        Ok(())
    }

    /// Hands over all that was taken in, in order, and is empty again.
    ///
    /// `buffers` gives the buffers by the numbers that the arrivals had, unchanged since.
    pub fn flush<'b>(
        &mut self,
        buffers: impl Fn(usize) -> &'b [u8],
        mut write: impl FnMut(Merged<'_>),
    ) {
        for entry in &mut self.entries {
            entry.finish(&self.config);
        }
        let mut slices = [IoSlice::new(&[]); MAX_PIECES + 1];
        for entry in &self.entries {
            slices[0] = IoSlice::new(entry.headers());
            let mut count = 1;
            let mut next = entry.head;
            while let (Some(piece), Some(slice)) = (self.pieces.get(next), slices.get_mut(count)) {
                let bytes = buffers(piece.buffer).get(piece.range.clone());
                *slice = IoSlice::new(bytes.unwrap_or_default());
                count += 1;
                next = piece.next;
            }
            write(Merged {
                slices: &slices[..count],
                segments: entry.segments(),
                vni: entry.vni(),
            });
        }
        self.entries.clear();
        self.pieces.clear();
        self.open = [NONE; SLOTS];
    }
}

/// Slot of a flow with this hash.
fn slot(flow: u64) -> usize {
    (flow >> 56) as usize % SLOTS
}
