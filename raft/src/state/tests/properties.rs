//! What holds after any commands in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::model::{NetworkId, NodeId, Vni};

/// A log: commands with request ids, some of which repeat.
fn any_log() -> impl Strategy<Value = Vec<Proposal>> {
    vec(
        (any_command(), proptest::option::weighted(0.05, 0u64..40)),
        0..300,
    )
    .prop_map(|entries| {
        let init = Command::Init(Box::new(small_cluster()));
        let commands = entries.into_iter().enumerate();
        std::iter::once(proposal(1_000, init))
            .chain(commands.map(|(number, (command, repeats))| {
                proposal(repeats.unwrap_or(number as u64), command)
            }))
            .collect()
    })
}

fn replay(state: &mut State, log: &[Proposal]) -> Vec<(Outcome, Vec<Change>)> {
    log.iter()
        .map(|proposal| state.apply(state.view().revision + 1, proposal))
        .collect()
}

fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// All subnets with the network that has them.
fn subnets(view: &View) -> impl Iterator<Item = (NetworkId, Ipv4Net)> + '_ {
    (view.networks.values()).flat_map(|network| {
        network
            .subnets
            .iter()
            .map(|subnet| (network.id, subnet.cidr))
    })
}

fn routes(view: &View) -> impl Iterator<Item = Ipv4Net> + '_ {
    (view.nodes.values())
        .flat_map(|node| &node.host_routes)
        .filter_map(|route| match route {
            IpNet::V4(v4) if v4.prefix_len() > 0 => Some(*v4),
            _ => None,
        })
}

/// The subnet that a network without wishes gets, found by trying all.
fn lowest_free_subnet(view: &View) -> Option<Ipv4Net> {
    let cluster = view.cluster.as_ref()?;
    let candidates =
        (cluster.pools.iter()).flat_map(|pool| pool.subnets(cluster.pool_mask_length).unwrap());
    let taken: Vec<_> = subnets(view)
        .map(|(_, cidr)| cidr)
        .chain(routes(view))
        .collect();
    { candidates }.find(|candidate| !taken.iter().any(|taken| overlap(taken, candidate)))
}

fn lowest_free_vni(view: &View) -> u32 {
    let taken: BTreeSet<u32> = view
        .networks
        .values()
        .map(|network| network.vni.get())
        .collect();
    (Vni::FIRST.get()..)
        .find(|vni| !taken.contains(vni))
        .unwrap()
}

fn assert_each_once<T: Ord + std::fmt::Debug>(what: &str, held: impl Iterator<Item = T>) {
    let mut seen = BTreeSet::new();
    for one in held {
        assert!(!seen.contains(&one), "{what} {one:?} is held twice");
        seen.insert(one);
    }
}

fn assert_nothing_is_held_twice(view: &View) {
    let networks = || view.networks.values();
    let endpoints = || view.endpoints.values();
    assert_each_once("network name", networks().map(|n| &n.name));
    assert_each_once("VNI", networks().map(|n| n.vni));
    assert_each_once(
        "node name",
        view.nodes.values().map(|n| n.name.to_lowercase()),
    );
    assert_each_once(
        "Raft id",
        view.nodes.values().map(|n| n.raft_id).filter(|id| *id != 0),
    );
    assert_each_once("address", endpoints().map(|e| (e.network, e.ipv4)));
    assert_each_once("MAC address", endpoints().map(|e| (e.network, e.mac)));
    assert_each_once("endpoint name", endpoints().map(|e| (e.network, &e.name)));
    let namespace = |e: &Endpoint| (e.node, e.attachment.device, e.attachment.inode);
    assert_each_once("namespace", endpoints().map(|e| (e.network, namespace(e))));
    assert_each_once("interface", endpoints().map(|e| (namespace(e), &e.ifname)));
    assert_eq!(
        networks()
            .filter(|n| n.ingress && n.name == "ingress")
            .count(),
        1
    );
}

fn assert_references_hold(view: &View) {
    for endpoint in view.endpoints.values() {
        assert!(view.nodes.contains_key(&endpoint.node));
        let network = &view.networks[&endpoint.network];
        let subnet = (network.subnets.iter())
            .find(|s| s.cidr.contains(&endpoint.ipv4))
            .unwrap();
        let reserved = [
            subnet.gateway,
            subnet.cidr.network(),
            subnet.cidr.broadcast(),
        ];
        assert!(!reserved.contains(&endpoint.ipv4), "{endpoint:?}");
    }
}

/// Checks an outcome against the view before it, by means that are slow and obvious.
fn assert_assigned_right(before: &View, command: &Command, outcome: &Outcome) {
    let Command::CreateNetwork(spec) = command else {
        return;
    };
    match outcome {
        Ok(Applied {
            object: Object::Network(network),
            ..
        }) => {
            if spec.vni.is_none() {
                assert_eq!(network.vni.get(), lowest_free_vni(before));
            }
            if spec.subnets.is_empty() {
                assert_eq!(Some(network.subnets[0].cidr), lowest_free_subnet(before));
            }
            for subnet in &network.subnets {
                assert!(!routes(before).any(|route| overlap(&route, &subnet.cidr)));
                let clash = subnets(before).find(|(_, cidr)| overlap(cidr, &subnet.cidr));
                assert!(spec.allow_overlap || clash.is_none(), "{clash:?}");
            }
        }
        Err(Refusal {
            kind: RefusalKind::Exhausted,
            ..
        }) => {
            assert_eq!(lowest_free_subnet(before), None);
        }
        _ => {}
    }
}

