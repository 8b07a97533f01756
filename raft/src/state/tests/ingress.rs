use super::*;
use crate::model::{PublishMode, PublishedPort, Role, Vni};

fn create(spec: NetworkSpec) -> Command {
    Command::CreateNetwork(Box::new(spec))
}

fn ingress_spec(number: u8, name: &str) -> NetworkSpec {
    NetworkSpec {
        ingress: true,
        ..network_spec(number, name)
    }
}

fn remove(number: u8) -> Command {
    Command::RemoveNetwork {
        id: network_id(number),
    }
}

fn published(number: u8, name: &str, ports: &[PublishedPort]) -> ServiceSpec {
    ServiceSpec {
        ports: ports.to_vec(),
        ..service_spec(number, &[1], name)
    }
}

fn addresses(pair: &Pair) -> Vec<String> {
    let nodes = pair.state.view().nodes.values();
    nodes
        .map(|node| node.ingress.map_or("none".to_owned(), |ip| ip.to_string()))
        .collect()
}

/// Without an ingress network, with network 1, `web`.
fn without() -> Pair {
    let mut pair = Pair::cluster();
    pair.network(network_spec(1, "web"));
    pair.done(remove(0));
    pair
}

#[test]
fn it_stays_while_a_port_of_all_nodes_is_published() {
    let mut pair = Pair::cluster();
    pair.network(network_spec(1, "web"));
    pair.service(published(1, "shop", &[port(8080, 80), port(8443, 443)]));
    let refused = |others: &str| {
        format!(
            "network ingress carries port 8080/tcp of service shop{others}; take it off with `weft \
             service update --publish-rm 8080/tcp shop`, or remove the service first"
        )
    };
    assert_eq!(pair.refused(remove(0)), (RefusalKind::InUse, refused("")));
    pair.service(published(2, "blog", &[port(0, 80)]));
    assert_eq!(
        pair.refused(remove(0)).1,
        refused(" (and of another service)")
    );
    pair.service(published(3, "chat", &[port(0, 80)]));
    assert_eq!(
        pair.refused(remove(0)).1,
        refused(" (and of 2 other services)")
    );
    for service in 1..=3 {
        pair.done(Command::RemoveService {
            id: service_id(service),
        });
    }
    let of_host = PublishedPort {
        mode: PublishMode::Host,
        ..port(8080, 80)
    };
    pair.service(published(4, "host", &[of_host]));
    pair.done(remove(0));
}

#[test]
fn with_it_the_nodes_lose_their_addresses() {
    let pair = without();
    assert_eq!(addresses(&pair), ["none", "none"]);
    let revision = pair.state.view().revision;
    assert!({ pair.state.view().nodes.values() }.all(|node| node.revision == revision));
}

#[test]
fn without_it_no_port_of_all_nodes_can_be_published() {
    let mut pair = without();
    let refused = (
        RefusalKind::Conflict,
        "target port 80/tcp cannot be published on all nodes: there is no ingress network; make one \
         with `weft network create ingress --ingress`, or publish with mode=host"
            .to_owned(),
    );
    for number in [8080, 0] {
        let spec = published(1, "shop", &[port(number, 80)]);
        let create = Command::CreateService(Box::new(spec));
        assert_eq!(pair.refused(create), refused);
    }
    let of_host = PublishedPort {
        mode: PublishMode::Host,
        ..port(8080, 80)
    };
    pair.service(published(1, "shop", &[of_host]));
    let change = crate::command::ServiceChange {
        ports: Some(vec![port(8080, 80)]),
        ..Default::default()
    };
    let update = Command::UpdateService {
        id: service_id(1),
        change: Box::new(change),
    };
    assert_eq!(pair.refused(update), refused);
}

#[test]
fn another_one_has_the_same_vni_and_an_address_for_every_node() {
    let mut pair = without();
    let again = pair.network(NetworkSpec {
        mtu: Some(1300),
        subnets: vec![subnet("10.9.0.0/24")],
        ..ingress_spec(2, "ingress")
    });
    assert!(again.ingress);
    assert_eq!((again.vni, again.mtu), (Some(Vni::INGRESS), Some(1300)));
    assert_eq!(addresses(&pair), ["10.9.0.2", "10.9.0.3"]);
    pair.done(Command::AddNode(Box::new(node_spec(3, Role::Worker))));
    assert_eq!(pair.node(3).ingress, Some([10, 9, 0, 4].into()));
    pair.service(published(1, "shop", &[port(8080, 80)]));
    assert_eq!(pair.refused(remove(2)).0, RefusalKind::InUse);
}

