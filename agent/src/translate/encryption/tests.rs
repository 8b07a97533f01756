use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_raft::model::{
    Change, Network, Node, NodeStatus, Protocol, PublishMode, PublishedPort, Service, SourceMode,
};

use super::*;
use crate::translate::services::testing::service;
use crate::translate::tests::{endpoint, network, node, view};

fn id(number: u8) -> NodeId {
    NodeId::new([number; 10])
}

fn vtep(number: u8) -> IpAddr {
    [198, 18, 0, number].into()
}

fn encrypted(number: u8) -> Change {
    Change::Network(Arc::new(Network {
        encrypted: true,
        ..network(number)
    }))
}

fn on(number: u8, network: u8, node: u8) -> Change {
    Change::Endpoint(Arc::new(endpoint(number, network, node)))
}

/// Peers of node 1, with the VNIs.
fn peers(view: &View) -> Option<Vec<(IpAddr, Vec<u32>)>> {
    let made = encryption(view, &Index::of(view), id(1))?;
    let known: BTreeSet<IpAddr> = made.peers.values().copied().collect();
    assert_eq!(known, made.path.peers.keys().copied().collect());
    let vnis = |peer: PeerSpec| peer.networks.into_iter().collect();
    let peers = made.path.peers.into_iter();
    Some(peers.map(|(at, peer)| (at, vnis(peer))).collect())
}

#[test]
fn a_network_in_clear_asks_for_nothing() {
    assert_eq!(peers(&view()), None);
}

#[test]
fn the_nodes_of_an_encrypted_network_are_peers_for_its_frames_only() {
    let mut view = view();
    // Network 1 has endpoints on nodes 1 and 3.
    view.apply(6, &[encrypted(1)]);
    assert_eq!(peers(&view), Some(vec![(vtep(3), vec![4097])]));
    // Another one with node 3 too, one with node 2 in clear, and one between the two others.
    let more = [
        encrypted(2),
        on(4, 2, 1),
        on(5, 2, 3),
        Change::Network(Arc::new(network(3))),
        on(6, 3, 1),
        on(7, 3, 2),
        encrypted(4),
        on(8, 4, 2),
        on(9, 4, 3),
    ];
    view.apply(7, &more);
    assert_eq!(peers(&view), Some(vec![(vtep(3), vec![4097, 4098])]));
    let made = encryption(&view, &Index::of(&view), id(1)).unwrap();
    assert_eq!(made.peers, BTreeMap::from([(id(3), vtep(3))]));
    let path = made.path;
    assert_eq!((path.local, path.underlay_mtu), (vtep(1), 1500));
    assert_eq!((path.esp_port, path.inner_port), (4500, 4790));
}

#[test]
fn a_port_knows_who_is_elsewhere() {
    let mut view = view();
    view.apply(6, &[encrypted(1)]);
    let index = Index::of(&view);
    let network = *view.networks.keys().next().unwrap();
    let mut sandbox = crate::translate::sandbox(&view, &index, network, id(1)).unwrap();
    let made = port(&sandbox, "/run/weft/netns/x".into());
    assert_eq!(made.netns, PathBuf::from("/run/weft/netns/x"));
    assert!(!made.multicast && made.flood == BTreeSet::from([vtep(3)]));
    let remotes: Vec<_> = made.remotes.iter().collect();
    let [(mac, remote)] = remotes.as_slice() else {
        panic!("{remotes:?}");
    };
    assert_eq!(remote.vtep, vtep(3));
    assert_eq!(sandbox.remotes[&Mac(**mac)].addresses, remote.addresses);
    // Where an endpoint of that address is on this node, too, it is not elsewhere.
    let local = sandbox.locals.values_mut().next().unwrap();
    local.mac = Mac(**mac);
    assert!(port(&sandbox, "/x".into()).remotes.is_empty());
}

/// Says that its tunnel end is that of another.
fn posing(number: u8, as_number: u8, status: NodeStatus) -> Change {
    Change::Node(Arc::new(Node {
        data_path_addr: vtep(as_number),
        status,
        ..node(number, 1500)
    }))
}

#[test]
fn nobody_gets_what_is_for_another_by_its_tunnel_end() {
    let mut view = view();
    // Network 1 is between nodes 1 and 3, network 2 between 1 and 2.
    view.apply(6, &[encrypted(1), encrypted(2), on(4, 2, 1), on(5, 2, 2)]);
    let both = vec![(vtep(2), vec![4098]), (vtep(3), vec![4097])];
    assert_eq!(peers(&view), Some(both.clone()));
    view.apply(7, &[posing(2, 3, NodeStatus::Ready)]);
    assert_eq!(peers(&view), Some(Vec::new()));
    let made = encryption(&view, &Index::of(&view), id(1)).unwrap();
    let clashing = [id(2), id(3)].map(|node| (node, vtep(3)));
    assert_eq!(made.clashing, clashing.into());
    // What was there before the host was set up anew is in nobody's way, nor gets anything.
    view.apply(8, &[posing(2, 3, NodeStatus::Down)]);
    assert_eq!(peers(&view), Some(vec![(vtep(3), vec![4097])]));
    // Nor is one that shares no encrypted network, and this node's own is nobody's.
    view.apply(
        9,
        &[
            posing(2, 2, NodeStatus::Ready),
            posing(4, 3, NodeStatus::Ready),
        ],
    );
    assert_eq!(peers(&view), Some(both));
    view.apply(10, &[posing(3, 1, NodeStatus::Down)]);
    assert_eq!(peers(&view), Some(vec![(vtep(2), vec![4098])]));
}

#[test]
fn a_network_that_is_on_one_node_is_as_closed() {
    let mut view = view();
    view.apply(6, &[encrypted(2), on(4, 2, 1)]);
    assert_eq!(peers(&view), Some(Vec::new()));
    assert!(encryption(&view, &Index::of(&view), id(2)).is_none());
}

#[test]
fn all_nodes_are_peers_on_the_ingress_network_while_a_port_is_published() {
    let mut view = view();
    let ingress = Change::Network(Arc::new(Network {
        encrypted: true,
        ingress: true,
        ..network(0)
    }));
    let at = |number: u8| Node {
        ingress: Some(Ipv4Addr::new(10, 0, 0, number)),
        ..node(number, 1500)
    };
    let nodes = [1, 2, 3].map(|number| Change::Node(Arc::new(at(number))));
    view.apply(6, &[ingress]);
    view.apply(7, &nodes);
    assert_eq!(peers(&view), None);
    let port = PublishedPort {
        published: 8080,
        target: 80,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        ip: None,
        source: SourceMode::Preserve,
        allow_from: Vec::new(),
    };
    let published = Service {
        ports: vec![port],
        ..service(1, &[1])
    };
    view.apply(8, &[Change::Service(Arc::new(published))]);
    let expected = [2, 3].map(|number| (vtep(number), vec![4096]));
    assert_eq!(peers(&view), Some(expected.to_vec()));
}
