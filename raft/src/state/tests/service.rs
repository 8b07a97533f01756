use super::*;
use crate::command::{ServiceChange, ServiceSpec};
use crate::model::{
    Affinity, BackendState, EndpointMode, HealthCheck, Labels, Probe, Role, Scheduler, Service,
};

fn create(spec: ServiceSpec) -> Command {
    Command::CreateService(Box::new(spec))
}

fn update(number: u8, change: ServiceChange) -> Command {
    Command::UpdateService {
        id: service_id(number),
        change: Box::new(change),
    }
}

fn remove(number: u8) -> Command {
    Command::RemoveService {
        id: service_id(number),
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

fn vips(service: &Service) -> Vec<String> {
    let vip =
        |on: &crate::model::ServiceNetwork| on.vip.map_or("none".to_owned(), |vip| vip.to_string());
    service.networks.iter().map(vip).collect()
}

fn member(number: u32, network: u8, service: u8) -> EndpointSpec {
    EndpointSpec {
        service: Some(service_id(service)),
        ..endpoint_spec(number, network, &format!("c{number}"))
    }
}

#[test]
fn a_service_has_an_address_on_each_of_its_networks_and_gives_it_back() {
    let mut pair = cluster();
    pair.endpoint(endpoint_spec(1, 1, "c1"));
    let shop = pair.service(service_spec(1, &[1, 2], "shop"));
    assert_eq!(vips(&shop), ["10.0.1.3", "10.0.2.2"]);
    assert_eq!(shop.revision, pair.state.view().revision);
    assert_eq!(
        pair.endpoint(endpoint_spec(2, 1, "c2"))
            .ipv4
            .unwrap()
            .octets()[3],
        4
    );

    pair.done(remove(1));
    assert!(pair.state.view().services.is_empty());
    let next: Vec<u8> = (3..6)
        .map(|number| pair.endpoint(endpoint_spec(number, 1, &format!("c{number}"))))
        .map(|endpoint| endpoint.ipv4.unwrap().octets()[3])
        .collect();
    assert_eq!(next, [5, 6, 3]);
}

#[test]
fn the_name_of_a_dnsrr_service_stands_for_its_endpoints() {
    let mut pair = cluster();
    let shop = pair.service(ServiceSpec {
        mode: EndpointMode::DnsRr,
        ..service_spec(1, &[1, 2], "shop")
    });
    assert_eq!(vips(&shop), ["none", "none"]);
    assert_eq!(
        pair.endpoint(endpoint_spec(1, 1, "c1"))
            .ipv4
            .unwrap()
            .octets()[3],
        2
    );
    // An endpoint may have the name of a service.
    pair.endpoint(endpoint_spec(2, 1, "shop"));
}

#[test]
fn an_address_that_a_service_or_a_node_holds_is_refused_by_the_holders_name() {
    let mut pair = cluster();
    pair.service(service_spec(1, &[1], "shop"));
    let at = |network: u8, host: u8| {
        Command::CreateEndpoint(Box::new(EndpointSpec {
            ipv4: Some([10, 0, network, host].into()),
            ..endpoint_spec(1, network, "c1")
        }))
    };
    assert_eq!(
        pair.refused(at(1, 2)),
        (
            RefusalKind::Conflict,
            "address 10.0.1.2 is held by service shop; choose another of 10.0.1.2 to 10.0.1.6, or \
             none to have a free one assigned"
                .to_owned()
        )
    );
    assert_eq!(
        pair.refused(at(0, 3)),
        (
            RefusalKind::Conflict,
            "address 10.0.0.3 is held by node h2; choose another of 10.0.0.2 to 10.0.0.254, or none \
             to have a free one assigned"
                .to_owned()
        )
    );
}

#[test]
fn a_network_without_a_free_address_takes_no_service() {
    let mut pair = cluster();
    for number in 1..=5 {
        pair.service(service_spec(number, &[1], &format!("s{number}")));
    }
    let full = "network web has no free IPv4 address: 5 of 5 are used; detach endpoints, remove \
                services, or give it more with `weft network update --subnet-add CIDR web`";
    assert_eq!(
        pair.refused(create(service_spec(6, &[2, 1], "s6"))),
        (RefusalKind::Exhausted, full.to_owned())
    );
    pair.done(remove(3));
    let shop = pair.service(service_spec(6, &[2, 1], "s6"));
    assert_eq!(vips(&shop), ["10.0.2.2", "10.0.1.4"]);
}

#[test]
fn nodes_hold_addresses_of_the_ingress_network() {
    let mut pair = Pair::cluster();
    let ingress = |pair: &Pair, number| pair.node(number).ingress.map(|ip| ip.to_string());
    assert_eq!(ingress(&pair, 1).as_deref(), Some("10.0.0.2"));
    assert_eq!(ingress(&pair, 2).as_deref(), Some("10.0.0.3"));
    // Asks again.
    pair.done(Command::AddNode(Box::new(node_spec(2, Role::Worker))));
    assert_eq!(ingress(&pair, 2).as_deref(), Some("10.0.0.3"));
    pair.done(Command::RemoveNode { id: node_id(2) });
    pair.done(Command::AddNode(Box::new(node_spec(3, Role::Worker))));
    assert_eq!(ingress(&pair, 3).as_deref(), Some("10.0.0.4"));
}

#[test]
fn a_full_ingress_network_is_no_reason_to_refuse_a_node() {
    let mut pair = Pair::new();
    pair.done(Command::Init(Box::new(small_cluster())));
    let add = |number| Command::AddNode(Box::new(node_spec(number, Role::Worker)));
    for number in 2..=7 {
        pair.done(add(number));
    }
    assert_eq!(pair.node(5).ingress, Some([10, 0, 0, 6].into()));
    assert_eq!(pair.node(6).ingress, None);
    assert_eq!(pair.node(7).ingress, None);
    pair.done(Command::RemoveNode { id: node_id(3) });
    pair.done(Command::UpdateNode {
        id: node_id(7),
        change: Box::default(),
    });
    assert_eq!(pair.node(7).ingress, Some([10, 0, 0, 4].into()));
    pair.done(add(6));
    assert_eq!(pair.node(6).ingress, None);
}

#[test]
fn what_a_service_cannot_be_is_refused() {
    let mut pair = cluster();
    pair.service(service_spec(1, &[1], "shop"));
    let named = |name: &str| service_spec(2, &[1], name);
    let on = |networks: &[u8]| service_spec(2, networks, "other");
    let cases = [
        (
            named("shop"),
            RefusalKind::Conflict,
            "service name `shop` is taken; choose another",
        ),
        (
            named("Shop"),
            RefusalKind::Invalid,
            "service name `Shop` is not a DNS label; write 1 to 63 characters of a-z, 0-9 and -, the \
             first and last not -",
        ),
        (
            service_spec(1, &[1], "other"),
            RefusalKind::Conflict,
            "service id aqaqaaaaaaaaaaaa is taken; draw another",
        ),
        (
            on(&[]),
            RefusalKind::Invalid,
            "a service needs a network to be reached on; name at least one",
        ),
        (
            on(&[1; 17]),
            RefusalKind::Invalid,
            "17 networks of one service are too many; at most 16 are accepted",
        ),
        (
            on(&[2, 1, 2]),
            RefusalKind::Invalid,
            "network db is named twice; name each network of a service once",
        ),
        (
            on(&[9]),
            RefusalKind::NotFound,
            "there is no network aieqaaaaaaaaaaaa; `weft network ls` lists all",
        ),
        (
            on(&[1, 0]),
            RefusalKind::Invalid,
            "network ingress carries published ports and takes no services; choose another",
        ),
    ];
    for (spec, kind, message) in cases {
        assert_eq!(pair.refused(create(spec)), (kind, message.to_owned()));
    }
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    fn checked(probe: Probe) -> Option<HealthCheck> {
        Some(HealthCheck {
            probe,
            interval_ms: 1000,
            timeout_ms: 500,
            retries: 3,
        })
    }
    type Change = fn(&mut ServiceSpec);
    let cases: [(Change, &str); 10] = [
        (
            |spec| spec.affinity = Some(Affinity { timeout_s: 0 }),
            "affinity timeout 0 is out of range; 1 to 604800 seconds are accepted",
        ),
        (
            |spec| spec.drain_timeout_ms = 3_600_001,
            "drain timeout 3600001 is out of range; 0 to 3600000 milliseconds are accepted",
        ),
        (
            |spec| spec.idle_timeout_s = Some(0),
            "idle timeout 0 is out of range; 1 to 2073600 seconds are accepted",
        ),
        (
            |spec| {
                spec.labels.insert("a b".to_owned(), String::new());
            },
            "label key `a b` is not accepted; use printable characters without spaces and =",
        ),
        (
            |spec| {
                spec.health = checked(Probe::Tcp { port: 80 });
                spec.health.as_mut().unwrap().interval_ms = 99;
            },
            "health check interval 99 is out of range; 100 to 3600000 milliseconds are accepted",
        ),
        (
            |spec| {
                spec.health = checked(Probe::Tcp { port: 80 });
                spec.health.as_mut().unwrap().timeout_ms = 9;
            },
            "health check timeout 9 is out of range; 10 to 600000 milliseconds are accepted",
        ),
        (
            |spec| {
                spec.health = checked(Probe::Tcp { port: 80 });
                spec.health.as_mut().unwrap().retries = 0;
            },
            "health check retries 0 is out of range; 1 to 1000 are accepted",
        ),
        (
            |spec| spec.health = checked(Probe::Tcp { port: 0 }),
            "health check of port 0 cannot work; name a port that the service listens on",
        ),
        (
            |spec| {
                spec.health = checked(Probe::Http {
                    port: 80,
                    path: "ready".to_owned(),
                });
            },
            "health check path `ready` is not accepted; it begins with / and has at most 1024 \
             printable characters",
        ),
        (
            |spec| {
                spec.health = checked(Probe::Exec {
                    command: Vec::new(),
                });
            },
            "command is empty; name a program to run",
        ),
    ];
    for (change, message) in cases {
        let mut spec = service_spec(1, &[1], "shop");
        change(&mut spec);
        let refused = cluster().refused(create(spec));
        assert_eq!(refused, (RefusalKind::Invalid, message.to_owned()));
    }
}

#[test]
fn an_update_worked_out_from_another_revision_is_refused() {
    let mut pair = cluster();
    let base = pair.service(service_spec(1, &[1], "shop")).revision;
    let to = |scheduler, base| {
        let change = ServiceChange {
            base: Some(base),
            scheduler: Some(scheduler),
            ..ServiceChange::default()
        };
        update(1, change)
    };
    let Object::Service(changed) = pair.done(to(Scheduler::Maglev, base)) else {
        panic!("not a service");
    };
    let message = "service shop was changed meanwhile; look at it and ask again";
    for stale in [base, changed.revision + 1] {
        let refused = pair.refused(to(Scheduler::Random, stale));
        assert_eq!(refused, (RefusalKind::Outdated, message.to_owned()));
    }
    pair.done(to(Scheduler::Random, changed.revision));
}

#[test]
fn an_update_changes_what_it_names_and_nothing_else() {
    let mut pair = cluster();
    let mut expected = Service::clone(&pair.service(ServiceSpec {
        affinity: Some(Affinity { timeout_s: 60 }),
        ports: vec![port(8080, 80)],
        ..service_spec(1, &[1], "shop")
    }));
    let change = ServiceChange {
        scheduler: Some(Scheduler::Maglev),
        affinity: Some(None),
        idle_timeout_s: Some(Some(60)),
        labels_add: Labels::from([("tier".to_owned(), "front".to_owned())]),
        labels_remove: vec!["never".to_owned()],
        ..ServiceChange::default()
    };
    pair.done(update(1, change.clone()));
    expected.scheduler = Scheduler::Maglev;
    expected.affinity = None;
    expected.idle_timeout_s = Some(60);
    expected.labels = change.labels_add.clone();
    expected.revision = pair.state.view().revision;
    assert_eq!(*pair.state.view().services[&service_id(1)], expected);

    pair.done(update(1, change));
    pair.done(update(1, ServiceChange::default()));
    let kept = &pair.state.view().services[&service_id(1)];
    assert_eq!(**kept, expected, "no change, no new revision");

    let unknown = "there is no service aqeqaaaaaaaaaaaa; `weft service ls` lists all";
    for command in [update(9, ServiceChange::default()), remove(9)] {
        let refused = pair.refused(command);
        assert_eq!(refused, (RefusalKind::NotFound, unknown.to_owned()));
    }
}

#[test]
fn a_service_moves_to_other_networks() {
    let mut pair = cluster();
    pair.service(service_spec(1, &[1], "shop"));
    let moved = |add: &[u8], remove: &[u8]| {
        let ids = |numbers: &[u8]| numbers.iter().map(|number| network_id(*number)).collect();
        update(
            1,
            ServiceChange {
                networks_add: ids(add),
                networks_remove: ids(remove),
                ..ServiceChange::default()
            },
        )
    };
    pair.done(moved(&[2], &[]));
    let now = |pair: &Pair| vips(&pair.state.view().services[&service_id(1)]);
    assert_eq!(now(&pair), ["10.0.1.2", "10.0.2.2"]);

    pair.endpoint(member(1, 1, 1));
    let cases = [
        (
            moved(&[], &[1]),
            RefusalKind::InUse,
            "network web has endpoints of service shop (such as endpoint c1 on node h1); detach them \
             first",
        ),
        (
            moved(&[2], &[]),
            RefusalKind::Conflict,
            "service shop is on network db already; name one that it is not on",
        ),
        (
            moved(&[2], &[2]),
            RefusalKind::Conflict,
            "service shop is on network db already; name one that it is not on",
        ),
        (
            moved(&[], &[2, 2]),
            RefusalKind::Invalid,
            "service shop is not on network db; name one that it is on",
        ),
        (
            moved(&[0], &[]),
            RefusalKind::Invalid,
            "network ingress carries published ports and takes no services; choose another",
        ),
    ];
    for (command, kind, message) in cases {
        assert_eq!(pair.refused(command), (kind, message.to_owned()));
    }
    pair.done(Command::RemoveEndpoint { id: endpoint_id(1) });
    pair.done(moved(&[], &[1]));
    assert_eq!(now(&pair), ["10.0.2.2"]);
    assert_eq!(
        pair.refused(moved(&[], &[2])),
        (
            RefusalKind::Invalid,
            "a service needs a network to be reached on; name at least one".to_owned()
        )
    );
}

#[test]
fn a_network_stays_while_a_service_is_on_it() {
    let mut pair = cluster();
    pair.service(ServiceSpec {
        mode: EndpointMode::DnsRr,
        ..service_spec(1, &[1], "shop")
    });
    let network = || Command::RemoveNetwork { id: network_id(1) };
    assert_eq!(
        pair.refused(network()),
        (
            RefusalKind::InUse,
            "network web is used by service shop; remove the service, or take it off the network \
             with `weft service update --network-rm web shop`"
                .to_owned()
        )
    );
    pair.done(remove(1));
    pair.done(network());
}

#[test]
fn endpoints_outlive_their_service_in_none() {
    let mut pair = cluster();
    pair.service(service_spec(1, &[1], "shop"));
    pair.endpoint(member(1, 1, 1));
    pair.endpoint(endpoint_spec(2, 1, "c2"));
    pair.done(Command::SetBackends(vec![(
        endpoint_id(1),
        BackendState::Ready,
    )]));
    let before = pair.state.view().endpoints.clone();
    pair.done(remove(1));
    let after = &pair.state.view().endpoints;
    assert_eq!(after[&endpoint_id(2)], before[&endpoint_id(2)]);
    let expected = Endpoint {
        service: None,
        backend: BackendState::Starting,
        revision: pair.state.view().revision,
        ..Endpoint::clone(&before[&endpoint_id(1)])
    };
    assert_eq!(*after[&endpoint_id(1)], expected);
}
