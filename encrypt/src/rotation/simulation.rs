//! Two peers with real associations over a channel that loses, repeats and reorders, with sessions
//! that are replaced, nodes that restart and actions that fail. A seed is a whole run.
//!
//! At every delivery: a packet sealed with a key that the receiving process has ever installed is
//! opened (or is a repetition). At every sealing: the receiver accepts that key now, and the
//! (key, sequence number) is new. In the end: both sides settle on one key for each direction.

mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::Refusal;
use crate::esp::{HEADROOM, TAILROOM};
use crate::keys::{KeyContext, NetworkClass, Party, SaKey, SessionSecret, derive};
use crate::sa::{InboundSa, Limits, OutboundSa};
use parts::{Node, Random};

/// Longest time that a message or packet is on its way; shorter than the drain time.
const TRANSIT_MS: u64 = 2_000;
const TIMING: Timing = Timing {
    retry: Duration::from_millis(200),
    drain: Duration::from_millis(TRANSIT_MS + 1_000),
    rekey_after: Duration::from_secs(20),
};
const PACKET_EVERY_MS: u64 = 20;
/// With faults, and with packets.
const FAULTY_MS: u64 = 120_000;
/// By when both must have settled afterwards.
const SETTLED_MS: u64 = FAULTY_MS + 120_000;

enum Event {
    /// A turn for the agreement's own timer.
    Timer,
    /// Something for the containers to send.
    Traffic,
    Session(SessionId),
    Restart,
    Status(Status),
    /// Process for which it was sealed, key, sequence number.
    Packet(u64, KeyId, u64, Vec<u8>),
    Installed(KeyId, bool),
    /// The new association is in place.
    Switching(KeyId, Spi),
    /// It is known to be, or it failed and the old one is back.
    Switched(KeyId, bool),
}

#[derive(Debug, Default)]
struct Tally {
    opened: u64,
    repeated: u64,
    to_a_dead_process: u64,
    switches: u64,
    restarts: u64,
}

struct World {
    random: Random,
    now: u64,
    events: BTreeMap<(u64, u64), (usize, u64, Event)>,
    order: u64,
    nodes: [Node; 2],
    sessions: u64,
    restarts: bool,
    sealed: BTreeSet<(usize, KeyId, u64)>,
    tally: Tally,
}

fn key(key: KeyId, sender: Party, receiver: Party) -> SaKey {
    let secret = SessionSecret::export(|out, _, _| {
        out[..8].copy_from_slice(&key.session.0.to_be_bytes());
        Ok::<(), ()>(())
    })
    .unwrap();
    let (class, epoch) = (NetworkClass(1), key.epoch);
    derive(
        &secret,
        &KeyContext {
            sender,
            receiver,
            class,
            epoch,
        },
    )
}

impl World {
    fn new(seed: u64, restarts: bool) -> Self {
        let mut world = Self {
            random: Random(seed),
            now: 0,
            events: BTreeMap::new(),
            order: 0,
            nodes: [1, 2].map(|number| Node::new(Party([number; 10]), 0, 0)),
            sessions: 0,
            restarts,
            sealed: BTreeSet::new(),
            tally: Tally::default(),
        };
        world.new_session();
        for node in 0..2 {
            world.at(0, node, Event::Traffic);
        }
        world
    }

    fn moment(&self) -> Moment {
        Moment(Duration::from_millis(self.now))
    }

    fn at(&mut self, time: u64, node: usize, event: Event) {
        self.order += 1;
        let process = self.nodes[node].process;
        self.events
            .insert((time.max(self.now), self.order), (node, process, event));
    }

