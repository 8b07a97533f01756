//! Small clusters for tests of this crate.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::command::{
    Command, EndpointChange, EndpointSpec, InitCluster, NetworkChange, NetworkSpec, NodeChange,
    NodeSpec, Proposal, Secrets, ServiceChange, ServiceSpec, SubnetSpec,
};
use crate::model::{
    Affinity, Attachment, Availability, BackendState, Cluster, ClusterId, Driver, EndpointId,
    EndpointKind, EndpointMode, HealthCheck, Labels, MacAddr, NetworkId, NodeId, NodeStatus, Probe,
    Protocol, PublishMode, PublishedPort, Role, Route, Scheduler, ServiceId, SourceMode, Vni,
};

pub(crate) fn proposal(request: u64, command: Command) -> Proposal {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&request.to_be_bytes());
    Proposal {
        request: id,
        time_ms: 1_700_000_000_000 + request,
        command,
    }
}

pub(crate) fn node_id(number: u8) -> NodeId {
    NodeId::new([1, number, 0, 0, 0, 0, 0, 0, 0, 0])
}

pub(crate) fn network_id(number: u8) -> NetworkId {
    NetworkId::new([2, number, 0, 0, 0, 0, 0, 0, 0, 0])
}

pub(crate) fn endpoint_id(number: u32) -> EndpointId {
    let [a, b, c, d] = number.to_be_bytes();
    EndpointId::new([3, a, b, c, d, 0, 0, 0, 0, 0])
}

pub(crate) fn service_id(number: u8) -> ServiceId {
    ServiceId::new([4, number, 0, 0, 0, 0, 0, 0, 0, 0])
}

pub(crate) fn node_spec(number: u8, role: Role) -> NodeSpec {
    let address = Ipv4Addr::new(198, 18, 0, number);
    NodeSpec {
        id: node_id(number),
        name: format!("h{number}"),
        role,
        addr: (address, 2377).into(),
        data_path_addr: address.into(),
        underlay_mtu: 1500,
        host_routes: vec!["198.18.0.0/24".parse().unwrap()],
        availability: Availability::Active,
        version: "0.1.0".to_owned(),
    }
}

pub(crate) fn init_cluster() -> InitCluster {
    InitCluster {
        cluster: Cluster {
            id: ClusterId::new([9; 10]),
            data_path_port: 4789,
            pools: vec!["10.0.0.0/8".parse().unwrap()],
            pool_mask_length: 24,
            cert_expiry_s: 7_776_000,
            ca_cert: vec![0x30, 0x82],
            created_ms: 1_700_000_000_000,
        },
        secrets: Secrets {
            ca_key: vec![0x30, 0x81],
            manager_token: [0xaa; 16],
            worker_token: [0xbb; 16],
        },
        node: node_spec(1, Role::Manager),
        ingress: network_id(0),
    }
}

pub(crate) fn network_spec(number: u8, name: &str) -> NetworkSpec {
    NetworkSpec {
        id: network_id(number),
        name: name.to_owned(),
        driver: Driver::Overlay,
        subnets: Vec::new(),
        ipv6: false,
        aux_addresses: BTreeMap::new(),
        vni: None,
        routes: Vec::new(),
        mtu: None,
        internal: false,
        multicast: false,
        encrypted: false,
        allow_overlap: false,
        labels: Labels::new(),
        ingress: false,
    }
}

pub(crate) fn subnet(cidr: &str) -> SubnetSpec {
    SubnetSpec {
        cidr: cidr.parse().unwrap(),
        gateway: None,
        range: None,
    }
}

/// In a namespace of its own on node 1.
pub(crate) fn endpoint_spec(number: u32, network: u8, name: &str) -> EndpointSpec {
    EndpointSpec {
        id: endpoint_id(number),
        name: name.to_owned(),
        network: network_id(network),
        node: node_id(1),
        ipv4: None,
        ipv6: None,
        mac: None,
        ifname: None,
        aliases: Vec::new(),
        labels: Labels::new(),
        attachment: Attachment {
            path: format!("/proc/{number}/ns/net"),
            device: 4,
            inode: 4_026_530_000 + u64::from(number),
            boot_id: "b8d4ab2e-6a0c-4b52-8a3f-0c7bb0c1a9c0".to_owned(),
        },
        kind: EndpointKind::Attached,
        service: None,
        weight: 1,
        new_service: None,
    }
}

