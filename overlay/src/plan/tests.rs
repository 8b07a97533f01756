use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::model::apply;
use super::{endpoint_faults, names, plan};
use crate::observed::*;
use crate::op::Op;
use crate::spec::*;

const NETWORK: &str = "networkaaaaaaaaa";

fn mac(n: u8) -> Mac {
    Mac([0x02, 0x42, 10, 0, 1, n])
}

fn address(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 1, n))
}

fn vtep(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, n))
}

fn endpoint(n: u8) -> String {
    format!("endpoint{n}aaaaaaa")
}

// Small ranges, so that what is wanted and what is there meet often.
fn any_mac() -> impl Strategy<Value = Mac> {
    (2u8..8).prop_map(mac)
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    (2u8..8).prop_map(address)
}

fn any_vtep() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        4 => (1u8..5).prop_map(vtep),
        1 => Just("fd00::1".parse().unwrap()),
    ]
}

fn any_net() -> impl Strategy<Value = IpNet> {
    (
        prop_oneof![4 => any_address(), 1 => Just("fd11::2".parse().unwrap())],
        prop_oneof![Just(24u8), Just(32)],
    )
        .prop_map(|(address, length)| IpNet::new(address, length).unwrap())
}

fn any_mtu() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1450u32), Just(1400)]
}

fn any_ifname() -> impl Strategy<Value = String> {
    prop_oneof![Just("eth0".to_owned()), Just("weft0".to_owned())]
}

fn any_endpoint() -> impl Strategy<Value = String> {
    (1u8..5).prop_map(endpoint)
}

fn any_route() -> impl Strategy<Value = StaticRoute> {
    (0u8..3, option::of(any_address())).prop_map(|(n, via)| StaticRoute {
        destination: IpNet::new(IpAddr::V4(Ipv4Addr::new(172, 16, n, 0)), 24).unwrap(),
        via,
    })
}

prop_compose! {
    fn any_local()(ifname in any_ifname(), mac in any_mac(), nets in vec(any_net(), 0..3),
                   routes in btree_set(any_route(), 0..3),
                   inode in 1u64..9, forwards: bool) -> LocalEndpoint {
        LocalEndpoint {
            netns: NetnsRef { path: "/x".into(), device: 4, inode },
            ifname,
            mac,
            addresses: nets,
            routes,
            forwards,
        }
    }
}

prop_compose! {
    fn any_remote()(addresses in vec(any_address(), 0..3), vtep in any_vtep()) -> Remote {
        Remote { addresses, vtep }
    }
}

fn any_tunnel() -> impl Strategy<Value = Tunnel> {
    prop_oneof![
        1 => Just(Tunnel::Closed),
        3 => Just(Tunnel::Vxlan),
        2 => Just(Tunnel::Port),
    ]
}

prop_compose! {
    fn any_spec()(
        vni in 4096u32..4098,
        mtu in any_mtu(),
        local in any_vtep(),
        port in 4789u16..4791,
        (tunnel, multicast) in (any_tunnel(), any::<bool>()),
        locals in btree_map(any_endpoint(), any_local(), 0..4),
        remotes in btree_map(any_mac(), any_remote(), 0..5),
        flood in btree_set(any_vtep(), 0..3),
    ) -> SandboxSpec {
        SandboxSpec {
            vni, mtu, vtep: Vtep { local, port }, tunnel, multicast, locals, remotes, flood,
        }
    }
}

prop_compose! {
    fn any_link()(mtu in any_mtu(), up: bool, quiet: bool, alias in option::of(any_endpoint()))
        -> Link {
        Link { mtu, up, quiet, alias: alias.map(|id| names::alias(&id)) }
    }
}

prop_compose! {
    fn any_member()(bridged: bool, learning: bool) -> Membership {
        Membership { bridged, learning: bridged && learning }
    }
}

prop_compose! {
    fn any_forward()(zero in prop::bool::weighted(0.2), mac in any_mac(),
                     vtep in option::weighted(0.9, any_vtep()),
                     port in option::weighted(0.1, Just(9u16)),
                     vni in option::weighted(0.1, Just(7u32)),
                     permanent in prop::bool::weighted(0.8)) -> Forward {
        Forward { mac: if zero { Mac::ZERO } else { mac }, vtep, port, vni, permanent }
    }
}

