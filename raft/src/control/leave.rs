use std::time::Duration;

use tokio::time::Instant;

use super::local::{self, MarkError};
use super::running::Running;
use super::{Inner, LeaveError, OpenError, ProposeError};
use crate::command::{Command, RefusalKind};
use crate::consensus::Group;
use crate::model::{Role, View};
use crate::wire::{Request, Response};

/// For telling the cluster.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);
/// For the others to go on without this manager's vote.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between looks at whether they do.
const PAUSE: Duration = Duration::from_millis(25);
/// For another manager to take over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(500);

impl Inner {
    pub(super) async fn leave(&self, force: bool) -> Result<(), LeaveError> {
        let _changing = self.change.lock().await;
        let running = self.running().ok_or(LeaveError::NotMember)?;
        match running.member.role {
            Role::Worker => match running.tell().await {
                Ok(()) => {}
                Err(error) if force => {
                    tracing::warn!(%error, "leaving without telling the cluster");
                }
                Err(error) => return Err(error.into()),
            },
            Role::Manager => {
                let left = running.managers().len().saturating_sub(1);
                if !force {
                    return Err(LeaveError::Manager { left });
                }
                if left > 0 {
                    running.resign().await;
                }
            }
        }
        self.set_running(None);
        running.stop().await;
        local::remove_all(running.data_dir())?;
        self.hub.reset(View::default());
        Ok(())
    }
}

impl Running {
    async fn tell(&self) -> Result<(), ProposeError> {
        let command = Command::RemoveNode {
            id: self.member.node,
        };
        match self.propose(command, TELL_TIMEOUT).await {
            Ok(_) => Ok(()),
            // An earlier attempt was carried out and its answer lost.
            Err(ProposeError::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => Ok(()),
            Err(ProposeError::Forbidden { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives up this manager's vote, as far as the others are there to take note.
    async fn resign(&self) {
        let Some(group) = &self.group else { return };
        if group.is_leader() {
            self.hand_over(group).await;
        }
        if let Err(error) = self.tell().await {
            tracing::warn!(%error, "leaving without telling the cluster");
            return;
        }
        // Going before the others have changed the quorum could leave them without one.
        let deadline = Instant::now() + RELEASE_TIMEOUT;
        while Instant::now() < deadline {
            let request = Request::Removed(group.id());
            match self.ask_leader(&request, deadline).await {
                Ok(Response::Removed(true)) => return,
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
        tracing::warn!("the other managers did not confirm that they go on without this one");
    }

    /// Gives leadership to another manager if there is one, so that writes go on without an
    /// election.
    pub(super) async fn hand_over(&self, group: &Group) {
        let others = group
            .metrics()
            .membership_config
            .voter_ids()
            .collect::<Vec<_>>();
        for to in others.into_iter().filter(|id| *id != group.id()) {
            let row = group
                .replica()
                .with(|state| state.raft_node(to).map(|node| node.id));
            let health = row.and_then(|node| self.peers.of(node));
            if health.is_none_or(|health| !health.reachable) {
                continue;
            }
            group.hand_over(to).await;
            let changed = group.leader_other_than(Some(group.id()));
            if tokio::time::timeout(HAND_OVER_TIMEOUT, changed)
                .await
                .is_ok()
            {
                return;
            }
        }
    }
}

impl From<MarkError> for LeaveError {
    fn from(error: MarkError) -> Self {
        match error {
            MarkError::Io { path, source } => Self::Remove { path, source },
            other => Self::Files(OpenError::from(other).to_string()),
        }
    }
}
