//! Health checks: which backends take connections.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use nix::sys::signal::Signal;
use weft_agent::api::types::{Event, EventObject};
use weft_agent::exit::CliError;
use weft_cluster_tests::api::Api;
use weft_cluster_tests::backend::spread;
use weft_cluster_tests::cluster::{Cluster, Running};
use weft_cluster_tests::weft::probe_exe;
use weft_cluster_tests::{PATIENCE, eventually};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "health::only_healthy_backends_take_connections_on_every_node",
        only_healthy,
    ),
    (
        "health::a_command_decides_and_says_why_not",
        a_command_decides,
    ),
    (
        "health::an_agent_that_was_away_finds_out_anew",
        agent_was_away,
    ),
];

type Events = BoxStream<'static, Result<Event, CliError>>;

const HOSTS: usize = 3;
const PORT: u16 = 7000;
/// Enough that round robin comes to every backend.
const REQUESTS: usize = 12;

/// Three hosts with a client each, `c1` to `c3`, and a service with this health check. It is made
/// often, and is not late on a machine under load.
fn cluster(health: &str) -> Result<Cluster> {
    let cluster = Cluster::up(HOSTS)?;
    cluster.weft(1, "network create web")?;
    let create = "weft service create api --network web --health-interval 200ms \
                  --health-timeout 30s --health";
    let create: Vec<&str> = create.split_whitespace().chain([health]).collect();
    cluster.sh(1, &create)?;
    for host in 1..=HOSTS {
        cluster.container(host, "web", &format!("c{host}"))?;
    }
    Ok(cluster)
}

fn container_without_server(cluster: &Cluster, host: usize, name: &str) -> Result<()> {
    let run = format!("run --network web --name {name} --service api --detach -- sleep infinity");
    cluster.weft(host, &run).map(drop)
}

/// Starts a server in a container that has none.
fn serve(cluster: &Cluster, host: usize, name: &str) -> Result<Running> {
    let probe = probe_exe()?;
    let probe = probe.to_str().context("a path that is not UTF-8")?;
    let (endpoint, port) = (format!("{name}.web"), PORT.to_string());
    let argv = ["weft", "exec", &endpoint, "--", probe, "serve", name, &port];
    cluster.spawn(host, &argv)
}

/// An endpoint's state as a backend, as any host shows it.
fn backend_is(cluster: &Cluster, asked: usize, name: &str, state: &str) -> Result<()> {
    eventually(&format!("{name} is {state}"), || {
        let shown = cluster.json(asked, &format!("endpoint inspect {name}.web"))?;
        ensure!(shown["backend"] == state, "{shown}");
        Ok(())
    })
}

fn vip(cluster: &Cluster) -> Result<String> {
    let service = cluster.json(1, "service inspect api")?;
    let vip = service["networks"][0]["vip"].as_str();
    Ok(vip.context("no address")?.to_owned())
}

/// Requests of one host's client; fails when one of them does.
fn asked(cluster: &Cluster, host: usize, vip: &str) -> Result<BTreeSet<String>> {
    let client = cluster.client_in(host, &format!("c{host}.web"));
    Ok(spread(&client.tcp(vip, PORT, REQUESTS)?)
        .into_keys()
        .collect())
}

