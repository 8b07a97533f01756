//! Makes the kernel match the cluster's state: the one place where the replicated view meets the
//! overlay, and [`ServicePlane`] what rests on it.
//!
//! Level-triggered: it subscribes first, looks at everything once, then at what changes touch,
//! and at everything again every `resync`. Adoption after a start, repair of drift and
//! ordinary change are the same path.

mod encryption;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use weft_netns::Identity;
use weft_overlay::guard::Guard;
use weft_overlay::host::{HostError, HostMonitor};
use weft_overlay::{NetnsRef, Overlay, ReconcileReport, SandboxSpec, Scope, Spec, Tunnel};
use weft_raft::command::Command;
use weft_raft::control::ControlPlane;
use weft_raft::model::{Endpoint, EndpointId, NetworkId, NodeId, Revision, View};
use weft_raft::watch::{Subscription, WatchItem};

use super::dataplane::Dataplane;
use super::drift::Drift;
use super::encryption::Encryptor;
use super::events::Events;
use super::facts::FactsKeeper;
use super::health::Health;
use super::liveness::Liveness;
use super::marker::Marker;
use super::names::Names;
use super::passes::Passes;
use super::service_plane::ServicePlane;
use crate::translate::services::{Here, published};
use crate::translate::{self, Dirty, Encryption, Index};

/// Name of the nftables table that drops frames of non-members.
pub(super) const GUARD_TABLE: &str = "weft";
/// File in the run directory that keeps the namespace in which the gateway's legs meet.
const GATEWAY_HUB: &str = "gateway";
/// First and longest pause before a failed network is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Pause before looking again while membership and view do not go together yet.
const HALFWAY_PAUSE: Duration = Duration::from_millis(100);
/// Watch items taken in before the kernel is looked at, so that a burst costs one pass and an
/// endless one cannot keep the kernel waiting.
const MAX_BATCH: usize = 4096;
/// How long a removal that the kernel asked for may take before it is asked again.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the kernel of this node reflects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KernelState {
    /// Everything up to this revision is programmed.
    pub(super) applied: Revision,
    /// What was last tried.
    pub(super) seen: Revision,
    /// Networks (by id) that could not be programmed, and why.
    pub(super) failed: BTreeMap<String, String>,
    /// Endpoints (by id) that could not be programmed, and why.
    pub(super) endpoints_failed: BTreeMap<String, String>,
    /// Endpoints (by id) whose containers do not have the service addresses that they should, and
    /// why.
    pub(super) services_failed: BTreeMap<String, String>,
    /// Endpoints (by id) in whose containers names are not answered, and why.
    pub(super) names_failed: BTreeMap<EndpointId, String>,
    /// What else is to be known of endpoints (by id).
    pub(super) notices: BTreeMap<String, String>,
    /// Why published ports do not work on this node, if so.
    pub(super) ports_error: Option<String>,
    /// Why frames of non-members are not being dropped, if so.
    pub(super) guard_error: Option<String>,
    /// Frames of non-members dropped so far.
    pub(super) guard_dropped: u64,
    /// Kernel changes made since the agent started.
    pub(super) ops: u64,
    /// Kernel changes that were needed although the cluster's state had not changed.
    pub(super) repairs: u64,
}

impl KernelState {
    /// Why an endpoint of this node is not as it should be, if it is not.
    pub(super) fn failure(&self, row: &Endpoint) -> Option<&String> {
        let id = row.id.to_string();
        self.endpoints_failed
            .get(&id)
            .or_else(|| self.failed.get(&row.network.to_string()))
            .or_else(|| self.services_failed.get(&id))
    }

    /// What else is to be known of an endpoint of this node.
    pub(super) fn notice(&self, row: &Endpoint) -> Option<&String> {
        let notice = self.notices.get(&row.id.to_string());
        notice.or_else(|| self.names_failed.get(&row.id))
    }

    /// Whether anything has to be tried again.
    fn has_failures(&self) -> bool {
        !self.is_all_applied() || !self.endpoints_failed.is_empty()
    }

    /// Whether all that was tried is in the kernel. An endpoint that cannot be attached does not
    /// count: nothing else depends on it.
    fn is_all_applied(&self) -> bool {
        self.failed.is_empty()
            && self.services_failed.is_empty()
            && self.ports_error.is_none()
            && self.guard_error.is_none()
    }
}

