use std::net::IpAddr;

use super::*;
use crate::command::{ServiceChange, ServiceSpec};
use crate::model::{EndpointMode, Protocol, PublishMode, PublishedPort, SourceMode};

fn cluster() -> Pair {
    let mut pair = Pair::cluster();
    pair.network(network_spec(1, "web"));
    pair
}

fn create(number: u8, ports: &[PublishedPort]) -> Command {
    Command::CreateService(Box::new(ServiceSpec {
        ports: ports.to_vec(),
        ..service_spec(number, &[1], &format!("s{number}"))
    }))
}

fn update(number: u8, ports: &[PublishedPort]) -> Command {
    Command::UpdateService {
        id: service_id(number),
        change: Box::new(ServiceChange {
            ports: Some(ports.to_vec()),
            ..ServiceChange::default()
        }),
    }
}

/// What a command makes a service publish.
fn numbers(pair: &mut Pair, command: Command) -> Vec<u16> {
    match pair.done(command) {
        Object::Service(service) => service.ports.iter().map(|port| port.published).collect(),
        other => panic!("not a service: {other:?}"),
    }
}

fn udp(published: u16, target: u16) -> PublishedPort {
    PublishedPort {
        protocol: Protocol::Udp,
        ..port(published, target)
    }
}

fn host(published: u16, target: u16) -> PublishedPort {
    PublishedPort {
        mode: PublishMode::Host,
        ..port(published, target)
    }
}

fn at(ip: &str, published: u16, target: u16) -> PublishedPort {
    PublishedPort {
        ip: Some(ip.parse().unwrap()),
        ..port(published, target)
    }
}

#[test]
fn a_port_left_open_is_the_lowest_free_one() {
    let mut pair = cluster();
    // Whoever names a number gets it, wherever in the request it is.
    let first = create(1, &[port(0, 80), udp(0, 80), port(0, 81), port(30_000, 82)]);
    assert_eq!(numbers(&mut pair, first), [30_001, 30_000, 30_002, 30_000]);
    let second = create(2, &[port(0, 80), udp(0, 80)]);
    assert_eq!(numbers(&mut pair, second), [30_003, 30_001]);
    pair.done(Command::RemoveService { id: service_id(1) });
    let third = create(3, &[host(0, 80), host(0, 80), port(0, 80), port(0, 80)]);
    assert_eq!(numbers(&mut pair, third), [30_000, 30_001, 30_002, 30_004]);
}

#[test]
fn a_port_left_open_stays_the_same_over_updates() {
    let mut pair = cluster();
    numbers(&mut pair, create(1, &[port(0, 70)]));
    numbers(
        &mut pair,
        create(2, &[port(0, 80), udp(0, 80), port(0, 81)]),
    );
    pair.done(Command::RemoveService { id: service_id(1) });
    // 30000 is free again and is not taken for what is published already.
    let more = update(2, &[port(0, 82), port(0, 81), port(0, 80), udp(0, 80)]);
    assert_eq!(numbers(&mut pair, more), [30_000, 30_002, 30_001, 30_000]);
    let less = update(2, &[port(0, 80)]);
    assert_eq!(numbers(&mut pair, less), [30_001]);
    assert_eq!(numbers(&mut pair, update(2, &[port(0, 80)])), [30_001]);
    // A second one for the same target is another one; a named one is in nobody's way.
    let twice = update(2, &[port(0, 80), port(0, 80), port(30_000, 80)]);
    assert_eq!(numbers(&mut pair, twice), [30_001, 30_002, 30_000]);
    let named = update(2, &[port(0, 80), port(30_001, 81)]);
    assert_eq!(numbers(&mut pair, named), [30_002, 30_001]);
    assert_eq!(numbers(&mut pair, update(2, &[])), []);
    assert_eq!(numbers(&mut pair, create(3, &[port(0, 80)])), [30_000]);
}

#[test]
fn each_address_keeps_its_own_port() {
    let mut pair = cluster();
    let (one, two) = (at("198.18.0.1", 0, 80), at("198.18.0.2", 0, 80));
    let other = at("198.18.0.1", 30_000, 80);
    numbers(&mut pair, create(1, &[other]));
    let both = create(2, &[one.clone(), two.clone()]);
    assert_eq!(numbers(&mut pair, both), [30_001, 30_000]);
    pair.done(Command::RemoveService { id: service_id(1) });
    let turned = update(2, &[two, one]);
    assert_eq!(numbers(&mut pair, turned), [30_000, 30_001]);
    let all = update(2, &[port(0, 80)]);
    assert_eq!(numbers(&mut pair, all), [30_000]);
}

#[test]
fn a_taken_port_is_refused_by_the_services_name() {
    let mut pair = cluster();
    pair.done(create(
        1,
        &[port(8080, 80), udp(53, 53), at("198.18.0.1", 443, 443)],
    ));
    let taken = |port: &str| {
        format!("port {port} is published by service s1; choose another, or none for a free one")
    };
    for (wanted, port) in [
        (port(8080, 81), "8080/tcp"),
        (host(8080, 80), "8080/tcp"),
        (at("198.18.0.1", 8080, 80), "8080/tcp"),
        (udp(53, 53), "53/udp"),
        (port(443, 443), "443/tcp"),
        (at("198.18.0.1", 443, 443), "443/tcp"),
    ] {
        let refused = pair.refused(create(2, std::slice::from_ref(&wanted)));
        assert_eq!(refused, (RefusalKind::Conflict, taken(port)), "{wanted:?}");
    }
    pair.done(create(2, &[at("198.18.0.2", 443, 443), port(53, 53)]));
    let mut clash = |ports: &[PublishedPort]| pair.refused(update(2, ports)).1;
    assert_eq!(clash(&[port(53, 53), udp(53, 53)]), taken("53/udp"));
}

