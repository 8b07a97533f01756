use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::eventually;
use weft_cluster_tests::weft::probe_exe;

use crate::state::State;
use crate::table::Table;

const ENDPOINTS: usize = 10_000;
/// After which a new agent has nothing more to do.
const REST: Duration = Duration::from_secs(2);
/// Managers are h1 to h3; the last host is a worker.
const HOSTS: usize = 4;
/// On which there is a container of the large network.
const MEMBERS: [usize; 2] = [1, 4];

/// What agents take of the machine's memory.
pub(crate) fn memory(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    let cluster = state.cluster(HOSTS)?;
    cluster.weft(1, "network create big --subnet 10.128.0.0/16")?;
    for host in MEMBERS {
        cluster.container(host, "big", &format!("c{host}"))?;
    }
    cluster.settle(1)?;
    std::thread::sleep(REST);
    let cases = [(1, "manager"), (4, "worker")];
    for (host, role) in cases {
        tell(
            table,
            &format!("memory of a {role}'s agent, idle"),
            &cluster,
            host,
        )?;
    }
    let started = Instant::now();
    let took = many(&cluster, &state)?;
    let name = format!("{ENDPOINTS} endpoints created, 64 at a time, by a worker");
    table.add(&name, format!("{took:.1}"), "s", String::new());
    let last = cluster.revision(1)?;
    for host in 1..=HOSTS {
        eventually("the kernels have them", || {
            let applied = cluster.json(host, "status")?["applied"].as_u64();
            anyhow::ensure!(applied >= Some(last), "h{host}: {applied:?} of {last}");
            Ok(())
        })?;
    }
    let all = started.elapsed().as_secs_f64();
    let name = format!(
        "the same until they are in the kernels of {} nodes",
        MEMBERS.len()
    );
    table.add(&name, format!("{all:.1}"), "s", "with joining".to_owned());
    std::thread::sleep(REST);
    for (host, role) in cases {
        let name = format!("memory of a {role}'s agent, {ENDPOINTS} endpoints in its kernel");
        tell(table, &name, &cluster, host)?;
    }
    Ok(())
}

fn tell(table: &mut Table, name: &str, cluster: &Cluster, host: usize) -> Result<()> {
    let host = cluster.host(host)?;
    let status = fs::read_to_string(host.proc_dir(host.agent_pid()?).join("status"))?;
    let mb = |key: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib: f64 = line
            .and_then(|line| line.split_whitespace().next())
            .with_context(|| format!("no {key}"))?
            .parse()?;
        Ok(kib * 1024.0 / 1e6)
    };
    let (all, own, peak) = (mb("VmRSS:")?, mb("RssAnon:")?, mb("VmHWM:")?);
    let spread = format!("RSS; of which {own:.1} not from files; highest {peak:.1}");
    table.add(name, format!("{all:.1}"), "MB", spread);
    Ok(())
}

/// Has a node that has no kernel make them; the seconds that it took.
fn many(cluster: &Cluster, state: &State) -> Result<f64> {
    let network = cluster.json(1, "network inspect big")?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    let token = cluster.weft(1, "token worker -q")?;
    let dir = state.path().join("ghost");
    fs::create_dir_all(&dir)?;
    let outside = cluster.outside()?;
    let mut command = outside.command(probe_exe()?);
    command.arg("ghost").arg(&dir);
    command.args(["198.18.0.254", "198.18.0.1", token.trim(), &network]);
    let output = command.arg(ENDPOINTS.to_string()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .with_context(|| format!("the ghost says {}", said.trim()))
}
