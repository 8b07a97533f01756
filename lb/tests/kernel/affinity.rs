//! Clients that keep their backends.

use std::net::{IpAddr, SocketAddr};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use weft_lb::spec::{CLIENTS_MAX, MaglevSize, Protocol, Scheduler, Service, ServiceKey, Spec};
use weft_netns::nft::{Batch, MapData, MapElement, NftSocket};

use super::lab::{
    BACKENDS4, DEADLINE, Lab, TABLE, VIP4, VIP6, all_of, all_ports, ask, ask_udp, assert_settled,
    backend, fresh_port, service, vip,
};
use super::ns::{add_address, await_release};
use super::upkeep::nft;

crate::cases!(
    a_client_keeps_its_backend_with_every_scheduler,
    affinity_is_by_service_and_family,
    a_backend_that_goes_moves_its_clients_at_once_and_no_others,
    a_client_comes_back_to_a_backend_that_was_drained_for_a_while,
    affinity_lasts_as_long_as_new_flows_come,
    first_flows_of_a_client_at_a_time_go_to_one_backend,
    clients_that_are_too_many_are_balanced_without_affinity,
    affinity_outlives_the_agent_and_nft_lists_it,
);

const PORT: u16 = 8080;
const HOUR: Duration = Duration::from_secs(3600);
const CLIENTS: [&str; 4] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];
const KEY: fn() -> ServiceKey = || vip(VIP4, Protocol::Udp, 80);

/// One service over all backends of its family.
fn sticky(key: ServiceKey, scheduler: Scheduler, affinity: Duration) -> Spec {
    let mut spec = all_of(key, scheduler, PORT);
    for service in spec.values_mut() {
        service.affinity = Some(affinity);
    }
    spec
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// The backend of a client's next flow.
fn next(lab: &Lab, client: &str, to: SocketAddr) -> String {
    lab.client.run(|| ask_udp(at(client, fresh_port()), to).0)
}

/// The backend of a client, which ten flows go to.
fn backend_of(lab: &Lab, client: &str) -> String {
    let client: IpAddr = client.parse().unwrap();
    let answers = ask(&lab.client, Protocol::Udp, client, at(VIP4, 80), 10);
    assert_eq!(answers.len(), 1, "{answers:?}");
    answers.into_keys().next().unwrap()
}

fn a_client_keeps_its_backend_with_every_scheduler() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let mut balancer = lab.balancer();
    for scheduler in [
        Scheduler::RoundRobin,
        Scheduler::WeightedRoundRobin,
        Scheduler::Random,
        Scheduler::SourceHash,
        Scheduler::Maglev(MaglevSize::Small),
    ] {
        // Without what clients had before.
        balancer.remove().unwrap();
        balancer = lab.balancer();
        balancer.reconcile(&sticky(KEY(), scheduler, HOUR)).unwrap();
        let backends = CLIENTS.map(|client| backend_of(&lab, client));
        if matches!(
            scheduler,
            Scheduler::RoundRobin | Scheduler::WeightedRoundRobin
        ) {
            // Only clients take turns.
            let mut turns = backends[..3].to_vec();
            turns.sort();
            assert_eq!(turns, BACKENDS4.map(|b| backend(b, PORT).to_string()));
            assert_eq!(backends[3], backends[0]);
        }
        assert_eq!(CLIENTS.map(|client| backend_of(&lab, client)), backends);
    }
}

