//! Where real packets go.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_lb::spec::{
    Address, Changes, Family, MaglevSize, Protocol, Scheduler, Service, ServiceKey, Spec,
};

use super::lab::{
    BACKENDS4, CLIENT4, Connection, Lab, VIP4, VIP6, address_of, all_of, ask, ask_udp, backend,
    counter, service, vip,
};
use super::ns::{Ns, join, route};

crate::cases!(
    connections_are_spread_and_backends_see_the_client,
    datagrams_are_spread_and_backends_see_the_client,
    a_heavier_backend_gets_more,
    a_drained_backend_keeps_its_connections_and_gets_no_new_one,
    a_service_without_backends_refuses_at_once,
    a_client_keeps_its_backend_by_source_hash,
    maglev_sends_a_flow_the_same_way_on_every_node_and_moves_few,
    a_published_port_answers_on_every_address_from_outside_and_inside,
    no_connection_fails_while_backends_come_and_go,
);

const PORT: u16 = 8080;

fn spread(protocol: Protocol) {
    let lab = Lab::serving(protocol, PORT);
    let mut balancer = lab.balancer();
    let services = [vip(VIP4, protocol, 80), vip(VIP6, protocol, 80)];
    let spec = services
        .into_iter()
        .flat_map(|key| all_of(key, Scheduler::Random, PORT))
        .collect();
    balancer.reconcile(&spec).unwrap();
    for service in services {
        let answers = lab.ask(&service, 300);
        assert_eq!(answers.len(), 3, "{answers:?}");
        // Six standard deviations from a third.
        assert!(
            answers.values().all(|n| (51..=149).contains(n)),
            "{answers:?}"
        );
    }
}

fn connections_are_spread_and_backends_see_the_client() {
    spread(Protocol::Tcp);
}

fn datagrams_are_spread_and_backends_see_the_client() {
    spread(Protocol::Udp);
}

fn a_heavier_backend_gets_more() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let key = vip(VIP4, Protocol::Tcp, 80);
    let weights = [(BACKENDS4[0], 1), (BACKENDS4[1], 3)];
    let spec = [(key, service(Scheduler::Random, PORT, weights))].into();
    lab.balancer().reconcile(&spec).unwrap();
    let answers = lab.ask(&key, 400);
    // Six standard deviations from a quarter.
    let light = answers[&backend(BACKENDS4[0], PORT).to_string()];
    assert!((48..=152).contains(&light), "{answers:?}");
    assert_eq!(answers.len(), 2);
}

fn a_drained_backend_keeps_its_connections_and_gets_no_new_one() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let mut balancer = lab.balancer();
    let key = vip(VIP4, Protocol::Tcp, 80);
    let mut spec = all_of(key, Scheduler::Random, PORT);
    balancer.reconcile(&spec).unwrap();
    let mut connection = lab.connect(&key);
    let drained = connection.backend.clone();
    let backends = &mut spec.get_mut(&key).unwrap().backends;
    for (backend, weight) in backends.iter_mut() {
        if backend.to_string() == drained {
            *weight = 0;
        }
    }
    balancer.reconcile(&spec).unwrap();
    let answers = lab.ask(&key, 100);
    assert_eq!((answers.len(), answers.get(&drained)), (2, None));
    connection.echo("still here");
    // Even when nothing rewrites any more but what is there for that.
    balancer.reconcile(&Spec::new()).unwrap();
    for _ in 0..20 {
        connection.echo("and here");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_service_without_backends_refuses_at_once() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let keys = [vip(VIP4, Protocol::Tcp, 80), vip(VIP6, Protocol::Tcp, 80)];
    let nothing = service(Scheduler::Random, PORT, []);
    let spec = keys.map(|key| (key, nothing.clone())).into();
    lab.balancer().reconcile(&spec).unwrap();
    for key in keys {
        let to = address_of(&key);
        let before = counter(&lab.client, "Tcp", "RetransSegs");
        let error = lab.client.run(|| TcpStream::connect(to)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        // By the answer to the first attempt.
        assert_eq!(counter(&lab.client, "Tcp", "RetransSegs"), before);
    }
}

fn a_client_keeps_its_backend_by_source_hash() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let key = vip(VIP4, Protocol::Udp, 80);
    let spec = all_of(key, Scheduler::SourceHash, PORT);
    lab.balancer().reconcile(&spec).unwrap();
    for from in [CLIENT4, "10.1.0.2", "10.1.0.3", "10.1.0.4"] {
        let from = from.parse().unwrap();
        let answers = ask(&lab.client, Protocol::Udp, from, address_of(&key), 20);
        assert_eq!(answers.len(), 1, "{answers:?}");
    }
}

