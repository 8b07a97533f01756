//! How the table is kept.

use std::process::Command;
use std::time::{Duration, Instant};

use weft_lb::spec::{Changes, Protocol, Scheduler, Service, ServiceKey, Spec, SpecError};
use weft_lb::{Balancer, BalancerError};
use weft_netns::nft::{Batch, Chain, NftSocket, Table, TableFlags};

use super::lab::{
    BACKENDS4, CLIENT4, Lab, TABLE, VIP4, address_of, all_of, ask, assert_settled, backend,
    balancer, service, vip,
};
use super::ns::{Ns, await_release};

crate::cases!(
    a_backend_that_comes_or_goes_is_a_few_changes,
    two_thousand_services_load_and_change_quickly,
    ten_thousand_services_load_and_change_quickly,
    ten_thousand_services_that_take_turns_load_and_change_quickly,
    the_table_works_on_without_its_agent_and_is_adopted_by_the_next,
    a_foreign_flush_skips_the_table_and_nft_lists_it,
    a_table_that_was_lost_or_spoilt_is_made_anew,
    what_is_ensured_is_read_back_where_it_must_be,
    a_second_agent_is_refused_by_name,
    the_first_of_many_refusals_is_told,
    namespaces_are_independent,
    bad_input_changes_nothing,
    a_removed_table_leaves_nothing,
);

const PORT: u16 = 8080;

fn key(number: usize) -> ServiceKey {
    let (high, low) = (number / 250, number % 250 + 1);
    vip(&format!("10.9.{high}.{low}"), Protocol::Tcp, 80)
}

/// Services with so many backends each.
fn many(services: usize, backends: u16) -> Spec {
    let backends = (1..=backends).map(|host| (backend(&format!("10.1.1.{host}"), PORT), 1));
    let service = Service {
        scheduler: Scheduler::Random,
        affinity: None,
        idle: None,
        backends: backends.collect(),
    };
    (0..services)
        .map(|number| (key(number), service.clone()))
        .collect()
}

/// The same service with backends `1..=count`.
fn resized(number: usize, count: u16) -> Changes {
    let service = many(1, count).remove(&key(0));
    [(key(number), service)].into()
}

fn a_backend_that_comes_or_goes_is_a_few_changes() {
    let ns = Ns::new();
    let mut balancer = balancer(&ns);
    let mut spec = many(20, 3);
    spec.extend(many(1, 4).into_values().map(|service| (key(99), service)));
    let report = balancer.reconcile(&spec).unwrap();
    // Two classes, each service, each slot.
    assert_eq!(report.ops, 2 + 21 + 20 * 3 + 4);
    assert!(report.created && report.exclusive);
    assert_eq!((report.services, report.transactions), (21, 1));
    assert_settled(balancer.reconcile(&spec).unwrap());

    // A slot, then the class.
    let report = balancer.change(&resized(0, 4)).unwrap();
    assert_eq!((report.ops, report.transactions), (2, 2));
    // The class, then the last slot.
    let report = balancer.change(&resized(0, 3)).unwrap();
    assert_eq!((report.ops, report.transactions), (2, 2));
    // The last slot into the first, the class, the last slot. The chain that nobody uses any more
    // stays for the next.
    let mut changes = resized(99, 4);
    let service = changes.get_mut(&key(99)).unwrap().as_mut().unwrap();
    service.backends.remove(&backend("10.1.1.1", PORT));
    let report = balancer.change(&changes).unwrap();
    assert_eq!((report.ops, report.transactions), (3, 3));
    let report = balancer.change(&[(key(5), None)].into()).unwrap();
    assert_eq!((report.ops, report.services), (4, 20));
    assert_settled(balancer.change(&changes).unwrap());
}

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn two_thousand_services_load_and_change_quickly() {
    load_and_change(2000, Scheduler::Random);
}

fn ten_thousand_services_load_and_change_quickly() {
    load_and_change(10_000, Scheduler::Random);
}

/// Each has a chain of its own.
fn ten_thousand_services_that_take_turns_load_and_change_quickly() {
    load_and_change(10_000, Scheduler::RoundRobin);
}