    /// Both get to know of a new session, at different times, each in the same order.
    fn new_session(&mut self) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        for node in 0..2 {
            let time = self.now + self.random.below(3_000);
            let time = time.max(self.nodes[node].last_session_at + 1);
            self.nodes[node].last_session_at = time;
            self.at(time, node, Event::Session(session));
        }
    }

    /// The event gets there late, several times or never.
    fn transmit(&mut self, to: usize, lost: u64, make: impl Fn() -> Event) {
        if self.random.chance(lost) {
            return;
        }
        let copies = if self.random.chance(20) { 2 } else { 1 };
        for _ in 0..copies {
            let time = self.now + 1 + self.random.below(TRANSIT_MS);
            self.at(time, to, make());
        }
    }

    fn carry_out(&mut self, node: usize, actions: Vec<Action>) {
        // Failures end with the faulty time, so that there is something to converge to.
        let failing = if self.now < FAULTY_MS { 10 } else { 0 };
        for action in actions {
            let time = self.now + self.random.below(300);
            let success = !self.random.chance(failing);
            match action {
                Action::InstallInbound(key) => self.at(time, node, Event::Installed(key, success)),
                Action::RemoveInbound(key, spi) => {
                    assert_eq!(self.nodes[node].accepted.remove(&key), Some(spi));
                    self.nodes[node].inbound.remove(spi).unwrap();
                }
                Action::SwitchOutbound(key, spi) => {
                    self.at(time, node, Event::Switching(key, spi));
                    let known = time + self.random.below(300);
                    self.at(known, node, Event::Switched(key, success));
                }
                Action::Send(status) => self.transmit(1 - node, 30, || Event::Status(status)),
            }
        }
        let timer = self.nodes[node].rotation.poll_timeout();
        let timer = timer.map(|at| (at.0.as_millis() as u64).max(self.now + 1));
        if let Some(at) = timer.filter(|_| timer != self.nodes[node].timer) {
            self.at(at, node, Event::Timer);
        }
        self.nodes[node].timer = timer;
    }

    fn step(&mut self) {
        let ((time, _), (node, process, event)) = self.events.pop_first().unwrap();
        self.now = time;
        let now = self.moment();
        let network = matches!(event, Event::Packet(..) | Event::Traffic);
        if process != self.nodes[node].process && !network {
            return;
        }
        if matches!(event, Event::Timer) && self.nodes[node].timer != Some(time) {
            return;
        }
        let rotation = &mut self.nodes[node].rotation;
        let actions = match event {
            Event::Timer => rotation.handle_timeout(now),
            Event::Session(session) => rotation.handle_session(now, session),
            Event::Status(status) => rotation.handle_status(now, &status),
            Event::Installed(key, success) => self.installed(node, key, success),
            Event::Switching(key, spi) => self.switching(node, key, spi),
            Event::Switched(key, success) => self.switched(node, key, success),
            Event::Traffic => self.traffic(node),
            Event::Packet(process, key, sequence, packet) => {
                self.deliver(node, process, key, sequence, packet)
            }
            Event::Restart => self.restart(node),
        };
        self.carry_out(node, actions);
    }

    fn installed(&mut self, number: usize, id: KeyId, success: bool) -> Vec<Action> {
        let now = self.moment();
        let sender = self.nodes[1 - number].party;
        let node = &mut self.nodes[number];
        node.next_spi += 1;
        let spi = Spi::new(node.next_spi).unwrap();
        if !success {
            return node.rotation.handle_installed(now, id, None);
        }
        node.inbound
            .insert(InboundSa::new(spi, key(id, sender, node.party)))
            .unwrap();
        node.accepted.insert(id, spi);
        assert!(node.ever_accepted.insert(id), "a key is installed once");
        node.rotation.handle_installed(now, id, Some(spi))
    }

    fn switching(&mut self, number: usize, id: KeyId, spi: Spi) -> Vec<Action> {
        let limits = Limits::new((400, 1 << 20), (1 << 30, 1 << 30)).unwrap();
        let receiver = self.nodes[1 - number].party;
        let node = &mut self.nodes[number];
        let new = OutboundSa::new(spi, key(id, node.party, receiver), limits);
        node.replaced = node.outbound.replace((id, new));
        Vec::new()
    }

    fn switched(&mut self, number: usize, id: KeyId, success: bool) -> Vec<Action> {
        let now = self.moment();
        let node = &mut self.nodes[number];
        let old = node.replaced.take();
        if success {
            self.tally.switches += 1;
        } else {
            node.outbound = old;
        }
        node.rotation.handle_switched(now, id, success)
    }

    fn traffic(&mut self, number: usize) -> Vec<Action> {
        if self.now < FAULTY_MS {
            self.at(self.now + PACKET_EVERY_MS, number, Event::Traffic);
            if number == 0 && self.random.below(20_000) < PACKET_EVERY_MS {
                self.new_session();
            }
            if self.restarts && self.random.below(30_000) < PACKET_EVERY_MS {
                self.at(self.now, number, Event::Restart);
            }
        }
        let now = self.moment();
        let Some((key, sa)) = &mut self.nodes[number].outbound else {
            return Vec::new();
        };
        let (key, mut buffer) = (*key, [0x55; HEADROOM + 40 + TAILROOM]);
        let sealed = sa.seal(&mut buffer, HEADROOM..HEADROOM + 40).unwrap();
        assert!(
            self.sealed.insert((number, key, sealed.sequence)),
            "{key:?} nonce used twice"
        );
        let due = sealed.rekey.is_some();
        let peer = &self.nodes[1 - number];
        assert!(
            peer.accepted.contains_key(&key) || !peer.ever_accepted.contains(&key),
            "sealed with {key:?}, which the peer has given up"
        );
        assert!(
            peer.ever_accepted.contains(&key) || peer.process > 0,
            "{key:?} never installed"
        );
        let (process, packet) = (peer.process, buffer[sealed.packet].to_vec());
        self.transmit(1 - number, 5, || {
            Event::Packet(process, key, sealed.sequence, packet.clone())
        });
        if due {
            self.nodes[number].rotation.handle_rekey_due(now)
        } else {
            Vec::new()
        }
    }

    fn deliver(
        &mut self,
        number: usize,
        process: u64,
        key: KeyId,
        sequence: u64,
        mut packet: Vec<u8>,
    ) -> Vec<Action> {
        let node = &mut self.nodes[number];
        if process != node.process || !node.ever_accepted.contains(&key) {
            self.tally.to_a_dead_process += 1;
            return Vec::new();
        }
        match node.inbound.open(&mut packet) {
            Ok((spi, opened)) => {
                assert_eq!((node.accepted[&key], sequence), (spi, opened.sequence));
                self.tally.opened += 1;
            }
            Err(Refusal::Replayed) => self.tally.repeated += 1,
            Err(cause) => panic!("{key:?} number {sequence}: {cause}, at {}", self.now),
        }
        Vec::new()
    }

    fn restart(&mut self, number: usize) -> Vec<Action> {
        let Node {
            party,
            process,
            last_session_at,
            ..
        } = self.nodes[number];
        self.nodes[number] = Node::new(party, process + 1, last_session_at);
        self.tally.restarts += 1;
        self.new_session();
        Vec::new()
    }

    fn settled(&self) -> bool {
        let [a, b] = &self.nodes;
        a.rotation.is_settled() && b.rotation.is_settled()
    }

    fn run(seed: u64, restarts: bool) -> Tally {
        let mut world = Self::new(seed, restarts);
        // The packets under way are delivered as well; the agreement alone could go on forever.
        while world.now < FAULTY_MS + 2 * TRANSIT_MS || !world.settled() {
            assert!(world.now < SETTLED_MS, "seed {seed}: not settled");
            world.step();
        }
        for (number, node) in world.nodes.iter().enumerate() {
            let peer = &world.nodes[1 - number];
            let (key, _) = node.outbound.as_ref().unwrap();
            assert_eq!(node.rotation.outbound(), Some(*key), "seed {seed}");
            assert_eq!(
                key.session,
                SessionId(world.sessions),
                "seed {seed}: the newest session"
            );
            assert_eq!(
                peer.accepted.keys().collect::<Vec<_>>(),
                [key],
                "seed {seed}"
            );
        }
        world.tally
    }
}

#[test]
fn no_packet_is_lost_to_rekeying_and_both_sides_settle() {
    let mut sum = Tally::default();
    for seed in 0..40 {
        let tally = World::run(seed, false);
        assert_eq!(
            (tally.to_a_dead_process, tally.restarts),
            (0, 0),
            "seed {seed}"
        );
        assert!(
            tally.switches >= 10 && tally.opened > 9_000,
            "seed {seed}: {tally:?}"
        );
        sum.repeated += tally.repeated;
    }
    assert!(sum.repeated > 0, "the channel repeats");
}

#[test]
fn restarts_lose_no_packet_but_those_for_the_dead_process_and_use_no_nonce_again() {
    let mut restarts = 0;
    for seed in 1_000..1_040 {
        let tally = World::run(seed, true);
        assert!(
            tally.opened > tally.to_a_dead_process,
            "seed {seed}: {tally:?}"
        );
        restarts += tally.restarts;
    }
    assert!(restarts > 100, "{restarts} restarts");
}