#[test]
fn a_port_is_asked_for_once() {
    let twice = |port: &str| {
        format!(
            "port {port} is asked for twice; publish it once, or each time on another address (ip=)"
        )
    };
    for (ports, port) in [
        ([port(8080, 80), port(8080, 81)], "8080/tcp"),
        ([port(8080, 80), host(8080, 80)], "8080/tcp"),
        ([at("198.18.0.1", 443, 443), port(443, 443)], "443/tcp"),
        ([udp(53, 53), udp(53, 53)], "53/udp"),
    ] {
        let refused = cluster().refused(create(1, &ports));
        assert_eq!(refused, (RefusalKind::Invalid, twice(port)));
    }
    let (one, two) = (at("198.18.0.1", 443, 443), at("2001:db8::1", 443, 443));
    cluster().done(create(1, &[one, two, udp(443, 443)]));
}

#[test]
fn a_service_may_take_its_own_ports_anew() {
    let mut pair = cluster();
    numbers(&mut pair, create(1, &[port(8080, 80), port(8081, 81)]));
    let turned = update(1, &[port(8081, 80), at("198.18.0.1", 8080, 81)]);
    assert_eq!(numbers(&mut pair, turned), [8081, 8080]);
    // What it gave up is free for others, and only that.
    assert_eq!(
        pair.refused(create(2, &[port(8080, 80)])).0,
        RefusalKind::Conflict
    );
    pair.done(create(2, &[at("198.18.0.2", 8080, 80)]));
}

#[test]
fn ports_that_cannot_work_are_refused() {
    type Change = fn(&mut PublishedPort);
    let cases: [(Change, &str); 6] = [
        (
            |port| port.target = 0,
            "target port 0 is no port; name the one that the service listens on, 1 to 65535",
        ),
        (
            |port| {
                port.protocol = Protocol::Udp;
                port.source = SourceMode::ProxyV2;
            },
            "source=proxy-v2 puts a header in front of a TCP stream; use preserve or snat for udp",
        ),
        (
            |port| port.ip = Some(IpAddr::from([0; 4])),
            "address 0.0.0.0 to publish on does not name one host; name an address of the nodes, or \
             none for all of them",
        ),
        (
            |port| port.ip = Some("::ffff:198.18.0.1".parse().unwrap()),
            "address ::ffff:198.18.0.1 to publish on is an IPv4 address; write 198.18.0.1",
        ),
        (
            |port| port.allow_from = vec!["198.18.0.1/24".parse().unwrap()],
            "range of clients 198.18.0.1/24 has host bits set; write 198.18.0.0/24",
        ),
        (
            |port| port.allow_from = vec!["198.18.0.0/24".parse().unwrap(); 65],
            "65 ranges of clients of one port are too many; at most 64 are accepted",
        ),
    ];
    for (change, message) in cases {
        let mut wanted = port(8080, 80);
        change(&mut wanted);
        let refused = cluster().refused(create(1, &[wanted]));
        assert_eq!(refused, (RefusalKind::Invalid, message.to_owned()));
    }
    let many: Vec<_> = (1..=1025).map(|number| port(number, 80)).collect();
    assert_eq!(
        cluster().refused(create(1, &many)),
        (
            RefusalKind::Invalid,
            "1025 published ports are too many; at most 1024 are accepted".to_owned()
        )
    );
}

#[test]
fn a_dnsrr_service_publishes_on_its_own_hosts_only() {
    let mut pair = cluster();
    let dnsrr = |port| {
        Command::CreateService(Box::new(ServiceSpec {
            mode: EndpointMode::DnsRr,
            ports: vec![port],
            ..service_spec(1, &[1], "s1")
        }))
    };
    let refused = (
        RefusalKind::Invalid,
        "endpoint mode dnsrr has no address to publish to; use vip, or mode=host".to_owned(),
    );
    assert_eq!(pair.refused(dnsrr(port(8080, 80))), refused);
    assert_eq!(numbers(&mut pair, dnsrr(host(0, 80))), [30_000]);
    assert_eq!(pair.refused(update(1, &[port(8080, 80)])), refused);
}

#[test]
fn open_ports_run_out_at_the_end_of_their_range() {
    let mut pair = cluster();
    let range = limits::DYNAMIC_PORTS;
    let all: Vec<_> = range.clone().map(|_| port(0, 80)).collect();
    let mut given = Vec::new();
    for (number, ports) in (1..).zip(all.chunks(limits::PORTS_PER_SERVICE)) {
        given.extend(numbers(&mut pair, create(number, ports)));
    }
    assert_eq!(given, range.collect::<Vec<_>>());
    assert_eq!(
        pair.refused(create(9, &[udp(0, 80), port(0, 80)])),
        (
            RefusalKind::Exhausted,
            "no tcp port from 30000 to 32767 is free; name one outside, or remove a service"
                .to_owned()
        )
    );
    pair.done(update(2, &[]));
    assert_eq!(numbers(&mut pair, create(9, &[port(0, 80)])), [31_024]);
}
