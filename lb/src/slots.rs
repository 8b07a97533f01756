//! Weights as slots: a backend is chosen by a number below the number of slots, and has as many of
//! them as its weight asks for.

use std::collections::BTreeMap;

use crate::spec::Backend;

/// Most slots of a service.
pub const SLOTS_MAX: u32 = 1024;
/// A backend's part of the slots is within one in so many (5 %) of its part of the weights, as long
/// as every backend that takes flows has at least 2 % of the weights. Where one has less, it may be
/// off by more, and has at least one slot.
pub const SHARE_TOLERANCE: u64 = 20;

/// Slots of each weight: the fewest that keep [`SHARE_TOLERANCE`]. Equal weights take one each.
/// Weights are above zero, and at most half as many as [`SLOTS_MAX`].
pub(crate) fn multiplicities(weights: &[u16]) -> Vec<u32> {
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    let Some(least) = weights.iter().copied().min().filter(|_| total > 0) else {
        return Vec::new();
    };
    // With fewer the least weight would be more than the tolerance above its part.
    let scaled = total * (SHARE_TOLERANCE - 1) / (u64::from(least).max(1) * SHARE_TOLERANCE);
    let fewest = scaled.max(weights.len() as u64);
    (fewest..=u64::from(SLOTS_MAX))
        .map(|slots| apportion(weights, total, slots))
        .find(|counts| is_within_tolerance(weights, total, counts))
        .unwrap_or_else(|| generous(weights))
}

/// `slots` by the method of largest remainders: each is less than one slot off its exact part.
fn apportion(weights: &[u16], total: u64, slots: u64) -> Vec<u32> {
    let exact = |weight: u16| u64::from(weight) * slots;
    let mut counts: Vec<u32> = weights
        .iter()
        .map(|w| u32::try_from(exact(*w) / total).unwrap_or(SLOTS_MAX))
        .collect();
    let given: u64 = counts.iter().copied().map(u64::from).sum();
    let missing = usize::try_from(slots.saturating_sub(given)).unwrap_or(0);
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(exact(weights[*i]) % total));
    for i in order.into_iter().take(missing) {
        counts[i] += 1;
    }
    counts
}

fn is_within_tolerance(weights: &[u16], total: u64, counts: &[u32]) -> bool {
    let slots: u64 = counts.iter().copied().map(u64::from).sum();
    weights.iter().zip(counts).all(|(weight, count)| {
        let wanted = u64::from(*weight) * slots;
        (u64::from(*count) * total).abs_diff(wanted) * SHARE_TOLERANCE <= wanted
    })
}

/// All slots: one for each of the backends whose part is less than that, and the rest by weight.
fn generous(weights: &[u16]) -> Vec<u32> {
    let all = u64::from(SLOTS_MAX);
    let mut large = weights.to_vec();
    loop {
        let rest: u64 = large.iter().copied().map(u64::from).sum();
        let small = large.iter().filter(|weight| **weight == 0).count() as u64;
        let slots = all.saturating_sub(small);
        let is_small = |weight: u16| weight > 0 && u64::from(weight) * slots < rest;
        if !large.iter().any(|weight| is_small(*weight)) {
            let counts = apportion(&large, rest.max(1), slots);
            return counts.into_iter().map(|count| count.max(1)).collect();
        }
        for weight in &mut large {
            if is_small(*weight) {
                *weight = 0;
            }
        }
    }
}

/// The slots of a service that has `wanted` many of each backend, with as few differences from
/// `present` as can be: a slot that is given up is filled by what was in the last ones.
pub(crate) fn assign(present: &[Backend], wanted: &[(Backend, u32)]) -> Vec<Backend> {
    let mut left: BTreeMap<Backend, u32> = wanted.iter().copied().collect();
    let count: u32 = wanted.iter().map(|(_, count)| count).sum();
    let mut take = |backend: &Backend| match left.get_mut(backend) {
        Some(count) if *count > 0 => {
            *count -= 1;
            Some(*backend)
        }
        _ => None,
    };
    let mut slots: Vec<Option<Backend>> = present
        .iter()
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .map(&mut take)
        .collect();
    slots.resize(usize::try_from(count).unwrap_or(0), None);
    let mut rest = left
        .iter()
        .flat_map(|(backend, count)| std::iter::repeat_n(*backend, *count as usize));
    slots
        .into_iter()
        .filter_map(|slot| slot.or_else(|| rest.next()))
        .collect()
}

