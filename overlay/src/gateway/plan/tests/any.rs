//! What there may be and what may be wanted. Small ranges, so that the two meet often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::collection::{btree_map, btree_set};
use proptest::option;
use proptest::prelude::*;

use crate::gateway::layout::{
    self, HOST_END, LEG, LEG_TABLE, MARK_MASK, NODE_MAX, RULES_END, UPLINK, mark,
};
use crate::gateway::observed::*;
use crate::gateway::plan::routing;
use crate::gateway::record::Record;
use crate::gateway::spec::*;
use crate::observed::{Bridge, Inner, Link, Peer};
use crate::spec::{Mac, NetnsRef};

pub(super) const MESH: &str = "wf-ingress";

pub(super) fn netns(n: u64) -> NetnsRef {
    NetnsRef {
        path: format!("/run/{n}").into(),
        device: 4,
        inode: n,
    }
}

fn key(n: u8) -> String {
    format!("leg{n}")
}

pub(super) fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 240, n)
}

fn v6(text: &str) -> IpAddr {
    text.parse().unwrap()
}

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
    pub(super) fn any_spec()(prefix in prop_oneof![4 => Just(29u8), 1 => Just(30)], mtu in any_mtu(),
                  legs in btree_map(any_key(), 1u64..8, 0..5),
                  published in btree_set(any_key(), 0..6), egress in btree_set(any_key(), 0..6),
                  udp_ports in btree_map(any_key(), btree_set(52u16..56, 0..3), 0..3),
                  mesh in option::weighted(0.7, any_mesh())) -> GatewaySpec {
        GatewaySpec {
            subnet4: ipnet::Ipv4Net::new(v4(0), prefix).unwrap(),
            subnet6: layout::SUBNET6,
            mtu,
            legs: legs.into_iter().map(|(key, n)| (key, netns(n))).collect(),
            published,
            egress,
            udp_ports,
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
    fn any_port(ifname: &'static str)(link in any_link(), bridged: bool, isolated: bool,
                home in option::weighted(0.8, any_inner(ifname))) -> HubPort {
        let peer = home.map_or(Peer::Elsewhere, Peer::Home);
        HubPort { link, bridged, isolated: isolated && bridged, peer }
    }
}

prop_compose! {
    fn any_inner(ifname: &'static str)(named in prop::bool::weighted(0.9), mac in any_mac(),
                 mtu in any_mtu(), up: bool, ipv6_off: bool,
                 addresses in btree_set(any_net(), 0..4)) -> Inner {
        let addresses =
            addresses.into_iter().filter(|net| net.addr().is_ipv4() || !ipv6_off).collect();
        let ifname = if named { ifname } else { "eth9" }.to_owned();
        Inner { ifname, mac, mtu, up, ipv6_off, addresses, ..Inner::default() }
    }
}

prop_compose! {
    fn any_hub()(
        tuned: bool,
        bridge in option::weighted(0.8, (any_link(), any::<bool>())),
        legs in btree_map(any_key(), any_port(LEG), 0..5),
        uplink in option::weighted(0.8, any_port(HOST_END)),
        strays in btree_set(prop_oneof![any_key().prop_map(|key| layout::port(&key)),
                                        Just("br0".to_owned()), Just(UPLINK.to_owned())], 0..2),
    ) -> Hub {
        let legs = legs.into_iter().map(|(key, port)| (layout::port(&key), port));
        let uplink = uplink.map(|port| (UPLINK.to_owned(), port));
        let mut hub = Hub {
            tuned,
            bridge: bridge.map(|(link, plain)| Bridge { link, plain }),
            ports: legs.chain(uplink).collect(),
            strays,
        };
        // One link of a name.
        if hub.bridge.is_some() {
            hub.strays.remove("br0");
        }
        hub.ports.retain(|name, _| !hub.strays.contains(name));
        for port in hub.ports.values_mut().filter(|_| hub.bridge.is_none()) {
            (port.bridged, port.isolated) = (false, false);
        }
        hub
    }
}

fn any_container() -> impl Strategy<Value = Container> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let own_way = prop_oneof![3 => Just(BTreeSet::new()), 1 => btree_set(family, 1..3)];
    let here = (
        prop::bool::weighted(0.1),
        any_rules(),
        any_routes(LEG),
        own_way,
    );
    prop_oneof![
        6 => here.prop_map(|(taken, rules, routes, own_way)| {
            Container::Here { taken, rules, routes, own_way }
        }),
        1 => Just(Container::Gone),
        1 => Just(Container::Unusable("no".to_owned())),
    ]
}

