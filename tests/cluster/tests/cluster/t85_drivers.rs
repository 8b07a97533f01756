//! Networks of other drivers than overlay: which endpoints reach one another, by what packets, and that
//! addresses are given once in the cluster all the same.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use weft_agent::lab::PingSpec;
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::talk::Talk;
use weft_cluster_tests::{conform, eventually};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "drivers::a_bridge_joins_the_containers_of_one_node",
        bridge_is_local,
    ),
    (
        "drivers::a_bridge_is_mended_adopted_and_removed",
        bridge_life,
    ),
];

const OUTSIDE4: &str = "198.18.0.254";
/// Where servers listen that are in no container.
const PORT: u16 = 7000;

/// A server outside of all hosts, until it is dropped.
fn outside(cluster: &Cluster) -> Result<Talk> {
    let port = PORT.to_string();
    let talk = Talk::begin(cluster, OUTSIDE, &[], &["serve", "world", &port])?;
    eventually("the server outside listens", || {
        cluster.client(OUTSIDE).tcp("127.0.0.1", PORT, 1).map(drop)
    })?;
    Ok(talk)
}

/// Whether a container has an answer from an address.
fn pings(cluster: &Cluster, host: usize, from: &str, to: &str) -> Result<bool> {
    let to: Ipv4Addr = to.parse()?;
    let report = cluster.host(host)?.ping(Some(from), &PingSpec::once(to))?;
    Ok(report.lost == 0)
}

fn reaches(cluster: &Cluster, host: usize, from: &str, to: &str) -> Result<()> {
    eventually(&format!("{from} reaches {to}"), || {
        ensure!(pings(cluster, host, from, to)?, "no answer");
        Ok(())
    })
}

/// As the node that `host` is sees its kernel: as it should be.
fn conforms(cluster: &Cluster, host: usize) -> Result<()> {
    eventually(&format!("h{host} is as wanted"), || {
        conform::check(cluster, host)
    })
}

fn bridge_is_local() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create local --driver bridge")?;
    let shown = cluster.json(1, "network inspect local")?;
    ensure!(
        shown["driver"] == "bridge" && shown["vni"].is_null() && shown["mtu"] == 1500,
        "{shown}"
    );
    let mut addresses = BTreeSet::new();
    for (host, name) in [(1, "a1"), (1, "b1"), (2, "a2"), (2, "b2")] {
        cluster.container(host, "local", name)?;
        addresses.insert(cluster.address(host, &format!("{name}.local"))?);
    }
    ensure!(
        addresses.len() == 4,
        "an address was given twice: {addresses:?}"
    );
    for host in 1..=2 {
        cluster.settle(host)?;
        let (own, other) = (format!("a{host}.local"), 3 - host);
        let near = cluster.address(host, &format!("b{host}.local"))?;
        reaches(&cluster, host, &own, &near)?;
        let far = cluster.address(host, &format!("b{other}.local"))?;
        ensure!(!pings(&cluster, host, &own, &far)?, "{own} reaches {far}");
        conforms(&cluster, host)?;
    }
    // Out of it as out of any other network, and not out of one that is internal.
    let _outside = outside(&cluster)?;
    let answers = cluster.client_in(1, "a1.local").tcp(OUTSIDE4, PORT, 1)?;
    let as_host = |peer: IpAddr| peer.to_string() == "198.18.0.1";
    ensure!(answers.iter().all(|a| as_host(a.peer)), "{answers:?}");
    cluster.weft(1, "network create shut --driver bridge --internal")?;
    cluster.container(1, "shut", "c")?;
    let client = cluster.client_in(1, "c.shut");
    ensure!(client.tcp(OUTSIDE4, PORT, 1).is_err(), "there is a way out");
    Ok(())
}

fn bridge_life() -> Result<()> {
    let cluster = Cluster::looking_again_every("1s")?;
    cluster.weft(
        1,
        "network create local --driver bridge --subnet 10.77.0.0/24",
    )?;
    cluster.container(1, "local", "a")?;
    cluster.container(1, "local", "b")?;
    cluster.settle(1)?;
    let b = cluster.address(1, "b.local")?;
    reaches(&cluster, 1, "a.local", &b)?;
    let id = cluster.json(1, "network inspect local")?;
    let id = id["id"].as_str().context("no id")?.to_owned();
    let sandbox = format!("--net=/run/weft/netns/{id}");
    cluster.sh(1, &["nsenter", &sandbox, "ip", "link", "del", "br0"])?;
    conforms(&cluster, 1)?;
    reaches(&cluster, 1, "a.local", &b)?;
    // An agent that comes back goes on with what is there.
    let links = || cluster.sh(1, &["nsenter", &sandbox, "ip", "-o", "link"]);
    let before = links()?;
    cluster.host(1)?.kill_agent()?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(weft_cluster_tests::PATIENCE)?;
    reaches(&cluster, 1, "a.local", &b)?;
    conforms(&cluster, 1)?;
    ensure!(before == links()?, "{before} became {}", links()?);
    for name in ["a.local", "b.local"] {
        cluster.weft(1, &format!("detach {name} --force"))?;
    }
    cluster.weft(1, "network rm local")?;
    conforms(&cluster, 1)
}
