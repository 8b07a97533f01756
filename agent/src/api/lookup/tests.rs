use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use weft_raft::model::{
    Attachment, Availability, BackendState, Driver, EndpointId, EndpointKind, EndpointMode, Id,
    MacAddr, NetworkId, NodeStatus, Role, Scheduler, Vni,
};

use super::*;
use crate::api::types::ErrorCode;

fn view() -> View {
    let mut view = View::default();
    for (byte, name) in [(1, "h1"), (2, "h2")] {
        let node = a_node(byte, name);
        view.nodes.insert(node.id, Arc::new(node));
    }
    for (byte, name) in [(10, "web"), (11, "db")] {
        let network = a_network(byte, name);
        view.networks.insert(network.id, Arc::new(network));
    }
    for (byte, name, network) in [(20, "api", 10), (21, "api", 11), (22, "cache", 11)] {
        let endpoint = an_endpoint(byte, name, network);
        view.endpoints.insert(endpoint.id, Arc::new(endpoint));
    }
    for (byte, name) in [(30, "front"), (31, "back")] {
        let service = a_service(byte, name);
        view.services.insert(service.id, Arc::new(service));
    }
    view
}

#[test]
fn a_name_finds_its_object() {
    let view = view();
    assert_eq!(node(&view, None, "h2").unwrap().name, "h2");
    assert_eq!(network(&view, "db").unwrap().name, "db");
    assert_eq!(endpoint(&view, "cache").unwrap().name, "cache");
    assert_eq!(service(&view, "back").unwrap().name, "back");
}

#[test]
fn the_members_of_a_service_are_its_endpoints() {
    let mut view = view();
    let front = service(&view, "front").unwrap().id;
    assert_eq!(members(&view, front).count(), 0);
    for byte in [20, 22] {
        let mut member = an_endpoint(byte, "m", 10);
        member.service = Some(front);
        view.endpoints.insert(member.id, Arc::new(member));
    }
    let found: Vec<EndpointId> = members(&view, front).map(|row| row.id).collect();
    assert_eq!(found, [20, 22].map(|byte| EndpointId::new([byte; Id::LEN])));
}

#[test]
fn an_id_or_its_beginning_finds_its_object() {
    let view = view();
    let id = NodeId::new([1; Id::LEN]).to_string();
    assert_eq!(node(&view, None, &id).unwrap().name, "h1");
    assert_eq!(node(&view, None, &id[..MIN_PREFIX]).unwrap().name, "h1");
    assert_eq!(
        node(&view, None, &id[..MIN_PREFIX - 1]).unwrap_err().code,
        ErrorCode::NotFound
    );
    let id = EndpointId::new([22; Id::LEN]).to_string();
    assert_eq!(endpoint(&view, &id[..6]).unwrap().name, "cache");
    let id = ServiceId::new([30; Id::LEN]).to_string();
    assert_eq!(service(&view, &id[..MIN_PREFIX]).unwrap().name, "front");
    assert_eq!(
        service(&view, "nowhere").unwrap_err().code,
        ErrorCode::NotFound
    );
}

#[test]
fn self_is_the_node_that_answers() {
    let view = view();
    let this = NodeId::new([2; Id::LEN]);
    assert_eq!(node(&view, Some(this), "self").unwrap().name, "h2");
    assert_eq!(
        node(&view, None, "self").unwrap_err().code,
        ErrorCode::NotFound
    );
}

#[test]
fn a_name_wins_over_the_beginning_of_an_id() {
    let mut view = view();
    let prefix = NetworkId::new([10; Id::LEN]).to_string()[..5].to_owned();
    let taken = a_network(12, &prefix);
    view.networks.insert(taken.id, Arc::new(taken));
    assert_eq!(
        network(&view, &prefix).unwrap().id,
        NetworkId::new([12; Id::LEN])
    );
}