prop_compose! {
    fn any_vxlan()(
        link in any_link(),
        member in any_member(),
        vni in 4096u32..4098,
        host_underlay in prop::bool::weighted(0.9),
        usual in prop::bool::weighted(0.9),
        local in option::weighted(0.9, any_vtep()),
        learning: bool,
        ttl in prop_oneof![Just(64u8), Just(0)],
        forwards in btree_set(any_forward(), 0..6),
        neighbours in btree_map(any_address(), (any_mac(), any::<bool>()), 0..5),
    ) -> Vxlan {
        let neighbours = neighbours
            .into_iter()
            .filter(|_| link.up)
            .map(|(address, (mac, permanent))| (address, Neighbour { mac, permanent }))
            .collect();
        let fixed = VxlanFixed { vni, port: 4789, host_underlay, usual };
        Vxlan { link, member, fixed, local, learning, ttl, forwards, neighbours }
    }
}

prop_compose! {
    fn any_inner()(ifname in any_ifname(), mac in any_mac(), mtu in any_mtu(), up: bool,
                   gso_max_segs in prop_oneof![Just(31u32), Just(65_535)],
                   gso_max_size in prop_oneof![Just(65_500u32), Just(65_536)], ipv6_off: bool,
                   alias in option::of(any_endpoint()),
                   addresses in btree_set(any_net(), 0..4),
                   routes in btree_set(any_route(), 0..3)) -> Inner {
        let routes = routes.into_iter().filter(|_| up).collect();
        let addresses =
            addresses.into_iter().filter(|net| net.addr().is_ipv4() || !ipv6_off).collect();
        Inner { ifname, mac, mtu, up, gso_max_segs, gso_max_size, ipv6_off, addresses, routes,
                alias: alias.map(|id| names::alias(&id)) }
    }
}

prop_compose! {
    fn any_port()(link in any_link(), member in any_member(),
                  home in option::weighted(0.7, any_inner())) -> Port {
        Port { link, member, peer: home.map_or(Peer::Elsewhere, Peer::Home) }
    }
}

prop_compose! {
    fn any_sandbox()(
        tuned: bool,
        bridge in option::weighted(0.8, (any_link(), any::<bool>())),
        vxlan in option::weighted(0.8, any_vxlan()),
        tap in option::of((any_link(), any_member())),
        ports in btree_map(any_endpoint(), any_port(), 0..4),
        strays in btree_set(prop_oneof![Just("vxlan0"), Just("br0"), Just("esp0"), Just("vx9")], 0..2),
        stations in btree_map(any_mac(), prop_oneof![
            any_endpoint().prop_map(|id| names::port(&id)), Just("vxlan0".to_owned()),
            Just("esp0".to_owned())], 0..5),
    ) -> Sandbox {
        let mut sandbox = Sandbox {
            tuned,
            bridge: bridge.map(|(link, plain)| Bridge { link, plain }),
            vxlan,
            tap: tap.map(|(link, member)| Tap { link, member }),
            ports: ports.into_iter().map(|(id, port)| (names::port(&id), port)).collect(),
            strays: strays.into_iter().map(str::to_owned).collect(),
            stations,
        };
        make_possible(&mut sandbox);
        sandbox
    }
}

/// Takes out what no kernel can show.
fn make_possible(sandbox: &mut Sandbox) {
    if sandbox.bridge.is_some() {
        sandbox.strays.remove(names::BRIDGE);
    }
    if sandbox.vxlan.is_some() {
        sandbox.strays.remove(names::VXLAN);
    }
    if sandbox.tap.is_some() {
        sandbox.strays.remove(names::TAP);
    }
    let bridged = sandbox.bridge.is_some();
    let members = sandbox.ports.values_mut().map(|port| &mut port.member);
    let members = members.chain(sandbox.vxlan.as_mut().map(|v| &mut v.member));
    for member in members.chain(sandbox.tap.as_mut().map(|t| &mut t.member)) {
        member.bridged &= bridged;
        member.learning &= member.bridged;
    }
    let is_port = |name: &String| {
        let port = sandbox.ports.get(name).is_some_and(|p| p.member.bridged);
        let vxlan = sandbox.vxlan.as_ref().is_some_and(|v| v.member.bridged);
        let tap = sandbox.tap.as_ref().is_some_and(|t| t.member.bridged);
        port || (name == names::VXLAN && vxlan) || (name == names::TAP && tap)
    };
    sandbox.stations.retain(|_, port| is_port(port));
    if let Some(vxlan) = &mut sandbox.vxlan {
        // One destination per MAC address, except for what floods.
        let mut seen = BTreeSet::new();
        vxlan
            .forwards
            .retain(|f| f.mac == Mac::ZERO || seen.insert(f.mac));
    }
}

