//! `tests/vm/run ipvs`: a published port by weft beside IPVS, in one run on one kernel.
//!
//! Two worlds of the same shape, a client, a director and two backends in namespaces, of which one
//! director has IPVS (masquerading, `rr`, as `ipvsadm` sets it up) and the other weft's table (round
//! robin). They are measured in turns, and each round gives a ratio. Figures are printed and never
//! asserted; what a virtual machine without hardware virtualisation does per second says nothing
//! about a host, only the ratios do.
//!
//! It needs root, a kernel with `ip_vs` and `ip_vs_rr`, and `ipvsadm`.

#![expect(
    clippy::unwrap_used,
    reason = "what goes wrong ends the benchmark, by a panic"
)]

mod world;

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroU16;
use std::process::{Command, Stdio};

use weft_lb::Balancer;
use weft_lb::spec::{Address, Backend, Family, Ports, Protocol, Scheduler, Service, ServiceKey};
use world::{BACKENDS, DIRECTOR, SERVED_PORT, World};

/// Of each measurement with each of the two.
const ROUNDS: usize = 5;
/// The first published port.
const FIRST_PORT: u16 = 10_000;

fn main() {
    weft_test_netns::isolate();
    println!("| what | IPVS | weft | weft / IPVS |");
    println!("|---|---|---|---|");
    for services in [1, 1000] {
        let ipvs = World::new();
        set_up_ipvs(&ipvs, services);
        let weft = World::new();
        let _balancer = set_up_weft(&weft, services);
        let port = FIRST_PORT + services / 2;
        let name = format!("connections per second, services: {services}");
        compare(
            &name,
            0,
            || ipvs.connections(port),
            || weft.connections(port),
        );
        let name = format!("Mbit/s of one stream, services: {services}");
        compare(&name, 1, || ipvs.throughput(port), || weft.throughput(port));
        ipvs.check_spread("IPVS");
        weft.check_spread("weft");
    }
}

/// Services on the ports from the first one on, each with both backends.
fn set_up_ipvs(world: &World, services: u16) {
    let mut rules = String::new();
    for port in FIRST_PORT..FIRST_PORT + services {
        let service = format!("-t {DIRECTOR}:{port}");
        rules += &format!("-A {service} -s rr\n");
        for backend in BACKENDS {
            rules += &format!("-a {service} -r {backend}:{SERVED_PORT} -m\n");
        }
    }
    world.director.run(|| {
        let mut command = Command::new("ipvsadm");
        let command = command.arg("--restore").stdin(Stdio::piped());
        let mut child = command.spawn().expect("ipvsadm (Debian: ipvsadm)");
        let mut input = child.stdin.take().unwrap();
        input.write_all(rules.as_bytes()).unwrap();
        drop(input);
        assert!(child.wait().unwrap().success(), "ipvsadm failed");
    });
}

/// The same by weft.
fn set_up_weft(world: &World, services: u16) -> Balancer {
    let backend = |address: &str| Backend {
        address: address.parse().unwrap(),
        port: NonZeroU16::new(SERVED_PORT),
    };
    let service = Service {
        scheduler: Scheduler::RoundRobin,
        affinity: None,
        idle: None,
        backends: BACKENDS.map(|address| (backend(address), 1)).into(),
    };
    let key = |port| ServiceKey {
        address: Address::Local(Family::V4),
        ports: Ports::One(Protocol::Tcp, NonZeroU16::new(port).unwrap()),
    };
    let ports = FIRST_PORT..FIRST_PORT + services;
    let spec: BTreeMap<_, _> = ports.map(|port| (key(port), service.clone())).collect();
    let mut balancer = Balancer::open(&world.director.0, "weft-lb").unwrap();
    balancer.reconcile(&spec).unwrap();
    balancer
}

/// Measures both in turns, every other round in the other order, and prints a row of the table.
fn compare(name: &str, digits: usize, ipvs: impl Fn() -> f64, weft: impl Fn() -> f64) {
    let mut figures = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let (of_ipvs, of_weft) = if round % 2 == 0 {
            let first = ipvs();
            (first, weft())
        } else {
            let first = weft();
            (ipvs(), first)
        };
        for (list, value) in figures
            .iter_mut()
            .zip([of_ipvs, of_weft, of_weft / of_ipvs])
        {
            list.push(value);
        }
    }
    let [ipvs, weft, ratio] = figures;
    let (ipvs, weft) = (spread(ipvs, digits), spread(weft, digits));
    println!("| {name} | {ipvs} | {weft} | {} |", spread(ratio, 2));
}

/// Median (least to most).
fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    let median = values[values.len() / 2];
    format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
}
