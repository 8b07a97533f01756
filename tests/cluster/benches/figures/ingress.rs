use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE, Running};
use weft_cluster_tests::eventually;
use weft_cluster_tests::talk::Talk;

use crate::state::State;
use crate::table::Table;
use crate::throughput::cpu_seconds;

/// Runs of each way, alternately.
const RUNS: usize = 5;
const SECONDS: &str = "2";
/// Connections that a client has at a time.
const AT_A_TIME: &str = "16";
/// Where bytes are sent to, and where short connections are answered.
const BULK: u16 = 7001;
const SHORT: u16 = 7002;
const ENTRY: &str = "198.18.0.1";
const SERVER: &str = "198.18.0.2";

/// A way from outside to the server on h2.
struct Way {
    name: &'static str,
    /// The address that the client asks.
    entry: &'static str,
    bulk: u16,
    short: u16,
    /// Whether the server is a container, and not a program of the host.
    contained: bool,
}

const WAYS: &[Way] = &[
    Way {
        name: "no balancer",
        entry: SERVER,
        bulk: BULK,
        short: SHORT,
        contained: false,
    },
    Way {
        name: "weft, to another host",
        entry: ENTRY,
        bulk: 8001,
        short: 8002,
        contained: true,
    },
    Way {
        name: "weft, to another host, source=snat",
        entry: ENTRY,
        bulk: 8003,
        short: 8004,
        contained: true,
    },
    Way {
        name: "weft, on the host itself",
        entry: SERVER,
        bulk: 8001,
        short: 8002,
        contained: true,
    },
    Way {
        name: "plain DNAT and masquerade",
        entry: ENTRY,
        bulk: 9001,
        short: 9002,
        contained: false,
    },
    Way {
        name: "HAProxy",
        entry: ENTRY,
        bulk: 9011,
        short: 9012,
        contained: false,
    },
    Way {
        name: "nginx stream",
        entry: ENTRY,
        bulk: 9021,
        short: 9022,
        contained: false,
    },
];

/// A published port beside what else carries connections through a host: the client is outside, h1
/// takes its connections, the server is on h2. Only weft crosses a tunnel into a container.
pub(crate) fn ingress(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    let cluster = state.cluster(2)?;
    for host in [OUTSIDE, 1, 2] {
        // A kernel that paces by default would have its timers measured where a peer sends; Reno is
        // what any namespace may have.
        let set = "echo reno > /proc/sys/net/ipv4/tcp_congestion_control";
        cluster.sh(host, &["sh", "-c", set])?;
    }
    cluster.weft(1, "network create web")?;
    cluster.weft(
        1,
        "service create s --network web --publish 8001:7001 --publish 8002:7002 \
         --publish published=8003,target=7001,source=snat \
         --publish published=8004,target=7002,source=snat",
    )?;
    let run = "run --network web --name b --service s --detach -- sleep infinity";
    cluster.weft(2, run)?;
    cluster.weft(1, "wait --service s --timeout 60s")?;
    dnat(&cluster)?;
    let _peers = [
        haproxy(&cluster, state.path())?,
        nginx(&cluster, state.path())?,
    ];
    let inside = ["weft", "exec", "b.web", "--"];
    let _servers = [
        Talk::start(&cluster, 2, &[], &["answer", &format!("0.0.0.0:{SHORT}")])?,
        Talk::start(
            &cluster,
            2,
            &inside,
            &["answer", &format!("0.0.0.0:{SHORT}")],
        )?,
    ];
    for way in WAYS {
        eventually(way.name, || rate(&cluster, way, "1").map(drop))?;
    }
    let mut rates = vec![Vec::new(); WAYS.len()];
    let mut moved = vec![Vec::new(); WAYS.len()];
    for _ in 0..RUNS {
        for (index, way) in WAYS.iter().enumerate() {
            rates[index].push(rate(&cluster, way, SECONDS)?);
            moved[index].push(transfer(&cluster, way)?);
        }
    }
    report(table, "connections", "1/s", 0, &rates);
    report(table, "TCP, 1 stream", "Gbit/s", 2, &moved);
    Ok(())
}

/// A figure of each way, its ratio to the first in the same run, and that of the processor's time.
fn report(table: &mut Table, what: &str, unit: &str, digits: usize, runs: &[Vec<(f64, f64)>]) {
    let first = runs.first().cloned().unwrap_or_default();
    for (way, runs) in WAYS.iter().zip(runs) {
        let figures: Vec<f64> = runs.iter().map(|(figure, _)| *figure).collect();
        table.median(&format!("{what}: {}", way.name), unit, digits, &figures);
        let of = |pick: fn(&(f64, f64)) -> f64| -> Vec<f64> {
            let pairs = runs.iter().zip(&first);
            pairs.map(|(run, first)| pick(run) / pick(first)).collect()
        };
        let name = format!("{what}: {} / no balancer", way.name);
        table.median(&name, "ratio", 3, &of(|(figure, _)| *figure));
        table.median(
            &format!("{name}, per CPU-second"),
            "ratio",
            3,
            &of(|(_, per)| *per),
        );
    }
}

