//! Namespaces that weft did not make.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_cluster_tests::cluster::{Cluster, options};
use weft_cluster_tests::{PATIENCE, eventually, kernel};

use super::{endpoints, with_web};

/// The links of a named namespace, with addresses.
fn inside(cluster: &Cluster, host: usize, name: &str) -> Result<Value> {
    let text = cluster.sh(host, &["ip", "-n", name, "-j", "address", "show"])?;
    Ok(serde_json::from_str(&text)?)
}

/// Pings once from a named namespace, by a program that is not weft's.
fn pings(cluster: &Cluster, host: usize, name: &str, to: &str) -> Result<()> {
    let report = cluster.host(host)?.ping(
        Some(&format!("{name}.web")),
        &weft_agent::lab::PingSpec::once(to.parse::<std::net::IpAddr>()?),
    )?;
    ensure!(report.lost == 0, "{name} to {to}: {report:?}");
    Ok(())
}

pub(super) fn named_namespaces() -> Result<()> {
    let cluster = with_web(2)?;
    for host in 1..=2 {
        let name = format!("box{host}");
        cluster.sh(host, &["ip", "netns", "add", &name])?;
        let said = cluster.weft(
            host,
            &format!("attach web --netns /run/netns/{name} --name {name}"),
        )?;
        let address = format!("10.0.1.{}", host + 1);
        let words: Vec<&str> = said.split_whitespace().collect();
        ensure!(
            words.len() == 3 && words[1..] == [&name, &address],
            "{said}"
        );
    }
    cluster.settle(1)?;
    pings(&cluster, 1, "box1", "10.0.1.3")?;
    pings(&cluster, 2, "box2", "10.0.1.2")?;
    let lists = [endpoints(&cluster, 1)?, endpoints(&cluster, 2)?];
    ensure!(lists[0].len() == 2 && lists[0] == lists[1], "{lists:?}");
    // Named by a process in it, the namespace is the same.
    let _holder = cluster.spawn(
        1,
        &[
            "ip",
            "netns",
            "exec",
            "box1",
            "sh",
            "-c",
            "echo $$ > /run/holder; exec sleep 600",
        ],
    )?;
    let pid = eventually("the process is there", || {
        let pid = cluster.sh(1, &["cat", "/run/holder"])?;
        ensure!(!pid.trim().is_empty(), "not yet");
        Ok(pid.trim().to_owned())
    })?;
    let refused = format!("attach web --pid {pid}");
    cluster.refused(1, &refused, 1, &["web", "already", "box1"])?;
    cluster.weft(1, "detach box1.web")?;
    let links = inside(&cluster, 1, "box1")?;
    ensure!(links.as_array().map(Vec::len) == Some(1), "{links}");
    ensure!(
        kernel::sandboxes(&cluster, 1)?.is_empty(),
        "a sandbox is left"
    );
    // And again: a namespace is not used up.
    cluster.weft(1, "attach web --netns /run/netns/box1 --name box1")?;
    cluster.settle(1)?;
    pings(&cluster, 2, "box2", &cluster.address(1, "box1.web")?)
}