/// On `networks`, with an address on each, without ports.
pub(crate) fn service_spec(number: u8, networks: &[u8], name: &str) -> ServiceSpec {
    ServiceSpec {
        id: service_id(number),
        name: name.to_owned(),
        networks: networks
            .iter()
            .map(|network| network_id(*network))
            .collect(),
        ports: Vec::new(),
        mode: EndpointMode::Vip,
        scheduler: Scheduler::RoundRobin,
        affinity: None,
        drain_timeout_ms: 10_000,
        idle_timeout_s: None,
        health: None,
        labels: Labels::new(),
        ends_with_endpoints: false,
    }
}

/// On every node, TCP; a published port of zero asks for a free one.
pub(crate) fn port(published: u16, target: u16) -> PublishedPort {
    PublishedPort {
        published,
        target,
        protocol: Protocol::Tcp,
        mode: PublishMode::Ingress,
        ip: None,
        source: SourceMode::Preserve,
        allow_from: Vec::new(),
    }
}

/// Commands about few names, addresses and prefixes: of each kind many are carried out, and many
/// clash or find nothing left.
pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let node = 1u8..5;
    let network = 0u8..12;
    let endpoint = 1u32..32;
    let service = 1u8..6;
    prop_oneof![
        1 => Just(Command::Init(Box::new(small_cluster()))),
        3 => any_node_spec().prop_map(|spec| Command::AddNode(Box::new(spec))),
        2 => (node.clone(), any_routes(), any_label()).prop_map(|(id, routes, label)| {
            Command::UpdateNode {
                id: node_id(id),
                change: Box::new(NodeChange {
                    host_routes: Some(routes),
                    labels_add: label,
                    ..NodeChange::default()
                }),
            }
        }),
        1 => node.clone().prop_map(|id| Command::RemoveNode { id: node_id(id) }),
        2 => vec((node, any::<bool>()), 0..4).prop_map(|heard| {
            let status = |up| if up { NodeStatus::Ready } else { NodeStatus::Down };
            Command::SetNodeStatus(
                heard.into_iter().map(|(id, up)| (node_id(id), status(up))).collect(),
            )
        }),
        1 => (any::<bool>(), 0u8..4).prop_map(|(manager, secret)| Command::RotateToken {
            role: if manager { Role::Manager } else { Role::Worker },
            secret: crate::command::JoinSecret([secret; 16]),
        }),
        10 => any_network_spec().prop_map(|spec| Command::CreateNetwork(Box::new(spec))),
        3 => network.clone().prop_map(|id| Command::RemoveNetwork { id: network_id(id) }),
        3 => (network, any_network_change()).prop_map(|(id, change)| {
            Command::UpdateNetwork { id: network_id(id), change: Box::new(change) }
        }),
        30 => any_endpoint_spec().prop_map(|spec| Command::CreateEndpoint(Box::new(spec))),
        10 => endpoint.clone().prop_map(|id| Command::RemoveEndpoint { id: endpoint_id(id) }),
        8 => any_service_spec().prop_map(|spec| Command::CreateService(Box::new(spec))),
        6 => (service.clone(), any_service_change()).prop_map(|(id, change)| {
            Command::UpdateService { id: service_id(id), change: Box::new(change) }
        }),
        3 => service.prop_map(|id| Command::RemoveService { id: service_id(id) }),
        3 => (endpoint.clone(), proptest::option::of(0u16..3)).prop_map(|(id, weight)| {
            Command::UpdateEndpoint { id: endpoint_id(id), change: EndpointChange { weight } }
        }),
        8 => vec((endpoint.prop_map(endpoint_id), any_backend_state()), 0..12)
            .prop_map(Command::SetBackends),
    ]
}

fn any_backend_state() -> impl Strategy<Value = BackendState> {
    select(vec![
        BackendState::Starting,
        BackendState::Ready,
        BackendState::Ready,
        BackendState::Unhealthy,
        BackendState::Draining,
    ])
}

fn any_ports() -> impl Strategy<Value = Vec<PublishedPort>> {
    let numbers = select(vec![0, 0, 0, 8080, 8081, 30_000, 30_001]);
    let ips: Vec<IpAddr> = ["198.18.0.1", "198.18.0.2", "2001:db8::1"]
        .map(|ip| ip.parse().unwrap())
        .to_vec();
    let any_port = (
        numbers,
        select(vec![80u16, 81]),
        prop_oneof![3 => Just(Protocol::Tcp), 1 => Just(Protocol::Udp)],
        prop_oneof![3 => Just(PublishMode::Ingress), 1 => Just(PublishMode::Host)],
        proptest::option::weighted(0.3, select(ips)),
    )
        .prop_map(|(published, target, protocol, mode, ip)| PublishedPort {
            protocol,
            mode,
            ip,
            allow_from: vec!["198.18.0.0/24".parse().unwrap()],
            ..port(published, target)
        });
    vec(any_port, 0..4)
}

