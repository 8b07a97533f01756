//! Everything of services on this node's side: the one place that turns the cluster's services
//! into this kernel's state, and this kernel's state into what the cluster knows of its backends.
//!
//! East-west: every container balances the service addresses of its networks itself, in a table
//! of its own namespace, so a backend sees the client's address and nothing is between the two.
//! A container without such an address has no table and is never touched.

mod containers;
mod drain;
mod plan;
mod ready;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use weft_raft::control::ControlPlane;
use weft_raft::model::{Change, Endpoint, EndpointId, NodeId, View};

pub(super) use self::drain::drain;

use self::containers::Containers;
use self::plan::{Scope, Wanted};
use self::ready::Readiness;
use super::reconcile::KernelState;
use crate::translate::services::{self, Here, ServiceIndex, ServicesDirty};

/// Services in this node's kernel.
pub(super) struct ServicePlane {
    index: ServiceIndex,
    dirty: ServicesDirty,
    containers: Containers,
    readiness: Readiness,
}

impl ServicePlane {
    pub(super) fn new(control: ControlPlane) -> Self {
        Self {
            index: ServiceIndex::default(),
            dirty: ServicesDirty::everything(),
            containers: Containers::default(),
            readiness: Readiness::new(control),
        }
    }

    /// The view was replaced as a whole.
    pub(super) fn snapshot(&mut self, view: &View) {
        self.index = ServiceIndex::of(view);
        self.dirty = ServicesDirty::everything();
    }

    /// The view changes so.
    pub(super) fn changes(&mut self, before: &View, changes: &[Change]) {
        self.dirty.merge(self.index.apply(before, changes));
    }

    /// The container of an endpoint has ended, or something in it is to be looked at.
    pub(super) fn look_at(&mut self, endpoint: EndpointId) {
        self.dirty.places.extend(self.index.place_of(endpoint));
    }

    /// Whether nothing has changed since the last pass.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_clean()
    }

    /// What failed is to be tried again.
    pub(super) fn retry(&mut self, node: NodeId) {
        let failed = self.containers.failed().keys();
        self.dirty.places.extend(failed.map(|place| (node, *place)));
    }

    /// Brings the kernel to what is wanted: what has changed, or with `full` everything. To be
    /// called when the networks are there, for a service address leads over them.
    pub(super) async fn reconcile(
        &mut self,
        view: &View,
        here: Here<'_>,
        full: bool,
        next: &mut KernelState,
    ) -> usize {
        let dirty = std::mem::take(&mut self.dirty);
        let scope = match (dirty.all, full) {
            (true, _) => Scope::Start,
            (false, true) => Scope::All,
            (false, false) => Scope::Touched(&dirty),
        };
        let wanted = Wanted {
            view,
            index: &self.index,
            here,
        };
        let ops = self.containers.reconcile(wanted, scope).await;
        next.services_failed = self.failed(view, here);
        ops
    }

    /// Tells the cluster of backends that are ready because this kernel has come to reflect them,
    /// which `is_there` says of each.
    pub(super) fn tell_ready(
        &mut self,
        view: &View,
        here: Here<'_>,
        is_there: impl Fn(&Endpoint) -> bool,
    ) {
        let rows = services::ready_once_there(view, &self.index, here);
        let ready = rows.filter(|row| is_there(row)).map(|row| row.id);
        self.readiness.tell(ready.collect());
    }

    /// When to look although nothing else happens.
    pub(super) fn wakeup(&self) -> Option<Instant> {
        self.readiness.wakeup()
    }

    /// Forgets a wakeup whose time has come.
    pub(super) fn woken(&mut self, now: Instant) {
        self.readiness.woken(now);
    }

    /// Not a member of any cluster: nothing of services belongs in this kernel.
    pub(super) async fn clear(&mut self) {
        self.dirty = ServicesDirty::everything();
        self.readiness.clear();
        self.containers.remove_all().await;
    }

    /// Endpoints in containers whose service addresses are not as wanted, and why.
    fn failed(&self, view: &View, here: Here<'_>) -> BTreeMap<String, String> {
        let mut failed = BTreeMap::new();
        for (place, why) in self.containers.failed() {
            let container = services::container(view, &self.index, here, *place);
            let endpoints: BTreeSet<EndpointId> = container
                .map(|container| container.endpoints)
                .unwrap_or_default();
            failed.extend(endpoints.iter().map(|id| (id.to_string(), why.clone())));
        }
        failed
    }
}
