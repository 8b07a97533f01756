//! The connections that we have opened: one per address, dialled by whoever needs it first.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, Shared};
use quinn::Connection;

use super::{CallError, Link, code};
use crate::model::NodeId;

/// A connection that we opened.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) connection: Connection,
    pub(super) node: NodeId,
}

/// A dial that any number of callers wait for.
pub(super) type Dial = Shared<BoxFuture<'static, Result<Peer, CallError>>>;

enum Slot {
    /// The number tells this dial from a later one to the same address.
    Dialling(u64, Dial),
    Open(Peer),
}

/// One slot per address, at most `limit`.
pub(super) struct Pool {
    limit: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    slots: BTreeMap<SocketAddr, Slot>,
}

/// What a caller finds at an address.
pub(super) enum Found {
    Open(Peer),
    /// Somebody dials already, or the caller's own dial was entered.
    Dialling(Dial),
    /// Every slot is in use.
    Full,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        let table = Mutex::default();
        Self { limit, table }
    }

    /// The live connection or running dial at `to`, else what `dial` (given its number) begins.
    pub(super) fn find(&self, to: SocketAddr, dial: impl FnOnce(u64) -> Dial) -> Found {
        let mut table = self.table();
        match table.slots.get(&to) {
            Some(Slot::Open(peer)) if is_open(peer) => return Found::Open(peer.clone()),
            Some(Slot::Dialling(_, dial)) => return Found::Dialling(dial.clone()),
            _ => {}
        }
        if table.slots.len() >= self.limit {
            table.slots.retain(|_, slot| slot.is_used());
        }
        if table.slots.len() >= self.limit {
            return Found::Full;
        }
        table.next += 1;
        let number = table.next;
        let dial = dial(number);
        table.slots.insert(to, Slot::Dialling(number, dial.clone()));
        Found::Dialling(dial)
    }

    /// What became of a dial.
    pub(super) fn dialled(&self, to: SocketAddr, number: u64, result: &Result<Peer, CallError>) {
        let mut table = self.table();
        match table.slots.get(&to) {
            Some(Slot::Dialling(current, _)) if *current == number => {}
            _ => return,
        }
        match result {
            Ok(peer) => table.slots.insert(to, Slot::Open(peer.clone())),
            Err(_) => table.slots.remove(&to),
        };
    }

    /// Another node answers at `to` now.
    pub(super) fn replace(&self, to: SocketAddr, peer: Peer) {
        self.table().slots.insert(to, Slot::Open(peer));
    }

    pub(super) fn disconnect(&self, node: NodeId) {
        self.table().slots.retain(|_, slot| match slot {
            Slot::Open(peer) if peer.node == node => {
                peer.connection.close(code::DISCONNECTED, b"disconnected");
                false
            }
            _ => true,
        });
    }

    pub(super) fn links(&self) -> Vec<Link> {
        let table = self.table();
        let links = table.slots.iter().filter_map(|(addr, slot)| match slot {
            Slot::Open(peer) if is_open(peer) => Some(Link {
                node: peer.node,
                addr: *addr,
                outbound: true,
                rtt: peer.connection.rtt(),
            }),
            _ => None,
        });
        links.collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn is_used(&self) -> bool {
        match self {
            Self::Dialling(..) => true,
            Self::Open(peer) => is_open(peer),
        }
    }
}

fn is_open(peer: &Peer) -> bool {
    peer.connection.close_reason().is_none()
}
