//! What services take and answer is counted: as the backends count it, whoever asks, and on after
//! the agent's end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::Cable;
use weft_cluster_tests::backend::{Answer, spread};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE, options};
use weft_cluster_tests::eventually;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "numbers::they_are_what_the_backends_count_and_outlive_the_agent",
        as_the_backends_count,
    ),
    (
        "numbers::every_node_tells_the_same_and_one_that_is_down_is_named",
        every_node_tells_the_same,
    ),
    (
        "numbers::metrics_are_well_formed_and_say_what_inspect_says",
        metrics_say_the_same,
    ),
];

/// By name of the backend.
type Counts = BTreeMap<String, u64>;

/// The service `shop`, published, with a backend on each of two hosts, which is called by the host's
/// number.
fn open_shop(cluster: &Cluster, hosts: [usize; 2]) -> Result<()> {
    cluster.weft(1, "network create web")?;
    let create = "service create shop --network web --health tcp:80 --publish 8080:80";
    cluster.weft(1, create)?;
    for host in hosts {
        let name = format!("b{host}");
        cluster.backend(host, "web", &name, 80, "--service shop")?;
        eventually(&format!("{name} is ready"), || {
            let found = endpoint(&inspect(cluster, 1)?, &name)?;
            ensure!(found["state"] == "ready", "{found}");
            Ok(())
        })?;
    }
    cluster.weft(1, "wait --service shop --timeout 60s")?;
    Ok(())
}

fn inspect(cluster: &Cluster, host: usize) -> Result<Value> {
    cluster.json(host, "service inspect shop")
}

fn endpoint(service: &Value, name: &str) -> Result<Value> {
    let endpoints = service["endpoints"].as_array().context("no endpoints")?;
    let found = endpoints.iter().find(|endpoint| endpoint["name"] == name);
    Ok(found
        .with_context(|| format!("{name} is not in {service}"))?
        .clone())
}

fn number(value: &Value, field: &str) -> Result<u64> {
    let number = value[field].as_u64();
    number.with_context(|| format!("no {field} in {value}"))
}

/// The counted connections of each backend, as its own host says.
fn counted(cluster: &Cluster) -> Result<Counts> {
    let mut counts = Counts::new();
    for host in [1, 2] {
        let name = format!("b{host}");
        let found = endpoint(&inspect(cluster, host)?, &name)?;
        counts.insert(name, number(&found["totals"], "connections")?);
    }
    Ok(counts)
}

fn add(counts: &mut Counts, answers: &[Answer]) {
    for (name, count) in spread(answers) {
        *counts.entry(name).or_default() += count as u64;
    }
}

/// Asks from everywhere; `taken` is what the backends have answered so far.
fn ask(cluster: &Cluster, vip: &str, taken: &mut Counts) -> Result<()> {
    for host in [1, 3] {
        let client = cluster.client_in(host, &format!("c{host}.web"));
        add(taken, &client.tcp(vip, 80, 7)?);
    }
    for host in 1..=3 {
        let through = format!("198.18.0.{host}");
        add(taken, &cluster.client(OUTSIDE).tcp(&through, 8080, 4)?);
        add(taken, &cluster.client(host).tcp("127.0.0.1", 8080, 2)?);
    }
    Ok(())
}

fn as_the_backends_count() -> Result<()> {
    let cluster = Cluster::up(3)?;
    open_shop(&cluster, [1, 2])?;
    for host in [1, 3] {
        cluster.container(host, "web", &format!("c{host}"))?;
    }
    cluster.settle(1)?;
    let vip = inspect(&cluster, 1)?["networks"][0]["vip"].clone();
    let vip = vip.as_str().context("no vip")?;
    // Health checks and what a container says to itself are none.
    let mut taken = Counts::from([("b1".to_owned(), 0), ("b2".to_owned(), 0)]);
    ensure!(counted(&cluster)? == taken, "{:?}", counted(&cluster)?);
    ask(&cluster, vip, &mut taken)?;
    ensure!(taken.values().all(|count| *count > 0), "{taken:?}");
    ensure!(
        counted(&cluster)? == taken,
        "{:?} {taken:?}",
        counted(&cluster)?
    );

    // A connection that stays is one of those that are there now.
    let mut held = cluster.client_in(3, "c3.web").hold(vip, 80)?;
    held.tell()?;
    let said = held.line()?;
    let name = said.split(' ').next().unwrap_or_default().to_owned();
    *taken.get_mut(&name).context("nobody's name")? += 1;
    let host = usize::from(name == "b2") + 1;
    let before = endpoint(&inspect(&cluster, host)?, &name)?;
    ensure!(number(&before, "connections")? > 0, "{before}");
    for _ in 0..20 {
        held.tell()?;
        held.line()?;
    }
    let after = endpoint(&inspect(&cluster, host)?, &name)?;
    let more = |field| -> Result<u64> {
        Ok(number(&after["totals"], field)? - number(&before["totals"], field)?)
    };
    // `who` and the answer, each with its headers.
    ensure!(more("bytes_in")? >= 20 * (4 + 40), "{before} {after}");
    ensure!(
        more("bytes_out")? >= 20 * (said.len() as u64 + 40),
        "{before} {after}"
    );
    ensure!(
        more("packets_in")? >= 20 && more("packets_out")? >= 20,
        "{before} {after}"
    );

    // Datagrams of one socket are one connection.
    let mut socket = cluster.client_in(1, "c1.web").hold_udp(vip, 80)?;
    let said_udp = eventually("an answer to a datagram", || {
        socket.tell()?;
        let said = socket.line()?;
        ensure!(!said.starts_with("failed"), "{said}");
        Ok(said)
    })?;
    for _ in 0..4 {
        socket.tell()?;
        socket.line()?;
    }
    let name = said_udp.split(' ').next().unwrap_or_default();
    *taken.get_mut(name).context("nobody's name")? += 1;
    ensure!(
        counted(&cluster)? == taken,
        "{:?} {taken:?}",
        counted(&cluster)?
    );

    // Nobody's agent is there for a while.
    for host in 1..=3 {
        cluster.host(host)?.kill_agent()?;
    }
    let outside = cluster.client(OUTSIDE);
    add(&mut taken, &outside.tcp("198.18.0.3", 8080, 6)?);
    for host in 1..=3 {
        cluster.host(host)?.start_agent()?;
    }
    eventually("the agents are back", || {
        ensure!(
            counted(&cluster)? == taken,
            "{:?} {taken:?}",
            counted(&cluster)?
        );
        Ok(())
    })?;
    ask(&cluster, vip, &mut taken)?;
    ensure!(
        counted(&cluster)? == taken,
        "{:?} {taken:?}",
        counted(&cluster)?
    );
    held.tell()?;
    ensure!(held.line()? == said, "another answers");
    Ok(())
}

