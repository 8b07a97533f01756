//! From the ports of bridges to the peers: what the kernel's VXLAN device does otherwise.

use std::io::IoSlice;
use std::net::IpAddr;

use crate::forwarding::{ANSWER, Decision, Dropped, ecn, source_port};
use crate::inner::{Inner, Vni};
use crate::offload::vnet::{Layout, Vnet};
use crate::offload::{Rejection, Segments};

use super::super::port::Port;
use super::super::socket::EspSocket;
use super::super::sys::Epoll;
use super::super::tables::Tables;
use super::super::tap::PORT_LAYOUT;
use super::{BATCH, Group, Transmit, read_batch, seal};

/// Ports that have their turn before the other direction has: together they have a batch.
const PORTS: usize = BATCH;
/// Before an answer: nothing is left to be done to it.
const NOTHING: [u8; Layout::LONGEST] = [0; Layout::LONGEST];

impl Transmit {
    /// Reads frames of the thread's queues, seals what they become and sends it. Returns whether
    /// there were any, and whether there may be more.
    pub(in super::super) fn forward_ports(
        &mut self,
        tables: &Tables,
        (thread, poll): (usize, &Epoll),
        socket: &EspSocket,
        now_ms: u64,
    ) -> (bool, bool) {
        let mut vnis = [0; PORTS];
        let vnis = poll.ready(&mut vnis);
        let (mut any, mut more) = (false, vnis.len() == PORTS);
        let most = BATCH / vnis.len().max(1);
        let mut group = Group::new(&mut self.packets, tables, socket, now_ms);
        for vni in vnis {
            let network = Vni::new(*vni).zip(tables.ports.open(*vni));
            let Some((vni, port)) = network else {
                continue;
            };
            let Some(tap) = port.queue(thread) else {
                continue;
            };
            let from = Ingress {
                tables,
                vni,
                port,
                thread,
            };
            let read = read_batch(tap, &mut self.frame, most, |frame| {
                if let Err(cause) = from.forward(frame, &mut group) {
                    tables.reject(cause);
                }
            });
            match read {
                Ok(frames) => {
                    any |= frames > 0;
                    more |= frames == most;
                }
                Err(_) => port.lose(thread, poll),
            }
        }
        group.flush();
        (any, more)
    }
}

/// Where a frame came from.
struct Ingress<'t> {
    tables: &'t Tables,
    vni: Vni,
    port: &'t Port,
    thread: usize,
}

impl<'t> Ingress<'t> {
    /// Does with a frame what the network's table says.
    fn forward(&self, frame: &[u8], group: &mut Group<'_, 't>) -> Result<(), Rejection> {
        let (vnet, packet) = Vnet::parse(frame, PORT_LAYOUT)?;
        let mut answer = [0; ANSWER];
        match self.port.table.decide(packet, &mut answer) {
            Decision::To(end) => self.send(end, &vnet, packet, group),
            Decision::Flood(ends) => ends
                .iter()
                .try_for_each(|end| self.send(*end, &vnet, packet, group)),
            Decision::Answer(length) => {
                let header = IoSlice::new(&NOTHING[..PORT_LAYOUT.length()]);
                let parts = [header, IoSlice::new(&answer[..length])];
                self.port.write(self.thread, &parts, 1);
                Ok(())
            }
            Decision::Drop(cause) => {
                self.port.drop_frames(cause, 1);
                Ok(())
            }
        }
    }

    /// Seals what a frame for that tunnel end becomes.
    fn send(
        &self,
        end: IpAddr,
        vnet: &Vnet,
        packet: &[u8],
        group: &mut Group<'_, 't>,
    ) -> Result<(), Rejection> {
        let peer = self.tables.peers.get(&end);
        let Some(peer) = peer.filter(|peer| peer.networks.contains(&self.vni.get())) else {
            self.port.drop_frames(Dropped::NoPeer, 1);
            return Ok(());
        };
        let inner = Inner {
            source: source_port(packet),
            destination: self.tables.spec.inner_port,
            vni: self.vni,
        };
        let segments = Segments::new(vnet, inner, packet, 0..packet.len())?;
        seal(peer, &segments, ecn::outer(packet), group);
        Ok(())
    }
}
