//! The kernel's data path: ESP in UDP by XFRM states and policies.
//!
//! Policies say what has to be, by the inner port, which encrypted networks have to themselves:
//!
//! ```text
//! out  LOCAL -> PEER   udp dport 4790   esp with the current outbound association
//! in   PEER  -> LOCAL  udp dport 4790   esp
//! out  any   -> any    udp dport 4790   block          (after those)
//! in   any   -> any    udp dport 4790   block          (after those)
//! ```
//!
//! - The outbound policy names the SPI. So the switch to another association is one change, and
//!   nobody's choice. Before there is one there is no such policy, and the last ones count.
//! - An association has a selector: what comes out of it is from that peer, to this node and that port,
//!   or is dropped. Without it a peer could send in another one's name.
//! - The associations outlive this process. Which key each is is in a file of the run directory, without
//!   the keys; the next process adopts those that are in it, and removes the others.
//! - A socket at port 4500 hands what comes there to XFRM, for as long as it is open (`UDP_ENCAP`): it
//!   is to be handed over.
//! - A peer behind an address translator is not reached: associations have one address. What its
//!   packets' selector would be is not what they come from.
//! - Hardware offload is not used: the kernel has none for ESP in UDP.

mod ledger;
mod link;
mod message;
mod probe;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use weft_netns::Netns;

use crate::esp::Spi;
use crate::keys::SaKey;
use crate::path::{ESP_PORT, Form, Inbound, Outbound, PathSpec, PathState, PeerState, SaName};
use crate::sa::Limits;
use crate::userspace::sys;
use crate::{InboundCounters, OutboundCounters};

use ledger::{Entry, Ledger};
use link::Link;
pub use link::XfrmError;
use message::{Direction, Message, Policy, SeenState, Selector, State, Template, kind};
pub use probe::{ProbeError, probe};

/// By which our states and templates are known; its digits are "wfes".
const REQID: u32 = 0x7766_6573;
/// Priorities of our policies, the lower the first: before those that IKE daemons make.
const PRIORITY_PEER: u32 = 0x7766;
const PRIORITY_BLOCK: u32 = PRIORITY_PEER + 1;
/// Most associations with one peer that are kept at once. A rotation has a few.
const PER_PEER_MAX: usize = 64;

/// Why the data path could not be started, or a change was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The namespace or the netlink socket.
    #[error("the kernel's ESP cannot be reached: {0}")]
    Open(String),
    /// The UDP socket.
    #[error("udp socket at {local} cannot be used for ESP: {source}")]
    Socket {
        /// Where it was to be bound.
        local: SocketAddr,
        /// By the kernel.
        source: io::Error,
    },
    /// The file with the names.
    #[error("names of associations cannot be written: {0}")]
    Ledger(io::Error),
    /// The kernel refused something.
    #[error("the kernel refused to {what}: {source}")]
    Refused {
        /// What.
        what: &'static str,
        /// Why.
        source: XfrmError,
    },
    /// The peer is not one.
    #[error("{0} is not a peer of the specification: only those are")]
    UnknownPeer(IpAddr),
    /// The SPI is taken.
    #[error("spi {0} belongs to another association: a free one is needed")]
    SpiTaken(Spi),
    /// There are too many.
    #[error("{0} has {PER_PEER_MAX} associations already, the most that are kept")]
    TooMany(IpAddr),
    /// The tunnel end is another.
    #[error("the data path is at {local}: it has to be started again to move")]
    Moved {
        /// Where it is.
        local: SocketAddr,
    },
}

fn refused(what: &'static str) -> impl Fn(XfrmError) -> KernelError {
    move |source| KernelError::Refused { what, source }
}

/// The data path. Dropped, it takes nothing away but the socket.
#[derive(Debug)]
pub struct Kernel {
    inner: Mutex<Inner>,
    socket: UdpSocket,
}

#[derive(Debug)]
struct Inner {
    netns: Netns,
    link: Link,
    spec: PathSpec,
    ledger: Ledger,
    /// Of associations that are gone, by peer.
    past: BTreeMap<IpAddr, (InboundCounters, OutboundCounters)>,
    /// When somebody asked and there were more packets of a peer than before, and how many.
    heard: BTreeMap<IpAddr, (u64, Instant)>,
}