/// What a host says of every endpoint of the service.
fn told(cluster: &Cluster, host: usize) -> Result<BTreeMap<String, Value>> {
    let service = inspect(cluster, host)?;
    let endpoints = service["endpoints"].as_array().context("no endpoints")?;
    let of = |endpoint: &Value| {
        let name = endpoint["name"].as_str().context("no name")?;
        ensure!(endpoint["numbers_error"].is_null(), "{endpoint}");
        Ok((name.to_owned(), endpoint["totals"].clone()))
    };
    endpoints.iter().map(of).collect()
}

/// The fourth host is a worker, the others vote.
fn every_node_tells_the_same() -> Result<()> {
    let cluster = Cluster::up(4)?;
    open_shop(&cluster, [1, 4])?;
    let mut taken = Counts::from([("b1".to_owned(), 0), ("b4".to_owned(), 0)]);
    for host in 1..=4 {
        let through = format!("198.18.0.{host}");
        add(&mut taken, &cluster.client(OUTSIDE).tcp(&through, 8080, 6)?);
    }
    ensure!(taken.values().all(|count| *count > 0), "{taken:?}");
    // Whatever their last segments are: nothing is under way any more when nothing more is counted.
    for host in 1..=4 {
        eventually("every node tells the same", || {
            let (own, said) = (told(&cluster, 1)?, told(&cluster, host)?);
            ensure!(said == own, "h{host} says {said:?}, and h1 {own:?}");
            for (name, count) in &taken {
                let counted = number(&said[name], "connections")?;
                ensure!(counted == *count, "{said:?} {taken:?}");
            }
            Ok(())
        })?;
    }
    let all = inspect(&cluster, 3)?;
    let sum: u64 = taken.values().sum();
    ensure!(number(&all["totals"], "connections")? == sum, "{all}");
    let table = cluster.weft(3, "service inspect shop --format table")?;
    let fits = |line: &str| line.chars().count() <= 100;
    ensure!(
        table.lines().all(fits) && table.contains("TAKEN"),
        "{table}"
    );

    // Nothing is known of one that does not answer, and of the rest what there is.
    cluster.host(4)?.set_cable(Cable::Silent)?;
    for host in [1, 3] {
        eventually("the other node is given up", || {
            let service = inspect(&cluster, host)?;
            let lost = endpoint(&service, "b4")?;
            let unknown = lost["connections"].is_null() && lost["totals"].is_null();
            ensure!(unknown, "{lost}");
            let why = lost["numbers_error"].as_str().context("no reason")?;
            ensure!(why.contains("h4"), "{why}");
            let there = endpoint(&service, "b1")?;
            ensure!(there["totals"]["connections"] == taken["b1"], "{there}");
            ensure!(service["totals"].is_null(), "{service}");
            Ok(())
        })?;
    }
    // Its own it still knows.
    let service = inspect(&cluster, 4)?;
    let (own, other) = (endpoint(&service, "b4")?, endpoint(&service, "b1")?);
    ensure!(own["totals"]["connections"] == taken["b4"], "{own}");
    ensure!(other["totals"].is_null(), "{other}");
    cluster.host(4)?.set_cable(Cable::In)?;
    eventually("it is back", || {
        let said = told(&cluster, 3)?;
        ensure!(
            number(&said["b4"], "connections")? == taken["b4"],
            "{said:?}"
        );
        Ok(())
    })
}

