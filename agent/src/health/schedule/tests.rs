use std::net::Ipv4Addr;

use proptest::collection::vec;
use proptest::prelude::*;
use weft_overlay::NetnsRef;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const WIDE: Limits = Limits {
    network: 1000,
    exec: 1000,
};

fn tcp(interval: Duration, retries: u16) -> Target {
    Target {
        netns: NetnsRef {
            path: "/run/netns/x".into(),
            device: 4,
            inode: 1,
        },
        address: Ipv4Addr::new(10, 0, 1, 2).into(),
        check: Check {
            probe: Probe::Tcp { port: 80 },
            interval,
            timeout: interval,
            retries,
        },
    }
}

fn exec(interval: Duration) -> Target {
    let mut target = tcp(interval, 1);
    target.check.probe = Probe::Exec {
        command: vec!["true".to_owned()],
    };
    target
}

fn targets(each: impl IntoIterator<Item = (usize, Target)>) -> BTreeMap<String, Target> {
    let named = each.into_iter().map(|(n, target)| (name(n), target));
    named.collect()
}

fn name(number: usize) -> String {
    format!("endpoint{number}")
}

/// A schedule with its clock. Probes take no time.
struct Bench {
    schedule: Schedule,
    origin: Instant,
    now: Instant,
}

impl Bench {
    fn new(limits: Limits, all: BTreeMap<String, Target>) -> Self {
        let origin = Instant::now();
        let mut schedule = Schedule::new(origin, 7, limits);
        schedule.set(origin, all);
        Self {
            schedule,
            origin,
            now: origin,
        }
    }

    fn set(&mut self, all: BTreeMap<String, Target>) {
        self.schedule.set(self.now, all);
    }

    /// The next probe, at whatever time it starts.
    fn start(&mut self) -> Start {
        self.now = self.now.max(self.schedule.wakeup().unwrap());
        self.schedule.start(self.now).unwrap()
    }

    fn finish(&mut self, start: &Start, good: bool) -> Option<Verdict> {
        let outcome = if good { Ok(()) } else { Err("bad".to_owned()) };
        self.schedule.finish(self.now, start.run, outcome)
    }

    /// The next probe, with its time since the beginning and what came of it.
    fn step(&mut self, good: bool) -> (Duration, Option<bool>) {
        let start = self.start();
        let verdict = self.finish(&start, good);
        (self.now - self.origin, verdict.map(|v| v.healthy))
    }
}

#[test]
fn a_new_endpoint_is_probed_at_once_and_healthy_with_the_first_success() {
    let mut bench = Bench::new(WIDE, targets([(1, tcp(SECOND, 3))]));
    let start = bench.start();
    assert_eq!(
        (bench.now, start.endpoint.as_str()),
        (bench.origin, "endpoint1")
    );
    let verdict = bench.finish(&start, true).unwrap();
    assert_eq!(
        verdict,
        Verdict {
            endpoint: name(1),
            healthy: true,
            reason: None
        }
    );
    assert_eq!(bench.step(true).1, None);
}

#[test]
fn after_the_first_success_probes_are_an_interval_apart() {
    let mut bench = Bench::new(WIDE, targets([(1, tcp(SECOND, 3))]));
    bench.step(true);
    let times: Vec<Duration> = (0..5).map(|_| bench.step(true).0).collect();
    assert!(times[0] <= SECOND, "{times:?}");
    assert!(
        times.windows(2).all(|pair| pair[1] - pair[0] == SECOND),
        "{times:?}"
    );
}

#[test]
fn a_healthy_endpoint_becomes_unhealthy_by_its_retries_in_a_row() {
    let mut bench = Bench::new(WIDE, targets([(1, tcp(SECOND, 3))]));
    let script = [
        true, false, false, true, false, false, false, false, true, false,
    ];
    let told: Vec<Option<bool>> = script.iter().map(|good| bench.step(*good).1).collect();
    let mut expected = [None; 10];
    (expected[0], expected[6], expected[8]) = (Some(true), Some(false), Some(true));
    assert_eq!(told, expected);
}

#[test]
fn the_reason_of_the_last_failure_is_told() {
    let mut bench = Bench::new(WIDE, targets([(1, tcp(SECOND, 1))]));
    let start = bench.start();
    let verdict = bench.finish(&start, false).unwrap();
    assert_eq!(
        (verdict.healthy, verdict.reason.as_deref()),
        (false, Some("bad"))
    );
}

#[test]
fn an_endpoint_that_starts_slowly_is_looked_at_often_but_not_called_unhealthy_early() {
    let mut bench = Bench::new(WIDE, targets([(1, tcp(10 * SECOND, 2))]));
    let quick: Vec<(Duration, Option<bool>)> = (0..7).map(|_| bench.step(false)).collect();
    let times: Vec<Duration> = quick.iter().map(|(at, _)| *at).collect();
    let expected = [0, 100, 300, 700, 1500, 3100, 6300].map(|ms| MS * ms);
    assert_eq!(times, expected);
    assert!(quick.iter().all(|(_, told)| told.is_none()), "{quick:?}");
    let (at, told) = bench.step(false);
    assert_eq!((at, told), (12_700 * MS, Some(false)));
    // In its rhythm from now on.
    let (first, _) = bench.step(false);
    let (second, _) = bench.step(false);
    assert_eq!(second - first, 10 * SECOND);
    assert_eq!(bench.step(true).1, Some(true));
}

