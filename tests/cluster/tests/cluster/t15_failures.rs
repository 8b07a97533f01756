//! What a node does about what fails or ends on it. Looking again at everything would repair all of
//! it sooner or later, so it is as good as off here.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::{PATIENCE, eventually, kernel};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "failures::a_network_is_tried_again_however_busy_the_cluster",
        tried_again_in_a_busy_cluster,
    ),
    (
        "failures::what_was_done_counts_although_something_else_failed",
        what_was_done_counts,
    ),
    (
        "failures::an_agent_that_left_in_the_middle_of_a_retry_rests",
        an_agent_that_left_rests,
    ),
    (
        "failures::an_endpoint_that_failed_is_not_waited_for_in_vain_and_tried_again",
        an_endpoint_that_failed,
    ),
    (
        "failures::an_endpoint_whose_namespace_ends_is_removed_at_once",
        an_endpoint_whose_namespace_ends,
    ),
];

const NEVER: &str = "1h";

/// A VXLAN device of the host's own that has a network's number.
const OBSTACLE: &str = "ip link add vx type vxlan id 7777 dstport 4789 local 198.18.0.1";

fn sh(cluster: &Cluster, host: usize, command: &str) -> Result<String> {
    let argv: Vec<&str> = command.split(' ').collect();
    cluster.sh(host, &argv)
}

/// Two hosts, the first of which cannot have the network `web`.
fn failing() -> Result<Cluster> {
    let cluster = Cluster::looking_again_every(NEVER)?;
    cluster.weft(1, "network create web --vni 7777")?;
    cluster.container(1, "web", "a")?;
    let network = cluster.json(1, "network inspect web")?;
    let id = network["id"].as_str().context("no id")?;
    let inside = format!("nsenter --net=/run/weft/netns/{id} -- ip link del vxlan0");
    sh(&cluster, 1, &inside)?;
    sh(&cluster, 1, OBSTACLE)?;
    // Something to look at the network for.
    cluster.container(2, "web", "b")?;
    eventually("the network fails", || {
        ensure!(fails(&cluster)?, "it does not");
        Ok(())
    })?;
    Ok(cluster)
}

fn fails(cluster: &Cluster) -> Result<bool> {
    Ok(cluster.weft(1, "status")?.contains("VNI 7777"))
}

fn tried_again_in_a_busy_cluster() -> Result<()> {
    let cluster = failing()?;
    sh(&cluster, 1, "ip link del vx")?;
    let started = Instant::now();
    for number in 0.. {
        cluster.weft(1, &format!("network create n{number}"))?;
        if !fails(&cluster)? {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "it was not tried again");
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("numbers ended")
}

fn what_was_done_counts() -> Result<()> {
    let cluster = failing()?;
    cluster.weft(1, "network create other")?;
    cluster.container(1, "other", "c")?;
    let endpoint = cluster.json(1, "endpoint inspect c.other")?;
    ensure!(endpoint["state"] == "ready", "{endpoint}");
    let revision = cluster.revision(1)?;
    eventually("the agent remembers how far the kernel is", || {
        let text = sh(&cluster, 1, "cat /run/weft/applied")?;
        let (_, marked) = text.trim().split_once(' ').context("no revision")?;
        ensure!(marked.parse::<u64>()? >= revision, "{text} of {revision}");
        Ok(())
    })
}

fn an_agent_that_left_rests() -> Result<()> {
    let cluster = failing()?;
    let agent = cluster.json(1, "status")?["pid"].to_string();
    cluster.weft(1, "leave --force")?;
    eventually("nothing is left of the network", || {
        ensure!(kernel::sandboxes(&cluster, 1)?.is_empty(), "a sandbox is");
        Ok(())
    })?;
    let ticks = || -> Result<u64> {
        let stat = sh(&cluster, 1, &format!("cat /proc/{agent}/stat"))?;
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        // Fields 14 and 15 of proc_pid_stat(5); the first here is the third.
        let fields = fields.split_whitespace().skip(11).take(2);
        fields.map(|field| Ok(field.parse::<u64>()?)).sum()
    };
    let before = ticks()?;
    std::thread::sleep(Duration::from_secs(3));
    let used = ticks()? - before;
    // A hundred are a second of one processor.
    ensure!(used < 60, "{used} ticks in 3 s");
    Ok(())
}

fn an_endpoint_that_failed() -> Result<()> {
    let cluster = Cluster::looking_again_every(NEVER)?;
    cluster.weft(1, "network create web")?;
    sh(&cluster, 1, "ip netns add blue")?;
    cluster.weft(1, "attach web --netns /run/netns/blue --name a")?;
    for harm in [
        "ip -n blue link set eth0 down",
        "ip -n blue link set eth0 name other0",
        "ip -n blue link add eth0 type veth peer name other1",
    ] {
        sh(&cluster, 1, harm)?;
    }
    cluster.container(2, "web", "b")?;
    cluster.settle(2)?;
    let state = || cluster.json(1, "endpoint inspect a.web");
    ensure!(state()?["state"] == "failed", "{}", state()?);
    cluster.refused(1, "wait --endpoint a.web --timeout 1s", 4, &["a", "eth0"])?;
    sh(&cluster, 1, "ip -n blue link del eth0")?;
    cluster.weft(1, "wait --endpoint a.web --timeout 60s")?;
    ensure!(state()?["state"] == "ready", "{}", state()?);
    sh(&cluster, 1, "ip netns del blue")?;
    Ok(())
}

fn an_endpoint_whose_namespace_ends() -> Result<()> {
    let cluster = Cluster::looking_again_every(NEVER)?;
    cluster.weft(1, "network create web")?;
    for (host, name) in [(1, "blue"), (2, "red")] {
        sh(&cluster, host, &format!("ip netns add {name}"))?;
        let attach = format!("attach web --netns /run/netns/{name} --name {name}");
        cluster.weft(host, &attach)?;
    }
    sh(&cluster, 2, "ip netns del red")?;
    eventually("the endpoint is removed", || {
        let left = cluster.json(1, "endpoint ls")?;
        let names: Vec<_> = left.as_array().into_iter().flatten().collect();
        ensure!(names.len() == 1 && names[0]["name"] == "blue", "{left}");
        ensure!(
            kernel::sandboxes(&cluster, 2)?.is_empty(),
            "a sandbox is left"
        );
        Ok(())
    })?;
    cluster.weft(1, "detach blue")?;
    sh(&cluster, 1, "ip netns del blue")?;
    Ok(())
}
