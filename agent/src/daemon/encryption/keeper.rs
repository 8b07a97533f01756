//! The task that looks after encrypted networks.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};
use weft_encrypt::esp::Spi;
use weft_encrypt::host::{Host, HostReport, HostSpec, Mode};
use weft_encrypt::kernel;
use weft_encrypt::mtu;
use weft_encrypt::path::{PathSpec, PathState, PortState, SaName};
use weft_encrypt::rotation::{Action, KeyId, Moment, Status, Timing};
use weft_raft::codec;
use weft_raft::control::ControlPlane;
use weft_raft::model::NodeId;
use weft_raft::peering::{PeerEvent, Peering};

use super::path::DataPath;
use super::peer::{Peer, Session};
use super::report::{EncryptionReport, PeerReport, Protection};
use super::{Numbered, Wanted};
use crate::config::Config;
use crate::daemon::dataplane::Dataplane;
use crate::dataplane::Place;
use crate::dataplane::wire::EspPath;

/// How often it is looked what host and data path are like although nothing was heard.
const LOOK: Duration = Duration::from_secs(2);
/// The same while something does not work.
const RETRY: Duration = Duration::from_millis(200);
/// The same while there is nothing to look after.
const IDLE: Duration = Duration::from_mins(1);
/// What does not work for that long does not only start.
const GRACE: Duration = Duration::from_secs(3);
/// Events that are taken in before anything else is looked at.
const MAX_BATCH: usize = 1024;
/// SPIs that are tried before it is said that there is none.
const SPI_TRIES: usize = 16;

/// See the module.
pub(super) struct Keeper {
    wanted: watch::Receiver<Numbered>,
    report: watch::Sender<Arc<EncryptionReport>>,
    peering: Peering,
    events: mpsc::Receiver<PeerEvent>,
    /// Whatever the process is, it may have become another one.
    processes: watch::Receiver<Arc<crate::daemon::dataplane::Report>>,
    host: Option<Host>,
    path: DataPath,
    run_dir: PathBuf,
    /// Something changed that the data path waits for.
    poked: Arc<Notify>,
    /// Counts what happened to ports of networks.
    ports: watch::Sender<u64>,
    timing: Timing,
    origin: Instant,
    random: SystemRandom,
    /// As it was read last.
    state: PathState,
    peers: BTreeMap<NodeId, Peer>,
    sessions: BTreeMap<NodeId, Session>,
    /// Why there is no session.
    troubles: BTreeMap<NodeId, String>,
    next_look: Instant,
    /// Since when the data path has carried nothing, and whether that was said.
    failing: Option<(Instant, bool)>,
    /// Since when a port of a network has not been open.
    waiting: Option<Instant>,
    /// How many connections to data paths there were when ports were last looked at.
    connections: u64,
}

/// The keeper's ends of what it and the rest of the agent tell one another.
pub(super) struct Ends {
    pub(super) wanted: watch::Receiver<Numbered>,
    pub(super) report: watch::Sender<Arc<EncryptionReport>>,
    pub(super) poked: Arc<Notify>,
    pub(super) ports: watch::Sender<u64>,
}

impl Keeper {
    pub(super) fn new(
        config: &Config,
        control: &ControlPlane,
        dataplane: &Dataplane,
        ends: Ends,
    ) -> Self {
        let peering = control.peering();
        Self {
            wanted: ends.wanted,
            report: ends.report,
            poked: ends.poked,
            ports: ends.ports,
            events: peering.events(),
            peering,
            processes: dataplane.reports(),
            host: None,
            path: DataPath::new(Place::new(&config.run_dir), dataplane.esp_need()),
            run_dir: config.run_dir.clone(),
            timing: Timing {
                rekey_after: config.encryption.rekey,
                ..Timing::default()
            },
            origin: Instant::now(),
            random: SystemRandom::new(),
            state: PathState::default(),
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            troubles: BTreeMap::new(),
            next_look: Instant::now(),
            failing: None,
            waiting: None,
            connections: 0,
        }
    }

