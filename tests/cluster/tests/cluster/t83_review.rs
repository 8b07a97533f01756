//! Encrypted networks when what they rest on changes at a bad moment.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::{PingSpec, Running, WatchReport};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::eventually;
use weft_cluster_tests::weft::{probe_exe, weft_exe};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "review::another_program_has_the_keys_while_the_first_has_connections",
        another_program_with_connections,
    ),
    (
        "review::a_device_that_is_removed_comes_back",
        a_device_is_removed,
    ),
];

/// UDP ports of ESP, and of what it carries.
const ESP: u16 = 4500;
const INNER: u16 = 4790;

/// Containers `a` and `b` of an encrypted network on two hosts, that are reached.
fn encrypted() -> Result<Cluster> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web --encrypted")?;
    for (host, name) in [(1, "a"), (2, "b")] {
        cluster.container(host, "web", name)?;
    }
    cluster.settle(1)?;
    for host in [1, 2] {
        protected(&cluster, host)?;
    }
    Ok(cluster)
}

fn protected(cluster: &Cluster, host: usize) -> Result<Value> {
    eventually("the other host is protected", || {
        let status = cluster.json(host, "status")?;
        let peer = status["encryption"]["peers"][0].clone();
        ensure!(peer["state"] == "protected", "{status}");
        ensure!(status["encryption"]["error"].is_null(), "{status}");
        Ok(peer)
    })
}

fn address(cluster: &Cluster, endpoint: &str) -> Result<IpAddr> {
    Ok(cluster.address(1, &format!("{endpoint}.web"))?.parse()?)
}

fn reached(cluster: &Cluster, from: (usize, &str), to: IpAddr) -> Result<()> {
    eventually("it is reached", || {
        let spec = PingSpec::once(to).times(5, 5_000);
        let report = cluster.host(from.0)?.ping(Some(from.1), &spec)?;
        ensure!(report.lost == 0, "{report:?}");
        Ok(())
    })
}

/// Nothing but ESP was on the wire.
fn sealed(watch: Running<WatchReport>) -> Result<()> {
    let seen = watch.finish()?;
    let clear = [4789, INNER].map(|port| seen.udp.get(&port).copied().unwrap_or(0));
    ensure!(seen.clear == 0 && clear == [0, 0], "in clear: {seen:?}");
    ensure!(seen.udp.get(&ESP).copied() > Some(0), "no ESP: {seen:?}");
    Ok(())
}

fn another_program_with_connections() -> Result<()> {
    let cluster = encrypted()?;
    let probe = probe_exe()?;
    let probe = probe.to_str().context("a path that is not UTF-8")?;
    let create = "service create app --network web --health tcp:80";
    let publish = "--publish target=80,source=proxy-v2,published=8080";
    cluster.weft(1, &format!("{create} {publish}"))?;
    let run = "run --network web --name c --service app --detach --";
    cluster.weft(2, &format!("{run} {probe} serve-proxied c 80"))?;
    cluster.weft(1, "wait --service app --timeout 60s")?;
    let outside = cluster.client(OUTSIDE);
    eventually("the port answers", || outside.tcp("198.18.0.2", 8080, 1))?;
    let before = cluster.json(2, "status")?["dataplane"]["pid"].clone();
    let mut held = outside.hold("198.18.0.2", 8080)?;
    held.tell()?;
    held.line()?;
    // A copy is another file, as an upgrade is.
    let own = weft_exe()?;
    let dir = format!("{}.review-{}", own.display(), std::process::id());
    let copy = format!("{dir}/weft");
    std::fs::create_dir_all(&dir)?;
    let upgraded = || -> Result<()> {
        cluster.sh(2, &["cp", own.to_str().context("a path")?, &copy])?;
        let epoch = protected(&cluster, 2)?["epoch_out"].as_u64();
        cluster.host(2)?.kill_agent()?;
        let agent = format!("exec {copy} agent >/dev/null 2>&1");
        let agent = cluster.spawn(2, &["sh", "-c", &agent])?;
        eventually("another process is in charge, with other keys", || {
            let status = cluster.json(2, "status")?;
            let pid = &status["dataplane"]["pid"];
            ensure!(pid.is_u64() && *pid != before, "{status}");
            let peer = protected(&cluster, 2)?;
            ensure!(peer["epoch_out"].as_u64() > epoch, "{peer}");
            Ok(())
        })?;
        let old = format!("/proc/{before}/exe");
        ensure!(
            cluster.run(2, &["test", "-e", &old])?.status == 0,
            "the first process has ended"
        );
        reached(&cluster, (1, "a.web"), address(&cluster, "b")?)?;
        drop(held);
        eventually("the first process has ended", || {
            let there = cluster.run(2, &["test", "-e", &old])?;
            ensure!(there.status != 0, "it runs");
            Ok(())
        })?;
        drop(agent);
        Ok(())
    };
    let outcome = upgraded();
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

fn a_device_is_removed() -> Result<()> {
    let cluster = encrypted()?;
    let watch = cluster.host(2)?.start_watch()?;
    cluster.sh(2, &["ip", "link", "delete", "wf-esp"])?;
    let (a, b) = (address(&cluster, "a")?, address(&cluster, "b")?);
    reached(&cluster, (1, "a.web"), b)?;
    reached(&cluster, (2, "b.web"), a)?;
    sealed(watch)
}
