use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_secs(3);
const MS: Duration = Duration::from_millis(1);

fn link(lower: bool) -> Link {
    Link::new(lower, PATIENCE, 0)
}

fn addr(port: u16) -> Option<SocketAddr> {
    Some(([198, 18, 0, 1], port).into())
}

fn dialled_to(effects: &[Effect]) -> Option<(Number, u16)> {
    match effects {
        [.., Effect::Dial(number, addr)] => Some((*number, addr.port())),
        _ => None,
    }
}

#[test]
fn the_lower_id_dials_at_once_and_the_higher_one_when_it_has_waited() {
    let mut low = link(true);
    assert_eq!(low.deadline(), None);
    assert_eq!(dialled_to(&low.aim(MS, addr(1))), Some((1, 1)));
    let mut high = link(false);
    assert_eq!(high.aim(MS, addr(1)), []);
    assert_eq!(high.deadline(), Some(MS + PATIENCE));
    assert_eq!(high.tick(PATIENCE), []);
    assert_eq!(dialled_to(&high.tick(MS + PATIENCE)), Some((1, 1)));
}

#[test]
fn dials_that_fail_are_repeated_every_second_at_last() {
    let mut low = link(true);
    low.aim(MS, addr(1));
    let (mut now, mut pauses) = (MS, Vec::new());
    for number in 1..=8 {
        assert_eq!(low.failed(now, number), []);
        let due = low.deadline().unwrap();
        pauses.push((due - now).as_millis());
        now = due;
        assert_eq!(dialled_to(&low.tick(now)), Some((number + 1, 1)));
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000, 1000]);
}

#[test]
fn a_new_address_is_dialled_at_once_and_the_dial_to_the_old_one_is_given_up() {
    let mut low = link(true);
    low.aim(MS, addr(1));
    let expected = [Effect::Abandon(1), Effect::Dial(2, addr(2).unwrap())];
    assert_eq!(low.aim(MS, addr(2)), expected);
    // It had succeeded already.
    let late = [Effect::Close(1, Why::Superseded)];
    assert_eq!(low.dialled(MS, 1), late);
    assert_eq!(low.failed(MS, 2), []);
    assert_eq!(dialled_to(&low.aim(MS, addr(3))), Some((3, 3)));
}

#[test]
fn a_session_that_works_is_not_disturbed_by_another_address() {
    let mut low = link(true);
    low.aim(MS, addr(1));
    assert_eq!(low.dialled(MS, 1), [Effect::Up(1)]);
    assert_eq!(low.aim(MS, addr(2)), []);
    assert_eq!(low.session(), Some(1));
    let effects = low.lost(MS + LONGEST_PAUSE, 1);
    assert_eq!(effects[0], Effect::Down(1));
    assert_eq!(dialled_to(&effects), Some((2, 2)));
}

#[test]
fn sessions_that_do_not_last_are_not_begun_in_a_hurry() {
    let mut low = link(true);
    low.aim(MS, addr(1));
    let mut now = MS;
    for number in 1..=6 {
        assert_eq!(low.dialled(now, number), [Effect::Up(number)]);
        assert_eq!(low.lost(now, number), [Effect::Down(number)]);
        now = low.deadline().unwrap();
        assert_eq!(dialled_to(&low.tick(now)), Some((number + 1, 1)));
    }
    assert_eq!(now - MS, 2550 * MS);
}

#[test]
fn what_is_not_wanted_is_refused_and_ended() {
    let mut high = link(false);
    let refused = [Effect::Close(1, Why::NotWanted)];
    assert_eq!(high.accepted(MS), (1, refused.to_vec()));
    high.aim(MS, addr(1));
    assert_eq!(high.accepted(MS), (2, vec![Effect::Up(2)]));
    let ended = [Effect::Down(2), Effect::Close(2, Why::NotWanted)];
    assert_eq!(high.aim(MS, None), ended);
    assert_eq!(high.deadline(), None);
    assert_eq!(high.renew(MS), []);
}

/// Which of the two nodes.
type Side = usize;
const LOW: Side = 0;
const HIGH: Side = 1;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// The agent is killed and starts again.
    Restart(Side),
    Renew(Side),
    Want(Side, bool),
    /// What a side dials gets through, or not.
    Reach(Side, bool),
    /// The connections that there are break without a word.
    Break,
    /// Another address, which is as good as the one before.
    Move(Side),
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// An offer reaches the other side than the one that dialled.
    Offer(usize),
    Dialled(usize),
    Failed(usize),
    /// A side notices that a connection has ended.
    Lost(usize, Side),
    Tick(Side),
}

/// A connection, or an attempt at one.
#[derive(Clone, Debug)]
struct Wire {
    by: Side,
    numbers: [Option<Number>; 2],
    /// What each side is sent arrives in this order.
    latest: [Duration; 2],
    /// A side that knows nothing of it any more.
    gone: [bool; 2],
}

