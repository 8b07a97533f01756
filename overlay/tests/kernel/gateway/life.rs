//! The gateway and its legs come and go.

use std::path::{Path, PathBuf};

use weft_overlay::gateway::{GatewaySpec, LegAddresses};

use super::*;

pub(super) const CASES: &[Case] = &[
    (
        "a_gateway_is_made_as_designed_and_then_left_alone",
        made_as_designed,
    ),
    ("a_gateway_survives_a_crash_after_any_change", crash_points),
    ("legs_keep_their_addresses", addresses_kept),
    (
        "a_leg_whose_container_is_gone_is_reported_and_removed",
        container_gone,
    ),
    ("a_leg_that_cannot_be_attached_says_why", refused),
    ("a_gateway_that_is_removed_leaves_nothing", removed),
    ("a_gateways_links_are_no_left_overs", not_swept),
];

/// One host with two containers.
pub(super) struct Place {
    lab: Lab,
    pub(super) host: Host,
    pub(super) containers: [PathBuf; 2],
}

impl Place {
    pub(super) fn new() -> Self {
        let lab = Lab::new();
        let host = lab.host("h1");
        let containers = [lab.namespace("c1"), lab.namespace("c2")];
        Self {
            lab,
            host,
            containers,
        }
    }

    fn spec(&self) -> GatewaySpec {
        spec(&[
            ("leg-a", &self.containers[0]),
            ("leg-b", &self.containers[1]),
        ])
    }
}

/// Name of the hub's end of a leg.
pub(super) fn port(key: &str) -> String {
    weft_overlay::gateway::layout::port(key)
}

/// The addresses of an interface, without the kernel's own link-local one.
fn addresses(netns: &Path, name: &str) -> Vec<String> {
    let shown = json(netns, &format!("ip -j addr show dev {name}"));
    let infos = shown[0]["addr_info"].as_array().unwrap().iter();
    let mut found: Vec<String> = infos
        .filter(|info| info["protocol"] != "kernel_ll" && info["local"] != "fe80::1")
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .filter(|address| !address.starts_with("fe80"))
        .collect();
    found.sort();
    found
}