/// A metric's name and labels, as they are written.
type Samples = BTreeMap<String, u64>;

/// Asks for the page, and prints whatever comes.
const FETCH: &str = r"exec 3<>/dev/tcp/127.0.0.1/9100 &&
    printf 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n' >&3 && cat <&3";

/// The page as a scraper reads it; refuses what one would refuse.
fn scrape(cluster: &Cluster, host: usize) -> Result<Samples> {
    let answer = cluster.sh(host, &["bash", "-c", FETCH])?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no page")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    ensure!(head.contains("text/plain; version=0.0.4"), "{head}");
    samples(body)
}

fn samples(page: &str) -> Result<Samples> {
    let mut samples = Samples::new();
    let (mut helped, mut typed) = (Vec::new(), Vec::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').context("no help")?;
            ensure!(!text.is_empty() && !helped.contains(&name), "{line}");
            helped.push(name);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("no type")?;
            ensure!(["counter", "gauge"].contains(&kind), "{line}");
            ensure!(!typed.contains(&name), "{line}");
            typed.push(name);
        } else {
            let (key, value) = line.rsplit_once(' ').context("no value")?;
            let name = key.split('{').next().unwrap_or_default();
            // Of the family that was begun last.
            ensure!(
                typed.last() == Some(&name) && helped.last() == Some(&name),
                "{line}"
            );
            let before = samples.insert(key.to_owned(), value.parse()?);
            ensure!(before.is_none(), "twice: {line}");
        }
    }
    ensure!(page.ends_with('\n') && !samples.is_empty(), "{page}");
    Ok(samples)
}

fn metrics_say_the_same() -> Result<()> {
    let mut options = options(2)?;
    options.agent_args = ["--metrics", "127.0.0.1:9100"].map(str::to_owned).into();
    let cluster = Cluster::with(&options)?;
    open_shop(&cluster, [1, 2])?;
    let mut taken = Counts::new();
    let answers = cluster.client(OUTSIDE).tcp("198.18.0.1", 8080, 10)?;
    add(&mut taken, &answers);
    for host in [1, 2] {
        let name = format!("b{host}");
        eventually("the page says what inspect says", || {
            let found = endpoint(&inspect(&cluster, host)?, &name)?;
            let samples = scrape(&cluster, host)?;
            let of = |metric: &str, direction: &str| -> Result<u64> {
                let id = found["id"].as_str().context("no id")?;
                let key = format!(
                    "{metric}{{service=\"shop\",backend=\"{name}\",network=\"web\",id=\"{id}\"{direction}}}"
                );
                let value = samples.get(&key).copied();
                value.with_context(|| format!("{key} is not in {samples:?}"))
            };
            let totals = &found["totals"];
            let counted = of("weft_backend_connections_total", "")?;
            ensure!(counted == number(totals, "connections")?, "{found}");
            ensure!(
                counted == taken.get(&name).copied().unwrap_or(0),
                "{taken:?}"
            );
            for (direction, packets, bytes) in [
                ("in", "packets_in", "bytes_in"),
                ("out", "packets_out", "bytes_out"),
            ] {
                let label = format!(",direction=\"{direction}\"");
                let found = of("weft_backend_packets_total", &label)?;
                ensure!(found == number(totals, packets)?, "{totals}");
                let found = of("weft_backend_bytes_total", &label)?;
                ensure!(found == number(totals, bytes)?, "{totals}");
            }
            Ok(())
        })?;
        let samples = scrape(&cluster, host)?;
        for (key, at_least) in [
            ("weft_leader_known", 1),
            ("weft_raft_term", 1),
            ("weft_nodes{status=\"ready\"}", 2),
            ("weft_service_backends{service=\"shop\",state=\"ready\"}", 2),
            ("weft_applied_revision", 1),
            ("weft_reconcile_passes_total", 1),
            ("weft_health_probes_total", 1),
            ("weft_guard_dropped_total{family=\"ipv4\"}", 0),
            ("weft_ingress_dropped_total{reason=\"not-published\"}", 0),
            ("weft_control_refused_total{reason=\"overload\"}", 0),
            ("process_resident_memory_bytes", 1 << 20),
        ] {
            let found = samples.get(key);
            ensure!(found >= Some(&at_least), "{key} is {found:?}");
        }
    }
    // Nowhere else than where it was wanted.
    let elsewhere = "exec 3<>/dev/tcp/198.18.0.1/9100";
    let ran = cluster.run(2, &["bash", "-c", elsewhere])?;
    ensure!(ran.status != 0, "{ran:?}");
    // What is no address, and one that is in use.
    let agent = "agent --data-dir /run/d2 --run-dir /run/r2 --metrics";
    let ran = cluster.try_weft(2, &format!("{agent} :9100"))?;
    ran.is_refused("weft agent", 2, &[":9100", "is no ADDR:PORT, such as"])?;
    let ran = cluster.try_weft(2, &format!("{agent} 127.0.0.1:9100"))?;
    let said = "metrics cannot be served at 127.0.0.1:9100";
    ensure!(ran.status == 1 && ran.stderr.contains(said), "{ran:?}");
    Ok(())
}