/// Waits until the clients of all hosts are answered, by exactly these.
fn answered_by(cluster: &Cluster, vip: &str, names: &[&str]) -> Result<()> {
    for host in 1..=HOSTS {
        eventually(&format!("{names:?} answer h{host}"), || {
            let found = asked(cluster, host, vip)?;
            ensure!(found.iter().eq(names), "{found:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn only_healthy() -> Result<()> {
    let cluster = cluster("tcp:7000")?;
    cluster.backend(1, "web", "b1", PORT, "--service api")?;
    cluster.backend(2, "web", "b2", PORT, "--service api")?;
    // Nothing listens here: a connection that came would be refused.
    container_without_server(&cluster, 3, "late")?;
    let vip = vip(&cluster)?;
    answered_by(&cluster, &vip, &["b1", "b2"])?;
    backend_is(&cluster, 1, "late", "unhealthy")?;
    for host in 1..=HOSTS {
        asked(&cluster, host, &vip)?;
    }
    let inspected = cluster.json(3, "endpoint inspect late.web")?;
    let why = inspected["backend_error"].as_str().context("no reason")?;
    ensure!(why.contains("refuses connections"), "{inspected}");
    for _ in 0..2 {
        let server = serve(&cluster, 3, "late")?;
        eventually("late listens", || {
            cluster.client_in(3, "late.web").tcp("127.0.0.1", PORT, 1)
        })?;
        let started = Instant::now();
        answered_by(&cluster, &vip, &["b1", "b2", "late"])?;
        println!(
            "a new healthy backend answered every node after {:?}",
            started.elapsed()
        );
        server.stop(Signal::SIGTERM)?;
        answered_by(&cluster, &vip, &["b1", "b2"])?;
        backend_is(&cluster, 2, "late", "unhealthy")?;
    }
    Ok(())
}

fn a_command_decides() -> Result<()> {
    let cluster = cluster("exec:test -e /run/weft/serves")?;
    cluster.backend(2, "web", "b2", PORT, "--service api")?;
    backend_is(&cluster, 1, "b2", "unhealthy")?;
    let shown = cluster.json(2, "endpoint inspect b2.web")?;
    let why = "the command exited with status 1";
    ensure!(shown["backend_error"] == why, "{shown}");
    let vip = vip(&cluster)?;
    cluster.sh(2, &["touch", "/run/weft/serves"])?;
    answered_by(&cluster, &vip, &["b2"])?;
    told_by_an_event(&cluster, why)?;
    backend_is(&cluster, 3, "b2", "unhealthy")?;
    // Without a check it is there, and that is all that is asked for.
    cluster.weft(1, "service update api --health none")?;
    answered_by(&cluster, &vip, &["b2"])
}

/// Takes away what the command asks for; the backend's node tells of it.
fn told_by_an_event(cluster: &Cluster, why: &str) -> Result<()> {
    Api::of(cluster, 2)?.ask(async |client| {
        let events = client.events().await?;
        Ok(take_away(cluster, events, why).await)
    })?
}

async fn take_away(cluster: &Cluster, mut events: Events, why: &str) -> Result<()> {
    cluster.sh(2, &["rm", "/run/weft/serves"])?;
    let told = async {
        while let Some(event) = events.next().await {
            if let Some(EventObject::Endpoint(endpoint)) = event?.object
                && endpoint.backend_error.as_deref() == Some(why)
            {
                return Ok(());
            }
        }
        bail!("the events ended")
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .context("no event says why")?
}

fn agent_was_away() -> Result<()> {
    let cluster = cluster("tcp:7000")?;
    cluster.backend(1, "web", "b1", PORT, "--service api")?;
    container_without_server(&cluster, 2, "b2")?;
    let server = serve(&cluster, 2, "b2")?;
    let vip = vip(&cluster)?;
    answered_by(&cluster, &vip, &["b1", "b2"])?;
    // That the agents find out anew changes nothing for the clients.
    let asking = cluster.client_in(3, "c3.web").start(&vip, PORT, 2000)?;
    for host in 1..=2 {
        cluster.host(host)?.kill_agent()?;
        start_agent(&cluster, host)?;
        cluster.settle(3)?;
        // A node that is seen to be down for a while takes its backend along.
        answered_by(&cluster, &vip, &["b1", "b2"])?;
    }
    let tally = asking.finish()?;
    ensure!(tally.failed == 0 && tally.answers.len() == 2, "{tally:?}");
    // What has changed while nobody looked is noticed.
    cluster.host(2)?.kill_agent()?;
    server.stop(Signal::SIGTERM)?;
    start_agent(&cluster, 2)?;
    answered_by(&cluster, &vip, &["b1"])?;
    backend_is(&cluster, 3, "b2", "unhealthy")
}

fn start_agent(cluster: &Cluster, host: usize) -> Result<()> {
    cluster.host(host)?.start_agent()?;
    Ok(cluster.host(host)?.wait_ready(PATIENCE)?)
}
