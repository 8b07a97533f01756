//! Endpoint modes that change, and services that end with their endpoints.

use super::*;
use crate::command::ServiceChange;
use crate::model::{EndpointMode, PublishMode, PublishedPort, Role, Service};

fn to(number: u8, mode: EndpointMode) -> Command {
    Command::UpdateService {
        id: service_id(number),
        change: Box::new(ServiceChange {
            mode: Some(mode),
            ..ServiceChange::default()
        }),
    }
}

/// A cluster with networks 1, `web`, 10.0.1.0/29, and 2, `db`, 10.0.2.0/24.
fn cluster() -> Pair {
    let mut pair = Pair::cluster();
    for (number, name, cidr) in [(1, "web", "10.0.1.0/29"), (2, "db", "10.0.2.0/24")] {
        pair.network(NetworkSpec {
            subnets: vec![subnet(cidr)],
            ..network_spec(number, name)
        });
    }
    pair
}

fn shop(pair: &Pair) -> Option<&Service> {
    let services = &pair.state.view().services;
    services.get(&service_id(1)).map(AsRef::as_ref)
}

fn vips(pair: &Pair) -> Vec<String> {
    let vip =
        |on: &crate::model::ServiceNetwork| on.vip.map_or("none".to_owned(), |vip| vip.to_string());
    shop(pair).unwrap().networks.iter().map(vip).collect()
}

#[test]
fn dnsrr_gives_the_addresses_back_and_vip_assigns_others() {
    let mut pair = cluster();
    pair.service(service_spec(1, &[1, 2], "shop"));
    assert_eq!(vips(&pair), ["10.0.1.2", "10.0.2.2"]);
    pair.done(to(1, EndpointMode::DnsRr));
    assert_eq!(vips(&pair), ["none", "none"]);
    assert_eq!(shop(&pair).unwrap().mode, EndpointMode::DnsRr);
    let next = pair.endpoint(endpoint_spec(1, 1, "c1"));
    assert_eq!(next.ipv4.unwrap().octets(), [10, 0, 1, 3]);
    pair.done(to(1, EndpointMode::Vip));
    assert_eq!(vips(&pair), ["10.0.1.4", "10.0.2.3"]);
    // As it is.
    let before = shop(&pair).unwrap().clone();
    pair.done(to(1, EndpointMode::Vip));
    assert_eq!(shop(&pair), Some(&before));
    // Both were given back.
    let spec = EndpointSpec {
        ipv4: Some([10, 0, 1, 2].into()),
        ..endpoint_spec(2, 1, "c2")
    };
    pair.endpoint(spec);
}

#[test]
fn a_service_with_a_port_of_all_nodes_stays_with_its_addresses() {
    let mut pair = cluster();
    let of_host = PublishedPort {
        mode: PublishMode::Host,
        ..port(8443, 443)
    };
    pair.service(ServiceSpec {
        ports: vec![of_host.clone(), port(8080, 80)],
        ..service_spec(1, &[1], "shop")
    });
    assert_eq!(
        pair.refused(to(1, EndpointMode::DnsRr)),
        (
            RefusalKind::Conflict,
            "service shop publishes port 8080/tcp on all nodes, which endpoint mode dnsrr has no \
             address for; take it off with `weft service update --publish-rm 8080/tcp shop`, or \
             publish it with mode=host"
                .to_owned()
        )
    );
    assert_eq!(vips(&pair), ["10.0.1.2"]);
    // Both at once.
    pair.done(Command::UpdateService {
        id: service_id(1),
        change: Box::new(ServiceChange {
            ports: Some(vec![of_host]),
            mode: Some(EndpointMode::DnsRr),
            ..ServiceChange::default()
        }),
    });
    assert_eq!(vips(&pair), ["none"]);
}

#[test]
fn without_a_free_address_a_service_stays_dnsrr() {
    let mut pair = cluster();
    pair.service(ServiceSpec {
        mode: EndpointMode::DnsRr,
        ..service_spec(1, &[2, 1], "shop")
    });
    for number in 1..=5 {
        pair.endpoint(endpoint_spec(number, 1, &format!("c{number}")));
    }
    let (kind, message) = pair.refused(to(1, EndpointMode::Vip));
    assert_eq!(kind, RefusalKind::Exhausted);
    assert!(message.starts_with("network web has no free IPv4 address: 5 of 5 are used"));
    assert_eq!(vips(&pair), ["none", "none"]);
    pair.done(Command::RemoveEndpoint { id: endpoint_id(3) });
    pair.done(to(1, EndpointMode::Vip));
    assert_eq!(vips(&pair), ["10.0.2.2", "10.0.1.4"]);
}

