//! Backends that take turns.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use weft_lb::spec::{Protocol, Scheduler, ServiceKey, Spec};

use super::lab::{
    BACKENDS4, BACKENDS6, CLIENT6, Connection, Lab, VIP4, VIP6, address_of, all_of, all_ports,
    ask_udp, backend, service, vip,
};

crate::cases!(
    services_with_as_many_backends_take_exact_turns,
    datagrams_of_many_clients_at_once_take_exact_turns,
    turns_are_by_weight_and_spread,
    a_change_of_one_service_does_not_disturb_the_turns_of_another,
);

const PORT: u16 = 8080;
type Answers = BTreeMap<String, usize>;

fn ask(lab: &Lab, to: SocketAddr, answers: &mut Answers) {
    let connection = lab
        .client
        .run(|| Connection::open(to))
        .expect("a connection");
    *answers.entry(connection.backend).or_default() += 1;
}

/// Every backend answered so often, or once more or less.
fn assert_even(answers: &Answers, times: usize) {
    assert_eq!(answers.len(), 3, "{answers:?}");
    let near = |count: &usize| count.abs_diff(times) <= 1;
    assert!(answers.values().all(near), "{answers:?}");
}

fn services_with_as_many_backends_take_exact_turns() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let ports = [80, 81].map(|port| vip(VIP4, Protocol::Tcp, port));
    let whole = all_ports("10.1.0.201");
    let mut spec: Spec = ports
        .into_iter()
        .flat_map(|key| all_of(key, Scheduler::RoundRobin, PORT))
        .collect();
    spec.insert(
        whole,
        // Weights mean nothing here.
        service(Scheduler::RoundRobin, 0, BACKENDS4.into_iter().zip(1..)),
    );
    lab.balancer().reconcile(&spec).unwrap();
    let [first, second] = ports.map(|key| address_of(&key));
    let third = "10.1.0.201:8080".parse().unwrap();
    let mut answers = [const { Answers::new() }; 3];
    // In an order in which a count that is shared would give each of them few backends.
    for (index, to) in [first, second, third].into_iter().enumerate() {
        for _ in 0..30 {
            ask(&lab, to, &mut answers[index]);
        }
    }
    for _ in 0..60 {
        for (index, to) in [first, second, third].into_iter().enumerate() {
            ask(&lab, to, &mut answers[index]);
        }
    }
    for answers in &answers {
        assert_even(answers, 30);
    }
}

fn datagrams_of_many_clients_at_once_take_exact_turns() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let keys = [80, 81].map(|port| vip(VIP6, Protocol::Udp, port));
    let spec = keys
        .into_iter()
        .flat_map(|key| all_of(key, Scheduler::RoundRobin, PORT));
    lab.balancer().reconcile(&spec.collect()).unwrap();
    // Four threads, each with 75 flows to both services.
    let work = |thread: u16| {
        let (lab, client) = (&lab, CLIENT6.parse().unwrap());
        move || {
            let ports = 20_000 + 100 * thread..20_075 + 100 * thread;
            let flows = ports.flat_map(|port| keys.map(|key| (port, key)));
            let ask = |(port, key): (u16, ServiceKey)| {
                let from = SocketAddr::new(client, port);
                (key, ask_udp(from, address_of(&key)).0)
            };
            lab.client.run(|| flows.map(ask).collect::<Vec<_>>())
        }
    };
    let answers = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
        let answers = threads.into_iter().map(|thread| thread.join().unwrap());
        answers.collect::<Vec<_>>().concat()
    });
    for key in keys {
        let mut counts = Answers::new();
        for (_, backend) in answers.iter().filter(|(k, _)| *k == key) {
            *counts.entry(backend.clone()).or_default() += 1;
        }
        assert_even(&counts, 100);
        assert!(
            counts
                .keys()
                .eq(&BACKENDS6.map(|b| backend(b, PORT).to_string()))
        );
    }
}

fn turns_are_by_weight_and_spread() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let key = vip(VIP4, Protocol::Tcp, 80);
    let weights = BACKENDS4.into_iter().zip([50, 10, 20]);
    let spec = [(key, service(Scheduler::WeightedRoundRobin, PORT, weights))];
    lab.balancer().reconcile(&spec.into()).unwrap();
    let connect = |_| lab.connect(&key).backend;
    let answers: Vec<String> = (0..80).map(connect).collect();
    let names = BACKENDS4.map(|address| backend(address, PORT).to_string());
    let count = |answers: &[String]| {
        let count = |name| answers.iter().filter(|answer| *answer == name).count();
        names.each_ref().map(count)
    };
    for eight in answers.windows(8) {
        assert_eq!(count(eight), [5, 1, 2]);
    }
    for four in answers.windows(4) {
        assert!(count(four)[0] >= 2, "{four:?}");
    }
}

fn a_change_of_one_service_does_not_disturb_the_turns_of_another() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let [steady, restless] = [80, 81].map(|port| vip(VIP4, Protocol::Tcp, port));
    let mut balancer = lab.balancer();
    let all = all_of(steady, Scheduler::RoundRobin, PORT);
    balancer.reconcile(&all).unwrap();
    let mut answers = Answers::new();
    for round in 0..30 {
        for _ in 0..3 {
            ask(&lab, address_of(&steady), &mut answers);
        }
        let count = [3, 2, 0, 1][round % 4];
        let wanted = BACKENDS4.iter().take(count).map(|b| (*b, 1));
        let service = service(Scheduler::RoundRobin, PORT, wanted);
        let report = balancer
            .change(&[(restless, Some(service))].into())
            .unwrap();
        assert!(!report.created);
        if count > 0 {
            lab.connect(&restless);
        }
    }
    assert_even(&answers, 30);
    // A drained one takes none.
    let drained = service(
        Scheduler::WeightedRoundRobin,
        PORT,
        BACKENDS4.into_iter().zip([0, 1, 1]),
    );
    balancer.change(&[(steady, Some(drained))].into()).unwrap();
    let answers = lab.ask(&steady, 20);
    let wanted = [1, 2].map(|i| (backend(BACKENDS4[i], PORT).to_string(), 10));
    assert_eq!(answers, wanted.into());
}
