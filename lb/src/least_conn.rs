//! Least connections, as weights.
//!
//! The table knows no counts. So whoever wants new flows to go to the backends that have the fewest
//! ([`Scheduler::LeastConnections`](crate::spec::Scheduler::LeastConnections)) counts the flows from
//! time to time ([`Flows::count`](crate::flows::Flows::count)), and gives the table these weights. Between two counts it is not known who got what: a backend that is idle gets a larger
//! part of the new flows, but no more than [`FAVOUR_MAX`] times what the busiest of the same weight
//! gets, or all would go there until the next count.

use std::collections::BTreeMap;

use crate::spec::Backend;

/// How much more an idle backend gets than a busy one of the same weight, at most.
pub const FAVOUR_MAX: u64 = 16;
/// How much more it may be, and twice from what on it is that: half-way to the next. Few steps, so
/// that the weights change only when it matters: each change makes slots of the service change.
const FAVOURS: [(u64, u64); 8] = [
    (FAVOUR_MAX, 28),
    (12, 20),
    (8, 14),
    (6, 10),
    (4, 7),
    (3, 5),
    (2, 3),
    (1, 0),
];

/// The weights by which the next flows are to be balanced, from how many flows each backend has (none
/// said is none) and the weights that were asked for.
///
/// A backend's load is its flows, and one to come, by its weight. One with twice the load of the one
/// with the least gets half of its part, and so on. Under equal loads the parts are those that were
/// asked for. Weight 0 stays 0, and any other is at least 1.
pub fn weights(
    counts: &BTreeMap<Backend, u64>,
    weights: &BTreeMap<Backend, u16>,
) -> BTreeMap<Backend, u16> {
    let loads = weights.iter().map(|(backend, weight)| {
        let flows = counts.get(backend).copied().unwrap_or(0).saturating_add(1);
        (*backend, Load::new(flows, *weight))
    });
    let loads: Vec<(Backend, Load)> = loads.collect();
    let active = loads.iter().filter(|(_, load)| load.weight > 0);
    let least = active.map(|(_, load)| *load).min_by(Load::compare);
    let parts = loads.into_iter().map(|(backend, load)| {
        let favour = least.map_or(0, |least| least.favour(load));
        (backend, load.weight * favour)
    });
    as_weights(parts.collect())
}

/// So many flows by so much weight.
#[derive(Clone, Copy)]
struct Load {
    flows: u64,
    weight: u64,
}

impl Load {
    fn new(flows: u64, weight: u16) -> Self {
        let weight = u64::from(weight);
        Self { flows, weight }
    }

    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        let cross = |a: &Self, b: &Self| u128::from(a.flows) * u128::from(b.weight);
        cross(self, other).cmp(&cross(other, self))
    }

    /// How much another is favoured when this is the least: less, the more it has.
    fn favour(self, other: Self) -> u64 {
        let least = u128::from(self.flows) * u128::from(other.weight);
        let load = u128::from(other.flows) * u128::from(self.weight);
        let reached = 2 * u128::from(FAVOUR_MAX) * least;
        let mut favours = FAVOURS.iter();
        let favour = favours.find(|(_, from)| load * u128::from(*from) <= reached);
        favour.map_or(1, |(favour, _)| *favour)
    }
}