/// The task that owns the overlay. See the module.
pub(super) struct Reconciler {
    control: ControlPlane,
    overlay: Overlay,
    guard: Option<Guard>,
    subscription: Subscription,
    host: Option<HostMonitor>,
    facts: FactsKeeper,
    marker: Marker,
    events: Events,
    boot_id: String,
    view: View,
    index: Index,
    dirty: Dirty,
    services: ServicePlane,
    encryptor: Encryptor,
    names: Names,
    /// This host's part in the network that carries published ports.
    mesh: Option<SandboxSpec>,
    /// What encryption has to be on this node.
    encryption: Option<Encryption>,
    /// What it had to be last, until nothing of it is left.
    last: Option<Encryption>,
    /// How the frames of encrypted networks go, where nothing of them can be in clear; why it can.
    closed: Result<Tunnel, String>,
    /// Where the sandboxes' namespaces are.
    netns_dir: PathBuf,
    /// The namespace of the underlay.
    host_netns: NetnsRef,
    state: watch::Sender<Arc<KernelState>>,
    next_full: Instant,
    resync: Duration,
    retry_at: Option<Instant>,
    retry_pause: Duration,
    removing: BTreeMap<EndpointId, Instant>,
    liveness: Liveness,
    drift: Drift,
    health: Health,
    passes: Arc<Passes>,
}

/// What a [`Reconciler`] is made of.
pub(super) struct Parts {
    /// Source of the wanted state.
    pub(super) control: ControlPlane,
    /// The kernel.
    pub(super) overlay: Overlay,
    /// Says when the host changed.
    pub(super) host: HostMonitor,
    /// Where things that happened are told.
    pub(super) events: Events,
    /// Looks after the health of backends.
    pub(super) health: Health,
    /// Does what the kernel cannot.
    pub(super) dataplane: Dataplane,
    /// Looks after encrypted networks.
    pub(super) encryptor: Encryptor,
    /// Looks after names inside containers.
    pub(super) names: Names,
    /// The namespace of the underlay.
    pub(super) host_netns: NetnsRef,
    /// `--run-dir`.
    pub(super) run_dir: PathBuf,
    /// Where the sandboxes' namespaces are.
    pub(super) netns_dir: PathBuf,
    /// How often everything is compared although nothing was heard.
    pub(super) resync: Duration,
    /// Of this boot.
    pub(super) boot_id: String,
}

impl Reconciler {
    /// A reconciler, and where its [`KernelState`] can be followed.
    pub(super) fn new(parts: Parts) -> (Self, watch::Receiver<Arc<KernelState>>) {
        let (state, follow) = watch::channel(Arc::new(KernelState::default()));
        let reconciler = Self {
            subscription: parts.control.subscribe(),
            facts: FactsKeeper::new(parts.control.clone()),
            marker: Marker::new(&parts.run_dir),
            health: parts.health,
            services: ServicePlane::new(
                parts.control.clone(),
                parts.run_dir.join(GATEWAY_HUB),
                parts.dataplane,
            ),
            encryptor: parts.encryptor,
            names: parts.names,
            mesh: None,
            encryption: None,
            last: None,
            closed: Err(encryption::UNPREPARED.to_owned()),
            drift: Drift::new(&parts.netns_dir),
            netns_dir: parts.netns_dir,
            host_netns: parts.host_netns,
            control: parts.control,
            overlay: parts.overlay,
            guard: None,
            host: Some(parts.host),
            events: parts.events,
            boot_id: parts.boot_id,
            view: View::default(),
            index: Index::default(),
            dirty: Dirty::everything(),
            state,
            next_full: Instant::now(),
            resync: parts.resync,
            retry_at: None,
            retry_pause: RETRY.0,
            removing: BTreeMap::new(),
            liveness: Liveness::start(),
            passes: Arc::default(),
        };
        (reconciler, follow)
    }

    /// How often the kernel was looked at.
    pub(super) fn passes(&self) -> Arc<Passes> {
        self.passes.clone()
    }