fn any_mode() -> impl Strategy<Value = EndpointMode> {
    prop_oneof![4 => Just(EndpointMode::Vip), 1 => Just(EndpointMode::DnsRr)]
}

fn any_service_spec() -> impl Strategy<Value = ServiceSpec> {
    let networks = vec(prop_oneof![12 => 1u8..3, 1 => 0u8..12], 1..3);
    let ends = any::<bool>();
    (1u8..6, networks, 0u8..8, any_ports(), any_mode(), ends).prop_map(
        |(id, networks, name, ports, mode, ends_with_endpoints)| ServiceSpec {
            ports,
            mode,
            ends_with_endpoints,
            ..service_spec(id, &networks, &format!("s{name}"))
        },
    )
}

fn any_service_change() -> impl Strategy<Value = ServiceChange> {
    let health = HealthCheck {
        probe: Probe::Http {
            port: 80,
            path: "/ready".to_owned(),
        },
        interval_ms: 1000,
        timeout_ms: 500,
        retries: 3,
    };
    let affinity = Affinity { timeout_s: 300 };
    (
        proptest::option::of(any_ports()),
        vec((1u8..4).prop_map(network_id), 0..2),
        vec((1u8..4).prop_map(network_id), 0..2),
        proptest::option::of(proptest::option::of(Just(affinity))),
        proptest::option::of(proptest::option::of(Just(health))),
        any_label(),
        proptest::option::weighted(0.3, any_mode()),
    )
        .prop_map(
            |(ports, networks_add, networks_remove, affinity, health, labels_add, mode)| {
                ServiceChange {
                    ports,
                    networks_add,
                    networks_remove,
                    affinity,
                    health,
                    labels_add,
                    mode,
                    ..ServiceChange::default()
                }
            },
        )
}

/// Ten subnets in two pools, the one with five usable addresses each and the other too.
pub(crate) fn small_cluster() -> InitCluster {
    let mut init = init_cluster();
    init.cluster.pools = ["10.0.0.0/26", "10.1.0.0/28"]
        .map(|pool| pool.parse().unwrap())
        .to_vec();
    init.cluster.pool_mask_length = 29;
    init
}

pub(crate) fn net(cidr: &str) -> IpNet {
    cidr.parse().unwrap()
}

fn any_node_spec() -> impl Strategy<Value = NodeSpec> {
    (1u8..5, any::<bool>(), any_routes()).prop_map(|(id, manager, host_routes)| NodeSpec {
        name: format!("h{}", id % 3),
        host_routes,
        ..node_spec(id, if manager { Role::Manager } else { Role::Worker })
    })
}

fn any_routes() -> impl Strategy<Value = Vec<IpNet>> {
    let routes = [
        "0.0.0.0/0",
        "10.0.0.16/30",
        "10.0.0.32/28",
        "10.2.0.0/16",
        "2001:db8::/32",
        // The third /64 of the cluster's prefix.
        "fd09:909:909:2::/64",
    ];
    vec(
        select(routes.to_vec()).prop_map(|route| route.parse().unwrap()),
        0..3,
    )
}

fn any_label() -> impl Strategy<Value = Labels> {
    (0u8..3).prop_map(|value| Labels::from([("zone".to_owned(), value.to_string())]))
}

fn any_network_spec() -> impl Strategy<Value = NetworkSpec> {
    let cidrs = [
        "10.0.0.0/29",
        "10.0.0.8/29",
        "10.0.0.16/28",
        "10.0.0.0/27",
        "10.1.0.8/29",
        "10.2.1.0/24",
        "10.3.0.0/29",
        "10.3.0.1/29",
        "10.3.0.8/29",
        "10.3.0.0/28",
        "127.0.0.0/24",
        "10.3.0.0/30",
        "fd00::/125",
        "fd00::8/125",
        "fd00::/64",
        "fd09:909:909:1::/64",
        "2001:db8::/48",
        "fe80::/64",
    ];
    let ranges = ["10.3.0.0/30", "10.3.0.4/30", "10.2.1.8/29", "fd00::4/126"];
    let range = proptest::option::weighted(0.3, select(ranges.to_vec()).prop_map(net));
    let chosen = (select(cidrs.to_vec()), range).prop_map(|(cidr, range)| SubnetSpec {
        range: range.filter(|range| net(cidr).contains(range)),
        ..subnet(cidr)
    });
    let subnets = prop_oneof![
        4 => Just(Vec::new()),
        2 => vec(chosen, 1..4),
    ];
    let aux = select(&["10.3.0.3", "10.3.0.12", "fd00::3", "fd00::1"][..])
        .prop_map(|address| (address.to_owned(), address.parse().unwrap()));
    let aux = prop_oneof![
        8 => Just(BTreeMap::new()),
        1 => aux.prop_map(|aux: (String, IpAddr)| BTreeMap::from([aux])),
    ];
    let ipv6 = proptest::bool::weighted(0.3);
    let vni = proptest::option::weighted(0.2, 4095u32..4100);
    let name = prop_oneof![
        12 => (0u8..12).prop_map(|number| format!("n{number}")),
        1 => select(&["ingress", "Bad_"][..]).prop_map(str::to_owned),
    ];
    let ingress = proptest::bool::weighted(0.2);
    let driver = prop_oneof![6 => Just(Driver::Overlay), 1 => Just(Driver::Bridge)];
    (
        0u8..12,
        name,
        (subnets, aux, ipv6),
        vni,
        any::<bool>(),
        ingress,
        driver,
    )
        .prop_map(
            |(id, name, (subnets, aux_addresses, ipv6), vni, allow_overlap, ingress, driver)| {
                NetworkSpec {
                    driver,
                    subnets,
                    aux_addresses,
                    ipv6: ipv6 && !ingress,
                    vni: vni.and_then(Vni::new),
                    allow_overlap: allow_overlap && !ingress,
                    ingress,
                    ..network_spec(id, &name)
                }
            },
        )
}

