//! What holds after any commands in any order.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;

use super::oracle::Oracle;
use super::*;
use crate::command::SubnetSpec;
use crate::model::{
    BackendState, EndpointMode, IpFamily, NetworkId, NodeId, PublishMode, PublishedPort, Vni,
};

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

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// All subnets with the network that has them.
fn subnets(view: &View) -> impl Iterator<Item = (NetworkId, IpNet)> + '_ {
    (view.networks.values()).flat_map(|network| {
        network
            .subnets
            .iter()
            .map(|subnet| (network.id, subnet.cidr))
    })
}

fn routes(view: &View) -> impl Iterator<Item = IpNet> + '_ {
    (view.nodes.values())
        .flat_map(|node| &node.host_routes)
        .filter(|route| route.prefix_len() > 0)
        .copied()
}

/// The subnet that a network without wishes gets, found by trying all.
fn lowest_free_subnet(view: &View) -> Option<IpNet> {
    let cluster = view.cluster.as_ref()?;
    let candidates =
        (cluster.pools.iter()).flat_map(|pool| pool.subnets(cluster.pool_mask_length).unwrap());
    lowest_free(view, candidates.map(IpNet::V4))
}

/// As [`lowest_free_subnet`], of IPv6: of the first of the cluster's 65,536.
fn lowest_free_subnet6(view: &View) -> Option<IpNet> {
    let candidates = view.cluster.as_ref()?.ula_prefix().subnets(64).unwrap();
    lowest_free(view, candidates.take(64).map(IpNet::V6))
}

fn lowest_free(view: &View, candidates: impl Iterator<Item = IpNet>) -> Option<IpNet> {
    let taken: Vec<_> = subnets(view)
        .map(|(_, cidr)| cidr)
        .chain(routes(view))
        .collect();
    let mut candidates = candidates;
    candidates.find(|candidate| !taken.iter().any(|taken| overlap(taken, candidate)))
}

fn lowest_free_vni(view: &View) -> u32 {
    let taken: BTreeSet<u32> = view
        .networks
        .values()
        .filter_map(|network| network.vni.map(Vni::get))
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
    assert_each_once("VNI", networks().filter_map(|n| n.vni));
    assert_each_once(
        "node name",
        view.nodes.values().map(|n| n.name.to_lowercase()),
    );
    assert_each_once(
        "Raft id",
        view.nodes.values().map(|n| n.raft_id).filter(|id| *id != 0),
    );
    let held = |network| {
        view.held_addresses(network)
            .map(move |address| (network, address))
    };
    assert_each_once("address", view.networks.keys().copied().flat_map(held));
    assert_each_once("MAC address", endpoints().map(|e| (e.network, e.mac)));
    assert_each_once("endpoint name", endpoints().map(|e| (e.network, &e.name)));
    assert_each_once("service name", view.services.values().map(|s| &s.name));
    assert_no_port_is_published_twice(view);
    let namespace = |e: &Endpoint| (e.node, e.attachment.device, e.attachment.inode);
    assert_each_once("namespace", endpoints().map(|e| (e.network, namespace(e))));
    assert_each_once("interface", endpoints().map(|e| (namespace(e), &e.ifname)));
    assert!(networks().filter(|n| n.ingress).count() <= 1);
    assert!(networks().all(|n| n.ingress || n.name != "ingress"));
}

fn assert_no_port_is_published_twice(view: &View) {
    let ports: Vec<&PublishedPort> = (view.services.values()).flat_map(|s| &s.ports).collect();
    for (number, port) in ports.iter().enumerate() {
        assert_ne!(port.published, 0);
        let other = ports
            .iter()
            .skip(number + 1)
            .find(|other| clash(port, other));
        assert!(other.is_none(), "{port:?} and {other:?}");
    }
}

fn clash(a: &PublishedPort, b: &PublishedPort) -> bool {
    (a.protocol, a.published) == (b.protocol, b.published)
        && (a.ip == b.ip || a.ip.is_none() || b.ip.is_none())
}