#[test]
fn what_changed_meanwhile_is_looked_at_anew_and_the_old_result_ignored() {
    let mut bench = Bench::new(WIDE, targets([(1, tcp(SECOND, 1))]));
    assert_eq!(bench.step(true).1, Some(true));
    let old = bench.start();
    bench.set(targets([(1, tcp(2 * SECOND, 1))]));
    let new = bench.start();
    assert_eq!(new.target.check.interval, 2 * SECOND);
    assert_eq!(bench.finish(&old, false), None);
    assert!(bench.finish(&new, true).unwrap().healthy);
    // A second result of one run is none.
    assert_eq!(bench.finish(&new, false), None);
}

#[test]
fn an_endpoint_that_stays_the_same_keeps_its_rhythm_when_others_come_and_go() {
    let mut bench = Bench::new(WIDE, targets([(1, tcp(SECOND, 1))]));
    bench.step(true);
    let wakeup = bench.schedule.wakeup();
    bench.set(targets([(1, tcp(SECOND, 1)), (2, tcp(SECOND, 1))]));
    assert_eq!(bench.step(true).1, Some(true));
    bench.set(targets([(1, tcp(SECOND, 1))]));
    assert_eq!(bench.schedule.wakeup(), wakeup);
    bench.set(BTreeMap::new());
    assert_eq!(bench.schedule.wakeup(), None);
}

#[test]
fn an_endpoint_that_went_while_it_was_probed_tells_nothing() {
    let mut bench = Bench::new(WIDE, targets([(1, tcp(SECOND, 1))]));
    let start = bench.start();
    bench.set(BTreeMap::new());
    assert_eq!(bench.finish(&start, true), None);
    assert_eq!(bench.schedule.wakeup(), None);
}

#[test]
fn a_full_lane_delays_and_counts_and_leaves_the_other_one_alone() {
    let limits = Limits {
        network: 2,
        exec: 1,
    };
    let all = targets(
        [1, 2, 3]
            .map(|n| (n, exec(SECOND)))
            .into_iter()
            .chain([(4, tcp(SECOND, 1))]),
    );
    let mut bench = Bench::new(limits, all);
    bench.now += SECOND;
    let now = bench.now;
    let started: Vec<Start> = std::iter::from_fn(|| bench.schedule.start(now)).collect();
    assert_eq!(started.len(), 2);
    assert_eq!(bench.schedule.wakeup(), None);
    let running = started
        .iter()
        .find(|start| start.endpoint != name(4))
        .unwrap();
    bench.now += 30 * SECOND;
    bench.finish(running, true);
    let next = bench.start();
    assert_ne!(next.endpoint, running.endpoint);
    let counters = bench.schedule.counters();
    assert_eq!(
        counters,
        Counters {
            started: 3,
            delayed: 1
        }
    );
}

#[test]
fn hundreds_that_come_together_do_not_fire_together() {
    let count = 500;
    let mut bench = Bench::new(WIDE, targets((0..count).map(|n| (n, tcp(10 * SECOND, 3)))));
    let first: Vec<Start> = (0..count).map(|_| bench.start()).collect();
    assert_eq!(bench.now - bench.origin, SPACING * (count as u32 - 1));
    for start in &first {
        bench.finish(start, true);
    }
    let mut times: Vec<Duration> = (0..2 * count).map(|_| bench.step(true).0).collect();
    // Two rounds, and in any half second of them about a twentieth of a round.
    let mut busiest = 0;
    while let Some(from) = times.first().copied() {
        busiest = busiest.max(
            times
                .iter()
                .take_while(|at| **at < from + SECOND / 2)
                .count(),
        );
        times.remove(0);
    }
    assert!(
        busiest < count / 10,
        "{busiest} of {count} within half a second"
    );
}

#[test]
fn another_seed_gives_other_times() {
    let rhythm = |seed| {
        let origin = Instant::now();
        let mut schedule = Schedule::new(origin, seed, WIDE);
        schedule.set(origin, targets([(1, tcp(SECOND, 1))]));
        let start = schedule.start(origin).unwrap();
        schedule.finish(origin, start.run, Ok(()));
        schedule.wakeup().unwrap() - origin
    };
    assert_eq!(rhythm(1), rhythm(1));
    assert_ne!(rhythm(1), rhythm(2));
}

#[test]
fn the_next_point_is_after_now_and_in_phase() {
    let origin = Instant::now();
    for (now, expected) in [(0, 3), (2, 3), (3, 13), (12, 13), (13, 23), (1003, 1013)] {
        let next = next_point(origin, origin + SECOND * now, SECOND * 10, 3_000_000_000);
        assert_eq!(next, origin + SECOND * expected, "{now}");
    }
}

