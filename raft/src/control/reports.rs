use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::running::Running;
use super::{now_ms, random};
use crate::command::{Command, Proposal};
use crate::model::{NodeId, NodeStatus, Revision};
use crate::wire::{Report, Request, Response};

/// A manager waits so long for more before it passes on that a node's revision changed.
const COALESCE: Duration = Duration::from_millis(5);
/// How often the leader looks who was not heard of.
const JUDGE_PERIOD: Duration = Duration::from_millis(100);
/// Reports that a node which was down has to get through before it counts as ready again, so
/// that a flapping link does not make the node flap.
const READY_AFTER: u32 = 3;
/// The leader's word on nodes is written again after a failure; it waits no longer for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// What nodes say of themselves: this node's own report, those heard in sessions, and on the
/// leader those of all nodes. In memory only.
#[derive(Debug)]
pub(super) struct Reports {
    start: u64,
    sequence: AtomicU64,
    own: watch::Sender<Revision>,
    heard: Mutex<BTreeMap<NodeId, (Report, Instant)>>,
    table: Mutex<BTreeMap<NodeId, Known>>,
    wake: Notify,
}

/// The leader's knowledge of one node.
#[derive(Clone, Copy, Debug)]
struct Known {
    report: Option<Report>,
    at: Instant,
    /// Reports since the node was last judged down.
    in_a_row: u32,
}

/// A time as the leader.
#[derive(Clone, Copy, Debug)]
struct Leading {
    since: Instant,
    /// Who led before, if that is known.
    former: Option<NodeId>,
}