struct World {
    now: Duration,
    random: u64,
    links: [Link; 2],
    restarts: u64,
    port: u16,
    wanted: [bool; 2],
    reach: [bool; 2],
    wires: Vec<Wire>,
    up: [Option<usize>; 2],
    /// Sorted by time before it is looked at.
    queue: Vec<(Duration, usize, Event)>,
    sequence: usize,
    ups: usize,
}

impl World {
    fn new(random: u64) -> Self {
        Self {
            now: Duration::ZERO,
            random: random | 1,
            links: [link(true), link(false)],
            restarts: 0,
            port: 1,
            wanted: [false; 2],
            reach: [true; 2],
            wires: Vec::new(),
            up: [None; 2],
            queue: Vec::new(),
            sequence: 0,
            ups: 0,
        }
    }

    /// xorshift64: up to `most`.
    fn random(&mut self, most: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let most = most.as_micros() as u64 + 1;
        Duration::from_micros(self.random % most)
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push((time, self.sequence, event));
    }

    /// Sends something to a side of a connection.
    fn send(&mut self, wire: usize, to: Side, event: Event) {
        let delay = self.random(80 * MS);
        let time = (self.now + delay).max(self.wires[wire].latest[to]);
        self.wires[wire].latest[to] = time;
        self.at(time, event);
    }

    fn wire_of(&self, side: Side, number: Number) -> usize {
        let found = |wire: &Wire| wire.numbers[side] == Some(number);
        self.wires.iter().rposition(found).unwrap()
    }

