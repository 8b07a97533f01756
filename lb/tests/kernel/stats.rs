//! What the backends of a namespace take and answer is counted.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::process::Command;

use weft_lb::spec::{Protocol, Scheduler};
use weft_lb::stats::{Counts, Stats, StatsError, StatsSpec, Totals};

use super::lab::{BACKENDS4, BACKENDS6, Connection, DEADLINE, Lab, VIP4, all_of, fresh_port, vip};
use super::ns::{Ns, await_release};

crate::cases!(
    connections_are_counted_as_the_backends_count_them,
    what_a_container_begins_itself_is_not_counted,
    a_flow_without_an_answer_is_one_connection,
    what_comes_by_the_leg_is_counted_by_its_port,
    counters_outlive_their_agent_and_others_changes,
    what_cannot_be_counted_is_refused_and_changes_nothing,
    removed_counters_leave_nothing,
);

const TABLE: &str = "weft-stats";
const PORT: u16 = 8080;
/// IPv4 header and TCP header, without options, at least.
const HEADERS: u64 = 40;

fn spec(addresses: &[&str]) -> StatsSpec {
    StatsSpec {
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        leg: "wfgw".to_owned(),
        ports: [(Protocol::Tcp, NonZeroU16::new(PORT).unwrap())].into(),
    }
}

fn counting(ns: &Ns, spec: &StatsSpec) -> Stats {
    let mut stats = Stats::open(&ns.0, TABLE).unwrap();
    stats.reconcile(spec).unwrap();
    stats
}

fn totals(stats: &mut Stats) -> Totals {
    stats.read().unwrap().expect("a table")
}

fn of(stats: &mut Stats, address: &str) -> Counts {
    totals(stats).addresses[&address.parse().unwrap()]
}

fn connections_are_counted_as_the_backends_count_them() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let mut balancer = lab.balancer();
    let key = vip(VIP4, Protocol::Tcp, 80);
    balancer
        .reconcile(&all_of(key, Scheduler::Random, PORT))
        .unwrap();
    let mut counted: Vec<Stats> = { lab.backends.iter().zip(BACKENDS4) }
        .map(|(ns, address)| counting(ns, &spec(&[address])))
        .collect();
    let answers = lab.ask(&key, 60);
    for (stats, address) in counted.iter_mut().zip(BACKENDS4) {
        let counts = of(stats, address);
        let taken = answers.get(&format!("{address}:{PORT}")).copied();
        assert_eq!(counts.connections, taken.unwrap_or(0) as u64, "{answers:?}");
        // Each opened, each closed.
        assert!(counts.packets_in >= 2 * counts.connections, "{counts:?}");
        assert!(counts.bytes_in >= HEADERS * counts.packets_in, "{counts:?}");
        assert!(
            counts.bytes_out >= HEADERS * counts.packets_out,
            "{counts:?}"
        );
    }
    // What was sent is in it, there and back.
    let mut connection = lab.connect(&key);
    let chosen = BACKENDS4
        .iter()
        .position(|address| connection.backend == format!("{address}:{PORT}"))
        .unwrap();
    let (stats, address) = (&mut counted[chosen], BACKENDS4[chosen]);
    let before = of(stats, address);
    let text = "x".repeat(100_000);
    connection.echo(&text);
    let after = of(stats, address);
    assert_eq!(after.connections, before.connections);
    assert!(after.bytes_in - before.bytes_in >= 100_000, "{after:?}");
    assert!(after.bytes_out - before.bytes_out >= 100_000, "{after:?}");
}

fn what_a_container_begins_itself_is_not_counted() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let address = BACKENDS4[0];
    let mut stats = counting(&lab.backends[0], &spec(&[address]));
    for to in [address, BACKENDS4[1]] {
        let to = SocketAddr::new(to.parse().unwrap(), PORT);
        lab.backends[0].run(|| Connection::open(to).expect("a connection").echo("hello"));
    }
    assert_eq!(of(&mut stats, address), Counts::default());
    // Of another it is.
    let to = SocketAddr::new(address.parse().unwrap(), PORT);
    lab.backends[1].run(|| Connection::open(to).expect("a connection").echo("hello"));
    assert_eq!(of(&mut stats, address).connections, 1);
}

fn a_flow_without_an_answer_is_one_connection() {
    let lab = Lab::new();
    let address = BACKENDS4[0];
    let mut stats = counting(&lab.backends[0], &spec(&[address]));
    let at = SocketAddr::new(address.parse().unwrap(), PORT);
    let silent = lab.backends[0].run(|| UdpSocket::bind(at)).unwrap();
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let from = format!("10.1.0.1:{}", fresh_port());
    let socket = lab.client.run(|| UdpSocket::bind(from)).unwrap();
    for _ in 0..5 {
        socket.send_to(b"hello", at).unwrap();
        silent.recv_from(&mut [0; 9]).expect("a datagram");
    }
    let counts = Counts {
        connections: 1,
        packets_in: 5,
        // IPv4 and UDP headers.
        bytes_in: 5 * (20 + 8 + 5),
        ..Counts::default()
    };
    assert_eq!(of(&mut stats, address), counts);
    // Whichever way it is one.
    let (_, peer) = {
        socket.send_to(b"hello", at).unwrap();
        silent.recv_from(&mut [0; 9]).expect("a datagram")
    };
    silent.send_to(b"bye", peer).unwrap();
    let counts = Counts {
        packets_in: 6,
        bytes_in: 6 * (20 + 8 + 5),
        packets_out: 1,
        bytes_out: 20 + 8 + 3,
        ..counts
    };
    assert_eq!(of(&mut stats, address), counts);
}

