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
    ("drivers::routes_of_a_network_are_in_its_endpoints", routes),
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

/// Which links `ip` told of: made anew, one has another number.
fn numbers(links: &str) -> Vec<String> {
    let words = |line: &str| {
        line.split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" ")
    };
    links.lines().map(words).collect()
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
    let before = numbers(&links()?);
    cluster.host(1)?.kill_agent()?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(weft_cluster_tests::PATIENCE)?;
    reaches(&cluster, 1, "a.local", &b)?;
    conforms(&cluster, 1)?;
    let after = numbers(&links()?);
    ensure!(before == after, "{before:?} became {after:?}");
    for name in ["a.local", "b.local"] {
        cluster.weft(1, &format!("detach {name} --force"))?;
    }
    cluster.weft(1, "network rm local")?;
    conforms(&cluster, 1)
}

/// `ip` in the namespace of a container.
fn ip_in(cluster: &Cluster, host: usize, endpoint: &str, args: &str) -> Result<String> {
    let mut argv = vec!["weft", "exec", endpoint, "--", "ip"];
    argv.extend(args.split(' '));
    cluster.sh(host, &argv)
}

/// A router between two networks: endpoints of the one reach those of the other by it.
fn routes() -> Result<()> {
    let cluster = Cluster::looking_again_every("1s")?;
    for (name, own, route) in [
        ("red", "10.81.0.0/24", "10.82.0.0/24=10.81.0.9"),
        ("blue", "10.82.0.0/24", "10.81.0.0/24=10.82.0.9"),
    ] {
        let create = format!("network create {name} --internal --subnet {own} --route {route}");
        cluster.weft(1, &create)?;
    }
    cluster.sh(1, &["ip", "netns", "add", "router"])?;
    let forward = ["ip", "netns", "exec", "router", "sysctl", "-qw"];
    cluster.sh(1, &[&forward[..], &["net.ipv4.ip_forward=1"]].concat())?;
    for (network, address) in [("red", "10.81.0.9"), ("blue", "10.82.0.9")] {
        let attach = format!("attach {network} --netns /run/netns/router --name r --ip {address}");
        cluster.weft(1, &attach)?;
    }
    cluster.container(1, "red", "a")?;
    let b = cluster.container(2, "blue", "b")?;
    reaches(&cluster, 1, "a.red", &b)?;
    let shown = || ip_in(&cluster, 1, "a.red", "route show 10.82.0.0/24");
    ensure!(
        shown()?.contains("via 10.81.0.9 dev eth0 proto 121"),
        "{}",
        shown()?
    );
    let own = ip_in(&cluster, 1, "r.red", "route show proto 121")?;
    ensure!(own.is_empty(), "the router has {own}");

    ip_in(&cluster, 1, "a.red", "route del 10.82.0.0/24")?;
    eventually("the route is put back", || {
        ensure!(shown()?.contains("10.81.0.9"), "it is gone");
        Ok(())
    })?;
    // While it lives; what the container routes itself stays.
    ip_in(
        &cluster,
        1,
        "a.red",
        "route add 10.83.0.0/24 via 10.81.0.77",
    )?;
    let add = "network update red --route-rm 10.82.0.0/24 --route-add 10.83.0.0/24=10.81.0.9";
    cluster.weft(1, add)?;
    cluster.settle(1)?;
    ensure!(shown()?.is_empty(), "{}", shown()?);
    ensure!(!pings(&cluster, 1, "a.red", &b)?, "there is a way");
    let other = ip_in(&cluster, 1, "a.red", "route get 10.83.0.5")?;
    ensure!(other.contains("via 10.81.0.77"), "{other}");
    let found = cluster.json(1, "network inspect red")?;
    let routes = serde_json::json!([{"destination": "10.83.0.0/24", "via": "10.81.0.9"}]);
    ensure!(found["routes"] == routes, "{found}");
    cluster.weft(1, "network update red --route-add 10.82.0.0/24=10.81.0.9")?;
    reaches(&cluster, 1, "a.red", &b)?;

    for (args, says) in [
        (
            "red --route-add 10.84.0.0/24=10.85.0.1",
            "leads outside network red",
        ),
        (
            "red --route-add 10.82.0.0/24=10.81.0.8",
            "has a route to 10.82.0.0/24 already",
        ),
        (
            "red --route-rm 10.99.0.0/24",
            "has no route to 10.99.0.0/24",
        ),
    ] {
        cluster.refused(1, &format!("network update {args}"), 1, &[says])?;
    }
    Ok(())
}
