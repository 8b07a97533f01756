//! Backends, agents and hosts that go and come under requests at a steady rate.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use weft_agent::lab::Cable;
use weft_cluster_tests::backend::{Loading, Report};
use weft_cluster_tests::eventually;

use crate::Case;
use crate::site::{HOSTS, PORT, PUBLISHED, Site, rounded, underlay};

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "rolling::start_first_for_a_minute_fails_no_request",
        start_first,
    ),
    (
        "rolling::stop_first_for_a_minute_fails_no_request",
        stop_first,
    ),
    (
        "rolling::a_host_that_dies_fails_nothing_once_it_is_down",
        a_host_that_dies,
    ),
    (
        "rolling::a_leader_that_dies_fails_nothing_once_it_is_down",
        a_leader_that_dies,
    ),
    (
        "rolling::agents_that_are_killed_fail_nothing_over_tcp_or_udp",
        agents_that_are_killed,
    ),
];

const MINUTE: Duration = Duration::from_secs(60);
/// Requests a second on each of the four ways of a rolling update.
const RATE: u32 = 125;
/// On each of more ways at once.
const MODEST_RATE: u32 = 50;
/// A host that is dead is found to be within this time, however slow the machine.
const DOWN_WITHIN: Duration = Duration::from_secs(30);

/// Requests on several ways at once.
struct Ways {
    loading: Vec<(String, Loading)>,
}

impl Ways {
    /// So many a second through each of these hosts from outside, and from its container to the
    /// service's address.
    fn start(site: &Site, protocols: &[&str], hosts: &[usize], rate: u32) -> Result<Self> {
        let mut loading = Vec::new();
        for protocol in protocols {
            for host in hosts {
                let load = site.load(protocol, *host, rate)?;
                loading.push((format!("{protocol} through h{host}"), load));
                let load = site
                    .inside(*host)
                    .load(protocol, &site.vip, PORT, rate, None)?;
                loading.push((format!("{protocol} in h{host}"), load));
            }
        }
        Ok(Self { loading })
    }

    /// Ends them; what came of each.
    fn finish(mut self) -> Result<Vec<(String, Report)>> {
        for (_, loading) in &mut self.loading {
            loading.stop()?;
        }
        let ended = self.loading.into_iter().map(|(way, loading)| {
            let report = loading.finish().with_context(|| way.clone())?;
            println!("    {way}: {report}");
            Ok((way, report))
        });
        ended.collect()
    }

    /// Ends them; none has failed.
    fn none_failed(self) -> Result<Vec<(String, Report)>> {
        let reports = self.finish()?;
        for (way, report) in &reports {
            report.none_failed().with_context(|| way.clone())?;
        }
        Ok(reports)
    }
}

fn start_first() -> Result<()> {
    rolling(|site, host, old, new| {
        site.join(host, new)?;
        site.leave(old)
    })
}

fn stop_first() -> Result<()> {
    rolling(|site, host, old, new| {
        site.leave(old)?;
        site.join(host, new)
    })
}

/// Replaces all backends again and again for a minute. One host has two, one has one, one has none.
fn rolling(replace: impl Fn(&mut Site, usize, &str, &str) -> Result<()>) -> Result<()> {
    let places = [(1, "a"), (1, "b"), (2, "c")];
    let options = format!("--publish {PUBLISHED}:{PORT} --drain-timeout 5s");
    let mut site = Site::open(&options, &[(1, "a0"), (1, "b0"), (2, "c0")])?;
    let ways = Ways::start(&site, &["tcp"], &[1, 3], RATE)?;
    let started = Instant::now();
    let mut rounds = 0;
    while started.elapsed() < MINUTE {
        for (host, letter) in places {
            let (old, new) = (
                format!("{letter}{rounds}"),
                format!("{letter}{}", rounds + 1),
            );
            replace(&mut site, host, &old, &new)?;
        }
        rounds += 1;
    }
    for (way, report) in ways.none_failed()? {
        ensure!(report.lasted >= MINUTE, "{way}: {report}");
        ensure!(report.answers.len() > places.len(), "{way}: {report:?}");
    }
    println!("    all backends replaced {rounds} times");
    Ok(())
}

