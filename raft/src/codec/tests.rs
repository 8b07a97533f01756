use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::command::{
    Command, EndpointChange, EndpointSpec, NetworkChange, NetworkSpec, NodeChange, Proposal,
    ServiceChange, ServiceSpec, SubnetSpec,
};
use crate::model::{
    Affinity, Availability, BackendState, Change, EndpointKind, EndpointMode, HealthCheck, MacAddr,
    NodeStatus, Notice, Probe, Protocol, PublishMode, PublishedPort, Role, Route, Scheduler,
    SourceMode, Vni,
};
use crate::state::State;
use crate::state::testing::{
    any_command, endpoint_id, endpoint_spec, init_cluster, network_id, network_spec, node_id,
    node_spec, port, proposal, service_id, service_spec,
};

/// Name and bytes in hexadecimal, one per line: a proposal with each command, then the changes and
/// the snapshot of [`history`].
const GOLDEN: &str = include_str!("golden.txt");

fn route() -> Route {
    Route {
        destination: "172.17.0.0/16".parse().unwrap(),
        via: [192, 168, 7, 3].into(),
    }
}

fn commands() -> Vec<Command> {
    let labels = BTreeMap::from([("tier".to_owned(), "web".to_owned())]);
    vec![
        Command::Init(Box::new(init_cluster())),
        Command::AddNode(Box::new(node_spec(2, Role::Worker))),
        Command::UpdateNode {
            id: node_id(2),
            change: Box::new(NodeChange {
                addr: Some("[2001:db8::2]:2377".parse().unwrap()),
                data_path_addr: Some("198.18.0.22".parse().unwrap()),
                underlay_mtu: Some(9000),
                host_routes: Some(vec!["2001:db8::/32".parse().unwrap()]),
                availability: Some(Availability::Drain),
                version: Some("0.2.0".to_owned()),
                labels_add: labels.clone(),
                labels_remove: vec!["old".to_owned()],
                addresses: Some(vec!["198.18.0.22".parse().unwrap()]),
                notices: Some(vec![Notice {
                    service: Some(service_id(1)),
                    message: "no".to_owned(),
                }]),
                paths: Some(BTreeMap::from([(node_id(1), 1400)])),
            }),
        },
        Command::RemoveNode { id: node_id(2) },
        Command::SetNodeStatus(vec![
            (node_id(1), NodeStatus::Ready),
            (node_id(2), NodeStatus::Down),
        ]),
        Command::RotateToken {
            role: Role::Worker,
            secret: crate::command::JoinSecret([0xcc; 16]),
        },
        Command::CreateNetwork(Box::new(NetworkSpec {
            subnets: vec![SubnetSpec {
                cidr: "192.168.7.0/24".parse().unwrap(),
                gateway: Some(std::net::IpAddr::from([192, 168, 7, 254])),
                range: Some("192.168.7.0/25".parse().unwrap()),
            }],
            ipv6: true,
            aux_addresses: [("router".to_owned(), "192.168.7.9".parse().unwrap())].into(),
            vni: Vni::new(70_000),
            routes: vec![route()],
            mtu: Some(1400),
            internal: true,
            multicast: true,
            encrypted: true,
            allow_overlap: true,
            labels: labels.clone(),
            ingress: true,
            ..network_spec(1, "web")
        })),
        Command::RemoveNetwork { id: network_id(1) },
        Command::CreateEndpoint(Box::new(EndpointSpec {
            ipv4: Some([192, 168, 7, 9].into()),
            ipv6: Some("fd00::9".parse().unwrap()),
            mac: Some(MacAddr([6, 0, 0, 0, 0, 9])),
            ifname: Some("eth7".to_owned()),
            aliases: vec!["db-1".to_owned()],
            labels: labels.clone(),
            kind: EndpointKind::Run {
                command: vec!["sleep".to_owned(), "1".to_owned()],
                detached: true,
            },
            weight: 300,
            new_service: Some(Box::new(service_spec(2, &[1], "db"))),
            ..endpoint_spec(1, 1, "db")
        })),
        Command::RemoveEndpoint { id: endpoint_id(1) },
        Command::CreateService(Box::new(ServiceSpec {
            ports: vec![PublishedPort {
                protocol: Protocol::Udp,
                mode: PublishMode::Host,
                ip: Some("2001:db8::1".parse().unwrap()),
                source: SourceMode::Snat,
                allow_from: vec!["198.18.0.0/24".parse().unwrap()],
                ..port(0, 53)
            }],
            mode: EndpointMode::DnsRr,
            scheduler: Scheduler::LeastConnections,
            affinity: Some(Affinity { timeout_s: 300 }),
            idle_timeout_s: Some(86_400),
            health: Some(HealthCheck {
                probe: Probe::Exec {
                    command: vec!["true".to_owned()],
                },
                interval_ms: 1000,
                timeout_ms: 500,
                retries: 3,
            }),
            labels: labels.clone(),
            ends_with_endpoints: true,
            ..service_spec(1, &[1], "web")
        })),
        Command::UpdateService {
            id: service_id(1),
            change: Box::new(ServiceChange {
                base: Some(7),
                ports: Some(vec![port(8080, 80)]),
                scheduler: Some(Scheduler::Maglev),
                affinity: Some(None),
                drain_timeout_ms: Some(0),
                idle_timeout_s: Some(Some(60)),
                health: Some(Some(HealthCheck {
                    probe: Probe::Http {
                        port: 80,
                        path: "/ready".to_owned(),
                    },
                    interval_ms: 100,
                    timeout_ms: 10,
                    retries: 1,
                })),
                networks_add: vec![network_id(2)],
                networks_remove: vec![network_id(1)],
                labels_add: labels.clone(),
                labels_remove: vec!["old".to_owned()],
                mode: Some(EndpointMode::DnsRr),
            }),
        },
        Command::RemoveService { id: service_id(1) },
        Command::UpdateEndpoint {
            id: endpoint_id(1),
            change: EndpointChange { weight: Some(0) },
        },
        Command::SetBackends(vec![
            (endpoint_id(1), BackendState::Ready),
            (endpoint_id(2), BackendState::Draining),
        ]),
        Command::UpdateNetwork {
            id: network_id(1),
            change: Box::new(NetworkChange {
                encrypted: Some(false),
                routes_add: vec![route()],
                routes_remove: vec!["172.18.0.0/16".parse().unwrap()],
                multicast: Some(true),
                mtu: Some(Some(1400)),
                subnets_add: vec!["192.168.8.0/24".parse().unwrap()],
                labels_add: labels,
                labels_remove: vec!["old".to_owned()],
            }),
        },
    ]
}

