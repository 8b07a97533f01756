//! What one process of the data path gives to the next.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::keys::{KEY, SALT, SaKey};
use crate::path::{Form, PathSpec, SaName};
use crate::replay::{WORDS, Window};
use crate::sa::{InboundSa, Limits, OutboundSa};
use crate::{InboundCounters, OutboundCounters};

use super::PathError;
use super::ports::CarriedPort;
use super::tables::Tables;

/// Keys, sequence numbers, windows and counters of a data path that has stopped, for the one that
/// goes on. It holds keys: whoever serialises it erases the bytes, and never writes them to a disk.
#[derive(Serialize, Deserialize)]
pub struct HandedOverState {
    spec: PathSpec,
    outbound: Vec<OutboundState>,
    inbound: Vec<InboundState>,
    peers: BTreeMap<IpAddr, Carried>,
    strays: InboundCounters,
    #[serde(default)]
    pub(super) ports: BTreeMap<u32, CarriedPort>,
    /// Whether super-packets of UDP pass the ports.
    #[serde(default)]
    pub(super) udp: bool,
}

/// Bytes of a key, erased when dropped.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct KeyBytes(Vec<u8>);

impl Drop for KeyBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[derive(Serialize, Deserialize)]
struct OutboundState {
    name: SaName,
    key: KeyBytes,
    sequence: u64,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct InboundState {
    name: SaName,
    key: KeyBytes,
    top: u64,
    bits: Vec<u64>,
    counters: InboundCounters,
}

#[derive(Serialize, Deserialize)]
struct Carried {
    remote: SocketAddr,
    no_key: u64,
    foreign_network: u64,
    send_failed: u64,
    past_inbound: InboundCounters,
    past_outbound: OutboundCounters,
}

/// Nothing of it is printed.
impl fmt::Debug for HandedOverState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandedOverState")
    }
}

/// What an earlier process handed over: its state, and its descriptors.
#[derive(Debug)]
pub struct HandedOver {
    pub(super) state: HandedOverState,
    /// Queues of the TAP, then as many sockets; or queues of one port after those of the other, then
    /// as many sockets as each has.
    pub(super) fds: Vec<OwnedFd>,
}

impl HandedOver {
    /// The state, and the descriptors in the order in which they were handed over.
    pub fn new(state: HandedOverState, fds: Vec<OwnedFd>) -> Self {
        Self { state, fds }
    }
}

impl HandedOverState {
    /// What is there. Nobody may seal with it any more.
    pub(super) fn of(tables: &Tables) -> Self {
        let outbound = tables.peers.values().filter_map(|peer| {
            let (name, sa) = peer.outbound.as_ref()?;
            Some(OutboundState {
                name: *name,
                key: KeyBytes(sa.key().expose().to_vec()),
                sequence: sa.sequence(),
                bytes: sa.counters().bytes,
            })
        });
        let inbound = tables.names.values().filter_map(|name| {
            let entry = tables.inbound.lock(name.spi)?;
            let (key, window) = entry.association().parts();
            Some(InboundState {
                name: *name,
                key: KeyBytes(key.expose().to_vec()),
                top: window.top(),
                bits: window.bits().to_vec(),
                counters: entry.counters(),
            })
        });
        let peers = tables.peers.iter().map(|(end, peer)| {
            let carried = Carried {
                remote: peer.remote(),
                no_key: peer.no_key.load(Relaxed),
                foreign_network: peer.foreign_network.load(Relaxed),
                send_failed: peer.send_failed.load(Relaxed),
                past_inbound: peer.past_inbound,
                past_outbound: peer.past_outbound,
            };
            (*end, carried)
        });
        Self {
            spec: tables.spec.clone(),
            outbound: outbound.collect(),
            inbound: inbound.collect(),
            peers: peers.collect(),
            strays: tables.inbound.strays(),
            ports: tables.ports.carried(),
            udp: tables.ports.takes_udp(),
        }
    }

    /// How many descriptors each thread has: its queues and its socket.
    pub(super) fn fds_per_thread(&self) -> usize {
        match self.spec.form {
            Form::Vxlan => 2,
            Form::Port => self.ports.values().filter(|port| port.is_open()).count() + 1,
        }
    }

    /// Which form it was.
    pub(super) fn form(&self) -> Form {
        self.spec.form
    }

    /// Goes on with it. Ports are beside it.
    pub(super) fn into_tables(self) -> Result<Tables, PathError> {
        let mut tables = Tables::new(&self.spec);
        tables.inbound.resume_strays(self.strays);
        for (end, carried) in self.peers {
            let Some(peer) = tables.peers.get_mut(&end) else {
                continue;
            };
            peer.received_from(carried.remote);
            peer.no_key = carried.no_key.into();
            peer.foreign_network = carried.foreign_network.into();
            peer.send_failed = carried.send_failed.into();
            peer.past_inbound = carried.past_inbound;
            peer.past_outbound = carried.past_outbound;
        }
        for sa in self.outbound {
            let key = sa.key.to_key()?;
            let OutboundState {
                name,
                sequence,
                bytes,
                ..
            } = sa;
            let sa = OutboundSa::resume(name.spi, key, Limits::default(), sequence, bytes);
            tables.switch_outbound(name, sa)?;
        }
        for sa in self.inbound {
            let bits: [u64; WORDS] = sa.bits.try_into().map_err(|_| PathError::BadState)?;
            let window = Window::resume(sa.top, bits);
            let opens = InboundSa::resume(sa.name.spi, sa.key.to_key()?, window);
            tables.resume_inbound(sa.name, opens, sa.counters)?;
        }
        Ok(tables)
    }
}

impl KeyBytes {
    fn to_key(&self) -> Result<SaKey, PathError> {
        let bytes: Result<[u8; KEY + SALT], _> = self.0.as_slice().try_into();
        let bytes = Zeroizing::new(bytes.map_err(|_| PathError::BadState)?);
        Ok(SaKey::from_bytes(*bytes))
    }
}
