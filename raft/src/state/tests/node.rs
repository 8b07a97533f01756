use super::*;
use crate::command::{NodeChange, NodeSpec, RefusalKind};
use crate::model::{Availability, Labels, NodeStatus, Role};

fn add(number: u8, role: Role) -> Command {
    Command::AddNode(Box::new(node_spec(number, role)))
}

fn update(number: u8, change: NodeChange) -> Command {
    Command::UpdateNode {
        id: node_id(number),
        change: Box::new(change),
    }
}

#[test]
fn managers_are_found_by_the_index_of_the_entry_that_added_them() {
    let mut pair = Pair::cluster();
    assert_eq!(pair.state.raft_node(1).unwrap().id, node_id(1));
    pair.done(add(3, Role::Manager));
    let raft_id = pair.node(3).raft_id;
    assert_eq!(raft_id, pair.state.view().revision);
    assert_eq!(pair.state.raft_node(raft_id).unwrap().id, node_id(3));
    assert_eq!(pair.node(2).raft_id, 0);
    assert!(pair.state.raft_node(0).is_none());

    pair.done(Command::RemoveNode { id: node_id(3) });
    assert!(pair.state.raft_node(raft_id).is_none());
}

#[test]
fn a_taken_node_name_gets_a_number() {
    let mut pair = Pair::cluster();
    for (number, name) in [(3, "h2-2"), (4, "H2-3")] {
        let mut spec = node_spec(number, Role::Worker);
        spec.name = if number == 3 { "h2" } else { "H2" }.to_owned();
        pair.done(Command::AddNode(Box::new(spec)));
        assert_eq!(pair.node(number).name, name);
    }
}

#[test]
fn a_joiner_that_asks_again_keeps_its_row_and_takes_its_new_addresses() {
    let mut pair = Pair::cluster();
    pair.done(add(3, Role::Manager));
    pair.done(update(
        3,
        NodeChange {
            availability: Some(Availability::Drain),
            labels_add: Labels::from([("zone".to_owned(), "a".to_owned())]),
            ..NodeChange::default()
        },
    ));
    let first = pair.node(3).clone();
    let mut spec = node_spec(3, Role::Manager);
    spec.addr = "198.18.0.33:2377".parse().unwrap();
    spec.name = "other".to_owned();
    pair.done(Command::AddNode(Box::new(spec.clone())));
    let mut expected = first;
    expected.addr = spec.addr;
    expected.revision = pair.state.view().revision;
    assert_eq!(*pair.node(3), expected);

    spec.role = Role::Worker;
    assert_eq!(
        pair.refused(Command::AddNode(Box::new(spec))),
        (
            RefusalKind::Conflict,
            "node h3 is a member as manager already; remove it before it joins as worker"
                .to_owned()
        )
    );
}

#[test]
fn facts_that_make_no_sense_are_refused() {
    type Change = fn(&mut NodeSpec);
    let cases: [(Change, &str); 8] = [
        (
            |spec| spec.name = "a b".to_owned(),
            "node name `a b` is not a host name; use 1 to 64 characters of a-z, A-Z, 0-9, dot, - and \
             _, the first a letter or digit",
        ),
        (
            |spec| spec.addr.set_port(0),
            "control address 198.18.0.3:0 has no port; peers need one to dial, such as 2377",
        ),
        (
            |spec| spec.addr.set_ip([0; 4].into()),
            "control address 0.0.0.0 does not name one host; use an address that the other nodes \
             reach this host by",
        ),
        (
            |spec| spec.data_path_addr = [224, 0, 0, 1].into(),
            "data path address 224.0.0.1 does not name one host; use an address that the other nodes \
             reach this host by",
        ),
        (
            |spec| spec.underlay_mtu = 500,
            "MTU of the underlay 500 is out of range; 576 to 65536 bytes are accepted",
        ),
        (
            |spec| spec.version = "new\nline".to_owned(),
            "agent version `new\\nline` is not accepted; it has at most 64 printable characters",
        ),
        (
            |spec| spec.host_routes = vec!["10.0.0.0/8".parse().unwrap(); 1025],
            "1025 host routes are too many; at most 1024 are accepted",
        ),
        (
            |spec| spec.name = "x".repeat(65),
            "node name `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx` is not a \
             host name; use 1 to 64 characters of a-z, A-Z, 0-9, dot, - and _, the first a letter or \
             digit",
        ),
    ];
    for (change, message) in cases {
        let mut spec = node_spec(3, Role::Worker);
        change(&mut spec);
        let refused = Pair::cluster().refused(Command::AddNode(Box::new(spec)));
        assert_eq!(refused, (RefusalKind::Invalid, message.to_owned()));
    }
}