#[test]
fn another_one_may_have_another_name_vni_and_the_next_subnet() {
    let mut pair = without();
    assert_eq!(
        pair.network(network_spec(2, "db")).vni.map(Vni::get),
        Some(4098)
    );
    let again = pair.network(NetworkSpec {
        vni: Vni::new(77),
        ..ingress_spec(3, "mesh")
    });
    assert_eq!(again.vni.map(Vni::get), Some(77));
    assert_eq!(again.subnets[0].cidr, net("10.0.2.0/24"));
    assert_eq!(addresses(&pair), ["10.0.2.2", "10.0.2.3"]);
    assert_eq!(
        pair.network(network_spec(4, "api")).vni.map(Vni::get),
        Some(4099)
    );
    pair.done(remove(3));
    pair.network(ingress_spec(5, "ingress"));
}

#[test]
fn a_node_that_came_while_there_was_none_gets_an_address_with_the_next() {
    let mut pair = without();
    pair.done(Command::AddNode(Box::new(node_spec(3, Role::Worker))));
    assert_eq!(pair.node(3).ingress, None);
    pair.network(ingress_spec(2, "ingress"));
    assert_eq!(addresses(&pair), ["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
}

#[test]
fn a_second_one_is_refused_by_the_name_of_the_first() {
    let mut pair = Pair::cluster();
    assert_eq!(
        pair.refused(create(ingress_spec(1, "mesh"))),
        (
            RefusalKind::Conflict,
            "network ingress carries published ports already, and only one can; remove it first \
             with `weft network rm ingress`"
                .to_owned()
        )
    );
}

#[test]
fn one_without_room_for_all_nodes_is_refused_with_the_numbers() {
    let mut pair = without();
    for number in 3..=6 {
        pair.done(Command::AddNode(Box::new(node_spec(number, Role::Worker))));
    }
    let with = |cidr| NetworkSpec {
        subnets: vec![subnet(cidr)],
        ..ingress_spec(2, "ingress")
    };
    assert_eq!(
        pair.refused(create(with("10.9.0.0/29"))),
        (
            RefusalKind::Exhausted,
            "subnet 10.9.0.0/29 has 5 addresses for 6 nodes; give a larger --subnet".to_owned()
        )
    );
    assert_eq!(addresses(&pair), ["none"; 6]);
    pair.network(with("10.9.0.0/28"));
    assert_eq!(pair.node(6).ingress, Some([10, 9, 0, 7].into()));
}

#[test]
fn what_it_cannot_be_is_refused() {
    let spec = || ingress_spec(2, "ingress");
    let cases = [
        (
            NetworkSpec {
                internal: true,
                ..spec()
            },
            "--internal makes no sense for the network that carries published ports: clients are \
             outside; leave it out",
        ),
        (
            NetworkSpec {
                multicast: true,
                ..spec()
            },
            "--multicast makes no sense for the network that carries published ports: nothing is \
             sent to all; leave it out",
        ),
        (
            NetworkSpec {
                allow_overlap: true,
                ..spec()
            },
            "--allow-overlap makes no sense for the network that carries published ports: the hosts \
             themselves are on it; leave it out",
        ),
        (
            NetworkSpec {
                subnets: vec![subnet("10.8.0.0/24"), subnet("10.9.0.0/24")],
                ..spec()
            },
            "2 subnets are too many for the network that carries published ports; give one with room \
             for all nodes",
        ),
        (
            NetworkSpec {
                mtu: Some(1279),
                ..spec()
            },
            "MTU 1279 is too small for the network that carries published ports, which does so over \
             IPv6 too; 1280 to 65485 bytes are accepted",
        ),
        (
            NetworkSpec {
                vni: Vni::new(4097),
                ..spec()
            },
            "VNI 4097 is held by network web; choose another with --vni",
        ),
    ];
    let mut pair = without();
    for (spec, message) in cases {
        assert_eq!(pair.refused(create(spec)).1, message);
    }
}
