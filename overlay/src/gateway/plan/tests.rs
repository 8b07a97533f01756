use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;

use super::model::{apply, recorded};
use super::{assign, plan};
use crate::gateway::layout::{self, BRIDGE, LEG, LEG_TABLE, MARK_MASK, NODE_MAX, RULES_END, mark};
use crate::gateway::observed::*;
use crate::gateway::op::Op;
use crate::gateway::record::Record;
use crate::gateway::spec::*;
use crate::observed::{Inner, Link, Peer};
use crate::spec::{Mac, NetnsRef};

const MESH: &str = "wf-ingress";

fn netns(n: u64) -> NetnsRef {
    NetnsRef {
        path: format!("/run/{n}").into(),
        device: 4,
        inode: n,
    }
}

fn key(n: u8) -> String {
    format!("leg{n}")
}

fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 240, n)
}

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

// Small ranges, so that what is wanted and what is there meet often.
fn any_key() -> impl Strategy<Value = String> {
    (1u8..6).prop_map(key)
}

fn any_mtu() -> impl Strategy<Value = u32> {
    prop_oneof![Just(1450u32), Just(1400)]
}

fn any_mac() -> impl Strategy<Value = Mac> {
    (1u8..6).prop_map(|n| mac(v4(n)))
}

fn any_net() -> impl Strategy<Value = IpNet> {
    let address = prop_oneof![
        4 => (0u8..9).prop_map(|n| IpAddr::V4(v4(n))),
        1 => Just(IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9))),
        2 => (1u8..6).prop_map(|n| v6(&format!("fd77:6566:7400::{n:x}"))),
        1 => Just(v6("fe80::1")),
        1 => Just(v6("fe80::5")),
    ];
    address.prop_map(|address| {
        let length = if address.is_ipv4() { 29 } else { 64 };
        IpNet::new(address, length).unwrap()
    })
}

prop_compose! {
    fn any_mesh()(entries in btree_map(prop_oneof![1u16..5, Just(0x123), Just(NODE_MAX)],
                                       (option::weighted(0.8, 2u8..6), any::<bool>()), 0..5))
        -> MeshSpec {
        let entries = entries.into_iter().map(|(node, (four, six))| {
            let via4 = four.map(|n| Ipv4Addr::new(10, 0, 0, n));
            let via6 = six.then(|| "fd77:6566:7401::5".parse().unwrap());
            (node, MeshEntry { via4, via6 })
        });
        MeshSpec { ifname: MESH.to_owned(), entries: entries.collect() }
    }
}

prop_compose! {
    // Six addresses for legs at most, and up to five legs: a /29; with a /30 there is one.
    fn any_spec()(prefix in prop_oneof![4 => Just(29u8), 1 => Just(30)], mtu in any_mtu(),
                  legs in btree_map(any_key(), 1u64..8, 0..5),
                  mesh in option::weighted(0.7, any_mesh())) -> GatewaySpec {
        GatewaySpec {
            subnet4: ipnet::Ipv4Net::new(v4(0), prefix).unwrap(),
            subnet6: layout::SUBNET6,
            mtu,
            legs: legs.into_iter().map(|(key, n)| (key, netns(n))).collect(),
            mesh,
        }
    }
}

prop_compose! {
    fn any_link()(mtu in any_mtu(), up: bool, quiet: bool,
                  record in option::weighted(0.8, (any_key(), 0u8..9, 1u64..8))) -> Link {
        let alias = record.map(|(key, n, netns_number)| {
            Record { key, address: v4(n), netns: Some(netns(netns_number)) }.to_alias()
        });
        Link { mtu, up, quiet, alias }
    }
}

prop_compose! {
    fn any_bridge()(link in any_link(), mac in any_mac(), plain: bool,
                    addresses in btree_set(any_net(), 0..4)) -> GatewayBridge {
        GatewayBridge { link, mac, plain, addresses }
    }
}

prop_compose! {
    fn any_port()(link in any_link(), bridged: bool, isolated: bool,
                  home in option::weighted(0.8, any_inner())) -> LegPort {
        let peer = home.map_or(Peer::Elsewhere, Peer::Home);
        LegPort { link, bridged, isolated: isolated && bridged, peer }
    }
}

