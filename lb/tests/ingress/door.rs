//! What does not get through, and that it is counted.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;

use std::time::Instant;

use weft_lb::ingress::{Ingress, IngressReport};
use weft_lb::spec::Protocol;

use super::host::{GATEWAY4, Host, TABLE, TARGET, ip};
use super::lab::{Lab, PORT, ways};
use super::ns::Ns;
use super::talk::{Connection, DEADLINE, PATIENCE, PROTOCOLS, ask, is_silent};

crate::cases!(
    a_port_that_is_not_for_everybody_is_for_those_who_are_allowed,
    a_port_that_is_for_nobody_is_not_for_the_host_and_its_containers_either,
    the_entry_judges_and_not_the_node_of_the_backend,
    frames_of_no_entry_node_open_nothing,
    nobody_is_routed_to_containers_or_into_the_mesh,
    loopback_addresses_do_not_come_by_wire,
);

fn allow(host: &mut Host, prefixes: &[&str]) {
    let port = NonZeroU16::new(PORT).unwrap();
    let prefixes = prefixes.iter().map(|prefix| prefix.parse().unwrap());
    let prefixes: BTreeSet<_> = prefixes.collect();
    host.spec.allowed = PROTOCOLS
        .map(|protocol| ((protocol, port), prefixes.clone()))
        .into();
    host.reconcile();
}

/// Does that, again if the first packet was still on its way, until it was counted.
fn counts(host: &mut Host, count: fn(&IngressReport) -> u64, work: impl Fn(&Host)) {
    let before = count(&host.report());
    let start = Instant::now();
    loop {
        work(host);
        if count(&host.report()) > before {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "nothing counted");
    }
}

fn a_port_that_is_not_for_everybody_is_for_those_who_are_allowed() {
    let mut lab = Lab::new();
    lab.publish(1, 1);
    let Lab { outside, a, .. } = &mut lab;
    // Changes of elements of a table in use: a prefix within another, and around it.
    for (prefixes, allowed) in [
        (["198.18.0.100/32", "fd18::100/128"], true),
        (["198.18.0.0/25", "fd18::/64"], true),
        (["198.18.0.0/26", "fd18::/121"], false),
        (["198.18.0.128/25", "fd18::101/128"], false),
        (["198.0.0.0/8", "fd00::/8"], true),
        (["0.0.0.0/0", "::/0"], true),
        (["203.0.113.0/24", "2001:db8::/32"], false),
    ] {
        allow(a, &prefixes);
        for (protocol, v4) in ways() {
            let to = SocketAddr::new(a.underlay(v4), PORT);
            if allowed {
                ask(outside, protocol, to).unwrap();
            } else {
                counts(
                    a,
                    |report| report.not_allowed,
                    |_| {
                        assert!(
                            is_silent(outside, protocol, to),
                            "{protocol} {to} {prefixes:?}"
                        );
                    },
                );
            }
        }
    }
    a.spec.allowed.clear();
    let report = a.reconcile();
    // Two ports with two prefixes each.
    assert_eq!(report.ops, 2 + 4);
    ask(
        outside,
        Protocol::Tcp,
        SocketAddr::new(a.underlay(true), PORT),
    )
    .unwrap();
}

fn a_port_that_is_for_nobody_is_not_for_the_host_and_its_containers_either() {
    let mut lab = Lab::new();
    lab.publish(1, 1);
    let a = &mut lab.a;
    allow(a, &[]);
    let own = a.underlay(true);
    for to in [Ipv4Addr::LOCALHOST.into(), own, "::1".parse().unwrap()] {
        counts(
            a,
            |report| report.not_allowed,
            |a| {
                let to = SocketAddr::new(to, PORT);
                for protocol in PROTOCOLS {
                    // The sender of a datagram is told that its own host drops it.
                    let told = |error: std::io::Error| error.kind() == ErrorKind::PermissionDenied;
                    let silent = is_silent(&a.ns, protocol, to);
                    assert!(silent || ask(&a.ns, protocol, to).is_err_and(told), "{to}");
                }
            },
        );
    }
    counts(
        a,
        |report| report.not_allowed,
        |a| {
            let to = SocketAddr::new(GATEWAY4.parse().unwrap(), PORT);
            assert!(is_silent(&a.containers[0].ns, Protocol::Tcp, to));
        },
    );
    // Every one is a source of its own.
    allow(a, &["127.0.0.0/8", "192.0.2.2/32"]);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    ask(&a.ns, Protocol::Tcp, to).unwrap();
    let to = SocketAddr::new(GATEWAY4.parse().unwrap(), PORT);
    ask(&a.containers[0].ns, Protocol::Udp, to).unwrap();
    assert!(is_silent(&a.ns, Protocol::Tcp, SocketAddr::new(own, PORT)));
}