    /// Runs until `stop`. The kernel is left as it is: it goes on forwarding.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let loads = self.services.on_loads();
        let mut ports = self.encryptor.port_opened();
        loop {
            let wakeup = [self.retry_at, self.facts.wakeup(), self.services.wakeup()]
                .into_iter()
                .flatten()
                .fold(self.next_full, Instant::min);
            tokio::select! {
                item = self.subscription.next() => match item {
                    Some(item) => self.take(item),
                    None => return,
                },
                heard = host_event(&mut self.host) => match heard {
                    Ok(()) => self.facts.host_changed(),
                    Err(error) => {
                        warn!(%error, "host changes are not heard any more; looking regularly");
                        self.host = None;
                    }
                },
                gone = self.liveness.next() => {
                    let row = self.view.endpoints.get(&gone);
                    self.dirty.networks.extend(row.map(|row| row.network));
                    self.services.look_at(gone);
                }
                () = self.drift.next(&self.view) => {}
                () = loads.notified() => self.services.loads_changed(),
                () = self.names.changed() => {}
                // With its sender the agent ends.
                Ok(()) = ports.changed() => self.look_at_encrypted(),
                () = tokio::time::sleep_until(wakeup) => {}
                () = stop.cancelled() => return,
            }
            for _ in 0..MAX_BATCH {
                match self.subscription.try_next() {
                    Some(item) => self.take(item),
                    None => break,
                }
            }
            self.pass().await;
        }
    }

    fn take(&mut self, item: WatchItem) {
        match item {
            WatchItem::Snapshot(view) => {
                self.index = Index::of(&view);
                self.services.snapshot(&view);
                self.names.snapshot();
                self.view = (*view).clone();
                self.dirty = Dirty::everything();
                self.events.snapshot(self.view.revision);
            }
            WatchItem::Changes { revision, changes } => {
                let local = self.control.membership().map(|member| member.node);
                self.events
                    .changes(&self.view, &self.index, local, revision, &changes);
                self.dirty.merge(self.index.apply(&self.view, &changes));
                self.services.changes(&self.view, local, &changes);
                self.names.changes(&self.view, &changes);
                self.view.apply(revision, &changes);
            }
        }
    }

    async fn pass(&mut self) {
        let now = Instant::now();
        // Here, whatever comes of the pass: a time that stays in the past would wake at once.
        self.facts.woken(now);
        self.services.woken(now);
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.mark_failed();
        }
        let member = match (self.control.membership(), &self.view.cluster) {
            (Some(member), Some(_)) => member,
            (None, None) => {
                self.without_cluster(now).await;
                return;
            }
            // Entering or leaving: the one is told before the other. What is dirty stays so.
            _ => {
                self.next_full = now + HALFWAY_PAUSE;
                return;
            }
        };
        if !self.knows_enough() {
            self.next_full = now + self.resync;
            return;
        }
        // Before the kernel is touched, and whether or not all of it succeeds: an agent that starts
        // with an older state must not take back the part that did.
        if let Some(cluster) = &self.view.cluster {
            self.marker.reached(cluster.id, self.view.revision);
        }
        self.facts.keep(&self.view, member.node).await;
        self.mesh_pass(member.node);
        let periodic = now >= self.next_full;
        let full = periodic || self.dirty.all;
        let quiet = self.dirty.is_clean() && self.services.is_clean();
        let drifted = self.drift.take();
        let looks = full || !quiet || !drifted.is_empty();
        self.dirty.networks.extend(drifted.networks);
        for endpoint in drifted.endpoints {
            self.services.look_at(endpoint);
        }
        if full || !quiet {
            self.encryption_pass(member.node).await;
        }
        let mut next = (**self.state.borrow()).clone();
        next.seen = self.view.revision;
        if full || self.dirty.members {
            self.guard_pass(&mut next);
        }
        if full {
            self.next_full = now + self.resync;
            self.overlay_pass(member.node, None, quiet, &mut next).await;
        } else if !self.dirty.networks.is_empty() {
            let networks = std::mem::take(&mut self.dirty.networks);
            self.overlay_pass(member.node, Some(networks), quiet, &mut next)
                .await;
        }
        if full || !quiet {
            let all_gone = next.failed.is_empty();
            self.without_encryption(member.node, all_gone).await;
        }
        if full || !self.services.is_clean() {
            self.services_pass(member.node, full, quiet, &mut next)
                .await;
        }
        let here = here(member.node, &self.boot_id, &self.host_netns);
        self.names.reconcile(&self.view, &self.index, here).await;
        next.names_failed = self.names.failed(&self.view, here);
        self.tell_ready(member.node, &next);
        if !quiet {
            self.liveness.watch(&self.view, member.node);
        }
        self.health.watch(&self.view, member.node, &self.boot_id);
        self.dirty = Dirty::default();
        if looks {
            self.drift.settled(&self.view, member.node, full || !quiet);
        }
        self.finish(next);
    }

    /// What failed is to be tried again.
    fn mark_failed(&mut self) {
        let state = self.state.borrow();
        let networks = state.failed.keys();
        let networks = networks.filter_map(|id| id.parse::<NetworkId>().ok());
        self.dirty.networks.extend(networks);
        let endpoints = state.endpoints_failed.keys();
        let endpoints = endpoints.filter_map(|id| id.parse::<EndpointId>().ok());
        let rows = endpoints.filter_map(|id| self.view.endpoints.get(&id));
        self.dirty.networks.extend(rows.map(|row| row.network));
        let hosts = self.mesh.iter().flat_map(|mesh| mesh.locals.keys());
        if { hosts }.any(|host| state.endpoints_failed.contains_key(host)) {
            let ingress = self
                .view
                .networks
                .values()
                .filter(|network| network.ingress);
            self.dirty
                .networks
                .extend(ingress.map(|network| network.id));
        }
        self.dirty.members |= state.guard_error.is_some();
        if let Some(member) = self.control.membership() {
            self.services.retry(member.node);
        }
    }

    /// The replicated state may be behind what this kernel already reflects: a manager that is
    /// still replaying its log, a worker whose new manager lags. Acting on it would tear down
    /// what is newer.
    fn knows_enough(&self) -> bool {
        let Some(cluster) = &self.view.cluster else {
            return false;
        };
        let reached = self.marker.revision(cluster.id);
        if self.view.revision < reached {
            debug!(
                have = self.view.revision,
                need = reached,
                "waiting for the state to catch up"
            );
            return false;
        }
        true
    }

    /// Not a member of any cluster: nothing of ours belongs in this kernel.
    async fn without_cluster(&mut self, now: Instant) {
        if now < self.next_full && !self.dirty.all {
            return;
        }
        self.next_full = now + self.resync;
        self.dirty = Dirty::default();
        self.marker.clear();
        self.liveness.watch_none();
        self.drift.stop();
        self.health.watch_none();
        self.services.clear().await;
        self.names.clear();
        let report = self.overlay.reconcile(&Spec::new(), Scope::All).await;
        self.encryption = None;
        // There is no other node any more to send anything to.
        if report.failed.is_empty() {
            self.take_encryption_away().await;
        }
        self.remove_guard();
        if report.ops > 0 {
            info!(
                ops = report.ops,
                "removed what an earlier cluster left behind"
            );
        }
        self.state.send_replace(Arc::new(KernelState::default()));
    }

    fn remove_guard(&mut self) {
        let opened = match self.guard.take() {
            Some(guard) => Ok(guard),
            None => Guard::open(GUARD_TABLE),
        };
        if let Err(error) = opened.and_then(Guard::remove) {
            debug!(%error, "the member filter could not be removed");
        }
    }

    fn guard_pass(&mut self, next: &mut KernelState) {
        let Some(cluster) = &self.view.cluster else {
            return;
        };
        let members = translate::members(&self.view);
        let opened = match self.guard.take() {
            Some(guard) => Ok(guard),
            None => Guard::open(GUARD_TABLE),
        };
        let result = opened.and_then(|mut guard| {
            let report = guard.reconcile(cluster.data_path_port, &members)?;
            self.guard = Some(guard);
            Ok(report)
        });
        match result.map_err(|error| error.to_string()) {
            Ok(report) => {
                next.ops += report.ops as u64;
                next.guard_dropped = report.dropped4 + report.dropped6;
                next.guard_error = None;
            }
            Err(error) => {
                if next.guard_error.as_ref() != Some(&error) {
                    warn!(%error, "frames of non-members are not being dropped");
                }
                next.guard_error = Some(error);
            }
        }
    }

    async fn overlay_pass(
        &mut self,
        node: NodeId,
        only: Option<BTreeSet<NetworkId>>,
        quiet: bool,
        next: &mut KernelState,
    ) {
        let networks: Vec<NetworkId> = match &only {
            Some(networks) => networks.iter().copied().collect(),
            None => self.view.networks.keys().copied().collect(),
        };
        let mut spec = Spec::new();
        let mut closed = BTreeMap::new();
        for network in networks {
            if let Some(mut sandbox) = self.sandbox(network, node) {
                self.drop_of_earlier_boots(&mut sandbox.locals);
                if self.is_encrypted(network) {
                    sandbox.tunnel = self.closed.clone().unwrap_or_else(|why| {
                        closed.insert(network.to_string(), why);
                        Tunnel::Closed
                    });
                }
                spec.insert(network.to_string(), sandbox);
            }
        }
        let scope = match &only {
            Some(networks) => Scope::Networks(networks.iter().map(ToString::to_string).collect()),
            None => Scope::All,
        };
        let report = self.overlay.reconcile(&spec, scope).await;
        if report.ops > 0 {
            self.encryptor.sandboxes_changed();
        }
        self.note(report, &spec, only.as_ref(), quiet, next);
        for (network, why) in closed {
            if self.state.borrow().failed.get(&network) != Some(&why) {
                warn!(%network, %why, "nothing of this network leaves the node");
            }
            next.failed.entry(network).or_insert(why);
        }
    }

    /// The wanted sandbox of a network on this node. The ingress network has one endpoint: the host.
    fn sandbox(&self, network: NetworkId, node: NodeId) -> Option<SandboxSpec> {
        match self.view.networks.get(&network)?.ingress {
            true => self.mesh.clone(),
            false => translate::sandbox(&self.view, &self.index, network, node),
        }
    }

    /// What this node's part in the ingress network is to be, and whether that is new.
    fn mesh_pass(&mut self, node: NodeId) {
        if !self.services.ports_are_dirty() {
            return;
        }
        let mesh = published::mesh_sandbox(&self.view, node, &self.host_netns);
        if mesh != self.mesh {
            self.mesh = mesh;
            let ingress = self
                .view
                .networks
                .values()
                .filter(|network| network.ingress);
            self.dirty
                .networks
                .extend(ingress.map(|network| network.id));
        }
    }

    /// After the networks: what comes is reached before it is balanced to.
    async fn services_pass(
        &mut self,
        node: NodeId,
        full: bool,
        quiet: bool,
        next: &mut KernelState,
    ) {
        let here = here(node, &self.boot_id, &self.host_netns);
        let services = &mut self.services;
        let ops = services.reconcile(&self.view, here, full, next).await;
        note_ops(ops, quiet, next);
    }

    fn tell_ready(&mut self, node: NodeId, next: &KernelState) {
        let here = here(node, &self.boot_id, &self.host_netns);
        let removing = &self.removing;
        let is_there =
            |row: &Endpoint| next.failure(row).is_none() && !removing.contains_key(&row.id);
        self.services.tell_ready(&self.view, here, is_there);
    }

    /// An endpoint that was attached before the host booted has no namespace any more, even when
    /// a new one happens to have its number.
    fn drop_of_earlier_boots(
        &mut self,
        locals: &mut BTreeMap<String, weft_overlay::LocalEndpoint>,
    ) {
        let mut stale = Vec::new();
        locals.retain(|id, _| {
            let row = id
                .parse()
                .ok()
                .and_then(|id: EndpointId| self.view.endpoints.get(&id));
            let fresh = row.is_none_or(|row| row.attachment.boot_id == self.boot_id);
            if !fresh {
                stale.extend(row.map(|row| row.id));
            }
            fresh
        });
        for id in stale {
            self.remove_endpoint(id);
        }
    }

    fn note(
        &mut self,
        report: ReconcileReport,
        spec: &Spec,
        only: Option<&BTreeSet<NetworkId>>,
        quiet: bool,
        next: &mut KernelState,
    ) {
        note_ops(report.ops, quiet, next);
        match only {
            None => {
                next.failed.clear();
                next.endpoints_failed.clear();
            }
            Some(networks) => {
                for network in networks {
                    next.failed.remove(&network.to_string());
                }
                let looked_at: BTreeSet<&String> = spec
                    .values()
                    .flat_map(|sandbox| sandbox.locals.keys())
                    .collect();
                next.endpoints_failed.retain(|id, _| {
                    let known = id
                        .parse()
                        .is_ok_and(|id| self.view.endpoints.contains_key(&id));
                    known && !looked_at.contains(id)
                });
            }
        }
        for (network, error) in report.failed {
            warn!(%network, %error, "network could not be programmed; trying again");
            next.failed.insert(network, error.to_string());
        }
        for (endpoint, error) in report.endpoints_failed {
            if self.state.borrow().endpoints_failed.get(&endpoint) != Some(&error) {
                warn!(%endpoint, %error, "endpoint could not be programmed; trying again");
            }
            next.endpoints_failed.insert(endpoint, error);
        }
        for id in report.endpoints_gone {
            if let Ok(id) = id.parse() {
                self.remove_endpoint(id);
            }
        }
    }

    /// Asks the cluster to forget an endpoint whose namespace is gone.
    fn remove_endpoint(&mut self, id: EndpointId) {
        let now = Instant::now();
        self.removing
            .retain(|_, since| now.duration_since(*since) < REMOVE_TIMEOUT);
        if self.removing.contains_key(&id) {
            return;
        }
        self.removing.insert(id, now);
        info!(endpoint = %id, "its namespace is gone; removing it");
        let control = self.control.clone();
        tokio::spawn(async move {
            if let Err(error) = control
                .propose(Command::RemoveEndpoint { id }, REMOVE_TIMEOUT)
                .await
            {
                debug!(endpoint = %id, %error, "could not be removed yet");
            }
        });
    }

    /// Those that are new.
    fn tell_notices(&self, next: &KernelState) {
        let known = self.state.borrow().clone();
        let ids = { next.notices.keys() }.filter_map(|id| id.parse::<EndpointId>().ok());
        let ids: BTreeSet<EndpointId> = ids.chain(next.names_failed.keys().copied()).collect();
        for row in ids.iter().filter_map(|id| self.view.endpoints.get(id)) {
            let notice = next
                .notice(row)
                .filter(|notice| known.notice(row) != Some(notice));
            if let Some(notice) = notice {
                info!(endpoint = %row.id, notice);
                self.events.notice(&self.view, row, notice.clone());
            }
        }
    }

    fn finish(&mut self, mut next: KernelState) {
        self.passes.note(next.has_failures());
        if next.is_all_applied() {
            next.applied = next.seen;
            self.control.report_applied(next.applied);
        }
        if next.has_failures() {
            // Changes of other networks neither put a retry off nor lengthen the pause.
            if self.retry_at.is_none() {
                self.retry_at = Some(Instant::now() + self.retry_pause);
                self.retry_pause = (self.retry_pause * 2).min(RETRY.1);
            }
        } else {
            self.retry_at = None;
            self.retry_pause = RETRY.0;
        }
        self.tell_notices(&next);
        let repairs = next.repairs - self.state.borrow().repairs;
        if let (Some(member), 1..) = (self.control.membership(), repairs) {
            self.events.repaired(&self.view, member.node, repairs);
        }
        self.state.send_if_modified(|state| {
            let changed = **state != next;
            *state = Arc::new(next);
            changed
        });
    }
}

fn here<'a>(node: NodeId, boot_id: &'a str, host: &NetnsRef) -> Here<'a> {
    let (device, inode) = (host.device, host.inode);
    let host = Identity { device, inode };
    Here {
        node,
        boot_id,
        host,
    }
}

/// Counts changes of the kernel; with `quiet`, nothing else had changed.
fn note_ops(ops: usize, quiet: bool, next: &mut KernelState) {
    next.ops += ops as u64;
    if quiet && ops > 0 {
        next.repairs += ops as u64;
        info!(ops, "put back what had been changed behind our back");
    }
}

/// The next change of the host's links, addresses or routes; never, once they cannot be heard.
async fn host_event(monitor: &mut Option<HostMonitor>) -> Result<(), HostError> {
    match monitor {
        Some(monitor) => monitor.next().await,
        None => std::future::pending().await,
    }
}