// Without a wildcard: a new variant has to come with a line in the golden file.
fn name(command: &Command) -> &'static str {
    match command {
        Command::Init(_) => "Init",
        Command::AddNode(_) => "AddNode",
        Command::UpdateNode { .. } => "UpdateNode",
        Command::RemoveNode { .. } => "RemoveNode",
        Command::SetNodeStatus(_) => "SetNodeStatus",
        Command::RotateToken { .. } => "RotateToken",
        Command::CreateNetwork(_) => "CreateNetwork",
        Command::RemoveNetwork { .. } => "RemoveNetwork",
        Command::CreateEndpoint(_) => "CreateEndpoint",
        Command::RemoveEndpoint { .. } => "RemoveEndpoint",
        Command::CreateService(_) => "CreateService",
        Command::UpdateService { .. } => "UpdateService",
        Command::RemoveService { .. } => "RemoveService",
        Command::UpdateEndpoint { .. } => "UpdateEndpoint",
        Command::SetBackends(_) => "SetBackends",
        Command::UpdateNetwork { .. } => "UpdateNetwork",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// A state that has held and freed something, and every kind of change that led there.
fn history() -> (State, Vec<Change>) {
    let log = [
        Command::Init(Box::new(init_cluster())),
        Command::AddNode(Box::new(node_spec(2, Role::Worker))),
        Command::CreateNetwork(Box::new(network_spec(1, "web"))),
        Command::CreateNetwork(Box::new(network_spec(2, "gone"))),
        Command::RemoveNetwork { id: network_id(2) },
        Command::UpdateNetwork {
            id: network_id(1),
            change: Box::new(NetworkChange {
                encrypted: Some(true),
                ..NetworkChange::default()
            }),
        },
        Command::CreateService(Box::new(ServiceSpec {
            ports: vec![port(0, 80)],
            ..service_spec(1, &[1], "web")
        })),
        Command::CreateService(Box::new(service_spec(2, &[1], "gone"))),
        Command::CreateEndpoint(Box::new(EndpointSpec {
            service: Some(service_id(1)),
            ..endpoint_spec(1, 1, "db")
        })),
        Command::SetBackends(vec![(endpoint_id(1), BackendState::Ready)]),
        Command::RemoveService { id: service_id(2) },
        Command::CreateEndpoint(Box::new(endpoint_spec(2, 1, "gone"))),
        Command::RemoveEndpoint { id: endpoint_id(2) },
        Command::RemoveNode { id: node_id(2) },
        Command::RemoveNode { id: node_id(2) },
    ];
    let mut state = State::new();
    let mut all = Vec::new();
    for (index, command) in (1..).zip(log) {
        let (_, changes) = state.apply(index, &proposal(index, command));
        all.extend(changes);
    }
    (state, all)
}

fn golden() -> String {
    let (state, changes) = history();
    let mut lines: Vec<(&str, Vec<u8>)> = commands()
        .into_iter()
        .map(|command| (name(&command), encode(&proposal(7, command)).unwrap()))
        .collect();
    lines.push(("Changes", encode(&changes).unwrap()));
    lines.push(("Snapshot", encode(&state).unwrap()));
    lines
        .into_iter()
        .map(|(name, bytes)| format!("{name} {}\n", hex(&bytes)))
        .collect()
}

#[test]
fn everything_stored_or_sent_has_the_bytes_it_always_had() {
    let written = golden();
    assert_eq!(
        written, GOLDEN,
        "old logs and other agents would not be understood; new bytes:\n{written}"
    );
}

#[test]
fn old_bytes_are_read_as_what_they_were() {
    let bytes: Vec<Vec<u8>> = GOLDEN
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(_, bytes)| unhex(bytes))
        .collect();
    let [proposals @ .., changes, snapshot] = bytes.as_slice() else {
        panic!("lines are missing")
    };
    let read: Vec<Proposal> = (proposals.iter())
        .map(|bytes| decode(bytes).unwrap())
        .collect();
    let expected: Vec<_> = (commands().into_iter())
        .map(|command| proposal(7, command))
        .collect();
    assert_eq!(read, expected);

    let (state, all) = history();
    assert_eq!(decode::<Vec<Change>>(changes).unwrap(), all);
    let restored: State = decode(snapshot).unwrap();
    assert_eq!(restored.view(), state.view());
    assert_eq!(restored.secrets(), state.secrets());
}

