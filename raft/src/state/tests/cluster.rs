use std::net::IpAddr;

use super::*;
use crate::model::{Role, Vni};

fn with_pools(pools: &[&str], mask: u8) -> Command {
    let mut init = init_cluster();
    init.cluster.pools = pools.iter().map(|pool| pool.parse().unwrap()).collect();
    init.cluster.pool_mask_length = mask;
    Command::Init(Box::new(init))
}

#[test]
fn a_fresh_cluster_has_the_numbers_that_users_know() {
    let mut pair = Pair::cluster();
    let ingress = pair.state.view().networks[&network_id(0)].clone();
    assert_eq!(ingress.name, "ingress");
    assert!(ingress.ingress);
    assert_eq!(ingress.vni, Some(Vni::INGRESS));
    assert_eq!(ingress.subnets[0].cidr, net("10.0.0.0/24"));

    let web = pair.network(network_spec(1, "web"));
    assert_eq!(web.vni.map(Vni::get), Some(4097));
    assert_eq!(web.subnets[0].cidr, net("10.0.1.0/24"));
    assert_eq!(web.subnets[0].gateway, IpAddr::from([10, 0, 1, 1]));

    let first = pair.endpoint(endpoint_spec(1, 1, "db"));
    assert_eq!(first.ipv4.unwrap().octets(), [10, 0, 1, 2]);
    assert_eq!(first.mac.to_string(), "02:42:0a:00:01:02");
    assert_eq!(first.ifname, "eth0");
}

#[test]
fn a_cluster_takes_subnets_from_the_pools_it_was_given() {
    let mut pair = Pair::new();
    pair.done(with_pools(&["20.20.0.0/16"], 24));
    let ingress = pair.state.view().networks[&network_id(0)].clone();
    assert_eq!(ingress.subnets[0].cidr, net("20.20.0.0/24"));
    let web = pair.network(network_spec(1, "web"));
    assert_eq!(web.subnets[0].cidr, net("20.20.1.0/24"));
}

#[test]
fn pools_that_cannot_work_are_refused() {
    let cases: [(&[&str], u8, &str); 8] = [
        (
            &[],
            24,
            "a cluster needs an address pool, such as 10.0.0.0/8",
        ),
        (
            &["10.0.0.0/8"],
            30,
            "address pool mask length 30 is out of range; 8 to 29 are accepted",
        ),
        (
            &["10.0.0.0/8"],
            7,
            "address pool mask length 7 is out of range; 8 to 29 are accepted",
        ),
        (
            &["20.20.0.0/16"],
            15,
            "address pool 20.20.0.0/16 is smaller than the /15 subnets to be taken from it; give a \
             mask length of 16 to 29",
        ),
        (
            &["10.0.0.1/8"],
            24,
            "address pool 10.0.0.1/8 has host bits set; write 10.0.0.0/8",
        ),
        (
            &["127.0.0.0/16"],
            24,
            "address pool 127.0.0.0/16 overlaps 127.0.0.0/8, which is reserved (loopback); choose a \
             private range, such as 10.0.0.0/8",
        ),
        (
            &["10.0.0.0/8", "10.1.0.0/16"],
            24,
            "address pool 10.1.0.0/16 overlaps address pool 10.0.0.0/8; give each address once",
        ),
        (
            &["198.18.0.0/24"],
            24,
            "no free /24 is left in the address pools (198.18.0.0/24): they are covered by networks \
             and routes (such as 198.18.0.0/24 of h1); remove a network or give --subnet outside the \
             pools",
        ),
    ];
    for (pools, mask, message) in cases {
        assert_eq!(Pair::new().refused(with_pools(pools, mask)).1, message);
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    let refused = |change: fn(&mut crate::command::InitCluster)| {
        let mut init = init_cluster();
        change(&mut init);
        Pair::new().refused(Command::Init(Box::new(init))).1
    };
    for port in [1023, 49_152] {
        let mut init = init_cluster();
        init.cluster.data_path_port = port;
        assert_eq!(
            Pair::new().refused(Command::Init(Box::new(init))).1,
            format!("data path port {port} is out of range; 1024 to 49151 are accepted")
        );
    }
    assert_eq!(
        refused(|init| init.cluster.data_path_port = 4500),
        "data path port 4500 is refused: it is the port of ESP in UDP; choose another, such as 4789"
    );
    assert_eq!(
        refused(|init| init.cluster.data_path_port = 4499),
        "data path port 4499 is refused: the port after it, which encrypted networks use, is the \
         port of ESP in UDP; choose another, such as 4789"
    );
    for port in [2377, 2376] {
        let mut init = init_cluster();
        init.cluster.data_path_port = port;
        let (_, said) = Pair::new().refused(Command::Init(Box::new(init)));
        assert!(said.contains("2377 is refused: ports "), "{said}");
    }
    assert_eq!(
        refused(|init| init.cluster.cert_expiry_s = 3599),
        "certificate expiry 3599 is out of range; 3600 to 630720000 seconds are accepted"
    );
    assert_eq!(
        refused(|init| init.node.role = Role::Worker),
        "the first node of a cluster is a manager"
    );
    assert_eq!(
        refused(|init| init.secrets.worker_token = init.secrets.manager_token),
        "the join secrets of managers and workers are equal; draw another"
    );
    assert_eq!(
        refused(|init| init.secrets.ca_key.clear()),
        "length of the CA key 0 is out of range; 1 to 16384 bytes are accepted"
    );
}

#[test]
fn a_cluster_is_made_once_and_before_everything_else() {
    let mut pair = Pair::new();
    assert_eq!(
        pair.refused(Command::RemoveNode { id: node_id(1) }),
        (
            RefusalKind::Conflict,
            "there is no cluster yet; make one with `weft init`".to_owned()
        )
    );
    pair.done(Command::Init(Box::new(init_cluster())));
    let again = pair.refused(Command::Init(Box::new(init_cluster())));
    assert_eq!(again.0, RefusalKind::Conflict);
    assert_eq!(
        again.1,
        "cluster beeqscijbeeqscij exists already; to make another, leave it first"
    );
}

#[test]
fn a_rotated_token_replaces_one_roles_secret_and_no_row() {
    let mut pair = Pair::cluster();
    assert_eq!(pair.state.secrets().unwrap().worker_token, [0xbb; 16]);
    let rotate = |secret| Command::RotateToken {
        role: Role::Worker,
        secret: crate::command::JoinSecret(secret),
    };
    pair.done(rotate([1; 16]));
    let secrets = pair.state.secrets().unwrap();
    assert_eq!(secrets.worker_token, [1; 16]);
    assert_eq!(secrets.manager_token, [0xaa; 16]);

    pair.refused(rotate([0xaa; 16]));
    assert_eq!(pair.state.secrets().unwrap().worker_token, [1; 16]);
}

#[test]
fn an_entry_that_is_reflected_already_is_refused() {
    let mut pair = Pair::cluster();
    let revision = pair.state.view().revision;
    let before = encode(&pair.state).unwrap();
    let late = proposal(99, Command::CreateNetwork(Box::new(network_spec(1, "web"))));
    let (outcome, changes) = pair.state.apply(revision, &late);
    assert!(outcome.is_err());
    assert_eq!(changes, []);
    assert_eq!(encode(&pair.state).unwrap(), before);
}

#[test]
fn an_entry_without_a_proposal_moves_only_the_revision() {
    let mut pair = Pair::cluster();
    let before = pair.state.view().clone();
    pair.state.advance(before.revision + 3);
    let after = pair.state.view();
    assert_eq!(after.revision, before.revision + 3);
    assert_eq!(after.nodes, before.nodes);
}
