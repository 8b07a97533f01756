use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::pool::{address, bits};

/// IP prefixes and who holds them; finds an overlap in the time of some dozen map look-ups.
///
/// Two prefixes are either disjoint or one contains the other. What overlaps a prefix is therefore
/// one of the at most 128 that contain it, or begins inside it.
#[derive(Clone, Debug)]
pub(super) struct PrefixIndex<T> {
    holders: BTreeMap<Key, BTreeSet<T>>,
}

/// Whether it is of IPv6, its first address as a number, and its length.
type Key = (bool, u128, u8);

impl<T> Default for PrefixIndex<T> {
    fn default() -> Self {
        Self {
            holders: BTreeMap::new(),
        }
    }
}

impl<T: Ord + Copy> PrefixIndex<T> {
    pub(super) fn insert(&mut self, prefix: IpNet, holder: T) {
        self.holders.entry(key(prefix)).or_default().insert(holder);
    }

    pub(super) fn remove(&mut self, prefix: IpNet, holder: T) {
        if let Some(holders) = self.holders.get_mut(&key(prefix)) {
            holders.remove(&holder);
            if holders.is_empty() {
                self.holders.remove(&key(prefix));
            }
        }
    }

    /// One prefix that overlaps `wanted`, the shortest first, and one that holds it.
    pub(super) fn overlap(&self, wanted: IpNet) -> Option<(IpNet, T)> {
        let (v6, first, len) = key(wanted);
        let containing = (0..len).filter_map(|len| {
            let key = (v6, first & mask(v6, len), len);
            Some((key, self.holders.get(&key)?))
        });
        let within = self
            .holders
            .range((v6, first, len)..=(v6, bits(wanted.broadcast()), width(v6)))
            .map(|(key, holders)| (*key, holders));
        containing
            .chain(within)
            .find_map(|((v6, first, len), holders)| {
                let prefix = IpNet::new(address(v6, first), len).ok()?;
                Some((prefix, *holders.first()?))
            })
    }
}

fn key(prefix: IpNet) -> Key {
    let network = prefix.network();
    (network.is_ipv6(), bits(network), prefix.prefix_len())
}

fn width(v6: bool) -> u8 {
    if v6 { 128 } else { 32 }
}

fn mask(v6: bool, len: u8) -> u128 {
    let host_bits = u32::from(width(v6).saturating_sub(len));
    u128::MAX.checked_shl(host_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same bits, of both families.
    fn net() -> impl Strategy<Value = IpNet> {
        (0u32..64, 24u8..=32, any::<bool>()).prop_map(|(bits, len, v6)| {
            let bits = 0x0a00_0000 | bits << 2;
            let (address, len) = match v6 {
                true => (address(true, u128::from(bits) << 96), len),
                false => (address(false, bits.into()), len),
            };
            IpNet::new(address, len).unwrap().trunc()
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
            let overlaps = |holder: usize, net: &IpNet| {
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
