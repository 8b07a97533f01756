//! Everything of services on this node's side: the one place that turns the cluster's services
//! into this kernel's state, and this kernel's state into what the cluster knows of its backends.
//!
//! East-west: every container balances the service addresses of its networks itself, in a table
//! of its own namespace, so a backend sees the client's address and nothing is between the two.
//! A container without such an address has no table and is never touched.

mod containers;
mod counting;
mod drain;
mod flows;
mod inbound;
mod loads;
mod lost;
mod namespace;
mod numbers;
mod plan;
mod published;
mod ready;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;
use weft_overlay::gateway::observed::Family;
use weft_raft::control::ControlPlane;
use weft_raft::model::{Change, Endpoint, EndpointId, NodeId, View};

pub(super) use self::drain::drain;
pub(super) use self::numbers::numbers;
pub(super) use self::published::RULES_TABLE as INGRESS_TABLE;

use self::containers::Containers;
use self::counting::Counting;
use self::loads::{Counted, Loads, Place};
use self::lost::{Lost, Site, Suspects};
use self::plan::{Scope, Wanted};
use self::published::PublishedPorts;
use self::ready::Readiness;
use super::dataplane::Dataplane;
use super::reconcile::KernelState;
use crate::translate::services::{self, Here, ServiceIndex, ServicesDirty};

/// Services in this node's kernel.
pub(super) struct ServicePlane {
    index: ServiceIndex,
    dirty: ServicesDirty,
    containers: Containers,
    counting: Counting,
    ports: PublishedPorts,
    /// Something that published ports depend on has changed.
    ports_dirty: bool,
    /// Some container of this node may have got or lost a way out.
    egress_dirty: bool,
    /// The backends of published ports have other loads.
    ports_load_dirty: bool,
    loads: Loads,
    readiness: Readiness,
    lost: Lost,
}

impl ServicePlane {
    pub(super) fn new(control: ControlPlane, hub: PathBuf, dataplane: Dataplane) -> Self {
        Self {
            index: ServiceIndex::default(),
            dirty: ServicesDirty::everything(),
            containers: Containers::default(),
            counting: Counting::default(),
            ports: PublishedPorts::new(hub, dataplane),
            ports_dirty: true,
            egress_dirty: true,
            ports_load_dirty: false,
            loads: Loads::start(),
            readiness: Readiness::new(control),
            lost: Lost::start(),
        }
    }

    /// The view was replaced as a whole.
    pub(super) fn snapshot(&mut self, view: &View) {
        self.index = ServiceIndex::of(view);
        self.dirty = ServicesDirty::everything();
        self.ports_dirty = true;
    }

    /// The view changes so. `local` is this node.
    pub(super) fn changes(&mut self, before: &View, local: Option<NodeId>, changes: &[Change]) {
        self.dirty.merge(self.index.apply(before, changes));
        self.egress_dirty |=
            { changes.iter() }.any(|change| concerns_egress(before, local, change));
        self.ports_dirty |= changes.iter().any(|change| concerns_ports(before, change));
    }

    /// The container of an endpoint has ended, or something in it is to be looked at.
    pub(super) fn look_at(&mut self, endpoint: EndpointId) {
        self.dirty.places.extend(self.index.place_of(endpoint));
    }

    /// Whether nothing has changed since the last pass.
    pub(super) fn is_clean(&self) -> bool {
        let clean = self.dirty.is_clean() && !self.ports_dirty;
        clean && !self.egress_dirty && !self.ports_load_dirty
    }

    /// Whether published ports have to be looked at.
    pub(super) fn ports_are_dirty(&self) -> bool {
        self.ports_dirty
    }

    /// Told when the loads of backends have changed: [`loads_changed`](Self::loads_changed) then.
    pub(super) fn on_loads(&self) -> Arc<Notify> {
        self.loads.changed()
    }

    /// The loads of backends have changed.
    pub(super) fn loads_changed(&mut self) {
        for place in self.loads.take() {
            match place {
                Place::Host => self.ports_load_dirty = true,
                Place::Container(container) => {
                    self.dirty.loads.insert(container);
                }
            }
        }
    }

