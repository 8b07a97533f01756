//! From the devices to the peers.

mod port;

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

use crate::esp::{HEADROOM, LONGEST, TAILROOM, sealed_length};
use crate::offload::outer::Outer;
use crate::offload::vnet::{Layout, Vnet};
use crate::offload::{Rejection, Segments};

use super::keepalive;
use super::socket::{EspSocket, LONGEST_SEND};
use super::tables::{Peer, Tables};
use super::tap::{LONGEST_READ, Tap};

/// Frames that are read before it is the other direction's turn. Each may be 64 KiB.
pub(super) const BATCH: usize = 8;
/// The two low bits of the type of service (RFC 3168 section 5).
const ECN: u8 = 3;

/// The buffers of one thread.
pub(super) struct Transmit {
    frame: Vec<u8>,
    packets: Vec<u8>,
}

impl Transmit {
    pub(super) fn new() -> Self {
        Self {
            frame: vec![0; LONGEST_READ],
            packets: vec![0; LONGEST.max(LONGEST_SEND) + TAILROOM],
        }
    }

    /// Reads frames of the tunnel device, seals what they become and sends it. Returns how many
    /// there were, at most [`BATCH`].
    ///
    /// # Errors
    /// Of the TAP: it is gone.
    pub(super) fn forward(
        &mut self,
        tables: &Tables,
        tap: &Tap,
        socket: &EspSocket,
        now_ms: u64,
    ) -> io::Result<usize> {
        let mut group = Group::new(&mut self.packets, tables, socket, now_ms);
        let read = read_batch(tap, &mut self.frame, BATCH, |frame| {
            if let Err(cause) = wrap(tables, frame, &mut group) {
                tables.reject(cause);
            }
        });
        group.flush();
        read
    }

    /// Sends a sign of life to every peer that nothing was sent to for long.
    pub(super) fn keep_alive(&mut self, tables: &Tables, socket: &EspSocket, now_ms: u64) {
        let mut group = Group::new(&mut self.packets, tables, socket, now_ms);
        for (end, peer) in &tables.peers {
            let Some((_, sa)) = &peer.outbound else {
                continue;
            };
            if keepalive::is_due(*end, now_ms, peer.sent_ms()) {
                group.append(peer, 0, 0, |room| sa.seal_dummy(room).is_ok());
            }
        }
        group.flush();
    }
}

/// Reads frames until there are none, or so many were read; says how many.
fn read_batch(
    tap: &Tap,
    buffer: &mut [u8],
    most: usize,
    mut each: impl FnMut(&[u8]),
) -> io::Result<usize> {
    for frames in 0..most {
        match tap.read(buffer) {
            Ok(length) => each(buffer.get(..length).unwrap_or_default()),
            Err(error) => {
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(frames),
                    _ => Err(error),
                };
            }
        }
    }
    Ok(most)
}

/// Seals what one frame of the tunnel device becomes.
fn wrap<'t>(tables: &'t Tables, frame: &[u8], group: &mut Group<'_, 't>) -> Result<(), Rejection> {
    let (vnet, packet) = Vnet::parse(frame, Layout::Tunnel)?;
    let outer = Outer::parse(packet, tables.spec.inner_port)?;
    let peer = tables.peers.get(&outer.destination);
    let peer = peer
        .filter(|peer| peer.networks.contains(&outer.inner.vni.get()))
        .filter(|_| outer.source == tables.spec.local)
        .ok_or(Rejection::NotTunnel)?;
    let segments = Segments::new(&vnet, outer.inner, packet, outer.frame)?;
    seal(peer, &segments, outer.tos & ECN, group);
    Ok(())
}

/// Seals what a frame for a peer becomes.
fn seal<'t>(peer: &'t Peer, segments: &Segments<'_>, ecn: u8, group: &mut Group<'_, 't>) {
    let last = segments.count() - 1;
    let count = segments.count() as u64;
    let Some((_, sa)) = &peer.outbound else {
        peer.no_key.fetch_add(count, Relaxed);
        return;
    };
    let bytes = segments.length(0) * last + segments.length(last);
    let Ok(mut reserved) = sa.reserve(count, bytes as u64) else {
        // Counted by the association.
        return;
    };
    for index in 0..=last {
        let length = segments.length(index);
        group.append(peer, ecn, length, |room| {
            let payload = HEADROOM..HEADROOM + length;
            let written = room.get_mut(payload.clone());
            written.is_some_and(|written| segments.write(index, written).is_some())
                && reserved.seal(room, payload).is_ok()
        });
    }
}

/// Packets for one peer, one behind the other in the buffer, that go out in one send: all of the
/// same length, but for the last, which may be shorter.
struct Group<'b, 't> {
    buffer: &'b mut [u8],
    socket: &'b EspSocket,
    /// Longest packet that is sent together with others. For one that the path does not take, a
    /// kernel may refuse segmentation at all (EINVAL, before Linux 6.9).
    longest: usize,
    now_ms: u64,
    peer: Option<&'t Peer>,
    ecn: u8,
    /// Length of the first packet.
    stride: usize,
    /// Length of the last packet.
    last: usize,
    packets: Range<usize>,
    count: usize,
}

impl<'b, 't> Group<'b, 't> {
    fn new(buffer: &'b mut [u8], tables: &Tables, socket: &'b EspSocket, now_ms: u64) -> Self {
        let mtu = tables.spec.underlay_mtu as usize;
        Self {
            buffer,
            socket,
            longest: mtu.saturating_sub(around(tables.spec.local)),
            now_ms,
            peer: None,
            ecn: 0,
            stride: 0,
            last: 0,
            packets: 0..0,
            count: 0,
        }
    }

    /// Puts a packet behind the others, or sends those first. `seal` makes it at the start of the
    /// room that it is given, and says whether it has.
    fn append(
        &mut self,
        peer: &'t Peer,
        ecn: u8,
        payload: usize,
        seal: impl FnOnce(&mut [u8]) -> bool,
    ) {
        let length = sealed_length(payload);
        if !self.takes(peer, ecn, length) {
            self.flush();
            self.peer = Some(peer);
            self.ecn = ecn;
            self.stride = length;
        }
        let end = self.packets.end;
        let sealed = self.buffer.get_mut(end..).is_some_and(seal);
        if sealed && end + length <= self.buffer.len() {
            self.packets.end = end + length;
            self.last = length;
            self.count += 1;
        }
    }

    fn takes(&self, peer: &Peer, ecn: u8, length: usize) -> bool {
        self.peer.is_some_and(|ours| std::ptr::eq(ours, peer))
            && self.ecn == ecn
            && self.last == self.stride
            && length <= self.stride
            && self.stride <= self.longest
            && self.packets.end + length <= LONGEST_SEND
            && self.count < self.socket.most_segments()
    }

    fn flush(&mut self) {
        if let Some(peer) = self.peer.take().filter(|_| self.count > 0) {
            let packets = self.buffer.get(self.packets.clone()).unwrap_or_default();
            let failed = self
                .socket
                .send(peer.remote(), self.ecn, packets, self.stride);
            peer.send_failed.fetch_add(failed, Relaxed);
            peer.sent(self.now_ms);
        }
        self.packets = 0..0;
        self.count = 0;
        self.last = 0;
    }
}

/// Bytes of IP and UDP headers (RFC 791, RFC 8200, RFC 768).
fn around(local: IpAddr) -> usize {
    8 + if local.is_ipv4() { 20 } else { 40 }
}
