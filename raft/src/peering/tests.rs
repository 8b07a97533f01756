//! Real sockets on the loopback interface. Silence never ends a connection here, so that a busy
//! machine changes nothing.

mod pieces;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::identity::{Authority, Caller, Identity, NodeKey};
use crate::model::{Availability, Change, ClusterId, Labels, Node, NodeStatus, Role, View};
use crate::transport::{FrameStream, Handler, Limits, PeerConnection, Transport};
use crate::watch::{WatchHub, WatchLimits};

/// Longest that anything here may take on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// What is not under test lets connections for peering in.
struct Porter(Door);

impl Handler for Porter {
    fn call(&self, _: Caller, _: SocketAddr, _: Bytes) -> BoxFuture<'_, Vec<u8>> {
        async { Vec::new() }.boxed()
    }

    fn stream(&self, _: Caller, _: SocketAddr, _: Bytes, _: FrameStream) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn peering(&self, _: Caller, connection: PeerConnection, offer: Bytes) {
        self.0.enter(connection, &offer);
    }
}

/// Identities of one cluster, in the order of their ids.
fn identities(count: usize) -> Vec<Arc<Identity>> {
    let now = SystemTime::now();
    let authority = Authority::create(ClusterId::new([7; 10]), now).unwrap();
    let identity = || {
        let (key, day) = (NodeKey::generate().unwrap(), Duration::from_secs(86_400));
        let csr = key.csr().unwrap();
        let cert = authority.sign(&csr, Role::Worker, day, now).unwrap();
        Arc::new(Identity::new(key, &cert, authority.cert_der()).unwrap())
    };
    let mut all: Vec<_> = (0..count).map(|_| identity()).collect();
    all.sort_by_key(|identity| identity.node);
    all
}

fn limits() -> Limits {
    Limits {
        idle_timeout: LONG * 2,
        handshake_timeout: LONG,
        peering_patience: LONG * 2,
        ..Limits::default()
    }
}

fn bound(identity: &Arc<Identity>) -> Transport {
    bound_with(identity, limits())
}

fn bound_with(identity: &Arc<Identity>, limits: Limits) -> Transport {
    let transport = Transport::bind("127.0.0.1:0".parse().unwrap(), limits).unwrap();
    transport.set_identity(identity.clone()).unwrap();
    transport
}

/// One node: its sessions, and the cluster's state as it sees it.
struct Site {
    id: NodeId,
    identity: Arc<Identity>,
    hub: WatchHub,
    transport: Transport,
    peering: Peering,
    events: mpsc::Receiver<PeerEvent>,
    keeper: JoinHandle<()>,
}

impl Site {
    fn new(identity: &Arc<Identity>) -> Self {
        Self::with(identity, limits())
    }

    fn with(identity: &Arc<Identity>, limits: Limits) -> Self {
        let peering = Peering::default();
        let events = peering.events();
        let hub = WatchHub::new(View::default(), WatchLimits::default());
        let transport = bound_with(identity, limits);
        let keeper = Self::run(&transport, identity.node, &hub, &peering);
        Self {
            id: identity.node,
            identity: identity.clone(),
            hub,
            transport,
            peering,
            events,
            keeper,
        }
    }

    fn run(
        transport: &Transport,
        own: NodeId,
        hub: &WatchHub,
        peering: &Peering,
    ) -> JoinHandle<()> {
        let (door, incoming) = doorway();
        transport.serve(Arc::new(Porter(door)));
        let keeper = Keeper::new(own, transport.clone(), hub.clone(), peering);
        tokio::spawn(keeper.run(incoming))
    }

    /// Ends what runs and starts it anew, on another port.
    async fn move_away(&mut self) {
        self.keeper.abort();
        assert!((&mut self.keeper).await.unwrap_err().is_cancelled());
        self.transport.close().await;
        self.transport = bound(&self.identity);
        self.keeper = Self::run(&self.transport, self.id, &self.hub, &self.peering);
    }

    fn addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    fn want(&self, others: &[&Site]) {
        self.peering
            .want(others.iter().map(|other| other.id).collect());
    }

    /// Hears that a node is a member, and where.
    fn hear_of(&self, node: NodeId, addr: SocketAddr) {
        self.hear(Change::Node(Arc::new(row(node, addr))));
    }

    fn hear(&self, change: Change) {
        let changes = [change].into();
        assert!(self.hub.publish(self.hub.revision() + 1, changes));
    }

    async fn event(&mut self) -> PeerEvent {
        timeout(LONG, self.events.recv()).await.unwrap().unwrap()
    }

    /// The next event that is not about trouble.
    async fn calm_event(&mut self) -> PeerEvent {
        loop {
            match self.event().await {
                PeerEvent::Trouble { .. } => {}
                event => return event,
            }
        }
    }

    async fn up(&mut self) -> PeerSession {
        match self.calm_event().await {
            PeerEvent::Up(session) => session,
            other => panic!("{other:?}"),
        }
    }

    async fn down(&mut self) -> (NodeId, u64) {
        match self.calm_event().await {
            PeerEvent::Down { node, session } => (node, session),
            other => panic!("{other:?}"),
        }
    }

    async fn trouble(&mut self) -> String {
        match self.event().await {
            PeerEvent::Trouble { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    async fn message(&mut self) -> (u64, Bytes) {
        match self.calm_event().await {
            PeerEvent::Message { session, body, .. } => (session, body),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn row(id: NodeId, addr: SocketAddr) -> Node {
    Node {
        id,
        name: id.to_string(),
        role: Role::Worker,
        raft_id: 0,
        addr,
        data_path_addr: addr.ip(),
        underlay_mtu: 1500,
        host_routes: Vec::new(),
        ingress: None,
        availability: Availability::Active,
        status: NodeStatus::Ready,
        labels: Labels::new(),
        version: String::new(),
        revision: 1,
        addresses: Vec::new(),
        notices: Vec::new(),
        paths: BTreeMap::new(),
    }
}

/// All hear of all.
fn introduce(sites: &[&Site]) {
    for site in sites {
        for other in sites {
            site.hear_of(other.id, other.addr());
        }
    }
}

/// Two members, the one with the lower id first.
fn two() -> (Site, Site) {
    let [low, high] = &identities(2)[..] else {
        unreachable!()
    };
    (Site::new(low), Site::new(high))
}

/// Two that have a session.
async fn two_joined() -> (Site, PeerSession, Site, PeerSession) {
    let (mut low, mut high) = two();
    introduce(&[&low, &high]);
    low.want(&[&high]);
    high.want(&[&low]);
    let (at_low, at_high) = (low.up().await, high.up().await);
    (low, at_low, high, at_high)
}
