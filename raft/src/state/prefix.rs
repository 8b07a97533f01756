use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

/// IPv4 prefixes and who holds them; finds an overlap in the time of some dozen map look-ups.
///
/// Two prefixes are either disjoint or one contains the other. What overlaps a prefix is therefore
/// one of the at most 32 that contain it, or begins inside it.
#[derive(Clone, Debug)]
pub(super) struct PrefixIndex<T> {
    holders: BTreeMap<(u32, u8), BTreeSet<T>>,
}

impl<T> Default for PrefixIndex<T> {
    fn default() -> Self {
        Self {
            holders: BTreeMap::new(),
        }
    }
}

impl<T: Ord + Copy> PrefixIndex<T> {
    pub(super) fn insert(&mut self, prefix: Ipv4Net, holder: T) {
        self.holders.entry(key(prefix)).or_default().insert(holder);
    }

    pub(super) fn remove(&mut self, prefix: Ipv4Net, holder: T) {
        if let Some(holders) = self.holders.get_mut(&key(prefix)) {
            holders.remove(&holder);
            if holders.is_empty() {
                self.holders.remove(&key(prefix));
            }
        }
    }

    /// One prefix that overlaps `wanted`, the shortest first, and one that holds it.
    pub(super) fn overlap(&self, wanted: Ipv4Net) -> Option<(Ipv4Net, T)> {
        let (first, len) = key(wanted);
        let containing = (0..len).filter_map(|len| {
            let key = (first & mask(len), len);
            Some((key, self.holders.get(&key)?))
        });
        let within = self
            .holders
            .range((first, len)..=(u32::from(wanted.broadcast()), 32))
            .map(|(key, holders)| (*key, holders));
        containing
            .chain(within)
            .find_map(|((first, len), holders)| {
                let prefix = Ipv4Net::new(first.into(), len).ok()?;
                Some((prefix, *holders.first()?))
            })
    }
}

fn key(prefix: Ipv4Net) -> (u32, u8) {
    (u32::from(prefix.network()), prefix.prefix_len())
}

fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net() -> impl Strategy<Value = Ipv4Net> {
        (0u32..64, 24u8..=32).prop_map(|(bits, len)| {
            Ipv4Net::new((0x0a00_0000 | bits << 2).into(), len)
                .unwrap()
                .trunc()
        })
    }

    proptest! {
        #[test]
        fn an_overlap_is_found_exactly_when_there_is_one(
            held in proptest::collection::vec(net(), 0..6),
            removed in 0usize..6,
            wanted in net(),
        ) {
            let mut index = PrefixIndex::default();
            for (holder, net) in held.iter().enumerate() {
                index.insert(*net, holder);
            }
            if let Some(net) = held.get(removed) {
                index.remove(*net, removed);
            }
            let overlaps = |holder: usize, net: &Ipv4Net| {
                holder != removed && (net.contains(&wanted) || wanted.contains(net))
            };
            let expected = held.iter().enumerate().any(|(holder, net)| overlaps(holder, net));
            let found = index.overlap(wanted);
            prop_assert_eq!(found.is_some(), expected);
            if let Some((net, holder)) = found {
                prop_assert_eq!(held[holder], net);
                prop_assert!(overlaps(holder, &net));
            }
        }
    }
}
