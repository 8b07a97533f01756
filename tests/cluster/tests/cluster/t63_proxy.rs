//! `source=proxy-v2`: the data-plane process passes connections on, with the client's address in
//! front.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_cluster_tests::backend::Answer;
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::eventually;
use weft_cluster_tests::talk::Talk;
use weft_cluster_tests::weft::{probe_exe, weft_exe};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "proxy::a_backend_is_told_of_the_client_through_every_node",
        told_of_the_client,
    ),
    ("proxy::ipv6_clients_are_told_too", ipv6_clients),
    ("proxy::host_mode_and_one_address_work_too", host_mode),
    ("proxy::only_those_who_may_come_in", only_those_who_may),
    ("proxy::bytes_arrive_whole_and_no_faster_than_read", bytes),
    (
        "proxy::connections_do_not_need_the_agent",
        without_the_agent,
    ),
    (
        "proxy::a_process_that_dies_is_started_again",
        the_process_dies,
    ),
    (
        "proxy::another_program_takes_over_without_a_refusal",
        another_program,
    ),
    (
        "proxy::connections_of_a_backend_that_goes_are_reset",
        a_backend_goes,
    ),
];

const OUTSIDE_ADDRESS: &str = "198.18.0.254";
/// What a process that is told to pass on 512 MB may come to, of which a test binary without
/// optimisation has most to begin with.
const MEMORY_MAX_KB: u64 = 100 << 10;
/// What the kernel's buffers on the way hold at most: they grow to 6 MB each (`net.ipv4.tcp_rmem`,
/// `tcp_wmem`), and there are four.
const HELD_MAX: u64 = 128 << 20;

fn publishing(hosts: usize, port: &str) -> Result<Cluster> {
    let cluster = Cluster::up(hosts)?;
    cluster.weft(1, "network create app")?;
    let create = "service create web --network app --health tcp:80";
    cluster.weft(
        1,
        &format!("{create} --publish target=80,source=proxy-v2,{port}"),
    )?;
    Ok(cluster)
}

/// A backend that reads the header, and takes traffic on every node.
fn backend(cluster: &Cluster, host: usize, name: &str) -> Result<()> {
    let probe = probe_exe()?;
    let probe = probe.to_str().context("a path that is not UTF-8")?;
    let run = format!("run --network app --name {name} --service web --detach --");
    cluster.weft(host, &format!("{run} {probe} serve-proxied {name} 80"))?;
    eventually(&format!("{name} is ready"), || {
        let service = cluster.json(1, "service inspect web")?;
        let mut endpoints = service["endpoints"].as_array().into_iter().flatten();
        let found = endpoints.any(|e| e["name"] == name && e["state"] == "ready");
        ensure!(found, "{service}");
        Ok(())
    })?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    Ok(())
}

fn underlay(host: usize) -> String {
    format!("198.18.0.{host}")
}

fn all_from(answers: &[Answer], name: &str, client: &str) -> Result<()> {
    let client: IpAddr = client.parse()?;
    for answer in answers {
        ensure!(answer.name == name && answer.peer == client, "{answer:?}");
    }
    ensure!(!answers.is_empty(), "no answers");
    Ok(())
}

/// Runs a probe on a host.
fn probe(cluster: &Cluster, host: usize, args: &[&str]) -> Result<String> {
    let probe = probe_exe()?;
    let probe = probe.to_str().context("a path that is not UTF-8")?;
    let said = cluster.sh(host, &[&[probe], args].concat())?;
    Ok(said.trim_end().to_owned())
}

/// What `weft status` says of a host's process, once there is one.
fn process(cluster: &Cluster, host: usize) -> Result<Value> {
    eventually("the process is known", || {
        let status = cluster.json(host, "status")?;
        let process = status["dataplane"].clone();
        ensure!(process["pid"].is_u64(), "{status}");
        Ok(process)
    })
}

