//! From the peers to the devices.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;

use quinn_udp::RecvMeta;

use crate::Refusal;
use crate::esp::{Encapsulated, Spi, classify};
use crate::forwarding::{Dropped, ecn};
use crate::inner::Inner;
use crate::offload::{self, Arrival, Coalescer, Config};
use crate::path::Form;
use crate::sa::Entry;

use super::engine::Source;
use super::socket::EspSocket;
use super::tables::{Peer, Tables};

/// Buffers that are filled at once, each with datagrams of one sender.
pub(super) const BUFFERS: usize = 8;
/// Bytes of a buffer: what does not fit is lost (`UDP_GRO`).
const BUFFER: usize = 65_535;

/// The buffers of one thread.
pub(super) struct Receive {
    buffers: [Box<[u8]>; BUFFERS],
    meta: [RecvMeta; BUFFERS],
    coalescer: Coalescer,
}

impl Receive {
    pub(super) fn new(config: Config) -> Self {
        Self {
            buffers: std::array::from_fn(|_| vec![0; BUFFER].into_boxed_slice()),
            meta: [RecvMeta::default(); BUFFERS],
            coalescer: Coalescer::new(config),
        }
    }

    /// The tunnel device may have another address than before.
    pub(super) fn set_mac(&mut self, mac: [u8; 6]) {
        let mut config = *self.coalescer.config();
        if let offload::Form::Tunnel(wrapper) = &mut config.form
            && wrapper.mac != mac
        {
            wrapper.mac = mac;
            self.coalescer = Coalescer::new(config);
        }
    }

    /// Receives datagrams, opens what is in them and writes it to the device. Returns how many
    /// buffers were filled, at most [`BUFFERS`].
    pub(super) fn forward(
        &mut self,
        tables: &Tables,
        source: &Source,
        socket: &EspSocket,
        now_ms: u64,
    ) -> usize {
        let mut slices = self
            .buffers
            .each_mut()
            .map(|buffer| IoSliceMut::new(buffer));
        // Errors are those of earlier sends, which ICMP told of; there is nothing to do for them.
        let filled = socket.receive(&mut slices, &mut self.meta).unwrap_or(0);
        let mut opener = Opener {
            tables,
            coalescer: &mut self.coalescer,
            now_ms,
            current: None,
        };
        for (index, (meta, buffer)) in self
            .meta
            .iter()
            .zip(&mut self.buffers)
            .take(filled)
            .enumerate()
        {
            let length = meta.len.min(buffer.len());
            let stride = if meta.stride == 0 {
                length
            } else {
                meta.stride
            };
            let tos = meta.ecn.map_or(0, |ecn| ecn as u8);
            let mut at = 0;
            while at < length {
                let end = length.min(at + stride);
                opener.open(meta.addr, tos, index, buffer, at..end);
                at = end;
            }
        }
        drop(opener);
        if filled > 0 {
            let buffers = &self.buffers;
            self.coalescer.flush(
                |index| buffers.get(index).map_or(&[], |buffer| &**buffer),
                |merged| match source {
                    // A device that is down takes nothing, for one.
                    Source::Tunnel(tap) => {
                        if tap.write(merged.slices).is_err() {
                            let count = merged.segments as u64;
                            tables.undelivered.fetch_add(count, Relaxed);
                        }
                    }
                    Source::Ports { thread, .. } => {
                        if let Some(port) = tables.ports.open(merged.vni.get()) {
                            port.write(*thread, merged.slices, merged.segments);
                        }
                    }
                },
            );
        }
        filled
    }
}

/// Opens datagrams, of which those that follow one another are mostly of the same association.
struct Opener<'a> {
    tables: &'a Tables,
    coalescer: &'a mut Coalescer,
    now_ms: u64,
    current: Option<Current<'a>>,
}

struct Current<'a> {
    spi: Spi,
    entry: MutexGuard<'a, Entry>,
    peer: &'a Peer,
    /// Where the peer was said to be, by its newest packet.
    remote: Option<SocketAddr>,
}

impl Opener<'_> {
    fn open(
        &mut self,
        from: SocketAddr,
        tos: u8,
        buffer: usize,
        bytes: &mut [u8],
        at: Range<usize>,
    ) {
        let tables = self.tables;
        let Some(datagram) = bytes.get_mut(at.clone()) else {
            return;
        };
        let spi = match classify(datagram) {
            Ok(Encapsulated::Esp(spi)) => spi,
            Ok(Encapsulated::Keepalive | Encapsulated::NonEsp(_)) => return,
            Err(cause) => {
                tables.inbound.stray(cause);
                return;
            }
        };
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.spi != spi)
        {
            self.current = None;
            let peer = tables
                .names
                .get(&spi)
                .and_then(|name| tables.peers.get(&name.peer));
            let (Some(peer), Some(entry)) = (peer, tables.inbound.lock(spi)) else {
                tables.inbound.stray(Refusal::UnknownSpi);
                return;
            };
            self.current = Some(Current {
                spi,
                entry,
                peer,
                remote: None,
            });
        }
        let Some(current) = &mut self.current else {
            return;
        };
        let Current { entry, peer, .. } = current;
        let before = entry.association().top();
        let opened = entry.open(datagram);
        if matches!(opened, Ok(_) | Err(Refusal::Dummy)) {
            let newest = entry.association().top() > before;
            // Said once for packets that follow one another.
            let moved = newest && current.remote != Some(from);
            peer.received(self.now_ms, moved.then_some(from));
            if moved {
                current.remote = Some(from);
            }
        }
        let Ok(opened) = opened else {
            return;
        };
        let payload = datagram.get(opened.payload.clone()).unwrap_or_default();
        let Ok((inner, frame)) = Inner::parse(payload, tables.spec.inner_port) else {
            entry.refuse(Refusal::BadInner);
            return;
        };
        if !peer.networks.contains(&inner.vni.get()) {
            peer.foreign_network.fetch_add(1, Relaxed);
            return;
        }
        let start = at.start + opened.payload.start;
        let mut arrival = Arrival {
            peer: peer.end,
            tos,
            inner,
            buffer,
            frame: start + frame.start..start + frame.end,
        };
        if tables.spec.form == Form::Port && !decapsulate(tables, &mut arrival, bytes) {
            return;
        }
        if self.coalescer.push(arrival, bytes).is_err() {
            entry.refuse(Refusal::BadInner);
        }
    }
}

/// Does what the kernel's VXLAN device does otherwise. Says whether the frame is to go on.
fn decapsulate(tables: &Tables, arrival: &mut Arrival, bytes: &mut [u8]) -> bool {
    let Some(port) = tables.ports.open(arrival.inner.vni.get()) else {
        tables.no_port.fetch_add(1, Relaxed);
        return false;
    };
    let frame = bytes.get_mut(arrival.frame.clone()).unwrap_or_default();
    if ecn::decapsulate(frame, arrival.tos).is_err() {
        port.drop_frames(Dropped::Congested, 1);
        return false;
    }
    arrival.tos = 0;
    true
}