/// Who answers each of 300 flows, in a new namespace with backends on so many ports.
fn flows_by_maglev(ports: std::ops::Range<u16>, excluded: Option<u16>) -> Vec<String> {
    let mut lab = Lab::new();
    for port in ports.clone() {
        lab.serve(0, Protocol::Udp, BACKENDS4[0], port);
    }
    let backends = ports
        .filter(|port| Some(*port) != excluded)
        .map(|port| (backend(BACKENDS4[0], port), 1));
    let service = Service {
        scheduler: Scheduler::Maglev(MaglevSize::Medium),
        affinity: None,
        idle: None,
        backends: backends.collect(),
    };
    let key = vip(VIP4, Protocol::Udp, 80);
    lab.balancer().reconcile(&[(key, service)].into()).unwrap();
    let from: IpAddr = CLIENT4.parse().unwrap();
    lab.client.run(|| {
        (20_000..20_300)
            .map(|port| ask_udp(SocketAddr::new(from, port), address_of(&key)).0)
            .collect()
    })
}

fn maglev_sends_a_flow_the_same_way_on_every_node_and_moves_few() {
    let before = flows_by_maglev(7000..7010, None);
    assert_eq!(before, flows_by_maglev(7000..7010, None));
    let after = flows_by_maglev(7000..7010, Some(7004));
    let gone = backend(BACKENDS4[0], 7004).to_string();
    assert!(before.contains(&gone) && !after.contains(&gone));
    let surviving = before.iter().zip(&after).filter(|(b, _)| **b != gone);
    let moved = surviving.clone().filter(|(b, a)| b != a).count();
    let count = surviving.count();
    assert!(moved * 100 <= 12 * count, "{moved} of {count} moved");
}

fn a_published_port_answers_on_every_address_from_outside_and_inside() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let (node, outside) = (&lab.client, Ns::new());
    join(
        "out0",
        (node, &["10.2.0.1/24"]),
        (&outside, &["10.2.0.2/24"]),
    );
    node.0.set_sysctl("ipv4/ip_forward", "1").unwrap();
    let way_back = CLIENT4.parse().unwrap();
    for backend in &lab.backends {
        route(backend, ([10, 2, 0, 0].into(), 24), way_back);
    }
    let key = ServiceKey {
        address: Address::Local(Family::V4),
        ..vip(VIP4, Protocol::Tcp, 80)
    };
    let spec = [(
        key,
        service(Scheduler::Random, PORT, BACKENDS4.map(|b| (b, 1))),
    )];
    let mut balancer = lab.balancer();
    balancer.reconcile(&spec.into()).unwrap();
    let visitor = "10.2.0.2".parse().unwrap();
    let from_outside = "10.2.0.1:80".parse().unwrap();
    let answers = ask(&outside, Protocol::Tcp, visitor, from_outside, 60);
    assert_eq!(answers.len(), 3, "{answers:?}");
    let own = CLIENT4.parse().unwrap();
    let answers = ask(node, Protocol::Tcp, own, "10.1.0.1:80".parse().unwrap(), 60);
    assert_eq!(answers.len(), 3, "{answers:?}");
}

fn no_connection_fails_while_backends_come_and_go() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let mut balancer = lab.balancer();
    let key = vip(VIP4, Protocol::Tcp, 80);
    balancer
        .reconcile(&all_of(key, Scheduler::Random, PORT))
        .unwrap();
    let done = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let changer = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                let count = [1, 3, 2][rounds % 3];
                let wanted = BACKENDS4.iter().take(count).map(|b| (*b, 1));
                let service = service(Scheduler::Random, PORT, wanted);
                let changes: Changes = [(key, Some(service))].into();
                balancer.change(&changes).unwrap();
                rounds += 1;
            }
            rounds
        });
        let end = End(&done);
        lab.client.run(|| {
            for _ in 0..2000 {
                Connection::open(address_of(&key)).expect("a connection in spite of changes");
            }
        });
        drop(end);
        changer.join().unwrap()
    });
    println!("2000 connections during {rounds} changes");
    assert!(rounds > 100, "only {rounds} changes");
}

/// Sets its flag when it goes, by a failure too.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