fn load_and_change(services: usize, scheduler: Scheduler) {
    let ns = Ns::new();
    let mut spec = many(services, 2);
    for service in spec.values_mut() {
        service.scheduler = scheduler;
    }
    let resized = |number, count| {
        let mut changes = resized(number, count);
        changes
            .values_mut()
            .flatten()
            .for_each(|s| s.scheduler = scheduler);
        changes
    };
    let mut balancer = balancer(&ns);
    let start = Instant::now();
    let report = balancer.reconcile(&spec).unwrap();
    let load = start.elapsed();
    assert_eq!((report.services, report.created), (services, true));
    let start = Instant::now();
    assert_settled(balancer.reconcile(&spec).unwrap());
    let read = start.elapsed();
    let start = Instant::now();
    assert_settled(balancer.ensure(&spec).unwrap());
    let ensured = start.elapsed();
    // A service with three keeps the class that the others come to and leave. With one more that
    // had three there is a chain for one that takes turns, too.
    balancer.change(&resized(services - 1, 3)).unwrap();
    balancer.change(&resized(services - 2, 3)).unwrap();
    balancer.change(&resized(services - 2, 2)).unwrap();
    let mut timed = |changes: &Changes, transactions| {
        let start = Instant::now();
        let report = balancer.change(changes).unwrap();
        assert_eq!((report.ops, report.transactions), (2, transactions));
        start.elapsed()
    };
    let mut times = Vec::new();
    for number in 0..200 {
        times.push(timed(&resized(number, 3), 2));
        times.push(timed(&resized(number, 2), 2));
    }
    let (p50, p99) = median(times);
    println!(
        "{services} services ({scheduler:?}): loaded in {load:?} ({} transactions), read back in {read:?}, \
         ensured in {ensured:?}, one backend more or less in {p50:?} (p50), {p99:?} (p99)",
        report.transactions
    );
}

fn the_table_works_on_without_its_agent_and_is_adopted_by_the_next() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let key = vip(VIP4, Protocol::Tcp, 80);
    let spec = all_of(key, Scheduler::Random, PORT);
    let mut first = lab.balancer();
    first.reconcile(&spec).unwrap();
    let mut connection = lab.connect(&key);
    drop(first);
    await_release(&lab.client, TABLE);
    connection.echo("nobody owns the table");
    assert_eq!(lab.ask(&key, 60).len(), 3);
    let mut next = lab.balancer();
    let report = next.reconcile(&spec).unwrap();
    assert_settled(report);
    assert!(report.exclusive && report.transactions == 1, "{report:?}");
    connection.echo("the next one does");
    drop(next);
    await_release(&lab.client, TABLE);
    // What changed meanwhile is all that is changed.
    let less = service(Scheduler::Random, PORT, [(BACKENDS4[1], 1)]);
    let report = lab.balancer().reconcile(&[(key, less)].into()).unwrap();
    assert!(!report.created);
    assert_eq!(lab.ask(&key, 20).len(), 1);
}

pub(super) fn nft(ns: &Ns, arguments: &[&str]) -> String {
    // Packet filter tools live where an ordinary user's PATH does not reach.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let mut command = Command::new("nft");
    command.args(arguments).env("PATH", path);
    let output = ns.run(|| command.output());
    let output =
        output.expect("this case reads the kernel through `nft` (Debian package nftables)");
    assert!(output.status.success(), "nft {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn a_foreign_flush_skips_the_table_and_nft_lists_it() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let key = vip(VIP4, Protocol::Tcp, 80);
    let spec = all_of(key, Scheduler::Random, PORT);
    let mut balancer = lab.balancer();
    balancer.reconcile(&spec).unwrap();
    nft(&lab.client, &["add", "table", "inet", "another"]);
    nft(&lab.client, &["flush", "ruleset"]);
    assert_eq!(lab.ask(&key, 60).len(), 3);
    assert_settled(
        balancer
            .change(&[(key, spec.get(&key).cloned())].into())
            .unwrap(),
    );
    assert_settled(balancer.reconcile(&spec).unwrap());
    let list = nft(&lab.client, &["list", "ruleset"]);
    assert!(!list.contains("another"));
    for line in [
        // Versions differ in whether they call the priority by its name.
        "type nat hook output priority",
        "jump services",
        "10.1.0.200 . tcp . 80 : ",
        "numgen random mod 3",
        "reject",
    ] {
        assert!(list.contains(line), "no `{line}` in:\n{list}");
    }
}

fn a_table_that_was_lost_or_spoilt_is_made_anew() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let key = vip(VIP4, Protocol::Tcp, 80);
    let spec = all_of(key, Scheduler::Random, PORT);
    let table = Table {
        name: TABLE.to_owned(),
        flags: TableFlags::PERSISTENT,
        owner: None,
    };
    for spoil in [
        (|_: &mut Batch, _: &Table| {}) as fn(&mut Batch, &Table),
        |batch, table| batch.add_table(table),
        |batch, table| {
            batch.add_table(table);
            let (table, name) = (table.name.clone(), "foreign".to_owned());
            batch.add_chain(&Chain {
                table,
                name,
                base: None,
            });
        },
    ] {
        lab.balancer().reconcile(&spec).unwrap();
        await_release(&lab.client, TABLE);
        let mut foreign = NftSocket::open_in(&lab.client.0).unwrap();
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        spoil(&mut batch, &table);
        foreign.commit(batch).unwrap();
        let report = lab.balancer().reconcile(&spec).unwrap();
        assert!(report.created, "{report:?}");
        assert_eq!(lab.ask(&key, 60).len(), 3);
    }
}