pub(super) fn as_wanted() -> Result<()> {
    let cluster = with_web(2)?;
    cluster.sh(1, &["ip", "netns", "add", "box"])?;
    let wanted = "attach web --netns /run/netns/box --name api --ip 10.0.1.77 \
                  --mac 06:00:00:00:00:01 --ifname net7 --alias one --alias two \
                  --label tier=front --format json";
    let said: Value = serde_json::from_str(&cluster.weft(1, wanted)?)?;
    let shown = cluster.json(2, "endpoint inspect api.web")?;
    for field in [
        "id", "name", "network", "node", "ipv4", "mac", "ifname", "aliases", "labels",
    ] {
        ensure!(said[field] == shown[field], "{field}: {said} and {shown}");
    }
    ensure!(
        shown["ipv4"] == "10.0.1.77"
            && shown["mac"] == "06:00:00:00:00:01"
            && shown["ifname"] == "net7"
            && shown["aliases"] == serde_json::json!(["one", "two"])
            && shown["labels"] == serde_json::json!({"tier": "front"})
            && shown["kind"]["type"] == "attached",
        "{shown}"
    );
    let links = inside(&cluster, 1, "box")?;
    let link = links
        .as_array()
        .into_iter()
        .flatten()
        .find(|link| link["ifname"] == "net7")
        .context("no such interface")?;
    ensure!(
        link["address"] == "06:00:00:00:00:01" && link["addr_info"][0]["local"] == "10.0.1.77",
        "{link}"
    );
    cluster.container(2, "web", "client")?;
    cluster.settle(1)?;
    pings(&cluster, 2, "client", "10.0.1.77")?;
    // Without wishes the first free interface name is taken, whoever has the others.
    cluster.weft(1, "network create db")?;
    let add = "ip -n box link add eth0 type bridge";
    cluster.sh(1, &add.split(' ').collect::<Vec<_>>())?;
    cluster.weft(1, "attach db --netns /run/netns/box --name api")?;
    let shown = cluster.json(1, "endpoint inspect api.db")?;
    ensure!(shown["ifname"] == "eth1", "{shown}");
    Ok(())
}

/// Hosts whose agents look again all the time: nothing tells them that a namespace is gone.
fn with_quick_resync(hosts: usize) -> Result<Cluster> {
    let mut quick = options(hosts)?.without_agents();
    quick.agent_args = vec!["--config".to_owned(), "/etc/weft/weft.toml".to_owned()];
    let cluster = Cluster::with(&quick)?;
    for host in 1..=hosts {
        let config = "echo 'resync = \"200ms\"' > /etc/weft/weft.toml";
        cluster.sh(host, &["sh", "-c", config])?;
        cluster.host(host)?.start_agent()?;
        cluster.host(host)?.wait_ready(PATIENCE)?;
    }
    cluster.weft(1, "init")?;
    let token = cluster.weft(1, "token worker -q")?;
    for host in 2..=hosts {
        cluster.weft(host, &format!("join --token {} 198.18.0.1", token.trim()))?;
    }
    cluster.weft(1, "network create web")?;
    Ok(cluster)
}

pub(super) fn a_namespace_that_ends() -> Result<()> {
    let cluster = with_quick_resync(2)?;
    let script = "echo $$ > /run/holder; exec sleep 600";
    let holder = cluster.spawn(1, &["unshare", "--net", "sh", "-c", script])?;
    let pid = eventually("the process is there", || {
        let pid = cluster.sh(1, &["cat", "/run/holder"])?;
        ensure!(!pid.trim().is_empty(), "not yet");
        Ok(pid.trim().to_owned())
    })?;
    cluster.weft(1, &format!("attach web --pid {pid} --name p"))?;
    cluster.container(2, "web", "client")?;
    cluster.settle(1)?;
    pings(&cluster, 2, "client", "10.0.1.2")?;
    cluster.sh(1, &["sh", "-c", &format!("kill -KILL {pid}")])?;
    holder.wait()?;
    for host in 1..=2 {
        eventually("the endpoint is gone", || {
            let found = endpoints(&cluster, host)?;
            ensure!(found.len() == 1, "{found:?}");
            Ok(())
        })?;
    }
    eventually("the kernels follow", || {
        let sandboxes = kernel::sandboxes(&cluster, 1)?;
        ensure!(sandboxes.is_empty(), "{sandboxes:?}");
        let sandbox = kernel::sandboxes(&cluster, 2)?.concat();
        let entries = kernel::forwarding(&cluster, 2, &sandbox)?;
        ensure!(entries.is_empty(), "{entries:?}");
        Ok(())
    })?;
    // A named one that is deleted, too.
    cluster.sh(1, &["ip", "netns", "add", "box"])?;
    cluster.weft(1, "attach web --netns /run/netns/box --name named")?;
    cluster.sh(1, &["ip", "netns", "del", "box"])?;
    eventually("the endpoint is gone", || {
        let found = endpoints(&cluster, 1)?;
        ensure!(found.len() == 1, "{found:?}");
        Ok(())
    })
}
