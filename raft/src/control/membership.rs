use std::time::Duration;

use super::running::Running;
use crate::model::Change;
use crate::watch::WatchItem;

/// The leader looks again after so long even if nothing changed: a step may have failed, or a new
/// manager may have caught up.
const PERIOD: Duration = Duration::from_millis(200);
/// After a step, until what it changed is visible: the same step twice would be a wasted entry.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// A node that removed itself is still waiting for the answer.
const FAREWELL: Duration = Duration::from_millis(500);

impl Running {
    /// As the leader, keeps the Raft membership equal to the managers in the state. One task and
    /// one step at a time: two changes under way could leave a joint configuration behind.
    pub(super) async fn keep_membership(&self) {
        let Some(group) = &self.group else { return };
        let mut items = self.hub.subscribe(Some(self.hub.revision()));
        loop {
            if group.is_leader() {
                match group.reconcile_membership().await {
                    Ok(true) => {
                        tokio::time::sleep(STEP_PAUSE).await;
                        continue;
                    }
                    Ok(false) => {}
                    Err(error) => tracing::info!(%error, "the Raft membership stays for now"),
                }
            }
            let managers = items.next_node_change();
            if let Ok(None) = tokio::time::timeout(PERIOD, managers).await {
                return;
            }
        }
    }

    /// Closes the connections of nodes that were removed: their certificates are valid still.
    pub(super) async fn keep_disconnecting(&self) {
        let mut items = self.hub.subscribe(Some(self.hub.revision()));
        while let Some(item) = items.next().await {
            let WatchItem::Changes { changes, .. } = item else {
                continue;
            };
            let gone: Vec<_> = changes
                .iter()
                .filter_map(|change| match change {
                    Change::NodeGone(node) if *node != self.member.node => Some(*node),
                    _ => None,
                })
                .collect();
            if gone.is_empty() {
                continue;
            }
            tokio::time::sleep(FAREWELL).await;
            for node in gone {
                self.transport.disconnect(node);
            }
        }
    }
}
