use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use weft_agent::api::types::{AttachRequest, NetworkCreateRequest};
use weft_cluster_tests::api::Api;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::echo::now_ns;
use weft_cluster_tests::talk::Talk;

use crate::state::State;
use crate::table::Table;

/// Rounds that are not counted, and rounds that are.
const WARM: usize = 10;
const ROUNDS: usize = 150;
const ROUNDS_FIRST: usize = 50;
/// A reply that comes later than this had to wait for a timer of the neighbour protocol.
const LATE: Duration = Duration::from_millis(500);
/// Namespaces that take turns.
const NAMESPACES: usize = 4;

/// From the request to the answer, and to the first reply from a container on another host.
pub(crate) fn attach(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    let cluster = state.cluster(3)?;
    for number in 0..NAMESPACES {
        cluster.sh(1, &["ip", "netns", "add", &format!("ns{number}")])?;
    }
    for (network, resident, rounds, what) in [
        ("web", true, ROUNDS, "attach"),
        (
            "new",
            false,
            ROUNDS_FIRST,
            "attach, the first of its network on a node",
        ),
    ] {
        cluster.weft(1, &format!("network create {network}"))?;
        if resident {
            cluster.container(1, network, "resident")?;
        }
        let peer = cluster.container(2, network, "peer")?;
        cluster.settle(1)?;
        let times = rounds_of(&cluster, network, &peer, rounds)?;
        table.times(&format!("{what}: request to answer"), &times.answers);
        let reply = format!("{what}: request to first ping reply from another host");
        table.times(&reply, &times.replies);
        let late = times.replies.iter().filter(|time| **time > LATE).count();
        let share = format!("{:.1}", 100.0 * late as f64 / times.replies.len() as f64);
        table.add(
            &format!("{what}: replies later than {LATE:?}"),
            share,
            "%",
            String::new(),
        );
        table.times(&what.replace("attach", "detach"), &times.detaches);
    }
    Ok(())
}

#[derive(Default)]
struct Times {
    answers: Vec<Duration>,
    replies: Vec<Duration>,
    detaches: Vec<Duration>,
}

fn rounds_of(cluster: &Cluster, network: &str, peer: &str, rounds: usize) -> Result<Times> {
    let api = Api::of(cluster, 1)?;
    let mut times = Times::default();
    for round in 0..WARM + rounds {
        let path = format!("/run/netns/ns{}", round % NAMESPACES);
        let enter = format!("--net={path}");
        let through = ["nsenter", enter.as_str()];
        let mut probe = Talk::start(cluster, 1, &through, &["echo-when-told", peer])?;
        let request = AttachRequest {
            netns: Some(PathBuf::from(path)),
            ..AttachRequest::new(network)
        };
        let (asked, asked_ns) = (Instant::now(), now_ns());
        let endpoint = api.ask(async |client| client.attach(&request).await)?;
        let answered = asked.elapsed();
        probe.tell()?;
        let replied: u64 = probe.line()?.parse()?;
        let detaching = Instant::now();
        api.ask(async |client| client.detach(&endpoint.id, false).await)?;
        if round >= WARM {
            times.answers.push(answered);
            times
                .replies
                .push(Duration::from_nanos(replied.saturating_sub(asked_ns)));
            times.detaches.push(detaching.elapsed());
        }
    }
    Ok(times)
}

/// From the request to the answer, on a manager.
pub(crate) fn network(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    let cluster = state.cluster(3)?;
    let api = Api::of(&cluster, 1)?;
    let mut times = Vec::new();
    for round in 0..WARM + ROUNDS {
        let request = NetworkCreateRequest {
            name: format!("n{round}"),
            ..Default::default()
        };
        let asked = Instant::now();
        api.ask(async |client| client.network_create(&request).await)?;
        if round >= WARM {
            times.push(asked.elapsed());
        }
    }
    table.times("network create, request to answer", &times);
    Ok(())
}
