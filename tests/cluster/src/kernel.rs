//! What the kernel of a host says, read by iproute2 and not by weft.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;

/// The sandbox namespaces of a host, by network id.
pub fn sandboxes(cluster: &Cluster, host: usize) -> Result<Vec<String>> {
    let listed = cluster.sh(host, &["ls", "/run/weft/netns"])?;
    let mut names: Vec<String> = listed.split_whitespace().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// Runs a command of iproute2 with `-j` in a sandbox (or, without one, in the host's namespace).
pub fn ip(cluster: &Cluster, host: usize, sandbox: Option<&str>, argv: &[&str]) -> Result<Value> {
    let path = sandbox.map(|id| format!("--net=/run/weft/netns/{id}"));
    let mut full: Vec<&str> = Vec::new();
    if let Some(path) = &path {
        full.extend(["nsenter", path, "--"]);
    }
    full.extend(argv);
    let text = cluster.sh(host, &full)?;
    if text.trim().is_empty() {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_str(&text).with_context(|| format!("{argv:?}: {text}"))
}

/// `MAC dst VTEP` of every static entry of a sandbox's tunnel, sorted.
pub fn forwarding(cluster: &Cluster, host: usize, sandbox: &str) -> Result<Vec<String>> {
    let found = ip(
        cluster,
        host,
        Some(sandbox),
        &["bridge", "-j", "fdb", "show", "dev", "vxlan0"],
    )?;
    let mut entries: Vec<String> = found
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["dst"].is_string())
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            format!("{} dst {}", text("mac"), text("dst"))
        })
        .collect();
    entries.sort();
    Ok(entries)
}

/// `IP lladdr MAC` of every neighbour entry of a sandbox's tunnel, sorted.
pub fn neighbours(cluster: &Cluster, host: usize, sandbox: &str) -> Result<Vec<String>> {
    let found = ip(
        cluster,
        host,
        Some(sandbox),
        &["ip", "-j", "neigh", "show", "dev", "vxlan0"],
    )?;
    let mut entries: Vec<String> = found
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["lladdr"].is_string())
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            format!("{} lladdr {}", text("dst"), text("lladdr"))
        })
        .collect();
    entries.sort();
    Ok(entries)
}

/// Names of the links of a sandbox (or of the host), sorted.
pub fn links(cluster: &Cluster, host: usize, sandbox: Option<&str>) -> Result<Vec<String>> {
    let found = ip(cluster, host, sandbox, &["ip", "-j", "link", "show"])?;
    let mut names: Vec<String> = found
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|link| link["ifname"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Waits until packets of a network leave a host through its tunnel: what was started runs.
pub fn flowing(cluster: &Cluster, host: usize, network: &str) -> Result<()> {
    let found = cluster.json(host, &format!("network inspect {network}"))?;
    let id = found["id"].as_str().context("no id")?;
    let sent = || -> Result<u64> {
        let argv = ["ip", "-j", "-s", "link", "show", "vxlan0"];
        let link = ip(cluster, host, Some(id), &argv)?;
        link[0]["stats64"]["tx"]["packets"]
            .as_u64()
            .context("no counter")
    };
    let before = sent()?;
    crate::eventually(&format!("packets of {network} flow"), || {
        let now = sent()?;
        anyhow::ensure!(now > before + 2, "{before} and then {now}");
        Ok(())
    })
}

/// Waits until the interface `eth0` of a container of a host has this MTU, bytes.
pub fn until_mtu(cluster: &Cluster, host: usize, endpoint: &str, wanted: u64) -> Result<()> {
    crate::eventually(&format!("MTU of {endpoint} is {wanted}"), || {
        let show = format!("exec {endpoint} -- ip -j link show dev eth0");
        let link: Value = serde_json::from_str(&cluster.weft(host, &show)?)?;
        ensure!(link[0]["mtu"] == wanted, "{link}");
        Ok(())
    })
}
