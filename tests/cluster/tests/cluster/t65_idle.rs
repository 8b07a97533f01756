//! Connections on which nothing is said for long.

use anyhow::{Result, ensure};
use weft_cluster_tests::backend::Client;
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::eventually;
use weft_cluster_tests::talk::Talk;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "idle::a_connection_outlives_twenty_idle_minutes",
        twenty_minutes,
    ),
    (
        "idle::flows_have_the_idle_time_of_their_service_on_every_hop",
        of_the_service,
    ),
];

const PORT: u16 = 80;
const PUBLISHED: u16 = 8080;
/// The host that those outside come to; the backend is on h2.
const ENTRY: &str = "198.18.0.3";
/// How long the kernel remembers an established connection where nobody changed that (five days).
const USUAL: u32 = 432_000;

/// Three hosts with the service `web`, a backend of it on h2, and a container `c1` on h1.
fn web(options: &str) -> Result<(Cluster, String)> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create app")?;
    let create = format!(
        "service create web --network app --publish {PUBLISHED}:{PORT} \
         --publish {PUBLISHED}:{PORT}/udp {options}"
    );
    cluster.weft(1, &create)?;
    cluster.container(1, "app", "c1")?;
    cluster.backend(2, "app", "b2", PORT, "--service web")?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    let service = cluster.json(1, "service inspect web")?;
    let vip = service["networks"][0]["vip"].as_str().unwrap_or_default();
    Ok((cluster, vip.to_owned()))
}

/// Where the flows of a connection are followed, each with the port that they go to.
fn hops(cluster: &Cluster) -> [(&'static str, Client<'_>, u16); 3] {
    [
        (
            "the client's container",
            cluster.client_in(1, "c1.app"),
            PORT,
        ),
        ("the entry node", cluster.client(3), PUBLISHED),
        ("the backend's node", cluster.client(2), PUBLISHED),
    ]
}

/// A connection from outside through the entry node, and one from the container.
fn connections(cluster: &Cluster, vip: &str) -> Result<[Talk; 2]> {
    let outside = cluster.client(OUTSIDE).hold(ENTRY, PUBLISHED)?;
    let inside = cluster.client_in(1, "c1.app").hold(vip, PORT)?;
    Ok([outside, inside])
}

fn all_answer(connections: &mut [Talk]) -> Result<()> {
    for connection in connections {
        connection.tell()?;
        let line = connection.line()?;
        ensure!(line.starts_with("b2 "), "{line}");
    }
    Ok(())
}

/// All segments are acknowledged: until then the kernel has a time of its own for a flow.
fn are_left(cluster: &Cluster, seconds: std::ops::RangeInclusive<u32>) -> Result<()> {
    for (hop, client, port) in hops(cluster) {
        eventually(hop, || {
            let left = client.flows(port)?;
            let good = left.iter().all(|left| seconds.contains(left));
            ensure!(good && !left.is_empty(), "{left:?} s left");
            Ok(())
        })?;
    }
    Ok(())
}

fn twenty_minutes() -> Result<()> {
    let (cluster, vip) = web("")?;
    let mut held = connections(&cluster, &vip)?;
    all_answer(&mut held)?;
    are_left(&cluster, USUAL - 1000..=USUAL)?;
    // As if nobody had said anything for so long.
    for (hop, client, port) in hops(&cluster) {
        let left = client.let_idle(port, 20 * 60)?;
        let good = left.iter().all(|left| *left <= USUAL - 20 * 60);
        ensure!(good && !left.is_empty(), "{hop}: {left:?}");
    }
    all_answer(&mut held)?;
    are_left(&cluster, USUAL - 1000..=USUAL)
}

fn of_the_service() -> Result<()> {
    let (cluster, vip) = web("--idle-timeout 5m")?;
    let service = cluster.json(1, "service inspect web")?;
    ensure!(service["idle_timeout_s"] == 300, "{service}");
    let mut held = connections(&cluster, &vip)?;
    all_answer(&mut held)?;
    let mut datagrams = [
        cluster.client(OUTSIDE).hold_udp(ENTRY, PUBLISHED)?,
        cluster.client_in(1, "c1.app").hold_udp(&vip, PORT)?,
    ];
    all_answer(&mut datagrams)?;
    are_left(&cluster, 251..=300)?;
    drop((held, datagrams));

    // Taken away, the next connection is remembered as long as the kernel does.
    cluster.weft(2, "service update web --idle-timeout 0s")?;
    cluster.settle(2)?;
    let service = cluster.json(1, "service inspect web")?;
    ensure!(service["idle_timeout_s"].is_null(), "{service}");
    let mut held = connections(&cluster, &vip)?;
    all_answer(&mut held)?;
    for (hop, client, port) in hops(&cluster) {
        eventually(hop, || {
            let left = client.flows(port)?;
            let most = left.iter().max();
            ensure!(most.is_some_and(|left| *left >= 431_000), "{left:?} s left");
            Ok(())
        })?;
    }
    Ok(())
}
