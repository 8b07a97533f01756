use super::*;
use std::net::IpAddr;

use crate::model::{EndpointKind, MacAddr, Subnet};
use crate::state::subnet::accepted_range;

fn create(spec: EndpointSpec) -> Command {
    Command::CreateEndpoint(Box::new(spec))
}

/// A cluster with network 1, `web`, 10.0.1.0/29.
fn small_network() -> Pair {
    let mut pair = Pair::cluster();
    pair.network(NetworkSpec {
        subnets: vec![subnet("10.0.1.0/29")],
        ..network_spec(1, "web")
    });
    pair
}

fn at(number: u32, name: &str, host: u8) -> EndpointSpec {
    EndpointSpec {
        ipv4: Some([10, 0, 1, host].into()),
        ..endpoint_spec(number, 1, name)
    }
}

#[test]
fn freed_addresses_come_after_never_used_ones_oldest_first() {
    let mut pair = small_network();
    let hosts = |pair: &mut Pair, numbers: std::ops::RangeInclusive<u32>| -> Vec<u8> {
        numbers
            .map(|number| {
                let spec = endpoint_spec(number, 1, &format!("c{number}"));
                pair.endpoint(spec).ipv4.unwrap().octets()[3]
            })
            .collect()
    };
    assert_eq!(hosts(&mut pair, 1..=3), [2, 3, 4]);
    for number in [2, 1] {
        pair.done(Command::RemoveEndpoint {
            id: endpoint_id(number),
        });
    }
    assert_eq!(hosts(&mut pair, 4..=7), [5, 6, 3, 2]);
    assert_eq!(
        pair.refused(create(endpoint_spec(8, 1, "c8"))),
        (
            RefusalKind::Exhausted,
            "network web has no free IPv4 address: 5 of 5 are used; detach endpoints, remove \
             services, or give it more with `weft network update --subnet-add CIDR web`"
                .to_owned()
        )
    );
    pair.done(Command::RemoveEndpoint { id: endpoint_id(3) });
    assert_eq!(hosts(&mut pair, 8..=8), [4]);
}

#[test]
fn an_address_that_cannot_be_given_is_refused_with_what_can() {
    let mut pair = small_network();
    pair.endpoint(at(1, "db", 4));
    let cases = [
        (
            8,
            RefusalKind::Invalid,
            "address 10.0.1.8 is outside network web; 10.0.1.2 to 10.0.1.6 are accepted",
        ),
        (
            1,
            RefusalKind::Invalid,
            "address 10.0.1.1 is reserved: it is the gateway of subnet 10.0.1.0/29; 10.0.1.2 to \
             10.0.1.6 are accepted",
        ),
        (
            0,
            RefusalKind::Invalid,
            "address 10.0.1.0 is reserved: it is the network address of subnet 10.0.1.0/29; 10.0.1.2 \
             to 10.0.1.6 are accepted",
        ),
        (
            7,
            RefusalKind::Invalid,
            "address 10.0.1.7 is reserved: it is the broadcast address of subnet 10.0.1.0/29; \
             10.0.1.2 to 10.0.1.6 are accepted",
        ),
        (
            4,
            RefusalKind::Conflict,
            "address 10.0.1.4 is held by endpoint db on node h1; choose another of 10.0.1.2 to \
             10.0.1.6, or none to have a free one assigned",
        ),
    ];
    for (host, kind, message) in cases {
        let refused = pair.refused(create(at(2, "api", host)));
        assert_eq!(refused, (kind, message.to_owned()));
    }
}

#[test]
fn the_accepted_range_leaves_out_the_gateway_wherever_it_is() {
    let web = small_network().state.view().networks[&network_id(1)].clone();
    for (gateway, range) in [
        (1, "10.0.1.2 to 10.0.1.6"),
        (3, "10.0.1.1 to 10.0.1.6 except 10.0.1.3"),
        (6, "10.0.1.1 to 10.0.1.5"),
    ] {
        let subnet = Subnet {
            gateway: IpAddr::from([10, 0, 1, gateway]),
            ..web.subnets[0].clone()
        };
        assert_eq!(accepted_range(&subnet), range);
        assert_eq!(Room::of(&web, &subnet, std::iter::empty()).total, 5);
    }
}