/// Which address comes next, by lists of everything.
#[derive(Default)]
struct Addresses {
    unused: Vec<Ipv4Addr>,
    freed: Vec<Ipv4Addr>,
}

/// Follows the changes and says what each endpoint without wishes must have got.
#[derive(Default)]
struct Oracle {
    networks: BTreeMap<NetworkId, Addresses>,
}

impl Oracle {
    fn check(&mut self, before: &View, command: &Command, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Network(network) => {
                    let hosts = network.subnets.iter().flat_map(|subnet| {
                        subnet.cidr.hosts().filter(|host| *host != subnet.gateway)
                    });
                    let addresses = Addresses {
                        unused: hosts.collect(),
                        freed: Vec::new(),
                    };
                    self.networks.insert(network.id, addresses);
                }
                Change::NetworkGone(id) => {
                    self.networks.remove(id);
                }
                Change::Endpoint(endpoint) => {
                    let addresses = self.networks.get_mut(&endpoint.network).unwrap();
                    let next = addresses
                        .unused
                        .first()
                        .or(addresses.freed.first())
                        .copied();
                    if matches!(command, Command::CreateEndpoint(spec) if spec.ipv4.is_none()) {
                        assert_eq!(Some(endpoint.ipv4), next);
                    }
                    addresses.unused.retain(|address| *address != endpoint.ipv4);
                    addresses.freed.retain(|address| *address != endpoint.ipv4);
                }
                Change::EndpointGone(id) => {
                    let endpoint = &before.endpoints[id];
                    let addresses = self.networks.get_mut(&endpoint.network).unwrap();
                    addresses.freed.push(endpoint.ipv4);
                }
                Change::Cluster(_) | Change::Node(_) | Change::NodeGone(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn nothing_is_ever_held_twice_and_all_is_assigned_in_order(log in any_log()) {
        let mut state = State::new();
        let mut replica = View::default();
        let mut oracle = Oracle::default();
        let mut firsts: BTreeMap<[u8; 16], Outcome> = BTreeMap::new();
        for proposal in log {
            let before = state.view().clone();
            let secrets = state.secrets().cloned();
            let index = before.revision + 1;
            let (outcome, changes) = state.apply(index, &proposal);
            replica.apply(index, &changes);
            prop_assert_eq!(&replica, state.view());
            assert_nothing_is_held_twice(state.view());
            assert_references_hold(state.view());
            oracle.check(&before, &proposal.command, &changes);
            if let Some(first) = firsts.get(&proposal.request) {
                prop_assert_eq!(&outcome, first);
                prop_assert_eq!(&changes, &[]);
            } else {
                assert_assigned_right(&before, &proposal.command, &outcome);
                firsts.insert(proposal.request, outcome.clone());
            }
            if outcome.is_err() {
                prop_assert_eq!(&changes, &[]);
                prop_assert_eq!(state.secrets(), secrets.as_ref());
                let unchanged = View { revision: index, ..before };
                prop_assert_eq!(state.view(), &unchanged);
            }
        }
    }

    #[test]
    fn a_snapshot_goes_on_as_the_original_does(log in any_log(), cut: prop::sample::Index) {
        let cut = cut.index(log.len());
        let mut original = State::new();
        replay(&mut original, &log[..cut]);
        let bytes = encode(&original).unwrap();
        let mut restored: State = decode(&bytes).unwrap();
        prop_assert_eq!(encode(&restored).unwrap(), bytes);
        prop_assert_eq!(original.index.bytes, restored.index.bytes);
        prop_assert_eq!(replay(&mut original, &log[cut..]), replay(&mut restored, &log[cut..]));
        prop_assert_eq!(encode(&original).unwrap(), encode(&restored).unwrap());
    }

    #[test]
    fn one_log_leads_to_one_state_byte_for_byte(log in any_log()) {
        let (mut first, mut second) = (State::new(), State::new());
        prop_assert_eq!(replay(&mut first, &log), replay(&mut second, &log));
        prop_assert_eq!(encode(&first).unwrap(), encode(&second).unwrap());
    }

    #[test]
    fn row_revisions_say_when_a_row_changed(log in any_log()) {
        let mut state = State::new();
        for (number, (_, changes)) in replay(&mut state, &log).into_iter().enumerate() {
            for change in changes {
                let revision = match change {
                    Change::Node(node) => node.revision,
                    Change::Network(network) => network.revision,
                    Change::Endpoint(endpoint) => endpoint.revision,
                    _ => continue,
                };
                prop_assert_eq!(revision, number as u64 + 1);
            }
        }
    }

    #[test]
    fn managers_are_found_by_their_raft_id(log in any_log()) {
        let mut state = State::new();
        replay(&mut state, &log);
        let by_scan: BTreeMap<u64, NodeId> = (state.view().nodes.values())
            .filter(|node| node.role == crate::model::Role::Manager)
            .map(|node| (node.raft_id, node.id))
            .collect();
        for raft_id in 0..=state.view().revision {
            let found = state.raft_node(raft_id).map(|node| node.id);
            prop_assert_eq!(found, by_scan.get(&raft_id).copied());
        }
    }
}
