//! Networks whose frames must not be in clear between hosts.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::PingSpec;
use weft_cluster_tests::capture::Capture;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::{eventually, kernel};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "encrypted::a_network_says_that_it_is_and_what_that_leaves_it",
        a_network_says_that_it_is,
    ),
    (
        "encrypted::a_worker_does_not_turn_it_off",
        a_worker_does_not_turn_it_off,
    ),
    (
        "encrypted::turned_on_and_off_on_a_live_network_no_frame_is_in_clear",
        turned_on_and_off,
    ),
];

/// Port of tunnels in clear, and of what ESP carries.
const PORTS: [u16; 2] = [4789, 4790];

fn a_network_says_that_it_is() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create plain")?;
    cluster.weft(1, "network create secret --encrypted --label tier=a")?;
    for (name, encrypted, mtu) in [("plain", false, 1450), ("secret", true, 1408)] {
        let network = cluster.json(1, &format!("network inspect {name}"))?;
        ensure!(network["encrypted"] == encrypted, "{network}");
        ensure!(network["mtu"] == mtu, "{network}");
    }
    let listed = cluster.weft(1, "network ls")?;
    let shown = |name: &str| {
        listed
            .lines()
            .any(|l| l.contains(name) && l.contains("encrypted"))
    };
    ensure!(shown("secret") && !shown("plain"), "{listed}");

    let wide = cluster.try_weft(1, "network create wide --encrypted --mtu 1450")?;
    ensure!(
        wide.status == 0 && wide.stderr.contains("leaves 1408"),
        "{wide:?}"
    );
    let network = cluster.json(1, "network inspect wide")?;
    ensure!(network["mtu"] == 1450, "{network}");
    ensure!(network["warnings"][0].as_str().is_some(), "{network}");

    cluster.weft(
        1,
        "network update secret --label-rm tier --label-add zone=b",
    )?;
    let labels = cluster.json(1, "network inspect secret")?["labels"].take();
    ensure!(labels == serde_json::json!({"zone": "b"}), "{labels}");
    cluster.refused(1, "network update secret", 2, &["nothing to change"])?;
    cluster.refused(1, "network update nobody --encrypted true", 1, &["nobody"])?;
    cluster.refused(
        1,
        "network update secret --encrypted maybe",
        2,
        &["true", "false"],
    )?;

    cluster.weft(1, "network rm ingress")?;
    cluster.weft(1, "network create ingress --ingress --encrypted")?;
    let ingress = cluster.json(1, "network inspect ingress")?;
    ensure!(
        ingress["encrypted"] == true && ingress["vni"] == 4096,
        "{ingress}"
    );
    Ok(())
}

fn a_worker_does_not_turn_it_off() -> Result<()> {
    let cluster = Cluster::looking_again_every("1h")?;
    cluster.weft(2, "network create web --encrypted")?;
    let off = "network update web --encrypted false";
    cluster.refused(2, off, 1, &["worker", "ask a manager"])?;
    ensure!(cluster.json(1, "network inspect web")?["encrypted"] == true);
    cluster.weft(1, off)?;
    cluster.weft(2, "network update web --encrypted true")?;
    Ok(())
}

/// UDP ports of the tunnels of the networks that a host takes part in.
fn tunnel_port(cluster: &Cluster, host: usize, network: &str) -> Result<Option<u64>> {
    let argv = ["ip", "-j", "-d", "link", "show", "type", "vxlan"];
    let links = kernel::ip(cluster, host, Some(network), &argv)?;
    Ok(links[0]["linkinfo"]["info_data"]["port"].as_u64())
}

fn mtu_inside(cluster: &Cluster, endpoint: &str) -> Result<Value> {
    let text = cluster.weft(1, &format!("exec {endpoint} -- ip -j link show dev eth0"))?;
    let mut links: Value = serde_json::from_str(&text)?;
    Ok(links[0]["mtu"].take())
}

fn closed(cluster: &Cluster) -> Result<()> {
    let endpoint = cluster.json(1, "endpoint inspect a.web")?;
    ensure!(endpoint["state"] == "failed", "{endpoint}");
    for object in [endpoint, cluster.json(1, "network inspect web")?] {
        let error = object["error"].as_str().unwrap_or_default();
        ensure!(error.contains("encryption"), "{object}");
    }
    Ok(())
}

fn turned_on_and_off() -> Result<()> {
    let cluster = Cluster::looking_again_every("1h")?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    let far: IpAddr = cluster.container(2, "web", "b")?.parse()?;
    let near: IpAddr = cluster.container(1, "web", "c")?.parse()?;
    cluster.settle(1)?;
    let network = cluster.json(1, "network inspect web")?;
    let id = network["id"].as_str().context("no id")?;
    let ping = |to: IpAddr, times| {
        let spec = PingSpec {
            timeout_ms: 2000,
            ..PingSpec::once(to).times(times, 20_000)
        };
        anyhow::Ok(cluster.host(1)?.ping(Some("a.web"), &spec)?)
    };
    let report = ping(far, 1)?;
    ensure!(report.lost == 0, "{report:?}");
    let endless = PingSpec::once(near).endless(5_000);
    let local = cluster.host(1)?.start_ping(Some("a.web"), &endless)?;

    for round in 0..2 {
        cluster.weft(1, "network update web --encrypted true")?;
        for host in 1..=2 {
            eventually(&format!("h{host} has no tunnel in clear"), || {
                let port = tunnel_port(&cluster, host, id)?;
                ensure!(port != Some(PORTS[0].into()), "{port:?}");
                Ok(())
            })?;
        }
        eventually("the MTU leaves room", || {
            let mtu = mtu_inside(&cluster, "a.web")?;
            ensure!(mtu == 1408, "{mtu}");
            Ok(())
        })?;
        let captures = PORTS.map(|port| Capture::start(&cluster, 2, "eth0", port));
        let report = ping(far, 20)?;
        for capture in captures {
            let frames = capture?.stop()?;
            let clear = |frame: &&Value| frame["vni"] == network["vni"];
            let found: Vec<&Value> = frames.iter().filter(clear).collect();
            ensure!(found.is_empty(), "round {round}: in clear: {found:?}");
        }
        if report.received == 0 {
            // Then it is said why.
            eventually("what is closed says so", || closed(&cluster))?;
        }

        cluster.weft(1, "network update web --encrypted false")?;
        eventually("it is reached again", || {
            let report = ping(far, 1)?;
            ensure!(report.lost == 0, "{report:?}");
            Ok(())
        })?;
        eventually("all is as before", || {
            let mtu = mtu_inside(&cluster, "a.web")?;
            ensure!(mtu == 1450, "{mtu}");
            let shown = cluster.json(1, "network inspect web")?;
            ensure!(shown["error"].is_null(), "{shown}");
            Ok(())
        })?;
    }
    let report = local.finish()?;
    ensure!(
        report.received > 10 && report.lost == 0,
        "neighbours: {report:?}"
    );
    Ok(())
}
