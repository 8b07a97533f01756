use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use weft_raft::model::*;

use super::*;

pub(super) fn node(number: u8, mtu: u32) -> Node {
    let ip = Ipv4Addr::new(198, 18, 0, number);
    Node {
        id: NodeId::new([number; 10]),
        name: format!("h{number}"),
        role: Role::Manager,
        raft_id: u64::from(number),
        addr: SocketAddr::from((ip, 2377)),
        data_path_addr: ip.into(),
        underlay_mtu: mtu,
        host_routes: Vec::new(),
        ingress: None,
        availability: Availability::Active,
        status: NodeStatus::Ready,
        labels: Labels::new(),
        version: String::new(),
        revision: 1,
        addresses: Vec::new(),
        notices: Vec::new(),
        paths: BTreeMap::new(),
    }
}

pub(crate) fn network(number: u8) -> Network {
    Network {
        id: NetworkId::new([number; 10]),
        name: format!("n{number}"),
        driver: Driver::Overlay,
        vni: Vni::new(4096 + u32::from(number)),
        subnets: vec![Subnet {
            cidr: format!("10.0.{number}.0/24").parse().unwrap(),
            gateway: IpAddr::from([10, 0, number, 1]),
            range: None,
        }],
        routes: Vec::new(),
        aux_addresses: BTreeMap::new(),
        mtu: None,
        internal: false,
        multicast: false,
        encrypted: false,
        ingress: false,
        allow_overlap: false,
        labels: Labels::new(),
        revision: 1,
    }
}

pub(super) fn endpoint(number: u8, network: u8, node: u8) -> Endpoint {
    let ipv4 = Ipv4Addr::new(10, 0, network, number);
    Endpoint {
        id: EndpointId::new([number; 10]),
        name: format!("e{number}"),
        network: NetworkId::new([network; 10]),
        node: NodeId::new([node; 10]),
        ipv4: Some(ipv4),
        ipv6: None,
        mac: MacAddr::from_ipv4(ipv4),
        ifname: "eth0".to_owned(),
        aliases: Vec::new(),
        labels: Labels::new(),
        attachment: Attachment {
            path: format!("/proc/{number}/ns/net"),
            device: 4,
            inode: u64::from(number),
            boot_id: String::new(),
        },
        kind: EndpointKind::Attached,
        service: None,
        weight: 1,
        backend: BackendState::Starting,
        revision: 1,
    }
}

pub(crate) fn view() -> View {
    let cluster = Cluster {
        id: ClusterId::new([9; 10]),
        data_path_port: 4789,
        pools: Vec::new(),
        pool_mask_length: 24,
        cert_expiry_s: 1,
        ca_cert: Vec::new(),
        created_ms: 0,
    };
    let mut changes = vec![
        Change::Cluster(cluster),
        Change::Network(Arc::new(network(1))),
    ];
    changes
        .extend([node(1, 1500), node(2, 1400), node(3, 9000)].map(|n| Change::Node(Arc::new(n))));
    changes.extend([endpoint(2, 1, 1), endpoint(3, 1, 3)].map(|e| Change::Endpoint(Arc::new(e))));
    let mut view = View::default();
    view.apply(5, &changes);
    view
}

#[test]
fn a_network_has_a_sandbox_only_where_it_has_endpoints() {
    let view = view();
    let index = Index::of(&view);
    let here = |number| {
        sandbox(
            &view,
            &index,
            NetworkId::new([1; 10]),
            NodeId::new([number; 10]),
        )
    };
    assert!(here(1).is_some());
    assert!(here(2).is_none());
    assert!(here(3).is_some());
    assert!(sandbox(&view, &index, NetworkId::new([7; 10]), NodeId::new([1; 10])).is_none());
}

#[test]
fn endpoints_of_other_nodes_are_remotes_behind_their_tunnel_end() {
    let view = view();
    let spec = sandbox(
        &view,
        &Index::of(&view),
        NetworkId::new([1; 10]),
        NodeId::new([1; 10]),
    )
    .unwrap();
    assert_eq!((spec.vni, spec.vtep.port), (4097, 4789));
    assert_eq!(spec.vtep.local, IpAddr::from([198, 18, 0, 1]));
    let locals: Vec<_> = spec
        .locals
        .values()
        .map(|l| l.addresses[0].to_string())
        .collect();
    assert_eq!(locals, ["10.0.1.2/24"]);
    let remote = &spec.remotes[&Mac([2, 0x42, 10, 0, 1, 3])];
    assert_eq!(remote.addresses, [IpAddr::from([10, 0, 1, 3])]);
    assert_eq!(remote.vtep, IpAddr::from([198, 18, 0, 3]));
}

