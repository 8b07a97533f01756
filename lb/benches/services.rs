//! `cargo bench -p weft-lb`: what many services cost one network namespace. Figures are printed
//! and never asserted; numbers of services are compared alternately in one run, since what a machine
//! does at all differs from minute to minute.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark in which everything is its own"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use weft_lb::Balancer;
use weft_lb::spec::{Address, Backend, Ports, Protocol, Scheduler, Service, ServiceKey, Spec};
use weft_test_netns::{Ns, isolate, join, route};

/// Numbers of services that are compared.
const SIZES: [usize; 3] = [1, 1_000, 10_000];
/// Times that each of them is measured, alternately.
const ROUNDS: usize = 7;
/// Connections of one measurement.
const CONNECTIONS: usize = 3_000;
/// Changes of one service that are timed.
const CHANGES: usize = 2_000;
const CLIENT: &str = "10.1.0.1/24";
const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 0, 11), Ipv4Addr::new(10, 1, 0, 12)];
const PORT: NonZeroU16 = NonZeroU16::new(80).unwrap();

fn main() {
    isolate();
    let (client, backend) = (Ns::new(), Ns::new());
    let addresses = ["10.1.0.11/24", "10.1.0.12/24"];
    join("eth0", (&client, &[CLIENT]), (&backend, &addresses));
    route(&client, (Ipv4Addr::new(10, 200, 0, 0), 16), BACKENDS[0]);
    serve(&backend);
    println!("| what | figure | spread |");
    println!("|---|---|---|");
    for (name, scheduler) in [
        ("random", Scheduler::Random),
        ("round robin", Scheduler::RoundRobin),
    ] {
        load(&client, name, scheduler);
        change(&client, name, scheduler);
    }
    first_packets(&client);
}

/// From an empty namespace to a table with the most services; and what they take of memory.
fn load(client: &Ns, name: &str, scheduler: Scheduler) {
    let most = SIZES[2];
    let mut times = Vec::new();
    let mut kernel = Vec::new();
    let mut own = Vec::new();
    for _ in 0..ROUNDS {
        let spec = spec(most, scheduler);
        let mut balancer = Balancer::open(&client.0, "weft-lb").unwrap();
        let before = (kernel_memory(), own_memory());
        let start = Instant::now();
        let report = balancer.reconcile(&spec).unwrap();
        times.push(start.elapsed().as_secs_f64() * 1e3);
        assert_eq!(report.services, most);
        kernel.push((kernel_memory() - before.0) / 1024.0);
        own.push((own_memory() - before.1) / 1024.0);
        balancer.remove().unwrap();
    }
    let what = format!("{most} services x 2 backends, {name}");
    row(&format!("{what}: cold load"), "ms", 1, &mut times);
    row(&format!("{what}: kernel memory"), "MiB", 1, &mut kernel);
    row(&format!("{what}: resident memory"), "MiB", 1, &mut own);
}

/// One service of the most changes its backends: from the call to the kernel's answer.
fn change(client: &Ns, name: &str, scheduler: Scheduler) {
    for size in SIZES {
        let mut balancer = Balancer::open(&client.0, "weft-lb").unwrap();
        balancer.reconcile(&spec(size, scheduler)).unwrap();
        let mut times = Vec::new();
        for turn in 0..CHANGES {
            // Each service in turn loses a backend, and has it back the next time round.
            let mut service = service(scheduler);
            if (turn / size) % 2 == 0 {
                service.backends.pop_last();
            }
            let changes = BTreeMap::from([(key(turn % size), Some(service))]);
            let start = Instant::now();
            balancer.change(&changes).unwrap();
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        println!(
            "| one change at {size} services, {name}, p50 / p99 | {:.0} / {:.0} us | to {:.0}, n = {CHANGES} |",
            at(&times, 50),
            at(&times, 99),
            at(&times, 100)
        );
        balancer.remove().unwrap();
    }
}

/// A connection through a service address, of any of them, beside one without a table.
fn first_packets(client: &Ns) {
    let mut direct = Vec::new();
    let mut by_size: [Vec<f64>; 3] = Default::default();
    let mut same: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        let to = |_| IpAddr::V4(BACKENDS[0]);
        let without = client.run(|| connections(to));
        direct.push(without);
        for (index, size) in SIZES.into_iter().enumerate() {
            let mut balancer = Balancer::open(&client.0, "weft-lb").unwrap();
            balancer.reconcile(&spec(size, Scheduler::Random)).unwrap();
            // Far from one another, so that no cache has the next.
            let to = |turn: usize| vip(turn * 7_919 % size);
            by_size[index].push(client.run(|| connections(to)));
            same[index].push(client.run(|| connections(|_| vip(size / 2))));
            balancer.remove().unwrap();
        }
    }
    row("TCP connect, no service", "us", 1, &mut direct);
    for (how, mut times) in [("one", same), ("any", by_size)] {
        let single = times[0].clone();
        for (size, times) in SIZES.into_iter().zip(&mut times) {
            let ratios = times.iter().zip(&single).map(|(many, one)| many / one);
            let mut ratios: Vec<f64> = ratios.collect();
            let what = format!("TCP connect through {how} of {size} services");
            row(&what, "us", 1, times);
            row(&format!("{what} / of 1"), "ratio", 3, &mut ratios);
        }
    }
}