fn affinity_is_by_service_and_family() {
    let mut lab = Lab::serving(Protocol::Udp, PORT);
    for (index, backend) in BACKENDS4.iter().enumerate() {
        lab.serve(index, Protocol::Udp, backend, 53);
    }
    let mut whole = service(Scheduler::RoundRobin, 0, BACKENDS4.map(|b| (b, 1)));
    whole.affinity = Some(HOUR);
    let mut spec = sticky(KEY(), Scheduler::RoundRobin, HOUR);
    spec.extend(sticky(
        vip(VIP6, Protocol::Udp, 80),
        Scheduler::RoundRobin,
        HOUR,
    ));
    // Of another time, so that it takes chains of its own.
    let other = vip(VIP4, Protocol::Udp, 81);
    spec.extend(sticky(other, Scheduler::RoundRobin, HOUR / 2));
    spec.insert(all_ports("10.1.0.201"), whole);
    let mut balancer = lab.balancer();
    balancer.reconcile(&spec).unwrap();
    assert_settled(balancer.reconcile(&spec).unwrap());
    let first = next(&lab, CLIENTS[0], at(VIP4, 80));
    // The first client of each has the first backend, the second one another.
    assert_eq!(next(&lab, CLIENTS[0], at(VIP4, 81)), first);
    assert_ne!(next(&lab, CLIENTS[1], at(VIP4, 81)), first);
    for (port, client) in [(53, 0), (PORT, 0), (53, 1), (PORT, 1), (53, 0)] {
        // All ports of the address are one service.
        let answer = next(&lab, CLIENTS[client], at("10.1.0.201", port));
        assert_eq!(answer, backend(BACKENDS4[client], port).to_string());
    }
    let six = || next(&lab, "fd00:1::1", at(VIP6, 80));
    let backend = six();
    assert!((0..9).all(|_| six() == backend));
}

/// Everybody's backend, and a client and the backend that it has alone.
fn one_alone(lab: &Lab) -> ([String; 4], usize) {
    let backends = CLIENTS.map(|client| backend_of(lab, client));
    let alone = |i: &usize| backends.iter().filter(|b| **b == backends[*i]).count() == 1;
    let alone = (0..4).find(alone).expect("four clients take three turns");
    (backends, alone)
}

/// The same with a weight for the backend of that name.
fn weighed(spec: &Spec, name: &str, weight: Option<u16>) -> Spec {
    let mut spec = spec.clone();
    let Service { backends, .. } = spec.get_mut(&KEY()).unwrap();
    let found = backends.keys().find(|backend| backend.to_string() == name);
    let found = *found.unwrap();
    match weight {
        Some(weight) => backends.insert(found, weight),
        None => backends.remove(&found),
    };
    spec
}

fn a_backend_that_goes_moves_its_clients_at_once_and_no_others() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let mut balancer = lab.balancer();
    // Gone, and drained.
    for weight in [None, Some(0)] {
        let spec = sticky(KEY(), Scheduler::RoundRobin, HOUR);
        balancer.reconcile(&spec).unwrap();
        let (before, moved) = one_alone(&lab);
        let less = weighed(&spec, &before[moved], weight);
        balancer.reconcile(&less).unwrap();
        let after = CLIENTS.map(|client| backend_of(&lab, client));
        for client in 0..4 {
            assert_eq!(
                client == moved,
                before[client] != after[client],
                "{after:?}"
            );
        }
        // One that comes moves nobody, neither back.
        balancer.reconcile(&spec).unwrap();
        assert_eq!(CLIENTS.map(|client| backend_of(&lab, client)), after);
        balancer.remove().unwrap();
        balancer = lab.balancer();
    }
}

fn a_client_comes_back_to_a_backend_that_was_drained_for_a_while() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let mut balancer = lab.balancer();
    let spec = sticky(KEY(), Scheduler::Random, HOUR);
    balancer.reconcile(&spec).unwrap();
    let before = CLIENTS.map(|client| backend_of(&lab, client));
    for name in &before {
        balancer.reconcile(&weighed(&spec, name, Some(0))).unwrap();
    }
    balancer.reconcile(&spec).unwrap();
    assert_eq!(CLIENTS.map(|client| backend_of(&lab, client)), before);
}

fn affinity_lasts_as_long_as_new_flows_come() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let affinity = Duration::from_secs(2);
    let mut balancer = lab.balancer();
    let spec = sticky(KEY(), Scheduler::RoundRobin, affinity);
    balancer.reconcile(&spec).unwrap();
    let ask = || {
        let before = Instant::now();
        (before, next(&lab, CLIENTS[0], at(VIP4, 80)))
    };
    let start = Instant::now();
    let (mut since, mut backend) = ask();
    let mut last = since;
    while since.elapsed() < 3 * affinity {
        assert!(start.elapsed() < 3 * DEADLINE, "flows come too slowly");
        std::thread::sleep(affinity / 10);
        let (asked, next) = ask();
        if last.elapsed() < affinity {
            assert_eq!(next, backend, "{:?} after the one before", last.elapsed());
        } else {
            // This machine has other things to do.
            (since, backend) = (asked, next);
        }
        last = asked;
    }
    std::thread::sleep(affinity + affinity / 4);
    // It is the next one's turn.
    assert_ne!(ask().1, backend);
}

