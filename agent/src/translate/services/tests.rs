use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_raft::model::*;

use super::testing::{HERE, Known, client, dirty, member, place, service, vip};
use super::*;
use crate::translate::tests::node;

#[test]
fn a_container_balances_the_services_of_its_networks() {
    let known = Known::of(
        &[service(1, &[1]), service(2, &[1, 2]), service(3, &[2])],
        &[client(2, 1, 1), member(3, 1, 2, 1), member(4, 1, 1, 2)],
    );
    let spec = known.spec(2);
    let keys: Vec<ServiceKey> = spec.keys().copied().collect();
    assert_eq!(keys, [key(vip(1, 1)), key(vip(1, 2))]);
    assert_eq!(known.backends(2, vip(1, 1)), [(3, 1)]);
    // Itself among its backends.
    assert_eq!(known.backends(4, vip(1, 2)), [(4, 1)]);
    // A container on two networks has one table.
    let mut known = known;
    let mut second = client(20, 2, 1);
    second.attachment.inode = 2;
    second.attachment.path = "/run/netns/two".to_owned();
    assert_eq!(known.put(second), dirty(&[], &[(1, 2)]));
    assert_eq!(known.spec(2).len(), 4);
    let container = container(&known.view, &known.index, HERE, place(2)).unwrap();
    assert_eq!((container.endpoints.len(), container.netns.len()), (2, 2));
}

#[test]
fn a_service_that_is_found_by_dns_has_no_address() {
    let mut dns = service(1, &[1]);
    dns.mode = EndpointMode::DnsRr;
    dns.networks[0].vip = None;
    let known = Known::of(&[dns], &[member(2, 1, 1, 1)]);
    let container = container(&known.view, &known.index, HERE, place(2)).unwrap();
    assert!(!has_services(&known.index, &container));
    assert!(known.spec(2).is_empty());
}

#[test]
fn what_is_ready_on_a_ready_node_takes_traffic_by_its_weight() {
    let backend = |number, state, weight| Endpoint {
        backend: state,
        weight,
        ..member(number, 1, 2, 1)
    };
    let mut known = Known::of(
        &[service(1, &[1])],
        &[
            client(2, 1, 1),
            backend(3, BackendState::Ready, 5),
            backend(4, BackendState::Starting, 5),
            backend(5, BackendState::Unhealthy, 5),
            backend(6, BackendState::Draining, 5),
            backend(7, BackendState::Ready, 0),
            member(8, 1, 3, 1),
        ],
    );
    let all = [(3, 5), (5, 0), (6, 0), (7, 0), (8, 1)];
    assert_eq!(known.backends(2, vip(1, 1)), all);
    let drained = Node {
        availability: Availability::Drain,
        ..node(3, 1500)
    };
    let touched = known.apply(&[Change::Node(Arc::new(drained.clone()))]);
    assert_eq!(touched, dirty(&[vip(1, 1)], &[]));
    assert_eq!(known.backends(2, vip(1, 1)).last(), Some(&(8, 0)));
    let down = Node {
        status: NodeStatus::Down,
        ..drained
    };
    known.apply(&[Change::Node(Arc::new(down))]);
    assert_eq!(known.backends(2, vip(1, 1)), all[..4]);
    known.apply(&[Change::NodeGone(NodeId::new([2; 10]))]);
    // Nothing is left: the address stays, and refuses.
    assert_eq!(known.backends(2, vip(1, 1)), []);
}

#[test]
fn schedulers_are_passed_on() {
    let with = |scheduler| {
        let mut service = service(1, &[1]);
        service.scheduler = scheduler;
        let spec = Known::of(&[service], &[client(2, 1, 1)]).spec(2);
        spec[&key(vip(1, 1))].scheduler
    };
    let cases = [
        (Scheduler::RoundRobin, lb::Scheduler::RoundRobin),
        (
            Scheduler::WeightedRoundRobin,
            lb::Scheduler::WeightedRoundRobin,
        ),
        (Scheduler::LeastConnections, lb::Scheduler::LeastConnections),
        (Scheduler::SourceHash, lb::Scheduler::SourceHash),
        (Scheduler::Maglev, lb::Scheduler::Maglev(MaglevSize::Medium)),
    ];
    for (wanted, made) in cases {
        assert_eq!(with(wanted), made);
    }
    assert_eq!(maglev_size(203), MaglevSize::Medium);
    assert_eq!(maglev_size(204), MaglevSize::Large);
}

#[test]
fn affinity_is_passed_on_and_its_longest_is_no_more_than_a_table_takes() {
    let longest = *weft_raft::state::limits::AFFINITY_TIMEOUTS_S.end();
    for timeout_s in [300, longest] {
        let mut service = service(1, &[1]);
        service.affinity = Some(Affinity { timeout_s });
        let spec = Known::of(&[service], &[client(2, 1, 1)]).spec(2);
        let (key, service) = spec.first_key_value().unwrap();
        assert_eq!(
            service.affinity,
            Some(Duration::from_secs(timeout_s.into()))
        );
        assert_eq!(service.check(key), Ok(()));
    }
}

