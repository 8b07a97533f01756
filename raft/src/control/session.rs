use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::authorise;
use super::counters::count;
use super::running::Running;
use crate::codec;
use crate::consensus::{Group, RaftId};
use crate::identity::Caller;
use crate::model::{Change, NodeId, Revision, View};
use crate::state::cost;
use crate::transport::{FrameReceiver, FrameSender, FrameStream};
use crate::watch::{Subscription, WatchItem};
use crate::wire::{Down, Failure, Opening, Up, view_pieces};

/// Bytes of an encoded view in one frame.
const PIECE: usize = 1 << 20;
/// Items that are sent as one when the worker is behind.
const MERGE: usize = 256;
/// Changed rows of several items in one frame, bytes: far below what a frame may have, which a
/// single command's rows come close to.
const MERGE_BYTES: usize = 4 << 20;
/// How often a manager says that it is there.
const ALIVE_PERIOD: Duration = Duration::from_millis(200);
/// A worker whose manager says nothing for so long takes another.
const SILENCE: Duration = Duration::from_millis(700);
/// For opening a session.
const OPEN_TIMEOUT: Duration = Duration::from_millis(700);
/// Between attempts to find a manager: the first, doubled after each that failed, and the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a worker stays with a manager that sees too few others.
const LOST_PATIENCE: Duration = Duration::from_millis(1000);

// The manager's side.
impl Running {
    /// Serves a node that follows the state.
    pub(super) async fn serve_watch(
        &self,
        caller: Caller,
        from: Option<Revision>,
        stream: FrameStream,
    ) {
        let (mut sender, receiver) = stream.split();
        let allowed = self
            .hub
            .with_view(|view| authorise::check_member(&caller, view));
        let (Caller::Member { node, .. }, Ok(())) = (caller, allowed) else {
            count(&self.counters.unauthorised);
            let reason = "not, or no longer, a member of the cluster".to_owned();
            let refused = Down::Refused(Failure::Unauthorised(reason));
            // Whoever does not listen any more needs no reason.
            let _ = send(&mut sender, &refused).await;
            sender.finish();
            return;
        };
        let place = self.sessions.enter(node);
        let subscription = self.hub.subscribe(from);
        tracing::debug!(%node, ?from, "a node follows");
        tokio::select! {
            () = self.feed(node, sender, subscription) => {}
            () = self.listen(node, receiver) => {}
            () = place.taken() => {}
        }
        tracing::debug!(%node, "a node follows no longer");
    }

    async fn feed(&self, node: NodeId, mut sender: FrameSender, mut items: Subscription) {
        let mut alive = tokio::time::interval(ALIVE_PERIOD);
        let mut told = None;
        loop {
            let frames = tokio::select! {
                item = items.next() => match item {
                    Some(item) => frames_of(item, &mut items),
                    None => return,
                },
                _ = alive.tick() => vec![self.alive(&mut told)],
                () = self.led_by_other_id(told) => vec![self.alive(&mut told)],
            };
            for frame in frames {
                if !send(&mut sender, &frame).await {
                    return;
                }
            }
            // A node that was removed is told nothing more.
            if !self.hub.with_view(|view| view.nodes.contains_key(&node)) {
                return;
            }
        }
    }

    fn alive(&self, told: &mut Option<RaftId>) -> Down {
        *told = self
            .group
            .as_ref()
            .and_then(Group::leader)
            .map(|(id, _)| id);
        let quorum = self.quorum();
        Down::Alive {
            leader: self.leader(),
            quorum: quorum.reachable >= quorum.needed,
        }
    }

    /// Resolves when another than `told` leads: who follows is waiting for that.
    async fn led_by_other_id(&self, told: Option<RaftId>) {
        match &self.group {
            Some(group) => group.leader_other_than(told).await,
            None => std::future::pending().await,
        }
    }

    async fn listen(&self, node: NodeId, mut receiver: FrameReceiver) {
        while let Ok(Some(frame)) = receiver.recv().await {
            match codec::decode(&frame) {
                Ok(Up::Report(report)) => self.reports.hear(node, report),
                Err(error) => {
                    count(&self.counters.undecodable);
                    tracing::debug!(%node, %error, "a session sent what this agent cannot read");
                    return;
                }
            }
        }
    }
}

