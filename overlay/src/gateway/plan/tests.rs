mod any;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::collection::btree_set;
use proptest::prelude::*;

use self::any::{MESH, any_observed, any_spec, home, netns, present, v4};
use super::model::{apply, recorded};
use super::{assign, plan, plan_part};
use crate::gateway::layout::{self, HOST_END, LEG, LEG_TABLE, NODE_MAX, UPLINK, mark};
use crate::gateway::observed::*;
use crate::gateway::op::Op;
use crate::gateway::spec::*;
use crate::observed::Peer;
use crate::spec::{Mac, NetnsRef};

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
        check(&spec, &mut kernel);
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
        check(&spec, &mut kernel);
    }

    #[test]
    fn a_leg_keeps_its_address_whatever_else_changes(
        before in any_spec(), mut after in any_spec(), mut kernel in any_observed(),
    ) {
        settle(Some(&before), &mut kernel);
        let had = assign(&before, &kernel, &BTreeSet::new()).legs;
        after.subnet4 = before.subnet4;
        let has = assign(&after, &kernel, &BTreeSet::new()).legs;
        for (key, addresses) in has {
            if let Some(earlier) = had.get(&key) {
                prop_assert_eq!(*earlier, addresses, "{}", key);
            }
        }
    }

    #[test]
    fn without_a_spec_nothing_is_left(mut kernel in any_observed()) {
        settle(None, &mut kernel);
        prop_assert_eq!(&kernel.hub, &HubNamespace::Absent);
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
        published: BTreeSet::new(),
        egress: BTreeSet::new(),
        udp_ports: BTreeMap::new(),
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
            Select::From(_) | Select::Answers { .. } => false,
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
fn check(spec: &GatewaySpec, kernel: &mut Observed) {
    let hub = present(kernel).clone();
    assert!(hub.tuned && hub.strays.is_empty() && kernel.strays.is_empty());
    let bridge = hub.bridge.as_ref().unwrap();
    assert!(bridge.link.up && bridge.link.quiet && bridge.plain && bridge.link.mtu == spec.mtu);
    let length = spec.subnet4.prefix_len();
    let mut addresses = BTreeSet::from([IpNet::new(v4(1).into(), length).unwrap()]);
    if kernel.ipv6 {
        let own = ["fd77:6566:7400::1/64", "fe80::1/64"];
        addresses.extend(own.map(|a| a.parse::<IpNet>().unwrap()));
    }
    let host = home(&hub, UPLINK).unwrap();
    assert_eq!(
        (host.mac, host.up),
        (Mac([2, 0x42, 192, 168, 240, 1]), true)
    );
    assert_eq!((host.ifname.as_str(), host.mtu), (HOST_END, spec.mtu));
    assert!(addresses.is_subset(&host.addresses), "{host:?}");
    let others = host.addresses.difference(&addresses);
    assert!(
        others
            .into_iter()
            .all(|net| net.to_string().starts_with("fe80")),
        "{host:?}"
    );
    let uplink = &hub.ports[UPLINK];
    assert!(uplink.link.up && uplink.link.quiet && uplink.bridged);
    let assigned = assign(spec, kernel, &BTreeSet::new());
    for name in hub.ports.keys().filter(|name| *name != UPLINK) {
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
        check_leg(spec, kernel, &hub, key, *addresses);
    }
    check_routing(spec, kernel);
}

fn check_leg(spec: &GatewaySpec, kernel: &Observed, hub: &Hub, key: &str, addresses: LegAddresses) {
    let port = &hub.ports[&layout::port(key)];
    assert!(port.link.up && port.link.quiet && port.bridged && port.isolated);
    let inner = home(hub, &layout::port(key)).unwrap();
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
    let Container::Here {
        rules,
        routes,
        own_way,
        ..
    } = &kernel.legs[key]
    else {
        panic!("{key}");
    };
    let families = [Family::V4, Family::V6].into_iter().take(wanted);
    let out = families.filter(|family| !own_way.contains(family)).count();
    let out = if spec.egress.contains(key) { out } else { 0 };
    let by_main = routes.iter().filter(|route| route.table == 254).count();
    assert_eq!(by_main, out, "{routes:?}");
    let published = spec.published.contains(key);
    let back = if published { wanted } else { 0 };
    assert_eq!(routes.len() - by_main, back, "{routes:?}");
    let from = [Some(IpAddr::V4(addresses.v4)), addresses.v6.map(IpAddr::V6)];
    let by_source = from.iter().flatten().filter(|from| {
        rules.iter().any(|rule| {
            let to_leg = rule.action == Action::Table(LEG_TABLE) && rule.priority == 119;
            to_leg && rule.select == Select::From(**from)
        })
    });
    assert_eq!(by_source.count(), back, "{rules:?}");
    // Each port is answered by the leg's table, after the container's own networks.
    let ports = spec.udp_ports.get(key).filter(|_| published);
    let ports = ports.cloned().unwrap_or_default();
    for action in [Action::Near(254), Action::Table(LEG_TABLE)] {
        let answered = rules.iter().filter(|rule| rule.action == action);
        let answered: Vec<u16> = answered
            .filter_map(|rule| match rule.select {
                Select::Answers { first, last } => Some(first..=last),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(answered.len(), ports.len() * wanted, "{rules:?}");
        assert!(answered.iter().all(|port| ports.contains(port)));
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
    let local = kernel.routes.iter().filter(|route| route.local);
    let devices: Vec<&str> = local.filter_map(|route| route.device.as_deref()).collect();
    let expected = [HOST_END].into_iter().chain(mesh.map(|_| MESH));
    assert_eq!(
        devices,
        expected.filter(|_| kernel.ipv6).collect::<Vec<_>>()
    );
    let by_node = || kernel.routes.iter().filter(|route| !route.local);
    let there: BTreeSet<(u32, IpAddr)> = by_node()
        .map(|route| (route.table, route.via.unwrap()))
        .collect();
    assert_eq!(there, wanted);
    assert_eq!(by_node().count(), wanted.len());
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
    for device in [HOST_END].into_iter().chain(mesh.map(|_| MESH)) {
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
        own_way: BTreeSet::new(),
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
    let legs = assign(&spec, &kernel, &BTreeSet::new()).legs;
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
    assert_eq!(
        assign(&spec, &kernel, &BTreeSet::new()).legs["zzz"].v4,
        legs["leg0007"].v4
    );
    let touched: BTreeSet<&str> = ops.iter().filter_map(Op::leg).collect();
    assert_eq!(touched, ["zzz"].into());
}

#[test]
fn a_leg_that_cannot_be_looked_into_keeps_its_address_reserved() {
    let (mut spec, mut kernel) = with_legs(2);
    settle(Some(&spec), &mut kernel);
    let before = present(&kernel).ports.clone();
    let dark = "leg0000".to_owned();
    kernel
        .legs
        .insert(dark.clone(), Container::Unusable("no".to_owned()));
    if let HubNamespace::Present(hub) = &mut kernel.hub {
        hub.ports.get_mut(&layout::port(&dark)).unwrap().peer = Peer::Elsewhere;
    }
    spec.legs.insert("new".to_owned(), netns(50));
    kernel
        .legs
        .insert("new".to_owned(), with_legs(1).1.legs["leg0000"].clone());
    settle(Some(&spec), &mut kernel);
    let assigned = assign(&spec, &kernel, &BTreeSet::new());
    assert_eq!(assigned.failed.keys().collect::<Vec<_>>(), [&dark]);
    assert_eq!(assigned.legs["new"].v4, v4(4));
    let after = &present(&kernel).ports;
    assert!(before.keys().all(|name| after.contains_key(name)));
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

#[test]
fn a_part_of_the_legs_is_brought_to_what_is_wanted_beside_the_others() {
    let (mut spec, mut kernel) = with_legs(4);
    settle(Some(&spec), &mut kernel);
    let before = spec.clone();
    let legs = assign(&spec, &kernel, &BTreeSet::new()).legs;
    let here = kernel.legs["leg0000"].clone();
    // One goes, one comes, one gets the way out.
    spec.legs.remove("leg0001");
    spec.legs.insert("new".to_owned(), netns(99));
    spec.egress = ["leg0002", "new"].map(str::to_owned).into();
    let keys = before.differing_legs(&spec).unwrap();
    assert_eq!(
        keys,
        ["leg0001", "leg0002", "new"].map(str::to_owned).into()
    );
    let others = legs.iter().filter(|(key, _)| !keys.contains(*key));
    let taken: BTreeSet<Ipv4Addr> = others.map(|(_, leg)| leg.v4).collect();
    let part = spec.part(&keys);
    let HubNamespace::Present(hub) = &mut kernel.hub else {
        panic!("no hub");
    };
    let ports: Vec<String> = keys.iter().map(|key| layout::port(key)).collect();
    hub.ports.retain(|name, _| ports.contains(name));
    kernel.legs.insert("new".to_owned(), here);
    for op in plan_part(&part, &kernel, &taken) {
        apply(&mut kernel, &op);
    }
    assert_eq!(plan_part(&part, &kernel, &taken), vec![]);
    let now = assign(&part, &kernel, &taken).legs;
    assert_eq!(now["leg0002"], legs["leg0002"]);
    assert_eq!(now["new"], legs["leg0001"], "the lowest that is free");
    assert!(
        !present(&kernel)
            .ports
            .contains_key(&layout::port("leg0001"))
    );
    let Container::Here { routes, rules, .. } = &kernel.legs["new"] else {
        panic!("not there");
    };
    let defaults = routes
        .iter()
        .filter(|route| route.table == layout::MAIN_TABLE);
    assert_eq!((defaults.count(), routes.len(), rules.len()), (2, 2, 0));
    // What is not of legs takes all of it.
    let other = GatewaySpec {
        mtu: 1400,
        ..spec.clone()
    };
    assert_eq!(spec.differing_legs(&other), None);
    assert_eq!(spec.differing_legs(&spec), Some(BTreeSet::new()));
}