impl Reports {
    pub(super) fn new() -> Self {
        // Without randomness two starts may look like one, which costs a late report at worst.
        let start = random().map_or_else(|_| now_ms(), u64::from_be_bytes);
        Self {
            start,
            sequence: AtomicU64::new(0),
            own: watch::Sender::new(0),
            heard: Mutex::default(),
            table: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// What this node's kernel reflects from now on.
    pub(super) fn set_own(&self, applied: Revision) {
        let changed = self
            .own
            .send_if_modified(|own| std::mem::replace(own, applied) != applied);
        if changed {
            self.wake.notify_one();
        }
    }

    /// What this node's kernel reflects.
    pub(super) fn own(&self) -> Revision {
        *self.own.borrow()
    }

    /// Follows [`Self::own`].
    pub(super) fn own_changes(&self) -> watch::Receiver<Revision> {
        self.own.subscribe()
    }

    /// The report to send now.
    pub(super) fn next(&self) -> Report {
        Report {
            applied: self.own(),
            start: self.start,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A node's report arrived in its session with this manager.
    pub(super) fn hear(&self, node: NodeId, report: Report) {
        let before = lock(&self.heard).insert(node, (report, Instant::now()));
        if before.is_none_or(|(before, _)| before.applied != report.applied) {
            self.wake.notify_one();
        }
    }

    /// Own report and those heard lately.
    fn fresh(&self, own: NodeId, age: Duration) -> Vec<(NodeId, Report)> {
        let mut heard = lock(&self.heard);
        heard.retain(|_, (_, at)| at.elapsed() <= age);
        let others = heard.iter().map(|(node, (report, _))| (*node, *report));
        others.chain([(own, self.next())]).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Passes on to the leader what this manager hears, at once when something changed.
    pub(super) async fn keep_relaying(&self) {
        let period = self.timing.report;
        loop {
            tokio::select! {
                () = self.reports.wake.notified() => tokio::time::sleep(COALESCE).await,
                () = tokio::time::sleep(period) => {}
            }
            let heard = self.reports.fresh(self.member.node, period * 2);
            if self.is_leader() {
                self.absorb_reports(heard);
                continue;
            }
            let Some(leader) = self.leader() else {
                continue;
            };
            let request = Request::Reports(heard);
            if let Err(error) = self
                .ask(leader.addr, leader.node, &request, period * 2)
                .await
            {
                tracing::debug!(%error, "reports did not reach the leader");
            }
        }
    }

    /// Takes in reports as the leader. Nodes that are not members leave no trace.
    pub(super) fn absorb_reports(&self, heard: Vec<(NodeId, Report)>) {
        let now = Instant::now();
        let mut table = lock(&self.reports.table);
        self.hub.with_view(|view| {
            for (node, report) in heard {
                if !view.nodes.contains_key(&node) {
                    continue;
                }
                let known = table.entry(node).or_insert(Known {
                    report: None,
                    at: now,
                    in_a_row: 0,
                });
                let news = known.report.is_none_or(|before| {
                    before.start != report.start || before.sequence < report.sequence
                });
                if news {
                    known.report = Some(report);
                    known.at = now;
                    known.in_a_row = known.in_a_row.saturating_add(1);
                }
            }
        });
    }

    /// The ready nodes and what they reported, as the leader knows it.
    pub(super) fn ready_nodes(&self) -> BTreeMap<NodeId, Revision> {
        let table = lock(&self.reports.table);
        self.hub.with_view(|view| {
            let ready = view
                .nodes
                .values()
                .filter(|node| node.status == NodeStatus::Ready);
            let applied = |node: &NodeId| table.get(node).and_then(|known| known.report);
            ready
                .map(|node| (node.id, applied(&node.id).map_or(0, |r| r.applied)))
                .collect()
        })
    }

    /// As the leader, marks nodes down that are not heard of, and ready when they are again.
    pub(super) async fn keep_judging(&self) {
        let mut leading = None;
        let mut former = None;
        let mut last = Instant::now();
        loop {
            tokio::time::sleep(JUDGE_PERIOD).await;
            let now = Instant::now();
            // After a pause of this process nobody was heard of, which says nothing of the others.
            let paused = now.duration_since(last) > self.timing.detection / 2;
            last = now;
            if !self.is_leader() {
                leading = None;
                former = self.leader().map(|leader| leader.node).or(former);
                continue;
            }
            if paused {
                (leading, former) = (None, None);
            }
            let begin = || self.begin_to_lead(now, former.take());
            let leading = *leading.get_or_insert_with(begin);
            let verdicts = self.verdicts(leading, now);
            if !verdicts.is_empty() {
                self.write_verdicts(verdicts).await;
            }
        }
    }

    /// Whoever led before was silent already when it lost the election, or has handed over and reports
    /// from now on.
    fn begin_to_lead(&self, since: Instant, former: Option<NodeId>) -> Leading {
        if let Some(former) = former {
            let silent_since = since.checked_sub(self.timing.election_min);
            let at = silent_since.unwrap_or(since);
            let mut table = lock(&self.reports.table);
            let known = table.entry(former).or_insert(Known {
                report: None,
                at,
                in_a_row: 0,
            });
            known.at = known.at.max(at);
        }
        Leading { since, former }
    }

    fn verdicts(&self, leading: Leading, now: Instant) -> Vec<(NodeId, NodeStatus)> {
        let detection = self.timing.detection;
        // The others have to find out first who leads now, some by way of another manager than before.
        let grace = now.duration_since(leading.since) < detection * 2;
        let mut table = lock(&self.reports.table);
        self.hub.with_view(|view| {
            let members: BTreeSet<NodeId> = view.nodes.keys().copied().collect();
            table.retain(|node, _| members.contains(node));
            let mut verdicts = Vec::new();
            for node in view.nodes.values() {
                let known = table.entry(node.id).or_insert(Known {
                    report: None,
                    at: now,
                    in_a_row: 0,
                });
                let silent = now.duration_since(known.at) > detection;
                if silent {
                    known.in_a_row = 0;
                }
                let grace = grace && leading.former != Some(node.id);
                match node.status {
                    NodeStatus::Ready if silent && !grace => {
                        verdicts.push((node.id, NodeStatus::Down));
                    }
                    NodeStatus::Down if known.in_a_row >= READY_AFTER => {
                        verdicts.push((node.id, NodeStatus::Ready));
                    }
                    NodeStatus::Ready | NodeStatus::Down => {}
                }
            }
            verdicts
        })
    }

    async fn write_verdicts(&self, verdicts: Vec<(NodeId, NodeStatus)>) {
        for (node, status) in &verdicts {
            tracing::info!(%node, %status, "node status changes");
        }
        let Ok(request) = random() else { return };
        let command = Command::SetNodeStatus(verdicts);
        let proposal = Arc::new(Proposal {
            request,
            time_ms: now_ms(),
            command,
        });
        let written = self.lead(Request::Propose(proposal));
        match tokio::time::timeout(WRITE_TIMEOUT, written).await {
            Ok(Response::Outcome(Ok(_))) => {}
            Ok(other) => tracing::debug!(?other, "node status was not written"),
            Err(_) => tracing::debug!("node status was not written in time"),
        }
    }
}
