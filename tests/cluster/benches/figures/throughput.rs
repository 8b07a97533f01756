use std::fs;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::talk::Talk;

use crate::state::State;
use crate::table::Table;

/// Runs of each path, alternately.
const RUNS: usize = 5;
const SECONDS: &str = "2";
/// Round trips in a run.
const PINGS: &str = "5000";
const PORT: u16 = 7001;

/// A way from h1 to h2.
struct Way {
    /// What leads into the namespaces at both ends.
    from: Vec<&'static str>,
    into: Vec<&'static str>,
    to: String,
}

/// One transfer.
struct Moved {
    gbit_s: f64,
    /// Per second of processor time that the whole machine spent.
    gbit_per_cpu_s: f64,
}

/// The overlay against the path below it: two containers, and the two hosts that they run on.
pub(crate) fn throughput(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    let cluster = state.cluster(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    let peer = cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    let host = Way {
        from: vec![],
        into: vec![],
        to: "198.18.0.2".to_owned(),
    };
    let overlay = Way {
        from: vec!["weft", "exec", "a.web", "--"],
        into: vec!["weft", "exec", "b.web", "--"],
        to: peer,
    };
    for streams in [1, 8] {
        transfers(table, &cluster, &host, &overlay, streams)?;
    }
    round_trips(table, &cluster, &host, &overlay)
}

fn transfers(
    table: &mut Table,
    cluster: &Cluster,
    host: &Way,
    overlay: &Way,
    streams: usize,
) -> Result<()> {
    let (mut below, mut above) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        below.push(transfer(cluster, host, streams)?);
        above.push(transfer(cluster, overlay, streams)?);
    }
    let rates = |moved: &[Moved]| moved.iter().map(|m| m.gbit_s).collect::<Vec<_>>();
    let pairs = || above.iter().zip(&below);
    let ratios: Vec<f64> = pairs().map(|(a, b)| a.gbit_s / b.gbit_s).collect();
    let costs: Vec<f64> = pairs()
        .map(|(a, b)| a.gbit_per_cpu_s / b.gbit_per_cpu_s)
        .collect();
    let name = format!("TCP, {streams} streams, 1 MiB writes");
    table.median(&format!("{name}: host path"), "Gbit/s", 2, &rates(&below));
    table.median(&format!("{name}: overlay"), "Gbit/s", 2, &rates(&above));
    table.median(&format!("{name}: overlay / host path"), "ratio", 3, &ratios);
    table.median(
        &format!("{name}: the same per CPU-second"),
        "ratio",
        3,
        &costs,
    );
    Ok(())
}

fn transfer(cluster: &Cluster, way: &Way, streams: usize) -> Result<Moved> {
    let streams = streams.to_string();
    let address = format!("{}:{PORT}", way.to);
    let mut serve = Talk::start(cluster, 2, &way.into, &["tcp-serve", &address, &streams])?;
    let before = cpu_seconds()?;
    let send = ["tcp-send", address.as_str(), SECONDS, &streams];
    let line = Talk::begin(cluster, 1, &way.from, &send)?.line()?;
    let spent = cpu_seconds()? - before;
    let (bytes, seconds) = line.split_once(' ').context("no figures")?;
    ensure!(serve.line()? == bytes, "not all that was sent arrived");
    let gbit = bytes.parse::<f64>()? * 8.0 / 1e9;
    Ok(Moved {
        gbit_s: gbit / seconds.parse::<f64>()?,
        gbit_per_cpu_s: gbit / spent,
    })
}

/// What all processors spent so far, interrupts included (proc_stat(5)).
pub(crate) fn cpu_seconds() -> Result<f64> {
    /// `sysconf(_SC_CLK_TCK)` on every Linux architecture that Rust runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("nothing in /proc/stat")?;
    let ticks: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .map_while(|t| t.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|at: &usize| ticks.get(*at));
    Ok(busy.sum::<f64>() / TICKS_PER_SECOND)
}

fn round_trips(table: &mut Table, cluster: &Cluster, host: &Way, overlay: &Way) -> Result<()> {
    let (mut below, mut above) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        below.push(median_us(cluster, host)?);
        above.push(median_us(cluster, overlay)?);
    }
    let ratios: Vec<f64> = above.iter().zip(&below).map(|(a, b)| a / b).collect();
    table.median("ping round trip p50: host path", "us", 1, &below);
    table.median("ping round trip p50: overlay", "us", 1, &above);
    table.median(
        "ping round trip p50: overlay / host path",
        "ratio",
        3,
        &ratios,
    );
    Ok(())
}

fn median_us(cluster: &Cluster, way: &Way) -> Result<f64> {
    let line = Talk::begin(cluster, 1, &way.from, &["round-trips", &way.to, PINGS])?.line()?;
    let (median, _) = line.split_once(' ').context("no figures")?;
    Ok(median.parse::<f64>()? / 1e3)
}