fn what_is_ensured_is_read_back_where_it_must_be() {
    let ns = Ns::new();
    let mut balancer = balancer(&ns);
    assert!(balancer.ensure(&many(3, 2)).unwrap().created);
    assert_settled(balancer.ensure(&many(3, 2)).unwrap());
    assert_eq!(balancer.ensure(&many(2, 2)).unwrap().services, 2);
    balancer.change(&resized(0, 1)).unwrap();
    // What was changed on purpose is put back as well.
    assert!(balancer.ensure(&many(2, 2)).unwrap().ops > 0);
    assert_settled(balancer.reconcile(&many(2, 2)).unwrap());
    drop(balancer);
    await_release(&ns, TABLE);
    let mut foreign = NftSocket::open_in(&ns.0).unwrap();
    let mut batch = Batch::new();
    batch.delete_table(TABLE);
    foreign.commit(batch).unwrap();
    let mut next = super::lab::balancer(&ns);
    assert!(next.ensure(&many(2, 2)).unwrap().created);
}

fn the_first_of_many_refusals_is_told() {
    let ns = Ns::new();
    let mut socket = NftSocket::open_in(&ns.0).unwrap();
    let mut batch = Batch::new();
    // There is room for a part of the answers only.
    for number in 0..20_000 {
        batch.delete_table(&format!("missing-{number}"));
    }
    let error = socket.commit(batch).unwrap_err().to_string();
    assert!(error.contains("delete table missing-0"), "{error}");
    assert_eq!(socket.table("missing-0").unwrap(), None);
}

fn a_second_agent_is_refused_by_name() {
    let ns = Ns::new();
    let mut first = balancer(&ns);
    first.reconcile(&many(1, 1)).unwrap();
    let error = balancer(&ns).reconcile(&Spec::new()).unwrap_err();
    assert!(
        matches!(&error, BalancerError::Owned { table, .. } if table == TABLE),
        "{error}"
    );
    assert_settled(first.reconcile(&many(1, 1)).unwrap());
}

fn namespaces_are_independent() {
    let labs = [
        Lab::serving(Protocol::Udp, PORT),
        Lab::serving(Protocol::Udp, PORT),
    ];
    let key = vip(VIP4, Protocol::Udp, 80);
    let mut balancers = labs.each_ref().map(Lab::balancer);
    for (balancer, only) in balancers.iter_mut().zip(BACKENDS4) {
        let spec = [(key, service(Scheduler::Random, PORT, [(only, 1)]))].into();
        balancer.reconcile(&spec).unwrap();
    }
    for (lab, only) in labs.iter().zip(BACKENDS4) {
        let client = CLIENT4.parse().unwrap();
        let answers = ask(&lab.client, Protocol::Udp, client, address_of(&key), 20);
        assert_eq!(answers, [(backend(only, PORT).to_string(), 20)].into());
    }
    let [first, mut second] = balancers;
    first.remove().unwrap();
    assert_settled(second.change(&Changes::new()).unwrap());
    assert_eq!(labs[1].ask(&key, 5).len(), 1);
}

fn bad_input_changes_nothing() {
    let ns = Ns::new();
    let mut balancer = balancer(&ns);
    balancer.reconcile(&many(2, 2)).unwrap();
    let mut spec = many(3, 2);
    spec.insert(vip("224.0.0.1", Protocol::Tcp, 80), spec[&key(0)].clone());
    let error = balancer.reconcile(&spec).unwrap_err();
    assert!(
        matches!(error, BalancerError::Spec(SpecError::BadAddress { .. })),
        "{error}"
    );
    let changes = spec.into_iter().map(|(key, service)| (key, Some(service)));
    assert!(balancer.change(&changes.collect()).is_err());
    assert_settled(balancer.reconcile(&many(2, 2)).unwrap());
    for name in ["other", "weft lb", &"weft".repeat(9)] {
        let error = Balancer::open(&ns.0, name).unwrap_err();
        assert!(matches!(error, BalancerError::BadName { .. }));
    }
}

fn a_removed_table_leaves_nothing() {
    let ns = Ns::new();
    let mut first = balancer(&ns);
    first.reconcile(&many(2, 2)).unwrap();
    first.remove().unwrap();
    assert_eq!(
        NftSocket::open_in(&ns.0).unwrap().table(TABLE).unwrap(),
        None
    );
    balancer(&ns).remove().unwrap();
}