/// Short connections a second, and for each second of processor time.
fn rate(cluster: &Cluster, way: &Way, seconds: &str) -> Result<(f64, f64)> {
    let address = format!("{}:{}", way.entry, way.short);
    let before = cpu_seconds()?;
    let args = ["ask-briefly", &address, seconds, AT_A_TIME];
    let line = Talk::begin(cluster, OUTSIDE, &[], &args)?.line()?;
    let spent = cpu_seconds()? - before;
    let figures: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [answered, took, failed] = figures[..] else {
        anyhow::bail!("{line:?} instead of three figures")
    };
    ensure!(failed == 0.0, "{}: {failed} connections failed", way.name);
    Ok((answered / took, answered / spent))
}

fn transfer(cluster: &Cluster, way: &Way) -> Result<(f64, f64)> {
    let inside: &[&str] = if way.contained {
        &["weft", "exec", "b.web", "--"]
    } else {
        &[]
    };
    let at = format!("0.0.0.0:{BULK}");
    let mut serve = Talk::start(cluster, 2, inside, &["tcp-serve", &at, "1"])?;
    let before = cpu_seconds()?;
    let address = format!("{}:{}", way.entry, way.bulk);
    let line = Talk::begin(cluster, OUTSIDE, &[], &["tcp-send", &address, SECONDS, "1"])?.line()?;
    let spent = cpu_seconds()? - before;
    let (bytes, seconds) = line.split_once(' ').context("no figures")?;
    ensure!(serve.line()? == bytes, "not all that was sent arrived");
    let gbit = bytes.parse::<f64>()? * 8.0 / 1e9;
    Ok((gbit / seconds.parse::<f64>()?, gbit / spent))
}

/// What an administrator writes who has nothing else.
fn dnat(cluster: &Cluster) -> Result<()> {
    let rules = format!(
        "add table ip peer
         add chain ip peer in {{ type nat hook prerouting priority dstnat; }}
         add rule ip peer in tcp dport 9001 dnat to {SERVER}:{BULK}
         add rule ip peer in tcp dport 9002 dnat to {SERVER}:{SHORT}
         add chain ip peer out {{ type nat hook postrouting priority srcnat; }}
         add rule ip peer out ct status dnat ip daddr {SERVER} masquerade"
    );
    cluster.sh(1, &["nft", &rules])?;
    cluster.sh(1, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
    Ok(())
}

fn haproxy(cluster: &Cluster, dir: &Path) -> Result<Running> {
    let config = format!(
        "global\n  nbthread 2\n  maxconn 4000\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  \
         option splice-auto\n\
         listen bulk\n  bind :9011\n  server one {SERVER}:{BULK}\n\
         listen short\n  bind :9012\n  server one {SERVER}:{SHORT}\n"
    );
    peer(cluster, dir, "haproxy", &config, &["haproxy", "-db", "-f"])
}

fn nginx(cluster: &Cluster, dir: &Path) -> Result<Running> {
    let dir_name = dir.display();
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off;\nuser root;\nworker_processes 2;\npid {dir_name}/nginx.pid;\n\
         error_log {dir_name}/nginx.log;\nevents {{ worker_connections 4000; }}\n\
         stream {{\n  server {{ listen 9021 reuseport; proxy_pass {SERVER}:{BULK}; }}\n\
         server {{ listen 9022 reuseport; proxy_pass {SERVER}:{SHORT}; }}\n}}\n"
    );
    peer(cluster, dir, "nginx", &config, &["nginx", "-c"])
}

/// Starts a program with a configuration file.
fn peer(cluster: &Cluster, dir: &Path, name: &str, config: &str, argv: &[&str]) -> Result<Running> {
    let found = cluster.run(1, &["sh", "-c", &format!("command -v {name}")])?;
    ensure!(
        found.status == 0,
        "{name} is not installed; the packages are haproxy, nginx and libnginx-mod-stream"
    );
    let file = dir.join(format!("{name}.conf"));
    fs::write(&file, config)?;
    let file = file.to_str().context("a path that is not UTF-8")?;
    cluster.spawn(1, &[argv, &[file]].concat())
}
