use std::net::TcpListener;

use weft_raft::model::{Endpoint, Protocol, PublishedPort, SourceMode};

use super::*;
use crate::translate::services::testing::{HERE, Known, member, service};

fn port(published: u16, mode: PublishMode, ip: Option<&str>) -> PublishedPort {
    PublishedPort {
        published,
        target: 80,
        protocol: Protocol::Tcp,
        mode,
        ip: ip.map(|ip| ip.parse().unwrap()),
        source: SourceMode::Preserve,
        allow_from: Vec::new(),
    }
}

fn publishing(number: u8, ports: Vec<PublishedPort>) -> Service {
    Service {
        ports,
        ..service(number, &[1])
    }
}

fn row(known: &Known) -> &Node {
    known.view.nodes.get(&HERE.node).unwrap()
}

#[test]
fn a_node_looks_at_the_ports_that_it_answers_at() {
    let ports = vec![
        port(1, PublishMode::Ingress, None),
        port(2, PublishMode::Ingress, Some("198.18.0.1")),
        port(3, PublishMode::Ingress, Some("198.18.0.2")),
        port(4, PublishMode::Ingress, Some("127.0.0.1")),
        port(5, PublishMode::Host, None),
    ];
    let service = publishing(1, ports);
    let served = |members: &[Endpoint]| -> Vec<u16> {
        let known = Known::of(std::slice::from_ref(&service), members);
        let ports = served(&known.view, row(&known), &service);
        ports.iter().map(|port| port.published).collect()
    };
    assert_eq!(served(&[member(2, 1, 2, 1)]), [1, 2, 4]);
    assert_eq!(served(&[member(2, 1, 1, 1)]), [1, 2, 4, 5]);
}

#[test]
fn notices_are_bounded_and_those_of_the_host_come_first() {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let number = listener.local_addr().unwrap().port();
    let services: Vec<Service> = (1..=40)
        .map(|id| publishing(id, vec![port(number, PublishMode::Ingress, None)]))
        .collect();
    let known = Known::of(&services, &[]);
    let firewall = ["x".repeat(limits::NOTICE_BYTES - 1) + "\u{e9}"];
    let found = notices(&known.view, row(&known), &HostPorts::read(), &firewall);
    assert_eq!(found.len(), limits::NODE_NOTICES);
    assert_eq!(found[0].service, None);
    assert_eq!(found[0].message.len(), limits::NOTICE_BYTES - 1);
    assert_eq!(found[1].service, Some(services[0].id));
    let said = format!("listens on port {number}/tcp");
    assert!(found[1].message.contains(&said), "{:?}", found[1]);
}