/// What can happen to a schedule.
#[derive(Clone, Debug)]
enum Act {
    /// Each endpoint's target, by its number in [`target`]; 0 is none.
    Set(Vec<u8>),
    Pass(u16),
    Start,
    /// Which of those that run, and how it ended.
    Finish(usize, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        1 => vec(0u8..5, 5).prop_map(Act::Set),
        4 => (1u16..3000).prop_map(Act::Pass),
        6 => Just(Act::Start),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(which, good)| Act::Finish(which, good)),
    ]
}

fn target(number: u8) -> Option<Target> {
    match number {
        0 => None,
        1 => Some(tcp(SECOND, 1)),
        2 => Some(tcp(SECOND, 3)),
        3 => Some(tcp(3 * SECOND, 2)),
        _ => Some(exec(SECOND)),
    }
}

/// What is to be told of one endpoint, by the words of the contract.
#[derive(Debug)]
struct Expected {
    target: Target,
    first_start: Option<Instant>,
    told: Option<bool>,
    in_a_row: u32,
}

impl Expected {
    fn of(target: Target) -> Self {
        Self {
            target,
            first_start: None,
            told: None,
            in_a_row: 0,
        }
    }

    fn told(&mut self, now: Instant, good: bool) -> Option<bool> {
        self.in_a_row = if good { 0 } else { self.in_a_row + 1 };
        let check = &self.target.check;
        let retries = u32::from(check.retries);
        let early =
            self.told.is_none() && now < self.first_start.unwrap() + check.interval * (retries - 1);
        let health = match good {
            true => true,
            false if self.in_a_row >= retries && !early => false,
            false => return None,
        };
        let news = self.told != Some(health);
        self.told = Some(health);
        news.then_some(health)
    }
}

proptest! {
    #[test]
    fn whatever_happens_limits_hold_and_what_is_told_is_what_the_results_mean(
        acts in vec(act(), 1..200),
        (network, exec) in (1usize..4, 1usize..3),
    ) {
        let limits = Limits { network, exec };
        let mut bench = Bench::new(limits, BTreeMap::new());
        let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
        let mut running: Vec<(Start, bool)> = Vec::new();
        for act in acts {
            match act {
                Act::Set(numbers) => {
                    let all = numbers.iter().enumerate();
                    let all = targets(all.filter_map(|(n, which)| Some((n, target(*which)?))));
                    expected.retain(|name, known| all.get(name) == Some(&known.target));
                    for (start, current) in &mut running {
                        *current &= expected.contains_key(&start.endpoint);
                    }
                    for (name, target) in &all {
                        expected.entry(name.clone()).or_insert_with(|| Expected::of(target.clone()));
                    }
                    bench.set(all);
                }
                Act::Pass(ms) => bench.now += MS * u32::from(ms),
                Act::Start => {
                    let due = bench.schedule.wakeup().is_some_and(|at| at <= bench.now);
                    let start = bench.schedule.start(bench.now);
                    prop_assert_eq!(start.is_some(), due);
                    let Some(start) = start else { continue };
                    let known = expected.get_mut(&start.endpoint).unwrap();
                    prop_assert_eq!(&start.target, &known.target);
                    known.first_start.get_or_insert(bench.now);
                    let twice = running.iter().any(|(s, current)| *current && s.endpoint == start.endpoint);
                    prop_assert!(!twice);
                    running.push((start, true));
                    let commands = running.iter().filter(|(s, _)| matches!(s.target.check.probe, Probe::Exec { .. }));
                    let commands = commands.count();
                    prop_assert!(commands <= exec && running.len() - commands <= network);
                }
                Act::Finish(which, good) => {
                    if running.is_empty() {
                        continue;
                    }
                    let (start, current) = running.swap_remove(which % running.len());
                    let told = bench.finish(&start, good).map(|verdict| verdict.healthy);
                    let means = match current {
                        true => expected.get_mut(&start.endpoint).unwrap().told(bench.now, good),
                        false => None,
                    };
                    prop_assert_eq!(told, means);
                }
            }
        }
    }

    #[test]
    fn nothing_is_forgotten_and_nothing_is_probed_too_often(
        seed in any::<u64>(),
        count in 1usize..40,
        goods in vec(any::<bool>(), 1..20),
    ) {
        let origin = Instant::now();
        let mut schedule = Schedule::new(origin, seed, Limits { network: 1, exec: 1 });
        schedule.set(origin, targets((0..count).map(|n| (n, tcp(SECOND, 2)))));
        let mut goods = goods.into_iter().cycle();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        let end = origin + 20 * SECOND;
        while let Some(now) = schedule.wakeup().filter(|at| *at < end) {
            let start = schedule.start(now).unwrap();
            *counts.entry(start.endpoint).or_default() += 1;
            let outcome = if goods.next().unwrap() { Ok(()) } else { Err(String::new()) };
            schedule.finish(now, start.run, outcome);
        }
        prop_assert_eq!(counts.len(), count);
        // Once per interval, and at most five times more at the start.
        prop_assert!(counts.values().all(|times| (20..=26).contains(times)), "{counts:?}");
    }
}