    fn perform(&mut self, side: Side, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Dial(number, _) => {
                    let mut numbers = [None; 2];
                    numbers[side] = Some(number);
                    self.wires.push(Wire {
                        by: side,
                        numbers,
                        latest: [Duration::ZERO; 2],
                        gone: [false; 2],
                    });
                    let wire = self.wires.len() - 1;
                    if self.reach[side] {
                        self.send(wire, 1 - side, Event::Offer(wire));
                    } else {
                        self.at(self.now + 2000 * MS, Event::Failed(wire));
                    }
                }
                Effect::Abandon(number) => self.drop_wire(side, number),
                Effect::Up(number) => {
                    assert_eq!(self.up[side], None);
                    let wire = self.wire_of(side, number);
                    self.up[side] = Some(wire);
                    self.ups += 1;
                    if self.wires[wire].by != side {
                        self.send(wire, 1 - side, Event::Dialled(wire));
                    }
                }
                Effect::Down(number) => {
                    assert_eq!(self.up[side], Some(self.wire_of(side, number)));
                    self.up[side] = None;
                }
                Effect::Close(number, _) => {
                    assert_ne!(self.up[side], Some(self.wire_of(side, number)));
                    self.drop_wire(side, number);
                }
            }
        }
    }

    /// A side closes a connection, of which the other side hears.
    fn drop_wire(&mut self, side: Side, number: Number) {
        let wire = self.wire_of(side, number);
        self.wires[wire].gone[side] = true;
        self.send(wire, 1 - side, Event::Lost(wire, 1 - side));
    }

    fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Offer(wire) => {
                let to = 1 - self.wires[wire].by;
                if self.wires[wire].gone[to] {
                    return;
                }
                let (number, effects) = self.links[to].accepted(now);
                self.wires[wire].numbers[to] = Some(number);
                self.perform(to, effects);
            }
            Event::Dialled(wire) => {
                let Wire {
                    by, numbers, gone, ..
                } = self.wires[wire].clone();
                if !gone[by] {
                    let effects = self.links[by].dialled(now, numbers[by].unwrap());
                    self.perform(by, effects);
                }
            }
            Event::Failed(wire) => self.lose(wire, self.wires[wire].by),
            Event::Lost(wire, side) => self.lose(wire, side),
            Event::Tick(side) => {
                let effects = self.links[side].tick(now);
                self.perform(side, effects);
            }
        }
    }

    /// A side notices: a dial has failed, or a connection is lost.
    fn lose(&mut self, wire: usize, side: Side) {
        let lost = &mut self.wires[wire];
        let (number, knew) = (lost.numbers[side], lost.gone[side]);
        lost.gone[side] = true;
        if let (Some(number), false) = (number, knew) {
            let mut effects = self.links[side].failed(self.now, number);
            effects.extend(self.links[side].lost(self.now, number));
            self.perform(side, effects);
        }
    }

    fn run_until(&mut self, end: Duration) {
        loop {
            for side in [LOW, HIGH] {
                if let Some(due) = self.links[side].deadline() {
                    self.at(due.max(self.now), Event::Tick(side));
                }
            }
            let first = self.queue.iter().enumerate();
            let first = first.min_by_key(|(_, (time, sequence, _))| (*time, *sequence));
            match first.map(|(place, _)| place) {
                Some(place) if self.queue[place].0 <= end => {
                    let (time, _, event) = self.queue.swap_remove(place);
                    self.queue
                        .retain(|(_, _, event)| !matches!(event, Event::Tick(_)));
                    self.now = time.max(self.now);
                    self.handle(event);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn aim(&mut self, side: Side) {
        let target = if self.wanted[side] {
            addr(self.port)
        } else {
            None
        };
        let effects = self.links[side].aim(self.now, target);
        self.perform(side, effects);
    }

    fn operate(&mut self, op: Op) {
        match op {
            Op::Restart(side) => {
                self.restarts += 1;
                self.links[side] = Link::new(side == LOW, PATIENCE, self.restarts << 32);
                self.up[side] = None;
                for wire in 0..self.wires.len() {
                    if !std::mem::replace(&mut self.wires[wire].gone[side], true) {
                        let delay = self.random(1500 * MS);
                        self.at(self.now + delay, Event::Lost(wire, 1 - side));
                    }
                }
                self.aim(side);
            }
            Op::Renew(side) => {
                let effects = self.links[side].renew(self.now);
                self.perform(side, effects);
            }
            Op::Want(side, wanted) => {
                self.wanted[side] = wanted;
                self.aim(side);
            }
            Op::Reach(side, reach) => self.reach[side] = reach,
            Op::Break => {
                for wire in 0..self.wires.len() {
                    for side in [LOW, HIGH] {
                        let delay = self.random(1500 * MS);
                        self.at(self.now + delay, Event::Lost(wire, side));
                    }
                }
            }
            Op::Move(side) => {
                self.port += 1;
                self.aim(1 - side);
            }
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let side = || 0..2usize;
    prop_oneof![
        side().prop_map(Op::Restart),
        side().prop_map(Op::Renew),
        (side(), any::<bool>()).prop_map(|(side, wanted)| Op::Want(side, wanted)),
        (side(), any::<bool>()).prop_map(|(side, reach)| Op::Reach(side, reach)),
        Just(Op::Break),
        side().prop_map(Op::Move),
    ]
}

proptest! {
    #[test]
    fn of_dials_that_cross_the_lower_ones_counts(random in any::<u64>(), renews in 0..2usize) {
        let mut world = World::new(random);
        world.operate(Op::Reach(LOW, false));
        world.operate(Op::Want(LOW, true));
        world.operate(Op::Want(HIGH, true));
        world.run_until(6 * LONGEST_PAUSE);
        prop_assert!(world.up[LOW].is_some_and(|wire| world.wires[wire].by == HIGH));
        // From here on both get through, and both know nothing better than to dial at once.
        world.operate(Op::Reach(LOW, true));
        let (wires, ups) = (world.wires.len(), world.ups);
        world.operate(Op::Renew(renews));
        world.run_until(world.now + LONGEST_PAUSE);
        prop_assert!(world.up[LOW].is_some() && world.up[LOW] == world.up[HIGH]);
        // At most one session of each comes before the one that counts.
        prop_assert!(world.ups - ups <= 4, "{}", world.ups - ups);
        prop_assert!(world.wires.len() - wires <= 2, "{:?}", &world.wires[wires..]);
        let both = world.wires.len() - wires == 2;
        let by = world.up[LOW].map(|wire| world.wires[wire].by);
        prop_assert!(!both || by == Some(LOW));
    }

    #[test]
    fn whatever_happens_both_sides_settle_on_one_connection(
        random in any::<u64>(),
        ops in prop::collection::vec((0..2500u64, op()), 0..40),
        only in prop::option::of(0..2usize),
    ) {
        let mut world = World::new(random);
        for (pause, op) in ops {
            let end = world.now + Duration::from_millis(pause);
            world.run_until(end);
            world.operate(op);
        }
        for side in [LOW, HIGH] {
            world.operate(Op::Want(side, true));
            world.operate(Op::Reach(side, only.is_none_or(|only| only == side)));
        }
        world.run_until(world.now + 12 * LONGEST_PAUSE);
        let [low, high] = world.up;
        prop_assert!(low.is_some() && low == high, "{:?} {:?}", low, high);
        let ups = world.ups;
        world.run_until(world.now + 60 * LONGEST_PAUSE);
        prop_assert_eq!(world.up, [low, high]);
        prop_assert_eq!(world.ups, ups);
        // Nobody dials who has a session.
        prop_assert_eq!(world.links[LOW].deadline(), None);
        prop_assert_eq!(world.links[HIGH].deadline(), None);
        prop_assert_eq!((world.links[LOW].dial, world.links[HIGH].dial), (None, None));
        // It can be renewed as often as one likes.
        for side in [LOW, HIGH, HIGH] {
            world.operate(Op::Renew(side));
            world.run_until(world.now + 12 * LONGEST_PAUSE);
            prop_assert!(world.up[LOW].is_some() && world.up[LOW] == world.up[HIGH]);
            prop_assert!(world.up[LOW] != low);
        }
    }
}
