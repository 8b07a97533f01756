use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::limits;
use super::subnet::Span;
use crate::model::{IpFamily, Network, Subnet};

/// Which address of a network comes next: those never used in order, then the one that has been
/// free for longest. Old holders' connections and neighbours' caches get as much time as there is
/// to forget an address.
///
/// Takes memory for addresses that were used and freed, none for those that are still in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct AddressPool {
    ranges: Vec<Range>,
    freed4: Freed<Ipv4Addr>,
    freed6: Freed<Ipv6Addr>,
}

/// The addresses of one subnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Range {
    v6: bool,
    first: u128,
    last: u128,
    // Next never used address; past `last` when all were used.
    next: u128,
    // After `next`: those in use because they were asked for, and reserved ones.
    ahead: BTreeSet<u128>,
}

impl AddressPool {
    /// Of a network that nothing is on yet.
    pub(super) fn new(network: &Network) -> Self {
        let mut pool = Self::default();
        pool.cover(network);
        pool
    }

    /// Takes in the subnets that the network has grown by.
    pub(super) fn cover(&mut self, network: &Network) {
        let known = self.ranges.len();
        let further = network.subnets.iter().skip(known);
        self.ranges
            .extend(further.map(|subnet| Range::new(network, subnet)));
    }

    /// The address to assign next.
    pub(super) fn next(&self, family: IpFamily) -> Option<IpAddr> {
        let ranges = self.ranges.iter();
        let unused = ranges
            .filter(|range| range.v6 == (family == IpFamily::V6))
            .find_map(Range::next);
        let (freed, count) = match family {
            IpFamily::V4 => (self.freed4.oldest().map(IpAddr::V4), self.freed4.len()),
            IpFamily::V6 => (self.freed6.oldest().map(IpAddr::V6), self.freed6.len()),
        };
        if count > limits::FREED_ADDRESSES {
            return freed.or(unused);
        }
        unused.or(freed)
    }

    /// Marks an address as held.
    pub(super) fn take(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.freed4.remove(v4),
            IpAddr::V6(v6) => self.freed6.remove(v6),
        }
        if let Some(range) = self.range_of(address) {
            range.take(bits(address));
        }
    }

    /// Gives back an address that was taken; it comes after all that are free now. One outside the
    /// part that addresses are assigned from does not come by itself.
    pub(super) fn free(&mut self, address: IpAddr) {
        if self.range_of(address).is_none() {
            return;
        }
        match address {
            IpAddr::V4(v4) => self.freed4.push(v4),
            IpAddr::V6(v6) => self.freed6.push(v6),
        }
    }

    fn range_of(&mut self, address: IpAddr) -> Option<&mut Range> {
        let (v6, number) = (address.is_ipv6(), bits(address));
        (self.ranges.iter_mut())
            .find(|range| range.v6 == v6 && (range.first..=range.last).contains(&number))
    }
}

impl Range {
    fn new(network: &Network, subnet: &Subnet) -> Self {
        let Span { first, last } = Span::assigned(subnet);
        let reserved = network.aux_addresses.values().chain([&subnet.gateway]);
        let mut range = Self {
            v6: subnet.family() == IpFamily::V6,
            first,
            last,
            next: first,
            ahead: reserved
                .filter(|address| subnet.cidr.contains(*address))
                .map(|address| bits(*address))
                .filter(|address| (first..=last).contains(address))
                .collect(),
        };
        range.skip_used();
        range
    }

    fn next(&self) -> Option<IpAddr> {
        (self.next <= self.last).then(|| address(self.v6, self.next))
    }

    fn take(&mut self, address: u128) {
        if (self.next..=self.last).contains(&address) {
            self.ahead.insert(address);
            self.skip_used();
        }
    }

    fn skip_used(&mut self) {
        while self.next <= self.last && self.ahead.remove(&self.next) {
            self.next += 1;
        }
    }
}

/// An address as a number.
pub(super) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address that a number is. Numbers of IPv4 have 32 bits.
pub(super) fn address(v6: bool, bits: u128) -> IpAddr {
    match u32::try_from(bits) {
        Ok(bits) if !v6 => Ipv4Addr::from_bits(bits).into(),
        _ => Ipv6Addr::from_bits(bits).into(),
    }
}

/// Addresses that were held and are not any more, oldest first.
#[derive(Clone, Debug)]
struct Freed<A> {
    order: BTreeMap<u64, A>,
    place: BTreeMap<A, u64>,
}

impl<A> Default for Freed<A> {
    fn default() -> Self {
        Self {
            order: BTreeMap::new(),
            place: BTreeMap::new(),
        }
    }
}

impl<A: Copy + Ord> Freed<A> {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn oldest(&self) -> Option<A> {
        self.order.first_key_value().map(|(_, address)| *address)
    }

    fn push(&mut self, address: A) {
        self.remove(address);
        let place = self.order.last_key_value().map_or(0, |(last, _)| last + 1);
        self.order.insert(place, address);
        self.place.insert(address, place);
    }

    fn remove(&mut self, address: A) {
        if let Some(place) = self.place.remove(&address) {
            self.order.remove(&place);
        }
    }
}

// Places are an implementation detail: two replicas with the same order encode the same bytes.
impl<A: Serialize> Serialize for Freed<A> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.order.values())
    }
}

impl<'de, A: Copy + Ord + Deserialize<'de>> Deserialize<'de> for Freed<A> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut freed = Self::default();
        for address in Vec::<A>::deserialize(deserializer)? {
            freed.push(address);
        }
        Ok(freed)
    }
}
