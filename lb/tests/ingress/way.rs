//! The way of connections, and what backends see.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use weft_lb::spec::Protocol;

use super::host::{GATEWAY4, GATEWAY6, Host, MESH, TARGET, ip, nft};
use super::lab::{Lab, PORT, outsider, ways};
use super::ns::{Ns, route};
use super::talk::{Connection, DEADLINE, PROTOCOLS, ask, is_silent};

crate::cases!(
    a_backend_on_another_node_sees_the_client_and_answers_through_the_entry,
    a_backend_on_the_entry_sees_the_client,
    clients_of_both_entries_reach_backends_on_both,
    a_client_behind_a_router_is_seen,
    localhost_reaches_backends_here_and_there,
    a_hosts_own_address_reaches_backends_here_and_there,
    a_host_reaches_its_own_backend_through_another,
    a_container_reaches_a_published_port_of_its_node,
    containers_reach_each_other_and_themselves_through_a_published_port,
    the_same_where_bridged_packets_meet_the_rules,
    much_goes_both_ways_through_the_smaller_mesh,
    a_backend_that_does_not_listen_refuses_through_the_entry,
    a_node_without_backends_refuses_through_the_entry,
    a_rewritten_port_shows_nodes_instead_of_clients,
);

fn a_backend_on_another_node_sees_the_client_and_answers_through_the_entry() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    // What B itself sends towards the client, and what it sends into the mesh for it.
    nft(&lab.b.ns, "add table inet watch");
    nft(
        &lab.b.ns,
        "add chain inet watch out { type filter hook postrouting priority 300 ; }",
    );
    for device in ["ul2", MESH] {
        for to in ["ip daddr 198.18.0.100", "ip6 daddr fd18::100"] {
            let rule = format!("add rule inet watch out oifname {device} {to} counter");
            nft(&lab.b.ns, &rule);
        }
    }
    for (protocol, v4) in ways() {
        expect(
            &lab.outside,
            protocol,
            lab.a.underlay(v4),
            ("c0@2", outsider(v4)),
        );
    }
    let rules = nft(&lab.b.ns, "list chain inet watch out");
    for line in rules
        .lines()
        .filter(|line| line.contains("counter packets"))
    {
        let silent = line.contains("counter packets 0 ");
        assert_eq!(silent, line.contains("ul2"), "{rules}");
    }
}

fn a_backend_on_the_entry_sees_the_client() {
    let mut lab = Lab::new();
    lab.publish(1, 0);
    for (protocol, v4) in ways() {
        expect(
            &lab.outside,
            protocol,
            lab.a.underlay(v4),
            ("c0@1", outsider(v4)),
        );
    }
}

fn clients_of_both_entries_reach_backends_on_both() {
    let mut lab = Lab::new();
    lab.publish(1, 1);
    let lab = &lab;
    for (protocol, v4) in ways() {
        let through = |entry: &Host| {
            let mut answers = BTreeMap::<String, usize>::new();
            for _ in 0..40 {
                let answer = lab.ask(protocol, entry.underlay(v4));
                assert_eq!(answer.seen, outsider(v4));
                *answers.entry(answer.who).or_default() += 1;
            }
            answers
        };
        std::thread::scope(|scope| {
            let clients = [&lab.a, &lab.b].map(|entry| scope.spawn(move || through(entry)));
            for answers in clients.map(|client| client.join().unwrap()) {
                // One in a million millions has all answers from one.
                assert_eq!(answers.len(), 2, "{protocol} {answers:?}");
            }
        });
    }
}

fn a_client_behind_a_router_is_seen() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    // The machine outside is the router, and each node's default route leads there.
    let client = "203.0.113.5";
    ip(&lab.outside, &format!("address add {client}/32 dev lo"));
    let prefer = format!("route add 198.18.0.1 dev outer src {client}");
    ip(&lab.outside, &prefer);
    let anywhere = (Ipv4Addr::UNSPECIFIED, 0);
    for host in [&lab.a, &lab.b] {
        route(&host.ns, anywhere, [198, 18, 0, 100].into());
    }
    for protocol in PROTOCOLS {
        let seen = client.parse().unwrap();
        expect(&lab.outside, protocol, lab.a.underlay(true), ("c0@2", seen));
    }
}

fn localhost_reaches_backends_here_and_there() {
    for (own, other, who) in [(0, 1, "c0@2"), (1, 0, "c0@1")] {
        let mut lab = Lab::new();
        lab.publish(own, other);
        for (protocol, v4) in ways() {
            let seen = if own == 0 {
                lab.a.mesh(v4)
            } else {
                gateway(v4)
            };
            expect(&lab.a.ns, protocol, localhost(v4), (who, seen));
        }
    }
}

fn a_hosts_own_address_reaches_backends_here_and_there() {
    for (own, other, who) in [(0, 1, "c0@2"), (1, 0, "c0@1")] {
        let mut lab = Lab::new();
        lab.publish(own, other);
        for (protocol, v4) in ways() {
            let own = lab.a.underlay(v4);
            expect(&lab.a.ns, protocol, own, (who, own));
        }
    }
}