/// The slots in an order in which every backend comes at intervals as even as can be: each gains
/// its count at every step, and the one that has gained most takes the slot and loses what all
/// gained (smooth weighted round robin, as of nginx).
pub(crate) fn interleave(wanted: &[(Backend, u32)]) -> Vec<Backend> {
    let all: i64 = wanted.iter().map(|(_, count)| i64::from(*count)).sum();
    let mut gained = vec![0; wanted.len()];
    let mut slots = Vec::new();
    for _ in 0..all {
        for (gained, (_, count)) in gained.iter_mut().zip(wanted) {
            *gained += i64::from(*count);
        }
        // The first of the greatest.
        let turns = gained.iter_mut().zip(wanted).rev();
        let Some((gained, (backend, _))) = turns.max_by_key(|(gained, _)| **gained) else {
            break;
        };
        *gained -= all;
        slots.push(*backend);
    }
    slots
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::backend;

    #[test]
    fn equal_weights_take_one_slot_each() {
        assert_eq!(multiplicities(&[7; 5]), [1; 5]);
        assert_eq!(multiplicities(&[1]), [1]);
        assert_eq!(multiplicities(&[]), [0; 0]);
    }

    #[test]
    fn common_weights_take_few_slots() {
        assert_eq!(multiplicities(&[100, 200, 300]), [1, 2, 3]);
        assert_eq!(multiplicities(&[33, 67]), [1, 2]);
        assert_eq!(multiplicities(&[1, 99]).iter().sum::<u32>(), 96);
    }

    #[test]
    fn a_backend_with_hardly_any_weight_still_has_a_slot() {
        let counts = multiplicities(&[1, 1, u16::MAX]);
        assert_eq!(counts, [1, 1, 1022]);
        let mut many = vec![1; 511];
        many.push(u16::MAX);
        let counts = multiplicities(&many);
        assert!(counts.iter().all(|count| *count >= 1));
        assert_eq!(counts.iter().sum::<u32>(), SLOTS_MAX);
    }

    #[test]
    fn the_last_slot_moves_into_one_that_is_given_up() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|port| backend("10.0.0.1", port));
        assert_eq!(assign(&[a, b, c, d], &[(a, 1), (c, 1), (d, 1)]), [a, d, c]);
        assert_eq!(
            assign(&[a, d, c], &[(a, 1), (b, 1), (c, 1), (d, 1)]),
            [a, d, c, b]
        );
        assert_eq!(assign(&[a, a, b], &[(a, 1), (b, 2)]), [a, b, b]);
        assert_eq!(assign(&[a, b], &[]), []);
    }

    #[test]
    fn turns_of_a_heavy_backend_are_spread() {
        let [a, b, c] = [1, 2, 3].map(|port| backend("10.0.0.1", port));
        assert_eq!(interleave(&[(a, 5), (b, 1), (c, 1)]), [a, a, b, a, c, a, a]);
        assert_eq!(interleave(&[(a, 1), (b, 2)]), [b, a, b]);
        assert_eq!(interleave(&[]), []);
    }

    proptest! {
        #[test]
        fn interleaved_slots_are_the_wanted_ones_at_even_intervals(
            counts in prop::collection::vec(1u32..40, 1..8),
        ) {
            let b = |port| backend("10.0.0.1", port);
            let wanted: Vec<(Backend, u32)> = (1..).map(b).zip(counts).collect();
            let slots = interleave(&wanted);
            prop_assert_eq!(slots.len() as u32, wanted.iter().map(|(_, n)| n).sum::<u32>());
            for (backend, count) in wanted {
                let mut found = 0;
                for (index, slot) in (1..).zip(&slots) {
                    found += i64::from(*slot == backend);
                    // At no time more off than by less than the number of backends.
                    let due = i64::from(count) * index / slots.len() as i64;
                    prop_assert!((found - due).abs() < 8, "{found} of {due}");
                }
                prop_assert_eq!(found, i64::from(count));
            }
        }

        #[test]
        fn shares_are_within_the_tolerance(
            weights in prop::collection::vec(1u16..1000, 1..40),
        ) {
            let total: u64 = weights.iter().copied().map(u64::from).sum();
            let counts = multiplicities(&weights);
            prop_assert!(counts.iter().sum::<u32>() <= SLOTS_MAX);
            prop_assert!(counts.iter().all(|count| *count >= 1));
            if weights.iter().all(|weight| u64::from(*weight) * 50 >= total) {
                prop_assert!(is_within_tolerance(&weights, total, &counts));
            }
        }

        #[test]
        fn assigned_slots_are_the_wanted_ones_and_keep_what_they_can(
            present in prop::collection::vec(1u16..8, 0..20),
            wanted in prop::collection::btree_map(1u16..8, 1u32..6, 0..8),
        ) {
            let b = |port| backend("10.0.0.1", port);
            let present: Vec<Backend> = present.into_iter().map(b).collect();
            let wanted: Vec<(Backend, u32)> = wanted.into_iter().map(|(p, n)| (b(p), n)).collect();
            let slots = assign(&present, &wanted);
            for (backend, count) in &wanted {
                let found = slots.iter().filter(|slot| *slot == backend).count();
                prop_assert_eq!(found, *count as usize);
            }
            prop_assert_eq!(slots.len() as u32, wanted.iter().map(|(_, n)| n).sum::<u32>());
            prop_assert_eq!(assign(&slots, &wanted), slots);
        }
    }
}