    /// What failed is to be tried again.
    pub(super) fn retry(&mut self, node: NodeId) {
        let failed = self.containers.failed().keys();
        self.dirty.places.extend(failed.map(|place| (node, *place)));
        self.ports_dirty |= self.ports.error().is_some() || !self.ports.failed().is_empty();
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
        let loads = self.loads.known();
        let wanted = Wanted {
            view,
            index: &self.index,
            here,
            loads: &loads,
        };
        // First, or connections might come before they are counted.
        let mut ops = self.counting.reconcile(wanted, full).await;
        let containers = &mut self.containers;
        ops += containers.reconcile(wanted, scope, &dirty.departed).await;
        let load = loads.get(&Place::Host);
        let load_dirty = std::mem::take(&mut self.ports_load_dirty);
        let ports = std::mem::take(&mut self.ports_dirty);
        if std::mem::take(&mut self.egress_dirty) || ports || full {
            let work = self.ports.reconcile(wanted, load, full, ports);
            ops += work.await;
        }
        if load_dirty && !ports && !full {
            ops += self.ports.weigh(load).await;
        }
        let mut counted = self.containers.counted(wanted);
        let published = self.ports.by_load();
        if !published.is_empty() {
            counted.insert(Place::Host, (BTreeSet::new(), published));
        }
        self.loads.set(counted);
        let mut suspects = self.containers.suspects(wanted);
        let ports = self.ports.suspects();
        if !ports.is_empty() {
            suspects.insert(Site::Host, ports);
        }
        self.lost.set(suspects);
        next.services_failed = self.failed(view, here);
        next.notices = self.notices(view, here);
        next.ports_error = self.ports.error().cloned();
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
        self.lost.set(Suspects::new());
        self.loads.set(Counted::new());
        self.containers.remove_all().await;
        self.counting.remove_all().await;
        self.ports.remove().await;
        self.ports_dirty = true;
    }

    /// Endpoints that lead out of containers whose way out is another.
    fn notices(&self, view: &View, here: Here<'_>) -> BTreeMap<String, String> {
        let mut notices = BTreeMap::new();
        for (place, families) in self.ports.own_way() {
            let named = families.iter().map(|family| match family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            });
            let named: Vec<&str> = named.collect();
            let notice = format!(
                "its container keeps its own default route for {}, and gets none by its host",
                named.join(" and ")
            );
            let rows = self.index.endpoints_at((here.node, *place));
            let rows = rows.filter_map(|id| view.endpoints.get(&id));
            let leading = rows.filter(|row| services::published::leads_out(view, row));
            notices.extend(leading.map(|row| (row.id.to_string(), notice.clone())));
        }
        notices
    }

    /// Endpoints in containers whose service addresses are not as wanted, or that published ports
    /// do not reach, and why.
    fn failed(&self, view: &View, here: Here<'_>) -> BTreeMap<String, String> {
        let mut failed = BTreeMap::new();
        for (place, why) in self.ports.failed().iter().chain(self.containers.failed()) {
            let container = services::container(view, &self.index, here, *place);
            let endpoints: BTreeSet<EndpointId> = container
                .map(|container| container.endpoints)
                .unwrap_or_default();
            failed.extend(endpoints.iter().map(|id| (id.to_string(), why.clone())));
        }
        failed
    }
}

/// Whether a container of this node may have got or lost a way out.
fn concerns_egress(before: &View, local: Option<NodeId>, change: &Change) -> bool {
    let id = match change {
        Change::Endpoint(row) if Some(row.node) == local => return true,
        Change::Endpoint(row) => row.id,
        Change::EndpointGone(id) => *id,
        _ => return false,
    };
    let row = before.endpoints.get(&id);
    row.is_some_and(|row| Some(row.node) == local)
}

/// Whether what this node does for published ports may depend on it.
fn concerns_ports(before: &View, change: &Change) -> bool {
    let is_member = |row: &Endpoint| row.service.is_some();
    match change {
        Change::Endpoint(row) => {
            is_member(row)
                || before
                    .endpoints
                    .get(&row.id)
                    .is_some_and(|row| is_member(row))
        }
        Change::EndpointGone(id) => before.endpoints.get(id).is_some_and(|row| is_member(row)),
        Change::Cluster(_)
        | Change::Node(_)
        | Change::NodeGone(_)
        | Change::Network(_)
        | Change::NetworkGone(_)
        | Change::Service(_)
        | Change::ServiceGone(_) => true,
    }
}