fn any_network_change() -> impl Strategy<Value = NetworkChange> {
    let key = || select(&["a", "b", "c d"][..]).prop_map(str::to_owned);
    let labels = proptest::collection::btree_map(key(), Just(String::new()), 0..2);
    let routes = || {
        let destination = select(&["172.16.0.0/24", "172.16.1.0/24", "10.0.0.0/30"][..]);
        (destination, 0u8..3).prop_map(|(destination, host)| Route {
            destination: destination.parse().unwrap(),
            via: Ipv4Addr::new(10, 0, 0, host).into(),
        })
    };
    let cidrs = ["10.3.0.0/29", "10.4.0.0/29", "10.4.0.8/29", "fd00:4::/125"];
    let mtu = select(vec![
        None,
        Some(None),
        Some(Some(1280)),
        Some(Some(1400)),
        Some(Some(600)),
    ]);
    (
        any::<[Option<bool>; 2]>(),
        mtu,
        vec(select(cidrs.to_vec()).prop_map(net), 0..2),
        (vec(routes(), 0..2), vec(routes(), 0..2)),
        labels,
        vec(key(), 0..2),
    )
        .prop_map(
            |(
                [encrypted, multicast],
                mtu,
                subnets_add,
                (routes_add, gone),
                labels_add,
                labels_remove,
            )| NetworkChange {
                routes_add,
                routes_remove: gone.iter().map(|route| route.destination).collect(),
                encrypted,
                multicast,
                mtu,
                subnets_add,
                labels_add,
                labels_remove,
            },
        )
}

fn any_endpoint_spec() -> impl Strategy<Value = EndpointSpec> {
    let address = proptest::option::weighted(
        0.2,
        (0u8..32).prop_map(|host| Ipv4Addr::new(10, 0, 0, host)),
    );
    let address6 = proptest::option::weighted(
        0.05,
        (0u16..16).prop_map(|host| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host)),
    );
    let macs = [
        [2, 0, 0, 0, 0, 1],
        [2, 0, 0, 0, 0, 2],
        [2, 0x42, 10, 0, 0, 4],
        [1, 0, 0, 0, 0, 0],
    ];
    let mac = proptest::option::weighted(0.1, select(macs.to_vec()).prop_map(MacAddr));
    let ifname = proptest::option::weighted(0.1, select(&["eth0", "eth1", "lo"][..]));
    (
        1u32..32,
        prop_oneof![3 => 0u8..3, 1 => 0u8..12],
        prop_oneof![3 => Just(1), 1 => 1u8..5],
        0u8..24,
        0u64..16,
        (address, address6, mac, ifname),
        proptest::option::weighted(0.3, 1u8..3),
        proptest::option::weighted(0.1, any_service_spec()),
    )
        .prop_map(
            |(id, network, node, name, inode, (ipv4, ipv6, mac, ifname), service, made)| {
                let mut spec = endpoint_spec(id, network, &format!("c{name}"));
                spec.node = node_id(node);
                spec.attachment.inode = inode;
                EndpointSpec {
                    ipv4,
                    ipv6,
                    mac,
                    ifname: ifname.map(str::to_owned),
                    service: service.filter(|_| made.is_none()).map(service_id),
                    new_service: made.map(Box::new),
                    ..spec
                }
            },
        )
}
