//! Names inside containers, asked by `dig`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::eventually;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "dns::a_command_that_has_just_started_finds_containers_of_other_hosts",
        names_across_hosts,
    ),
    (
        "dns::services_have_one_address_or_all_and_lose_who_is_down",
        services,
    ),
    ("dns::a_container_on_two_networks_knows_both", two_networks),
];

/// What `dig` says of a query.
#[derive(Debug, Default)]
struct Reply {
    /// `NOERROR` or another word.
    status: String,
    /// The end of each record of the answer, in order: an address, or a name.
    records: Vec<String>,
    /// The seconds for which each may be kept.
    ttls: BTreeSet<String>,
    flags: String,
}

impl Reply {
    fn set(&self) -> BTreeSet<&str> {
        self.records.iter().map(String::as_str).collect()
    }

    fn read(text: &str) -> Result<Self> {
        let mut reply = Self::default();
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("status: ") {
                reply.status = rest.split(',').next().unwrap_or_default().to_owned();
            } else if let Some(rest) = line.strip_prefix(";; flags: ") {
                reply.flags = rest.split(';').next().unwrap_or_default().to_owned();
            } else if !line.starts_with(';') && !line.is_empty() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let (ttl, data) = (words.get(1), words.get(4..));
                reply.ttls.insert((*ttl.context("no TTL")?).to_owned());
                reply.records.push(data.context("no data")?.join(" "));
            }
        }
        ensure!(!reply.status.is_empty(), "no answer: {text}");
        Ok(reply)
    }
}

const DIG: &str = "dig +noall +comments +answer +tries=1 +time=20";

/// Asks inside a container.
fn ask(cluster: &Cluster, host: usize, container: &str, query: &str) -> Result<Reply> {
    let text = cluster.weft(host, &format!("exec {container} -- {DIG} {query}"))?;
    Reply::read(&text).with_context(|| query.to_owned())
}

fn says(reply: &Reply, status: &str, records: &[&str]) -> Result<()> {
    let expected: BTreeSet<&str> = records.iter().copied().collect();
    ensure!(
        reply.status == status && reply.set() == expected && reply.records.len() == records.len(),
        "{reply:?} instead of {status} {records:?}"
    );
    Ok(())
}

fn names_across_hosts() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    let run = "run --network web --alias pair --detach";
    cluster.weft(1, &format!("{run} --name one -- sleep infinity"))?;
    cluster.weft(2, &format!("{run} --name two -- sleep infinity"))?;
    let one = cluster.address(1, "one.web")?;
    let two = cluster.address(2, "two.web")?;
    cluster.settle(1)?;

    // The very first thing that a command does.
    let text = cluster.weft(2, &format!("run --network web --name asks -- {DIG} one"))?;
    let reply = Reply::read(&text)?;
    says(&reply, "NOERROR", &[&one])?;
    ensure!(reply.ttls == BTreeSet::from(["5".to_owned()]), "{reply:?}");
    ensure!(reply.flags.contains("aa"), "{reply:?}");
    // By the C library, and so by every program.
    let found = cluster.weft(1, "exec one -- getent ahostsv4 two")?;
    ensure!(found.starts_with(&two), "{found}");

    eventually("the one who asked is forgotten", || {
        says(&ask(&cluster, 1, "one", "asks")?, "SERVFAIL", &[])
    })?;
    for (query, status, records) in [
        ("two", "NOERROR", vec![two.as_str()]),
        ("TWO.Web", "NOERROR", vec![&two]),
        ("pair", "NOERROR", vec![&one, &two]),
        ("+tcp pair.web", "NOERROR", vec![&one, &two]),
        ("two AAAA", "NOERROR", vec![]),
        ("two MX", "NOERROR", vec![]),
        ("web", "NOERROR", vec![]),
        ("nobody.web", "NXDOMAIN", vec![]),
        ("tasks.nobody", "NXDOMAIN", vec![]),
        (&format!("-x {two}"), "NOERROR", vec!["two.web."]),
        ("-x 10.0.1.77", "NXDOMAIN", vec![]),
    ] {
        says(&ask(&cluster, 1, "one", query)?, status, &records).context(query.to_owned())?;
    }

    eventually("what was asked is counted", || {
        let dns = cluster.json(1, "status")?["dns"].clone();
        ensure!(dns["serving"] == 1 && dns["failed"] == 0, "{dns}");
        ensure!(dns["queries"]["answered"].as_u64() > Some(4), "{dns}");
        Ok(())
    })?;
    let text = cluster.weft(1, "status")?;
    ensure!(text.contains("answered in 1 container;"), "{text}");

    // A name that goes is gone for all.
    cluster.weft(2, "detach two.web")?;
    eventually("the alias is one container's", || {
        says(&ask(&cluster, 1, "one", "pair")?, "NOERROR", &[&one])?;
        says(&ask(&cluster, 1, "one", "two.web")?, "NXDOMAIN", &[])
    })
}