#[test]
fn an_update_changes_what_it_names_and_nothing_else() {
    let mut pair = Pair::cluster();
    let labels = |pairs: &[(&str, &str)]| -> Labels {
        let owned = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        owned.collect()
    };
    let mut expected = pair.node(2).clone();
    pair.done(update(
        2,
        NodeChange {
            data_path_addr: Some([10, 9, 9, 9].into()),
            labels_add: labels(&[("a", "1"), ("b", "2")]),
            ..NodeChange::default()
        },
    ));
    pair.done(update(
        2,
        NodeChange {
            labels_add: labels(&[("b", "3")]),
            labels_remove: vec!["a".to_owned(), "never".to_owned()],
            ..NodeChange::default()
        },
    ));
    expected.data_path_addr = [10, 9, 9, 9].into();
    expected.labels = labels(&[("b", "3")]);
    expected.revision = pair.state.view().revision;
    assert_eq!(*pair.node(2), expected);

    pair.done(update(2, NodeChange::default()));
    assert_eq!(*pair.node(2), expected, "no change, no new revision");

    assert_eq!(
        pair.refused(update(9, NodeChange::default())),
        (
            RefusalKind::NotFound,
            "there is no node aeeqaaaaaaaaaaaa; `weft node ls` lists all".to_owned()
        )
    );
}

#[test]
fn a_node_leaves_with_its_endpoints_and_frees_what_they_held() {
    let mut pair = Pair::cluster();
    pair.network(network_spec(1, "web"));
    for number in 1..=4 {
        let mut spec = endpoint_spec(number, 1, &format!("c{number}"));
        spec.node = node_id(if number <= 2 { 2 } else { 1 });
        pair.endpoint(spec);
    }
    pair.done(Command::RemoveNode { id: node_id(2) });
    let left: Vec<_> = pair.state.view().endpoints.keys().copied().collect();
    assert_eq!(left, [endpoint_id(3), endpoint_id(4)]);
    let again = pair.endpoint(EndpointSpec {
        ipv4: Some([10, 0, 1, 2].into()),
        ..endpoint_spec(5, 1, "c1")
    });
    assert_eq!(again.ipv4.unwrap().octets(), [10, 0, 1, 2]);
}

#[test]
fn the_last_manager_stays() {
    let mut pair = Pair::cluster();
    let last = pair.refused(Command::RemoveNode { id: node_id(1) });
    assert_eq!(
        last,
        (
            RefusalKind::InUse,
            "node h1 is the last manager and holds the cluster's state; join another manager first"
                .to_owned()
        )
    );
    pair.done(add(3, Role::Manager));
    pair.done(Command::RemoveNode { id: node_id(1) });
}

#[test]
fn a_status_changes_only_nodes_that_it_is_news_of() {
    let mut pair = Pair::cluster();
    let revision = pair.node(1).revision;
    pair.done(Command::SetNodeStatus(vec![
        (node_id(1), NodeStatus::Ready),
        (node_id(2), NodeStatus::Ready),
        (node_id(2), NodeStatus::Down),
        (node_id(9), NodeStatus::Down),
    ]));
    assert_eq!(pair.node(1).revision, revision);
    assert_eq!(pair.node(2).status, NodeStatus::Down);
    assert_eq!(pair.node(2).revision, pair.state.view().revision);
}

#[test]
fn managers_are_limited() {
    let mut pair = Pair::cluster();
    for number in 3..3 + limits::MANAGERS as u8 - 1 {
        pair.done(add(number, Role::Manager));
    }
    assert_eq!(
        pair.refused(add(99, Role::Manager)),
        (
            RefusalKind::Exhausted,
            "the cluster has 9 of 9 managers; remove one first, or join as a worker".to_owned()
        )
    );
    pair.done(add(99, Role::Worker));
}

#[test]
fn a_tunnel_end_is_one_nodes_unless_that_is_down() {
    let mut pair = Pair::cluster();
    let mut spec = node_spec(5, Role::Worker);
    spec.data_path_addr = node_spec(2, Role::Worker).data_path_addr;
    let join = || Command::AddNode(Box::new(spec.clone()));
    let (kind, message) = pair.refused(join());
    assert_eq!(kind, RefusalKind::InUse);
    assert!(message.contains("--data-path-addr"), "{message}");
    pair.done(Command::SetNodeStatus(vec![(node_id(2), NodeStatus::Down)]));
    pair.done(join());
}