#[test]
fn an_ambiguous_endpoint_name_is_refused_with_the_candidates() {
    let view = view();
    let error = endpoint(&view, "api").unwrap_err();
    assert_eq!(error.code, ErrorCode::Invalid);
    assert_eq!(error.message, "`api` fits 2; say which: api.web, api.db");
    assert_eq!(
        endpoint(&view, "api.db").unwrap().network,
        NetworkId::new([11; Id::LEN])
    );
    assert_eq!(
        endpoint(&view, "api.nowhere").unwrap_err().code,
        ErrorCode::NotFound
    );
}

#[test]
fn an_ambiguous_beginning_is_refused_with_a_few_candidates() {
    let mut view = View::default();
    for last in 0..8 {
        let mut node = a_node(7, &format!("n{last}"));
        let mut bytes = [7; Id::LEN];
        bytes[9] = last;
        node.id = NodeId::new(bytes);
        view.nodes.insert(node.id, Arc::new(node));
    }
    let prefix = NodeId::new([7; Id::LEN]).to_string()[..4].to_owned();
    let error = node(&view, None, &prefix).unwrap_err();
    assert!(error.message.contains("fits 8"), "{error}");
    assert!(error.message.ends_with("and 3 more"), "{error}");
}

fn a_node(byte: u8, name: &str) -> Node {
    Node {
        id: NodeId::new([byte; Id::LEN]),
        name: name.to_owned(),
        role: Role::Manager,
        raft_id: u64::from(byte),
        addr: "192.0.2.1:2377".parse().unwrap(),
        data_path_addr: "192.0.2.1".parse().unwrap(),
        underlay_mtu: 1500,
        host_routes: Vec::new(),
        ingress: None,
        availability: Availability::Active,
        status: NodeStatus::Ready,
        labels: BTreeMap::new(),
        version: "0.1.0".to_owned(),
        revision: 1,
        addresses: Vec::new(),
        notices: Vec::new(),
        paths: BTreeMap::new(),
    }
}

fn a_network(byte: u8, name: &str) -> Network {
    Network {
        id: NetworkId::new([byte; Id::LEN]),
        name: name.to_owned(),
        driver: Driver::Overlay,
        vni: Some(Vni::FIRST),
        subnets: Vec::new(),
        routes: Vec::new(),
        aux_addresses: BTreeMap::new(),
        mtu: None,
        internal: false,
        multicast: false,
        encrypted: false,
        ingress: false,
        allow_overlap: false,
        labels: BTreeMap::new(),
        revision: 1,
    }
}

fn a_service(byte: u8, name: &str) -> Service {
    Service {
        id: ServiceId::new([byte; Id::LEN]),
        name: name.to_owned(),
        networks: Vec::new(),
        ports: Vec::new(),
        mode: EndpointMode::Vip,
        scheduler: Scheduler::RoundRobin,
        affinity: None,
        drain_timeout_ms: 0,
        idle_timeout_s: None,
        health: None,
        labels: BTreeMap::new(),
        revision: 1,
        ends_with_endpoints: false,
    }
}

fn an_endpoint(byte: u8, name: &str, network: u8) -> Endpoint {
    let ipv4 = Ipv4Addr::new(10, 0, 1, byte);
    Endpoint {
        id: EndpointId::new([byte; Id::LEN]),
        name: name.to_owned(),
        network: NetworkId::new([network; Id::LEN]),
        node: NodeId::new([1; Id::LEN]),
        ipv4: Some(ipv4),
        ipv6: None,
        mac: MacAddr::from_ipv4(ipv4),
        ifname: "eth0".to_owned(),
        aliases: Vec::new(),
        labels: BTreeMap::new(),
        attachment: Attachment {
            path: "/proc/1/ns/net".to_owned(),
            device: 4,
            inode: 1,
            boot_id: String::new(),
        },
        kind: EndpointKind::Attached,
        service: None,
        weight: 1,
        backend: BackendState::Starting,
        revision: 1,
    }
}