fn assert_references_hold(view: &View) {
    for endpoint in view.endpoints.values() {
        assert!(view.nodes.contains_key(&endpoint.node));
        assert!(view.networks.contains_key(&endpoint.network));
        match endpoint.service.map(|service| &view.services[&service]) {
            Some(service) => {
                assert!(
                    service
                        .networks
                        .iter()
                        .any(|on| on.network == endpoint.network)
                );
            }
            None => assert_eq!(endpoint.backend, BackendState::Starting),
        }
    }
    for service in view.services.values() {
        assert!(!service.networks.is_empty());
        for on in &service.networks {
            assert!(!view.networks[&on.network].ingress);
            assert_eq!(on.vip.is_some(), service.mode == EndpointMode::Vip);
        }
        let ingress = |port: &PublishedPort| port.mode == PublishMode::Ingress;
        if service.ports.iter().any(ingress) {
            assert!(service.mode == EndpointMode::Vip && is_meshed(view));
        }
    }
    assert!(is_meshed(view) || view.nodes.values().all(|node| node.ingress.is_none()));
    for network in view.networks.values() {
        for address in view.held_addresses(network.id) {
            let subnet = network
                .subnets
                .iter()
                .find(|s| s.cidr.contains(&address))
                .unwrap();
            let (first, last) = (subnet.cidr.network(), subnet.cidr.broadcast());
            assert!(![subnet.gateway, first].contains(&address), "{address}");
            assert!(address.is_ipv6() || address != last, "{address}");
            assert!(network.aux_addresses.values().all(|aux| *aux != address));
        }
    }
    for endpoint in view.endpoints.values() {
        let network = &view.networks[&endpoint.network];
        assert_eq!(endpoint.ipv4.is_some(), network.has(IpFamily::V4));
        assert_eq!(endpoint.ipv6.is_some(), network.has(IpFamily::V6));
    }
}

/// A service that ends with its endpoints has one, if it ever had.
fn assert_services_end(before: &View, after: &View, command: &Command) {
    let members = |view: &View, id| {
        let members = view.endpoints.values();
        { members }.filter(|row| row.service == Some(id)).count()
    };
    let marked = before.services.values();
    for service in { marked }.filter(|service| service.ends_with_endpoints) {
        let (was, is) = (members(before, service.id), members(after, service.id));
        let stays = after.services.contains_key(&service.id);
        let by_hand = matches!(command, Command::RemoveService { id } if *id == service.id);
        match stays {
            true => assert!(was == 0 || is > 0, "{service:?}"),
            false => assert!(was > 0 || by_hand, "{service:?}"),
        }
    }
}

fn is_meshed(view: &View) -> bool {
    view.networks.values().any(|network| network.ingress)
}

/// Checks an outcome against the view before it, by means that are slow and obvious.
fn assert_assigned_right(before: &View, command: &Command, outcome: &Outcome) {
    let spec = match command {
        Command::CreateNetwork(spec) => spec,
        Command::CreateService(spec) => return assert_ports_right(before, &spec.ports, outcome),
        Command::UpdateService { change, .. } => {
            let ports = change.ports.as_deref().unwrap_or_default();
            return assert_ports_right(before, ports, outcome);
        }
        _ => return,
    };
    match outcome {
        Ok(Applied {
            object: Object::Network(network),
            ..
        }) => {
            if spec.vni.is_none() {
                let lowest = lowest_free_vni(before);
                let wanted = if spec.ingress { 4096 } else { lowest };
                let wanted = spec.driver.has_tunnels().then_some(wanted);
                assert_eq!(network.vni.map(Vni::get), wanted);
            }
            if spec.subnets.is_empty() {
                assert_eq!(Some(network.subnets[0].cidr), lowest_free_subnet(before));
            }
            let v6 = |spec: &SubnetSpec| spec.cidr.network().is_ipv6();
            if spec.ipv6 && !spec.subnets.iter().any(v6) {
                let last = network.subnets.last().map(|subnet| subnet.cidr);
                assert_eq!(last, lowest_free_subnet6(before));
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
            assert!(spec.ingress || lowest_free_subnet(before).is_none());
        }
        _ => {}
    }
}

/// Each port that was left open was published for the same target before, or is the lowest that
/// neither another service nor the rest of the request has.
fn assert_ports_right(before: &View, wanted: &[PublishedPort], outcome: &Outcome) {
    let Ok(Applied {
        object: Object::Service(service),
        ..
    }) = outcome
    else {
        return;
    };
    let others: Vec<&PublishedPort> = (before.services.values())
        .filter(|other| other.id != service.id)
        .flat_map(|other| &other.ports)
        .collect();
    let had = (before.services.get(&service.id)).map_or(&[][..], |service| &service.ports);
    for (port, _) in service
        .ports
        .iter()
        .zip(wanted)
        .filter(|(_, wanted)| wanted.published == 0)
    {
        let to = |port: &PublishedPort| (port.published, port.target, port.protocol);
        if had.iter().any(|old| to(old) == to(port)) {
            continue;
        }
        assert!(limits::DYNAMIC_PORTS.contains(&port.published));
        for published in *limits::DYNAMIC_PORTS.start()..port.published {
            let lower = PublishedPort {
                published,
                ..port.clone()
            };
            let holders = others.iter().copied().chain(&service.ports);
            assert!(
                { holders }.any(|held| clash(held, &lower)),
                "{published} was free"
            );
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
            assert_services_end(&before, state.view(), &proposal.command);
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
                    Change::Service(service) => service.revision,
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