/// In the smallest numbers that say the same, or nearly so where these are too large.
fn as_weights(parts: BTreeMap<Backend, u64>) -> BTreeMap<Backend, u16> {
    let divisor = parts
        .values()
        .copied()
        .fold(0, greatest_common_divisor)
        .max(1);
    let most = parts.values().copied().max().unwrap_or(0) / divisor;
    let limit = most.max(u64::from(u16::MAX));
    let weight = |part: u64| {
        let scaled = part / divisor * u64::from(u16::MAX) / limit;
        let weight = u16::try_from(scaled).unwrap_or(u16::MAX);
        weight.max(u16::from(part > 0))
    };
    parts
        .into_iter()
        .map(|(backend, part)| (backend, weight(part)))
        .collect()
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::backend;

    fn host(number: u16) -> Backend {
        backend("10.0.0.2", number)
    }

    /// From flows and weights of one backend after the other.
    fn of(flows: &[u64], asked: &[u16]) -> Vec<u16> {
        let counts = (1..).map(host).zip(flows.iter().copied()).collect();
        let asked = (1..).map(host).zip(asked.iter().copied()).collect();
        weights(&counts, &asked).into_values().collect()
    }

    #[test]
    fn under_equal_loads_the_weights_are_those_asked_for() {
        assert_eq!(of(&[0, 0, 0], &[1, 1, 1]), [1, 1, 1]);
        assert_eq!(of(&[9, 9], &[7, 7]), [1, 1]);
        assert_eq!(of(&[9, 19, 29], &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(of(&[0, u64::MAX], &[1, 0]), [1, 0]);
    }

    #[test]
    fn fewer_flows_are_a_larger_part() {
        assert_eq!(of(&[0, 1], &[1, 1]), [2, 1]);
        assert_eq!(of(&[5, 11, 23], &[1, 1, 1]), [4, 2, 1]);
        // Twice the weight bears twice the flows.
        assert_eq!(of(&[9, 9], &[1, 2]), [1, 4]);
        // All that can be: no favour without end.
        assert_eq!(of(&[0, 1000], &[1, 1]), [16, 1]);
        assert_eq!(of(&[0, u64::MAX], &[1, 1]), [16, 1]);
    }

    #[test]
    fn a_small_difference_among_many_flows_changes_nothing() {
        let before = of(&[100, 70], &[1, 1]);
        assert_eq!(before, [3, 4]);
        for flows in [[101, 70], [100, 72], [105, 74]] {
            assert_eq!(of(&flows, &[1, 1]), before);
        }
    }

    #[test]
    fn who_takes_no_new_flow_takes_none_and_is_no_measure() {
        assert_eq!(of(&[0, 5, 5], &[0, 1, 1]), [0, 1, 1]);
        assert_eq!(of(&[0, 0], &[0, 0]), [0, 0]);
        assert_eq!(of(&[], &[]), [0; 0]);
    }

    #[test]
    fn weights_that_are_too_large_keep_their_parts() {
        let found = of(&[0, 40], &[u16::MAX, u16::MAX - 1]);
        assert_eq!(found, [u16::MAX, u16::MAX / 16]);
    }

    /// Flows that come in rounds between two counts, by the shares, each backend with a time that
    /// its flows last in rounds; how many each has in the end.
    fn simulate(lasting: &[usize], start: &[u64], rounds: usize, per_round: u64) -> Vec<u64> {
        let asked: BTreeMap<Backend, u16> = (1..).map(host).zip(vec![1; lasting.len()]).collect();
        let mut ends: Vec<Vec<u64>> = start.iter().map(|n| vec![*n]).collect();
        for _ in 0..rounds {
            let counts = (1..)
                .map(host)
                .zip(ends.iter().map(|e| e.iter().sum()))
                .collect();
            let shares: Vec<u16> = weights(&counts, &asked).into_values().collect();
            let all: u64 = shares.iter().copied().map(u64::from).sum();
            for ((ends, share), lasting) in ends.iter_mut().zip(shares).zip(lasting) {
                // The oldest first.
                ends.push(per_round * u64::from(share) / all);
                if ends.len() > *lasting {
                    ends.remove(0);
                }
            }
        }
        ends.iter().map(|ends| ends.iter().sum()).collect()
    }

    #[test]
    fn a_slow_backend_does_not_drown() {
        // With equal shares it would have ten times the flows of the others.
        let flows = simulate(&[10, 1, 1], &[0, 0, 0], 200, 300);
        let others = flows[1].max(flows[2]);
        assert!(flows[0] < 4 * others, "{flows:?}");
    }

    #[test]
    fn a_backend_that_comes_catches_up_and_is_not_flooded() {
        let flows = simulate(&[20, 20, 20], &[0, 1000, 1000], 5, 100);
        assert!((200..450).contains(&flows[0]), "{flows:?}");
        let flows = simulate(&[20, 20, 20], &[0, 1000, 1000], 300, 100);
        let (least, most) = (flows.iter().min(), flows.iter().max());
        assert!(most.unwrap() - least.unwrap() < 250, "{flows:?}");
    }

    proptest! {
        #[test]
        fn any_counts_and_weights_have_weights(
            all in prop::collection::vec((any::<u64>(), any::<u16>()), 0..20),
        ) {
            let (flows, asked): (Vec<u64>, Vec<u16>) = all.iter().copied().unzip();
            let found = of(&flows, &asked);
            prop_assert_eq!(found.len(), all.len());
            for (asked, found) in asked.iter().zip(&found) {
                prop_assert_eq!(*asked == 0, *found == 0);
            }
        }

        #[test]
        fn the_idlest_gets_most_and_nobody_starves(
            all in prop::collection::vec(0u64..100_000, 2..20),
            weight in 1u16..100,
        ) {
            let found = of(&all, &vec![weight; all.len()]);
            let sum: u64 = found.iter().copied().map(u64::from).sum();
            let most = found.iter().max().unwrap();
            let idlest = (0..all.len()).min_by_key(|index| all[*index]).unwrap();
            prop_assert_eq!(&found[idlest], most);
            for share in &found {
                let others = all.len() as u64 - 1;
                prop_assert!(u64::from(*share) * (FAVOUR_MAX * others + 1) >= sum, "{found:?}");
            }
        }

        #[test]
        fn of_two_alike_the_one_with_more_flows_gets_no_more(
            all in prop::collection::vec(0u64..1000, 2..20),
        ) {
            let found = of(&all, &vec![3; all.len()]);
            let mut pairs: Vec<_> = all.iter().zip(&found).collect();
            pairs.sort_by_key(|(flows, weight)| (**flows, u16::MAX - **weight));
            prop_assert!(pairs.windows(2).all(|two| two[0].1 >= two[1].1), "{pairs:?}");
        }
    }
}