fn a_host_reaches_its_own_backend_through_another() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    for (protocol, v4) in ways() {
        let entry = lab.a.underlay(v4);
        // Its own source would make B take the reply for itself.
        expect(&lab.b.ns, protocol, entry, ("c0@2", lab.a.mesh(v4)));
    }
    // Others keep theirs.
    let entry = lab.a.underlay(true);
    expect(&lab.outside, PROTOCOLS[0], entry, ("c0@2", outsider(true)));
}

fn a_container_reaches_a_published_port_of_its_node() {
    for (own, other, who) in [(0, 1, "c0@2"), (1, 0, "c0@1")] {
        let mut lab = Lab::new();
        // One that is no backend.
        lab.a.add_container(false);
        lab.publish(own, other);
        let container = &lab.a.containers[1].ns;
        for (protocol, v4) in ways() {
            let seen = if own == 0 {
                lab.a.mesh(v4)
            } else {
                gateway(v4)
            };
            for to in [gateway(v4), lab.a.underlay(v4)] {
                expect(container, protocol, to, (who, seen));
            }
        }
    }
}

fn containers_reach_each_other_and_themselves_through_a_published_port() {
    hairpin(false);
}

fn the_same_where_bridged_packets_meet_the_rules() {
    hairpin(true);
}

fn hairpin(bridged_rules: bool) {
    let mut lab = Lab::with(bridged_rules);
    lab.a.add_container(bridged_rules);
    lab.publish(1, 0);
    for (protocol, v4) in ways() {
        for container in &lab.a.containers {
            for to in [gateway(v4), lab.a.underlay(v4)] {
                expect(&container.ns, protocol, to, ("c0@1", gateway(v4)));
            }
        }
    }
    // But not past it.
    let [backend, other] = &lab.a.containers[..] else {
        panic!("two containers");
    };
    for (protocol, v4) in ways() {
        let leg = if v4 { backend.leg4 } else { backend.leg6 };
        let to = SocketAddr::new(leg, TARGET);
        assert!(is_silent(&other.ns, protocol, to), "{protocol} {to}");
    }
}

fn much_goes_both_ways_through_the_smaller_mesh() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    let asked = [
        (&lab.outside, lab.a.underlay(true)),
        (&lab.outside, lab.a.underlay(false)),
        (&lab.a.ns, localhost(true)),
        (&lab.a.ns, localhost(false)),
        (&lab.a.containers[0].ns, gateway(true)),
    ];
    for (ns, to) in asked {
        let to = SocketAddr::new(to, PORT);
        ns.run(|| {
            let mut connection = Connection::open(to, DEADLINE).expect("a connection");
            connection.echo(3 << 20);
        });
    }
}

fn a_backend_that_does_not_listen_refuses_through_the_entry() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    lab.b.containers[0].server = None;
    refuses(&lab);
}

fn a_node_without_backends_refuses_through_the_entry() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    // The other node's balancer knows it already, the entry's does not yet.
    lab.b.publish_nothing();
    refuses(&lab);
}

/// At once, instead of a silence that lasts until the client gives up.
fn refuses(lab: &Lab) {
    for (protocol, v4) in ways() {
        let to = SocketAddr::new(lab.a.underlay(v4), PORT);
        let error = ask(&lab.outside, protocol, to).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionRefused,
            "{protocol} {to}"
        );
    }
}

fn a_rewritten_port_shows_nodes_instead_of_clients() {
    for (own, other, who) in [(0, 1, "c0@2"), (1, 0, "c0@1")] {
        let mut lab = Lab::new();
        lab.publish(own, other);
        let port = NonZeroU16::new(PORT).unwrap();
        for host in [&mut lab.a, &mut lab.b] {
            host.spec.snat_ports = PROTOCOLS.map(|protocol| (protocol, port)).into();
            host.reconcile();
        }
        for (protocol, v4) in ways() {
            let entry = lab.a.underlay(v4);
            // The gateway of the node that has the backend.
            expect(&lab.outside, protocol, entry, (who, gateway(v4)));
        }
    }
}

/// Asks until the deadline; that one answers, and sees that.
fn expect(ns: &Ns, protocol: Protocol, to: IpAddr, (who, seen): (&str, IpAddr)) {
    let to = SocketAddr::new(to, PORT);
    let answer = ask(ns, protocol, to).unwrap_or_else(|error| panic!("{protocol} {to}: {error}"));
    assert_eq!(
        (answer.who.as_str(), answer.seen),
        (who, seen),
        "{protocol} {to}"
    );
}

fn localhost(v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::LOCALHOST.into()
    } else {
        Ipv6Addr::LOCALHOST.into()
    }
}

fn gateway(v4: bool) -> IpAddr {
    let address = if v4 { GATEWAY4 } else { GATEWAY6 };
    address.parse().unwrap()
}
