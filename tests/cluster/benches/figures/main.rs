//! `cargo bench -p weft-cluster-tests [-- SECTION..]`: figures of real agents in namespaces. They
//! are printed and never asserted. Ratios are taken alternately in one run, since what a machine
//! does at all differs from minute to minute.

use std::process::ExitCode;
use std::time::Instant;

use weft_cluster_tests::weft::act_by_name;

mod attach;
mod commits;
mod convergence;
mod ingress;
mod memory;
mod state;
mod table;
mod throughput;

use table::Table;

/// A name on the command line and what it measures.
type Section = (&'static str, fn(&mut Table) -> anyhow::Result<()>);

/// In the order in which they run.
const SECTIONS: &[Section] = &[
    ("attach", attach::attach),
    ("network", attach::network),
    ("commits", commits::commits),
    ("convergence", convergence::convergence),
    ("memory", memory::memory),
    ("throughput", throughput::throughput),
    ("ingress", ingress::ingress),
];

fn main() -> ExitCode {
    if let Some(ended) = act_by_name() {
        return ended;
    }
    // Cargo adds `--bench`.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let known = |name: &String| SECTIONS.iter().any(|(section, _)| section == name);
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
        eprintln!("no section {unknown:?}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let mut table = Table::default();
    let mut failed = false;
    for (name, run) in SECTIONS {
        if !wanted.is_empty() && !wanted.iter().any(|section| section == name) {
            continue;
        }
        let (started, load) = (Instant::now(), table::load());
        if let Err(error) = run(&mut table) {
            eprintln!("{name}: {error:#}");
            failed = true;
        }
        let took = started.elapsed().as_secs_f64();
        eprintln!("{name}: {took:.1} s (load of the machine before: {load})");
    }
    print!("{table}");
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
