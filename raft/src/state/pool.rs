use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::limits;
use crate::model::Subnet;

/// Which address of a network comes next: those never used in order, then the one that has been
/// free for longest. Old holders' connections and neighbours' caches get as much time as there is
/// to forget an address.
///
/// Takes memory for addresses that were used and freed, none for those that are still in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct AddressPool {
    ranges: Vec<Range>,
    freed: Freed,
}

/// The addresses of one subnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Range {
    // Next never used address; past `last` when all were used.
    next: u32,
    last: u32,
    gateway: u32,
    // Used ones after `next`: they were asked for.
    ahead: BTreeSet<u32>,
}

impl AddressPool {
    /// All addresses of `subnets` but network address, gateway and broadcast address.
    pub(super) fn new(subnets: &[Subnet]) -> Self {
        Self {
            ranges: subnets.iter().map(Range::new).collect(),
            freed: Freed::default(),
        }
    }

    /// The address to assign next.
    pub(super) fn next(&self) -> Option<Ipv4Addr> {
        let unused = || self.ranges.iter().find_map(Range::next);
        if self.freed.len() > limits::FREED_ADDRESSES {
            return self.freed.oldest().or_else(unused);
        }
        unused().or_else(|| self.freed.oldest())
    }

    /// Marks an address as held.
    pub(super) fn take(&mut self, address: Ipv4Addr) {
        self.freed.remove(address);
        for range in &mut self.ranges {
            range.take(address.into());
        }
    }

    /// Gives back an address that was taken; it comes after all that are free now.
    pub(super) fn free(&mut self, address: Ipv4Addr) {
        self.freed.push(address);
    }
}

impl Range {
    fn new(subnet: &Subnet) -> Self {
        let mut range = Self {
            next: u32::from(subnet.cidr.network()) + 1,
            last: u32::from(subnet.cidr.broadcast()) - 1,
            gateway: subnet.gateway.into(),
            ahead: BTreeSet::new(),
        };
        range.skip_used();
        range
    }

    fn next(&self) -> Option<Ipv4Addr> {
        (self.next <= self.last).then(|| self.next.into())
    }

    fn take(&mut self, address: u32) {
        if (self.next..=self.last).contains(&address) {
            self.ahead.insert(address);
            self.skip_used();
        }
    }

    fn skip_used(&mut self) {
        while self.next <= self.last && (self.next == self.gateway || self.ahead.remove(&self.next))
        {
            self.next += 1;
        }
    }
}

/// Addresses that were held and are not any more, oldest first.
#[derive(Clone, Debug, Default)]
struct Freed {
    order: BTreeMap<u64, Ipv4Addr>,
    place: BTreeMap<Ipv4Addr, u64>,
}

impl Freed {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn oldest(&self) -> Option<Ipv4Addr> {
        self.order.first_key_value().map(|(_, address)| *address)
    }

    fn push(&mut self, address: Ipv4Addr) {
        self.remove(address);
        let place = self.order.last_key_value().map_or(0, |(last, _)| last + 1);
        self.order.insert(place, address);
        self.place.insert(address, place);
    }

    fn remove(&mut self, address: Ipv4Addr) {
        if let Some(place) = self.place.remove(&address) {
            self.order.remove(&place);
        }
    }
}

// Places are an implementation detail: two replicas with the same order encode the same bytes.
impl Serialize for Freed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.order.values())
    }
}

impl<'de> Deserialize<'de> for Freed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut freed = Self::default();
        for address in Vec::<Ipv4Addr>::deserialize(deserializer)? {
            freed.push(address);
        }
        Ok(freed)
    }
}