fn first_flows_of_a_client_at_a_time_go_to_one_backend() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    lab.balancer()
        .reconcile(&sticky(KEY(), Scheduler::Random, HOUR))
        .unwrap();
    let clients: Vec<String> = (100..160).map(|host| format!("10.1.0.{host}")).collect();
    let addresses = clients.iter().map(|client| format!("{client}/24"));
    let addresses: Vec<ipnet::IpNet> = addresses.map(|a| a.parse().unwrap()).collect();
    lab.client.link(|handle| async move {
        for address in addresses {
            add_address(&handle, "eth0", address).await;
        }
    });
    let together = Barrier::new(4);
    let answers: Vec<Vec<String>> = std::thread::scope(|scope| {
        let work = || {
            let ask = |client: &String| {
                together.wait();
                next(&lab, client, at(VIP4, 80))
            };
            clients.iter().map(ask).collect()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for (index, client) in clients.iter().enumerate() {
        let of_one = answers.iter().map(|answers| &answers[index]);
        let of_one: Vec<&String> = of_one.collect();
        assert!(
            of_one.iter().all(|b| *b == of_one[0]),
            "{client}: {of_one:?}"
        );
    }
    let mut all = answers.concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 3);
}

fn clients_that_are_too_many_are_balanced_without_affinity() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let spec = sticky(KEY(), Scheduler::RoundRobin, HOUR);
    let mut balancer = lab.balancer();
    balancer.reconcile(&spec).unwrap();
    let early = backend_of(&lab, CLIENTS[0]);
    drop(balancer);
    await_release(&lab.client, TABLE);
    // Others of a service elsewhere, until the map is full. Nobody owns the table now.
    let element = |client: u32| {
        let service = [10, 9, 9, 9, 17, 0, 0, 0, 0, 80, 0, 0];
        MapElement {
            key: [&client.to_be_bytes()[..], &service].concat(),
            data: MapData::Value(vec![0; 4]),
        }
    };
    let elements: Vec<_> = (1..CLIENTS_MAX).map(element).collect();
    let mut foreign = NftSocket::open_in(&lab.client.0).unwrap();
    let mut batch = Batch::new();
    batch.add_map_elements(TABLE, "clients4", &elements);
    foreign.commit(batch).unwrap();
    assert_settled(lab.balancer().reconcile(&spec).unwrap());
    assert_eq!(backend_of(&lab, CLIENTS[0]), early);
    let late: IpAddr = CLIENTS[1].parse().unwrap();
    let answers = ask(&lab.client, Protocol::Udp, late, at(VIP4, 80), 30);
    let wanted = BACKENDS4.map(|b| (backend(b, PORT).to_string(), 10));
    assert_eq!(answers, wanted.into());
}

fn affinity_outlives_the_agent_and_nft_lists_it() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let mut spec = sticky(KEY(), Scheduler::Random, HOUR);
    spec.extend(sticky(
        vip(VIP6, Protocol::Udp, 80),
        Scheduler::Random,
        HOUR,
    ));
    let mut balancer = lab.balancer();
    balancer.reconcile(&spec).unwrap();
    let before = CLIENTS.map(|client| backend_of(&lab, client));
    drop(balancer);
    await_release(&lab.client, TABLE);
    assert_eq!(CLIENTS.map(|client| backend_of(&lab, client)), before);
    let mut balancer = lab.balancer();
    assert_settled(balancer.reconcile(&spec).unwrap());
    assert_eq!(CLIENTS.map(|client| backend_of(&lab, client)), before);
    let list = nft(&lab.client, &["list", "ruleset"]);
    for line in [
        "jump keep-vip4-3600s",
        "update @clients4",
        "delete @clients6",
    ] {
        assert!(list.contains(line), "no `{line}` in:\n{list}");
    }
    // Without affinity nothing of it stays but what will expire.
    let plain = all_of(KEY(), Scheduler::Random, PORT);
    balancer.reconcile(&plain).unwrap();
    balancer.reconcile(&Spec::new()).unwrap();
    assert!(!nft(&lab.client, &["list", "ruleset"]).contains("3600s"));
}
