use std::sync::Arc;

use weft_raft::model::*;

use super::*;
use crate::translate::services::testing::{HERE, Known, member, on, place, service};
use crate::translate::tests::{network, node, view};

const WEB: NonZeroU16 = NonZeroU16::new(8080).unwrap();
const TARGET: NonZeroU16 = NonZeroU16::new(80).unwrap();

fn port(mode: PublishMode) -> PublishedPort {
    PublishedPort {
        published: WEB.get(),
        target: TARGET.get(),
        protocol: Protocol::Tcp,
        mode,
        ip: None,
        source: SourceMode::Preserve,
        allow_from: Vec::new(),
    }
}

fn with_port(port: PublishedPort) -> Service {
    Service {
        ports: vec![port],
        ..service(1, &[1])
    }
}

/// Nodes 1 to 3 have addresses 10.0.0.1 to 10.0.0.3 on the ingress network.
fn known(service: &Service, members: &[Endpoint]) -> Known {
    let mut known = Known::of(std::slice::from_ref(service), members);
    let ingress = Network {
        ingress: true,
        subnets: vec![Subnet {
            cidr: "10.0.0.0/24".parse().unwrap(),
            gateway: IpAddr::from([10, 0, 0, 254]),
            range: None,
        }],
        ..network(0)
    };
    known.apply(&[Change::Network(Arc::new(ingress))]);
    for number in [1, 2, 3] {
        let row = Node {
            ingress: Some(Ipv4Addr::new(10, 0, 0, number)),
            // One of its own, and one that every host has.
            addresses: vec![[192, 0, 2, number].into(), [172, 17, 0, 1].into()],
            ..node(number, 1500)
        };
        known.apply(&[Change::Node(Arc::new(row))]);
    }
    known
}

fn legs(numbers: &[u8]) -> BTreeMap<Identity, LegAddresses> {
    let leg = |number: &u8| LegAddresses {
        v4: Ipv4Addr::new(192, 168, 240, *number),
        v6: None,
    };
    numbers.iter().map(|n| (place(*n), leg(n))).collect()
}

fn made(known: &Known, legs: &BTreeMap<Identity, LegAddresses>) -> Published {
    let gateway4 = "192.168.240.0/20".parse().unwrap();
    published(&known.view, &known.index, HERE, gateway4, legs)
}

fn key(address: Address) -> ServiceKey {
    ServiceKey {
        address,
        ports: Ports::One(lb::Protocol::Tcp, WEB),
    }
}

fn own() -> Address {
    Address::Vip([10, 0, 0, 1].into())
}

/// `ADDRESS:PORT` and weight.
fn backends(made: &Published, address: Address) -> Vec<(String, u16)> {
    let backends = &made.balance[&key(address)].backends;
    let text = |(backend, weight): (&Backend, &u16)| (backend.to_string(), *weight);
    backends.iter().map(text).collect()
}

#[test]
fn a_node_chooses_among_its_own_and_the_nodes_that_have_others() {
    let service = with_port(port(PublishMode::Ingress));
    let members = [
        member(2, 1, 1, 1),
        member(3, 1, 2, 1),
        member(4, 1, 2, 1),
        Endpoint {
            backend: BackendState::Starting,
            ..member(5, 1, 3, 1)
        },
    ];
    let made = made(&known(&service, &members), &legs(&[2]));
    let own_leg = || ("192.168.240.2:80".to_owned(), 1);
    let local = Address::Local(Family::V4);
    let nodes = vec![("10.0.0.2:8080".to_owned(), 2), own_leg()];
    assert_eq!(backends(&made, local), nodes);
    // What comes from another node goes no further.
    assert_eq!(backends(&made, own()), [own_leg()]);
    // Legs without IPv6 cannot be sent to; the other nodes judge for themselves.
    let far = vec![("[fd77:6566:7401::a00:2]:8080".to_owned(), 2)];
    assert_eq!(backends(&made, Address::Local(Family::V6)), far);
}

