//! What of a host is in the way of published ports is said, on whichever node they are published.

use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use nix::sys::signal::Signal;
use serde_json::Value;
use weft_agent::api::types::{Event, EventAction, EventObject};
use weft_agent::exit::CliError;
use weft_cluster_tests::api::Api;
use weft_cluster_tests::backend::spread;
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::weft::probe_exe;
use weft_cluster_tests::{PATIENCE, eventually};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "notices::a_second_address_of_another_node_is_served_there_only",
        second_address,
    ),
    (
        "notices::a_firewall_of_another_node_is_told_of_with_what_lets_pass",
        firewall,
    ),
    ("notices::a_listener_on_another_node_is_told_of", listener),
];

/// An address that no host of a lab has by itself, and every other one reaches.
const SECOND: &str = "198.18.0.77";

/// Two hosts with a backend of `web` on the first.
fn cluster() -> Result<Cluster> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create app")?;
    Ok(cluster)
}

fn backend(cluster: &Cluster) -> Result<()> {
    cluster.backend(1, "app", "b1", 80, "--service web")?;
    eventually("b1 is ready", || {
        let service = cluster.json(1, "service inspect web")?;
        ensure!(service["endpoints"][0]["state"] == "ready", "{service}");
        Ok(())
    })?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    Ok(())
}

/// What the service's warnings are, as a node shows them: name of the node and message.
fn warnings(cluster: &Cluster, asked: usize) -> Result<Vec<(Option<String>, String)>> {
    let service = cluster.json(asked, "service inspect web")?;
    let all = service["warnings"].as_array().context("no warnings")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    all.iter()
        .map(|one| Ok((text(&one["node"]), text(&one["message"]).context("none")?)))
        .collect()
}

