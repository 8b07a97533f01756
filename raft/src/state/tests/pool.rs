use std::collections::VecDeque;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::net;
use crate::codec::{decode, encode};
use crate::model::Subnet;
use crate::state::limits;
use crate::state::pool::AddressPool;

fn subnet(cidr: &str, gateway: [u8; 4]) -> Subnet {
    Subnet {
        cidr: net(cidr),
        gateway: gateway.into(),
    }
}

/// Says the same with lists of everything.
struct Model {
    unused: Vec<Ipv4Addr>,
    freed: VecDeque<Ipv4Addr>,
    held: Vec<Ipv4Addr>,
}

impl Model {
    fn new(subnets: &[Subnet]) -> Self {
        let addresses = |subnet: &Subnet| {
            let gateway = subnet.gateway;
            subnet
                .cidr
                .hosts()
                .filter(move |address| *address != gateway)
        };
        Self {
            unused: subnets.iter().flat_map(addresses).collect(),
            freed: VecDeque::new(),
            held: Vec::new(),
        }
    }

    fn next(&self) -> Option<Ipv4Addr> {
        self.unused.first().or(self.freed.front()).copied()
    }

    fn take(&mut self, address: Ipv4Addr) {
        self.unused.retain(|other| *other != address);
        self.freed.retain(|other| *other != address);
        self.held.push(address);
    }

    fn free(&mut self, which: usize) -> Ipv4Addr {
        let address = self.held.remove(which);
        self.freed.push_back(address);
        address
    }
}

#[derive(Clone, Debug)]
enum Step {
    Next,
    Ask(prop::sample::Index),
    Free(prop::sample::Index),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Next),
        2 => any::<prop::sample::Index>().prop_map(Step::Ask),
        4 => any::<prop::sample::Index>().prop_map(Step::Free),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn addresses_come_in_order_and_then_by_how_long_they_were_free(
        steps in proptest::collection::vec(step(), 0..120),
    ) {
        let subnets = [
            subnet("10.0.0.0/29", [10, 0, 0, 1]),
            subnet("10.9.0.0/28", [10, 9, 0, 7]),
        ];
        let mut pool = AddressPool::new(&subnets);
        let mut model = Model::new(&subnets);
        for step in steps {
            prop_assert_eq!(pool.next(), model.next());
            match step {
                Step::Next => {
                    if let Some(address) = model.next() {
                        model.take(address);
                        pool.take(address);
                    }
                }
                Step::Ask(which) => {
                    let free: Vec<_> = model.unused.iter().chain(&model.freed).copied().collect();
                    if !free.is_empty() {
                        let address = *which.get(&free);
                        model.take(address);
                        pool.take(address);
                    }
                }
                Step::Free(which) => {
                    if !model.held.is_empty() {
                        pool.free(model.free(which.index(model.held.len())));
                    }
                }
                Step::Restart => {
                    let bytes = encode(&pool).unwrap();
                    pool = decode(&bytes).unwrap();
                    prop_assert_eq!(encode(&pool).unwrap(), bytes);
                }
            }
        }
    }
}

#[test]
fn a_large_network_remembers_a_bounded_number_of_freed_addresses() {
    let mut pool = AddressPool::new(&[subnet("10.0.0.0/8", [10, 0, 0, 1])]);
    let mut reused = 0;
    for _ in 0..2 * limits::FREED_ADDRESSES {
        let address = pool.next().unwrap();
        pool.take(address);
        pool.free(address);
        reused += usize::from(address == Ipv4Addr::new(10, 0, 0, 2));
    }
    // The first address came back once, after all others that were freed before it.
    assert_eq!(reused, 2);
    assert!(encode(&pool).unwrap().len() < 5 * limits::FREED_ADDRESSES + 100);
}
