//! Which way packets go.

use std::path::PathBuf;

use weft_overlay::gateway::{GatewaySpec, mark};

use super::*;

pub(super) const CASES: &[Case] = &[
    (
        "replies_leave_by_the_leg_whatever_the_main_table_says",
        replies_by_the_leg,
    ),
    ("a_mark_leads_to_its_node_and_nothing_else_does", marked),
    (
        "what_came_in_by_another_node_goes_back_by_it",
        back_by_the_entry,
    ),
    (
        "the_host_and_containers_reach_a_container_through_the_host",
        through_the_host,
    ),
    (
        "a_server_that_leaves_the_source_to_the_kernel_answers_by_the_leg",
        answers,
    ),
];

/// A container that has a network of its own with a default route, which leads nowhere, and checks where
/// packets come from. On the same network is a neighbour.
fn with_own_network(lab: &Lab) -> [PathBuf; 2] {
    let (container, neighbour) = (lab.namespace("c1"), lab.namespace("r1"));
    let own = format!(
        "ip link add eth0 type veth peer name eth0 netns {}",
        neighbour.display()
    );
    sh(&container, &own);
    for (netns, n) in [(&container, 2), (&neighbour, 1)] {
        sh(
            netns,
            &format!("ip addr add 172.17.0.{n}/24 dev eth0; ip link set eth0 up"),
        );
        sh(netns, &format!("ip addr add fd17::{n}/64 dev eth0 nodad"));
    }
    sh(
        &container,
        "ip route add default via 172.17.0.1; ip -6 route add default via fd17::1",
    );
    for scope in ["all", "default"] {
        set_switch(&container, &format!("ipv4/conf/{scope}/rp_filter"), "1");
    }
    [container, neighbour]
}

/// Two hosts of which the second knows the first's gateway: a client beyond a host that forwards.
fn with_client(lab: &Lab) -> [Host; 2] {
    let hosts = lab.two_hosts();
    sh(
        &hosts[1].netns,
        "ip route add 192.168.240.0/20 via 198.18.0.1",
    );
    sh(
        &hosts[1].netns,
        "ip -6 route add fd77:6566:7400::/64 via fd00::1",
    );
    hosts
}

fn replies_by_the_leg() {
    run(async {
        let lab = Lab::new();
        let [host, client] = with_client(&lab);
        let client = &client.netns;
        let [container, _neighbour] = with_own_network(&lab);
        let wanted = spec(&[("leg-a", &container)]);
        let leg = settle(&host, Some(&wanted)).await.legs["leg-a"];
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
        let to = (IpAddr::V4(leg.v4), server.port());
        assert!(!connects(client, None, to, SHORT));
        assert!(settle(&host, Some(&wanted)).await.ops > 0);
        assert!(connects(client, None, to, LONG));
    });
}

/// UDP: such a server's answer has no source yet when the kernel looks for the way.
fn answers() {
    run(async {
        let lab = Lab::new();
        let [host, client] = with_client(&lab);
        let client = &client.netns;
        let [container, neighbour] = with_own_network(&lab);
        let servers = [v4("0.0.0.0"), v4("::")].map(|own| UdpServer::start(&container, own));
        let ports = servers.iter().map(UdpServer::port).collect();
        let mut wanted = spec(&[("leg-a", &container)]);
        let leg = settle(&host, Some(&wanted)).await.legs["leg-a"];
        let legs = [IpAddr::V4(leg.v4), IpAddr::V6(leg.v6.unwrap())];
        // The container's own default route leads its answer away.
        assert!(!is_answered(client, (legs[0], servers[0].port()), SHORT));
        wanted.udp_ports = [("leg-a".to_owned(), ports)].into();
        settle(&host, Some(&wanted)).await;
        let own = [v4("172.17.0.2"), v4("fd17::2")];
        for ((leg, own), server) in legs.into_iter().zip(own).zip(&servers) {
            assert!(is_answered(client, (leg, server.port()), LONG), "{leg}");
            // Who is on a network of the container's own is answered there.
            assert!(is_answered(&neighbour, (own, server.port()), LONG), "{own}");
        }
    });
}

/// With the packet rules typed by hand. Where bridged packets meet them too, what is bridged in the
/// host's namespace would not come through.
fn through_the_host() {
    run(async {
        let lab = Lab::new();
        let host = lab.host("h1");
        let netns = &host.netns;
        let containers = [lab.namespace("c1"), lab.namespace("c2")];
        for (scope, switch) in [("ipv4", "iptables"), ("ipv6", "ip6tables")] {
            let switch = format!("/proc/sys/net/bridge/bridge-nf-call-{switch}");
            sh(
                netns,
                &format!("[ ! -e {switch} ] || echo 1 > {switch} # {scope}"),
            );
        }
        let wanted = spec(&[("leg-a", &containers[0]), ("leg-b", &containers[1])]);
        let leg = settle(&host, Some(&wanted)).await.legs["leg-a"];
        let server = Server::start(&containers[0]);
        let (four, six, port) = (leg.v4, leg.v6.unwrap(), server.port());
        for (name, kind, hook) in [("o", "nat", "output"), ("p", "nat", "prerouting")] {
            sh(netns, &chain(name, kind, hook));
            let local = "fib daddr type local tcp dport 8080 dnat";
            sh(netns, &rule(name, &format!("{local} ip to {four}:{port}")));
            sh(
                netns,
                &rule(name, &format!("{local} ip6 to [{six}]:{port}")),
            );
        }
        sh(netns, &chain("s", "nat", "postrouting"));
        sh(netns, &rule("s", &format!("oifname {HOST_END} masquerade")));
        let gateway = [v4("192.168.240.1"), v4("fd77:6566:7400::1")];
        for (client, to) in [
            (netns, [v4("127.0.0.1"), v4("::1")]),
            (netns, gateway),
            (&containers[1], gateway),
            (&containers[0], gateway),
        ] {
            for (to, from) in to.into_iter().zip(gateway) {
                assert!(
                    connects(client, None, (to, 8080), LONG),
                    "{to} from {client:?}"
                );
                assert_eq!(server.client(), from);
            }
        }
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
        assert_eq!(sh(host, "ip -4 route show table all proto 119"), "");
    });
}

fn chain(table: &str, kind: &str, hook: &str) -> String {
    format!(
        "nft 'add table inet {table}; \
         add chain inet {table} c {{ type {kind} hook {hook} priority 0; }}'"
    )
}

fn rule(table: &str, rule: &str) -> String {
    format!("nft 'add rule inet {table} c {rule}'")
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
        sh(first, &chain("n", "nat", "prerouting"));
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
        sh(second, &chain("n", "nat", "prerouting"));
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
        sh(second, &chain("m", "filter", "prerouting"));
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
            &rule("m", &format!("iifname {HOST_END} meta mark set ct mark")),
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
