//! What all threads share: peers and their associations.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::esp::Spi;
use crate::offload::{Rejection, RejectionCounters};
use crate::path::{Inbound, Outbound, PathSpec, PathState, PeerSpec, PeerState, SaName};
use crate::sa::{InboundSa, InboundTable, OutboundSa};
use crate::{InboundCounters, OutboundCounters};

use super::PathError;
use super::ports::Ports;

/// Never happened, in a time that is an atomic.
const NEVER: u64 = u64::MAX;

/// Specification and associations. Threads read it for the length of a batch; who changes it waits
/// for them, so a change is in effect when it is made, and a key that is removed is gone.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) spec: PathSpec,
    pub(super) peers: HashMap<IpAddr, Peer>,
    pub(super) inbound: InboundTable,
    /// Whose inbound associations they are.
    pub(super) names: BTreeMap<Spi, SaName>,
    rejected: Mutex<RejectionCounters>,
    pub(super) undelivered: AtomicU64,
    pub(super) no_port: AtomicU64,
    /// With what is specified of each.
    pub(super) ports: Ports,
}

/// A peer of the specification.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its tunnel end.
    pub(super) end: IpAddr,
    pub(super) networks: BTreeSet<u32>,
    pub(super) outbound: Option<(SaName, OutboundSa)>,
    /// Where its newest packet came from.
    pub(super) remote: Mutex<SocketAddr>,
    received_ms: AtomicU64,
    sent_ms: AtomicU64,
    pub(super) no_key: AtomicU64,
    pub(super) foreign_network: AtomicU64,
    pub(super) send_failed: AtomicU64,
    /// Of the associations that are gone.
    pub(super) past_inbound: InboundCounters,
    pub(super) past_outbound: OutboundCounters,
}

impl Peer {
    pub(super) fn new(spec: PeerSpec, remote: SocketAddr) -> Self {
        Self {
            end: remote.ip(),
            networks: spec.networks,
            outbound: None,
            remote: Mutex::new(remote),
            received_ms: AtomicU64::new(NEVER),
            sent_ms: AtomicU64::new(NEVER),
            no_key: AtomicU64::new(0),
            foreign_network: AtomicU64::new(0),
            send_failed: AtomicU64::new(0),
            past_inbound: InboundCounters::default(),
            past_outbound: OutboundCounters::default(),
        }
    }

    pub(super) fn remote(&self) -> SocketAddr {
        *lock(&self.remote)
    }

    /// A packet of it was opened. `from` is given for the newest: it says where the peer is.
    pub(super) fn received(&self, now_ms: u64, from: Option<SocketAddr>) {
        self.received_ms.store(now_ms, Relaxed);
        if let Some(from) = from {
            self.received_from(from);
        }
    }

    pub(super) fn received_from(&self, mut from: SocketAddr) {
        if let SocketAddr::V6(v6) = &mut from {
            v6.set_flowinfo(0);
        }
        *lock(&self.remote) = from;
    }

    pub(super) fn sent(&self, now_ms: u64) {
        self.sent_ms.store(now_ms, Relaxed);
    }

    pub(super) fn sent_ms(&self) -> Option<u64> {
        happened(&self.sent_ms)
    }

    pub(super) fn received_ms(&self) -> Option<u64> {
        happened(&self.received_ms)
    }

    fn drop_outbound(&mut self) {
        if let Some((_, gone)) = self.outbound.take() {
            self.past_outbound.add(gone.counters());
        }
    }
}

/// Nothing that panics is done under these locks, so there is nothing half done either.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn happened(at: &AtomicU64) -> Option<u64> {
    Some(at.load(Relaxed)).filter(|at| *at != NEVER)
}

impl Tables {
    pub(super) fn new(spec: &PathSpec) -> Self {
        let mut tables = Self {
            spec: without_ports(spec),
            peers: HashMap::new(),
            inbound: InboundTable::new(),
            names: BTreeMap::new(),
            rejected: Mutex::default(),
            undelivered: AtomicU64::new(0),
            no_port: AtomicU64::new(0),
            ports: Ports::default(),
        };
        tables.match_peers();
        tables
    }

    /// Whether it could be as this other specification says.
    pub(super) fn check(&self, spec: &PathSpec) -> Result<(), PathError> {
        if (spec.local, spec.esp_port) != (self.spec.local, self.spec.esp_port) {
            return Err(PathError::Moved {
                local: self.spec.local,
                port: self.spec.esp_port,
            });
        }
        if spec.form != self.spec.form {
            return Err(PathError::OtherForm(self.spec.form));
        }
        Ok(())
    }

    /// Takes over another specification, but for its ports. Keys of peers that are gone are erased.
    pub(super) fn want(&mut self, spec: &PathSpec) -> Result<(), PathError> {
        self.check(spec)?;
        self.spec = without_ports(spec);
        self.match_peers();
        Ok(())
    }