prop_compose! {
    fn any_inner()(named in prop::bool::weighted(0.9), mac in any_mac(), mtu in any_mtu(), up: bool,
                   ipv6_off: bool, addresses in btree_set(any_net(), 0..4)) -> Inner {
        let addresses =
            addresses.into_iter().filter(|net| net.addr().is_ipv4() || !ipv6_off).collect();
        let ifname = if named { LEG } else { "eth9" }.to_owned();
        Inner { ifname, mac, mtu, up, ipv6_off, addresses, ..Inner::default() }
    }
}

fn any_container() -> impl Strategy<Value = Container> {
    let here = (prop::bool::weighted(0.1), any_rules(), any_routes(LEG));
    prop_oneof![
        6 => here.prop_map(|(taken, rules, routes)| Container::Here { taken, rules, routes }),
        1 => Just(Container::Gone),
        1 => Just(Container::Unusable("no".to_owned())),
    ]
}

fn any_rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    let select = prop_oneof![
        Just(Select::All),
        (0u16..5).prop_map(|n| Select::Mark {
            value: mark(n),
            mask: MARK_MASK
        }),
        (2u8..6).prop_map(|n| Select::From(IpAddr::V4(v4(n)))),
    ];
    let action = prop_oneof![
        Just(Action::Table(LEG_TABLE)),
        (1u16..5).prop_map(|n| Action::Table(layout::table(n))),
        Just(Action::Goto(RULES_END)),
        Just(Action::Nop),
        Just(Action::Other(6)),
    ];
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let priority = prop_oneof![Just(layout::LEG_PRIORITY), Just(layout::RULES_NODES)];
    let odd = prop::bool::weighted(0.1);
    let rule = (family, priority, select, action, odd);
    btree_set(
        rule.prop_map(|(family, priority, select, action, odd)| Rule {
            family,
            priority,
            select,
            action,
            odd,
        }),
        0..4,
    )
}

fn any_routes(device: &'static str) -> impl Strategy<Value = BTreeSet<Route>> {
    let table = prop_oneof![Just(LEG_TABLE), (1u16..5).prop_map(layout::table)];
    let via = prop_oneof![
        (1u8..6).prop_map(|n| IpAddr::V4(v4(n))),
        (1u8..6).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))),
        Just(v6("fd77:6566:7400::1")),
    ];
    let device = prop_oneof![4 => Just(device), 1 => Just("eth9")];
    let odd = prop::bool::weighted(0.1);
    let route = (table, via, device, odd, any::<bool>());
    btree_set(
        route.prop_map(|(table, via, device, odd, metric)| Route {
            metric: u32::from(metric),
            odd,
            ..super::routing::default_route(table, via, device)
        }),
        0..4,
    )
}

prop_compose! {
    fn any_switches()(all in 0u8..3, default in 0u8..3, own in option::of(0u8..3), four: bool,
                      six: bool, local: bool) -> BTreeMap<String, String> {
        let mut switches = BTreeMap::new();
        let mut set = |name: &str, value: u8| switches.insert(name.to_owned(), value.to_string());
        set("ipv4/ip_forward", four.into());
        set("ipv6/conf/all/forwarding", six.into());
        set("ipv4/conf/all/rp_filter", all);
        set("ipv4/conf/default/rp_filter", default);
        if let Some(own) = own {
            set(&format!("ipv4/conf/{BRIDGE}/rp_filter"), own);
            set(&format!("ipv4/conf/{BRIDGE}/route_localnet"), local.into());
            set(&format!("ipv6/conf/{BRIDGE}/accept_ra"), own);
            set(&format!("ipv6/conf/{BRIDGE}/disable_ipv6"), local.into());
            set(&format!("ipv4/conf/{MESH}/rp_filter"), own);
        }
        switches
    }
}

prop_compose! {
    fn any_observed()(
        ipv6 in prop::bool::weighted(0.9),
        mesh in prop::bool::weighted(0.9),
        bridge in option::weighted(0.8, any_bridge()),
        ports in btree_map(any_key(), any_port(), 0..5),
        strays in btree_set(prop_oneof![any_key().prop_map(|key| layout::port(&key)),
                                        Just(BRIDGE.to_owned())], 0..2),
        legs in btree_map(any_key(), any_container(), 5),
        rules in any_rules(),
        routes in any_routes(MESH),
        switches in any_switches(),
        listeners in btree_set(prop_oneof![Just("eth0".to_owned()), Just("eth1.5".to_owned())], 0..3),
    ) -> Observed {
        let ports = ports.into_iter().map(|(key, port)| (layout::port(&key), port)).collect();
        let mut observed = Observed {
            ipv6, bridge, ports, strays, legs, mesh, rules, routes, switches, listeners,
        };
        make_possible(&mut observed);
        observed
    }
}