impl Kernel {
    /// Starts it in the network namespace of this thread: adopts what an earlier process left there, and
    /// removes what is not known. `socket` is what that process handed over.
    ///
    /// # Errors
    /// [`KernelError`]; what was handed over is closed then.
    pub fn start(
        spec: PathSpec,
        run_dir: &Path,
        socket: Option<OwnedFd>,
    ) -> Result<Self, KernelError> {
        let netns = Netns::current().map_err(|e| KernelError::Open(e.to_string()))?;
        let link = Link::open(&netns).map_err(|e| KernelError::Open(e.to_string()))?;
        let mut inner = Inner {
            netns,
            link,
            ledger: Ledger::open(run_dir),
            past: BTreeMap::new(),
            heard: BTreeMap::new(),
            spec,
        };
        // Policies first: once the socket is there, packets come.
        inner.adopt()?;
        inner.match_policies()?;
        let local = SocketAddr::new(inner.spec.local, inner.spec.esp_port);
        let failed = |source| KernelError::Socket { local, source };
        let socket = match socket {
            Some(fd) => UdpSocket::from(fd),
            None => UdpSocket::bind(local).map_err(failed)?,
        };
        sys::take_esp_in_udp(&socket).map_err(failed)?;
        Ok(Self {
            inner: Mutex::new(inner),
            socket,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes another specification: other peers, or what somebody has damaged. Keys with peers that are
    /// none any more are erased.
    ///
    /// # Errors
    /// [`KernelError::Moved`], [`KernelError::Refused`].
    pub fn want(&self, spec: &PathSpec) -> Result<(), KernelError> {
        let mut inner = self.inner();
        let local = SocketAddr::new(inner.spec.local, inner.spec.esp_port);
        if SocketAddr::new(spec.local, spec.esp_port) != local {
            return Err(KernelError::Moved { local });
        }
        inner.spec = spec.clone();
        let Inner { past, heard, .. } = &mut *inner;
        past.retain(|peer, _| spec.peers.contains_key(peer));
        heard.retain(|peer, _| spec.peers.contains_key(peer));
        inner.adopt()?;
        inner.match_policies()
    }

    /// Opens packets of this association from now on.
    ///
    /// # Errors
    /// [`KernelError`]; nothing has changed then.
    pub fn install_inbound(&self, name: SaName, key: SaKey) -> Result<(), KernelError> {
        let inbound = true;
        self.inner().install(Entry { name, inbound }, &key)
    }

    /// Seals with this association from now on. The one before stays until
    /// [`state`](Self::state) is asked for, for packets on their way.
    ///
    /// The key must never have been given to another association that seals.
    ///
    /// # Errors
    /// [`KernelError`]; nothing has changed then.
    pub fn switch_outbound(&self, name: SaName, key: SaKey) -> Result<(), KernelError> {
        let mut inner = self.inner();
        inner.retire();
        let inbound = false;
        inner.install(Entry { name, inbound }, &key)?;
        let policy = inner.outbound_policy(&name);
        let switched = inner.link.change(&Message::set_policy(&policy));
        switched.map_err(|source| {
            inner.remove(|entry| !entry.inbound && entry.name == name);
            refused("switch to an association")(source)
        })
    }

    /// Opens packets of this association no longer, and erases its key.
    pub fn remove_inbound(&self, spi: Spi) {
        self.inner()
            .remove(|entry| entry.inbound && entry.name.spi == spi);
    }

    /// Erases all keys with a peer: nothing comes from or goes to it any more.
    pub fn remove_peer(&self, peer: IpAddr) {
        let mut inner = self.inner();
        inner.remove(|entry| entry.name.peer == peer);
        // The policy that names an association that is gone.
        if let Err(error) = inner.match_policies() {
            tracing::warn!(%error, "after a peer was removed");
        }
    }

    /// What it is at that moment.
    pub fn state(&self) -> PathState {
        let mut inner = self.inner();
        inner.retire();
        inner.state().unwrap_or_else(|error| PathState {
            error: Some(error.to_string()),
            ..PathState::default()
        })
    }

    /// Gives the socket to whoever goes on.
    pub fn hand_over(self) -> OwnedFd {
        self.socket.into()
    }

    /// Takes everything away that is in the kernel: associations with their keys, then policies.
    ///
    /// # Errors
    /// [`KernelError::Refused`].
    pub fn remove(self) -> Result<(), KernelError> {
        let mut inner = self.inner();
        inner.remove(|_| true);
        inner.adopt()?;
        inner.set_policies(&BTreeSet::new())
    }
}

/// Removes what the data path of a process that was ended has left in the network namespace of this
/// thread: its associations hold keys, and its policies block what another data path is to carry.
/// Where the kernel has no XFRM there is nothing.
///
/// # Errors
/// [`KernelError::Open`], [`KernelError::Refused`].
pub fn remove_left(run_dir: &Path) -> Result<(), KernelError> {
    let netns = Netns::current().map_err(|e| KernelError::Open(e.to_string()))?;
    let Ok(link) = Link::open(&netns) else {
        return Ok(());
    };
    let nobody = PathSpec {
        local: Ipv4Addr::UNSPECIFIED.into(),
        esp_port: ESP_PORT,
        inner_port: 0,
        underlay_mtu: 0,
        peers: BTreeMap::new(),
        form: Form::Vxlan,
        ports: BTreeMap::new(),
    };
    let mut inner = Inner {
        netns,
        link,
        spec: nobody,
        ledger: Ledger::open(run_dir),
        past: BTreeMap::new(),
        heard: BTreeMap::new(),
    };
    inner.adopt()?;
    inner.set_policies(&BTreeSet::new())
}

impl Inner {
    /// Removes what is not known, or with peers that are none, and forgets what is not there.
    fn adopt(&mut self) -> Result<(), KernelError> {
        let Self { ledger, spec, .. } = self;
        let local = spec.local;
        let seen = self.link.dump(kind::GET_STATE, message::read_state);
        let seen = seen.map_err(refused("list associations"))?;
        let seen: Vec<SeenState> = seen.into_iter().filter(|s| s.reqid == REQID).collect();
        ledger.retain(|entry| {
            let there = |state: &SeenState| (state.to, state.spi) == entry.key(local);
            spec.peers.contains_key(&entry.name.peer) && seen.iter().any(there)
        });
        for state in seen {
            let known = |entry: &Entry| entry.key(local) == (state.to, state.spi);
            if !ledger.entries().iter().any(known) {
                let message = Message::about_state(kind::DELETE_STATE, state.to, state.spi);
                let deleted = self.link.settle(&message, &[libc::ESRCH]);
                deleted.map_err(refused("delete an association"))?;
            }
        }
        Ok(())
    }

    fn install(&mut self, entry: Entry, key: &SaKey) -> Result<(), KernelError> {
        let name = entry.name;
        if !self.spec.peers.contains_key(&name.peer) {
            return Err(KernelError::UnknownPeer(name.peer));
        }
        let entries = self.ledger.entries();
        if entries.iter().filter(|e| e.name.peer == name.peer).count() >= PER_PEER_MAX {
            return Err(KernelError::TooMany(name.peer));
        }
        let (to, spi) = entry.key(self.spec.local);
        let known = |other: &Entry| other.key(self.spec.local) == (to, spi);
        if entries.iter().any(known) {
            return Err(KernelError::SpiTaken(name.spi));
        }
        let from = match entry.inbound {
            true => name.peer,
            false => self.spec.local,
        };
        // How much one key may seal. Who opens has no limit of its own to run into.
        let limits = match entry.inbound {
            true => (u64::MAX, u64::MAX),
            false => Limits::default().hard(),
        };
        let state = State {
            from,
            to,
            spi,
            reqid: REQID,
            esp_port: self.spec.esp_port,
            inner_port: self.spec.inner_port,
            limits,
        };
        self.ledger.add(entry).map_err(KernelError::Ledger)?;
        self.link
            .change(&Message::add_state(&state, key))
            .map_err(|source| {
                self.ledger.retain(|other| *other != entry);
                match source.errno() {
                    Some(libc::EEXIST) => KernelError::SpiTaken(name.spi),
                    _ => refused("add an association")(source),
                }
            })
    }

    /// Removes the associations of entries.
    fn remove(&mut self, which: impl Fn(&Entry) -> bool) {
        let gone: Vec<Entry> = self
            .ledger
            .entries()
            .iter()
            .copied()
            .filter(&which)
            .collect();
        for entry in gone {
            let (to, spi) = entry.key(self.spec.local);
            let get = Message::about_state(kind::GET_STATE, to, spi);
            if let Ok(Some(seen)) = self.link.get(&get, message::read_state) {
                self.remember(&entry, &seen);
            }
            let delete = Message::about_state(kind::DELETE_STATE, to, spi);
            if let Err(error) = self.link.settle(&delete, &[libc::ESRCH]) {
                // It stays in the ledger, and the next look removes it.
                tracing::warn!(%error, spi, "association cannot be deleted");
                continue;
            }
            self.ledger.retain(|other| *other != entry);
        }
    }

    fn remember(&mut self, entry: &Entry, seen: &SeenState) {
        let (inbound, outbound) = self.past.entry(entry.name.peer).or_default();
        if entry.inbound {
            add_inbound(inbound, &inbound_counters(seen));
        } else {
            add_outbound(outbound, &outbound_counters(seen));
        }
    }

    /// Removes outbound associations but the newest of each peer.
    fn retire(&mut self) {
        let newest = self.outbound();
        let current: BTreeSet<SaName> = newest.into_values().collect();
        self.remove(|entry| !entry.inbound && !current.contains(&entry.name));
    }

    /// The outbound association of each peer: the last that came.
    fn outbound(&self) -> BTreeMap<IpAddr, SaName> {
        let entries = self.ledger.entries().iter();
        let outbound = entries.filter(|entry| !entry.inbound);
        outbound
            .map(|entry| (entry.name.peer, entry.name))
            .collect()
    }

    fn outbound_policy(&self, name: &SaName) -> Policy {
        self.peer_policy(Direction::Out, name.peer, name.spi.get())
    }

    fn peer_policy(&self, direction: Direction, peer: IpAddr, spi: u32) -> Policy {
        let (from, to) = match direction {
            Direction::In => (peer, self.spec.local),
            Direction::Out => (self.spec.local, peer),
        };
        Policy {
            direction,
            selector: Selector::between(from, to, self.spec.inner_port),
            priority: PRIORITY_PEER,
            template: Some(Template {
                from,
                to,
                spi,
                reqid: REQID,
            }),
        }
    }

    fn match_policies(&mut self) -> Result<(), KernelError> {
        let mut wanted = BTreeSet::new();
        for direction in [Direction::In, Direction::Out] {
            wanted.insert(Policy {
                direction,
                selector: Selector::everything(self.spec.local, self.spec.inner_port),
                priority: PRIORITY_BLOCK,
                template: None,
            });
        }
        for peer in self.spec.peers.keys() {
            wanted.insert(self.peer_policy(Direction::In, *peer, 0));
        }
        for name in self.outbound().values() {
            wanted.insert(self.outbound_policy(name));
        }
        self.set_policies(&wanted)
    }

    /// Makes our policies these.
    fn set_policies(&mut self, wanted: &BTreeSet<Policy>) -> Result<(), KernelError> {
        let seen = self.link.dump(kind::GET_POLICY, message::read_policy);
        let seen = seen.map_err(refused("list policies"))?;
        let ours = |policy: &Policy| match policy.template {
            Some(template) => template.reqid == REQID,
            None => policy.priority == PRIORITY_BLOCK,
        };
        let seen: BTreeSet<Policy> = seen.into_iter().filter(ours).collect();
        // What blocks comes first and goes last.
        let block = |policy: &&Policy| policy.template.is_none();
        let (first, last): (Vec<_>, Vec<_>) = wanted.difference(&seen).partition(block);
        for policy in first.into_iter().chain(last) {
            let set = self.link.change(&Message::set_policy(policy));
            set.map_err(refused("set a policy"))?;
        }
        let replaced = |policy: &Policy| {
            let same = |other: &Policy| {
                (other.direction, other.selector) == (policy.direction, policy.selector)
            };
            wanted.iter().any(same)
        };
        let (last, first): (Vec<_>, Vec<_>) = seen.difference(wanted).partition(block);
        for policy in first
            .into_iter()
            .chain(last)
            .filter(|policy| !replaced(policy))
        {
            let deleted = self
                .link
                .settle(&Message::delete_policy(&policy), &[libc::ENOENT]);
            deleted.map_err(refused("delete a policy"))?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<PathState, KernelError> {
        // What the kernel has removed at a limit is no longer ours.
        self.adopt()?;
        let seen = self.link.dump(kind::GET_STATE, message::read_state);
        let seen = seen.map_err(refused("list associations"))?;
        let mut state = PathState::default();
        for peer in self.spec.peers.keys() {
            let (inbound, outbound) = self.past.get(peer).copied().unwrap_or_default();
            let known = PeerState {
                remote: Some(SocketAddr::new(*peer, self.spec.esp_port)),
                inbound,
                outbound,
                ..PeerState::default()
            };
            state.peers.insert(*peer, known);
        }
        for entry in self.ledger.entries() {
            let key = entry.key(self.spec.local);
            let of_entry = |seen: &&SeenState| (seen.to, seen.spi) == key && seen.reqid == REQID;
            let (Some(seen), Some(peer)) = (
                seen.iter().find(of_entry),
                state.peers.get_mut(&entry.name.peer),
            ) else {
                continue;
            };
            if entry.inbound {
                let counters = inbound_counters(seen);
                add_inbound(&mut peer.inbound, &counters);
                let name = entry.name;
                state.inbound.push(Inbound { name, counters });
            } else {
                let counters = outbound_counters(seen);
                add_outbound(&mut peer.outbound, &counters);
                let limits = Limits::default();
                state.outbound.push(Outbound {
                    name: entry.name,
                    counters,
                    rekey_due: limits.due(counters.packets, counters.bytes).is_some(),
                });
            }
        }
        for (peer, known) in &mut state.peers {
            known.last_received_ms = self.heard(*peer, known.inbound.packets);
        }
        state.strays = strays(&self.netns);
        Ok(state)
    }

    /// Milliseconds since packets of a peer came, as far as can be told by when somebody asked: when an
    /// association was used last, the kernel does not say of those that open.
    fn heard(&mut self, peer: IpAddr, packets: u64) -> Option<u64> {
        let now = Instant::now();
        let heard = self.heard.get(&peer).filter(|heard| heard.0 >= packets);
        let at = match heard {
            Some((_, at)) => *at,
            None if packets == 0 => return None,
            None => now,
        };
        self.heard.insert(peer, (packets, at));
        u64::try_from(now.duration_since(at).as_millis()).ok()
    }
}

fn inbound_counters(seen: &SeenState) -> InboundCounters {
    InboundCounters {
        packets: seen.packets,
        bytes: seen.bytes,
        too_old: seen.too_old.into(),
        replayed: seen.replayed.into(),
        auth_failed: seen.auth_failed.into(),
        ..InboundCounters::default()
    }
}

fn outbound_counters(seen: &SeenState) -> OutboundCounters {
    OutboundCounters {
        packets: seen.packets,
        bytes: seen.bytes,
        ..OutboundCounters::default()
    }
}

fn add_inbound(sum: &mut InboundCounters, more: &InboundCounters) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
    sum.too_old += more.too_old;
    sum.replayed += more.replayed;
    sum.auth_failed += more.auth_failed;
}

fn add_outbound(sum: &mut OutboundCounters, more: &OutboundCounters) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
}

/// What the kernel counted in the namespace that belonged to no association, of whoever uses XFRM there.
fn strays(netns: &Netns) -> InboundCounters {
    let read = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/xfrm_stat"));
    let Ok(Ok(text)) = read else {
        return InboundCounters::default();
    };
    let count = |name: &str| {
        let mut lines = text
            .lines()
            .filter_map(|line| line.split_once(char::is_whitespace));
        let found = lines.find(|(found, _)| *found == name);
        found
            .and_then(|(_, count)| count.trim().parse().ok())
            .unwrap_or(0)
    };
    InboundCounters {
        unknown_spi: count("XfrmInNoStates"),
        bad_length: count("XfrmInHdrError"),
        bad_inner: count("XfrmInStateMismatch"),
        ..InboundCounters::default()
    }
}