#[test]
fn a_message_cut_anywhere_is_refused_as_truncated() {
    for command in commands() {
        let bytes = encode(&proposal(7, command)).unwrap();
        for len in 0..bytes.len() {
            let cut = decode::<Proposal>(&bytes[..len]);
            assert!(
                matches!(cut, Err(CodecError::Truncated { len: l }) if l == len),
                "{len} of {}: {cut:?}",
                bytes.len()
            );
        }
    }
}

#[test]
fn bytes_after_the_value_are_refused() {
    let mut bytes = encode(&7u32).unwrap();
    bytes.extend([0, 0]);
    assert!(matches!(
        decode::<u32>(&bytes),
        Err(CodecError::Trailing { extra: 2 })
    ));
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut bytes = encode(&7u32).unwrap();
    bytes[..2].copy_from_slice(&1u16.to_be_bytes());
    let error = decode::<u32>(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "message of format version 1 refused: this agent knows version 5"
    );
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    // Zeroed pages that nobody looks at take no memory.
    let bytes = vec![0; MAX_LEN + 1];
    assert!(matches!(
        decode::<Vec<u8>>(&bytes),
        Err(CodecError::TooLarge { len, limit: MAX_LEN }) if len == MAX_LEN + 1
    ));
}

#[test]
fn what_is_too_long_is_not_written() {
    let text = "x".repeat(100);
    // Two bytes of version, one of length.
    assert_eq!(encode_within(&text, 103).unwrap().len(), 103);
    assert!(matches!(
        encode_within(&text, 102),
        Err(CodecError::TooLarge {
            len: 103,
            limit: 102
        })
    ));
}

#[test]
fn a_length_that_the_message_cannot_hold_allocates_nothing() {
    // A string of 2^62 bytes, and one of 200 MiB, in messages of some bytes.
    for len in [1u64 << 62, 200 << 20] {
        let mut bytes = WIRE_VERSION.to_be_bytes().to_vec();
        bytes.push(253);
        bytes.extend(len.to_le_bytes());
        assert!(matches!(
            decode::<String>(&bytes),
            Err(CodecError::Malformed(_))
        ));
    }
}

proptest! {
    #[test]
    fn random_bytes_are_refused_or_read_but_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        versioned: bool,
    ) {
        if versioned && bytes.len() >= 2 {
            bytes[..2].copy_from_slice(&WIRE_VERSION.to_be_bytes());
        }
        let _ = decode::<Proposal>(&bytes);
        let _ = decode::<State>(&bytes);
    }

    #[test]
    fn what_is_written_is_read_back(request: u64, command in any_command()) {
        let written = proposal(request, command);
        prop_assert_eq!(decode::<Proposal>(&encode(&written).unwrap()).unwrap(), written);
    }

    #[test]
    fn a_message_with_one_damaged_byte_never_panics(
        which: prop::sample::Index,
        at: prop::sample::Index,
        value: u8,
    ) {
        let mut commands = commands();
        let command = commands.swap_remove(which.index(commands.len()));
        let mut bytes = encode(&proposal(7, command)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(read) = decode::<Proposal>(&bytes) {
            // It may be another proposal; then the state machine has to cope with it.
            let mut state = State::new();
            let init = proposal(1, Command::Init(Box::new(init_cluster())));
            state.apply(1, &init).0.unwrap();
            let _ = state.apply(2, &read);
        }
    }
}