#[test]
fn a_change_touches_the_addresses_and_containers_that_it_is_about() {
    let mut known = Known::of(
        &[service(1, &[1, 2]), service(2, &[1])],
        &[client(2, 1, 1), member(3, 1, 2, 1)],
    );
    let mut state = member(3, 1, 2, 1);
    state.backend = BackendState::Draining;
    assert_eq!(known.put(state.clone()), dirty(&[vip(1, 1)], &[]));
    state.labels = Labels::from([("a".to_owned(), "b".to_owned())]);
    assert!(known.put(state).is_clean());
    let gone = Change::EndpointGone(EndpointId::new([3; 10]));
    let touched = ServicesDirty {
        departed: [(vip(1, 1), Ipv4Addr::new(10, 0, 1, 3))].into(),
        ..dirty(&[vip(1, 1)], &[(2, 3)])
    };
    assert_eq!(known.apply(&[gone]), touched);
    let moved = Change::Service(Arc::new(service(1, &[2])));
    assert_eq!(known.apply(&[moved]), dirty(&[vip(1, 1), vip(2, 1)], &[]));
    assert_eq!(known.spec(2).len(), 1);
    let gone = Change::ServiceGone(ServiceId::new([2; 10]));
    assert_eq!(known.apply(&[gone]), dirty(&[vip(1, 2)], &[]));
    let container = container(&known.view, &known.index, HERE, place(2)).unwrap();
    assert!(!has_services(&known.index, &container));
    // Its address may be another's at once.
    let mut heir = service(3, &[1]);
    heir.networks[0].vip = Some(vip(1, 2).1);
    known.apply(&[Change::Service(Arc::new(heir))]);
    assert!(known.spec(2).contains_key(&key(vip(1, 2))));
}

#[test]
fn a_backend_departs_when_its_service_leads_to_it_no_more() {
    let mut known = Known::of(
        &[service(1, &[1]), service(2, &[1])],
        &[client(2, 1, 1), member(3, 1, 2, 1)],
    );
    let address = Ipv4Addr::new(10, 0, 1, 3);
    let departed = known.put(member(3, 1, 2, 2)).departed;
    assert_eq!(departed, [(vip(1, 1), address)].into());
    // A node that is down may come back with everything.
    let down = Node {
        status: NodeStatus::Down,
        ..node(2, 1500)
    };
    let touched = known.apply(&[Change::Node(Arc::new(down))]);
    assert!(touched.departed.is_empty());
    assert_eq!(known.backends(2, vip(1, 2)), []);
    let found = container(&known.view, &known.index, HERE, place(2)).unwrap();
    let members = container_members(&known.view, &known.index, &found);
    assert_eq!(members[&key(vip(1, 2))], [IpAddr::V4(address)].into());
    assert!(members[&key(vip(1, 1))].is_empty());
    // Who joins no more has departed, too.
    let departed = known.put(client(3, 1, 2)).departed;
    assert_eq!(departed, [(vip(1, 2), address)].into());
}

#[test]
fn an_index_kept_in_step_is_the_index_of_the_whole() {
    let mut known = Known::of(
        &[service(1, &[1, 2]), service(2, &[1])],
        &[client(2, 1, 1), member(3, 1, 2, 1), member(4, 2, 1, 1)],
    );
    known.put(member(3, 1, 3, 2));
    known.apply(&[Change::EndpointGone(EndpointId::new([4; 10]))]);
    known.apply(&[Change::ServiceGone(ServiceId::new([1; 10]))]);
    assert_eq!(
        format!("{:?}", known.index),
        format!("{:?}", ServiceIndex::of(&known.view))
    );
}

#[test]
fn a_container_of_an_earlier_boot_is_none() {
    let mut old = client(2, 1, 1);
    old.attachment.boot_id = "an earlier one".to_owned();
    let known = Known::of(&[service(1, &[1])], &[old]);
    assert_eq!(container(&known.view, &known.index, HERE, place(2)), None);
    assert_eq!(container(&known.view, &known.index, HERE, place(9)), None);
}

#[test]
fn where_networks_overlap_the_first_has_the_address() {
    let mut other = service(2, &[2]);
    other.networks[0].vip = service(1, &[1]).networks[0].vip;
    let mut second = client(5, 2, 1);
    second.attachment.inode = 2;
    let known = Known::of(
        &[service(1, &[1]), other],
        &[client(2, 1, 1), second, member(3, 1, 2, 1)],
    );
    assert_eq!(known.backends(2, vip(1, 1)), [(3, 1)]);
    let found = container(&known.view, &known.index, HERE, place(2)).unwrap();
    let of_second = (NetworkId::new([2; 10]), vip(1, 1).1);
    let one = container_service(&known.view, &known.index, &found, of_second);
    assert_eq!(one.as_ref(), known.spec(2).get(&key(vip(1, 1))));
}

#[test]
fn members_without_a_health_check_are_ready_once_they_are_there() {
    let starting = |number, on, of| Endpoint {
        backend: BackendState::Starting,
        ..member(number, 1, on, of)
    };
    let mut checked = service(2, &[1]);
    checked.health = Some(HealthCheck {
        probe: Probe::Tcp { port: 80 },
        interval_ms: 1000,
        timeout_ms: 1000,
        retries: 3,
    });
    let mut old = starting(6, 1, 1);
    old.attachment.boot_id = String::new();
    let mut known = Known::of(
        &[service(1, &[1]), checked],
        &[
            starting(2, 1, 1),
            starting(3, 1, 2),
            starting(4, 2, 1),
            member(5, 1, 1, 1),
            old,
        ],
    );
    let ready = |known: &Known| -> Vec<EndpointId> {
        ready_once_there(&known.view, &known.index, HERE)
            .map(|row| row.id)
            .collect()
    };
    assert_eq!(ready(&known), [EndpointId::new([2; 10])]);
    known.put(member(2, 1, 1, 1));
    assert_eq!(ready(&known), []);
    // What failed a check that is not made any more.
    known.put(Endpoint {
        backend: BackendState::Unhealthy,
        ..member(3, 1, 1, 2)
    });
    assert_eq!(ready(&known), []);
    known.apply(&[Change::Service(Arc::new(service(2, &[1])))]);
    assert_eq!(ready(&known), [EndpointId::new([3; 10])]);
}