/// Takes out what no kernel can show.
fn make_possible(observed: &mut Observed) {
    if observed.bridge.is_some() {
        observed.strays.remove(BRIDGE);
    }
    observed
        .ports
        .retain(|name, _| !observed.strays.contains(name));
    for port in observed
        .ports
        .values_mut()
        .filter(|_| observed.bridge.is_none())
    {
        (port.bridged, port.isolated) = (false, false);
    }
    if !observed.ipv6 || observed.switches["ipv6/conf/all/forwarding"] == "1" {
        observed.listeners.clear();
    }
    if !observed.ipv6 {
        observed
            .switches
            .retain(|name, _| !name.starts_with("ipv6"));
    }
    if !observed.mesh {
        observed
            .routes
            .retain(|route| route.device.as_deref() != Some(MESH));
    }
    for (leg, container) in &mut observed.legs {
        let port = observed.ports.get_mut(&layout::port(leg));
        let Container::Here { taken, routes, .. } = container else {
            // Nothing is seen inside.
            port.into_iter()
                .for_each(|port| port.peer = Peer::Elsewhere);
            continue;
        };
        let inner = port.and_then(|port| match &mut port.peer {
            Peer::Home(inner) => Some(inner),
            Peer::Elsewhere => None,
        });
        let named = inner.as_ref().is_some_and(|inner| inner.ifname == LEG);
        *taken &= !named;
        let four = inner.is_some_and(|inner| {
            inner.up && inner.addresses.iter().any(|net| net.addr().is_ipv4())
        });
        routes.retain(|route| {
            let ours = route.device.as_deref() == Some(LEG);
            !ours || (named && (four || route.destination.addr().is_ipv6()))
        });
    }
}

fn settle(spec: Option<&GatewaySpec>, kernel: &mut Observed) -> Vec<Op> {
    let ops = plan(spec, kernel);
    for op in &ops {
        apply(kernel, op);
    }
    ops
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(700))]

    #[test]
    fn from_any_state_one_round_leads_to_the_wanted_one(
        spec in any_spec(), mut kernel in any_observed(),
    ) {
        settle(Some(&spec), &mut kernel);
        prop_assert_eq!(plan(Some(&spec), &kernel), vec![]);
        check(&spec, &kernel);
    }

    #[test]
    fn a_crash_after_any_op_is_repaired(
        spec in any_spec(), mut kernel in any_observed(), at in any::<prop::sample::Index>(),
    ) {
        let ops = plan(Some(&spec), &kernel);
        for op in ops.iter().take(at.index(ops.len() + 1)) {
            apply(&mut kernel, op);
        }
        settle(Some(&spec), &mut kernel);
        prop_assert_eq!(plan(Some(&spec), &kernel), vec![]);
        check(&spec, &kernel);
    }

    #[test]
    fn a_leg_keeps_its_address_whatever_else_changes(
        before in any_spec(), mut after in any_spec(), mut kernel in any_observed(),
    ) {
        settle(Some(&before), &mut kernel);
        let had = assign(&before, &kernel).legs;
        after.subnet4 = before.subnet4;
        let has = assign(&after, &kernel).legs;
        for (key, addresses) in has {
            if let Some(earlier) = had.get(&key) {
                prop_assert_eq!(*earlier, addresses, "{}", key);
            }
        }
    }

    #[test]
    fn without_a_spec_nothing_is_left(mut kernel in any_observed()) {
        settle(None, &mut kernel);
        prop_assert!(kernel.bridge.is_none() && kernel.ports.is_empty(), "{kernel:?}");
        prop_assert!(kernel.strays.is_empty() && kernel.rules.is_empty(), "{kernel:?}");
        prop_assert!(kernel.routes.is_empty(), "{kernel:?}");
        prop_assert_eq!(plan(None, &kernel), vec![]);
    }

    #[test]
    fn every_mark_is_led_to_its_nodes_table_and_to_no_other(
        nodes in btree_set(1u16..=NODE_MAX, 0..40), other in 0u16..=NODE_MAX,
    ) {
        let entry = MeshEntry { via4: Some(v4(2)), via6: None };
        let entries = nodes.iter().map(|node| (*node, entry)).collect();
        let kernel = routed(entries);
        for node in nodes.iter().copied().chain([other, 0]) {
            let wanted = nodes.contains(&node).then(|| layout::table(node));
            let (table, met) = walk(&kernel.rules, mark(node) | 0x0f00_0abc);
            prop_assert_eq!(table, wanted);
            prop_assert!(met <= 50 || wanted.is_none(), "{} rules", met);
            prop_assert!(node != 0 || met <= 2, "{} rules", met);
        }
    }
}

