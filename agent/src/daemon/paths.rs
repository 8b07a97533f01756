//! What the paths to the nodes that networks are shared with really carry, told to the cluster in
//! this node's row where it is less than the devices at both ends: the MTU of those networks then
//! follows it, and a path on which long packets vanish hangs no connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use weft_overlay::host::{EchoSocket, PathSearch, mtu_to};
use weft_raft::command::{Command, NodeChange};
use weft_raft::control::ControlPlane;
use weft_raft::model::{Change, Node, NodeId, View};
use weft_raft::watch::WatchItem;

/// Which nodes there are to be looked at is found anew at most so often.
const PAUSE: Duration = Duration::from_secs(1);
/// The routes to all of them are looked at again this often.
const LOOK: Duration = Duration::from_secs(10);
/// How long the cluster may take to hear of it.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);
/// An echo socket that could not be opened is tried again after this.
const RETRY: Duration = Duration::from_secs(30);

/// Keeps the narrow paths in this node's row true until `stop`.
pub(super) async fn keep(control: ControlPlane, stop: CancellationToken) {
    tokio::select! {
        () = keep_on(control) => {}
        () = stop.cancelled() => {}
    }
}

async fn keep_on(control: ControlPlane) {
    let mut subscription = control.subscribe();
    let mut cookie = [0; 8];
    if SystemRandom::new().fill(&mut cookie).is_err() {
        warn!("paths are not tried out: the system's random source does not answer");
        return;
    }
    let mut keeper = Keeper::new(control, u64::from_be_bytes(cookie));
    let mut look = Instant::now();
    let mut looked = look;
    loop {
        let next = keeper.next().min(look);
        tokio::select! {
            item = subscription.next() => match item {
                Some(item) if concerns(&item) => {
                    look = look.min(Instant::now().max(looked + PAUSE));
                }
                Some(_) => {}
                None => return,
            },
            (from, size) = keeper.answer() => keeper.answered(from, size),
            () = tokio::time::sleep_until(next) => {}
        }
        if Instant::now() >= look {
            keeper.look().await;
            looked = Instant::now();
            look = looked + LOOK;
        }
        keeper.ask();
        keeper.tell();
    }
}

/// Whether it changes which paths are used.
fn concerns(item: &WatchItem) -> bool {
    let WatchItem::Changes { changes, .. } = item else {
        return true;
    };
    { changes.iter() }.any(|change| !matches!(change, Change::Service(_) | Change::ServiceGone(_)))
}

struct Keeper {
    control: ControlPlane,
    started: Instant,
    cookie: u64,
    socket: Option<(IpAddr, EchoSocket)>,
    /// When a socket is tried to be opened again.
    retry: Instant,
    paths: BTreeMap<NodeId, Path>,
    /// A change that the cluster is being told of, and since when.
    telling: Option<(BTreeMap<NodeId, u32>, Instant)>,
}

struct Path {
    end: IpAddr,
    /// What the devices at both ends carry.
    devices: u32,
    /// What the kernel makes of routes and of what routers have said; none: there is no route.
    route: Option<u32>,
    search: PathSearch,
}

impl Path {
    /// What it carries, if that is less than the devices do.
    fn narrow(&self) -> Option<u32> {
        let known = [self.route, self.search.found()];
        let carried = known.into_iter().flatten().min()?;
        (carried < self.devices).then_some(carried)
    }
}

impl Keeper {
    fn new(control: ControlPlane, cookie: u64) -> Self {
        Self {
            control,
            started: Instant::now(),
            cookie,
            socket: None,
            retry: Instant::now(),
            paths: BTreeMap::new(),
            telling: None,
        }
    }

    /// When something is to be asked for.
    fn next(&self) -> Instant {
        let searches = self.paths.values().map(|path| path.search.next());
        match (searches.min(), &self.socket) {
            (Some(next), Some(_)) => self.started + next,
            _ => Instant::now() + LOOK,
        }
    }

