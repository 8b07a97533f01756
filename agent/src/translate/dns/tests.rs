use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_raft::model::*;

use super::*;
use crate::translate::services::testing::{HERE, Known, client, member, on, service};
use crate::translate::tests::{network, node};

fn names(known: &Known, network: u8) -> Zone {
    let index = Index::of(&known.view);
    let network = NetworkId::new([network; 10]);
    zone(&known.view, &index, network, HERE.node).unwrap()
}

fn hosts(addresses: &[IpAddr]) -> Vec<u8> {
    let last = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => 0,
    };
    addresses.iter().map(last).collect()
}

#[test]
fn endpoints_are_known_by_name_alias_and_address() {
    let mut one = client(1, 1, 1);
    let mut two = client(2, 1, 2);
    one.aliases = vec!["pair".to_owned()];
    two.aliases = vec!["pair".to_owned(), "e1".to_owned()];
    let known = Known::of(&[], &[one, two, client(3, 2, 2)]);
    let zone = names(&known, 1);
    assert_eq!(zone.name, "n1");
    assert_eq!(hosts(&zone.names["pair"]), [1, 2]);
    assert_eq!(hosts(&zone.names["e1"]), [1, 2]);
    assert_eq!(hosts(&zone.names["e2"]), [2]);
    assert!(!zone.names.contains_key("e3"));
    let address = IpAddr::from(Ipv4Addr::new(10, 0, 1, 2));
    assert_eq!(zone.reverse[&address], "e2");
    assert!(zone.subnets.iter().any(|subnet| subnet.contains(&address)));
}

#[test]
fn a_service_is_its_address_and_its_tasks_are_those_that_are_ready() {
    let mut starting = member(2, 1, 2, 1);
    starting.backend = BackendState::Starting;
    starting.aliases = vec!["also".to_owned()];
    let mut drained = member(3, 1, 2, 1);
    drained.weight = 0;
    let rows = [member(1, 1, 1, 1), starting, drained];
    let mut published = service(1, &[1]);
    published.ports = vec![PublishedPort {
        published: 8080,
        target: 80,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        ip: None,
        source: SourceMode::Preserve,
        allow_from: Vec::new(),
    }];
    let known = Known::of(&[published.clone()], &rows);
    let zone = names(&known, 1);
    assert_eq!(hosts(&zone.names["s1"]), [201]);
    assert_eq!(hosts(&zone.names["tasks.s1"]), [1]);
    // Itself it can be found, be it only to see what is wrong.
    assert_eq!(hosts(&zone.names["e2"]), [2]);
    assert_eq!(hosts(&zone.names["also"]), Vec::<u8>::new());
    assert_eq!(zone.services["_80._tcp.s1"][0].name, "s1");
    assert_eq!(zone.services["_80._tcp.tasks.s1"][0].name, "e1");
    assert_eq!(zone.services["_80._tcp.tasks.s1"].len(), 1);

    published.mode = EndpointMode::DnsRr;
    published.networks = vec![ServiceNetwork {
        vip: None,
        ..on(1, 1)
    }];
    let known = Known::of(&[published], &rows);
    let zone = names(&known, 1);
    assert_eq!(hosts(&zone.names["s1"]), [1]);
    assert_eq!(zone.services["_80._tcp.s1"][0].name, "e1");
}

#[test]
fn what_is_on_a_node_that_is_down_keeps_its_name_and_has_no_address() {
    let mut known = Known::of(&[service(1, &[1])], &[member(1, 1, 2, 1), client(2, 1, 2)]);
    let mut down = node(2, 1500);
    down.status = NodeStatus::Down;
    known.apply(&[Change::Node(Arc::new(down))]);
    let zone = names(&known, 1);
    for name in ["e1", "e2", "tasks.s1"] {
        assert!(zone.names[name].is_empty(), "{name}");
    }
    assert_eq!(hosts(&zone.names["s1"]), [201]);
}

#[test]
fn where_each_node_is_alone_it_knows_its_own() {
    let mut known = Known::of(&[], &[client(1, 1, 1), client(2, 1, 2)]);
    let mut local = network(1);
    local.driver = Driver::Bridge;
    known.apply(&[Change::Network(Arc::new(local))]);
    let zone = names(&known, 1);
    assert!(zone.names.contains_key("e1") && !zone.names.contains_key("e2"));
}

#[test]
fn a_service_goes_before_an_endpoint_of_its_name() {
    let mut row = client(1, 1, 1);
    row.name = "s1".to_owned();
    let known = Known::of(&[service(1, &[1])], &[row]);
    assert_eq!(hosts(&names(&known, 1).names["s1"]), [201]);
}

#[test]
fn a_container_asks_all_its_networks_and_others_unless_all_are_internal() {
    let mut second = client(2, 2, 1);
    // In the same namespace as the first one.
    second.attachment = client(1, 1, 1).attachment;
    let mut of_another_boot = client(3, 1, 1);
    of_another_boot.attachment.boot_id = "another".to_owned();
    let rows = [client(1, 1, 1), second, of_another_boot, client(4, 1, 2)];
    let mut known = Known::of(&[], &rows);
    let internal = |number| {
        let mut network = network(number);
        network.internal = true;
        Change::Network(Arc::new(network))
    };
    let ids = |known: &Known| {
        let places = places(&known.view, HERE);
        assert_eq!(places.len(), 1);
        let place = places.into_values().next().unwrap();
        (place.zones.len(), place.netns.len(), place.forwards)
    };
    known.apply(&[internal(1)]);
    assert_eq!(ids(&known), (2, 1, true));
    known.apply(&[internal(2)]);
    assert_eq!(ids(&known), (2, 1, false));
}

#[test]
fn a_change_touches_the_networks_whose_names_it_may_change() {
    let known = Known::of(
        &[service(1, &[1, 2])],
        &[member(1, 1, 2, 1), client(2, 2, 3)],
    );
    let touched = |change: Change| -> Vec<u8> {
        let networks = touched(&known.view, &[change]);
        let found = [1, 2].map(|n| (n, NetworkId::new([n; 10])));
        let found = found.into_iter().filter(|(_, id)| networks.contains(id));
        found.map(|(number, _)| number).collect()
    };
    let mut moved = client(2, 1, 3);
    moved.id = EndpointId::new([2; 10]);
    assert_eq!(touched(Change::Endpoint(Arc::new(moved))), [1, 2]);
    let gone = EndpointId::new([1; 10]);
    assert_eq!(touched(Change::EndpointGone(gone)), [1]);
    let fewer = service(1, &[1]);
    assert_eq!(touched(Change::Service(Arc::new(fewer))), [1, 2]);
    let mut reported = node(2, 1500);
    reported.revision = 9;
    assert!(touched(Change::Node(Arc::new(reported.clone()))).is_empty());
    reported.status = NodeStatus::Down;
    assert_eq!(touched(Change::Node(Arc::new(reported))), [1]);
    assert_eq!(touched(Change::NodeGone(NodeId::new([3; 10]))), [2]);
}