async fn send<T: serde::Serialize>(sender: &mut FrameSender, frame: &T) -> bool {
    match codec::encode(frame) {
        Ok(bytes) => sender.send(bytes).await.is_ok(),
        Err(error) => {
            tracing::error!(%error, "a frame cannot be encoded");
            false
        }
    }
}

/// The frames of an item and of what else is there already.
fn frames_of(first: WatchItem, items: &mut Subscription) -> Vec<Down> {
    let mut frames = Vec::new();
    let mut merged = Merged::default();
    let mut next = first;
    for count in 1.. {
        match next {
            WatchItem::Changes { revision, changes } => {
                let bytes: usize = changes.iter().map(cost::of_change).sum();
                if merged.bytes + bytes > MERGE_BYTES {
                    frames.extend(std::mem::take(&mut merged).frame());
                }
                merged.rows.extend(changes.iter().cloned());
                merged.bytes += bytes;
                merged.reached = Some(revision);
            }
            WatchItem::Snapshot(view) => {
                // It has everything that came before it.
                merged = Merged::default();
                frames = view_pieces(&view, PIECE).unwrap_or_else(|error| {
                    tracing::error!(%error, "the view cannot be encoded");
                    Vec::new()
                });
            }
        }
        if count >= MERGE {
            break;
        }
        match items.try_next() {
            Some(item) => next = item,
            None => break,
        }
    }
    frames.extend(merged.frame());
    frames
}

/// Changes that are sent in one frame.
#[derive(Default)]
struct Merged {
    rows: Vec<Change>,
    bytes: usize,
    reached: Option<Revision>,
}

impl Merged {
    fn frame(self) -> Option<Down> {
        Some(Down::Changes {
            revision: self.reached?,
            changes: self.rows.into(),
        })
    }
}

