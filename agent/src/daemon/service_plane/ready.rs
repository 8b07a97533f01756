use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;
use weft_raft::command::Command;
use weft_raft::control::ControlPlane;
use weft_raft::model::{BackendState, EndpointId};

/// How long the cluster may take to hear of it before it is told again.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);
/// Backends that it is told of at once.
const BATCH: usize = 512;

/// Tells the cluster that backends are ready, until their rows say so.
pub(super) struct Readiness {
    control: ControlPlane,
    told: BTreeMap<EndpointId, Instant>,
}

impl Readiness {
    pub(super) fn new(control: ControlPlane) -> Self {
        Self {
            control,
            told: BTreeMap::new(),
        }
    }

    /// These are ready and their rows do not say so yet. To be called inside a tokio runtime.
    pub(super) fn tell(&mut self, ready: BTreeSet<EndpointId>) {
        for batch in due(&mut self.told, &ready, Instant::now()).chunks(BATCH) {
            let ready = batch.iter().map(|id| (*id, BackendState::Ready));
            let command = Command::SetBackends(ready.collect());
            let control = self.control.clone();
            tokio::spawn(async move {
                if let Err(error) = control.propose(command, TELL_TIMEOUT).await {
                    debug!(%error, "the cluster could not be told of ready backends yet");
                }
            });
        }
    }

    /// When to look again although nothing else happens.
    pub(super) fn wakeup(&self) -> Option<Instant> {
        self.told.values().min().map(|at| *at + TELL_TIMEOUT)
    }

    /// Forgets a wakeup whose time has come: whoever is still not ready then is told of again.
    pub(super) fn woken(&mut self, now: Instant) {
        self.told.retain(|_, at| now < *at + TELL_TIMEOUT);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.told.clear();
    }
}

/// Which of them the cluster is to be told of now.
fn due(
    told: &mut BTreeMap<EndpointId, Instant>,
    ready: &BTreeSet<EndpointId>,
    now: Instant,
) -> Vec<EndpointId> {
    told.retain(|id, at| ready.contains(id) && now < *at + TELL_TIMEOUT);
    let due: Vec<EndpointId> = ready
        .iter()
        .filter(|id| !told.contains_key(id))
        .copied()
        .collect();
    told.extend(due.iter().map(|id| (*id, now)));
    due
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_told_once_and_again_only_after_a_while() {
        let id = |n| EndpointId::new([n; 10]);
        let mut told = BTreeMap::new();
        let start = Instant::now();
        let one = BTreeSet::from([id(1)]);
        let both = BTreeSet::from([id(1), id(2)]);
        assert_eq!(due(&mut told, &one, start), [id(1)]);
        assert_eq!(due(&mut told, &both, start), [id(2)]);
        assert_eq!(due(&mut told, &both, start), []);
        // Whoever's row says so is forgotten; the other is told of again when it took too long.
        let later = start + TELL_TIMEOUT;
        assert_eq!(due(&mut told, &one, later), [id(1)]);
        assert_eq!(told.len(), 1);
    }
}
