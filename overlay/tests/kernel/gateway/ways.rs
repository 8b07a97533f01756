//! Which way packets go.

use weft_overlay::gateway::{GatewaySpec, mark};

use super::*;

pub(super) const CASES: &[(&str, fn())] = &[
    (
        "replies_leave_by_the_leg_whatever_the_main_table_says",
        replies_by_the_leg,
    ),
    ("a_mark_leads_to_its_node_and_nothing_else_does", marked),
    (
        "what_came_in_by_another_node_goes_back_by_it",
        back_by_the_entry,
    ),
];

/// A container that has a network of its own with a default route, and checks where packets come from.
fn replies_by_the_leg() {
    run(async {
        let lab = Lab::new();
        let hosts = lab.two_hosts();
        let (host, client) = (&hosts[0], &hosts[1].netns);
        let (container, router) = (lab.namespace("c1"), lab.namespace("r1"));
        let own = format!(
            "ip link add eth0 type veth peer name p0 netns {}",
            router.display()
        );
        sh(&container, &own);
        sh(
            &container,
            "ip addr add 172.17.0.2/24 dev eth0; ip link set eth0 up",
        );
        sh(
            &container,
            "ip addr add fd17::2/64 dev eth0 nodad; ip route add default via 172.17.0.1",
        );
        sh(&container, "ip -6 route add default via fd17::1 dev eth0");
        sh(&router, "ip link set p0 up");
        for scope in ["all", "default"] {
            set_switch(&container, &format!("ipv4/conf/{scope}/rp_filter"), "1");
        }
        let wanted = spec(&[("leg-a", &container)]);
        let leg = settle(host, Some(&wanted)).await.legs["leg-a"];
        // The client is beyond the host, which forwards.
        sh(client, "ip route add 192.168.240.0/20 via 198.18.0.1");
        sh(client, "ip -6 route add fd77:6566:7400::/64 via fd00::1");
        let server = Server::start(&container);
        for (address, from) in [
            (IpAddr::V4(leg.v4), v4("198.18.0.2")),
            (IpAddr::V6(leg.v6.unwrap()), v4("fd00::2")),
        ] {
            let to = (address, server.port());
            assert!(connects(client, None, to, LONG), "{address}");
            assert_eq!(server.client(), from);
        }
        // It is the rule that does it.
        sh(&container, "ip rule del pref 119");
        assert!(!connects(
            client,
            None,
            (leg.v4.into(), server.port()),
            SHORT
        ));
        assert!(settle(host, Some(&wanted)).await.ops > 0);
        assert!(connects(client, None, (leg.v4.into(), server.port()), LONG));
    });
}

fn marked() {
    run(async {
        let lab = Lab::new();
        let hosts = lab.two_hosts();
        let host = &hosts[0].netns;
        sh(
            host,
            &format!("ip link add {MESH} type veth peer name far; ip link set far up"),
        );
        sh(
            host,
            &format!("ip link set {MESH} up; ip addr add 10.0.0.1/24 dev {MESH}"),
        );
        sh(
            host,
            "ip route add default via 198.18.0.2; ip -6 route add default via fd00::2",
        );
        let nodes = [
            (1u16, "10.0.0.11", "fd77:6566:7401::11"),
            (15, "10.0.0.12", ""),
            (16, "10.0.0.13", "fd77:6566:7401::13"),
            (0x123, "10.0.0.14", "fd77:6566:7401::14"),
            (0x133, "", "fd77:6566:7401::15"),
            (4095, "10.0.0.16", "fd77:6566:7401::16"),
        ];
        let wanted = GatewaySpec {
            mesh: mesh(&nodes),
            ..spec(&[])
        };
        settle(&hosts[0], Some(&wanted)).await;
        let way = |to: &str, mark: u32| {
            let found = json(host, &format!("ip -j route get {to} mark {mark:#x}"));
            let text = |name: &str| found[0][name].as_str().unwrap_or_default().to_owned();
            (text("gateway"), text("dev"))
        };
        let main4 = ("198.18.0.2".to_owned(), "u0".to_owned());
        let main6 = ("fd00::2".to_owned(), "u0".to_owned());
        for (node, via4, via6) in nodes {
            // The other bits of the mark are others'.
            for bits in [0, 0x0f00_0fff] {
                let mark = mark(node) | bits;
                let by = |via: &str, main: &(String, String)| match via {
                    "" => main.clone(),
                    via => (via.to_owned(), MESH.to_owned()),
                };
                assert_eq!(way("203.0.113.7", mark), by(via4, &main4), "{node}");
                assert_eq!(way("2001:db8::7", mark), by(via6, &main6), "{node}");
            }
        }
        for other in [0, 2, 14, 17, 0x122, 0x200, 4094] {
            assert_eq!(way("203.0.113.7", mark(other)), main4, "{other}");
            assert_eq!(way("2001:db8::7", mark(other)), main6, "{other}");
        }
        // What is not marked is led past all of them.
        let rules = json(host, "ip -j rule");
        let first = rules.iter().find(|rule| rule["priority"] != 0).unwrap();
        assert_eq!([&first["fwmark"], &first["fwmask"]], ["0", "0xfff000"]);
        assert_eq!(first["goto"], 474, "{first}");
        assert!(
            rules.iter().all(|rule| rule["unresolved"].is_null()),
            "{rules:?}"
        );
        // A node goes, another changes its address.
        let fewer = GatewaySpec {
            mesh: mesh(&[(1, "10.0.0.21", "fd77:6566:7401::21"), nodes[5]]),
            ..spec(&[])
        };
        settle(&hosts[0], Some(&fewer)).await;
        assert_eq!(
            way("203.0.113.7", mark(1)),
            ("10.0.0.21".to_owned(), MESH.to_owned())
        );
        assert_eq!(way("203.0.113.7", mark(16)), main4);
        settle(&hosts[0], Some(&spec(&[]))).await;
        assert_eq!(sh(host, "ip rule | wc -l; ip -6 rule | wc -l"), "3\n2\n");
        assert_eq!(sh(host, "ip route show table all proto 119"), "");
    });
}

