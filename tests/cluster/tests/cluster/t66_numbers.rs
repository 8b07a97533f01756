//! What services take and answer is counted: as the backends count it, whoever asks, and on after
//! the agent's end.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_cluster_tests::backend::{Answer, spread};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::eventually;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[(
    "numbers::they_are_what_the_backends_count_and_outlive_the_agent",
    as_the_backends_count,
)];

/// By name of the backend.
type Counts = BTreeMap<String, u64>;

/// Three hosts with the service `shop`, published, and a backend on each of the first two; a
/// client's container on the first and on the third.
fn shop() -> Result<Cluster> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create web")?;
    let create = "service create shop --network web --health tcp:80 --publish 8080:80";
    cluster.weft(1, create)?;
    for host in [1, 2] {
        let name = format!("b{host}");
        cluster.backend(host, "web", &name, 80, "--service shop")?;
        eventually(&format!("{name} is ready"), || {
            let found = endpoint(&inspect(&cluster, 1)?, &name)?;
            ensure!(found["state"] == "ready", "{found}");
            Ok(())
        })?;
    }
    cluster.weft(1, "wait --service shop --timeout 60s")?;
    for host in [1, 3] {
        cluster.container(host, "web", &format!("c{host}"))?;
    }
    cluster.settle(1)?;
    Ok(cluster)
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
    let cluster = shop()?;
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
