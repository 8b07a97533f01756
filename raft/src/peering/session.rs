use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::outbox::push_bounded;
use crate::model::NodeId;
use crate::transport::{ExportError, Exporter, MAX_PEER_MESSAGE};

/// Messages of one session that wait to be sent; one more drops the oldest.
pub(super) const SEND_QUEUE: usize = 64;
/// Label of the exporter output that names a session.
const ID_LABEL: &[u8] = b"EXPORTER-weft-peering-session-id";

/// A session with another node, from which both sides derive the same secrets. Clones share it.
#[derive(Clone)]
pub struct PeerSession {
    /// At the other end, as its certificate says.
    pub node: NodeId,
    /// The same on both sides, never that of another session. No secret.
    pub id: u64,
    exporter: Exporter,
    queue: Arc<SendQueue>,
}

/// What waits to be sent.
#[derive(Default)]
pub(super) struct SendQueue {
    state: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    closed: bool,
}

impl PeerSession {
    pub(super) fn new(node: NodeId, exporter: Exporter) -> Result<Self, ExportError> {
        let mut id = [0; 8];
        exporter.export(&mut id, ID_LABEL, &[])?;
        Ok(Self {
            node,
            id: u64::from_be_bytes(id),
            exporter,
            queue: Arc::default(),
        })
    }

    /// Fills `out` with a secret that the other side gets with the same label, context and length,
    /// and that nobody else knows: TLS keying material (RFC 5705; TLS 1.3: RFC 8446 section 7.5).
    /// The session may have ended.
    ///
    /// # Errors
    /// [`ExportError`] when more is asked for than can be derived.
    pub fn export(&self, out: &mut [u8], label: &[u8], context: &[u8]) -> Result<(), ExportError> {
        self.exporter.export(out, label, context)
    }

    /// Queues a message of at most 4 KiB for the other side. Messages arrive in order while the
    /// session lasts; when too many wait the oldest is dropped. Never blocks. Returns whether
    /// the message was taken: not if it is too long or the session has ended.
    pub fn send(&self, body: Bytes) -> bool {
        if body.len() > MAX_PEER_MESSAGE {
            tracing::error!(node = %self.node, len = body.len(), "message over the limit; not sent");
            return false;
        }
        self.queue.push(body)
    }

    pub(super) fn queue(&self) -> &Arc<SendQueue> {
        &self.queue
    }
}

impl fmt::Debug for PeerSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerSession({}, {:016x})", self.node, self.id)
    }
}

impl PartialEq for PeerSession {
    fn eq(&self, other: &Self) -> bool {
        (self.node, self.id) == (other.node, other.id)
    }
}

impl Eq for PeerSession {}

impl SendQueue {
    pub(super) fn push(&self, body: Bytes) -> bool {
        let mut queue = self.lock();
        if queue.closed {
            return false;
        }
        push_bounded(&mut queue.messages, SEND_QUEUE, body);
        drop(queue);
        self.filled.notify_one();
        true
    }

    /// What is sent from here on goes nowhere.
    pub(super) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.messages.clear();
    }

    /// The oldest message. One reader; may be cancelled without loss.
    pub(super) async fn next(&self) -> Bytes {
        loop {
            let filled = self.filled.notified();
            if let Some(body) = self.lock().messages.pop_front() {
                return body;
            }
            filled.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