fn any_rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    let select = prop_oneof![
        Just(Select::All),
        (53u16..56).prop_map(|last| Select::Answers { first: 53, last }),
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
        Just(Action::Near(layout::MAIN_TABLE)),
        Just(Action::Nop),
        Just(Action::Other(6)),
    ];
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let priority = prop_oneof![Just(119u32), Just(120), Just(layout::RULES_NODES)];
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
    let table = prop_oneof![
        Just(LEG_TABLE),
        Just(layout::MAIN_TABLE),
        (1u16..5).prop_map(layout::table)
    ];
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
            metric: if metric { layout::EGRESS_METRIC } else { 0 },
            odd,
            ..routing::default_route(table, via, device)
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
            set(&format!("ipv4/conf/{HOST_END}/rp_filter"), own);
            set(&format!("ipv4/conf/{HOST_END}/route_localnet"), local.into());
            set(&format!("ipv6/conf/{HOST_END}/accept_ra"), own);
            set(&format!("ipv4/conf/{MESH}/rp_filter"), own);
        }
        switches
    }
}

prop_compose! {
    pub(super) fn any_observed()(
        ipv6 in prop::bool::weighted(0.9),
        mesh in prop::bool::weighted(0.9),
        hub in prop_oneof![
            1 => Just(HubNamespace::Absent),
            1 => Just(HubNamespace::Stale),
            8 => any_hub().prop_map(|hub| HubNamespace::Present(Box::new(hub))),
        ],
        stray in prop::bool::weighted(0.1),
        legs in btree_map(any_key(), any_container(), 5),
        rules in any_rules(),
        routes in any_routes(MESH),
        localhost in option::of(any::<bool>()),
        switches in any_switches(),
        listeners in btree_set(prop_oneof![Just("eth0".to_owned()), Just("eth1.5".to_owned())], 0..3),
    ) -> Observed {
        let strays = stray.then(|| HOST_END.to_owned()).into_iter().collect();
        let mut observed = Observed {
            ipv6, hub, strays, legs, mesh, rules, routes, switches, listeners,
        };
        observed.routes.extend(localhost.map(|odd| Route {
            odd,
            ..routing::localhost((HOST_END, 1024))
        }));
        make_possible(&mut observed);
        observed
    }
}

/// Takes out what no kernel can show.
fn make_possible(observed: &mut Observed) {
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
    let mut none = Hub::default();
    let hub = match &mut observed.hub {
        HubNamespace::Present(hub) => hub,
        _ => &mut none,
    };
    let host = home(hub, UPLINK).is_some_and(|inner| inner.ifname == HOST_END);
    if host {
        observed.strays.clear();
    } else {
        observed
            .routes
            .retain(|route| route.device.as_deref() != Some(HOST_END));
    }
    for (leg, container) in &mut observed.legs {
        let name = layout::port(leg);
        let Container::Here { taken, routes, .. } = container else {
            // Nothing is seen inside.
            let port = hub.ports.get_mut(&name);
            port.into_iter()
                .for_each(|port| port.peer = Peer::Elsewhere);
            continue;
        };
        let inner = home(hub, &name);
        let named = inner.is_some_and(|inner| inner.ifname == LEG);
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

pub(super) fn home<'a>(hub: &'a Hub, port: &str) -> Option<&'a Inner> {
    match &hub.ports.get(port)?.peer {
        Peer::Home(inner) => Some(inner),
        Peer::Elsewhere => None,
    }
}

pub(super) fn present(kernel: &Observed) -> &Hub {
    match &kernel.hub {
        HubNamespace::Present(hub) => hub,
        other => panic!("{other:?}"),
    }
}
