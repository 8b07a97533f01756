//! Who takes a new connection.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use super::{Listener, Member, Scheduler};
use crate::spec::{Backend, CLIENTS_MAX, MAGLEV_SLOTS_PER_BACKEND, MaglevSize};
use crate::{hash, maglev, slots};

/// How often clients whose time is over are looked for when there are too many.
const SWEEP: Duration = Duration::from_secs(1);

/// Chooses the backends of one listener's connections.
#[derive(Clone, Debug)]
pub struct Chooser {
    listener: Listener,
    /// Every backend that takes connections, as often as its weight says.
    slots: Vec<SocketAddr>,
    weights: BTreeMap<SocketAddr, u16>,
    /// The next turn.
    turn: usize,
    /// Clients with the backends that they stay with, and until when.
    clients: HashMap<IpAddr, (SocketAddr, Duration)>,
    swept: Duration,
}

impl Chooser {
    /// For a listener, before its first connection.
    pub fn new(listener: Listener) -> Self {
        let mut chooser = Self {
            listener,
            slots: Vec::new(),
            weights: BTreeMap::new(),
            turn: 0,
            clients: HashMap::new(),
            swept: Duration::ZERO,
        };
        chooser.fill();
        chooser
    }

    /// Goes on with another content.
    pub fn update(&mut self, listener: Listener) {
        if self.listener != listener {
            self.listener = listener;
            self.fill();
        }
    }

    /// The listener as it is now.
    pub fn listener(&self) -> &Listener {
        &self.listener
    }

    /// The backend for a new connection of a client, other than those that have `refused` it; `None`
    /// when there is nobody left. `now` is the time since any moment, `random` a new number each time,
    /// and `connections` says how many a backend has.
    pub fn choose(
        &mut self,
        client: SocketAddr,
        now: Duration,
        random: u64,
        connections: impl Fn(&SocketAddr, &Member) -> u64,
        refused: &BTreeSet<SocketAddr>,
    ) -> Option<SocketAddr> {
        let address = client.ip().to_canonical();
        let kept = self.kept(address, now);
        let kept = kept.filter(|backend| !refused.contains(backend));
        let chosen = match kept {
            Some(backend) => backend,
            None => self.schedule(client, random, connections, refused)?,
        };
        self.keep(address, chosen, now);
        Some(chosen)
    }

    fn schedule(
        &mut self,
        client: SocketAddr,
        random: u64,
        connections: impl Fn(&SocketAddr, &Member) -> u64,
        refused: &BTreeSet<SocketAddr>,
    ) -> Option<SocketAddr> {
        let count = self.slots.len();
        let below = |number: u64| usize::try_from(number % count.max(1) as u64).unwrap_or(0);
        let first = match self.listener.scheduler {
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin | Scheduler::LeastConnections => {
                self.turn = self.turn.wrapping_add(1);
                self.turn % count.max(1)
            }
            Scheduler::Random => below(random),
            Scheduler::SourceHash => below(hash::of_bytes(octets(client.ip()))),
            Scheduler::Maglev => {
                let port = client.port().to_be_bytes();
                below(hash::of_bytes(octets(client.ip()).into_iter().chain(port)))
            }
        };
        let mut turns = self.slots.iter().cycle().skip(first).take(count);
        let takes = |backend: &&SocketAddr| !refused.contains(backend);
        if self.listener.scheduler != Scheduler::LeastConnections {
            return turns.find(takes).copied();
        }
        // As of two loads the one, so `(connections + 1) / weight` are compared without a division; the
        // first of the least, and who is first changes.
        let load = |backend: SocketAddr| {
            let member = self.listener.backends.get(&backend)?;
            let weight = self.weights.get(&backend).copied().unwrap_or(1).max(1);
            let count = connections(&backend, member);
            Some((backend, (u128::from(count) + 1, u128::from(weight))))
        };
        let loads = turns.filter(takes).copied().filter_map(load);
        let least = loads.min_by(|(_, (a, by_a)), (_, (b, by_b))| (a * by_b).cmp(&(b * by_a)));
        least.map(|(backend, _)| backend)
    }

    /// The backend that a client has, if it still takes connections.
    fn kept(&mut self, client: IpAddr, now: Duration) -> Option<SocketAddr> {
        self.listener.affinity()?;
        let (backend, until) = *self.clients.get(&client)?;
        if now < until && self.weights.contains_key(&backend) {
            return Some(backend);
        }
        self.clients.remove(&client);
        None
    }

    fn keep(&mut self, client: IpAddr, backend: SocketAddr, now: Duration) {
        let Some(affinity) = self.listener.affinity() else {
            return;
        };
        let most = usize::try_from(CLIENTS_MAX).unwrap_or(usize::MAX);
        if self.clients.len() >= most && now >= self.swept + SWEEP {
            self.swept = now;
            self.clients.retain(|_, (_, until)| now < *until);
        }
        // When it is full, whoever comes is balanced as without.
        if self.clients.len() < most || self.clients.contains_key(&client) {
            self.clients.insert(client, (backend, now + affinity));
        }
    }

    fn fill(&mut self) {
        if self.listener.affinity_s.is_none() {
            self.clients.clear();
        }
        let active = self.listener.active();
        self.weights = active.iter().copied().collect();
        let weights: Vec<u16> = active.iter().map(|(_, weight)| *weight).collect();
        let backends = active.iter().map(|(address, _)| as_backend(*address));
        let by_weight = || -> Vec<(Backend, u32)> {
            let counts = slots::multiplicities(&weights);
            backends.clone().zip(counts).collect()
        };
        let slots: Vec<Backend> = match self.listener.scheduler {
            Scheduler::RoundRobin | Scheduler::LeastConnections => backends.collect(),
            Scheduler::WeightedRoundRobin => slots::interleave(&by_weight()),
            Scheduler::Random | Scheduler::SourceHash => slots::assign(&[], &by_weight()),
            Scheduler::Maglev => {
                let weighted: Vec<_> = backends.zip(weights.iter().copied()).collect();
                maglev::table(&weighted, maglev_size(weighted.len()))
            }
        };
        self.slots = slots.into_iter().filter_map(as_address).collect();
    }
}

/// Another size moves most clients, so a service that grows should rarely need one.
fn maglev_size(backends: usize) -> MaglevSize {
    match backends <= usize::from(MaglevSize::Medium.slots()) / MAGLEV_SLOTS_PER_BACKEND {
        true => MaglevSize::Medium,
        false => MaglevSize::Large,
    }
}

fn as_backend(address: SocketAddr) -> Backend {
    Backend {
        address: address.ip(),
        port: NonZeroU16::new(address.port()),
    }
}

fn as_address(backend: Backend) -> Option<SocketAddr> {
    Some(SocketAddr::new(backend.address, backend.port?.get()))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
