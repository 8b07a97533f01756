use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::link::{Effect, Link, Number, Why};
use super::outbox::Outbox;
use super::{PeerSession, Peering, Shared};
use crate::codec;
use crate::model::NodeId;
use crate::transport::{
    CallError, FrameStream, PeerClose, PeerConnection, PeerDialError, Transport,
};
use crate::watch::WatchHub;
use crate::wire::PeerGreeting;

/// Connections of others that wait to be looked at.
const WAITING: usize = 256;
/// Dials under way at once.
const DIALS: usize = 128;

/// Where connections that others have opened are handed to the keeper.
#[derive(Clone, Debug)]
pub(crate) struct Door(mpsc::Sender<PeerConnection>);

/// Both sides of the door: one per membership.
pub(crate) fn doorway() -> (Door, mpsc::Receiver<PeerConnection>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Door(sender), receiver)
}

impl Door {
    /// A member has opened a connection and asks with `offer`.
    pub(crate) fn enter(&self, connection: PeerConnection, offer: &[u8]) {
        match codec::decode(offer) {
            Ok(PeerGreeting::Offer) => {}
            Ok(PeerGreeting::Accept) | Err(_) => return connection.close(PeerClose::Unreadable),
        }
        if let Err(error) = self.0.try_send(connection) {
            let (mpsc::error::TrySendError::Full(connection)
            | mpsc::error::TrySendError::Closed(connection)) = error;
            connection.close(PeerClose::Overloaded);
        }
    }
}

/// Keeps up the sessions that are wanted, as long as a membership lasts. Dropping it ends them.
pub(crate) struct Keeper {
    own: NodeId,
    transport: Transport,
    hub: WatchHub,
    shared: Arc<Shared>,
    wanted: watch::Receiver<BTreeSet<NodeId>>,
    began: Instant,
    peers: BTreeMap<NodeId, Peer>,
    /// Links made so far: no two have numbers in common.
    links: u64,
    dials: Arc<Semaphore>,
    tasks: JoinSet<Done>,
}

/// A node that a session is wanted with, or was a moment ago.
struct Peer {
    link: Link,
    dial: Option<AbortHandle>,
    connections: BTreeMap<Number, Held>,
    session: Option<PeerSession>,
    /// The trouble that the owner was told of.
    told: Option<String>,
}

struct Held {
    connection: PeerConnection,
    /// Whether the other side waits to hear that it is accepted.
    accepted: bool,
}

/// What became of a task.
enum Done {
    Dialled(NodeId, Number, Result<PeerConnection, PeerDialError>),
    Ended(NodeId, Number, String),
}

impl Keeper {
    pub(crate) fn new(own: NodeId, transport: Transport, hub: WatchHub, peering: &Peering) -> Self {
        Self {
            own,
            transport,
            hub,
            wanted: peering.shared.wanted.subscribe(),
            shared: peering.shared.clone(),
            began: Instant::now(),
            peers: BTreeMap::new(),
            links: 0,
            dials: Arc::new(Semaphore::new(DIALS)),
            tasks: JoinSet::new(),
        }
    }

