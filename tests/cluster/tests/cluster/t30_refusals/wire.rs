//! What arrives on the control port and is nothing that an agent would send.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::picture::Picture;
use weft_cluster_tests::rogue::STRANGER;
use weft_cluster_tests::{eventually, weft::probe_exe};

const TARGET: &str = "198.18.0.1:2377";
/// Where h2 has its certificate.
const MEMBER: &str = "/var/lib/weft";

fn drops(cluster: &Cluster) -> Result<Value> {
    Ok(cluster.json(1, "status")?["drops"].clone())
}

fn probe(cluster: &Cluster, host: usize, args: &[&str]) -> Result<String> {
    let exe = probe_exe()?;
    let mut argv = vec![exe.to_str().context("a path that is no text")?];
    argv.extend(args);
    Ok(cluster.sh(host, &argv)?.trim().to_owned())
}

pub(super) fn junk_datagrams() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.settle(1)?;
    let pid = cluster.json(1, "status")?["pid"].clone();
    let before = Picture::of(&cluster, 2)?;
    let exe = probe_exe()?;
    let outside = cluster.outside()?;
    let sent = outside
        .command(&exe)
        .args(["junk", TARGET])
        .output()
        .context("no junk")?;
    ensure!(sent.status.success(), "{sent:?}");
    eventually("junk is counted", || {
        let drops = drops(&cluster)?;
        ensure!(drops["control_not_quic"].as_u64() >= Some(50), "{drops}");
        Ok(())
    })?;
    before.is_still(&Picture::of(&cluster, 2)?, "junk")?;
    let now = cluster.json(1, "status")?["pid"].clone();
    ensure!(
        now == pid,
        "the agent is another process: {now} and not {pid}"
    );
    cluster.weft(2, "network create after")?;
    Ok(())
}

pub(super) fn peers_that_speak_nonsense() -> Result<()> {
    let cluster = Cluster::unformed(3)?;
    cluster.weft(1, "init")?;
    let token = cluster.weft(1, "token worker -q")?;
    cluster.weft(2, &format!("join --token {} 198.18.0.1", token.trim()))?;
    // A member of another cluster.
    cluster.weft(3, "init")?;
    cluster.settle(1)?;
    let before = Picture::of(&cluster, 2)?;
    // Who, from which host, says what; the counter that moves; how it ends for the sender.
    let table = [
        (
            MEMBER,
            2,
            "unknown-kind",
            "control_unknown_kind",
            "closed 1",
        ),
        (MEMBER, 2, "oversized", "control_oversized", "closed 1"),
        (MEMBER, 2, "truncated", "control_truncated", "closed 1"),
        (MEMBER, 2, "empty", "control_undecodable", "answer"),
        (MEMBER, 2, "garbage", "control_undecodable", "answer"),
        (MEMBER, 2, "wrong-version", "control_undecodable", "answer"),
        (
            STRANGER,
            2,
            "unknown-kind",
            "control_unknown_kind",
            "closed 1",
        ),
        (STRANGER, 2, "oversized", "control_oversized", "closed 1"),
        (STRANGER, 2, "truncated", "control_truncated", "closed 1"),
        (
            STRANGER,
            2,
            "wrong-version",
            "control_undecodable",
            "answer",
        ),
        (STRANGER, 2, "stream", "control_refused_streams", "reset 3"),
        (
            STRANGER,
            2,
            "other-protocol",
            "control_refused_tls",
            "refused",
        ),
        (MEMBER, 3, "garbage", "control_refused_tls", "refused"),
    ];
    for (who, host, shape, counter, ends) in table {
        let count = || -> Result<u64> { drops(&cluster)?[counter].as_u64().context("no counter") };
        let counted = count()?;
        let ended = probe(&cluster, host, &["rogue", TARGET, who, shape])?;
        ensure!(ended.starts_with(ends), "{who} {shape}: {ended}");
        if shape == "wrong-version" {
            ensure!(ended.contains("version 99"), "{ended}");
        }
        eventually(&format!("{counter} counts {who} {shape}"), || {
            let now = count()?;
            ensure!(now == counted + 1, "{now} after {counted}");
            Ok(())
        })?;
    }
    before.is_still(&Picture::of(&cluster, 2)?, "nonsense")?;
    // The member whose certificate was used for it still is one.
    cluster.weft(2, "network create after")?;
    Ok(())
}
