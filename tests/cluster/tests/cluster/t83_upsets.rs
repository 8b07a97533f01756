//! Encrypted networks when what they rest on changes at a bad moment.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use weft_agent::lab::PingSpec;
use weft_cluster_tests::cluster::{Cluster, OUTSIDE, options};
use weft_cluster_tests::eventually;
use weft_cluster_tests::weft::{probe_exe, weft_exe};

use crate::Case;
use crate::secret::*;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "upsets::another_program_has_the_keys_while_the_first_has_connections",
        another_program_with_connections,
    ),
    (
        "upsets::a_device_that_is_removed_comes_back",
        a_device_is_removed,
    ),
];

/// Until no ping is lost any more.
fn reached(cluster: &Cluster, from: (usize, &str), to: IpAddr) -> Result<()> {
    eventually("it is reached", || {
        let spec = PingSpec::once(to).times(5, 5_000);
        let report = cluster.host(from.0)?.ping(Some(from.1), &spec)?;
        ensure!(report.lost == 0, "{report:?}");
        Ok(())
    })
}

fn another_program_with_connections() -> Result<()> {
    let cluster = encrypted(&options(2)?)?;
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
    let dir = format!("{}.upsets-{}", own.display(), std::process::id());
    let copy = format!("{dir}/weft");
    std::fs::create_dir_all(&dir)?;
    let upgraded = || -> Result<()> {
        cluster.sh(2, &["cp", own.to_str().context("a path")?, &copy])?;
        let before_upgrade = epoch(&cluster, 2, 1)?;
        cluster.host(2)?.kill_agent()?;
        let agent = format!("exec {copy} agent >/dev/null 2>&1");
        let agent = cluster.spawn(2, &["sh", "-c", &agent])?;
        eventually("another process is in charge, with other keys", || {
            let status = cluster.json(2, "status")?;
            let pid = &status["dataplane"]["pid"];
            ensure!(pid.is_u64() && *pid != before, "{status}");
            ensure!(status["encryption"]["error"].is_null(), "{status}");
            ensure!(epoch(&cluster, 2, 1)? > before_upgrade, "{status}");
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
    let cluster = encrypted(&options(2)?)?;
    is_reached_without(&cluster, |cluster| {
        let remove = ["ip", "link", "delete", "wf-esp"];
        cluster.sh(2, &remove).map(drop)
    })
}

/// Whether containers of a cluster reach one another after something was taken away from h2.
pub(crate) fn is_reached_without(
    cluster: &Cluster,
    take_away: impl FnOnce(&Cluster) -> Result<()>,
) -> Result<()> {
    let watch = cluster.host(2)?.start_watch()?;
    take_away(cluster)?;
    let (a, b) = (address(cluster, "a")?, address(cluster, "b")?);
    reached(cluster, (1, "a.web"), b)?;
    reached(cluster, (2, "b.web"), a)?;
    sealed(watch)
}