    pub(super) async fn keep(mut self) {
        loop {
            let wakeup = self.wakeup();
            let mut look = false;
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => look = true,
                    Err(_) => return,
                },
                event = self.events.recv() => match event {
                    Some(event) => self.hear(event).await,
                    None => return,
                },
                changed = self.processes.changed() => look = changed.is_ok(),
                () = self.path.gone() => look = true,
                () = self.poked.notified() => look = true,
                () = sleep_until(wakeup) => {}
            }
            for _ in 0..MAX_BATCH {
                match self.events.try_recv() {
                    Ok(event) => self.hear(event).await,
                    Err(_) => break,
                }
            }
            if look || self.next_look <= Instant::now() {
                self.look().await;
            }
            self.pass_time().await;
            self.tell();
        }
    }

    fn wakeup(&self) -> Instant {
        let due = self
            .peers
            .values()
            .filter_map(|peer| peer.rotation.poll_timeout());
        let due = due.min().map(|moment| self.origin + moment.0);
        due.map_or(self.next_look, |due| due.min(self.next_look))
    }

    fn now(&self) -> Moment {
        Moment(self.origin.elapsed())
    }

    /// Makes host, data path and peers what they should be.
    async fn look(&mut self) {
        let Numbered { number, wanted } = self.wanted.borrow_and_update().clone();
        self.next_look = Instant::now() + LOOK;
        if number == 0 {
            return;
        }
        let mut report = (**self.report.borrow()).clone();
        report.number = number;
        let Some(wanted) = wanted else {
            self.look_for_nothing(&mut report);
            self.report.send_replace(Arc::new(report));
            return;
        };
        let choice = match &wanted.path {
            Ok(choice) => *choice,
            Err(error) => {
                report.closed = Err(error.clone());
                self.report.send_replace(Arc::new(report));
                return;
            }
        };
        report.path = Some(choice);
        let path = choice.path();
        self.peering
            .want(wanted.encryption.peers.keys().copied().collect());
        // Closed before anything can be opened.
        self.close(&wanted, path, &mut report);
        // Nobody has to wait for the rest.
        self.report.send_replace(Arc::new(report.clone()));
        match self.carry(&wanted, path).await {
            Ok(state) => {
                self.settle(&wanted, state).await;
                self.close(&wanted, path, &mut report);
                self.note_ports(&report);
                report.take(&self.state);
            }
            Err(error) => report.error = Some(error),
        }
        self.complain(report.error.as_ref());
        // What has failed for long is tried less often: it makes devices and sockets.
        let starts = |(since, _): (Instant, bool)| since.elapsed() <= GRACE;
        let waits = report.ports.values().any(|port| port.error.is_some());
        if waits {
            self.waiting.get_or_insert_with(Instant::now);
        } else {
            self.waiting = None;
        }
        let opens = self.waiting.is_some_and(|since| since.elapsed() <= GRACE);
        if report.closed.is_err() || self.failing.is_some_and(starts) || opens {
            self.next_look = Instant::now() + RETRY;
        }
        self.report.send_replace(Arc::new(report));
    }

    /// Has the data path carry what is wanted. Where a tunnel end has become another node's, the keys
    /// with the one that had it are erased first: they are nobody else's.
    async fn carry(&mut self, wanted: &Wanted, path: EspPath) -> Result<PathState, String> {
        let spec = &wanted.encryption.path;
        let had = |node: &NodeId, vtep: &IpAddr| {
            let mut peers = self.peers.iter();
            peers.any(|(other, peer)| other != node && peer.vtep == *vtep)
        };
        let ends = wanted.encryption.peers.iter();
        let inherited: Vec<&IpAddr> = ends
            .filter(|(node, vtep)| had(node, vtep))
            .map(|(_, vtep)| vtep)
            .collect();
        if !inherited.is_empty() {
            let mut without = spec.clone();
            without.peers.retain(|vtep, _| !inherited.contains(&vtep));
            self.path.want(&without, path).await?;
        }
        self.path.want(spec, path).await
    }

    /// Says when ports were opened, so that they are made ports of their bridges: also when another process
    /// has them.
    fn note_ports(&mut self, before: &EncryptionReport) {
        let opened = |port: &PortState| (port.error.is_none(), port.opened);
        let is_new = |(vni, port): (&u32, &PortState)| {
            port.error.is_none() && before.ports.get(vni).map(opened) != Some(opened(port))
        };
        let connections = self.path.connections();
        let another = connections != std::mem::replace(&mut self.connections, connections);
        let ports = &self.state.ports;
        if (another && !ports.is_empty()) || ports.iter().any(is_new) {
            self.ports.send_modify(|count| *count += 1);
        }
    }

    /// Says so once when the data path does not carry anything, and not only because it starts.
    fn complain(&mut self, error: Option<&String>) {
        let Some(error) = error else {
            self.failing = None;
            return;
        };
        let (since, said) = self.failing.get_or_insert((Instant::now(), false));
        if !*said && since.elapsed() > GRACE {
            warn!(error, "encrypted networks are not carried");
            *said = true;
        }
    }

    fn look_for_nothing(&mut self, report: &mut EncryptionReport) {
        self.peering.want(Default::default());
        self.path.want_nothing();
        self.peers.clear();
        self.troubles.clear();
        self.state = PathState::default();
        let number = report.number;
        *report = EncryptionReport::default();
        report.number = number;
        self.next_look = Instant::now() + IDLE;
        // A process that has ended cannot be told that its keys in the kernel are nobody's.
        let left = block_in_place(|| kernel::remove_left(&self.run_dir));
        let left = left.map_err(|error| error.to_string());
        let host = self.reconcile_host(None).map(drop);
        if let Err(error) = left.and(host) {
            debug!(
                error,
                "what encrypted networks needed of the host could not be removed"
            );
            self.next_look = Instant::now() + LOOK;
        }
    }

    /// Sees to it that nothing leaves or comes in clear.
    fn close(&mut self, wanted: &Wanted, path: EspPath, report: &mut EncryptionReport) {
        let closed = host_spec(&wanted.encryption.path, path)
            .and_then(|spec| self.reconcile_host(Some(&spec)));
        match closed {
            Ok(host) => {
                report.clear_dropped = (host.dropped_in, host.dropped_out);
                report.closed = Ok(Some(super::Place::of(&wanted.encryption.path)));
            }
            Err(error) => {
                if report.closed.as_ref().err() != Some(&error) {
                    warn!(error, "the host cannot be made safe for encrypted networks");
                }
                report.closed = Err(error);
            }
        }
    }

    fn reconcile_host(&mut self, spec: Option<&HostSpec>) -> Result<HostReport, String> {
        block_in_place(|| {
            let mut host = match self.host.take() {
                Some(host) => host,
                None => Host::open().map_err(|error| error.to_string())?,
            };
            let report = host.reconcile(spec).map_err(|error| error.to_string())?;
            self.host = Some(host);
            Ok(report)
        })
    }

    /// Goes on with what the data path holds, or begins anew where it holds nothing.
    async fn settle(&mut self, wanted: &Wanted, state: PathState) {
        self.peers
            .retain(|node, _| wanted.encryption.peers.contains_key(node));
        self.troubles
            .retain(|node, _| wanted.encryption.peers.contains_key(node));
        self.state = state;
        for (node, vtep) in &wanted.encryption.peers {
            let known = self.peers.get(node);
            if known.is_some_and(|peer| peer.vtep == *vtep && peer.is_held(&self.state)) {
                continue;
            }
            // A session that is not wanted for a moment only may outlast that.
            let is_used = self.sessions.get(node).is_some_and(Session::is_used);
            let lost = known.is_some() || is_used;
            let peer = Peer::adopt(*vtep, self.timing, &self.state);
            self.peers.insert(*node, peer);
            if lost {
                // What the session gave is used up: only another secret gives other keys.
                info!(%node, "the keys with it are gone; agreeing on new ones");
                self.sessions.remove(node);
                self.peering.renew(*node);
            } else {
                self.take_up(*node).await;
            }
        }
        let peers = self.peers.iter();
        let left: Vec<SaName> = peers
            .flat_map(|(_, peer)| peer.leftovers(&self.state))
            .collect();
        for name in left {
            self.remove(name.spi).await;
        }
        let due = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.is_due(&self.state));
        let due: Vec<NodeId> = due.map(|(node, _)| *node).collect();
        for node in due {
            self.with(node, |peer, now| peer.rotation.handle_rekey_due(now))
                .await;
        }
    }

    /// Something of a peer's session.
    async fn hear(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Up(link) => {
                let node = link.node;
                match Session::of(link) {
                    Ok(session) => {
                        self.troubles.remove(&node);
                        self.sessions.insert(node, session);
                        self.take_up(node).await;
                    }
                    Err(why) => drop(self.troubles.insert(node, why)),
                }
            }
            PeerEvent::Message {
                node,
                session,
                body,
            } => {
                if self
                    .sessions
                    .get(&node)
                    .is_none_or(|known| known.link.id != session)
                {
                    return;
                }
                match codec::decode::<Status>(&body) {
                    Ok(status) => {
                        self.with(node, |peer, now| peer.rotation.handle_status(now, &status))
                            .await;
                    }
                    Err(error) => debug!(%node, %error, "a message about keys cannot be read"),
                }
            }
            PeerEvent::Down { node, session } => {
                if self
                    .sessions
                    .get(&node)
                    .is_some_and(|known| known.link.id == session)
                {
                    self.sessions.remove(&node);
                    let why = "the session with its agent has ended".to_owned();
                    self.troubles.insert(node, why);
                }
            }
            PeerEvent::Trouble { node, why } => drop(self.troubles.insert(node, why)),
        }
    }

    /// A peer and its session have come together.
    async fn take_up(&mut self, node: NodeId) {
        if !self.peers.contains_key(&node) {
            return;
        }
        let Some(id) = self.sessions.get_mut(&node).map(Session::take_up) else {
            return;
        };
        self.with(node, |peer, now| peer.rotation.handle_session(now, id))
            .await;
    }

    /// What is to be done after some time.
    async fn pass_time(&mut self) {
        let now = self.now();
        let due = |peer: &Peer| peer.rotation.poll_timeout().is_some_and(|at| at <= now);
        let due = self.peers.iter().filter(|(_, peer)| due(peer));
        let due: Vec<NodeId> = due.map(|(node, _)| *node).collect();
        for node in due {
            self.with(node, |peer, now| peer.rotation.handle_timeout(now))
                .await;
        }
    }

    /// Feeds a peer's agreement and does what it says.
    async fn with(&mut self, node: NodeId, feed: impl FnOnce(&mut Peer, Moment) -> Vec<Action>) {
        let now = self.now();
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        let vtep = peer.vtep;
        let mut actions = VecDeque::from(feed(peer, now));
        while let Some(action) = actions.pop_front() {
            let further = match action {
                Action::InstallInbound(key) => {
                    let spi = self.install(node, vtep, key).await;
                    let now = self.now();
                    self.peers
                        .get_mut(&node)
                        .map(|peer| peer.rotation.handle_installed(now, key, spi))
                }
                Action::SwitchOutbound(key, spi) => {
                    let switched = self
                        .switch(
                            node,
                            SaName {
                                peer: vtep,
                                key,
                                spi,
                            },
                        )
                        .await;
                    let now = self.now();
                    self.peers.get_mut(&node).map(|peer| {
                        if switched {
                            peer.switched = Some(Instant::now());
                        }
                        peer.rotation.handle_switched(now, key, switched)
                    })
                }
                Action::RemoveInbound(_, spi) => {
                    self.remove(spi).await;
                    None
                }
                Action::Send(status) => {
                    self.send(node, &status);
                    None
                }
            };
            actions.extend(further.into_iter().flatten());
        }
    }

    async fn install(&mut self, node: NodeId, vtep: IpAddr, key: KeyId) -> Option<Spi> {
        let own = self.wanted.borrow().wanted.as_ref()?.node;
        let material = self.sessions.get(&node)?.key(node, own, key)?;
        let spi = self.free_spi()?;
        let name = SaName {
            peer: vtep,
            key,
            spi,
        };
        match self.path.install_inbound(name, &material).await {
            Ok(()) => Some(spi),
            Err(error) => {
                debug!(%node, error, "a key could not be installed");
                None
            }
        }
    }

    async fn switch(&mut self, node: NodeId, name: SaName) -> bool {
        let own = self
            .wanted
            .borrow()
            .wanted
            .as_ref()
            .map(|wanted| wanted.node);
        let session = self.sessions.get(&node).zip(own);
        let Some(material) = session.and_then(|(session, own)| session.key(own, node, name.key))
        else {
            return false;
        };
        let switched = self.path.switch_outbound(name, &material).await;
        match &switched {
            Ok(()) => debug!(%node, epoch = name.key.epoch.0, "sealing with another key"),
            Err(error) => debug!(%node, error, "a key could not be switched to"),
        }
        switched.is_ok()
    }

    async fn remove(&mut self, spi: Spi) {
        // What is left is found at the next look.
        if let Err(error) = self.path.remove_inbound(spi).await {
            debug!(%spi, error, "a key could not be removed yet");
        }
    }

    fn send(&self, node: NodeId, status: &Status) {
        let session = self.sessions.get(&node);
        let Some(session) = session.filter(|session| session.id() == status.session) else {
            return;
        };
        match codec::encode(status) {
            // What is lost is said again.
            Ok(body) => drop(session.link.send(body.into())),
            Err(error) => warn!(%node, %error, "a message about keys cannot be written"),
        }
    }

    fn free_spi(&self) -> Option<Spi> {
        (0..SPI_TRIES).find_map(|_| {
            let mut bytes = [0; 4];
            self.random.fill(&mut bytes).ok()?;
            let spi = Spi::new(u32::from_be_bytes(bytes))?;
            let mut taken = self.state.inbound.iter();
            (!taken.any(|sa| sa.name.spi == spi)).then_some(spi)
        })
    }

    /// What everybody may know.
    fn tell(&self) {
        let troubles = &self.troubles;
        let report =
            |(node, peer): (&NodeId, &Peer)| (*node, peer.report(&self.state, troubles.get(node)));
        let mut peers: BTreeMap<_, _> = self.peers.iter().map(report).collect();
        if let Some(wanted) = &self.wanted.borrow().wanted {
            let clashing = wanted.encryption.clashing.iter();
            peers.extend(clashing.map(|(node, vtep)| (*node, PeerReport::clashing(*vtep))));
        }
        self.report.send_if_modified(|now| {
            for (node, peer) in &peers {
                let before = now.peers.get(node).map(|peer| &peer.protection);
                match &peer.protection {
                    same if before == Some(same) => {}
                    Protection::Protected => info!(%node, "traffic with it is protected"),
                    Protection::Blocked(why) => info!(%node, why, "traffic with it is blocked"),
                }
            }
            let changed = now.peers != peers;
            if changed {
                Arc::make_mut(now).peers = peers;
            }
            changed
        });
    }
}

/// What the host has to be for a data path.
fn host_spec(spec: &PathSpec, path: EspPath) -> Result<HostSpec, String> {
    let (family, around) = match spec.local {
        IpAddr::V4(_) => (mtu::Family::V4, 50),
        IpAddr::V6(_) => (mtu::Family::V6, 70),
    };
    let endpoint =
        mtu::endpoint_mtu(spec.underlay_mtu, family).map_err(|error| error.to_string())?;
    let peers = spec.peers.iter();
    Ok(HostSpec {
        mode: match path {
            EspPath::Userspace => Mode::Userspace,
            EspPath::Kernel => Mode::Kernel,
        },
        inner_port: spec.inner_port,
        local: spec.local,
        tap_mtu: endpoint + around,
        allowed: peers
            .map(|(vtep, peer)| (*vtep, peer.networks.clone()))
            .collect(),
    })
}
