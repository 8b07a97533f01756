use super::*;
use crate::command::{NetworkChange, NodeChange, SubnetSpec};
use crate::model::{Driver, Labels, Role, Route, Vni};

fn create(spec: NetworkSpec) -> Command {
    Command::CreateNetwork(Box::new(spec))
}

fn with_subnets(number: u8, name: &str, cidrs: &[&str]) -> NetworkSpec {
    NetworkSpec {
        subnets: cidrs.iter().copied().map(subnet).collect(),
        ..network_spec(number, name)
    }
}

fn with_gateway(cidr: &str, gateway: [u8; 4]) -> NetworkSpec {
    NetworkSpec {
        subnets: vec![SubnetSpec {
            gateway: Some(gateway.into()),
            ..subnet(cidr)
        }],
        ..network_spec(2, "other")
    }
}

#[test]
fn names_that_dns_cannot_hold_are_refused() {
    let long = "x".repeat(64);
    for name in ["", "My_Net", "-a", "a-", "a.b", "ä", long.as_str(), "a\nb"] {
        let (kind, message) = Pair::cluster().refused(create(network_spec(1, name)));
        assert_eq!(kind, RefusalKind::Invalid);
        assert!(
            message.ends_with(
                "is not a DNS label; write 1 to 63 characters of a-z, 0-9 and -, the first and last \
                 not -"
            ),
            "{message}"
        );
    }
    for name in ["a", "7", "a-b", &"x".repeat(63)] {
        Pair::cluster().network(network_spec(1, name));
    }
}

#[test]
fn names_and_ids_are_given_once() {
    let mut pair = Pair::cluster();
    pair.network(network_spec(1, "web"));
    assert_eq!(
        pair.refused(create(network_spec(2, "web"))),
        (
            RefusalKind::Conflict,
            "network name `web` is taken (network aiaqaaaaaaaaaaaa); choose another".to_owned()
        )
    );
    assert_eq!(
        pair.refused(create(network_spec(1, "other"))).1,
        "network id aiaqaaaaaaaaaaaa is taken; draw another"
    );
    assert_eq!(
        pair.refused(create(network_spec(2, "ingress"))).1,
        "network name `ingress` belongs to the network that carries published ports; choose another, \
         or give --ingress to make that one"
    );
}

#[test]
fn subnets_that_cannot_work_are_refused() {
    let cases = [
        (
            with_subnets(2, "other", &["10.7.0.0/30"]),
            "subnet 10.7.0.0/30 is too small; a /29 is the smallest accepted",
        ),
        (
            with_subnets(2, "other", &["10.0.0.0/7"]),
            "subnet 10.0.0.0/7 is too large; a /8 is the largest accepted",
        ),
        (
            with_subnets(2, "other", &["10.7.0.1/24"]),
            "subnet 10.7.0.1/24 has host bits set; write 10.7.0.0/24",
        ),
        (
            with_subnets(2, "other", &["10.7.0.0/24", "10.7.0.128/25"]),
            "subnet 10.7.0.128/25 overlaps subnet 10.7.0.0/24 of the same network; give each address \
             once",
        ),
        (
            with_subnets(2, "other", &["169.254.7.0/24"]),
            "subnet 169.254.7.0/24 overlaps 169.254.0.0/16, which is reserved (link-local); choose a \
             private range, such as one in 10.0.0.0/8",
        ),
        (
            with_subnets(2, "other", &["198.18.0.128/25"]),
            "subnet 198.18.0.128/25 overlaps route 198.18.0.0/24 of node h1; choose a range that no \
             node routes",
        ),
        (
            with_subnets(2, "other", &["10.0.0.0/16"]),
            "subnet 10.0.0.0/16 overlaps 10.0.0.0/24 of network ingress; choose another range, or \
             admit it with --allow-overlap",
        ),
        (
            with_subnets(2, "other", &["10.0.1.64/26"]),
            "subnet 10.0.1.64/26 overlaps 10.0.1.0/24 of network web; choose another range, or admit \
             it with --allow-overlap",
        ),
        (
            with_gateway("10.7.0.0/24", [10, 7, 1, 1]),
            "gateway 10.7.1.1 is outside subnet 10.7.0.0/24; 10.7.0.1 to 10.7.0.254 are accepted",
        ),
        (
            with_gateway("10.7.0.0/24", [10, 7, 0, 255]),
            "gateway 10.7.0.255 is the network's or broadcast address of subnet 10.7.0.0/24; \
             10.7.0.1 to 10.7.0.254 are accepted",
        ),
        (
            NetworkSpec {
                mtu: Some(575),
                ..network_spec(2, "other")
            },
            "MTU 575 is out of range; 576 to 65485 bytes are accepted",
        ),
        (
            NetworkSpec {
                labels: Labels::from([("a b".to_owned(), String::new())]),
                ..network_spec(2, "other")
            },
            "label key `a b` is not accepted; use printable characters without spaces and =",
        ),
    ];
    for (spec, message) in cases {
        let mut pair = Pair::cluster();
        pair.network(network_spec(1, "web"));
        assert_eq!(pair.refused(create(spec)).1, message);
    }
}