fn made_as_designed() {
    run(async {
        let place = Place::new();
        let host = &place.host.netns;
        let report = settle(&place.host, Some(&place.spec())).await;
        let leg = |n: u8| LegAddresses {
            v4: format!("192.168.240.{n}").parse().unwrap(),
            v6: format!("fd77:6566:7400::{n:x}").parse().ok(),
        };
        assert_eq!(report.legs["leg-a"], leg(2));
        assert_eq!(report.legs["leg-b"], leg(3));
        let hub = hub(&place.host);
        let bridge = link(&hub, "br0");
        let data = &bridge["linkinfo"]["info_data"];
        assert_eq!(
            (&bridge["mtu"], &data["mcast_snooping"]),
            (&1450.into(), &0.into())
        );
        let switches = "cat /proc/sys/net/bridge/bridge-nf-call-*tables";
        assert_eq!(sh(&hub, switches), "0\n0\n0\n");
        let uplink = link(&hub, "uplink");
        assert_eq!(uplink["master"], "br0");
        assert_eq!(uplink["linkinfo"]["info_slave_data"]["isolated"], false);
        let own = link(host, HOST_END);
        assert_eq!(
            (&own["mtu"], &own["address"]),
            (&1450.into(), &"02:42:c0:a8:f0:01".into())
        );
        assert_eq!(
            addresses(host, HOST_END),
            ["192.168.240.1/20", "fd77:6566:7400::1/64"]
        );
        assert_eq!(link_names(host), ["lo", HOST_END].map(str::to_owned).into());
        let lasting = sh(
            host,
            &format!("ip -6 -o addr show dev {HOST_END} tentative | grep -v proto || true"),
        );
        assert!(!lasting.contains("fe80::1/"), "held back: {lasting}");
        for (key, container, n) in [("leg-a", 0, 2), ("leg-b", 1, 3)] {
            let outer = link(&hub, &port(key));
            assert_eq!(
                (&outer["master"], &outer["mtu"]),
                (&"br0".into(), &1450.into())
            );
            assert_eq!(outer["linkinfo"]["info_slave_data"]["isolated"], true);
            assert_eq!(outer["inet6_addr_gen_mode"], "none");
            let alias = outer["ifalias"].as_str().unwrap();
            assert!(
                alias.starts_with(&format!("weft-gw:{key} 192.168.240.{n} ")),
                "{alias}"
            );
            let container = &place.containers[container];
            let inner = link(container, LEG);
            assert_eq!(
                (&inner["mtu"], &inner["address"]),
                (&1450.into(), &format!("02:42:c0:a8:f0:{n:02x}").into())
            );
            assert_eq!(
                addresses(container, LEG),
                [
                    format!("192.168.240.{n}/20"),
                    format!("fd77:6566:7400::{n}/64")
                ]
            );
            for (family, from, via) in [
                ("-4", format!("192.168.240.{n}"), "192.168.240.1"),
                ("-6", format!("fd77:6566:7400::{n}"), "fd77:6566:7400::1"),
            ] {
                let rules = json(container, &format!("ip -j {family} rule show pref 119"));
                let found =
                    ["src", "table", "protocol"].map(|name| rules[0][name].as_str().unwrap());
                assert_eq!(found, [&from, "2003238912", "120"]);
                let routes = json(
                    container,
                    &format!("ip -j {family} route show table 2003238912"),
                );
                let found = ["dst", "gateway", "dev"].map(|name| routes[0][name].as_str().unwrap());
                assert_eq!(found, ["default", via, LEG]);
                assert_eq!((rules.len(), routes.len()), (1, 1));
                // The main table has the gateway's network and no more.
                let main = json(
                    container,
                    &format!("ip -j {family} route show dev {LEG} proto kernel"),
                );
                assert!(
                    main.iter().all(|route| route["dst"] != "default"),
                    "{main:?}"
                );
            }
        }
        // The host reaches the legs, the legs do not reach each other past it.
        assert!(pings(host, v4("192.168.240.2")) && pings(host, v4("fd77:6566:7400::3")));
        let neighbour = sh(&place.containers[0], "ip neigh show 192.168.240.3");
        assert_eq!(neighbour, "");
    });
}

/// What a gateway looks like to an independent reader, without indices and counters.
pub(super) fn portrait(place: &Place) -> String {
    let host = &place.host.netns;
    let mut lines = vec![
        addresses(host, HOST_END).join(" "),
        sh(
            host,
            "(ip rule; ip -6 rule; ip -4 route show table all proto 119) | sort",
        ),
        sh(host, "ip -6 route show table all proto 119 | sort"),
    ];
    let shown = |netns: &Path, name: &str| {
        let found = link(netns, name);
        let up = found["flags"].to_string().contains("\"UP\"");
        let slave = &found["linkinfo"]["info_slave_data"]["isolated"];
        format!(
            "{name} {up} {} {} {} {} {slave}",
            found["mtu"], found["address"], found["master"], found["ifalias"]
        )
    };
    lines.push(shown(host, HOST_END));
    let hub = hub(&place.host);
    lines.push(shown(&hub, "br0").replace(link(&hub, "br0")["address"].as_str().unwrap(), ""));
    let uplink = link(&hub, "uplink");
    let slave = &uplink["linkinfo"]["info_slave_data"]["isolated"];
    lines.push(format!(
        "{} {} {slave} {}",
        uplink["master"], uplink["mtu"], uplink["ifalias"]
    ));
    for (key, container) in ["leg-a", "leg-b"].into_iter().zip(&place.containers) {
        lines.push(shown(container, LEG));
        let outer = link(&hub, &port(key));
        let slave = &outer["linkinfo"]["info_slave_data"]["isolated"];
        lines.push(format!(
            "{} {} {slave} {}",
            outer["master"], outer["mtu"], outer["ifalias"]
        ));
        lines.push(addresses(container, LEG).join(" "));
        lines.push(sh(container, "(ip rule; ip -6 rule) | sort"));
        lines.push(sh(container, "ip route show table 2003238912"));
        lines.push(sh(container, "ip -6 route show table 2003238912"));
    }
    lines.join("\n")
}

