//! Maglev tables (Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load
//! Balancer", NSDI 2016, section 3.4): every backend walks the slots in an order of its own and the
//! backends take free slots in turns, those of less weight skipping some.

use crate::hash;
use crate::spec::{Backend, MaglevSize};

/// Beginning of the two hashes of a backend.
const OFFSET_SEED: u64 = 0x6d61_676c_6576_0001;
const SKIP_SEED: u64 = 0x6d61_676c_6576_0002;

/// The backend of each slot. Depends on nothing but its arguments, so that all nodes build the same
/// table. Empty without backends; weights are above zero.
pub(crate) fn table(backends: &[(Backend, u16)], size: MaglevSize) -> Vec<Backend> {
    let slots = usize::from(size.slots());
    let Some(heaviest) = backends.iter().map(|(_, weight)| u32::from(*weight)).max() else {
        return Vec::new();
    };
    let mut walkers: Vec<Walker> = backends
        .iter()
        .map(|(backend, weight)| Walker::new(*backend, *weight, slots))
        .collect();
    let mut table: Vec<Option<Backend>> = vec![None; slots];
    let mut free = slots;
    while free > 0 {
        for walker in &mut walkers {
            walker.credit += walker.weight;
            if walker.credit < heaviest || free == 0 {
                continue;
            }
            walker.credit -= heaviest;
            let slot = walker.next_free(&table);
            table[slot] = Some(walker.backend);
            free -= 1;
        }
    }
    table.into_iter().flatten().collect()
}

/// A backend on its way through the slots. The number of slots is prime, so that any step below it
/// leads to all of them.
struct Walker {
    backend: Backend,
    weight: u32,
    credit: u32,
    position: usize,
    step: usize,
}

impl Walker {
    fn new(backend: Backend, weight: u16, slots: usize) -> Self {
        let below = |seed, bound: usize| {
            let bound = bound as u64;
            usize::try_from(hash::of_backend(seed, &backend) % bound).unwrap_or(0)
        };
        Self {
            backend,
            weight: u32::from(weight),
            credit: 0,
            position: below(OFFSET_SEED, slots),
            step: below(SKIP_SEED, slots - 1) + 1,
        }
    }

    /// The caller has made sure that there is one.
    fn next_free(&mut self, table: &[Option<Backend>]) -> usize {
        while table[self.position].is_some() {
            self.position = (self.position + self.step) % table.len();
        }
        self.position
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::backend;

    fn pool(count: u16) -> Vec<(Backend, u16)> {
        (1..=count)
            .map(|i| (backend(&format!("10.0.{}.{}", i / 200, i % 200 + 2), 80), 1))
            .collect()
    }

    fn shares(table: &[Backend]) -> BTreeMap<Backend, usize> {
        let mut shares = BTreeMap::new();
        for backend in table {
            *shares.entry(*backend).or_default() += 1;
        }
        shares
    }

    /// Part of the slots of remaining backends that have another one in the second, in percent.
    fn disruption(before: &[Backend], after: &[Backend], gone: Option<Backend>) -> f64 {
        let surviving = before.iter().zip(after).filter(|(b, _)| Some(**b) != gone);
        let moved = surviving.clone().filter(|(b, a)| b != a).count();
        100.0 * moved as f64 / surviving.count() as f64
    }

    #[test]
    fn the_sizes_are_prime() {
        for size in [MaglevSize::Small, MaglevSize::Medium, MaglevSize::Large] {
            let slots = size.slots();
            assert!((2..slots).all(|divisor| !slots.is_multiple_of(divisor)));
        }
    }

    #[test]
    fn equal_weights_get_equal_slots_but_for_one() {
        for (size, count) in [
            (MaglevSize::Small, 25),
            (MaglevSize::Medium, 10),
            (MaglevSize::Medium, 203),
            (MaglevSize::Large, 512),
        ] {
            let table = table(&pool(count), size);
            assert_eq!(table.len(), usize::from(size.slots()));
            let shares = shares(&table);
            assert_eq!(shares.len(), usize::from(count));
            let (least, most) = (shares.values().min(), shares.values().max());
            assert!(most.unwrap() - least.unwrap() <= 1, "{shares:?}");
        }
    }

    #[test]
    fn slots_are_in_proportion_to_the_weights() {
        let mut pool = pool(3);
        for (entry, weight) in pool.iter_mut().zip([1, 2, 5]) {
            entry.1 = weight;
        }
        let shares = shares(&table(&pool, MaglevSize::Medium));
        for (backend, weight) in pool {
            let wanted = 2039.0 * f64::from(weight) / 8.0;
            assert!(
                (shares[&backend] as f64 - wanted).abs() <= 2.0,
                "{shares:?}"
            );
        }
    }

    #[test]
    fn one_of_ten_backends_that_goes_moves_at_most_12_percent_of_the_other_flows() {
        for size in [MaglevSize::Small, MaglevSize::Medium, MaglevSize::Large] {
            let full = pool(10);
            let before = table(&full, size);
            for i in 0..full.len() {
                let mut rest = full.clone();
                let (gone, _) = rest.remove(i);
                let moved = disruption(&before, &table(&rest, size), Some(gone));
                assert!(moved <= 12.0, "{moved} % of {size:?} moved without {gone}");
            }
        }
    }

    #[test]
    fn the_order_of_the_arguments_is_all_that_ties_depend_on() {
        let full = pool(10);
        assert_eq!(
            table(&full, MaglevSize::Small),
            table(&full, MaglevSize::Small)
        );
        assert_eq!(table(&[], MaglevSize::Small), []);
    }
}