fn told_of_the_client() -> Result<()> {
    let cluster = publishing(3, "published=8080")?;
    backend(&cluster, 2, "b2")?;
    let outside = cluster.client(OUTSIDE);
    for host in 1..=3 {
        let to = underlay(host);
        all_from(&outside.tcp(&to, 8080, 5)?, "b2", OUTSIDE_ADDRESS)?;
    }
    // Where the client connected to is known on the node that it came to.
    let to = underlay(2);
    let said = probe(&cluster, OUTSIDE, &["destination", &to, "8080"])?;
    ensure!(said == format!("b2 {to}:8080"), "{said}");
    // The nodes themselves.
    for (host, to, client) in [
        (2, "127.0.0.1", Some("127.0.0.1")),
        (2, "::1", Some("::1")),
        (2, &underlay(2), Some("198.18.0.2")),
        (3, &underlay(1), Some("198.18.0.3")),
        (1, "127.0.0.1", None),
        (1, "::1", None),
        (1, &underlay(1), Some("198.18.0.1")),
    ] {
        let answers = cluster.client(host).tcp(to, 8080, 3);
        let answers = answers.with_context(|| format!("h{host} to {to}"))?;
        match client {
            Some(client) => {
                all_from(&answers, "b2", client).with_context(|| format!("h{host} to {to}"))?
            }
            // Loopback addresses stay on their host: it is the host's that is told.
            None => ensure!(answers.iter().all(|a| a.name == "b2"), "{answers:?}"),
        }
    }
    // One with a backend of its own, too: both are asked.
    backend(&cluster, 1, "b1")?;
    let answers = outside.tcp(&underlay(1), 8080, 20)?;
    let of = |name| answers.iter().filter(|answer| answer.name == name).count();
    ensure!(of("b1") == 10 && of("b2") == 10, "{answers:?}");
    // Without ports and containers there is no process, and nothing of it.
    cluster.weft(1, "service rm web")?;
    cluster.weft(1, "detach b1")?;
    cluster.weft(2, "detach b2")?;
    for host in [1, 2] {
        eventually("the process has ended", || {
            let status = cluster.json(host, "status")?;
            ensure!(status["dataplane"].is_null(), "{status}");
            let left = cluster.sh(host, &["ls", "/run/weft"])?;
            let sockets = left.lines().filter(|name| name.starts_with("dataplane"));
            let sockets: Vec<_> = sockets.filter(|name| name.ends_with(".sock")).collect();
            ensure!(sockets.is_empty(), "{sockets:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn ipv6_clients() -> Result<()> {
    let cluster = publishing(2, "published=8080")?;
    backend(&cluster, 2, "b2")?;
    let address = |host: usize| match host {
        OUTSIDE => "fd00:18::fe".to_owned(),
        host => format!("fd00:18::{host}"),
    };
    for host in [1, 2, OUTSIDE] {
        let address = format!("{}/64", address(host));
        let argv = ["ip", "-6", "addr", "add", &address, "dev", "eth0", "nodad"];
        cluster.sh(host, &argv)?;
    }
    for host in [1, 2] {
        let answers = cluster.client(OUTSIDE).tcp(&address(host), 8080, 3)?;
        all_from(&answers, "b2", &address(OUTSIDE))?;
        let length = ["bulk", &address(host), "8080", "65536"];
        probe(&cluster, OUTSIDE, &length)?;
    }
    Ok(())
}

fn host_mode() -> Result<()> {
    let cluster = publishing(2, "published=8080,mode=host")?;
    cluster.weft(
        1,
        "service update web --publish-add \
         target=80,source=proxy-v2,published=8081,mode=host,ip=198.18.0.2",
    )?;
    backend(&cluster, 2, "b2")?;
    let outside = cluster.client(OUTSIDE);
    for port in [8080, 8081] {
        all_from(&outside.tcp("198.18.0.2", port, 3)?, "b2", OUTSIDE_ADDRESS)?;
        ensure!(outside.tcp("198.18.0.1", port, 1).is_err(), "h1 answers");
    }
    all_from(
        &cluster.client(2).tcp("127.0.0.1", 8080, 2)?,
        "b2",
        "127.0.0.1",
    )
}

fn only_those_who_may() -> Result<()> {
    let cluster = publishing(3, "published=8080,allow-from=198.18.0.254/32")?;
    backend(&cluster, 2, "b2")?;
    for host in [1, 2] {
        cluster.client(OUTSIDE).tcp(&underlay(host), 8080, 2)?;
        let other = cluster.client(3).tcp(&underlay(host), 8080, 1);
        ensure!(other.is_err(), "h3 comes in by h{host}");
    }
    Ok(())
}

fn bytes() -> Result<()> {
    let cluster = publishing(2, "published=8080")?;
    backend(&cluster, 2, "b2")?;
    for host in [1, 2] {
        for length in ["0", "65536", "10485760"] {
            let bulk = ["bulk", &underlay(host), "8080", length];
            let said = probe(&cluster, OUTSIDE, &bulk)?;
            ensure!(said == format!("{length} bytes"), "{said}");
        }
    }
    let mut flood = Talk::begin(&cluster, OUTSIDE, &[], &["flood", &underlay(2), "8080"])?;
    let written: u64 = flood.line()?.parse()?;
    ensure!(written < HELD_MAX, "{written} bytes are on their way");
    let pid = &process(&cluster, 2)?["pid"];
    let status = cluster.sh(2, &["cat", &format!("/proc/{pid}/status")])?;
    let resident = { status.lines() }.find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.split_whitespace().next());
    let resident: u64 = resident.context("no VmRSS")?.parse()?;
    ensure!(resident < MEMORY_MAX_KB, "{resident} kB");
    // The others do not wait for it.
    cluster.client(OUTSIDE).tcp(&underlay(2), 8080, 3)?;
    Ok(())
}

/// Waits until an agent that was started reflects the cluster's state.
fn agent_is_back(cluster: &Cluster, host: usize) -> Result<()> {
    eventually("the agent is back", || {
        let status = cluster.json(host, "status")?;
        ensure!(status["applied"] == status["revision"], "{status}");
        ensure!(status["revision"].as_u64() > Some(0), "{status}");
        Ok(())
    })
}

fn without_the_agent() -> Result<()> {
    let cluster = publishing(2, "published=8080")?;
    backend(&cluster, 2, "b2")?;
    let before = process(&cluster, 2)?;
    let outside = cluster.client(OUTSIDE);
    let mut held = outside.hold(&underlay(2), 8080)?;
    let asking = outside.start(&underlay(2), 8080, 2_000)?;
    cluster.host(2)?.kill_agent()?;
    // No agent is there.
    outside.tcp(&underlay(2), 8080, 20)?;
    held.tell()?;
    ensure!(held.line()? == format!("b2 {OUTSIDE_ADDRESS}"));
    cluster.host(2)?.start_agent()?;
    agent_is_back(&cluster, 2)?;
    let after = process(&cluster, 2)?;
    ensure!(after["pid"] == before["pid"], "{before} {after}");
    outside.tcp(&underlay(2), 8080, 20)?;
    let tally = asking.finish()?;
    ensure!(tally.failed == 0 && !tally.answers.is_empty(), "{tally:?}");
    held.tell()?;
    ensure!(held.line()? == format!("b2 {OUTSIDE_ADDRESS}"));
    Ok(())
}

fn the_process_dies() -> Result<()> {
    let cluster = publishing(2, "published=8080")?;
    backend(&cluster, 2, "b2")?;
    let before = process(&cluster, 2)?;
    let outside = cluster.client(OUTSIDE);
    outside.tcp(&underlay(1), 8080, 2)?;
    for times in 1..=2 {
        let pid = process(&cluster, 2)?["pid"].to_string();
        cluster.sh(2, &["kill", "-9", &pid])?;
        eventually("connections are passed on again", || {
            let status = cluster.json(2, "status")?;
            ensure!(status["dataplane"]["lost"] == times, "{status}");
            ensure!(status["dataplane"]["pid"] != before["pid"], "{status}");
            all_from(&outside.tcp(&underlay(1), 8080, 3)?, "b2", OUTSIDE_ADDRESS)
        })?;
    }
    Ok(())
}

fn another_program() -> Result<()> {
    let cluster = publishing(2, "published=8080")?;
    backend(&cluster, 2, "b2")?;
    let before = process(&cluster, 2)?;
    let outside = cluster.client(OUTSIDE);
    let mut held = outside.hold(&underlay(2), 8080)?;
    let asking = outside.start(&underlay(2), 8080, 1_000)?;
    // A copy is another file, as an upgrade is.
    let own = weft_exe()?;
    let dir = format!("{}.upgrade-{}", own.display(), std::process::id());
    let copy = format!("{dir}/weft");
    std::fs::create_dir_all(&dir)?;
    let upgraded = || -> Result<()> {
        cluster.sh(2, &["cp", own.to_str().context("a path")?, &copy])?;
        cluster.host(2)?.kill_agent()?;
        let agent = format!("exec {copy} agent >/dev/null 2>&1");
        let agent = cluster.spawn(2, &["sh", "-c", &agent])?;
        agent_is_back(&cluster, 2)?;
        let after = eventually("another process is in charge", || {
            let after = process(&cluster, 2)?;
            ensure!(after["pid"] != before["pid"], "{after}");
            Ok(after)
        })?;
        outside.tcp(&underlay(1), 8080, 50)?;
        let tally = asking.finish()?;
        ensure!(tally.failed == 0 && !tally.answers.is_empty(), "{tally:?}");
        // The first goes on with what it has, and ends when it has nothing more.
        held.tell()?;
        ensure!(held.line()? == format!("b2 {OUTSIDE_ADDRESS}"));
        let old = format!("/proc/{}/exe", before["pid"]);
        ensure!(
            cluster.run(2, &["test", "-e", &old])?.status == 0,
            "it has ended"
        );
        drop(held);
        eventually("the first process has ended", || {
            ensure!(
                cluster.run(2, &["test", "-e", &old])?.status != 0,
                "it runs"
            );
            Ok(())
        })?;
        ensure!(process(&cluster, 2)?["pid"] == after["pid"]);
        outside.tcp(&underlay(2), 8080, 3)?;
        drop(agent);
        Ok(())
    };
    let outcome = upgraded();
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

fn a_backend_goes() -> Result<()> {
    let cluster = publishing(2, "published=8080")?;
    backend(&cluster, 2, "b2")?;
    let outside = cluster.client(OUTSIDE);
    let mut held = outside.hold(&underlay(1), 8080)?;
    held.tell()?;
    ensure!(held.line()? == format!("b2 {OUTSIDE_ADDRESS}"));
    backend(&cluster, 2, "c2")?;
    let asking = outside.start(&underlay(1), 8080, 2_000)?;
    // It drains until its time is over, for somebody uses it.
    cluster.weft(1, "service update web --drain-timeout 2s")?;
    cluster.weft(2, "detach b2.app")?;
    held.tell()?;
    let heard = held.line()?;
    ensure!(
        heard.starts_with("failed: ") && heard.contains("reset"),
        "{heard}"
    );
    let tally = asking.finish()?;
    ensure!(
        tally.failed == 0 && tally.answers.contains_key("c2"),
        "{tally:?}"
    );
    Ok(())
}
