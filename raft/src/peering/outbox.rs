//! What the owner of the sessions has not been told yet: per node how things are, not how they
//! came to be so, hence bounded however slowly it is read.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{PeerEvent, PeerSession};
use crate::model::NodeId;

/// Messages of one session that wait to be read; one more drops the oldest.
pub(super) const INBOX: usize = 64;

/// Filled by the sessions, emptied by whoever reads the events.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<NodeId, Waiting>,
    /// Nodes of which there is something to tell, each once.
    turns: VecDeque<NodeId>,
    closed: bool,
}

#[derive(Default)]
struct Waiting {
    /// A session that the reader knows of and that has ended.
    down: Option<u64>,
    /// The session that there is.
    session: Option<PeerSession>,
    /// Whether the reader knows of it.
    told: bool,
    messages: VecDeque<Bytes>,
    trouble: Option<String>,
    /// Whether the node has a place in `turns`.
    queued: bool,
}

impl Outbox {
    /// There is a session with a node; the one before has ended.
    pub(super) fn up(&self, session: PeerSession) {
        self.change(session.node, |waiting| {
            waiting.end();
            waiting.trouble = None;
            waiting.session = Some(session);
        });
    }

    /// A session has ended.
    pub(super) fn down(&self, node: NodeId, id: u64) {
        self.change(node, |waiting| {
            if waiting.session.as_ref().is_some_and(|own| own.id == id) {
                waiting.end();
            }
        });
    }

    /// A message came, on a session that may have ended meanwhile.
    pub(super) fn message(&self, node: NodeId, id: u64, body: Bytes) {
        self.change(node, |waiting| {
            if waiting.session.as_ref().is_some_and(|own| own.id == id) {
                push_bounded(&mut waiting.messages, INBOX, body);
            }
        });
    }

    /// Why there is no session; replaces an older reason.
    pub(super) fn trouble(&self, node: NodeId, why: String) {
        self.change(node, |waiting| waiting.trouble = Some(why));
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// The next event; `None` after [`Self::close`]. One reader at a time; may be cancelled
    /// without loss.
    pub(super) async fn next(&self) -> Option<PeerEvent> {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.lock();
                if let Some(event) = state.next() {
                    return Some(event);
                }
                if state.closed {
                    return None;
                }
            }
            filled.await;
        }
    }

    fn change(&self, node: NodeId, change: impl FnOnce(&mut Waiting)) {
        let mut state = self.lock();
        let state = &mut *state;
        let waiting = state.nodes.entry(node).or_default();
        change(waiting);
        if waiting.is_idle() {
            state.nodes.remove(&node);
        } else if waiting.has_event() && !waiting.queued {
            waiting.queued = true;
            state.turns.push_back(node);
        }
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The nodes take turns.
    fn next(&mut self) -> Option<PeerEvent> {
        loop {
            let node = self.turns.pop_front()?;
            let Some(waiting) = self.nodes.get_mut(&node) else {
                continue;
            };
            waiting.queued = false;
            let event = waiting.next(node);
            if waiting.is_idle() {
                self.nodes.remove(&node);
            } else if waiting.has_event() {
                waiting.queued = true;
                self.turns.push_back(node);
            }
            if event.is_some() {
                return event;
            }
        }
    }
}

impl Waiting {
    fn end(&mut self) {
        self.messages.clear();
        if let Some(session) = self.session.take()
            && std::mem::take(&mut self.told)
        {
            self.down = Some(session.id);
        }
    }

    fn next(&mut self, node: NodeId) -> Option<PeerEvent> {
        if let Some(session) = self.down.take() {
            return Some(PeerEvent::Down { node, session });
        }
        if let Some(session) = &self.session {
            if !self.told {
                self.told = true;
                return Some(PeerEvent::Up(session.clone()));
            }
            if let Some(body) = self.messages.pop_front() {
                let session = session.id;
                return Some(PeerEvent::Message {
                    node,
                    session,
                    body,
                });
            }
        }
        let why = self.trouble.take()?;
        Some(PeerEvent::Trouble { node, why })
    }

    fn has_event(&self) -> bool {
        let news = self.session.is_some() && (!self.told || !self.messages.is_empty());
        news || self.down.is_some() || self.trouble.is_some()
    }

    fn is_idle(&self) -> bool {
        self.session.is_none() && !self.has_event() && !self.queued
    }
}

/// Appends; drops the oldest when there are more than `limit`. Returns whether it did.
pub(super) fn push_bounded(queue: &mut VecDeque<Bytes>, limit: usize, body: Bytes) -> bool {
    let full = queue.len() >= limit;
    if full {
        queue.pop_front();
    }
    queue.push_back(body);
    full
}
