//! Published ports: every node answers, and the backend sees the client.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::backend::{Answer, spread};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::eventually;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "ingress::a_connection_to_a_node_that_died_is_reset",
        a_connection_is_reset,
    ),
    (
        "ingress::nothing_is_there_while_no_port_is_published",
        nothing_is_left,
    ),
    (
        "ingress::every_node_answers_and_the_backend_sees_the_client",
        every_node_answers,
    ),
    (
        "ingress::every_node_answers_itself",
        every_node_answers_itself,
    ),
    ("ingress::ipv6_clients_are_seen_too", ipv6_clients),
    (
        "ingress::backends_get_equal_parts_through_every_node",
        equal_parts,
    ),
    (
        "ingress::a_shared_port_keeps_serving_when_ports_change",
        ports_change,
    ),
    (
        "ingress::host_mode_answers_where_the_backends_are",
        host_mode,
    ),
    ("ingress::with_snat_the_backend_sees_the_node", with_snat),
    ("ingress::only_those_who_may_come_in", only_those_who_may),
    (
        "ingress::no_request_fails_while_agents_and_rules_come_and_go",
        agents_and_rules,
    ),
    (
        "ingress::no_request_fails_while_backends_are_replaced",
        backends_replaced,
    ),
    ("ingress::a_node_that_dies_is_left_out", a_node_dies),
];

const OUTSIDE_ADDRESS: &str = "198.18.0.254";

/// A cluster of three with a network and a service on it.
fn publishing(options: &str) -> Result<Cluster> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create app")?;
    // A backend takes nothing before it listens.
    cluster.weft(
        1,
        &format!("service create web --network app --health tcp:80 {options}"),
    )?;
    Ok(cluster)
}

/// A backend of `web` that listens on port 80 and takes traffic on every node.
fn backend(cluster: &Cluster, host: usize, name: &str) -> Result<()> {
    cluster.backend(host, "app", name, 80, "--service web")?;
    serving(cluster, name)
}

/// Waits until a backend is ready in every node's eyes.
fn serving(cluster: &Cluster, name: &str) -> Result<()> {
    eventually(&format!("{name} is ready"), || {
        let service = cluster.json(1, "service inspect web")?;
        let endpoints = service["endpoints"].as_array().context("no endpoints")?;
        let found = endpoints.iter().find(|endpoint| endpoint["name"] == name);
        let found = found.with_context(|| format!("not in {service}"))?;
        ensure!(found["state"] == "ready", "{found}");
        Ok(())
    })?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    Ok(())
}

fn underlay(host: usize) -> String {
    format!("198.18.0.{host}")
}

/// Every answer is one of these names, and from that client.
fn all_from(answers: &[Answer], names: &[&str], client: &str) -> Result<()> {
    let client: IpAddr = client.parse()?;
    for answer in answers {
        ensure!(names.contains(&answer.name.as_str()), "{answer:?}");
        ensure!(answer.peer == client, "{answer:?} is not {client}");
    }
    Ok(())
}

fn every_node_answers() -> Result<()> {
    let cluster = publishing("--publish 8080:80 --publish 8080:80/udp")?;
    backend(&cluster, 2, "b2")?;
    let outside = cluster.client(OUTSIDE);
    for host in 1..=3 {
        let to = underlay(host);
        all_from(&outside.tcp(&to, 8080, 5)?, &["b2"], OUTSIDE_ADDRESS)?;
        all_from(&outside.udp(&to, 8080, 5)?, &["b2"], OUTSIDE_ADDRESS)?;
    }
    // A connection that lasts.
    let mut held = outside.hold(&underlay(3), 8080)?;
    for _ in 0..2 {
        held.tell()?;
        ensure!(held.line()? == format!("b2 {OUTSIDE_ADDRESS}"));
    }
    Ok(())
}

fn every_node_answers_itself() -> Result<()> {
    let cluster = publishing("--publish 8080:80 --publish 8080:80/udp")?;
    backend(&cluster, 2, "b2")?;
    for host in 1..=3 {
        for to in [underlay(host).as_str(), "127.0.0.1", "::1"] {
            let answers = cluster.client(host).tcp(to, 8080, 3);
            let answers = answers.with_context(|| format!("h{host} to {to}"))?;
            ensure!(spread(&answers).len() == 1, "{answers:?}");
        }
        let answers = cluster.client(host).udp("127.0.0.1", 8080, 3)?;
        ensure!(spread(&answers).len() == 1, "{answers:?}");
    }
    // Another node of the cluster is a client like every other.
    let answers = cluster.client(3).tcp(&underlay(1), 8080, 3)?;
    all_from(&answers, &["b2"], &underlay(3))
}