fn the_entry_judges_and_not_the_node_of_the_backend() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    allow(&mut lab.b, &[]);
    for (protocol, v4) in ways() {
        lab.ask(protocol, lab.a.underlay(v4));
    }
    let Lab { outside, a, b, .. } = &mut lab;
    let (entry, around) = (b.underlay(true), b.mesh(true));
    let silent = |from: &Ns, to| assert!(is_silent(from, Protocol::Tcp, SocketAddr::new(to, PORT)));
    counts(b, |report| report.not_allowed, |_| silent(outside, entry));
    // No way around A's judgement leads through it to where B does not judge.
    allow(a, &[]);
    ip(outside, "route add 10.0.0.0/24 via 198.18.0.1");
    let not_published = |report: &IngressReport| report.not_published;
    counts(a, not_published, |_| silent(outside, around));
    counts(a, not_published, |a| silent(&a.containers[0].ns, around));
}

fn frames_of_no_entry_node_open_nothing() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    let to = SocketAddr::new(lab.a.underlay(true), PORT);
    let open = || Connection::open(to, DEADLINE).unwrap();
    let mut connection = lab.outside.run(open);
    let entries = std::mem::take(&mut lab.b.spec.entries);
    assert_eq!(lab.b.reconcile().ops, 2);
    for (protocol, v4) in ways() {
        let to = SocketAddr::new(lab.a.underlay(v4), PORT);
        let outside = &lab.outside;
        counts(
            &mut lab.b,
            |report| report.no_entry,
            |_| {
                assert!(is_silent(outside, protocol, to), "{protocol} {to}");
            },
        );
    }
    lab.b.spec.entries = entries;
    lab.b.reconcile();
    // What was open goes on.
    connection.echo(1000);
    lab.ask(Protocol::Tcp, lab.a.underlay(true));
}

fn nobody_is_routed_to_containers_or_into_the_mesh() {
    let mut lab = Lab::new();
    lab.publish(1, 1);
    // A neighbour that takes a node for a router.
    for route in [
        "-4 route add 192.0.2.0/24 via 198.18.0.1",
        "-4 route add 10.0.0.0/24 via 198.18.0.1",
        "-6 route add fd77:6566:7400::/64 via fd18::1",
        "-6 route add fd77:6566:7401::/64 via fd18::1",
    ] {
        ip(&lab.outside, route);
    }
    let Lab { outside, a, b, .. } = &mut lab;
    for (protocol, v4) in ways() {
        let leg = &a.containers[0];
        let leg = if v4 { leg.leg4 } else { leg.leg6 };
        for to in [
            SocketAddr::new(leg, TARGET),
            SocketAddr::new(b.mesh(v4), PORT),
        ] {
            counts(
                a,
                |report| report.not_published,
                |_| {
                    assert!(is_silent(outside, protocol, to), "{protocol} {to}");
                },
            );
        }
    }
}

fn loopback_addresses_do_not_come_by_wire() {
    let mut lab = Lab::new();
    let a = &mut lab.a;
    let private =
        a.ns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let to = private.local_addr().unwrap();
    // A container whose own loopback is out of its way.
    let container = &a.containers[0].ns;
    for switch in ["all", "wfgw2"] {
        let switch = format!("ipv4/conf/{switch}/route_localnet");
        container.0.set_sysctl(&switch, "1").unwrap();
    }
    for change in [
        "rule add pref 32000 lookup local",
        "rule delete pref 0",
        "route add 127.0.0.0/8 via 192.0.2.1 dev wfgw2 table 101 src 192.0.2.2",
        "rule add pref 1 to 127.0.0.0/8 lookup 101",
    ] {
        ip(container, change);
    }
    let connect = |a: &Host| {
        let container = &a.containers[0].ns;
        container.run(|| TcpStream::connect_timeout(&to, PATIENCE))
    };
    counts(
        a,
        |report| report.loopback,
        |a| assert!(connect(a).is_err()),
    );
    // The switch that localhost needs is what lets it in; the table is what does not.
    let next = Ingress::open(&a.ns.0, TABLE).unwrap();
    std::mem::replace(&mut a.ingress, next).remove().unwrap();
    connect(a).unwrap();
}