fn what_comes_by_the_leg_is_counted_by_its_port() {
    let mut lab = Lab::serving(Protocol::Tcp, PORT);
    lab.serve(0, Protocol::Tcp, BACKENDS4[0], PORT + 1);
    let spec = StatsSpec {
        leg: "eth1".to_owned(),
        ..spec(&[BACKENDS4[0]])
    };
    let mut stats = counting(&lab.backends[0], &spec);
    let ask = |address: &str, port: u16| {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        (lab.client).run(|| Connection::open(to).expect("a connection").echo("hello"));
    };
    ask(BACKENDS4[0], PORT);
    ask(BACKENDS6[0], PORT);
    // Nobody has published this one.
    ask(BACKENDS4[0], PORT + 1);
    let totals = totals(&mut stats);
    let counts: Vec<Counts> = totals.ports.into_values().collect();
    assert_eq!(counts[0].connections, 2, "{counts:?}");
    assert!(
        counts[0].packets_in > 4 && counts[0].packets_out > 4,
        "{counts:?}"
    );
    assert_eq!(counts.len(), 1);
    let of_address = totals.addresses.into_values().next();
    assert_eq!(of_address, Some(Counts::default()));
}

fn counters_outlive_their_agent_and_others_changes() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let (ns, address) = (&lab.backends[0], BACKENDS4[0]);
    let to = SocketAddr::new(address.parse().unwrap(), PORT);
    let ask = || (lab.client).run(|| drop(Connection::open(to).expect("a connection")));
    let first = counting(ns, &spec(&[address]));
    ask();
    drop(first);
    await_release(ns, TABLE);
    // Nobody's agent is there.
    ask();
    let mut stats = Stats::open(&ns.0, TABLE).unwrap();
    assert_eq!(stats.reconcile(&spec(&[address])).unwrap(), 0);
    assert_eq!(of(&mut stats, address).connections, 2);
    // A backend more, and less.
    assert_eq!(stats.reconcile(&spec(&[address, "10.1.0.99"])).unwrap(), 3);
    ask();
    assert_eq!(stats.reconcile(&spec(&[address])).unwrap(), 3);
    assert_eq!(of(&mut stats, address).connections, 3);
    // Others.
    let nft =
        |arguments: &[&str]| ns.run(|| Command::new("nft").args(arguments).output().expect("nft"));
    assert!(nft(&["flush", "ruleset"]).status.success());
    let listed = nft(&["list", "table", "inet", TABLE]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for part in [
        "iif != \"lo\" ct direction original goto taken",
        "iifname \"wfgw\" goto port-taken",
        "ip daddr @received",
        "meta l4proto . th sport @port-sent",
        "10.1.0.11 counter packets 3",
    ] {
        assert!(listed.contains(part), "{part} is not in\n{listed}");
    }
    assert!(!nft(&["delete", "table", "inet", TABLE]).status.success());
    ask();
    assert_eq!(of(&mut stats, address).connections, 4);
}

fn what_cannot_be_counted_is_refused_and_changes_nothing() {
    let ns = Ns::new();
    let error = Stats::open(&ns.0, "filter").unwrap_err();
    assert!(
        error.to_string().contains("must start with `weft`"),
        "{error}"
    );
    let mut stats = counting(&ns, &spec(&["10.1.0.11"]));
    for leg in ["", "a-name-that-is-too-long"] {
        let bad = StatsSpec {
            leg: leg.to_owned(),
            ..spec(&["10.1.0.12"])
        };
        let error = stats.reconcile(&bad).unwrap_err();
        assert!(matches!(error, StatsError::Spec(_)), "{error}");
    }
    assert_eq!(totals(&mut stats).addresses.len(), 1);
    let mut other = Stats::open(&ns.0, TABLE).unwrap();
    let error = other.reconcile(&spec(&["10.1.0.12"])).unwrap_err();
    assert!(
        error.to_string().contains("another running process"),
        "{error}"
    );
    // Reading is for everybody.
    assert_eq!(totals(&mut other).addresses.len(), 1);
}

fn removed_counters_leave_nothing() {
    let ns = Ns::new();
    let stats = counting(&ns, &spec(&["10.1.0.11"]));
    stats.remove().unwrap();
    let mut stats = Stats::open(&ns.0, TABLE).unwrap();
    assert_eq!(stats.read().unwrap(), None);
    stats.remove().unwrap();
}
