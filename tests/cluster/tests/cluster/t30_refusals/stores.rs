//! State on disk that is not what was written.

use std::path::Path;

use anyhow::{Result, ensure};
use weft_agent::lab::PingSpec;
use weft_cluster_tests::PATIENCE;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::weft::probe_exe;

/// Bytes of a page of a store.
const PAGE: usize = 4096;

/// What is done to the data directory, and the file that must be named.
const DAMAGE: &[(&str, &str)] = &[
    ("truncate -s 0 raft.redb", "raft.redb"),
    ("truncate -s 1000 raft.redb", "raft.redb"),
    ("truncate -s 100000 raft.redb", "raft.redb"),
    ("rm raft.redb", "raft.redb"),
    ("rm raft.redb; mkdir raft.redb", "raft.redb"),
    ("rm raft.redb seal.key", "raft.redb"),
    ("FLIP raft.redb 0", "raft.redb"),
    ("FLIP node.key 60", "node.key"),
    ("truncate -s 0 node.key", "node.key"),
    ("rm node.key", "node.key"),
    ("truncate -s 31 seal.key", "seal.key"),
    ("rm seal.key", "seal.key"),
    ("FLIP node.crt 100", "node.crt"),
    ("rm node.crt", "node.crt"),
    ("truncate -s 10 ca.crt", "ca.crt"),
    ("rm ca.crt", "ca.crt"),
    ("truncate -s 0 member", "member"),
    ("echo junk > member", "member"),
    ("rm member", "member"),
];
/// Content, size and kind of everything but the lock file.
const SUMS: &str = "for f in $(ls | grep -v agent.lock); do stat -c '%n %s %F' $f; \
                    test -d $f || sha256sum $f; done";

/// A cluster of one with a container that pings itself to show that packets flow, its agent
/// stopped.
fn stopped() -> Result<Cluster> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.settle(1)?;
    cluster.host(1)?.stop_agent()?;
    cluster.sh(1, &["cp", "-a", "/var/lib/weft", "/run/good"])?;
    Ok(cluster)
}

/// Puts the good directory back and damages it.
fn damage(cluster: &Cluster, how: &str) -> Result<()> {
    let flip = format!("'{}' flip", probe_exe()?.display());
    let script = format!(
        "set -e; find /var/lib/weft -mindepth 1 -delete; cp -a /run/good/. /var/lib/weft; \
         cd /var/lib/weft; {}",
        how.replace("FLIP", &flip)
    );
    cluster.sh(1, &["bash", "-c", &script])?;
    Ok(())
}

fn sums(cluster: &Cluster) -> Result<String> {
    let script = format!("cd /var/lib/weft; {SUMS}");
    cluster.sh(1, &["bash", "-c", &script])
}

pub(super) fn a_damaged_file() -> Result<()> {
    let cluster = stopped()?;
    let sandboxes = weft_cluster_tests::kernel::sandboxes(&cluster, 1)?;
    let mut wrong = Vec::new();
    for (how, named) in DAMAGE {
        damage(&cluster, how)?;
        let before = sums(&cluster)?;
        let ran = cluster.run(1, &["timeout", "60", "weft", "agent"])?;
        let says = [*named, "/var/lib/weft", "restore", "backup", "join"];
        wrong.extend(ran.is_refused(how, 1, &says).err());
        let after = sums(&cluster)?;
        if before != after {
            wrong.push(anyhow::anyhow!("{how}: {before} became {after}"));
        }
    }
    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(
        weft_cluster_tests::kernel::sandboxes(&cluster, 1)? == sandboxes,
        "a refused start touched the sandboxes"
    );
    the_wrong_key(&cluster)?;
    // What was saved is good: the agent adopts everything again.
    damage(&cluster, "true")?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(PATIENCE)?;
    let address = cluster.address(1, "a.web")?;
    let spec = PingSpec::once(address.parse::<std::net::IpAddr>()?);
    let report = cluster.host(1)?.ping(Some("a.web"), &spec)?;
    ensure!(report.lost == 0, "{report:?}");
    Ok(())
}

/// The database cannot be told from a damaged one then, and opening it may write to it; with the
/// right key it is whole.
fn the_wrong_key(cluster: &Cluster) -> Result<()> {
    damage(cluster, "FLIP seal.key 4")?;
    let ran = cluster.run(1, &["timeout", "60", "weft", "agent"])?;
    ran.is_refused("a wrong key", 1, &["raft.redb", "key", "backup"])?;
    cluster.sh(1, &["cp", "/run/good/seal.key", "/var/lib/weft/seal.key"])?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(PATIENCE)?;
    weft_cluster_tests::eventually("everything is there", || {
        cluster.json(1, "endpoint inspect a.web")
    })?;
    cluster.host(1)?.stop_agent()?;
    Ok(())
}

/// Numbers of the pages of a store that are not empty.
fn pages(store: &Path) -> Result<Vec<usize>> {
    let bytes = std::fs::read(store)?;
    let pages = bytes.chunks(PAGE).enumerate();
    let used = pages.filter(|(_, page)| page.iter().any(|byte| *byte != 0));
    Ok(used.map(|(number, _)| number).collect())
}

pub(super) fn any_page_damaged() -> Result<()> {
    /// Enough to meet pages in use and pages that are not, on machines under load.
    const TRIES: usize = 16;
    let cluster = stopped()?;
    let pages = pages(&cluster.host(1)?.root().join("run/good/raft.redb"))?;
    let step = pages.len().div_ceil(TRIES);
    let mut refused = 0;
    for page in pages.iter().step_by(step) {
        // The first byte of a page says what it is; that of the file, that it is a store.
        let how = format!("FLIP raft.redb {}", page * PAGE);
        damage(&cluster, &how)?;
        cluster.host(1)?.start_agent()?;
        match cluster.host(1)?.wait_ready(PATIENCE) {
            // A page that nothing is in, or the copy of one: then everything must be there.
            Ok(()) => {
                let networks =
                    weft_cluster_tests::eventually("it leads", || cluster.json(1, "network ls"))?;
                ensure!(
                    networks.as_array().map(Vec::len) == Some(2),
                    "{how}: started with {networks}"
                );
                cluster.host(1)?.kill_agent()?;
            }
            Err(error) => {
                let said = error.to_string();
                ensure!(
                    said.contains("/var/lib/weft/raft.redb is damaged"),
                    "{how}: {said}"
                );
                refused += 1;
            }
        }
    }
    ensure!(refused > 0, "no page of {pages:?} mattered");
    Ok(())
}