fn ipv6_clients() -> Result<()> {
    let cluster = publishing("--publish 8080:80 --publish 8080:80/udp")?;
    backend(&cluster, 2, "b2")?;
    let address = |host: usize| match host {
        OUTSIDE => "fd00:18::fe".to_owned(),
        host => format!("fd00:18::{host}"),
    };
    for host in [1, 2, 3, OUTSIDE] {
        let address = format!("{}/64", address(host));
        let argv = ["ip", "-6", "addr", "add", &address, "dev", "eth0", "nodad"];
        cluster.sh(host, &argv)?;
    }
    let outside = cluster.client(OUTSIDE);
    for host in 1..=3 {
        let answers = outside.tcp(&address(host), 8080, 3)?;
        all_from(&answers, &["b2"], &address(OUTSIDE))?;
        let answers = outside.udp(&address(host), 8080, 3)?;
        all_from(&answers, &["b2"], &address(OUTSIDE))?;
    }
    Ok(())
}

fn equal_parts() -> Result<()> {
    let cluster = publishing("--publish 8080:80")?;
    for (host, name) in [(1, "a"), (1, "b"), (3, "c")] {
        backend(&cluster, host, name)?;
    }
    for host in 1..=3 {
        let answers = cluster.client(OUTSIDE).tcp(&underlay(host), 8080, 30)?;
        all_from(&answers, &["a", "b", "c"], OUTSIDE_ADDRESS)?;
        let spread = spread(&answers);
        let even = spread.len() == 3 && spread.values().all(|count| (9..=11).contains(count));
        ensure!(even, "through h{host}: {spread:?}");
    }
    Ok(())
}

fn ports_change() -> Result<()> {
    let cluster = publishing("--publish 8080:80 --publish 8081:80")?;
    backend(&cluster, 2, "b2")?;
    let outside = cluster.client(OUTSIDE);
    let asking = outside.start(&underlay(1), 8080, 2_000)?;
    cluster.weft(
        1,
        "service update web --publish-rm 8081 --publish-add 8082:80",
    )?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    for host in 1..=3 {
        outside.tcp(&underlay(host), 8082, 1)?;
        let refused = outside.tcp(&underlay(host), 8081, 1);
        ensure!(refused.is_err(), "8081 of h{host} still answers");
    }
    let tally = asking.finish()?;
    ensure!(tally.failed == 0 && !tally.answers.is_empty(), "{tally:?}");
    cluster.weft(1, "service rm web")?;
    // Both are free for another.
    let other = "service create other --network app --publish 8080:80 --publish 8082:80";
    cluster.weft(1, other)?;
    cluster.settle(1)?;
    ensure!(
        outside.tcp(&underlay(1), 8080, 1).is_err(),
        "no backend is left"
    );
    Ok(())
}

fn host_mode() -> Result<()> {
    let cluster = publishing("--publish published=8080,target=80,mode=host")?;
    backend(&cluster, 1, "a")?;
    backend(&cluster, 2, "b")?;
    let outside = cluster.client(OUTSIDE);
    all_from(
        &outside.tcp(&underlay(1), 8080, 4)?,
        &["a"],
        OUTSIDE_ADDRESS,
    )?;
    all_from(
        &outside.tcp(&underlay(2), 8080, 4)?,
        &["b"],
        OUTSIDE_ADDRESS,
    )?;
    ensure!(outside.tcp(&underlay(3), 8080, 1).is_err(), "h3 answers");
    Ok(())
}

fn with_snat() -> Result<()> {
    let cluster = publishing("--publish published=8080,target=80,source=snat")?;
    backend(&cluster, 2, "b2")?;
    let node = cluster.json(1, "node inspect h1")?;
    let answers = cluster.client(OUTSIDE).tcp(&underlay(1), 8080, 3)?;
    let outside: IpAddr = OUTSIDE_ADDRESS.parse()?;
    for answer in &answers {
        ensure!(answer.peer != outside, "{answer:?} ({node})");
    }
    ensure!(answers.len() == 3, "{answers:?}");
    Ok(())
}

/// What an operator would find of published ports on a host.
fn traces(cluster: &Cluster, host: usize) -> Result<Vec<String>> {
    let links = cluster.sh(host, &["ip", "-o", "link"])?;
    let tables = cluster.sh(host, &["nft", "list", "tables"])?;
    let rules4 = cluster.sh(host, &["ip", "-4", "rule"])?;
    let rules6 = cluster.sh(host, &["ip", "-6", "rule"])?;
    let sandboxes = cluster.sh(host, &["ls", "/run/weft/netns", "/run/weft"])?;
    let all = [links, tables, rules4, rules6, sandboxes].concat();
    let ours = [
        "weft-gw",
        "wf-ingress",
        "weft-ports",
        "weft-ingress",
        "fwmark",
        "gateway",
    ];
    let found = ours.into_iter().filter(|word| all.contains(word));
    Ok(found.map(str::to_owned).collect())
}