/// With a way to other nodes, by an interface that is not the gateway's.
pub(super) fn with_mesh(place: &Place) -> GatewaySpec {
    let host = &place.host.netns;
    sh(host, &format!("ip link add {MESH} type veth peer name far"));
    sh(host, &format!("ip link set {MESH} up; ip link set far up"));
    sh(host, &format!("ip addr add 10.0.0.2/24 dev {MESH}"));
    GatewaySpec {
        mesh: mesh(&[(1, "10.0.0.3", "fd77:6566:7401::3"), (300, "10.0.0.4", "")]),
        ..place.spec()
    }
}

fn crash_points() {
    run(async {
        let place = Place::new();
        let spec = with_mesh(&place);
        let (host, spec) = (&place.host, Some(&spec));
        let ops = settle(host, spec).await.ops;
        assert!(ops > 40, "{ops}");
        let wanted = portrait(&place);
        settle(host, None).await;
        let again = settle(host, spec).await.ops;
        assert_eq!(portrait(&place), wanted);
        for limit in (0..=again).step_by(3) {
            settle(host, None).await;
            let whole = gateway(host).reconcile_up_to(spec, limit).await;
            assert_eq!(whole, limit >= again, "{limit} of {again}");
            settle(host, spec).await;
            assert_eq!(
                portrait(&place),
                wanted,
                "after a crash behind {limit} of {again}"
            );
        }
        // Removal is cut short as well.
        for limit in [1, 5, 12, 18] {
            gateway(host).reconcile_up_to(None, limit).await;
            settle(host, spec).await;
            assert_eq!(
                portrait(&place),
                wanted,
                "after a crash behind removal {limit}"
            );
        }
    });
}

fn addresses_kept() {
    run(async {
        let place = Place::new();
        let host = &place.host;
        let both = settle(host, Some(&place.spec())).await.legs;
        // The first goes and comes back; the second has what it had, and the first the gap.
        let only_b = spec(&[("leg-b", &place.containers[1])]);
        assert_eq!(
            settle(host, Some(&only_b)).await.legs["leg-b"],
            both["leg-b"]
        );
        let third = place.lab.namespace("c3");
        let others = spec(&[("leg-b", &place.containers[1]), ("leg-c", &third)]);
        assert_eq!(
            settle(host, Some(&others)).await.legs["leg-c"],
            both["leg-a"]
        );
        let mut all = place.spec();
        all.legs.extend(others.legs);
        let legs = settle(host, Some(&all)).await.legs;
        assert_eq!(
            (&legs["leg-b"], &legs["leg-c"]),
            (&both["leg-b"], &both["leg-a"])
        );
        assert_eq!(legs["leg-a"].v4.to_string(), "192.168.240.4");
        // In another network all are given anew, and work.
        all.subnet4 = "172.16.240.0/24".parse().unwrap();
        let legs = settle(host, Some(&all)).await.legs;
        assert_eq!(legs["leg-a"].v4.to_string(), "172.16.240.2");
        assert!(pings(&host.netns, legs["leg-a"].v4) && pings(&host.netns, legs["leg-c"].v4));
        assert_eq!(
            addresses(&host.netns, HOST_END),
            ["172.16.240.1/24", "fd77:6566:7400::1/64"]
        );
    });
}

fn container_gone() {
    run(async {
        let place = Place::new();
        let (host, wanted) = (&place.host, place.spec());
        settle(host, Some(&wanted)).await;
        weft_netns::delete(&place.containers[0]).unwrap();
        let report = apply(host, Some(&wanted)).await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(report.gone, ["leg-a".to_owned()].into());
        assert_eq!(report.legs.keys().collect::<Vec<_>>(), ["leg-b"]);
        assert!(!link_names(&hub(host)).contains(&port("leg-a")));
        assert_eq!(settle(host, Some(&wanted)).await.ops, 0);
        // A path that means another namespace is gone; that one is not touched.
        let held = Netns::open(&place.containers[1]).unwrap();
        weft_netns::delete(&place.containers[1]).unwrap();
        weft_netns::create(&place.containers[1]).unwrap();
        let report = apply(host, Some(&wanted)).await;
        assert_eq!(report.gone.len(), 2, "{report:?}");
        assert_eq!(link_names(&place.containers[1]), ["lo".to_owned()].into());
        drop(held);
    });
}

