//! How connections are spread over backends, and when they stay with one: counted over thousands, by
//! clients with as many addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::backend::{Answer, Sources, spread};

use crate::Case;
use crate::site::{HOSTS, PORT, PUBLISHED, Site, underlay};

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "spread::every_scheduler_gives_each_backend_its_share_through_every_node",
        every_scheduler,
    ),
    (
        "spread::maglev_moves_few_flows_when_a_backend_goes",
        maglev_moves_few,
    ),
    (
        "spread::clients_keep_their_backends_until_these_go",
        clients_keep_their_backends,
    ),
];

const CONNECTIONS: usize = 2_000;
/// A backend's part may be off its share by so much, in percent. With three backends and as many
/// connections, chance alone exceeds this once in half a million times.
const OFF_MAX: f64 = 15.0;
/// A backend's end may move so much of what the others have, in percent.
const MOVED_MAX: f64 = 12.0;
/// From where flows with known ports begin: below those that the kernel gives to others. Those through
/// a host are [`PORTS`] after those through the one before, for a client's port has one flow at a
/// time.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 100;

/// The service and a crowd of clients outside.
fn open(options: &str, backends: &[(usize, &str)]) -> Result<Site> {
    let options = format!("--publish {PUBLISHED}:{PORT} {options}");
    Site::open(&options, backends)
}

/// From outside by way of a host, each from an address of its own, which the backend sees.
fn published(site: &Site, host: usize, addresses: u32, times: usize) -> Result<Vec<Answer>> {
    let first_port = FIRST_PORT + PORTS * u16::try_from(host)?;
    let sources = Sources::addresses(addresses, first_port);
    let answers = site
        .outside()
        .tcp_from(sources, &underlay(host), PUBLISHED, times)?;
    for (answer, place) in answers.iter().zip((0..addresses).cycle()) {
        let source = IpAddr::V4(Ipv4Addr::from(u32::from(Sources::FIRST) + place));
        ensure!(answer.peer == source, "{source} is seen as {answer:?}");
    }
    Ok(answers)
}

/// From the container of a host to the service's address, each from a port of its own.
fn inside(site: &Site, host: usize, times: usize) -> Result<Vec<Answer>> {
    let sources = Sources::ports(FIRST_PORT);
    site.inside(host).tcp_from(sources, &site.vip, PORT, times)
}

/// How far the backend that is furthest off is from its share, in percent of it.
fn off(answers: &[Answer], weights: &[(&str, u32)]) -> Result<f64> {
    let spread = spread(answers);
    let sum: u32 = weights.iter().map(|(_, weight)| weight).sum();
    let mut worst: f64 = 0.0;
    for (name, weight) in weights {
        let share = answers.len() as f64 * f64::from(*weight) / f64::from(sum);
        let got = spread.get(*name).copied().unwrap_or(0) as f64;
        worst = worst.max(100.0 * (got - share).abs() / share);
    }
    ensure!(spread.len() == weights.len(), "others answer: {spread:?}");
    ensure!(worst <= OFF_MAX, "{worst:.1} % off the share: {spread:?}");
    Ok(worst)
}

fn every_scheduler() -> Result<()> {
    // The second host has none.
    let site = open("", &[(1, "a"), (1, "b"), (3, "c")])?;
    let even = [("a", 1), ("b", 1), ("c", 1)];
    let weighted = [("a", 1), ("b", 2), ("c", 3)];
    for scheduler in ["rr", "random", "source-hash", "maglev", "wrr"] {
        let update = format!("service update web --scheduler {scheduler}");
        site.cluster.weft(2, &update)?;
        let weights = match scheduler {
            "wrr" => weighted,
            _ => even,
        };
        for (name, weight) in weights {
            let update = format!("endpoint update {name}.app --weight {weight}");
            site.cluster.weft(2, &update)?;
        }
        site.settle(2)?;
        for host in HOSTS {
            let answers = published(&site, host, CONNECTIONS as u32, CONNECTIONS)?;
            let off = off(&answers, &weights).with_context(|| format!("{scheduler}, h{host}"))?;
            println!("    {scheduler} through h{host}: at most {off:.1} % off the share");
        }
    }
    Ok(())
}