#[test]
fn names_are_unique_in_their_network_only() {
    let mut pair = small_network();
    pair.network(network_spec(2, "other"));
    pair.endpoint(endpoint_spec(1, 1, "db"));
    assert_eq!(
        pair.refused(create(endpoint_spec(2, 1, "db"))),
        (
            RefusalKind::Conflict,
            "endpoint name `db` is taken on network web (by endpoint db on node h1); choose another"
                .to_owned()
        )
    );
    pair.endpoint(endpoint_spec(2, 2, "db"));
    assert_eq!(
        pair.refused(create(endpoint_spec(1, 1, "api"))).1,
        "endpoint id amaaaaabaaaaaaaa is taken; draw another"
    );
}

#[test]
fn a_namespace_joins_a_network_once() {
    let mut pair = small_network();
    pair.network(network_spec(2, "other"));
    let same_namespace = |number, network, name: &str| EndpointSpec {
        attachment: endpoint_spec(1, 1, "").attachment,
        ..endpoint_spec(number, network, name)
    };
    pair.endpoint(same_namespace(1, 1, "db"));
    assert_eq!(
        pair.refused(create(same_namespace(2, 1, "api"))),
        (
            RefusalKind::Conflict,
            "this namespace is on network web already (as endpoint db on node h1); detach that \
             endpoint first"
                .to_owned()
        )
    );
    assert_eq!(
        pair.endpoint(same_namespace(3, 2, "db")).ifname,
        "eth1",
        "eth0 is the first network's"
    );

    // The same inode after a reboot, or on another node, is another namespace.
    let mut rebooted = same_namespace(4, 1, "rebooted");
    rebooted.attachment.boot_id = "another".to_owned();
    assert_eq!(pair.endpoint(rebooted).ifname, "eth0");
    let mut elsewhere = same_namespace(5, 1, "elsewhere");
    elsewhere.node = node_id(2);
    pair.endpoint(elsewhere);
}

#[test]
fn an_interface_name_is_given_once_in_a_namespace() {
    let mut pair = small_network();
    pair.network(network_spec(2, "other"));
    let named = |number, network, ifname: &str| EndpointSpec {
        attachment: endpoint_spec(1, 1, "").attachment,
        ifname: Some(ifname.to_owned()),
        ..endpoint_spec(number, network, "db")
    };
    pair.endpoint(named(1, 1, "eth1"));
    assert_eq!(
        pair.refused(create(named(2, 2, "eth1"))),
        (
            RefusalKind::Conflict,
            "interface name eth1 is taken in this namespace (by endpoint db on node h1); choose \
             another, or none to have a free one assigned"
                .to_owned()
        )
    );
    for ifname in [
        "",
        "a/b",
        "a b",
        "sixteen-bytes-ab",
        "eth%d",
        "all",
        ".",
        "lo",
    ] {
        let (kind, message) = pair.refused(create(named(2, 2, ifname)));
        assert_eq!(kind, RefusalKind::Invalid, "{message}");
    }
    pair.endpoint(named(2, 2, "fifteen-bytes-a"));
}

#[test]
fn a_mac_address_is_held_once_in_a_network() {
    let mut pair = small_network();
    let with_mac = |number, mac| EndpointSpec {
        mac: Some(MacAddr(mac)),
        ..endpoint_spec(number, 1, &format!("c{number}"))
    };
    pair.endpoint(with_mac(1, [6, 0, 0, 0, 0, 1]));
    assert_eq!(
        pair.refused(create(with_mac(2, [6, 0, 0, 0, 0, 1]))).1,
        "MAC address 06:00:00:00:00:01 is held by endpoint c1 on node h1; choose another, or none to \
         have one assigned"
    );
    assert_eq!(
        pair.refused(create(with_mac(2, [2, 0x42, 10, 0, 1, 5]))).1,
        "MAC address 02:42:0a:00:01:05 belongs to address 10.0.1.5 of network web; choose one that \
         does not begin with 02:42, or none"
    );
    assert_eq!(
        pair.refused(create(with_mac(2, [1, 0, 0, 0, 0, 1]))).0,
        RefusalKind::Invalid
    );
    // Its own, and one of an address that the network does not have.
    pair.endpoint(with_mac(2, [2, 0x42, 10, 0, 1, 3]));
    pair.endpoint(with_mac(3, [2, 0x42, 10, 9, 9, 9]));
}

