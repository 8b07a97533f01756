use std::fs;
use std::path::{Path, PathBuf};

use tracing::warn;
use weft_raft::model::{ClusterId, Revision};

/// Remembers which revision this kernel reflects, across restarts of the agent but not of the
/// host: it lives in the run directory, as the kernel state does.
///
/// Without it an agent that starts with an older state than its predecessor had would tear down
/// what the predecessor had rightly made.
#[derive(Debug)]
pub(super) struct Marker {
    path: PathBuf,
    reached: Option<(ClusterId, Revision)>,
}

impl Marker {
    /// Reads the marker of an earlier agent, if there is one.
    pub(super) fn new(run_dir: &Path) -> Self {
        let path = run_dir.join("applied");
        let reached = fs::read_to_string(&path).ok().and_then(|text| parse(&text));
        Self { path, reached }
    }

    /// What the kernel reflects of this cluster; 0 when nothing is known.
    pub(super) fn revision(&self, cluster: ClusterId) -> Revision {
        self.reached
            .filter(|(id, _)| *id == cluster)
            .map_or(0, |(_, revision)| revision)
    }

    /// The kernel reflects `revision`.
    pub(super) fn reached(&mut self, cluster: ClusterId, revision: Revision) {
        if self.reached == Some((cluster, revision)) {
            return;
        }
        self.reached = Some((cluster, revision));
        let new = self.path.with_extension("new");
        let written = fs::write(&new, format!("{cluster} {revision}\n"))
            .and_then(|()| fs::rename(&new, &self.path));
        if let Err(error) = written {
            warn!(path = %self.path.display(), %error, "the applied revision could not be written");
        }
    }

    /// The kernel holds nothing of any cluster.
    pub(super) fn clear(&mut self) {
        if self.reached.take().is_some()
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(path = %self.path.display(), %error, "the applied revision could not be removed");
        }
    }
}

fn parse(text: &str) -> Option<(ClusterId, Revision)> {
    let (cluster, revision) = text.trim().split_once(' ')?;
    Some((cluster.parse().ok()?, revision.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_agent_reads_what_the_earlier_one_reached() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, other) = (ClusterId::new([1; 10]), ClusterId::new([2; 10]));
        let mut marker = Marker::new(dir.path());
        assert_eq!(marker.revision(ours), 0);
        marker.reached(ours, 7);
        let mut later = Marker::new(dir.path());
        assert_eq!((later.revision(ours), later.revision(other)), (7, 0));
        later.clear();
        assert_eq!(Marker::new(dir.path()).revision(ours), 0);
    }

    #[test]
    fn a_damaged_marker_counts_as_none() {
        for text in ["", "x", "aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa x", "9 9"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