// The worker's side.
impl Running {
    /// Follows the state through one manager after another.
    pub(super) async fn keep_following(&self) {
        // Spreads the workers over the managers.
        let mut turn = usize::from(self.member.node.0.bytes()[1]);
        let mut pause = PAUSE;
        loop {
            let managers = self.managers();
            let place = turn.checked_rem(managers.len());
            let Some((node, addr)) = place.and_then(|at| managers.get(at)).copied() else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let began = Instant::now();
            let ended = self.follow(node, addr).await;
            turn = turn.wrapping_add(1);
            if began.elapsed() > OPEN_TIMEOUT * 2 {
                tracing::info!(manager = %node, %addr, reason = %ended, "session ended");
                pause = PAUSE;
            } else {
                tracing::debug!(manager = %node, %addr, reason = %ended, "no session");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// One session; returns why it ended.
    async fn follow(&self, node: NodeId, addr: SocketAddr) -> String {
        let (known, revision) = self
            .hub
            .with_view(|view| (view.cluster.is_some(), view.revision));
        let from = known.then_some(revision);
        let opening = match codec::encode(&Opening::Watch { from }) {
            Ok(opening) => opening,
            Err(error) => return error.to_string(),
        };
        let opened = self
            .transport
            .open(addr, Some(node), opening, OPEN_TIMEOUT)
            .await;
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => return error.to_string(),
        };
        let (sender, receiver) = stream.split();
        tokio::select! {
            ended = self.take_in(receiver) => ended,
            ended = self.report(sender) => ended,
        }
    }

    async fn report(&self, mut sender: FrameSender) -> String {
        let mut own = self.reports.own_changes();
        loop {
            if !send(&mut sender, &Up::Report(self.reports.next())).await {
                return "the manager does not listen any more".to_owned();
            }
            tokio::select! {
                changed = own.changed() => if changed.is_err() {
                    return "this node is stopping".to_owned();
                },
                () = tokio::time::sleep(self.timing.report) => {}
            }
        }
    }

    async fn take_in(&self, mut receiver: FrameReceiver) -> String {
        let mut snapshot = Vec::new();
        let mut lost_since = None;
        loop {
            let frame = match tokio::time::timeout(SILENCE, receiver.recv()).await {
                Ok(Ok(Some(frame))) => frame,
                Ok(Ok(None)) => return "the manager ended it".to_owned(),
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "the manager is silent".to_owned(),
            };
            let frame = match codec::decode::<Down>(&frame) {
                Ok(frame) => frame,
                Err(error) => return error.to_string(),
            };
            match frame {
                Down::Snapshot { more, data } => {
                    if let Err(reason) = self.take_piece(&mut snapshot, &data.0, more) {
                        return reason;
                    }
                }
                Down::Changes { revision, changes } => self.take_changes(revision, changes),
                Down::Alive { leader, quorum } => {
                    if leader.is_some() {
                        self.set_leader_hint(leader);
                    }
                    if quorum {
                        lost_since = None;
                    } else if lost_since.get_or_insert_with(Instant::now).elapsed() > LOST_PATIENCE
                    {
                        return "the manager sees too few others".to_owned();
                    }
                }
                Down::Refused(failure) => return format!("refused: {failure:?}"),
            }
        }
    }

    fn take_piece(&self, whole: &mut Vec<u8>, piece: &[u8], more: bool) -> Result<(), String> {
        if whole.len() + piece.len() > codec::MAX_LEN {
            return Err("the view is larger than any may be".to_owned());
        }
        whole.extend_from_slice(piece);
        if more {
            return Ok(());
        }
        let view: View =
            codec::decode(&std::mem::take(whole)).map_err(|error| error.to_string())?;
        tracing::debug!(revision = view.revision, "took in the view as a whole");
        self.hub.reset(view);
        self.remember_managers();
        Ok(())
    }

    fn take_changes(&self, revision: Revision, changes: Arc<[Change]>) {
        let nodes = changes
            .iter()
            .any(|change| matches!(change, Change::Node(_) | Change::NodeGone(_)));
        self.hub.publish(revision, changes);
        if nodes {
            self.remember_managers();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, EndpointSpec, NetworkSpec};
    use crate::model::EndpointKind;
    use crate::state::testing::{endpoint_spec, init_cluster, network_spec, proposal, subnet};
    use crate::state::{State, limits};
    use crate::watch::{WatchHub, WatchLimits};

    /// Has `count` endpoints, each with a command as long as one may be.
    fn published(count: u32) -> (WatchHub, View) {
        let mut state = State::new();
        let hub = WatchHub::new(View::default(), WatchLimits::default());
        let init = Command::Init(Box::new(init_cluster()));
        let network = Command::CreateNetwork(Box::new(NetworkSpec {
            subnets: vec![subnet("172.16.0.0/16")],
            ..network_spec(1, "web")
        }));
        let endpoint = |number| EndpointSpec {
            kind: EndpointKind::Run {
                command: vec!["x".repeat(limits::COMMAND_BYTES)],
                detached: true,
            },
            ..endpoint_spec(number, 1, &format!("c{number}"))
        };
        let commands = [init, network]
            .into_iter()
            .chain((0..count).map(|number| Command::CreateEndpoint(Box::new(endpoint(number)))));
        for (index, command) in (1..).zip(commands) {
            let (outcome, changes) = state.apply(index, &proposal(index, command));
            outcome.unwrap();
            hub.publish(index, changes.into());
        }
        (hub, state.view().clone())
    }

    #[test]
    fn a_follower_that_is_behind_is_sent_everything_in_frames_that_fit() {
        let (hub, view) = published(400);
        let mut items = hub.subscribe(0);
        let mut follower = View::default();
        let mut frames = 0;
        while let Some(item) = items.try_next() {
            for frame in frames_of(item, &mut items) {
                let bytes = codec::encode(&frame).unwrap().len();
                assert!(bytes < MERGE_BYTES, "{bytes}");
                let Down::Changes { revision, changes } = frame else {
                    panic!("{frame:?}")
                };
                follower.apply(revision, &changes);
                frames += 1;
            }
        }
        assert_eq!(follower, view);
        assert_eq!(frames, 3);
    }
}
