//! Where somebody else has changed something of weft's, so that it is put back at once, and that it was.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use weft_overlay::NetnsRef;
use weft_overlay::drift::{DriftMonitor, Place};
use weft_raft::model::{EndpointId, NetworkId, NodeId, View};

use crate::translate;

/// What is to be looked at because something changed there.
#[derive(Debug, Default)]
pub(super) struct Drifted {
    pub(super) networks: BTreeSet<NetworkId>,
    pub(super) endpoints: BTreeSet<EndpointId>,
}

impl Drifted {
    pub(super) fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.endpoints.is_empty()
    }
}

/// Hears of changes in the sandboxes and containers of this node.
#[derive(Debug)]
pub(super) struct Drift {
    netns_dir: PathBuf,
    monitor: DriftMonitor,
    drifted: Drifted,
}

impl Drift {
    /// Hears of nothing yet. Sandboxes are in `netns_dir`.
    pub(super) fn new(netns_dir: &Path) -> Self {
        Self {
            netns_dir: netns_dir.to_owned(),
            monitor: DriftMonitor::default(),
            drifted: Drifted::default(),
        }
    }

    /// Waits until there is something to look at; [`Drift::take`] says what. Safe to cancel.
    pub(super) async fn next(&mut self, view: &View) {
        for place in self.monitor.next().await {
            match place {
                Place::Sandbox(id) => self.drifted.networks.extend(id.parse::<NetworkId>().ok()),
                Place::Container(id) => {
                    let row = id.parse().ok().and_then(|id| view.endpoints.get(&id));
                    self.drifted.networks.extend(row.map(|row| row.network));
                    self.drifted.endpoints.extend(row.map(|row| row.id));
                }
            }
        }
    }

    /// What is to be looked at.
    pub(super) fn take(&mut self) -> Drifted {
        std::mem::take(&mut self.drifted)
    }

    /// After a pass: its own changes are no news. `changed` says whether there may be other places, as after
    /// the first of all passes.
    pub(super) fn settled(&mut self, view: &View, node: NodeId, changed: bool) {
        if changed {
            self.monitor.watch(&self.places(view, node));
        }
        self.monitor.forget();
    }

    /// There is nothing of weft's any more.
    pub(super) fn stop(&mut self) {
        self.monitor.watch(&BTreeMap::new());
    }

    fn places(&self, view: &View, node: NodeId) -> BTreeMap<Place, NetnsRef> {
        let rows = view.endpoints.values().filter(|row| row.node == node);
        let mut places = BTreeMap::new();
        let ingress = view.networks.values().filter(|network| network.ingress);
        let mut networks: BTreeSet<NetworkId> = ingress.map(|network| network.id).collect();
        for row in rows {
            networks.insert(row.network);
            let container = Place::Container(row.id.to_string());
            places.insert(container, translate::netns(&row.attachment));
        }
        for network in networks {
            let network = network.to_string();
            let path = self.netns_dir.join(&network);
            if let Ok(found) = std::fs::metadata(&path) {
                let (device, inode) = (found.dev(), found.ino());
                let sandbox = NetnsRef {
                    path,
                    device,
                    inode,
                };
                places.insert(Place::Sandbox(network), sandbox);
            }
        }
        places
    }
}
