//! Super-packets from what was received.

use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::Range;

use super::Rejection;
use super::outer::{self, ETHERNET, Wrapper};
use super::vnet::{Layout, Vnet};
use crate::inner::{self, Inner};

/// Most segments of one super-packet.
pub const MAX_PIECES: usize = 128;
/// Most bytes of headers: virtio, outer, UDP and VXLAN.
const LONGEST_HEADERS: usize = Layout::LONGEST + outer::LONGEST + inner::HEADERS;

/// What is written to the TAP before an inner frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The TAP is the underlay of the kernel's VXLAN device: outer headers, UDP and VXLAN, and a
    /// virtio header of [`Layout::Tunnel`].
    Tunnel(Wrapper),
    /// The TAP is a bridge port: nothing but a virtio header of this layout.
    Frame(Layout),
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
    /// Headers, then payloads where they were received.
    pub slices: &'a [IoSlice<'a>],
    /// How many frames it has.
    pub segments: usize,
}

/// Makes super-packets of the payloads of one batch.
///
/// Frames of a flow leave in the order in which they came, and a frame that was not merged leaves
/// as it came, byte for byte. Only frames whose checksums are right are merged, so that no damage
/// is covered up. Nothing is kept beyond [`Coalescer::flush`], and once its tables have grown,
/// nothing is allocated.
#[derive(Debug)]
pub struct Coalescer {
    config: Config,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    headers: [u8; LONGEST_HEADERS],
    length: usize,
    buffer: usize,
    range: Range<usize>,
}

impl Coalescer {
    /// One that holds nothing.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            entries: Vec::new(),
        }
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
        let mut headers = [0; LONGEST_HEADERS];
        let length = self.headers(&arrival, frame.len(), &mut headers)?;
        self.entries.push(Entry {
            headers,
            length,
            buffer: arrival.buffer,
            range: arrival.frame,
        });
        Ok(())
    }

    fn headers(
        &self,
        arrival: &Arrival,
        frame: usize,
        out: &mut [u8; LONGEST_HEADERS],
    ) -> Result<usize, Rejection> {
        let vnet = Vnet::default().to_bytes();
        out[..vnet.len()].copy_from_slice(&vnet);
        let wrapper = match self.config.form {
            Form::Frame(layout) => return Ok(layout.length()),
            Form::Tunnel(wrapper) => wrapper,
        };
        let datagram = arrival.inner.to_bytes(frame).ok_or(Rejection::TooLong)?;
        let mut header = [0; outer::LONGEST];
        let length = wrapper.write(
            arrival.peer,
            arrival.tos,
            frame + inner::HEADERS,
            &mut header,
        )?;
        let at = Layout::Tunnel.length();
        out[at..at + length].copy_from_slice(&header[..length]);
        out[at + length..at + length + inner::HEADERS].copy_from_slice(&datagram);
        Ok(at + length + inner::HEADERS)
    }

    /// Hands over all that was taken in, in order, and is empty again.
    ///
    /// `buffers` gives the buffers by the numbers that the arrivals had, unchanged since.
    pub fn flush<'b>(
        &mut self,
        buffers: impl Fn(usize) -> &'b [u8],
        mut write: impl FnMut(Merged<'_>),
    ) {
        for entry in &self.entries {
            let frame = buffers(entry.buffer).get(entry.range.clone());
            let slices = [
                IoSlice::new(&entry.headers[..entry.length]),
                IoSlice::new(frame.unwrap_or_default()),
            ];
            write(Merged {
                slices: &slices,
                segments: 1,
            });
        }
        self.entries.clear();
    }
}
