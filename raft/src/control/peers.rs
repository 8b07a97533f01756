use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::Quorum;
use super::running::Running;
use crate::consensus::Group;
use crate::model::{NodeId, Role};
use crate::wire::{ProbeAnswer, Request, Response};

/// How often a manager asks the others whether they are there.
const MANAGER_PERIOD: Duration = Duration::from_millis(250);
/// The same for a worker, whose session tells it the rest.
const WORKER_PERIOD: Duration = Duration::from_secs(2);
/// A manager that answers later than this counts as not there.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// Which managers answer.
#[derive(Debug, Default)]
pub(super) struct Peers {
    health: Mutex<BTreeMap<NodeId, Health>>,
}

/// What the last probe of a manager gave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    pub(super) reachable: bool,
    pub(super) rtt: Option<Duration>,
}

impl Peers {
    pub(super) fn of(&self, node: NodeId) -> Option<Health> {
        self.lock().get(&node).copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Managers that vote, and how many of them answered lately, this node included. A worker
    /// does not know who votes and takes all managers.
    pub(super) fn quorum(&self) -> Quorum {
        let voters = self.group.as_ref().map(Group::voters).unwrap_or_default();
        let managers = if voters.is_empty() {
            self.managers().into_iter().map(|(node, _)| node).collect()
        } else {
            voters
        };
        let total = managers.len();
        let health = self.peers.lock();
        let answers = |node: &NodeId| health.get(node).is_some_and(|health| health.reachable);
        let reachable = managers
            .iter()
            .filter(|node| **node == self.member.node || answers(node))
            .count();
        Quorum {
            total,
            reachable,
            needed: total / 2 + 1,
        }
    }

    /// Asks all other managers at once whether they are there.
    pub(super) async fn probe_all(&self) {
        let managers = self.managers();
        let others: Vec<_> = managers
            .into_iter()
            .filter(|(node, _)| *node != self.member.node)
            .collect();
        let probes = others.iter().map(|(node, addr)| self.probe(*node, *addr));
        let found = join_all(probes).await;
        let mut health = self.peers.lock();
        health.retain(|node, _| others.iter().any(|(other, _)| other == node));
        for ((node, _), rtt) in others.iter().zip(found) {
            health.insert(
                *node,
                Health {
                    reachable: rtt.is_some(),
                    rtt,
                },
            );
        }
    }

    async fn probe(&self, node: NodeId, addr: SocketAddr) -> Option<Duration> {
        let asked = Instant::now();
        let answer = self
            .ask(addr, node, &Request::Probe, PROBE_TIMEOUT)
            .await
            .ok()?;
        let Response::Probe(ProbeAnswer { leader, .. }) = answer else {
            return None;
        };
        if self.member.role == Role::Worker && leader.is_some() {
            self.set_leader_hint(leader);
        }
        Some(asked.elapsed())
    }

    /// Probes for as long as the node is a member.
    pub(super) async fn keep_probing(&self) {
        let period = match self.member.role {
            Role::Manager => MANAGER_PERIOD,
            Role::Worker => WORKER_PERIOD,
        };
        loop {
            self.probe_all().await;
            tokio::time::sleep(period).await;
        }
    }
}