/// The median time that a connection takes, in microseconds.
fn connections(to: impl Fn(usize) -> IpAddr) -> f64 {
    let mut times = Vec::with_capacity(CONNECTIONS);
    for turn in 0..CONNECTIONS {
        let to = SocketAddr::new(to(turn), PORT.get());
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Ends by a reset, so that no port stays taken.
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        let start = Instant::now();
        socket.connect(&to.into()).unwrap();
        times.push(start.elapsed().as_secs_f64() * 1e6);
        let mut stream = TcpStream::from(socket);
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    times.sort_by(f64::total_cmp);
    at(&times, 50)
}

/// Answers one byte with itself, on each connection, for as long as the program lives.
fn serve(backend: &Ns) {
    let listener = backend.run(|| TcpListener::bind(("0.0.0.0", PORT.get())).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut byte = [0];
            // A client that went away is its own affair.
            let _ = stream
                .read_exact(&mut byte)
                .and_then(|()| stream.write_all(&byte));
            let _ = stream.read(&mut byte);
        }
    });
}

fn spec(size: usize, scheduler: Scheduler) -> Spec {
    (0..size)
        .map(|number| (key(number), service(scheduler)))
        .collect()
}

fn key(number: usize) -> ServiceKey {
    ServiceKey {
        address: Address::Vip(vip(number)),
        ports: Ports::One(Protocol::Tcp, PORT),
    }
}

fn vip(number: usize) -> IpAddr {
    let [high, low] = u16::try_from(number + 1).unwrap().to_be_bytes();
    Ipv4Addr::new(10, 200, high, low).into()
}

fn service(scheduler: Scheduler) -> Service {
    let backends = BACKENDS.map(|address| {
        let backend = Backend {
            address: address.into(),
            port: Some(PORT),
        };
        (backend, 1)
    });
    Service {
        scheduler,
        affinity: None,
        idle: None,
        backends: backends.into(),
    }
}

/// What the kernel has for itself, in KiB.
fn kernel_memory() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let of = |name| field(&text, name);
    of("Slab:") + of("Percpu:") + of("VmallocUsed:")
}

/// What is resident of this process, in KiB.
fn own_memory() -> f64 {
    field(&fs::read_to_string("/proc/self/status").unwrap(), "VmRSS:")
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_whitespace().nth(1))
        .and_then(|value| value.parse().ok())
        .unwrap_or_default()
}

fn row(what: &str, unit: &str, digits: usize, values: &mut [f64]) {
    values.sort_by(f64::total_cmp);
    println!(
        "| {what} | {:.digits$} {unit} | {:.digits$} to {:.digits$}, n = {} |",
        at(values, 50),
        at(values, 0),
        at(values, 100),
        values.len()
    );
}

/// Of sorted values; NaN of none.
fn at(sorted: &[f64], share: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (sorted.len() * share / 100).min(last);
    sorted.get(index).copied().unwrap_or(f64::NAN)
}