fn no_warnings(cluster: &Cluster) -> Result<()> {
    eventually("nothing is in the way any more", || {
        let left = warnings(cluster, 1)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

fn has_addresses(cluster: &Cluster, node: &str, wanted: &[&str]) -> Result<()> {
    eventually(&format!("{node} has told its addresses"), || {
        let shown = cluster.json(1, &format!("node inspect {node}"))?;
        let told = shown["addresses"].as_array().context("no addresses")?;
        for address in wanted {
            ensure!(told.iter().any(|told| told == address), "{shown}");
        }
        // weft's own devices are no way to the host.
        let own = told.iter().filter_map(Value::as_str);
        let mut own = own.filter(|ip| ip.starts_with("10.") || ip.starts_with("fd77:"));
        ensure!(own.next().is_none(), "{shown}");
        Ok(())
    })
}

fn second_address() -> Result<()> {
    let cluster = cluster()?;
    let create = format!(
        "service create web --network app --health tcp:80 \
         --publish target=80,published=8080,ip={SECOND} --publish 8081:80 \
         --publish target=80,published=8082,ip=127.0.0.1"
    );
    cluster.refused(
        1,
        &create,
        1,
        &[
            SECOND,
            "no node has",
            "198.18.0.1 of h1",
            "198.18.0.2 of h2",
        ],
    )?;
    let address = format!("{SECOND}/24");
    cluster.sh(2, &["ip", "addr", "add", &address, "dev", "eth0"])?;
    has_addresses(&cluster, "h2", &["198.18.0.2", SECOND])?;
    cluster.weft(1, &create)?;
    backend(&cluster)?;
    let outside = cluster.client(OUTSIDE);
    let answers = outside.tcp(SECOND, 8080, 3)?;
    ensure!(spread(&answers).len() == 1, "{answers:?}");
    for host in ["198.18.0.1", "198.18.0.2"] {
        let answers = outside.tcp(host, 8081, 1)?;
        ensure!(answers[0].name == "b1", "{answers:?}");
        ensure!(outside.tcp(host, 8080, 1).is_err(), "{host}:8080 answers");
    }
    // Every node has the loopback addresses, for itself.
    for host in 1..=2 {
        let answers = cluster.client(host).tcp("127.0.0.1", 8082, 1)?;
        ensure!(answers[0].name == "b1", "{answers:?}");
        let outside = outside.tcp(&format!("198.18.0.{host}"), 8082, 1);
        ensure!(outside.is_err(), "{outside:?}");
    }
    // The node that has it is a client like every other, by that address too.
    let from: IpAddr = "198.18.0.2".parse()?;
    let answers = cluster.client(2).tcp("198.18.0.1", 8081, 2)?;
    ensure!(answers.iter().all(|a| a.peer == from), "{answers:?}");

    ensure!(warnings(&cluster, 1)?.is_empty());
    events_tell_of_the_address(&cluster)?;
    has_addresses(&cluster, "h2", &["198.18.0.2", SECOND])?;
    no_warnings(&cluster)?;
    let answers = outside.tcp(SECOND, 8080, 1)?;
    ensure!(answers[0].name == "b1", "{answers:?}");
    Ok(())
}

/// It goes, and comes back; the port stays.
fn events_tell_of_the_address(cluster: &Cluster) -> Result<()> {
    let address = format!("{SECOND}/24");
    Api::of(cluster, 1)?.ask(async |client| {
        let mut events = client.events().await?;
        let told = async {
            cluster.sh(2, &["ip", "addr", "del", &address, "dev", "eth0"])?;
            next(&mut events, EventAction::Warning).await?;
            let said = warnings(cluster, 1)?;
            let [(None, message)] = &said[..] else {
                bail!("{said:?}");
            };
            ensure!(message.contains(SECOND) && message.contains("8080/tcp"));
            cluster.sh(2, &["ip", "addr", "add", &address, "dev", "eth0"])?;
            next(&mut events, EventAction::Cleared).await
        };
        Ok(told.await)
    })?
}

/// Waits for the next event of that kind which says something of the address.
async fn next(
    events: &mut BoxStream<'static, Result<Event, CliError>>,
    action: EventAction,
) -> Result<()> {
    let told = async {
        while let Some(event) = events.next().await {
            let event = event?;
            if let Some(EventObject::Warning(warning)) = event.object
                && event.action == action
                && warning.message.contains(SECOND)
            {
                ensure!(event.name.as_deref() == Some("web"));
                return Ok(());
            }
        }
        bail!("the events ended")
    };
    tokio::time::timeout(PATIENCE, told)
        .await
        .with_context(|| format!("no event {action:?}"))?
}

const FOREIGN: &str = "
table ip filter {
    chain FORWARD { type filter hook forward priority 0; policy drop; }
}
table ip6 filter {
    chain USER { ct state established,related accept; }
    chain FORWARD { type filter hook forward priority 0; policy drop; jump USER; }
}";

/// Others' rules as `nft` lists them, without counts.
fn foreign(cluster: &Cluster) -> Result<String> {
    let list = "for f in ip ip6; do nft -s -a list table $f filter; done";
    cluster.sh(2, &["sh", "-ec", list])
}

fn firewall() -> Result<()> {
    let cluster = cluster()?;
    for (host, address) in [(2, "fd00:18::2/64"), (OUTSIDE, "fd00:18::fe/64")] {
        let argv = ["ip", "-6", "addr", "add", address, "dev", "eth0", "nodad"];
        cluster.sh(host, &argv)?;
    }
    let load = format!("nft -f - <<'EOF'{FOREIGN}\nEOF");
    cluster.sh(2, &["sh", "-ec", &load])?;
    eventually("h2 tells of both tables", || {
        let shown = cluster.json(1, "node inspect h2")?;
        let told = shown["warnings"].as_array().context("no warnings")?;
        ensure!(told.len() == 2, "{shown}");
        let status = cluster.weft(2, "status")?;
        ensure!(status.contains("chain FORWARD of nftables table ip filter"));
        Ok(())
    })?;
    let before = foreign(&cluster)?;
    let create = "service create web --network app --health tcp:80 --publish 8080:80";
    let created = cluster.try_weft(1, create)?;
    let lines: Vec<&str> = created.stderr.lines().collect();
    ensure!(created.status == 0 && lines.len() == 2, "{created:?}");
    for line in &lines {
        ensure!(
            line.starts_with("weft: warning: h2: ") && line.contains("drops connections"),
            "{created:?}"
        );
    }
    backend(&cluster)?;
    let outside = cluster.client(OUTSIDE);
    outside.tcp("198.18.0.1", 8080, 1)?;
    ensure!(outside.tcp("198.18.0.2", 8080, 1).is_err(), "v4 passes");
    ensure!(outside.tcp("fd00:18::2", 8080, 1).is_err(), "v6 passes");
    ensure!(foreign(&cluster)? == before, "others' rules were changed");
    for line in lines {
        let (_, command) = line.split_once("let them pass with: ").context("none")?;
        cluster.sh(2, &["sh", "-ec", command])?;
    }
    let allowed = foreign(&cluster)?;
    for to in ["198.18.0.2", "fd00:18::2"] {
        let answers = outside.tcp(to, 8080, 2)?;
        ensure!(answers.iter().all(|a| a.name == "b1"), "{answers:?}");
    }
    no_warnings(&cluster)?;
    // A backend behind such a filter is reached, too.
    cluster.backend(2, "app", "b2", 80, "--service web")?;
    eventually("b2 answers", || {
        let answers = outside.tcp("198.18.0.1", 8080, 4)?;
        ensure!(answers.iter().any(|a| a.name == "b2"), "{answers:?}");
        let answers = outside.tcp("fd00:18::2", 8080, 4)?;
        ensure!(answers.iter().any(|a| a.name == "b2"), "{answers:?}");
        Ok(())
    })?;
    cluster.weft(1, "service rm web")?;
    cluster.settle(1)?;
    ensure!(foreign(&cluster)? == allowed, "others' rules were changed");
    Ok(())
}

fn listener() -> Result<()> {
    let cluster = cluster()?;
    let probe = probe_exe()?;
    let probe = probe.to_str().context("a path that is not UTF-8")?;
    let listening = cluster.spawn(2, &[probe, "serve", "host", "7777"])?;
    eventually("a program of h2 listens", || {
        cluster.client(2).tcp("127.0.0.1", 7777, 1)
    })?;
    let create = "service create web --network app --publish 7777:80 --publish 7778:80";
    cluster.weft(1, create)?;
    for asked in 1..=2 {
        eventually("h2's program is told of", || {
            let told = warnings(&cluster, asked)?;
            let [(Some(node), message)] = &told[..] else {
                bail!("{told:?}");
            };
            ensure!(
                node == "h2" && message.contains("port 7777/tcp"),
                "{told:?}"
            );
            Ok(())
        })?;
    }
    // Only a change of what is published makes a node look at once.
    listening.stop(Signal::SIGTERM)?;
    eventually("nothing is in the way any more", || {
        cluster.weft(1, "service update web --publish-rm 7778")?;
        cluster.weft(1, "service update web --publish-add 7778:80")?;
        let left = warnings(&cluster, 1)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}