#[test]
fn what_another_node_hands_on_is_taken_by_who_is_there() {
    let service = with_port(port(PublishMode::Ingress));
    let leg = |number| (format!("192.168.240.{number}:80"), 1);
    let local = Address::Local(Family::V4);
    // The others may know already that it is ready, or not yet that it leaves.
    for state in [BackendState::Starting, BackendState::Draining] {
        let one = Endpoint {
            backend: state,
            ..member(2, 1, 1, 1)
        };
        let known = known(&service, &[one, member(4, 1, 2, 1)]);
        let made = made(&known, &legs(&[2]));
        assert_eq!(backends(&made, own()), [leg(2)]);
        // Here it is known better.
        let taking: Vec<_> = { backends(&made, local).into_iter() }
            .filter(|(_, weight)| *weight > 0)
            .collect();
        assert_eq!(taking, [("10.0.0.2:8080".to_owned(), 1)]);
    }
    // Whoever does take connections comes first.
    let leaving = Endpoint {
        backend: BackendState::Draining,
        ..member(2, 1, 1, 1)
    };
    let known = known(&service, &[leaving, member(3, 1, 1, 1)]);
    let made = made(&known, &legs(&[2, 3]));
    let (own_leg, other) = ((leg(2).0, 0), leg(3));
    assert_eq!(backends(&made, own()), [own_leg, other]);
}

#[test]
fn a_backend_without_a_leg_is_not_there_yet() {
    let service = with_port(port(PublishMode::Ingress));
    let made = made(&known(&service, &[member(2, 1, 1, 1)]), &legs(&[]));
    assert_eq!(backends(&made, Address::Local(Family::V4)), []);
}

#[test]
fn a_container_on_two_networks_is_one_backend() {
    let service = Service {
        networks: vec![on(1, 1), on(2, 1)],
        ..with_port(port(PublishMode::Ingress))
    };
    let mut second = member(9, 2, 2, 1);
    second.attachment = member(3, 1, 2, 1).attachment;
    let made = made(&known(&service, &[member(3, 1, 2, 1), second]), &legs(&[]));
    let once = vec![("10.0.0.2:8080".to_owned(), 1)];
    assert_eq!(backends(&made, Address::Local(Family::V4)), once);
}

#[test]
fn host_mode_answers_only_where_a_backend_is() {
    let service = with_port(port(PublishMode::Host));
    let elsewhere = made(&known(&service, &[member(3, 1, 2, 1)]), &legs(&[]));
    assert!(elsewhere.balance.is_empty());
    let here = made(&known(&service, &[member(2, 1, 1, 1)]), &legs(&[2]));
    let keys: Vec<&ServiceKey> = here.balance.keys().collect();
    assert_eq!(keys, [&key(Address::Local(Family::V4))]);
}

#[test]
fn an_address_of_one_node_answers_there_alone() {
    let with = |ip: &str| PublishedPort {
        ip: Some(ip.parse().unwrap()),
        ..port(PublishMode::Ingress)
    };
    let keys = |ip: &str| -> Vec<Address> {
        let known = known(&with_port(with(ip)), &[member(2, 1, 1, 1)]);
        let made = made(&known, &legs(&[2]));
        made.balance.keys().map(|key| key.address).collect()
    };
    let mesh6 = Address::Vip("fd77:6566:7401::a00:1".parse().unwrap());
    assert_eq!(
        keys("198.18.0.1"),
        [own(), Address::Vip([198, 18, 0, 1].into()), mesh6]
    );
    assert_eq!(keys("198.18.0.2"), [own(), mesh6]);
    for here in ["192.0.2.1", "172.17.0.1", "127.0.0.1"] {
        let keys = keys(here);
        assert!(
            keys.contains(&Address::Vip(here.parse().unwrap())),
            "{keys:?}"
        );
    }
    assert_eq!(keys("192.0.2.2"), [own(), mesh6]);
}

#[test]
fn rules_name_the_other_nodes_and_what_ports_want() {
    let snat = PublishedPort {
        source: SourceMode::Snat,
        allow_from: vec!["198.18.0.0/24".parse().unwrap()],
        ..port(PublishMode::Ingress)
    };
    let known = known(&with_port(snat), &[]);
    let rules = made(&known, &legs(&[])).rules;
    let entries = BTreeMap::from([([2, 0x42, 10, 0, 0, 2], 2), ([2, 0x42, 10, 0, 0, 3], 3)]);
    assert_eq!(rules.entries, entries);
    assert_eq!(rules.mesh4, Some([10, 0, 0, 1].into()));
    let name = (lb::Protocol::Tcp, WEB);
    assert!(rules.snat_ports.contains(&name) && rules.allowed.contains_key(&name));
    let peer: IpAddr = [10, 0, 0, 2].into();
    for address in [[198, 18, 0, 2], [192, 0, 2, 2]] {
        assert_eq!(rules.peers.get(&address.into()), Some(&peer));
    }
    assert_eq!(rules.peers.get(&[172, 17, 0, 1].into()), None);
    let mesh = mesh(&known.view, HERE.node).unwrap();
    assert_eq!(mesh.entries.keys().collect::<Vec<_>>(), [&2, &3]);
}