fn services() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create web")?;
    let create = "service create --network web";
    cluster.weft(1, &format!("{create} shop --publish 8080:80"))?;
    cluster.weft(1, &format!("{create} list --endpoint-mode dnsrr"))?;
    let run = "run --network web --detach";
    for host in 1..=3 {
        for service in ["shop", "list"] {
            let name = format!("{service}{host}");
            let run = format!("{run} --service {service} --name {name}");
            cluster.weft(host, &format!("{run} -- sleep infinity"))?;
        }
    }
    let address = |name: &str, host| cluster.address(host, &format!("{name}{host}.web"));
    let list = [
        address("list", 1)?,
        address("list", 2)?,
        address("list", 3)?,
    ];
    let shop = [
        address("shop", 1)?,
        address("shop", 2)?,
        address("shop", 3)?,
    ];
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let shop: Vec<&str> = shop.iter().map(String::as_str).collect();
    let inspected = cluster.json(1, "service inspect shop")?;
    let vip = inspected["networks"][0]["vip"].as_str().context("no VIP")?;

    eventually("all backends are named", || {
        for host in 1..=3 {
            let asks = format!("list{host}");
            says(&ask(&cluster, host, &asks, "list")?, "NOERROR", &list)?;
            says(
                &ask(&cluster, host, &asks, "tasks.list.web")?,
                "NOERROR",
                &list,
            )?;
            says(&ask(&cluster, host, &asks, "tasks.shop")?, "NOERROR", &shop)?;
        }
        Ok(())
    })?;
    says(&ask(&cluster, 2, "list2", "shop")?, "NOERROR", &[vip])?;
    let reverse = ask(&cluster, 2, "list2", &format!("-x {vip}"))?;
    says(&reverse, "NOERROR", &["shop.web."])?;
    let place = ask(&cluster, 2, "list2", "_80._tcp.shop SRV")?;
    says(&place, "NOERROR", &["0 0 80 shop.web."])?;
    let places = ask(&cluster, 2, "list2", "_80._tcp.tasks.shop.web SRV")?;
    let expected = [
        "0 1 80 shop1.web.",
        "0 1 80 shop2.web.",
        "0 1 80 shop3.web.",
    ];
    says(&places, "NOERROR", &expected)?;
    // Each comes first in its turn.
    let mut first = BTreeSet::new();
    for _ in 0..3 {
        first.extend(
            ask(&cluster, 1, "shop1", "list")?
                .records
                .into_iter()
                .take(1),
        );
    }
    ensure!(first.len() == 3, "{first:?}");

    cluster.host(3)?.kill_agent()?;
    eventually("what is on a node that is down is left out", || {
        says(&ask(&cluster, 1, "shop1", "list")?, "NOERROR", &list[..2])?;
        says(
            &ask(&cluster, 1, "shop1", "tasks.shop")?,
            "NOERROR",
            &shop[..2],
        )?;
        says(&ask(&cluster, 1, "shop1", "shop")?, "NOERROR", &[vip])?;
        says(&ask(&cluster, 1, "shop1", "list3")?, "NOERROR", &[])
    })?;
    Ok(())
}

fn two_networks() -> Result<()> {
    let cluster = Cluster::up(2)?;
    for network in ["alpha", "beta"] {
        cluster.weft(1, &format!("network create {network}"))?;
    }
    let both = "run --network alpha --network beta --detach";
    cluster.weft(1, &format!("{both} --name both -- sleep infinity"))?;
    let in_alpha = cluster.container(2, "alpha", "twin")?;
    let in_beta = cluster.container(2, "beta", "twin")?;
    cluster.settle(1)?;
    for (query, address) in [
        ("twin", &in_alpha),
        ("twin.alpha", &in_alpha),
        ("twin.beta", &in_beta),
    ] {
        says(
            &ask(&cluster, 1, "both.alpha", query)?,
            "NOERROR",
            &[address],
        )?;
    }
    let twins = ask(&cluster, 2, "twin.beta", "twin.alpha")?;
    ensure!(twins.records.is_empty(), "{twins:?}");

    // One server knows of a network from when the container is on it, and until it is not.
    cluster.weft(1, "detach both.alpha")?;
    eventually("the name means the other network's", || {
        says(
            &ask(&cluster, 1, "both.beta", "twin")?,
            "NOERROR",
            &[&in_beta],
        )
    })?;
    Ok(())
}