fn any_endpoint_namespace() -> impl Strategy<Value = EndpointNamespace> {
    prop_oneof![
        6 => any::<bool>().prop_map(|loopback_up| EndpointNamespace::Here {
            loopback_up, taken: false }),
        1 => Just(EndpointNamespace::Here { loopback_up: true, taken: true }),
        1 => Just(EndpointNamespace::Gone),
        1 => Just(EndpointNamespace::Unusable("no".to_owned())),
    ]
}

prop_compose! {
    fn any_observed()(
        host in prop::bool::weighted(0.2),
        namespace in prop_oneof![
            1 => Just(Namespace::Absent),
            1 => Just(Namespace::Stale),
            8 => any_sandbox().prop_map(|s| Namespace::Present(Box::new(s))),
        ],
        endpoints in btree_map(any_endpoint(), any_endpoint_namespace(), 4),
    ) -> Observed {
        let host_links = host.then(|| names::host_vxlan(NETWORK)).into_iter().collect();
        Observed { host_links, namespace, endpoints }
    }
}

fn settle(spec: Option<&SandboxSpec>, kernel: &mut Observed) -> Vec<Op> {
    let ops = plan(NETWORK, spec, kernel);
    for op in &ops {
        apply(kernel, op);
    }
    ops
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn from_any_state_one_round_leads_to_the_wanted_one(
        spec in any_spec(), mut kernel in any_observed(),
    ) {
        settle(Some(&spec), &mut kernel);
        prop_assert_eq!(plan(NETWORK, Some(&spec), &kernel), vec![]);
        check(&spec, &kernel);
    }

    #[test]
    fn a_crash_after_any_op_is_repaired(
        spec in any_spec(), mut kernel in any_observed(), at in any::<prop::sample::Index>(),
    ) {
        let ops = plan(NETWORK, Some(&spec), &kernel);
        let done = at.index(ops.len() + 1);
        for op in ops.iter().take(done) {
            apply(&mut kernel, op);
        }
        let mut whole = kernel.clone();
        settle(Some(&spec), &mut whole);
        prop_assert_eq!(plan(NETWORK, Some(&spec), &whole), vec![]);
        check(&spec, &whole);
    }

    #[test]
    fn from_one_spec_to_another_leads_to_the_same_state_as_from_nothing(
        before in any_spec(), mut after in any_spec(),
    ) {
        // What an endpoint that cannot be attached has from before is left.
        let faults = endpoint_faults(&after);
        after.locals.retain(|id, _| !faults.contains_key(id));
        let endpoints: BTreeMap<String, EndpointNamespace> = (1..5)
            .map(|n| (endpoint(n), EndpointNamespace::Here { loopback_up: true, taken: false }))
            .collect();
        let mut fresh = Observed { endpoints, ..Observed::default() };
        let mut changed = fresh.clone();
        settle(Some(&after), &mut fresh);
        settle(Some(&before), &mut changed);
        settle(Some(&after), &mut changed);
        prop_assert_eq!(without_own_addresses(changed), without_own_addresses(fresh));
    }

    #[test]
    fn without_a_spec_nothing_is_left(mut kernel in any_observed()) {
        settle(None, &mut kernel);
        prop_assert_eq!(&kernel.namespace, &Namespace::Absent);
        prop_assert!(kernel.host_links.is_empty());
        prop_assert_eq!(plan(NETWORK, None, &kernel), vec![]);
    }
}

/// An endpoint may keep addresses, and IPv6, that an earlier spec gave it; see `Planner::inner`.
fn without_own_addresses(mut kernel: Observed) -> Observed {
    if let Namespace::Present(sandbox) = &mut kernel.namespace {
        for port in sandbox.ports.values_mut() {
            if let Peer::Home(inner) = &mut port.peer {
                inner.addresses.clear();
                inner.ipv6_off = false;
            }
        }
    }
    kernel
}

