use proptest::prelude::*;

use super::super::Member;
use super::*;

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn client(host: u32, port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::from_bits(0xc633_6400 + host), port))
}

fn listener(scheduler: Scheduler, weights: &[u16]) -> Listener {
    let members = (1..).zip(weights);
    Listener {
        scheduler,
        affinity_s: None,
        mss: None,
        backends: members
            .map(|(last, weight)| {
                (
                    at(last),
                    Member {
                        weight: *weight,
                        tag: 0,
                    },
                )
            })
            .collect(),
    }
}

fn chooser(scheduler: Scheduler, weights: &[u16]) -> Chooser {
    Chooser::new(listener(scheduler, weights))
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn pick(chooser: &mut Chooser, from: SocketAddr, random: u64) -> Option<SocketAddr> {
    chooser.choose(from, seconds(0), random, |_, _| 0, &BTreeSet::new())
}

/// How often each of four is chosen in so many connections of different clients.
fn counts(chooser: &mut Chooser, times: u32) -> [u32; 4] {
    let mut counts = [0; 4];
    for number in 0..times {
        // Any sequence that is spread well.
        let random = hash::of_bytes(number.to_be_bytes());
        let picked = pick(chooser, client(number, 1000), random).unwrap();
        let place = (1..)
            .zip(counts.iter_mut())
            .find(|(last, _)| at(*last) == picked);
        *place.unwrap().1 += 1;
    }
    counts
}

#[test]
fn turns_are_exact() {
    assert_eq!(
        counts(&mut chooser(Scheduler::RoundRobin, &[5, 1, 0, 9]), 300),
        [100, 100, 0, 100]
    );
    let mut weighted = chooser(Scheduler::WeightedRoundRobin, &[3, 1, 0, 2]);
    assert_eq!(counts(&mut weighted, 600), [300, 100, 0, 200]);
}

#[test]
fn chance_and_hashes_follow_the_weights() {
    for scheduler in [Scheduler::Random, Scheduler::SourceHash, Scheduler::Maglev] {
        let counts = counts(&mut chooser(scheduler, &[3, 1, 0, 2]), 6000);
        for (count, part) in counts.into_iter().zip([3000, 1000, 0, 2000]) {
            assert!(
                count.abs_diff(part) <= part / 8,
                "{scheduler:?}: {counts:?}"
            );
        }
    }
}

#[test]
fn a_client_hashes_to_one_backend() {
    let mut by_source = chooser(Scheduler::SourceHash, &[1, 1, 1, 1]);
    let mut by_flow = chooser(Scheduler::Maglev, &[1, 1, 1, 1]);
    let picks = |chooser: &mut Chooser| -> BTreeSet<_> {
        (1..200)
            .map(|port| pick(chooser, client(1, port), port.into()))
            .collect()
    };
    assert_eq!(picks(&mut by_source).len(), 1);
    assert_eq!(picks(&mut by_flow).len(), 4);
}

#[test]
fn the_fewest_connections_for_its_weight_win() {
    let mut chooser = chooser(Scheduler::LeastConnections, &[1, 1, 4, 0]);
    let mut open: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    for _ in 0..60 {
        let count = |at: &SocketAddr, _: &Member| open.get(at).copied().unwrap_or(0);
        let picked = chooser.choose(client(1, 1), seconds(0), 0, count, &BTreeSet::new());
        *open.entry(picked.unwrap()).or_default() += 1;
    }
    assert_eq!(open.into_values().collect::<Vec<_>>(), [10, 10, 40]);
}

#[test]
fn who_refuses_is_passed_over_and_nobody_is_left_at_last() {
    for scheduler in [
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::Random,
        Scheduler::SourceHash,
        Scheduler::Maglev,
        Scheduler::LeastConnections,
    ] {
        let mut chooser = chooser(scheduler, &[1, 2, 3]);
        let mut refused = BTreeSet::new();
        for _ in 0..3 {
            let next = chooser.choose(client(1, 1), seconds(0), 7, |_, _| 0, &refused);
            assert!(refused.insert(next.unwrap()), "{scheduler:?}");
        }
        let none = chooser.choose(client(1, 1), seconds(0), 7, |_, _| 0, &refused);
        assert_eq!(none, None, "{scheduler:?}");
    }
}

#[test]
fn without_weight_only_where_nobody_else_is() {
    let mut alone = chooser(Scheduler::Random, &[0, 0]);
    assert!(pick(&mut alone, client(1, 1), 1).is_some());
    assert_eq!(
        pick(&mut chooser(Scheduler::Maglev, &[]), client(1, 1), 1),
        None
    );
}

#[test]
fn a_client_stays_until_it_was_away_or_its_backend_is() {
    let sticky = |weights: &[u16]| Listener {
        affinity_s: Some(60),
        ..listener(Scheduler::RoundRobin, weights)
    };
    let mut chooser = Chooser::new(sticky(&[1, 1, 1]));
    let ask = |chooser: &mut Chooser, at: u64| {
        chooser
            .choose(client(1, 1), seconds(at), 0, |_, _| 0, &BTreeSet::new())
            .unwrap()
    };
    let first = ask(&mut chooser, 0);
    for time in [1, 30, 89, 148] {
        assert_eq!(ask(&mut chooser, time), first);
    }
    assert_ne!(ask(&mut chooser, 208), first);
    let second = ask(&mut chooser, 209);
    let mut without = sticky(&[1, 1, 1]);
    without.backends.get_mut(&second).unwrap().weight = 0;
    chooser.update(without);
    assert_ne!(ask(&mut chooser, 210), second);
}

#[test]
fn so_many_clients_are_remembered() {
    let mut chooser = Chooser::new(Listener {
        affinity_s: Some(10),
        ..listener(Scheduler::RoundRobin, &[1])
    });
    let ask = |chooser: &mut Chooser, host: u32, time: u64| {
        chooser.choose(
            client(host, 1),
            seconds(time),
            0,
            |_, _| 0,
            &BTreeSet::new(),
        )
    };
    for host in 0..=CLIENTS_MAX {
        ask(&mut chooser, host, 5);
    }
    assert_eq!(chooser.clients.len(), 65_536);
    ask(&mut chooser, CLIENTS_MAX, 15);
    assert_eq!(chooser.clients.len(), 1);
}

proptest! {
    #[test]
    fn someone_who_may_is_chosen_whenever_there_is_one(
        weights in prop::collection::vec(0u16..9, 0..6),
        refused in prop::collection::btree_set(1u8..7, 0..6),
        (host, port, random) in any::<(u32, u16, u64)>(),
        scheduler in prop::sample::select(vec![
            Scheduler::RoundRobin, Scheduler::WeightedRoundRobin, Scheduler::Random,
            Scheduler::SourceHash, Scheduler::Maglev, Scheduler::LeastConnections,
        ]),
    ) {
        let from = SocketAddr::from((std::net::Ipv4Addr::from_bits(host), port));
        let refused: BTreeSet<_> = refused.into_iter().map(at).collect();
        let mut chooser = chooser(scheduler, &weights);
        let active: BTreeSet<_> = chooser.weights.keys().copied().collect();
        let picked = chooser.choose(from, seconds(0), random, |_, _| 0, &refused);
        match picked {
            Some(picked) => prop_assert!(active.contains(&picked) && !refused.contains(&picked)),
            None => prop_assert!(active.is_subset(&refused)),
        }
    }
}