#[test]
fn the_mesh_is_there_while_a_port_is_published_on_all_nodes() {
    let here = NetnsRef {
        path: "/proc/self/ns/net".into(),
        device: 4,
        inode: 1,
    };
    let sandbox = |service: &Service| {
        let mut known = known(service, &[]);
        known.view.cluster = view().cluster;
        mesh_sandbox(&known.view, HERE.node, &here)
    };
    assert_eq!(sandbox(&service(1, &[1])), None);
    assert_eq!(sandbox(&with_port(port(PublishMode::Host))), None);
    let made = sandbox(&with_port(port(PublishMode::Ingress))).unwrap();
    assert_eq!(made.mtu, 1450);
    let host = made.locals.values().next().unwrap();
    assert_eq!((host.ifname.as_str(), &host.netns), ("wf-ingress", &here));
    assert_eq!(made.remotes.len(), 2);
}

fn proxied(mode: PublishMode) -> Service {
    with_port(PublishedPort {
        source: SourceMode::ProxyV2,
        ..port(mode)
    })
}

#[test]
fn a_relayed_port_leads_to_a_listener_that_knows_the_containers() {
    let members = [
        Endpoint {
            weight: 3,
            ..member(2, 1, 1, 1)
        },
        Endpoint {
            backend: BackendState::Starting,
            ..member(3, 1, 1, 1)
        },
        member(4, 1, 2, 1),
    ];
    let service = Service {
        scheduler: Scheduler::LeastConnections,
        ..proxied(PublishMode::Ingress)
    };
    let made = made(&known(&service, &members), &legs(&[2, 3]));
    let listener = "192.168.240.1:8080";
    let nodes = vec![("10.0.0.2:8080".to_owned(), 1), (listener.to_owned(), 3)];
    assert_eq!(backends(&made, Address::Local(Family::V4)), nodes);
    assert_eq!(backends(&made, own()), [(listener.to_owned(), 3)]);
    let at: Vec<String> = made.relay.keys().map(ToString::to_string).collect();
    assert_eq!(at, [listener, "[fd77:6566:7400::1]:8080"]);
    for relayed in made.relay.values() {
        let to = { relayed.backends.iter() }
            .map(|(at, member)| (at.to_string(), member.weight, member.tag));
        let wanted = [("192.168.240.2:80", 3, 2), ("192.168.240.3:80", 0, 3)];
        let wanted = wanted.map(|(at, weight, tag)| (at.to_owned(), weight, tag));
        assert_eq!(to.collect::<Vec<_>>(), wanted);
    }
    let mss: Vec<_> = made.relay.values().map(|listener| listener.mss).collect();
    assert_eq!(mss[0].unwrap() - 20, mss[1].unwrap());
}

#[test]
fn a_relayed_port_without_containers_has_no_listener_and_takes_nothing() {
    let made_of = |mode, address| {
        let service = with_port(PublishedPort {
            ip: address,
            ..proxied(mode).ports[0].clone()
        });
        made(&known(&service, &[member(4, 1, 2, 1)]), &legs(&[]))
    };
    let far = made_of(PublishMode::Ingress, None);
    assert!(far.relay.is_empty());
    // Its connections may end, and those that come go to who has one.
    let nodes = [("10.0.0.2:8080", 1), ("192.168.240.1:8080", 0)];
    let nodes = nodes.map(|(at, weight)| (at.to_owned(), weight));
    assert_eq!(backends(&far, Address::Local(Family::V4)), nodes);
    assert_eq!(
        backends(&far, own()),
        [("192.168.240.1:8080".to_owned(), 0)]
    );
    let host = made_of(PublishMode::Host, None);
    assert!(host.relay.is_empty() && host.balance.is_empty());
}

#[test]
fn in_host_mode_an_address_of_the_node_is_listened_on_itself() {
    let ip: IpAddr = node(1, 1500).data_path_addr;
    let service = with_port(PublishedPort {
        ip: Some(ip),
        ..proxied(PublishMode::Host).ports[0].clone()
    });
    let made = made(&known(&service, &[member(2, 1, 1, 1)]), &legs(&[2]));
    let at = std::net::SocketAddr::new(ip, WEB.get());
    assert!(made.relay.keys().eq([&at]), "{:?}", made.relay);
    assert_eq!(backends(&made, Address::Vip(ip)), [(at.to_string(), 1)]);
}