/// Says independently of the planner what a network that is as wanted looks like.
fn check(spec: &SandboxSpec, kernel: &Observed) {
    let Namespace::Present(sandbox) = &kernel.namespace else {
        panic!("{:?}", kernel.namespace);
    };
    assert!(sandbox.tuned && sandbox.strays.is_empty() && kernel.host_links.is_empty());
    assert_eq!(sandbox.vxlan.is_some(), spec.tunnel == Tunnel::Vxlan);
    if let Some(vxlan) = &sandbox.vxlan {
        check_tunnel(spec, sandbox, vxlan);
    }
    if let Some(tap) = &sandbox.tap {
        check_tap(spec, sandbox, tap);
    }
    check_locals(spec, kernel, sandbox);
}

fn check_tunnel(spec: &SandboxSpec, sandbox: &Sandbox, vxlan: &Vxlan) {
    assert_eq!(
        (vxlan.fixed.vni, vxlan.fixed.port, vxlan.local),
        (spec.vni, spec.vtep.port, Some(spec.vtep.local))
    );
    assert!(vxlan.member.bridged && !vxlan.member.learning && !vxlan.learning && vxlan.link.up);
    let local_macs: BTreeSet<Mac> = spec.locals.values().map(|l| l.mac).collect();
    for forward in &vxlan.forwards {
        let wanted = if forward.mac == Mac::ZERO {
            spec.multicast && forward.vtep.is_some_and(|v| spec.flood.contains(&v))
        } else {
            spec.remotes.get(&forward.mac).map(|r| r.vtep) == forward.vtep
        };
        assert!(wanted && forward.permanent, "{forward:?}");
    }
    for (mac, remote) in spec.remotes.iter().filter(|(m, _)| !local_macs.contains(m)) {
        assert!(vxlan.forwards.contains(&Forward::to(*mac, remote.vtep)));
        assert_eq!(
            sandbox.stations.get(mac).map(String::as_str),
            Some(names::VXLAN)
        );
    }
}

fn check_tap(spec: &SandboxSpec, sandbox: &Sandbox, tap: &Tap) {
    assert_eq!(tap.member.bridged, spec.tunnel == Tunnel::Port);
    if !tap.member.bridged {
        return;
    }
    assert!(!tap.member.learning && tap.link.up && tap.link.quiet && tap.link.mtu == spec.mtu);
    let local_macs: BTreeSet<Mac> = spec.locals.values().map(|l| l.mac).collect();
    let behind: BTreeSet<Mac> = { sandbox.stations.iter() }
        .filter(|(_, port)| *port == names::TAP)
        .map(|(mac, _)| *mac)
        .collect();
    let remotes: BTreeSet<Mac> = spec.remotes.keys().copied().collect();
    assert_eq!(behind, &remotes - &local_macs);
}

fn check_locals(spec: &SandboxSpec, kernel: &Observed, sandbox: &Sandbox) {
    let faults = endpoint_faults(spec);
    for (id, local) in &spec.locals {
        let here = matches!(
            kernel.endpoints.get(id),
            Some(EndpointNamespace::Here {
                loopback_up: true,
                taken: false
            })
        );
        if !here || faults.contains_key(id) {
            continue;
        }
        let port = &sandbox.ports[&names::port(id)];
        assert!(port.link.up && port.member.bridged && !port.member.learning);
        let Peer::Home(inner) = &port.peer else {
            panic!("{port:?}");
        };
        assert_eq!(
            (inner.mac, inner.mtu, inner.up),
            (local.mac, spec.mtu, true)
        );
        assert!(local.addresses.iter().all(|a| inner.addresses.contains(a)));
        assert_eq!(sandbox.stations.get(&local.mac), Some(&names::port(id)));
    }
    for name in sandbox.ports.keys() {
        assert!(
            spec.locals.keys().any(|id| names::port(id) == *name),
            "{name}"
        );
    }
}

fn large() -> SandboxSpec {
    let remote = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let remote = Remote {
            addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 1, high, low))],
            vtep: vtep(low % 5 + 1),
        };
        (Mac([2, 0x42, 10, 1, high, low]), remote)
    };
    SandboxSpec {
        vni: 4097,
        mtu: 1450,
        vtep: Vtep {
            local: vtep(9),
            port: 4789,
        },
        tunnel: Tunnel::Vxlan,
        multicast: false,
        locals: BTreeMap::new(),
        remotes: (0..5_000).map(remote).collect(),
        flood: BTreeSet::new(),
    }
}

