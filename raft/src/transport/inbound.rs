//! The connections that others have opened to us.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Connection;

use super::{Limits, Link, code, plain};
use crate::identity::Caller;
use crate::model::NodeId;

/// Who is connected, within limits.
pub(super) struct Inbound {
    limits: Arc<Limits>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    members: BTreeMap<NodeId, VecDeque<(u64, Connection)>>,
    member_count: usize,
    strangers: usize,
}

/// A connection's entry in the table; leaves it when dropped.
pub(super) struct Place {
    inbound: Arc<Inbound>,
    /// `None` for strangers.
    entry: Option<(NodeId, u64)>,
    /// Older connections of the same member that were closed to make room.
    pub(super) evicted: u64,
}

impl Inbound {
    pub(super) fn new(limits: &Arc<Limits>) -> Self {
        Self {
            limits: limits.clone(),
            table: Mutex::default(),
        }
    }

    /// `None` when there is no room.
    pub(super) fn enter(
        self: &Arc<Self>,
        caller: Caller,
        connection: &Connection,
    ) -> Option<Place> {
        let mut table = self.table();
        let Caller::Member { node, .. } = caller else {
            if table.strangers >= self.limits.max_stranger_connections {
                return None;
            }
            table.strangers += 1;
            return Some(self.place(None, 0));
        };
        if table.member_count >= self.limits.max_connections {
            return None;
        }
        table.member_count += 1;
        table.next += 1;
        let serial = table.next;
        let held = table.members.entry(node).or_default();
        let mut evicted = 0;
        // Closing is all: they leave the table themselves.
        let over = (held.len() + 1).saturating_sub(self.limits.max_connections_per_node);
        for (_, oldest) in held.iter().take(over) {
            evicted += u64::from(oldest.close_reason().is_none());
            oldest.close(code::DISCONNECTED, b"too many connections of one node");
        }
        held.push_back((serial, connection.clone()));
        Some(self.place(Some((node, serial)), evicted))
    }

    fn place(self: &Arc<Self>, entry: Option<(NodeId, u64)>, evicted: u64) -> Place {
        let inbound = self.clone();
        Place {
            inbound,
            entry,
            evicted,
        }
    }

    pub(super) fn disconnect(&self, node: NodeId) {
        for (_, connection) in self.table().members.get(&node).into_iter().flatten() {
            connection.close(code::DISCONNECTED, b"disconnected");
        }
    }

    pub(super) fn count(&self) -> usize {
        let table = self.table();
        table.member_count + table.strangers
    }

    pub(super) fn links(&self) -> Vec<Link> {
        let table = self.table();
        let links = table.members.iter().flat_map(|(node, connections)| {
            let open = connections
                .iter()
                .filter(|(_, c)| c.close_reason().is_none());
            open.map(|(_, connection)| Link {
                node: *node,
                addr: plain(connection.remote_address()),
                outbound: false,
                rtt: connection.rtt(),
            })
        });
        links.collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.inbound.table();
        let Some((node, serial)) = self.entry else {
            table.strangers -= 1;
            return;
        };
        table.member_count -= 1;
        if let Some(held) = table.members.get_mut(&node) {
            held.retain(|(other, _)| *other != serial);
            if held.is_empty() {
                table.members.remove(&node);
            }
        }
    }
}