fn routed(entries: BTreeMap<u16, MeshEntry>) -> Observed {
    let ifname = MESH.to_owned();
    let spec = GatewaySpec {
        mesh: Some(MeshSpec { ifname, entries }),
        ..empty()
    };
    let mut kernel = Observed {
        ipv6: true,
        mesh: true,
        ..Observed::default()
    };
    settle(Some(&spec), &mut kernel);
    kernel
}

fn empty() -> GatewaySpec {
    GatewaySpec {
        subnet4: ipnet::Ipv4Net::new(v4(0), 20).unwrap(),
        subnet6: layout::SUBNET6,
        mtu: 1450,
        legs: BTreeMap::new(),
        mesh: None,
    }
}

/// As the kernel (`fib_rules_lookup`): the table that is looked into, and how many rules were met.
fn walk(rules: &BTreeSet<Rule>, mark: u32) -> (Option<u32>, usize) {
    let rules: Vec<&Rule> = rules
        .iter()
        .filter(|rule| rule.family == Family::V4)
        .collect();
    let (mut at, mut met) = (0, 0);
    while let Some(rule) = rules.get(at) {
        met += 1;
        let matches = match rule.select {
            Select::All => true,
            Select::Mark { value, mask } => mark & mask == value,
            Select::From(_) => false,
        };
        at = match rule.action {
            Action::Goto(target) if matches => {
                assert!(target > rule.priority);
                rules
                    .iter()
                    .position(|rule| rule.priority == target)
                    .expect("resolved")
            }
            Action::Table(table) if matches => return (Some(table), met),
            _ => at + 1,
        };
    }
    (None, met)
}

/// Says independently of the planner what a gateway that is as wanted looks like.
fn check(spec: &GatewaySpec, kernel: &Observed) {
    let bridge = kernel.bridge.as_ref().unwrap();
    assert!(bridge.link.up && bridge.link.quiet && bridge.plain && bridge.link.mtu == spec.mtu);
    assert_eq!(bridge.mac, Mac([2, 0x42, 192, 168, 240, 1]));
    let length = spec.subnet4.prefix_len();
    let mut addresses = BTreeSet::from([IpNet::new(v4(1).into(), length).unwrap()]);
    if kernel.ipv6 {
        addresses
            .extend(["fd77:6566:7400::1/64", "fe80::1/64"].map(|a| a.parse::<IpNet>().unwrap()));
    }
    assert_eq!(bridge.addresses, addresses);
    assert!(kernel.strays.is_empty());
    let assigned = assign(spec, kernel);
    for name in kernel.ports.keys() {
        let key = spec.legs.keys().find(|key| layout::port(key) == *name);
        assert!(
            key.is_some_and(|key| !assigned.gone.contains(key)),
            "{name}"
        );
    }
    let mut seen = BTreeSet::new();
    for key in spec.legs.keys() {
        let said = [
            assigned.legs.contains_key(key),
            assigned.failed.contains_key(key),
        ];
        let said = said.into_iter().chain([assigned.gone.contains(key)]);
        assert_eq!(said.filter(|said| *said).count(), 1, "{key}");
    }
    for (key, addresses) in &assigned.legs {
        assert!(seen.insert(addresses.v4) && spec.subnet4.contains(&addresses.v4));
        assert_ne!(addresses.v4, v4(1));
        assert_eq!(recorded(kernel, key).unwrap().address, addresses.v4);
        check_leg(spec, kernel, key, *addresses);
    }
    check_routing(spec, kernel);
}