fn a_host_that_dies() -> Result<()> {
    dies(|leader, host| leader != host)
}

fn a_leader_that_dies() -> Result<()> {
    dies(|leader, host| leader == host)
}

/// The first host that may is off from one moment to the next, with its agent and its backend.
fn dies(may: impl Fn(usize, usize) -> bool) -> Result<()> {
    let mut site = Site::open(&format!("--publish {PUBLISHED}:{PORT}"), &[])?;
    let leader = site.cluster.leader(1)?;
    let victim = HOSTS.into_iter().find(|host| may(leader, *host));
    let victim = victim.context("nobody may die")?;
    let others: Vec<usize> = HOSTS.into_iter().filter(|host| *host != victim).collect();
    let &[with, without] = others.as_slice() else {
        anyhow::bail!("not two others")
    };
    site.join(victim, "dead")?;
    site.join(with, "alive")?;
    let ways = Ways::start(&site, &["tcp"], &others, MODEST_RATE)?;
    for host in &others {
        site.outside().tcp(&underlay(*host), PUBLISHED, 20)?;
    }
    let died = SystemTime::now();
    let host = site.cluster.host(victim)?;
    host.set_cable(Cable::Silent)?;
    host.kill_agent()?;
    site.kill_servers(victim);
    // While nobody leads, nobody can say.
    eventually("it is down in every kernel", || {
        site.until_state(without, "dead", "down")?;
        site.settle(without)
    })?;
    let down = SystemTime::now();
    let took = down.duration_since(died)?;
    for host in &others {
        let published = site.outside().tcp(&underlay(*host), PUBLISHED, 100)?;
        let inside = site.inside(*host).tcp(&site.vip, PORT, 100)?;
        let mut all = published.iter().chain(&inside);
        ensure!(all.all(|answer| answer.name == "alive"), "by the dead");
    }
    println!(
        "    down in every kernel {:?} after its death",
        rounded(took)
    );
    for (way, report) in ways.finish()? {
        let after = |when: Option<SystemTime>| {
            let after = when.and_then(|when| when.duration_since(died).ok());
            after.map_or("none".to_owned(), |after| format!("{:?}", rounded(after)))
        };
        let (failed, met) = (after(report.last_failed), after(report.last_slow));
        println!("    {way}: the last that failed began after {failed}, that was slow {met}");
        ensure!(report.last_failed <= Some(down), "{way}: {report:?}");
        ensure!(report.answers.contains_key("dead"), "{way}: {report:?}");
    }
    ensure!(took < DOWN_WITHIN, "down only after {took:?}");
    Ok(())
}

fn agents_that_are_killed() -> Result<()> {
    let publish = format!("--publish {PUBLISHED}:{PORT} --publish {PUBLISHED}:{PORT}/udp");
    let site = Site::open(&publish, &[(1, "a"), (2, "b")])?;
    let ways = Ways::start(&site, &["tcp", "udp"], &[1, 3], MODEST_RATE)?;
    // One is the entry and has a backend, one has one, one is an entry only; one of them leads.
    for host in HOSTS {
        site.restart_agent(host)?;
        // Each finds something to change.
        let weight = format!("endpoint update b.app --weight {}", host + 1);
        site.cluster.weft(host, &weight)?;
        site.settle(host)?;
    }
    // All at once: there is nobody to ask then.
    for host in HOSTS {
        site.cluster.host(host)?.kill_agent()?;
    }
    for host in HOSTS {
        site.outside().tcp(&underlay(host), PUBLISHED, 100)?;
    }
    for host in HOSTS {
        site.cluster.host(host)?.start_agent()?;
    }
    eventually("the agents are in step", || site.settle(1))?;
    ways.none_failed().map(drop)
}
