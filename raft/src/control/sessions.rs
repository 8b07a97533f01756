use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::model::NodeId;

/// The nodes that follow the state here. A node follows once: a new session of it ends the one
/// before, so that no node can use up the room for all.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    current: Mutex<BTreeMap<NodeId, Arc<Notify>>>,
}

/// A session's place; free again when dropped.
pub(super) struct Place<'a> {
    sessions: &'a Sessions,
    node: NodeId,
    ended: Arc<Notify>,
}

impl Sessions {
    /// Takes a node's place from its session before.
    pub(super) fn enter(&self, node: NodeId) -> Place<'_> {
        let ended = Arc::new(Notify::new());
        if let Some(before) = self.lock().insert(node, Arc::clone(&ended)) {
            before.notify_one();
        }
        Place {
            sessions: self,
            node,
            ended,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Notify>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Resolves when the node has another session.
    pub(super) async fn taken(&self) {
        self.ended.notified().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut current = self.sessions.lock();
        if current
            .get(&self.node)
            .is_some_and(|own| Arc::ptr_eq(own, &self.ended))
        {
            current.remove(&self.node);
        }
    }
}