fn refused() {
    run(async {
        let place = Place::new();
        let (host, mut wanted) = (&place.host, place.spec());
        sh(
            &place.containers[0],
            "ip link add wfgw type veth peer name x9",
        );
        let index = link(&place.containers[0], LEG)["ifindex"].clone();
        wanted
            .legs
            .insert("twice".to_owned(), wanted.legs["leg-b"].clone());
        wanted
            .legs
            .insert("the-host".to_owned(), netns_ref(&host.netns));
        wanted
            .legs
            .insert("Bad key".to_owned(), netns_ref(&place.lab.namespace("c4")));
        let report = apply(host, Some(&wanted)).await;
        assert_eq!(
            report.legs.keys().collect::<Vec<_>>(),
            ["leg-b"],
            "{report:?}"
        );
        assert_eq!(report.error, None);
        for (key, why) in [
            ("leg-a", "wfgw exists in the container and is not weft's"),
            ("twice", "its container has another wfgw already"),
            ("the-host", "it is the host itself"),
            ("Bad key", "1 to 64 characters"),
        ] {
            let line = &report.failed[key];
            assert!(line.contains(why), "{key}: {line}");
        }
        assert_eq!(link(&place.containers[0], LEG)["ifindex"], index);
        // A specification that cannot be is refused as a whole.
        let report = apply(
            host,
            Some(&GatewaySpec {
                mtu: 576,
                ..place.spec()
            }),
        )
        .await;
        let error = report.error.unwrap().to_string();
        assert!(error.contains("MTU 576 is not between 1280"), "{error}");
        // So is a way by an interface that is not there; the legs do without.
        let missing = GatewaySpec {
            mesh: mesh(&[(1, "10.0.0.3", "")]),
            ..place.spec()
        };
        let report = apply(host, Some(&missing)).await;
        let error = report.error.unwrap().to_string();
        assert!(
            error.contains("no interface wf-ingress that is up"),
            "{error}"
        );
        assert!(report.legs.contains_key("leg-b"));
    });
}

fn removed() {
    run(async {
        let place = Place::new();
        let host = &place.host;
        let before = |netns: &Path| sh(netns, "ip rule; ip -6 rule; ip route show table all");
        let wanted = with_mesh(&place);
        let others = [&host.netns, &place.containers[0], &place.containers[1]].map(|n| before(n));
        let names = link_names(&host.netns);
        settle(host, Some(&wanted)).await;
        assert!(others[1] != before(&place.containers[0]));
        settle(host, None).await;
        let after = [&host.netns, &place.containers[0], &place.containers[1]].map(|n| before(n));
        assert_eq!(after, others);
        assert_eq!(link_names(&host.netns), names);
        // A leg alone, whose container lives on.
        settle(host, Some(&wanted)).await;
        let fewer = GatewaySpec {
            legs: spec(&[("leg-b", &place.containers[1])]).legs,
            ..wanted
        };
        settle(host, Some(&fewer)).await;
        assert_eq!(before(&place.containers[0]), others[1]);
        assert_eq!(link_names(&place.containers[0]), ["lo".to_owned()].into());
    });
}

fn not_swept() {
    run(async {
        let place = Place::new();
        let host = &place.host;
        let wanted = with_mesh(&place);
        settle(host, Some(&wanted)).await;
        let names = link_names(&host.netns);
        host.settle(&weft_overlay::Spec::new()).await;
        assert_eq!(link_names(&host.netns), names);
        assert_eq!(settle(host, Some(&wanted)).await.ops, 0);
        // Nor are its networks the host's routes.
        let facts = Netns::open(&host.netns).unwrap().run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .unwrap()
                .block_on(weft_overlay::host::facts())
                .unwrap()
        });
        let facts = facts.unwrap();
        assert_eq!(facts.routes, vec![]);
        let subnet = weft_overlay::gateway::observed_subnet(&facts);
        assert_eq!(subnet, Some(place.spec().subnet4));
    });
}