fn check_leg(spec: &GatewaySpec, kernel: &Observed, key: &str, addresses: LegAddresses) {
    let port = &kernel.ports[&layout::port(key)];
    assert!(port.link.up && port.link.quiet && port.bridged && port.isolated);
    let Peer::Home(inner) = &port.peer else {
        panic!("{port:?}");
    };
    assert_eq!(
        (inner.mtu, inner.up, inner.ifname.as_str()),
        (spec.mtu, true, LEG)
    );
    let global = inner
        .addresses
        .iter()
        .filter(|net| !net.to_string().starts_with("fe80"));
    let wanted = 1 + usize::from(kernel.ipv6);
    assert_eq!(global.count(), wanted, "{inner:?}");
    assert!(
        inner
            .addresses
            .iter()
            .any(|net| net.addr() == IpAddr::V4(addresses.v4))
    );
    let Container::Here { rules, routes, .. } = &kernel.legs[key] else {
        panic!("{key}");
    };
    assert_eq!(
        (rules.len(), routes.len()),
        (wanted, wanted),
        "{rules:?} {routes:?}"
    );
    for rule in rules {
        let from = [Some(IpAddr::V4(addresses.v4)), addresses.v6.map(IpAddr::V6)];
        assert!(
            from.iter()
                .flatten()
                .any(|from| rule.select == Select::From(*from))
        );
        assert_eq!(rule.action, Action::Table(LEG_TABLE));
    }
}

fn check_routing(spec: &GatewaySpec, kernel: &Observed) {
    let mesh = spec.mesh.as_ref().filter(|_| kernel.mesh);
    let entries = mesh.iter().flat_map(|mesh| &mesh.entries);
    let wanted: BTreeSet<(u32, IpAddr)> = entries
        .flat_map(|(node, entry)| {
            let six = entry.via6.map(IpAddr::V6).filter(|_| kernel.ipv6);
            let vias = entry.via4.map(IpAddr::V4).into_iter().chain(six);
            vias.map(|via| (layout::table(*node), via))
        })
        .collect();
    let there: BTreeSet<(u32, IpAddr)> = kernel
        .routes
        .iter()
        .map(|route| (route.table, route.via.unwrap()))
        .collect();
    assert_eq!(there, wanted);
    assert_eq!(kernel.routes.len(), wanted.len());
    let tables = kernel
        .rules
        .iter()
        .filter(|rule| matches!(rule.action, Action::Table(_)));
    assert_eq!(tables.count(), wanted.len());
    let value = |name: &str| kernel.switches.get(name).map(String::as_str);
    assert_eq!(value("ipv4/ip_forward"), Some("1"));
    assert_eq!(
        value("ipv6/conf/all/forwarding"),
        kernel.ipv6.then_some("1")
    );
    for device in [BRIDGE].into_iter().chain(mesh.map(|_| MESH)) {
        let own = value(&format!("ipv4/conf/{device}/rp_filter"));
        let own = own.or(value("ipv4/conf/default/rp_filter"));
        let strictest = value("ipv4/conf/all/rp_filter").max(own);
        assert_ne!(strictest, Some("1"), "{device}");
        assert_eq!(
            value(&format!("ipv4/conf/{device}/route_localnet")),
            Some("1")
        );
        let accept = value(&format!("ipv6/conf/{device}/accept_ra"));
        assert_eq!(accept, kernel.ipv6.then_some("0"));
    }
}

fn with_legs(count: u64) -> (GatewaySpec, Observed) {
    let here = Container::Here {
        taken: false,
        rules: BTreeSet::new(),
        routes: BTreeSet::new(),
    };
    let legs: BTreeMap<String, NetnsRef> = (0..count)
        .map(|n| (format!("leg{n:04}"), netns(n)))
        .collect();
    let kernel = Observed {
        ipv6: true,
        legs: legs.keys().map(|key| (key.clone(), here.clone())).collect(),
        ..Observed::default()
    };
    (GatewaySpec { legs, ..empty() }, kernel)
}