    async fn answer(&mut self) -> (IpAddr, u32) {
        loop {
            let Some((_, socket)) = &mut self.socket else {
                return std::future::pending().await;
            };
            match socket.answer().await {
                Ok(answer) => return answer,
                // What a router said of a request: it is lost, and the search counts on that.
                Err(error) => {
                    debug!(%error, "no answer to an echo request");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn answered(&mut self, from: IpAddr, size: u32) {
        let now = self.started.elapsed();
        for path in self.paths.values_mut() {
            if path.end.to_canonical() == from {
                path.search.answered(now, size);
            }
        }
    }

    /// Finds out which paths there are, and what is known of them without asking.
    async fn look(&mut self) {
        let Some((here, peers)) = self.with_row(|view, here| (here.clone(), peers(view, here)))
        else {
            self.paths.clear();
            return;
        };
        self.paths
            .retain(|node, _| peers.iter().any(|peer| peer.id == *node));
        for peer in peers {
            let end = peer.data_path_addr;
            let devices = here.underlay_mtu.min(peer.underlay_mtu);
            let route = match mtu_to(end).await {
                Ok(route) => route,
                Err(error) => {
                    debug!(%error, "the route to a node could not be looked up");
                    None
                }
            };
            let top = route.unwrap_or(devices).min(devices);
            let new = || Path {
                end,
                devices,
                route,
                search: PathSearch::new(base(end).min(top), top),
            };
            let path = self.paths.entry(peer.id).or_insert_with(new);
            if path.end != end {
                *path = new();
            }
            path.devices = devices;
            path.route = route;
            path.search.set_top(top);
        }
        self.open(here.data_path_addr);
    }

    /// What is asked of the cluster's rows and this node's; `None` when it is in no cluster.
    fn with_row<R>(&self, ask: impl FnOnce(&View, &Arc<Node>) -> R) -> Option<R> {
        let member = self.control.membership()?;
        self.control
            .with_view(|view| view.nodes.get(&member.node).map(|here| ask(view, here)))
    }

    /// Opens the socket where it is needed, and closes it where it is not.
    fn open(&mut self, local: IpAddr) {
        let now = Instant::now();
        if self.paths.is_empty() || self.socket.as_ref().is_some_and(|(at, _)| *at != local) {
            self.socket = None;
        }
        if self.paths.is_empty() || self.socket.is_some() || now < self.retry {
            return;
        }
        match EchoSocket::open(local, self.cookie) {
            Ok(socket) => self.socket = Some((local, socket)),
            Err(error) => {
                self.retry = now + RETRY;
                warn!(
                    %local, %error,
                    "paths cannot be tried out: no socket for echo requests; only what routers say is heard"
                );
            }
        }
    }

    fn ask(&mut self) {
        let now = self.started.elapsed();
        let Some((_, socket)) = &self.socket else {
            return;
        };
        for path in self.paths.values_mut() {
            for size in path.search.poll(now) {
                socket.ask(path.end, size);
            }
        }
    }

    /// Tells the cluster what its row of this node does not say.
    fn tell(&mut self) {
        let Some(here) = self.with_row(|_, here| here.clone()) else {
            return;
        };
        let narrow = self.paths.iter();
        let narrow = narrow.filter_map(|(node, path)| Some((*node, path.narrow()?)));
        let narrow: BTreeMap<NodeId, u32> = narrow.collect();
        if narrow == here.paths {
            self.telling = None;
            return;
        }
        let again = |(told, at): &(_, Instant)| *told != narrow || at.elapsed() > TELL_TIMEOUT;
        if !self.telling.as_ref().is_none_or(again) {
            return;
        }
        info!(
            ?narrow,
            "paths that carry less than the devices at their ends: networks get a smaller MTU"
        );
        self.telling = Some((narrow.clone(), Instant::now()));
        let control = self.control.clone();
        let command = Command::UpdateNode {
            id: here.id,
            change: Box::new(NodeChange {
                paths: Some(narrow),
                ..NodeChange::default()
            }),
        };
        tokio::spawn(async move {
            if let Err(error) = control.propose(command, TELL_TIMEOUT).await {
                debug!(%error, "the cluster could not be told of narrow paths");
            }
        });
    }
}

/// The other nodes that something is sent to: those that a network is shared with, and, where a port
/// is published, all, for the ingress network.
fn peers(view: &View, here: &Node) -> Vec<Arc<Node>> {
    let endpoints = view.endpoints.values();
    let own = endpoints.clone().filter(|row| row.node == here.id);
    let networks: BTreeSet<_> = own.map(|row| row.network).collect();
    let published = view.services.values().any(|row| !row.ports.is_empty());
    let sharing: BTreeSet<NodeId> = endpoints
        .filter(|row| networks.contains(&row.network))
        .map(|row| row.node)
        .collect();
    let is_peer = |node: &&Arc<Node>| {
        node.id != here.id
            && (published || sharing.contains(&node.id))
            && node.data_path_addr.is_ipv4() == here.data_path_addr.is_ipv4()
    };
    view.nodes.values().filter(is_peer).cloned().collect()
}

/// What any path carries, in bytes: of IPv6 what is demanded (RFC 8200 section 5), of IPv4 what every
/// host takes (RFC 791 section 3.1).
fn base(end: IpAddr) -> u32 {
    match end {
        IpAddr::V4(_) => 576,
        IpAddr::V6(_) => 1280,
    }
}
