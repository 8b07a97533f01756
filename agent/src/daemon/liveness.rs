//! Notices soon that a container's namespace has ended, without a pass over the kernel.
//!
//! The kernel has no event for it that could be heard from outside. A look at the namespace's file
//! costs a few microseconds, so every one is looked at about once a second.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::debug;
use weft_overlay::NetnsRef;
use weft_raft::model::{EndpointId, NodeId, View};

use crate::translate;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Endpoints told of before the others wait.
const BACKLOG: usize = 64;

/// Endpoints of this node and where their namespaces are.
type Watched = Arc<[(EndpointId, NetnsRef)]>;

/// Looks after the namespaces of this node's endpoints; it only tells, what follows from it is
/// decided by who looks closer.
#[derive(Debug)]
pub(super) struct Liveness {
    watched: watch::Sender<Watched>,
    gone: mpsc::Receiver<EndpointId>,
    task: JoinHandle<()>,
}

impl Liveness {
    /// Starts with nothing to look after. To be called inside a tokio runtime.
    pub(super) fn start() -> Self {
        Self::every(INTERVAL)
    }

    fn every(interval: Duration) -> Self {
        let (watched, follow) = watch::channel(Watched::from([]));
        let (tell, gone) = mpsc::channel(BACKLOG);
        Self {
            watched,
            gone,
            task: tokio::spawn(look(interval, follow, tell)),
        }
    }

    /// Looks after the endpoints that `view` has on `local`.
    pub(super) fn watch(&self, view: &View, local: NodeId) {
        let rows = view.endpoints.values().filter(|row| row.node == local);
        self.set(rows.map(|row| (row.id, translate::netns(&row.attachment))));
    }

    /// Looks after nothing.
    pub(super) fn watch_none(&self) {
        self.set([]);
    }

    /// The next endpoint whose namespace is gone; each is told once. Safe to cancel.
    pub(super) async fn next(&mut self) -> EndpointId {
        match self.gone.recv().await {
            Some(id) => id,
            // The task ends with this value only; if it were not so, nothing is told any more.
            None => std::future::pending().await,
        }
    }

    fn set(&self, watched: impl IntoIterator<Item = (EndpointId, NetnsRef)>) {
        let watched: Watched = watched.into_iter().collect();
        self.watched.send_if_modified(|now| {
            let changed = *now != watched;
            *now = watched;
            changed
        });
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn look(
    interval: Duration,
    mut follow: watch::Receiver<Watched>,
    tell: mpsc::Sender<EndpointId>,
) {
    let mut told = BTreeSet::new();
    loop {
        if follow
            .wait_for(|watched| !watched.is_empty())
            .await
            .is_err()
        {
            return;
        }
        tokio::time::sleep(interval).await;
        // What came meanwhile is looked at too.
        let watched = follow.borrow().clone();
        // A path may lead to a file system that does not answer.
        let found = tokio::task::spawn_blocking(move || gone(&watched)).await;
        let Ok(found) = found else {
            return;
        };
        told.retain(|id| found.contains(id));
        for id in found {
            if told.insert(id) {
                debug!(endpoint = %id, "its namespace is not there");
                if tell.send(id).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn gone(watched: &[(EndpointId, NetnsRef)]) -> BTreeSet<EndpointId> {
    let gone = watched.iter().filter(|(_, netns)| netns.is_gone());
    gone.map(|(id, _)| *id).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use super::*;

    fn reference(path: &Path) -> NetnsRef {
        let metadata = std::fs::metadata(path).unwrap();
        NetnsRef {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }

    #[tokio::test]
    async fn an_endpoint_whose_file_goes_away_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["stays", "goes"].map(|name| dir.path().join(name));
        for path in &paths {
            std::fs::write(path, "").unwrap();
        }
        let id = |n| EndpointId::new([n; 10]);
        let mut liveness = Liveness::every(Duration::from_millis(10));
        let some = Duration::from_millis(200);
        liveness.set([(id(1), reference(&paths[0])), (id(2), reference(&paths[1]))]);
        let quiet = tokio::time::timeout(some, liveness.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        std::fs::remove_file(&paths[1]).unwrap();
        let told = tokio::time::timeout(INTERVAL * 60, liveness.next()).await;
        assert_eq!(told.unwrap(), id(2));
        let again = tokio::time::timeout(some, liveness.next()).await;
        assert!(again.is_err(), "{again:?}");
    }
}