/// The whole way with the packet rules typed by hand: a client speaks to the first host, whose only
/// backend is behind the second, which has no way of its own to the client.
fn back_by_the_entry() {
    run(async {
        let lab = Lab::new();
        let (hosts, specs) = crate::mesh::mesh(&lab);
        crate::mesh::settle(&hosts, &specs).await;
        let (client, container) = (lab.namespace("client"), lab.namespace("c1"));
        let [first, second] = [&hosts[0].netns, &hosts[1].netns];
        let wire = format!(
            "ip link add x0 type veth peer name x0 netns {}",
            client.display()
        );
        sh(first, &wire);
        for (netns, n) in [(first, 1), (&client, 2)] {
            sh(
                netns,
                &format!("ip addr add 203.0.113.{n}/24 dev x0; ip link set x0 up"),
            );
            sh(netns, &format!("ip addr add 2001:db8::{n}/64 dev x0 nodad"));
        }
        // A default route that leads nowhere, and the strict check of where packets come from.
        sh(
            second,
            "ip route add default via 198.18.0.99; ip -6 route add default via fd00::99",
        );
        set_switch(second, "ipv4/conf/all/rp_filter", "1");
        // Each has a way back to the other.
        let to_second = mesh(&[(2, "10.0.1.3", "fd11::3")]);
        settle(
            &hosts[0],
            Some(&GatewaySpec {
                mesh: to_second,
                ..spec(&[])
            }),
        )
        .await;
        let to_first = mesh(&[(1, "10.0.1.2", "fd11::2")]);
        let with_leg = spec(&[("leg-a", &container)]);
        let with_leg = GatewaySpec {
            mesh: to_first,
            ..with_leg
        };
        let leg = settle(&hosts[1], Some(&with_leg)).await.legs["leg-a"];
        let server = Server::start(&container);
        let port = server.port();
        let chain = |name: &str, kind: &str| {
            format!(
                "nft 'add table inet {name}; \
                 add chain inet {name} p {{ type {kind} hook prerouting priority 0; }}'"
            )
        };
        let rule = |table: &str, rule: &str| format!("nft 'add rule inet {table} p {rule}'");
        sh(first, &chain("n", "nat"));
        sh(
            first,
            &rule(
                "n",
                "ip daddr 203.0.113.1 tcp dport 8080 dnat ip to 10.0.1.3",
            ),
        );
        sh(
            first,
            &rule(
                "n",
                "ip6 daddr 2001:db8::1 tcp dport 8080 dnat ip6 to fd11::3",
            ),
        );
        sh(second, &chain("n", "nat"));
        let published = format!("iifname {MESH} tcp dport 8080 dnat");
        let (four, six) = (leg.v4, leg.v6.unwrap());
        sh(
            second,
            &rule("n", &format!("{published} ip to {four}:{port}")),
        );
        sh(
            second,
            &rule("n", &format!("{published} ip6 to [{six}]:{port}")),
        );
        sh(second, &chain("m", "filter"));
        let (entry, mac) = (mark(1), mac(2));
        sh(
            second,
            &rule(
                "m",
                &format!("iifname {MESH} ether saddr {mac} ct mark set {entry}"),
            ),
        );
        sh(
            second,
            &rule("m", &format!("iifname {BRIDGE} meta mark set ct mark")),
        );
        for (to, from) in [
            ("203.0.113.1", "203.0.113.2"),
            ("2001:db8::1", "2001:db8::2"),
        ] {
            assert!(connects(&client, None, (v4(to), 8080), LONG), "{to}");
            assert_eq!(server.client(), v4(from), "the client's address is kept");
        }
    });
}