#[test]
fn an_admitted_overlap_is_with_networks_only() {
    let mut pair = Pair::cluster();
    pair.network(network_spec(1, "web"));
    let overlapping = |number, name, cidr| NetworkSpec {
        allow_overlap: true,
        ..with_subnets(number, name, &[cidr])
    };
    pair.network(overlapping(2, "twin", "10.0.1.0/24"));
    pair.refused(create(overlapping(3, "route", "198.18.0.0/24")));
    pair.refused(create(overlapping(3, "loopback", "127.1.0.0/24")));
    assert_eq!(
        pair.refused(create(with_subnets(3, "plain", &["10.0.1.0/25"])))
            .0,
        RefusalKind::Conflict,
        "the new network has to admit it"
    );
    for network in [1, 2] {
        let spec = endpoint_spec(u32::from(network), network, "same");
        assert_eq!(pair.endpoint(spec).ipv4.unwrap().octets(), [10, 0, 1, 2]);
    }
    // One of the two holders gone, the other still counts.
    pair.done(Command::RemoveEndpoint { id: endpoint_id(1) });
    pair.done(Command::RemoveNetwork { id: network_id(1) });
    pair.refused(create(with_subnets(3, "plain", &["10.0.1.0/24"])));
}

#[test]
fn a_network_with_endpoints_stays() {
    let mut pair = Pair::cluster();
    pair.network(network_spec(1, "web"));
    pair.endpoint(endpoint_spec(1, 1, "db"));
    let remove = || Command::RemoveNetwork { id: network_id(1) };
    assert_eq!(
        pair.refused(remove()),
        (
            RefusalKind::InUse,
            "network web has 1 endpoint (such as db on node h1); detach it first".to_owned()
        )
    );
    pair.endpoint(endpoint_spec(2, 1, "api"));
    assert_eq!(
        pair.refused(remove()).1,
        "network web has 2 endpoints (such as api on node h1); detach them first"
    );
    pair.done(Command::RemoveEndpoint { id: endpoint_id(1) });
    pair.done(Command::RemoveEndpoint { id: endpoint_id(2) });
    pair.done(remove());
    assert_eq!(
        pair.refused(remove()),
        (
            RefusalKind::NotFound,
            "there is no network aiaqaaaaaaaaaaaa; `weft network ls` lists all".to_owned()
        )
    );
}

#[test]
fn a_removed_network_gives_back_its_vni_and_subnet() {
    let mut pair = Pair::cluster();
    for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
        pair.network(network_spec(number, name));
    }
    pair.done(Command::RemoveNetwork { id: network_id(2) });
    let again = pair.network(network_spec(4, "d"));
    assert_eq!(again.vni.map(Vni::get), Some(4098));
    assert_eq!(again.subnets[0].cidr, net("10.0.2.0/24"));
    assert_eq!(
        pair.network(network_spec(5, "e")).vni.map(Vni::get),
        Some(4100)
    );
}

