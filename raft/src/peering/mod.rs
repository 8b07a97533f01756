//! Sessions between any two nodes that both want one: mutually authenticated QUIC connections from
//! which both sides export the same secrets (RFC 5705), and over which small messages travel.
//!
//! A session has a connection of its own. The node with the lower id dials; when that leads to
//! nothing for some seconds the other one does as well, because it may be the one that can get
//! through. Should both succeed, the connection that the lower id has dialled counts, on both
//! sides. At any time there is at most one session per node.

mod keeper;
mod link;
mod outbox;
mod session;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};

pub use crate::transport::{ExportError, MAX_PEER_MESSAGE};
pub(crate) use keeper::{Door, Keeper, doorway};
pub use session::PeerSession;

use crate::model::NodeId;
use outbox::Outbox;

/// Events on their way to the reader, beside what waits in the outbox.
const EVENTS: usize = 16;

/// What happens to sessions. Of one node's events: `Up`, then its messages in order, then `Down`
/// before the next `Up`. A session that ends before its `Up` was read is not told of, and messages
/// of a session that has ended may be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// There is a session with a node.
    Up(PeerSession),
    /// A message came.
    Message {
        /// From whom.
        node: NodeId,
        /// On which session.
        session: u64,
        /// At most [`MAX_PEER_MESSAGE`] bytes.
        body: Bytes,
    },
    /// The session has ended. Another one follows for as long as one is wanted.
    Down {
        /// With whom.
        node: NodeId,
        /// Which.
        session: u64,
    },
    /// There is no session with a node that one is wanted with, and this is why, in one line. Told
    /// when the reason changes; the attempts go on.
    Trouble {
        /// With whom.
        node: NodeId,
        /// What happened.
        why: String,
    },
}

/// The sessions of this node. Clones share them.
#[derive(Clone)]
pub struct Peering {
    shared: Arc<Shared>,
}

/// Outlives memberships: what is wanted is wanted from the next one as well.
struct Shared {
    wanted: watch::Sender<BTreeSet<NodeId>>,
    renewals: Mutex<BTreeSet<NodeId>>,
    renew: Notify,
    outbox: Arc<Outbox>,
    taken: AtomicBool,
}

impl Default for Peering {
    fn default() -> Self {
        let shared = Shared {
            wanted: watch::Sender::default(),
            renewals: Mutex::default(),
            renew: Notify::new(),
            outbox: Arc::default(),
            taken: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl Peering {
    /// With whom sessions are wanted from here on. One comes about when the other node wants it,
    /// too, for as long as both are members; where it is dialled is what the cluster's state says.
    /// Sessions with other nodes are cut.
    pub fn want(&self, peers: BTreeSet<NodeId>) {
        self.shared.wanted.send_if_modified(|wanted| {
            let changed = *wanted != peers;
            *wanted = peers;
            changed
        });
    }

    /// What happens from here on, and which sessions there are. Taken once: a receiver that is
    /// taken later is closed from the start. To be called inside a tokio runtime. However slowly
    /// it is read, what waits is bounded.
    pub fn events(&self) -> mpsc::Receiver<PeerEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        if !self.shared.taken.swap(true, Ordering::Relaxed) {
            tokio::spawn(hand_on(self.shared.outbox.clone(), sender));
        }
        receiver
    }

    /// Ends the session with a node. Another one, with other secrets, follows.
    pub fn renew(&self, node: NodeId) {
        if !self.shared.wanted.borrow().contains(&node) {
            return;
        }
        self.shared.lock_renewals().insert(node);
        self.shared.renew.notify_one();
    }
}

impl fmt::Debug for Peering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Peering(..)")
    }
}

impl Shared {
    fn lock_renewals(&self) -> std::sync::MutexGuard<'_, BTreeSet<NodeId>> {
        self.renewals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

async fn hand_on(outbox: Arc<Outbox>, sender: mpsc::Sender<PeerEvent>) {
    // An event is taken out only when there is room for it: what waits in the outbox is kept
    // up to date.
    while let Ok(room) = sender.reserve().await {
        let event = tokio::select! {
            event = outbox.next() => event,
            () = sender.closed() => None,
        };
        match event {
            Some(event) => room.send(event),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests;
