//! Everything that a refused command must leave as it was.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster::{Cluster, Ran};
use crate::kernel;

/// What of a node changes by itself: on a machine under load, heartbeats come late.
const OF_ITSELF: [&str; 3] = ["leader", "status", "revision"];

/// What the cluster says of itself and what the kernels hold.
#[derive(Debug, PartialEq)]
pub struct Picture {
    lists: Vec<Value>,
    links: Vec<(String, Vec<String>)>,
}

impl Picture {
    /// Of the hosts h1 to h`hosts`, as each of them sees it.
    pub fn of(cluster: &Cluster, hosts: usize) -> Result<Self> {
        let (mut lists, mut links) = (Vec::new(), Vec::new());
        for host in 1..=hosts {
            for verb in ["node ls", "network ls", "endpoint ls", "service ls"] {
                let mut list = cluster.json(host, verb)?;
                if verb == "node ls" {
                    let nodes = list.as_array_mut().into_iter().flatten();
                    for node in nodes.filter_map(Value::as_object_mut) {
                        node.retain(|field, _| !OF_ITSELF.contains(&field.as_str()));
                    }
                }
                lists.push(list);
            }
            let place = format!("h{host}");
            links.push((place.clone(), kernel::links(cluster, host, None)?));
            for sandbox in kernel::sandboxes(cluster, host)? {
                let inside = kernel::links(cluster, host, Some(&sandbox))?;
                links.push((format!("{place} {sandbox}"), inside));
            }
            for name in named_namespaces(cluster, host)? {
                let argv = ["ip", "-n", &name, "-o", "link"];
                let inside = cluster.sh(host, &argv)?;
                let inside = inside.lines().map(str::to_owned);
                links.push((format!("{place} {name}"), inside.collect()));
            }
        }
        Ok(Self { lists, links })
    }

    /// Fails with the first difference.
    pub fn is_still(&self, now: &Self, after: &str) -> Result<()> {
        for (before, now) in self.lists.iter().zip(&now.lists) {
            ensure!(before == now, "{after} changed {before} to {now}");
        }
        ensure!(
            self.links == now.links,
            "{after} changed {:?} to {:?}",
            self.links,
            now.links
        );
        Ok(())
    }
}

/// A command line that is to be refused: its words, the exit status, and what the line must say.
pub type Refused<'a> = (&'a [&'a str], i32, &'a [&'a str]);

/// Runs `weft` with each of these on a host; each is refused, and all of them change nothing on
/// any of `hosts` hosts. Fails with every one that does not hold.
pub fn all_refused(
    cluster: &Cluster,
    hosts: usize,
    host: usize,
    table: &[Refused<'_>],
) -> Result<()> {
    cluster.settle(1)?;
    let before = Picture::of(cluster, hosts)?;
    let mut wrong = Vec::new();
    for (words, status, says) in table {
        let ran = weft(cluster, host, words)?;
        let what = format!("weft {}", words.join(" "));
        wrong.extend(ran.is_refused(&what, *status, says).err());
        if !ran.stdout.is_empty() {
            wrong.push(anyhow::anyhow!("{what}: printed {:?}", ran.stdout));
        }
    }
    cluster.settle(1)?;
    wrong.extend(
        before
            .is_still(&Picture::of(cluster, hosts)?, "what was refused")
            .err(),
    );
    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Runs `weft` with words that may be empty or hold spaces.
pub fn weft(cluster: &Cluster, host: usize, words: &[&str]) -> Result<Ran> {
    let mut argv = vec!["weft"];
    argv.extend(words);
    cluster.run(host, &argv)
}

fn named_namespaces(cluster: &Cluster, host: usize) -> Result<Vec<String>> {
    let listed = cluster.sh(host, &["ip", "netns", "list"])?;
    let mut names: Vec<String> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    names.sort();
    Ok(names)
}