#[test]
fn what_does_not_exist_is_named() {
    let mut pair = small_network();
    let cases = [
        (
            create(endpoint_spec(1, 9, "db")),
            "there is no network aieqaaaaaaaaaaaa; `weft network ls` lists all",
        ),
        (
            create(EndpointSpec {
                node: node_id(9),
                ..endpoint_spec(1, 1, "db")
            }),
            "there is no node aeeqaaaaaaaaaaaa; `weft node ls` lists all",
        ),
        (
            Command::RemoveEndpoint { id: endpoint_id(1) },
            "there is no endpoint amaaaaabaaaaaaaa; `weft endpoint ls` lists all",
        ),
    ];
    for (command, message) in cases {
        let refused = pair.refused(command);
        assert_eq!(refused, (RefusalKind::NotFound, message.to_owned()));
    }
}

#[test]
fn what_is_stored_is_bounded() {
    type Change = fn(&mut EndpointSpec);
    let cases: [(Change, &str); 6] = [
        (
            |spec| spec.aliases = vec!["a".to_owned(); 33],
            "33 aliases are too many; at most 32 are accepted",
        ),
        (
            |spec| spec.aliases = vec!["A".to_owned()],
            "alias `A` is not a DNS label; write 1 to 63 characters of a-z, 0-9 and -, the first and \
             last not -",
        ),
        (
            |spec| {
                spec.labels.insert("k".to_owned(), "v".repeat(8192));
            },
            "labels of 8193 bytes are too long; keys and values together may have 8192",
        ),
        (
            |spec| spec.attachment.path = "ns/net".to_owned(),
            "namespace path `ns/net` is not accepted; it is absolute and has at most 1024 bytes",
        ),
        (
            |spec| spec.attachment.boot_id.clear(),
            "boot id `` is not accepted; it has 1 to 64 printable characters",
        ),
        (
            |spec| {
                spec.kind = EndpointKind::Run {
                    command: vec!["x".repeat(16_385)],
                    detached: false,
                }
            },
            "command of 16385 bytes is not accepted; it may have 16384 and no zero bytes",
        ),
    ];
    for (change, message) in cases {
        let mut spec = endpoint_spec(1, 1, "db");
        change(&mut spec);
        let refused = small_network().refused(create(spec));
        assert_eq!(refused, (RefusalKind::Invalid, message.to_owned()));
    }
}

#[test]
fn a_hundred_thousand_endpoints_are_assigned_and_restored() {
    const COUNT: u32 = 100_000;
    let mut state = State::new();
    let init = Command::Init(Box::new(init_cluster()));
    state.apply(1, &proposal(1, init)).0.unwrap();
    let spec = NetworkSpec {
        subnets: vec![subnet("172.16.0.0/12")],
        ..network_spec(1, "web")
    };
    let create_network = Command::CreateNetwork(Box::new(spec));
    state.apply(2, &proposal(2, create_network)).0.unwrap();
    for number in 0..COUNT {
        let index = u64::from(number) + 3;
        let spec = endpoint_spec(number, 1, &format!("c{number}"));
        let (outcome, _) = state.apply(index, &proposal(index, create(spec)));
        outcome.unwrap();
    }
    let bytes = encode(&state).unwrap();
    let mut restored: State = decode(&bytes).unwrap();
    assert!(restored == bytes);
    let next = proposal(1 << 40, create(endpoint_spec(COUNT, 1, "next")));
    let (outcome, _) = restored.apply(1 << 40, &next);
    let Object::Endpoint(endpoint) = outcome.unwrap().object else {
        panic!("not an endpoint")
    };
    assert_eq!(
        u32::from(endpoint.ipv4.unwrap()),
        u32::from_be_bytes([172, 16, 0, 2]) + COUNT
    );
}

impl PartialEq<Vec<u8>> for State {
    /// Comparing bytes without printing megabytes when they differ.
    fn eq(&self, bytes: &Vec<u8>) -> bool {
        encode(self).unwrap() == *bytes
    }
}