#[test]
fn the_mtu_is_the_smallest_of_the_nodes_that_take_part() {
    let mut view = view();
    let mtu = |view: &View| {
        let index = Index::of(view);
        sandbox(view, &index, NetworkId::new([1; 10]), NodeId::new([1; 10]))
            .unwrap()
            .mtu
    };
    assert_eq!(mtu(&view), 1450);
    view.apply(6, &[Change::Endpoint(Arc::new(endpoint(4, 1, 2)))]);
    assert_eq!(mtu(&view), 1350);
    view.apply(
        7,
        &[Change::Network(Arc::new(Network {
            mtu: Some(1200),
            ..network(1)
        }))],
    );
    assert_eq!(mtu(&view), 1200);
}

#[test]
fn a_status_change_of_a_node_dirties_nothing() {
    let view = view();
    let mut index = Index::of(&view);
    let down = Node {
        status: NodeStatus::Down,
        ..node(3, 9000)
    };
    assert!(
        index
            .apply(&view, &[Change::Node(Arc::new(down))])
            .is_clean()
    );
    let moved = Node {
        data_path_addr: [198, 18, 0, 9].into(),
        ..node(3, 9000)
    };
    let dirty = index.apply(&view, &[Change::Node(Arc::new(moved))]);
    assert!(dirty.members && dirty.networks.contains(&NetworkId::new([1; 10])));
}

#[test]
fn an_endpoint_change_dirties_its_network_and_keeps_the_index_right() {
    let mut view = view();
    let mut index = Index::of(&view);
    let gone = [Change::EndpointGone(EndpointId::new([2; 10]))];
    let dirty = index.apply(&view, &gone);
    view.apply(6, &gone);
    assert_eq!(dirty.networks, BTreeSet::from([NetworkId::new([1; 10])]));
    assert_eq!(index.endpoints(&view, NetworkId::new([1; 10])).count(), 1);
    assert!(sandbox(&view, &index, NetworkId::new([1; 10]), NodeId::new([1; 10])).is_none());
}

fn encrypted(mtu: Option<u32>) -> Change {
    Change::Network(Arc::new(Network {
        encrypted: true,
        mtu,
        ..network(1)
    }))
}

#[test]
fn an_encrypted_network_has_a_port_and_an_mtu_of_its_own() {
    let mut view = view();
    view.apply(6, &[encrypted(None)]);
    let index = Index::of(&view);
    let here = NodeId::new([1; 10]);
    let spec = sandbox(&view, &index, NetworkId::new([1; 10]), here).unwrap();
    assert_eq!(
        (spec.vtep.port, spec.mtu, spec.tunnel),
        (4790, 1408, Tunnel::Vxlan)
    );
    let over_ipv6 = Node {
        data_path_addr: "2001:db8::3".parse().unwrap(),
        ..node(3, 1500)
    };
    view.apply(7, &[Change::Node(Arc::new(over_ipv6))]);
    let spec = sandbox(&view, &index, NetworkId::new([1; 10]), here).unwrap();
    assert_eq!(spec.mtu, 1388);
}

#[test]
fn a_chosen_mtu_that_does_not_fit_is_kept_and_said() {
    let mut view = view();
    let index = Index::of(&view);
    let network = |view: &View| view.networks[&NetworkId::new([1; 10])].clone();
    let warning = |view: &View| mtu_warning(view, &index, &network(view), None);
    view.apply(6, &[encrypted(Some(1408))]);
    assert_eq!(warning(&view), None);
    view.apply(7, &[encrypted(Some(1409))]);
    assert_eq!(network_mtu(&view, &index, &network(&view), None), 1409);
    let said = warning(&view).unwrap();
    assert!(
        said.contains("leaves 1408") && said.contains("h1"),
        "{said}"
    );
    view.apply(8, &[Change::Node(Arc::new(node(3, 600)))]);
    let said = warning(&view).unwrap();
    assert!(said.starts_with("h3 is too narrow"), "{said}");
    let clear = Network {
        encrypted: false,
        ..Network::clone(&network(&view))
    };
    assert_eq!(mtu_warning(&view, &index, &clear, None), None);
}