#[test]
fn legs_get_the_lowest_free_addresses_and_both_versions_one_number() {
    let (mut spec, mut kernel) = with_legs(300);
    settle(Some(&spec), &mut kernel);
    let legs = assign(&spec, &kernel).legs;
    let last = legs["leg0299"];
    assert_eq!(last.v4, Ipv4Addr::new(192, 168, 241, 45));
    assert_eq!(last.v6, "fd77:6566:7400::12d".parse().ok());
    // One goes, another comes and takes its place; nobody else is touched.
    spec.legs.remove("leg0007");
    let came = spec.legs.insert("zzz".to_owned(), netns(999));
    assert_eq!(came, None);
    kernel
        .legs
        .insert("zzz".to_owned(), with_legs(1).1.legs["leg0000"].clone());
    let ops = settle(Some(&spec), &mut kernel);
    assert_eq!(assign(&spec, &kernel).legs["zzz"].v4, legs["leg0007"].v4);
    let touched: BTreeSet<&str> = ops.iter().filter_map(Op::leg).collect();
    assert_eq!(touched, ["zzz"].into());
}

#[test]
fn a_leg_that_cannot_be_looked_into_keeps_its_address_reserved() {
    let (mut spec, mut kernel) = with_legs(2);
    settle(Some(&spec), &mut kernel);
    let before = kernel.ports.clone();
    let dark = "leg0000".to_owned();
    kernel
        .legs
        .insert(dark.clone(), Container::Unusable("no".to_owned()));
    for port in kernel.ports.values_mut() {
        if recorded_key(port) == Some(dark.clone()) {
            port.peer = Peer::Elsewhere;
        }
    }
    spec.legs.insert("new".to_owned(), netns(50));
    kernel
        .legs
        .insert("new".to_owned(), with_legs(1).1.legs["leg0000"].clone());
    settle(Some(&spec), &mut kernel);
    let assigned = assign(&spec, &kernel);
    assert_eq!(assigned.failed.keys().collect::<Vec<_>>(), [&dark]);
    assert_eq!(assigned.legs["new"].v4, v4(4));
    assert!(before.keys().all(|name| kernel.ports.contains_key(name)));
}

fn recorded_key(port: &LegPort) -> Option<String> {
    let alias = port.link.alias.as_deref();
    alias.and_then(Record::from_alias).map(|record| record.key)
}

#[test]
fn a_node_that_changes_its_address_is_changed_in_place() {
    let entry = |n| MeshEntry {
        via4: Some(v4(n)),
        via6: None,
    };
    let mut kernel = routed((1..500).map(|node| (node, entry(2))).collect());
    let mut entries: BTreeMap<u16, MeshEntry> = (1..500).map(|node| (node, entry(2))).collect();
    entries.insert(77, entry(3));
    let ifname = MESH.to_owned();
    let spec = GatewaySpec {
        mesh: Some(MeshSpec { ifname, entries }),
        ..empty()
    };
    let ops = settle(Some(&spec), &mut kernel);
    assert!(
        matches!(ops.as_slice(), [Op::SetRoute { replace: true, .. }]),
        "{ops:?}"
    );
}

#[test]
fn impossible_specs_are_refused_with_what_would_be_accepted() {
    let fault = |change: fn(&mut GatewaySpec)| {
        let mut spec = empty();
        change(&mut spec);
        spec.fault().unwrap_or_default()
    };
    assert_eq!(fault(|_| {}), "");
    assert!(fault(|s| s.subnet4 = "10.0.0.0/31".parse().unwrap()).contains("/16 to /30"));
    assert!(fault(|s| s.subnet6 = "fd00::/120".parse().unwrap()).contains("give a /64"));
    assert!(fault(|s| s.mtu = 1000).contains("1280"));
    let mesh = |ifname: &str, node| {
        let entries = [(
            node,
            MeshEntry {
                via4: None,
                via6: None,
            },
        )]
        .into();
        Some(MeshSpec {
            ifname: ifname.to_owned(),
            entries,
        })
    };
    let mut spec = GatewaySpec {
        mesh: mesh("a b", 1),
        ..empty()
    };
    assert!(spec.fault().unwrap().contains("cannot name an interface"));
    spec.mesh = mesh(MESH, NODE_MAX + 1);
    assert!(spec.fault().unwrap().contains("between 1 and 4095"));
}
