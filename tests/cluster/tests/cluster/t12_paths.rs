//! Paths that carry less than the devices at their ends, and say nothing of it.

use anyhow::{Result, ensure};
use serde_json::Value;
use weft_agent::lab::PingSpec;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::kernel;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[(
    "paths::networks_fit_a_path_that_swallows_long_packets",
    networks_fit_the_path,
)];

/// Bytes of the longest IP packet that reaches h2.
const CARRIED: u32 = 1400;

fn networks_fit_the_path() -> Result<()> {
    let cluster = Cluster::up(3)?;
    for create in ["web", "other", "secret --encrypted"] {
        cluster.weft(1, &format!("network create {create}"))?;
    }
    cluster.container(1, "web", "a")?;
    let second = cluster.container(2, "web", "b")?;
    cluster.container(1, "secret", "s1")?;
    cluster.container(2, "secret", "s2")?;
    cluster.container(1, "other", "c")?;
    cluster.container(3, "other", "d")?;
    let mtu = |endpoint: &str, wanted: u64| kernel::until_mtu(&cluster, 1, endpoint, wanted);
    mtu("a.web", 1450)?;
    mtu("s1.secret", 1408)?;
    swallow(&cluster)?;
    mtu("a.web", 1350)?;
    mtu("s1.secret", 1308)?;
    // The others have nothing to do with it.
    mtu("c.other", 1450)?;
    let peer = cluster.json(1, "node inspect h2")?["id"].clone();
    let shown = cluster.json(1, "node inspect h1")?;
    let path = peer
        .as_str()
        .and_then(|peer| shown["narrow_paths"].get(peer));
    ensure!(path == Some(&Value::from(CARRIED)), "{shown}");
    // What a container may send arrives, in one piece.
    let to = second.parse::<std::net::IpAddr>()?;
    let ping = PingSpec::once(to).unfragmented(1350);
    let report = cluster.host(1)?.ping(Some("a.web"), &ping)?;
    ensure!(report.lost == 0, "{report:?}");

    cluster.sh(2, &["nft", "delete", "table", "netdev", "narrow"])?;
    mtu("a.web", 1450)?;
    mtu("s1.secret", 1408)
}

/// From now on h2 is behind something that drops long packets and tells nobody.
fn swallow(cluster: &Cluster) -> Result<()> {
    let rules = format!(
        "add table netdev narrow; add chain netdev narrow in {{ type filter hook ingress device eth0 \
         priority 0; }}; add rule netdev narrow in meta length > {CARRIED} drop"
    );
    cluster.sh(2, &["nft", &rules])?;
    Ok(())
}