    fn match_peers(&mut self) {
        let Self { spec, peers, .. } = self;
        let gone: Vec<_> = peers
            .keys()
            .filter(|end| !spec.peers.contains_key(end))
            .collect();
        let gone: Vec<IpAddr> = gone.into_iter().copied().collect();
        for (end, wanted) in &spec.peers {
            let remote = SocketAddr::new(*end, spec.esp_port);
            let peer = peers
                .entry(*end)
                .or_insert_with(|| Peer::new(wanted.clone(), remote));
            peer.networks.clone_from(&wanted.networks);
        }
        for end in gone {
            self.remove_peer(end);
        }
    }

    pub(super) fn install_inbound(&mut self, name: SaName, sa: InboundSa) -> Result<(), PathError> {
        self.resume_inbound(name, sa, InboundCounters::default())
    }

    pub(super) fn resume_inbound(
        &mut self,
        name: SaName,
        sa: InboundSa,
        counters: InboundCounters,
    ) -> Result<(), PathError> {
        if !self.peers.contains_key(&name.peer) {
            return Err(PathError::UnknownPeer(name.peer));
        }
        self.inbound.resume(sa, counters)?;
        self.names.insert(name.spi, name);
        Ok(())
    }

    pub(super) fn switch_outbound(
        &mut self,
        name: SaName,
        sa: OutboundSa,
    ) -> Result<(), PathError> {
        let peer = self.peers.get_mut(&name.peer);
        let peer = peer.ok_or(PathError::UnknownPeer(name.peer))?;
        if let Some((last, _)) = &peer.outbound {
            // Another association with a key that was sealed with would use its nonces again.
            let (last, key) = (last.key, name.key);
            if last.session == key.session && last.epoch >= key.epoch {
                return Err(PathError::UsedKey);
            }
        }
        peer.drop_outbound();
        peer.outbound = Some((name, sa));
        Ok(())
    }

    pub(super) fn remove_inbound(&mut self, spi: Spi) {
        let counters = self.inbound.remove(spi);
        let name = self.names.remove(&spi);
        let peer = name.and_then(|name| self.peers.get_mut(&name.peer));
        if let (Some(counters), Some(peer)) = (counters, peer) {
            peer.past_inbound.add(counters);
        }
    }

    /// Counts a packet of the TAP that is not sent.
    pub(super) fn reject(&self, cause: Rejection) {
        lock(&self.rejected).count(cause);
    }

    /// Erases all keys with a peer; one of the specification stays, without.
    pub(super) fn remove_peer(&mut self, end: IpAddr) {
        let of_peer = self.names.values().filter(|name| name.peer == end);
        let spis: Vec<Spi> = of_peer.map(|name| name.spi).collect();
        for spi in spis {
            self.remove_inbound(spi);
        }
        if self.spec.peers.contains_key(&end) {
            if let Some(peer) = self.peers.get_mut(&end) {
                peer.drop_outbound();
            }
        } else {
            self.peers.remove(&end);
        }
    }

    pub(super) fn state(&self, now_ms: u64) -> PathState {
        let mut state = PathState {
            strays: self.inbound.strays(),
            rejected: *lock(&self.rejected),
            no_port: self.no_port.load(Relaxed),
            ports: self.ports.states(),
            form: Some(self.spec.form),
            ..PathState::default()
        };
        let of_ports = state.ports.values();
        let of_ports: u64 = of_ports.map(|port| port.dropped.undelivered).sum();
        state.undelivered = self.undelivered.load(Relaxed) + of_ports;
        for (end, peer) in &self.peers {
            let mut known = PeerState {
                remote: Some(peer.remote()),
                last_received_ms: peer.received_ms().map(|at| now_ms.saturating_sub(at)),
                no_key: peer.no_key.load(Relaxed),
                foreign_network: peer.foreign_network.load(Relaxed),
                send_failed: peer.send_failed.load(Relaxed),
                inbound: peer.past_inbound,
                outbound: peer.past_outbound,
            };
            if let Some((name, sa)) = &peer.outbound {
                let counters = sa.counters();
                known.outbound.add(counters);
                state.outbound.push(Outbound {
                    name: *name,
                    counters,
                    rekey_due: sa.rekey().is_some(),
                });
            }
            state.peers.insert(*end, known);
        }
        for name in self.names.values() {
            let Some(counters) = self.inbound.counters(name.spi) else {
                continue;
            };
            if let Some(peer) = state.peers.get_mut(&name.peer) {
                peer.inbound.add(counters);
            }
            state.inbound.push(Inbound {
                name: *name,
                counters,
            });
        }
        state.outbound.sort_by_key(|outbound| outbound.name);
        state
    }
}

fn without_ports(spec: &PathSpec) -> PathSpec {
    PathSpec {
        peers: spec.peers.clone(),
        ports: BTreeMap::new(),
        ..*spec
    }
}

#[cfg(test)]
mod tests;