fn nothing_is_left() -> Result<()> {
    let cluster = Cluster::up(3)?;
    // Such a container has no way to its host but that of published ports.
    cluster.weft(1, "network create app --internal")?;
    cluster.weft(1, "service create web --network app --health tcp:80")?;
    backend(&cluster, 1, "a")?;
    ensure!(
        traces(&cluster, 1)?.is_empty(),
        "{:?}",
        traces(&cluster, 1)?
    );
    cluster.weft(1, "service update web --publish-add 8080:80")?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    cluster.client(OUTSIDE).tcp(&underlay(2), 8080, 2)?;
    let all = [
        "weft-gw",
        "wf-ingress",
        "weft-ports",
        "weft-ingress",
        "fwmark",
        "gateway",
    ];
    ensure!(traces(&cluster, 2)? == all, "{:?}", traces(&cluster, 2)?);
    cluster.weft(1, "service rm web")?;
    for host in 1..=3 {
        eventually("everything of it is gone", || {
            let left = traces(&cluster, host)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn only_those_who_may() -> Result<()> {
    let may = "published=8080,target=80,allow-from=198.18.0.254/32";
    let cluster = publishing(&format!("--publish {may} --publish 8081:80"))?;
    backend(&cluster, 2, "b2")?;
    cluster.client(OUTSIDE).tcp(&underlay(1), 8080, 2)?;
    cluster.client(3).tcp(&underlay(1), 8081, 1)?;
    ensure!(
        cluster.client(3).tcp(&underlay(1), 8080, 1).is_err(),
        "h3 comes in"
    );
    Ok(())
}

fn agents_and_rules() -> Result<()> {
    let cluster = publishing("--publish 8080:80")?;
    backend(&cluster, 2, "b2")?;
    let outside = cluster.client(OUTSIDE);
    let through: Vec<_> = [1, 2]
        .map(|host| outside.start(&underlay(host), 8080, 1_000))
        .into_iter()
        .collect::<Result<_>>()?;
    for host in [1, 2] {
        cluster.host(host)?.kill_agent()?;
        cluster.host(host)?.start_agent()?;
        cluster
            .host(host)?
            .wait_ready(weft_cluster_tests::PATIENCE)?;
        eventually("the agent is back", || {
            let status = cluster.json(host, "status")?;
            ensure!(status["applied"] == status["revision"], "{status}");
            ensure!(status["revision"].as_u64() > Some(0), "{status}");
            Ok(())
        })?;
        cluster.sh(host, &["nft", "flush", "ruleset"])?;
    }
    for asking in through {
        let tally = asking.finish()?;
        ensure!(
            tally.failed == 0 && tally.answers.contains_key("b2"),
            "{tally:?}"
        );
    }
    Ok(())
}

fn backends_replaced() -> Result<()> {
    let cluster = publishing("--publish 8080:80 --drain-timeout 1s")?;
    backend(&cluster, 1, "a1")?;
    backend(&cluster, 2, "b1")?;
    let outside = cluster.client(OUTSIDE);
    let through: Vec<_> = [1, 3]
        .map(|host| outside.start(&underlay(host), 8080, 2_000))
        .into_iter()
        .collect::<Result<_>>()?;
    // Start first, then stop first.
    backend(&cluster, 1, "a2")?;
    cluster.weft(1, "detach a1.app")?;
    cluster.weft(2, "detach b1.app")?;
    backend(&cluster, 2, "b2")?;
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    for asking in through {
        let tally = asking.finish()?;
        ensure!(tally.failed == 0, "{tally:?}");
        answers.extend(tally.answers);
    }
    ensure!(answers.len() == 4, "{answers:?}");
    Ok(())
}

fn a_node_dies() -> Result<()> {
    let cluster = publishing("--publish 8080:80")?;
    backend(&cluster, 1, "a")?;
    backend(&cluster, 3, "c")?;
    cluster.host(3)?.set_cable(weft_agent::lab::Cable::Silent)?;
    eventually("the node is down", || {
        let nodes = cluster.json(1, "node ls")?;
        let down = { nodes.as_array().into_iter().flatten() }.any(|n| n["status"] == "down");
        ensure!(down, "{nodes}");
        Ok(())
    })?;
    eventually("nobody is sent to it", || {
        let answers = cluster.client(OUTSIDE).tcp(&underlay(2), 8080, 10)?;
        all_from(&answers, &["a"], OUTSIDE_ADDRESS)
    })?;
    cluster.host(3)?.set_cable(weft_agent::lab::Cable::In)?;
    eventually("it is back", || {
        let answers = cluster.client(OUTSIDE).tcp(&underlay(2), 8080, 10)?;
        ensure!(spread(&answers).len() == 2, "{answers:?}");
        Ok(())
    })
}

fn a_connection_is_reset() -> Result<()> {
    let cluster = publishing("--publish 8080:80")?;
    backend(&cluster, 3, "c")?;
    let mut held = cluster.client(OUTSIDE).hold(&underlay(1), 8080)?;
    held.tell()?;
    ensure!(held.line()? == format!("c {OUTSIDE_ADDRESS}"));
    backend(&cluster, 2, "b")?;
    cluster.host(3)?.set_cable(weft_agent::lab::Cable::Silent)?;
    eventually("the node is left out", || {
        let service = cluster.json(1, "service inspect web")?;
        let endpoints = service["endpoints"].as_array().context("no endpoints")?;
        let down = endpoints.iter().any(|endpoint| endpoint["state"] == "down");
        ensure!(down, "{service}");
        Ok(())
    })?;
    // The client hears of it with its next segment instead of waiting for an answer.
    held.tell()?;
    let heard = held.line()?;
    ensure!(
        heard.starts_with("failed: ") && heard.contains("reset"),
        "{heard}"
    );
    Ok(())
}