/// What part of the flows that another backend than `gone` had moved, in percent.
fn moved(before: &[Answer], after: &[Answer], gone: &str) -> Result<f64> {
    ensure!(before.len() == after.len(), "not the same flows");
    let both = before.iter().zip(after);
    let survive: Vec<_> = both.filter(|(before, _)| before.name != gone).collect();
    ensure!(survive.len() < before.len(), "{gone} had no flow");
    let others = survive.iter().filter(|(b, a)| b.name != a.name).count();
    ensure!(
        after.iter().all(|answer| answer.name != gone),
        "{gone} is there"
    );
    Ok(100.0 * others as f64 / survive.len() as f64)
}

fn maglev_moves_few() -> Result<()> {
    let names: Vec<String> = (0..10).map(|number| format!("b{number}")).collect();
    let backends: Vec<(usize, &str)> = (names.iter().enumerate())
        .map(|(number, name)| (1 + number % 2, name.as_str()))
        .collect();
    let site = open("--scheduler maglev", &backends)?;
    let look = || -> Result<[(&str, Vec<Answer>); 4]> {
        let published = |host| published(&site, host, CONNECTIONS as u32, CONNECTIONS);
        Ok([
            ("the address from h1", inside(&site, 1, CONNECTIONS)?),
            ("the address from h3", inside(&site, 3, CONNECTIONS)?),
            ("h1", published(1)?),
            ("h3", published(3)?),
        ])
    };
    let before = look()?;
    for (way, answers) in &before {
        let spread = spread(answers);
        ensure!(spread.len() == 10, "through {way}: {spread:?}");
    }
    // The same connection goes the same way every time.
    let again = look()?;
    for ((way, before), (_, after)) in before.iter().zip(&again) {
        ensure!(before == after, "through {way} flows change on their own");
    }
    site.cluster.weft(1, "detach --force b4.app")?;
    site.settle(1)?;
    let after = look()?;
    for ((way, before), (_, after)) in before.iter().zip(&after) {
        let moved = moved(before, after, "b4").with_context(|| format!("through {way}"))?;
        println!("    through {way}: {moved:.1} % of the surviving flows moved");
        ensure!(moved <= MOVED_MAX, "through {way}: {moved:.1} %");
    }
    Ok(())
}

/// Who has each client; each has one.
fn by_client(answers: &[Answer]) -> Result<BTreeMap<IpAddr, String>> {
    let mut backends: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
    for answer in answers {
        let of_client = backends.entry(answer.peer).or_default();
        of_client.insert(&answer.name);
    }
    let mut by_client = BTreeMap::new();
    for (client, names) in backends {
        ensure!(names.len() == 1, "{client} has {names:?}");
        by_client.extend(names.first().map(|name| (client, (*name).to_owned())));
    }
    Ok(by_client)
}

fn clients_keep_their_backends() -> Result<()> {
    const CLIENTS: u32 = 50;
    const PUBLISHED_EACH: usize = 2_000;
    const INSIDE_EACH: usize = 2_000;
    let site = open("--affinity client-ip", &[(1, "a"), (1, "b"), (3, "c")])?;
    let mut connections = 0;
    let mut look = || -> Result<Vec<(String, BTreeMap<IpAddr, String>)>> {
        let mut seen = Vec::new();
        for host in 1..=2 {
            let answers = published(&site, host, CLIENTS, PUBLISHED_EACH)?;
            connections += answers.len();
            let by_client = by_client(&answers).with_context(|| format!("through h{host}"))?;
            seen.push((format!("through h{host}"), by_client));
        }
        for host in HOSTS {
            let answers = inside(&site, host, INSIDE_EACH)?;
            connections += answers.len();
            let by_client = by_client(&answers).with_context(|| format!("in h{host}"))?;
            seen.push((format!("in h{host}"), by_client));
        }
        Ok(seen)
    };
    let before = look()?;
    for (way, by_client) in before.iter().filter(|(way, _)| way.starts_with("through")) {
        let used: BTreeSet<&String> = by_client.values().collect();
        ensure!(used.len() == 3, "{way} only {used:?} have clients");
    }
    site.cluster.weft(1, "detach b.app")?;
    site.settle(1)?;
    let after = look()?;
    let mut moved = 0;
    for ((way, before), (_, after)) in before.iter().zip(&after) {
        for (client, had) in before {
            let has = after.get(client).context("a client is missing")?;
            let right = if had == "b" { has != "b" } else { has == had };
            ensure!(right, "{way}: {client} had {had} and has {has}");
            moved += usize::from(had == "b");
        }
    }
    println!("    {connections} connections, each client with one backend; {moved} clients moved");
    Ok(())
}