/// Service 1, `shop`, on networks 1 and 2, with endpoint `number` on network 1.
fn first(number: u32, ports: &[PublishedPort]) -> EndpointSpec {
    EndpointSpec {
        new_service: Some(Box::new(ServiceSpec {
            ports: ports.to_vec(),
            ends_with_endpoints: true,
            ..service_spec(1, &[1, 2], "shop")
        })),
        ..endpoint_spec(number, 1, &format!("c{number}"))
    }
}

fn joining(number: u32, network: u8) -> EndpointSpec {
    EndpointSpec {
        service: Some(service_id(1)),
        ..endpoint_spec(number, network, &format!("c{number}"))
    }
}

fn detach(number: u32) -> Command {
    Command::RemoveEndpoint {
        id: endpoint_id(number),
    }
}

#[test]
fn a_service_made_with_an_endpoint_goes_with_its_last_one() {
    let mut pair = cluster();
    let made = pair.endpoint(first(1, &[port(8080, 80), port(0, 81)]));
    assert_eq!(made.service, Some(service_id(1)));
    assert_eq!(made.ipv4.unwrap().octets(), [10, 0, 1, 3]);
    let service = shop(&pair).unwrap();
    assert!(service.ends_with_endpoints);
    assert_eq!(service.ports[1].published, 30_000);
    assert_eq!(vips(&pair), ["10.0.1.2", "10.0.2.2"]);

    pair.endpoint(joining(2, 2));
    pair.done(detach(1));
    assert!(shop(&pair).is_some());
    pair.done(detach(2));
    assert!(shop(&pair).is_none());
    // Name, port and addresses are free.
    pair.endpoint(first(3, &[port(8080, 80)]));
    assert_eq!(vips(&pair), ["10.0.1.4", "10.0.2.4"]);
}

#[test]
fn a_service_that_was_made_alone_stays_without_endpoints() {
    let mut pair = cluster();
    pair.service(service_spec(1, &[1], "shop"));
    pair.endpoint(joining(1, 1));
    pair.done(detach(1));
    assert!(shop(&pair).is_some());
}

#[test]
fn it_goes_with_the_node_that_its_endpoints_are_on() {
    let mut pair = cluster();
    for (number, network) in [(1, 1), (2, 2)] {
        let spec = match number {
            1 => first(number, &[]),
            _ => joining(number, network),
        };
        pair.endpoint(EndpointSpec {
            node: node_id(2),
            ..spec
        });
    }
    pair.endpoint(joining(3, 1));
    pair.done(Command::RemoveNode { id: node_id(2) });
    assert!(shop(&pair).is_some());

    pair.done(Command::AddNode(Box::new(node_spec(3, Role::Worker))));
    pair.endpoint(EndpointSpec {
        node: node_id(3),
        ..joining(4, 1)
    });
    pair.done(detach(3));
    pair.done(Command::RemoveNode { id: node_id(3) });
    assert!(shop(&pair).is_none());
}

#[test]
fn a_wanted_address_is_the_endpoints_and_the_service_gets_the_next() {
    let mut pair = cluster();
    let spec = EndpointSpec {
        ipv4: Some([10, 0, 1, 2].into()),
        ..first(1, &[])
    };
    assert_eq!(pair.endpoint(spec).ipv4.unwrap().octets(), [10, 0, 1, 2]);
    assert_eq!(vips(&pair), ["10.0.1.3", "10.0.2.2"]);
}

#[test]
fn what_cannot_be_made_with_an_endpoint_leaves_neither() {
    let mut pair = cluster();
    pair.service(ServiceSpec {
        ports: vec![port(8080, 80)],
        ..service_spec(2, &[2], "blog")
    });
    let named = |name: &str, networks: &[u8]| {
        let made = service_spec(1, networks, name);
        EndpointSpec {
            new_service: Some(Box::new(made)),
            ..endpoint_spec(1, 1, "c1")
        }
    };
    let both = EndpointSpec {
        service: Some(service_id(2)),
        ..first(1, &[])
    };
    let cases = [
        (
            named("blog", &[1]),
            "service name `blog` is taken; choose another",
        ),
        (
            first(1, &[port(8080, 80)]),
            "port 8080/tcp is published by service blog; choose another, or none for a free one",
        ),
        (
            named("shop", &[2]),
            "service `shop` is not to be on network web, where its first endpoint is; name that \
             network too",
        ),
        (
            both,
            "service blog is not on network web; attach to one of its networks, such as db, or \
                use `weft service update --network-add web blog`",
        ),
    ];
    for (spec, message) in cases {
        let create = Command::CreateEndpoint(Box::new(spec));
        assert_eq!(pair.refused(create).1, message);
    }
    // One address is left, and two are needed.
    for number in 11..=14 {
        pair.endpoint(endpoint_spec(number, 1, &format!("c{number}")));
    }
    let create = Command::CreateEndpoint(Box::new(first(1, &[])));
    assert_eq!(pair.refused(create).0, RefusalKind::Exhausted);
}
