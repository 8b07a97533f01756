//! `cargo bench -p weft-encrypt --bench peers [-- OPTION..]`: encrypted paths between two hosts, which
//! are network namespaces, beside one another. Figures are printed and never asserted.
//!
//! All that are compared stand at the same time on the same underlay, and are measured in turn, in an
//! order that changes from round to round, since what a machine does at all differs from minute to
//! minute. What both ends, both hosts and all interrupts spend is counted together (proc_stat(5)).
//! Of weft's two data paths, user space and kernel, the first that this kernel has is compared, or the
//! one that is asked for. WireGuard and nebula connect hosts (IP in the tunnel, no bridge); weft and plain VXLAN connect
//! containers behind a bridge on each host.
//!
//! Options: `rounds=5 seconds=2 flows=1,4 mtu=1500,9000 wire=super,packets only=NAME,..`. Peers are
//! taken where they are installed (`PATH`, and directories in `WEFT_BENCH_PATH`); those that are not are
//! named.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark in which everything is its own"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use weft_test_netns::isolate;

mod load;
mod nebula;
mod options;
mod shell;
mod strongswan;
mod subject;
mod table;
mod vxlan;
mod weft;
mod wireguard;
mod world;

use options::Options;
use subject::Subject;
use table::Row;
use world::{Wire, World};

fn main() {
    let options = Options::from_arguments();
    isolate();
    shell::private_run();
    println!("| wire | MTU | path | flows | Gbit/s | CPU s/Gbit | to plain VXLAN |");
    println!("|---|---|---|---|---|---|---|");
    let mut round_trips = Vec::new();
    for wire in options.wires.clone() {
        for mtu in options.mtus.clone() {
            round_trips.extend(compare(&options, wire, mtu));
        }
    }
    println!("\n| wire | MTU | path | idle p50 / p99, us | under one bulk flow p50 / p99, us |");
    println!("|---|---|---|---|---|");
    round_trips.iter().for_each(|row| println!("{row}"));
}

/// Everything on one underlay. Throughput is printed; round trips are returned.
fn compare(options: &Options, wire: Wire, mtu: u32) -> Vec<String> {
    let world = World::new(wire, mtu);
    let (subjects, absent) = subject::all(&world, options);
    for (name, why) in absent {
        eprintln!("{wire}, {mtu}: {name} is not there: {why}");
    }
    for flows in &options.flows {
        throughput(options, &subjects, *flows, &format!("| {wire} | {mtu} |"));
    }
    latency(options, &subjects, &format!("| {wire} | {mtu} |"))
}

fn throughput(options: &Options, subjects: &[Subject], flows: usize, before: &str) {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for round in 0..options.rounds {
        for subject in order(subjects, round) {
            match load::bulk(subject, flows, options.length) {
                Ok(moved) => rows.entry(subject.name).or_default().add(&moved),
                Err(error) => eprintln!("{}, {flows} flows: {error}", subject.name),
            }
        }
    }
    let plain = rows.get(vxlan::PLAIN).map(Row::gbit_s);
    for subject in subjects {
        if let Some(row) = rows.get(subject.name) {
            println!(
                "{before} {} | {flows} | {} |",
                subject.name,
                row.show(plain)
            );
        }
    }
}

fn latency(options: &Options, subjects: &[Subject], before: &str) -> Vec<String> {
    let mut idle: BTreeMap<&str, Vec<[f64; 2]>> = BTreeMap::new();
    let mut loaded = idle.clone();
    for round in 0..options.rounds {
        for subject in order(subjects, round) {
            for (busy, into) in [(false, &mut idle), (true, &mut loaded)] {
                match load::round_trips(subject, busy, options.length) {
                    Ok(times) => into.entry(subject.name).or_default().push(times),
                    Err(error) => eprintln!("{}, round trips: {error}", subject.name),
                }
            }
        }
    }
    let show = |of: &BTreeMap<&str, Vec<[f64; 2]>>, name| {
        let runs = of.get(name).map_or(&[][..], Vec::as_slice);
        let at = |index: usize| table::median(runs.iter().map(|run| run[index]));
        format!("{:.0} / {:.0}", at(0), at(1))
    };
    let rows = subjects.iter().map(|Subject { name, .. }| {
        format!(
            "{before} {name} | {} | {} |",
            show(&idle, name),
            show(&loaded, name)
        )
    });
    rows.collect()
}

/// Everybody once, beginning elsewhere and going the other way round in each round.
fn order(subjects: &[Subject], round: usize) -> Vec<&Subject> {
    let mut order: Vec<&Subject> = subjects.iter().collect();
    let count = order.len().max(1);
    order.rotate_left(round * 3 % count);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// How long one thing may take to come up.
const PATIENCE: Duration = Duration::from_secs(15);