#[test]
fn a_wanted_vni_is_honoured_once() {
    let mut pair = Pair::cluster();
    let wanting = |number, name, vni| NetworkSpec {
        vni: Vni::new(vni),
        ..network_spec(number, name)
    };
    assert_eq!(
        pair.network(wanting(1, "a", 4097)).vni.map(Vni::get),
        Some(4097)
    );
    assert_eq!(
        pair.network(network_spec(2, "b")).vni.map(Vni::get),
        Some(4098)
    );
    assert_eq!(pair.network(wanting(3, "c", 5)).vni.map(Vni::get), Some(5));
    assert_eq!(
        pair.refused(create(wanting(4, "d", 4097))),
        (
            RefusalKind::Conflict,
            "VNI 4097 is held by network a; choose another, or none to have a free one assigned"
                .to_owned()
        )
    );
    let beyond: Vni = decode(&encode(&(1u32 << 24)).unwrap()).unwrap();
    let spec = NetworkSpec {
        vni: Some(beyond),
        ..network_spec(4, "d")
    };
    assert_eq!(
        pair.refused(create(spec)).1,
        "VNI 16777216 is out of range; 1 to 16777215 are accepted"
    );
}

#[test]
fn assigned_subnets_keep_away_from_routes_of_every_node() {
    let mut pair = Pair::cluster();
    let routes = |number, routes: &[&str]| Command::UpdateNode {
        id: node_id(number),
        change: Box::new(NodeChange {
            host_routes: Some(routes.iter().map(|route| route.parse().unwrap()).collect()),
            ..NodeChange::default()
        }),
    };
    pair.done(routes(2, &["0.0.0.0/0", "10.0.1.0/25", "10.0.2.0/23"]));
    let first = pair.network(network_spec(1, "a"));
    assert_eq!(first.subnets[0].cidr, net("10.0.4.0/24"));
    pair.done(routes(2, &["10.0.2.0/23"]));
    let second = pair.network(network_spec(2, "b"));
    assert_eq!(second.subnets[0].cidr, net("10.0.1.0/24"));
    pair.done(Command::RemoveNode { id: node_id(2) });
    let third = pair.network(network_spec(3, "c"));
    assert_eq!(third.subnets[0].cidr, net("10.0.2.0/24"));
}

#[test]
fn used_up_pools_are_named() {
    let mut pair = Pair::new();
    pair.done(Command::Init(Box::new(small_cluster())));
    for number in 1..10 {
        pair.network(network_spec(number, &format!("n{number}")));
    }
    let message = |covered: &str| {
        format!(
            "no free /29 is left in the address pools (10.0.0.0/26, 10.1.0.0/28): they are covered \
             by {covered}; remove a network or give --subnet outside the pools"
        )
    };
    assert_eq!(
        pair.refused(create(network_spec(10, "more"))),
        (RefusalKind::Exhausted, message("networks"))
    );
    let change = NodeChange {
        host_routes: Some(vec!["10.1.0.0/30".parse().unwrap()]),
        ..NodeChange::default()
    };
    pair.done(Command::UpdateNode {
        id: node_id(1),
        change: Box::new(change),
    });
    // A restored replica searches the pools from their beginning; this one does not.
    let mut restored: State = decode(&encode(&pair.state).unwrap()).unwrap();
    let again = proposal(1000, create(network_spec(10, "more")));
    let refused = restored.apply(1000, &again).0.unwrap_err().message;
    assert_eq!(
        refused,
        message("networks and routes (such as 10.1.0.0/30 of h1)")
    );
    assert_eq!(pair.refused(again.command).1, refused);
    pair.network(with_subnets(10, "more", &["10.5.0.0/24"]));
}

#[test]
fn a_route_that_comes_later_does_not_undo_a_network() {
    let mut pair = Pair::cluster();
    let mut spec = node_spec(3, Role::Worker);
    spec.host_routes = vec!["10.0.0.0/16".parse().unwrap()];
    pair.done(Command::AddNode(Box::new(spec)));
    assert!(pair.state.view().networks.contains_key(&network_id(0)));
    pair.endpoint(endpoint_spec(1, 0, "db"));
}