#[test]
fn a_change_costs_what_changed_and_not_what_there_is() {
    let mut spec = large();
    let mut kernel = Observed::default();
    settle(Some(&spec), &mut kernel);
    let moved = *spec.remotes.keys().nth(77).unwrap();
    spec.remotes.get_mut(&moved).unwrap().vtep = vtep(200);
    let ops = settle(Some(&spec), &mut kernel);
    assert_eq!(ops.len(), 1, "{ops:?}");
    spec.remotes.remove(&moved);
    let ops = settle(Some(&spec), &mut kernel);
    assert_eq!(ops.len(), 3, "{ops:?}");
}

#[test]
fn a_changed_tunnel_address_is_set_in_place() {
    let mut spec = large();
    let mut kernel = Observed::default();
    settle(Some(&spec), &mut kernel);
    spec.vtep.local = vtep(100);
    let ops = settle(Some(&spec), &mut kernel);
    let [Op::SetVxlan { local, .. }] = ops.as_slice() else {
        panic!("{ops:?}");
    };
    assert_eq!(*local, vtep(100));
}

#[test]
fn a_removed_network_frees_its_vni_before_anything_else() {
    let spec = large();
    let mut kernel = Observed::default();
    settle(Some(&spec), &mut kernel);
    let ops = settle(None, &mut kernel);
    let first = Op::DeleteLink {
        name: names::VXLAN.to_owned(),
    };
    assert_eq!(ops, [first, Op::DeleteNamespace]);
}

/// Where a change of port must go: the old device before the new one is made, and the new one with
/// all that the old one had.
#[test]
fn a_changed_port_leaves_no_moment_with_both() {
    let mut spec = large();
    let mut kernel = Observed::default();
    settle(Some(&spec), &mut kernel);
    spec.vtep.port = 4790;
    let ops = settle(Some(&spec), &mut kernel);
    let at = |wanted: fn(&Op) -> bool| ops.iter().position(wanted);
    let deleted = at(|op| matches!(op, Op::DeleteLink { name } if name == names::VXLAN));
    let made = at(|op| matches!(op, Op::CreateVxlan { vtep, .. } if vtep.port == 4790));
    assert!(deleted.is_some() && deleted < made, "{ops:?}");
    check(&spec, &kernel);
}

#[test]
fn without_a_tunnel_endpoints_stay_and_nothing_else_does() {
    let mut spec = large();
    let mut kernel = Observed::default();
    settle(Some(&spec), &mut kernel);
    spec.tunnel = Tunnel::Closed;
    let ops = settle(Some(&spec), &mut kernel);
    let gone = Op::DeleteLink {
        name: names::VXLAN.to_owned(),
    };
    assert_eq!(ops, [gone]);
    spec.tunnel = Tunnel::Vxlan;
    settle(Some(&spec), &mut kernel);
    check(&spec, &kernel);
}

/// Where a network becomes an encrypted one that a program carries: nothing goes by the old way when
/// the new one is opened, and the device's absence is nothing to mend.
#[test]
fn the_tunnel_goes_before_a_tap_becomes_the_way_out() {
    let mut spec = large();
    let mut kernel = Observed::default();
    settle(Some(&spec), &mut kernel);
    spec.tunnel = Tunnel::Port;
    let mut without = kernel.clone();
    let ops = settle(Some(&spec), &mut without);
    let gone = Op::DeleteLink {
        name: names::VXLAN.to_owned(),
    };
    assert_eq!(ops, std::slice::from_ref(&gone));
    assert_eq!(plan(NETWORK, Some(&spec), &without), vec![]);
    check(&spec, &without);

    let opened = |kernel: &mut Observed| {
        let Namespace::Present(sandbox) = &mut kernel.namespace else {
            panic!("no sandbox");
        };
        sandbox.tap = Some(Tap::default());
    };
    opened(&mut kernel);
    let ops = settle(Some(&spec), &mut kernel);
    assert_eq!(ops.first(), Some(&gone));
    check(&spec, &kernel);
    opened(&mut without);
    settle(Some(&spec), &mut without);
    assert_eq!(without, kernel);

    spec.tunnel = Tunnel::Vxlan;
    let ops = settle(Some(&spec), &mut kernel);
    let leaves = matches!(&ops[0], Op::SetLink { name, change, .. }
        if name == names::TAP && change.leave);
    assert!(leaves, "{:?}", ops[0]);
    check(&spec, &kernel);
    let ops = settle(None, &mut kernel);
    assert!(ops.contains(&Op::DeleteLink {
        name: names::TAP.to_owned()
    }));
}
