use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::ProposeError;
use super::running::Running;
use crate::model::NodeId;
use crate::transport::CallError;
use crate::wire::{Failure, Leader, Request, Response};

/// Between attempts while there is no leader: an election takes some hundred milliseconds.
const PAUSE: Duration = Duration::from_millis(25);
/// Longest wait for the first answer of whoever should lead; doubled after every such wait.
/// Waiting for a quorum's disks is part of it.
const FIRST_WAIT: Duration = Duration::from_millis(300);
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// A leader that did not answer is not asked again for so long, whoever still takes it for the
/// leader: time for the others to elect a new one.
const AVOID: Duration = Duration::from_millis(500);
/// The same for one that has too much to do.
const AVOID_BUSY: Duration = Duration::from_millis(300);
/// An answer is waited for that much longer than the manager may take over it.
const GRACE: Duration = Duration::from_millis(20);

/// Where a search for the leader stands.
struct Search {
    deadline: Instant,
    /// Wait for the next answer.
    wait: Duration,
    /// Which manager to ask when nobody knows the leader.
    turn: usize,
    /// Who did not answer, and until when it is left alone.
    silent: Option<(NodeId, Instant)>,
}

/// How an attempt ended that did not end the search.
enum Miss {
    /// The manager says that another one leads.
    Elsewhere,
    /// It did not answer.
    Silent,
    /// There was nobody to ask, or no room for asking.
    Nobody,
}

impl Running {
    /// Has the leader answer a request, whoever it is, and whoever becomes it: asks again until
    /// `deadline`. The request must bear being carried out twice.
    pub(super) async fn ask_leader(
        &self,
        request: &Request,
        deadline: Instant,
    ) -> Result<Response, ProposeError> {
        let began = Instant::now();
        let turn = usize::from(self.member.node.0.bytes()[0]);
        let mut search = Search {
            deadline,
            wait: FIRST_WAIT,
            turn,
            silent: None,
        };
        let mut answered = true;
        while Instant::now() < deadline {
            let miss = match self.attempt(request, &mut search).await {
                Ok(response) => return Ok(response),
                Err(miss) => miss,
            };
            match miss {
                Miss::Elsewhere => answered = true,
                Miss::Nobody => {}
                Miss::Silent => answered = false,
            }
            sleep_until(deadline.min(Instant::now() + PAUSE)).await;
        }
        if self.group.is_none() {
            self.probe_all().await;
        }
        let quorum = self.quorum();
        if answered || quorum.reachable < quorum.needed {
            Err(ProposeError::NoLeader(quorum))
        } else {
            Err(ProposeError::TimedOut(began.elapsed()))
        }
    }

    async fn attempt(&self, request: &Request, search: &mut Search) -> Result<Response, Miss> {
        let deadline = search.deadline;
        if self.is_leader() {
            return match timeout_at(deadline, self.lead(request.clone())).await {
                Ok(Response::Failed(Failure::NotLeader(..))) => Err(Miss::Elsewhere),
                Ok(response) => Ok(response),
                Err(_) => Err(Miss::Silent),
            };
        }
        let Some(target) = self.target(search) else {
            return Err(Miss::Nobody);
        };
        let room = timeout_at(deadline, self.forwards.acquire()).await;
        let Ok(Ok(_room)) = room else {
            return Err(Miss::Nobody);
        };
        let wait = search
            .wait
            .min(deadline.saturating_duration_since(Instant::now()) + GRACE);
        let asked = self.ask(target.addr, target.node, request, wait);
        let answer = tokio::select! {
            answer = asked => answer,
            // Another leader: no need to wait for the answer of this one.
            () = self.led_by_other_than(target.node) => return Err(Miss::Nobody),
        };
        match answer {
            Ok(Response::Failed(Failure::NotLeader(leader, _))) => {
                let other = leader.filter(|leader| leader.node != target.node);
                self.set_leader_hint(other);
                search.turn = search.turn.wrapping_add(1);
                Err(Miss::Elsewhere)
            }
            Ok(response) => Ok(response),
            Err(CallError::Overloaded { .. }) => {
                search.silent = Some((target.node, Instant::now() + AVOID_BUSY));
                search.turn = search.turn.wrapping_add(1);
                Err(Miss::Nobody)
            }
            Err(error) => {
                tracing::debug!(to = %target.addr, %error, "no answer from the leader");
                if matches!(error, CallError::TimedOut { .. }) {
                    search.wait = (search.wait * 2).min(LONGEST_WAIT);
                }
                search.silent = Some((target.node, Instant::now() + AVOID));
                self.set_leader_hint(None);
                search.turn = search.turn.wrapping_add(1);
                Err(Miss::Silent)
            }
        }
    }

    /// Whom to ask: the leader if known. A worker that does not know asks one manager after
    /// another, each of which says who leads.
    fn target(&self, search: &Search) -> Option<Leader> {
        let silent = search.silent.filter(|(_, until)| Instant::now() < *until);
        let silent = silent.map(|(node, _)| node);
        let leader = self.leader().filter(|leader| Some(leader.node) != silent);
        if let Some(leader) = leader {
            return Some(leader).filter(|leader| leader.node != self.member.node);
        }
        if self.group.is_some() {
            return None;
        }
        let mut managers = self.managers();
        managers.retain(|(node, _)| Some(*node) != silent);
        let place = search.turn.checked_rem(managers.len())?;
        managers.get(place).map(|(node, addr)| Leader {
            node: *node,
            addr: *addr,
        })
    }

    /// Resolves when this node hears that somebody else leads.
    async fn led_by_other_than(&self, node: NodeId) {
        match &self.group {
            Some(group) => {
                let known = group.leader().map(|(id, _)| id);
                group.leader_other_than(known).await;
            }
            None => self.leader_hint_other_than(node).await,
        }
    }
}