fn update(number: u8, change: NetworkChange) -> Command {
    Command::UpdateNetwork {
        id: network_id(number),
        change: Box::new(change),
    }
}

fn encrypted(encrypted: bool) -> NetworkChange {
    NetworkChange {
        encrypted: Some(encrypted),
        ..NetworkChange::default()
    }
}

#[test]
fn a_network_is_encrypted_from_the_start_or_later_and_keeps_all_else() {
    let mut pair = Pair::cluster();
    let made = pair.network(NetworkSpec {
        encrypted: true,
        ..network_spec(1, "web")
    });
    assert!(made.encrypted);
    let endpoint = pair.endpoint(endpoint_spec(1, 1, "db"));
    let Object::Network(open) = pair.done(update(1, encrypted(false))) else {
        panic!("not a network");
    };
    let expected = Network {
        encrypted: false,
        revision: open.revision,
        ..Network::clone(&made)
    };
    assert_eq!(*open, expected);
    assert!(open.revision > made.revision);
    // Its addresses are held as before.
    let next = pair.endpoint(endpoint_spec(2, 1, "db2"));
    assert_ne!(next.ipv4, endpoint.ipv4);
    assert_eq!(
        pair.network(network_spec(2, "b")).vni.map(Vni::get),
        Some(4098)
    );
    // The ingress network is no exception.
    pair.done(update(0, encrypted(true)));
    assert!(pair.state.view().networks[&network_id(0)].encrypted);
}

#[test]
fn an_update_that_changes_nothing_is_no_change() {
    let mut pair = Pair::cluster();
    let made = pair.network(network_spec(1, "web"));
    let again = pair.done(update(1, encrypted(false)));
    assert_eq!(again, Object::Network(made));
    let refused = pair.refused(update(9, encrypted(true)));
    assert_eq!(refused.0, RefusalKind::NotFound);
}

#[test]
fn labels_of_a_network_are_set_and_removed() {
    let mut pair = Pair::cluster();
    pair.network(NetworkSpec {
        labels: [("tier".to_owned(), "a".to_owned())].into(),
        ..network_spec(1, "web")
    });
    let relabel = |remove: &str, add: &str| NetworkChange {
        labels_add: [(add.to_owned(), "x".to_owned())].into(),
        labels_remove: vec![remove.to_owned()],
        ..NetworkChange::default()
    };
    pair.done(update(1, relabel("tier", "zone")));
    let labels = &pair.state.view().networks[&network_id(1)].labels;
    assert_eq!(*labels, [("zone".to_owned(), "x".to_owned())].into());
    let (kind, _) = pair.refused(update(1, relabel("zone", "not a key")));
    assert_eq!(kind, RefusalKind::Invalid);
}

#[test]
fn a_network_without_tunnels_has_no_vni_and_nothing_else_of_them() {
    let mut pair = Pair::cluster();
    let spec = NetworkSpec {
        driver: Driver::Bridge,
        ..network_spec(1, "here")
    };
    let network = pair.network(spec.clone());
    assert_eq!((&network.driver, network.vni), (&Driver::Bridge, None));
    // The next one has the first number.
    let next = pair.network(network_spec(2, "web"));
    assert_eq!(next.vni, Some(Vni::FIRST));
    let spec = NetworkSpec {
        id: network_id(3),
        name: "more".to_owned(),
        ..spec
    };
    let asked = [
        (
            "--encrypted",
            NetworkSpec {
                encrypted: true,
                ..spec.clone()
            },
        ),
        (
            "--multicast",
            NetworkSpec {
                multicast: true,
                ..spec.clone()
            },
        ),
        (
            "--vni",
            NetworkSpec {
                vni: Vni::new(7),
                ..spec.clone()
            },
        ),
    ];
    for (flag, spec) in asked {
        let (kind, message) = pair.refused(create(spec));
        assert_eq!(kind, RefusalKind::Invalid);
        let why = "is of tunnels between nodes, and driver bridge has none; leave it out, or use \
                   driver overlay";
        assert_eq!(message, format!("{flag} {why}"));
    }
    let encrypt = Command::UpdateNetwork {
        id: network_id(1),
        change: Box::new(NetworkChange {
            encrypted: Some(true),
            ..NetworkChange::default()
        }),
    };
    assert!(
        pair.refused(encrypt)
            .1
            .starts_with("--encrypted is of tunnels")
    );
    let service = Command::CreateService(Box::new(service_spec(1, &[1], "front")));
    assert_eq!(
        pair.refused(service).1,
        "network here is local to each node (driver bridge), and a service is one for all nodes; \
         choose a network whose endpoints reach one another"
    );
}

