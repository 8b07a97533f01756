//! What is on the wire of encrypted networks, and what comes from it that no member has sealed.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use weft_agent::lab::PingSpec;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::forge::{self, End};
use weft_cluster_tests::talk::Talk;
use weft_cluster_tests::wiretap::{CLEAR, Wiretap};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[(
    "wire::the_search_finds_what_is_in_clear_and_forged_frames_arrive",
    the_search_finds_what_is_in_clear,
)];

/// What pings carry.
const PING: &[u8] = &[0x77; 32];
const HEARD: u16 = 9999;

/// A datagram that says so, from one container to another.
fn inner(from: Ipv4Addr, to: Ipv4Addr, text: &str) -> Result<Vec<u8>> {
    let ends = (End::of_container(from), End::of_container(to));
    forge::datagram(ends.0, ends.1, (HEARD, HEARD), text.as_bytes())
}

fn number(value: &serde_json::Value, what: &str) -> Result<u32> {
    let number = value[what].as_u64().with_context(|| format!("no {what}"))?;
    Ok(u32::try_from(number)?)
}

/// What the other cases rely on, where nothing is encrypted: otherwise they might not find what they
/// look for because they look wrongly.
fn the_search_finds_what_is_in_clear() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    let a: Ipv4Addr = cluster.container(1, "web", "a")?.parse()?;
    let b: Ipv4Addr = cluster.container(2, "web", "b")?.parse()?;
    cluster.settle(1)?;
    let vni = number(&cluster.json(1, "network inspect web")?, "vni")?;
    let tap = Wiretap::start(&cluster, 2, "eth0", &[PING, b"never said"])?;
    let report = cluster
        .host(1)?
        .ping(Some("a.web"), &PingSpec::once(b).times(5, 1000))?;
    ensure!(report.lost == 0, "{report:?}");
    let seen = tap.stop()?;
    ensure!(
        seen.patterns >= 10 && seen.clear >= 10 && seen.esp == 0 && seen.inner == 0,
        "{seen:?}"
    );
    ensure!(seen.is_sealed().is_err() && seen.esp_frames().is_empty());

    let (h1, h2) = (End::of(&cluster, 1, "eth0")?, End::of(&cluster, 2, "eth0")?);
    let port = HEARD.to_string();
    let mut heard = Talk::start(
        &cluster,
        2,
        &["weft", "exec", "b.web", "--"],
        &["hear", &port],
    )?;
    let forged = forge::vxlan(h1, h2, CLEAR, vni, &inner(a, b, "forged")?)?;
    forge::send(&cluster, 1, "eth0", &[forged])?;
    ensure!(heard.line()? == "forged");
    Ok(())
}