    /// Until the hub is gone, or dropped.
    pub(crate) async fn run(mut self, mut incoming: mpsc::Receiver<PeerConnection>) {
        let shared = self.shared.clone();
        let mut items = self.hub.subscribe(Some(self.hub.revision()));
        self.aim();
        loop {
            let due = self.deadline();
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.aim(),
                    Err(_) => return,
                },
                told = items.next_node_change() => match told {
                    Some(()) => self.aim(),
                    None => return,
                },
                () = shared.renew.notified() => self.renew(),
                Some(connection) = incoming.recv() => self.accept(connection),
                Some(done) = self.tasks.join_next() => {
                    // A task that was given up has nothing to say.
                    if let Ok(done) = done {
                        self.done(done);
                    }
                }
                () = sleep_until(due) => self.tick(),
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn deadline(&self) -> Option<Instant> {
        let due = self.peers.values().filter_map(|peer| peer.link.deadline());
        due.min().map(|due| self.began + due)
    }

    /// Compares what is wanted with what there is.
    fn aim(&mut self) {
        let (own, wanted) = (self.own, self.wanted.borrow_and_update().clone());
        let targets: BTreeMap<NodeId, SocketAddr> = self.hub.with_view(|view| {
            let members = wanted.iter().filter_map(|node| view.nodes.get(node));
            let others = members.filter(|node| node.id != own);
            others.map(|node| (node.id, node.addr)).collect()
        });
        let concerned: BTreeSet<_> = self.peers.keys().chain(targets.keys()).copied().collect();
        for node in concerned {
            let target = targets.get(&node).copied();
            let now = self.now();
            let (links, patience) = (&mut self.links, self.transport.limits().peering_patience);
            let peer = self.peers.entry(node).or_insert_with(|| {
                *links += 1;
                Peer::new(Link::new(own < node, patience, *links << 32))
            });
            let effects = peer.link.aim(now, target);
            self.perform(node, effects);
        }
        self.peers.retain(|_, peer| peer.link.is_wanted());
    }

    fn renew(&mut self) {
        let nodes = std::mem::take(&mut *self.shared.lock_renewals());
        let now = self.now();
        for node in nodes {
            if let Some(peer) = self.peers.get_mut(&node) {
                let effects = peer.link.renew(now);
                self.perform(node, effects);
            }
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        let due = |peer: &Peer| peer.link.deadline().is_some_and(|due| due <= now);
        let nodes: Vec<_> = self.peers.iter().filter(|(_, peer)| due(peer)).collect();
        let nodes: Vec<_> = nodes.into_iter().map(|(node, _)| *node).collect();
        for node in nodes {
            if let Some(peer) = self.peers.get_mut(&node) {
                let effects = peer.link.tick(now);
                self.perform(node, effects);
            }
        }
    }

    fn accept(&mut self, connection: PeerConnection) {
        let (node, now) = (connection.node(), self.now());
        // What is wanted may have changed a moment before the other side dialled.
        if self.wanted.has_changed().unwrap_or_default() {
            self.aim();
        }
        let Some(peer) = self.peers.get_mut(&node) else {
            return connection.close(PeerClose::NotWanted);
        };
        let (number, effects) = peer.link.accepted(now);
        let held = Held {
            connection,
            accepted: true,
        };
        peer.connections.insert(number, held);
        self.perform(node, effects);
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        let (Done::Dialled(node, ..) | Done::Ended(node, ..)) = done;
        // A connection of a node that is not wanted any more closes by being dropped.
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let effects = match done {
            Done::Dialled(_, number, Ok(connection)) => {
                let held = Held {
                    connection,
                    accepted: false,
                };
                peer.connections.insert(number, held);
                peer.link.dialled(now, number)
            }
            Done::Dialled(_, number, Err(error)) => {
                let effects = peer.link.failed(now, number);
                peer.complain(node, &error, &self.shared.outbox);
                effects
            }
            Done::Ended(_, number, why) => {
                peer.connections.remove(&number);
                if peer.link.session() == Some(number) {
                    tracing::info!(%node, reason = %why, "peer session ended");
                }
                peer.link.lost(now, number)
            }
        };
        self.perform(node, effects);
    }

    fn perform(&mut self, node: NodeId, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            let now = self.now();
            let Some(peer) = self.peers.get_mut(&node) else {
                return;
            };
            match effect {
                Effect::Dial(number, addr) => {
                    let dial = dial(self.transport.clone(), self.dials.clone(), addr, node);
                    let dial = async move { Done::Dialled(node, number, dial.await) };
                    peer.dial = Some(self.tasks.spawn(dial));
                }
                Effect::Abandon(_) => {
                    if let Some(dial) = peer.dial.take() {
                        dial.abort();
                    }
                }
                Effect::Up(number) => {
                    let begun = peer.begin(node, number, &self.shared.outbox, &mut self.tasks);
                    if let Err(reason) = begun {
                        tracing::error!(%node, %reason, "peer session is of no use");
                        peer.connections.remove(&number);
                        effects.extend(peer.link.lost(now, number));
                    }
                }
                Effect::Down(_) => peer.end(node, &self.shared.outbox),
                Effect::Close(number, why) => {
                    if let Some(held) = peer.connections.remove(&number) {
                        held.connection.close(why.into());
                    }
                }
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        for (node, peer) in &mut self.peers {
            peer.end(*node, &self.shared.outbox);
        }
    }
}

impl Peer {
    fn new(link: Link) -> Self {
        Self {
            link,
            dial: None,
            connections: BTreeMap::new(),
            session: None,
            told: None,
        }
    }

    /// Makes a connection the session.
    fn begin(
        &mut self,
        node: NodeId,
        number: Number,
        outbox: &Arc<Outbox>,
        tasks: &mut JoinSet<Done>,
    ) -> Result<(), String> {
        let held = self.connections.get_mut(&number).ok_or("it is gone")?;
        let stream = held.connection.take_stream().ok_or("it has no stream")?;
        let greeting = match held.accepted {
            true => Some(codec::encode(&PeerGreeting::Accept).map_err(|e| e.to_string())?),
            false => None,
        };
        let session = PeerSession::new(node, held.connection.exporter());
        let session = session.map_err(|error| error.to_string())?;
        tracing::info!(%node, dialled = !held.accepted, "peer session begins");
        let closed = held.connection.closed();
        let carried = carry(session.clone(), stream, greeting, outbox.clone());
        tasks.spawn(async move {
            let why = tokio::select! {
                biased;
                why = closed => why,
                why = carried => why,
            };
            Done::Ended(node, number, why)
        });
        self.told = None;
        self.session = Some(session.clone());
        outbox.up(session);
        Ok(())
    }

    fn end(&mut self, node: NodeId, outbox: &Outbox) {
        if let Some(session) = self.session.take() {
            session.queue().close();
            outbox.down(node, session.id);
        }
    }

    /// Tells why there is no session, unless that was told already.
    fn complain(&mut self, node: NodeId, error: &PeerDialError, outbox: &Outbox) {
        if self.session.is_some() || matches!(error, PeerDialError::Superseded { .. }) {
            return;
        }
        let why = error.to_string();
        if self.told.as_ref() != Some(&why) {
            tracing::debug!(%node, reason = %why, "no peer session");
            outbox.trouble(node, why.clone());
            self.told = Some(why);
        }
    }
}

impl From<Why> for PeerClose {
    fn from(why: Why) -> Self {
        match why {
            Why::NotWanted => Self::NotWanted,
            Why::Superseded => Self::Superseded,
            Why::Renewed => Self::Renewed,
        }
    }
}

async fn dial(
    transport: Transport,
    room: Arc<Semaphore>,
    to: SocketAddr,
    node: NodeId,
) -> Result<PeerConnection, PeerDialError> {
    let _room = room.acquire().await.map_err(|_| CallError::Closed)?;
    let malformed = |reason: String| CallError::Malformed { to, reason };
    let offer = codec::encode(&PeerGreeting::Offer).map_err(|e| malformed(e.to_string()))?;
    let (connection, answer) = transport.dial_peer(to, node, offer.into()).await?;
    match codec::decode(&answer) {
        Ok(PeerGreeting::Accept) => Ok(connection),
        Ok(PeerGreeting::Offer) => Err(malformed("an offer, not an answer".to_owned()).into()),
        Err(error) => Err(malformed(error.to_string()).into()),
    }
}

/// Moves messages both ways; resolves with the reason when that ends.
async fn carry(
    session: PeerSession,
    stream: FrameStream,
    greeting: Option<Vec<u8>>,
    outbox: Arc<Outbox>,
) -> String {
    let (mut sender, mut receiver) = stream.split();
    let sending = async {
        let mut next = greeting.map(Bytes::from);
        loop {
            let body = match next.take() {
                Some(body) => body,
                None => session.queue().next().await,
            };
            if let Err(error) = sender.send(body).await {
                return error.to_string();
            }
        }
    };
    let receiving = async {
        loop {
            match receiver.recv().await {
                Ok(Some(body)) => outbox.message(session.node, session.id, body),
                Ok(None) => return "the other side ended it".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    };
    tokio::select! {
        why = sending => why,
        why = receiving => why,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
