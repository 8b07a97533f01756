use std::collections::VecDeque;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::command::SubnetSpec;
use crate::model::{IpFamily, Network, Subnet};
use crate::state::pool::AddressPool;

/// The subnets of a network with three reserved addresses, by their gateways and ranges.
fn network(subnets: &[(&str, &str, Option<&str>)]) -> Network {
    let mut pair = Pair::cluster();
    let subnets = subnets.iter().map(|(cidr, gateway, range)| SubnetSpec {
        cidr: net(cidr),
        gateway: Some(gateway.parse().unwrap()),
        range: range.map(net),
    });
    let aux = ["10.9.0.5", "fd00::4", "fd00::5"].map(|a| (a.to_owned(), a.parse().unwrap()));
    let mut made = Network::clone(&pair.network(NetworkSpec {
        subnets: subnets.collect(),
        ..network_spec(1, "web")
    }));
    made.aux_addresses = aux.into();
    made
}

/// The addresses of a subnet that may be assigned, in order.
fn addresses(network: &Network, subnet: &Subnet) -> Vec<IpAddr> {
    let hosts: Vec<IpAddr> = match subnet.cidr {
        IpNet::V4(cidr) => cidr.hosts().map(IpAddr::V4).collect(),
        // With the address of any router, which names none.
        IpNet::V6(cidr) => cidr.hosts().skip(1).map(IpAddr::V6).collect(),
    };
    let reserved: Vec<IpAddr> = (network.aux_addresses.values().copied())
        .chain([subnet.gateway])
        .collect();
    let range = subnet.range.unwrap_or(subnet.cidr);
    let hosts = hosts.into_iter();
    hosts
        .filter(|host| range.contains(host) && !reserved.contains(host))
        .collect()
}

/// Says the same with lists of everything.
struct Model {
    unused: Vec<IpAddr>,
    freed: VecDeque<IpAddr>,
    held: Vec<IpAddr>,
}

impl Model {
    fn new(network: &Network, family: IpFamily) -> Self {
        let of_family = network.subnets.iter().filter(|s| s.family() == family);
        Self {
            unused: of_family.flat_map(|s| addresses(network, s)).collect(),
            freed: VecDeque::new(),
            held: Vec::new(),
        }
    }

    fn next(&self) -> Option<IpAddr> {
        self.unused.first().or(self.freed.front()).copied()
    }

    fn take(&mut self, address: IpAddr) {
        self.unused.retain(|other| *other != address);
        self.freed.retain(|other| *other != address);
        self.held.push(address);
    }

    fn free(&mut self, which: usize) -> IpAddr {
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
    Grow,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Next),
        2 => any::<prop::sample::Index>().prop_map(Step::Ask),
        4 => any::<prop::sample::Index>().prop_map(Step::Free),
        1 => Just(Step::Restart),
        1 => Just(Step::Grow),
    ]
}

proptest! {
    #[test]
    fn addresses_come_in_order_and_then_by_how_long_they_were_free(
        steps in proptest::collection::vec((step(), any::<bool>()), 0..160),
    ) {
        let mut network = network(&[
            ("10.1.0.0/29", "10.1.0.1", None),
            ("fd00::/125", "fd00::1", None),
            ("10.9.0.0/27", "10.9.0.7", Some("10.9.0.4/30")),
            ("fd00:1::/124", "fd00:1::3", Some("fd00:1::8/125")),
        ]);
        let further = network.subnets.split_off(3);
        let later = network.subnets.split_off(2);
        let mut growth = VecDeque::from([later, further]);
        let mut pool = AddressPool::new(&network);
        let families = [IpFamily::V4, IpFamily::V6];
        let mut models = families.map(|family| Model::new(&network, family));
        for (step, v6) in steps {
            for (model, family) in models.iter().zip(families) {
                prop_assert_eq!(pool.next(family), model.next());
            }
            let model = &mut models[usize::from(v6)];
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
                Step::Grow => {
                    for subnet in growth.pop_front().into_iter().flatten() {
                        let of_family = usize::from(subnet.family() == IpFamily::V6);
                        models[of_family].unused.extend(addresses(&network, &subnet));
                        network.subnets.push(subnet);
                    }
                    pool.cover(&network);
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
    let network = network(&[("20.0.0.0/8", "20.0.0.1", None)]);
    let mut pool = AddressPool::new(&network);
    let mut reused = 0;
    for _ in 0..2 * limits::FREED_ADDRESSES {
        let address = pool.next(IpFamily::V4).unwrap();
        pool.take(address);
        pool.free(address);
        reused += usize::from(address == IpAddr::from([20, 0, 0, 2]));
    }
    // The first address came back once, after all others that were freed before it.
    assert_eq!(reused, 2);
    assert!(encode(&pool).unwrap().len() < 5 * limits::FREED_ADDRESSES + 100);
}