fn route(text: &str) -> Route {
    let (destination, via) = text.split_once('=').unwrap();
    Route {
        destination: destination.parse().unwrap(),
        via: via.parse().unwrap(),
    }
}

#[test]
fn routes_lead_to_the_network_and_out_of_it() {
    let mut pair = Pair::cluster();
    let with = |texts: &[&str]| NetworkSpec {
        routes: texts.iter().copied().map(route).collect(),
        ..network_spec(1, "web")
    };
    for (routes, why) in [
        (
            &["172.16.0.1/12=10.0.1.9"][..],
            "route 172.16.0.1/12=10.0.1.9 has host bits set; write 172.16.0.0/12=10.0.1.9",
        ),
        (
            &["172.16.0.0/12=10.0.2.9"],
            "route 172.16.0.0/12=10.0.2.9 leads outside network web: the next hop has to be an \
             address of 10.0.1.0/24",
        ),
        (
            &["172.16.0.0/12=10.0.1.255"],
            "route 172.16.0.0/12=10.0.1.255 leads outside network web: the next hop has to be an \
             address of 10.0.1.0/24",
        ),
        (
            &["10.0.1.64/26=10.0.1.9"],
            "route 10.0.1.64/26=10.0.1.9 leads into subnet 10.0.1.0/24, where endpoints are reached \
             without; leave it out",
        ),
        (
            &["fd00::/8=10.0.1.9"],
            "route fd00::/8=10.0.1.9 has two versions of IP; give a next hop of the destination's",
        ),
        (
            &["172.16.0.0/12=10.0.1.9", "172.16.0.0/12=10.0.1.8"],
            "network web has a route to 172.16.0.0/12 already (via 10.0.1.9); give one, or remove \
             that with --route-rm 172.16.0.0/12",
        ),
    ] {
        assert_eq!(pair.refused(create(with(routes))).1, why);
    }
    let many: Vec<String> = (0..65)
        .map(|n| format!("172.16.{n}.0/24=10.0.1.9"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        pair.refused(create(with(&many))).1,
        "65 routes of one network are too many; at most 64 are accepted"
    );
    pair.network(with(&["172.16.0.0/12=10.0.1.9", "0.0.0.0/0=10.0.1.9"]));
    let update = |add: &[&str], remove: &[&str]| Command::UpdateNetwork {
        id: network_id(1),
        change: Box::new(NetworkChange {
            routes_add: add.iter().copied().map(route).collect(),
            routes_remove: remove.iter().map(|net| net.parse().unwrap()).collect(),
            ..NetworkChange::default()
        }),
    };
    assert_eq!(
        pair.refused(update(&[], &["172.17.0.0/16"])).1,
        "network web has no route to 172.17.0.0/16; `weft network inspect web` lists all"
    );
    let changed = pair.done(update(&["172.16.0.0/12=10.0.1.7"], &["172.16.0.0/12"]));
    let Object::Network(changed) = changed else {
        panic!("{changed:?}");
    };
    let routes: Vec<String> = changed.routes.iter().map(Route::to_string).collect();
    assert_eq!(routes, ["0.0.0.0/0=10.0.1.9", "172.16.0.0/12=10.0.1.7"]);
    let (_, why) = pair.refused(Command::UpdateNetwork {
        id: network_id(0),
        change: Box::new(NetworkChange {
            routes_add: vec![route("172.16.0.0/12=10.0.0.9")],
            ..NetworkChange::default()
        }),
    });
    assert!(why.ends_with("takes no routes; leave out --route"), "{why}");
}
