//! Keys of encrypted networks: how they come, change and go while traffic goes on.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use weft_agent::lab::{PingSpec, PullSpec};
use weft_cluster_tests::cluster::{Cluster, options};
use weft_cluster_tests::eventually;
use weft_cluster_tests::weft::weft_exe;

use crate::Case;
use crate::secret::*;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "keys::an_agent_that_is_killed_costs_nothing_and_brings_other_keys",
        an_agent_is_killed,
    ),
    (
        "keys::replaced_every_second_under_load_they_lose_nothing",
        replaced_under_load,
    ),
    (
        "keys::a_data_plane_process_that_dies_leaves_nothing_in_clear",
        a_process_dies,
    ),
    (
        "keys::another_program_takes_over_and_goes_on_with_them",
        another_program,
    ),
    (
        "keys::a_node_that_is_removed_has_none_any_more",
        a_node_is_removed,
    ),
    (
        "keys::a_peer_without_any_is_blocked_and_says_why",
        a_peer_is_blocked,
    ),
    (
        "keys::over_a_data_path_of_its_own_with_ipv6",
        another_data_path,
    ),
    (
        "keys::a_node_behind_an_address_translator_is_found",
        a_node_is_translated,
    ),
];

fn an_agent_is_killed() -> Result<()> {
    let cluster = encrypted(&options(2)?)?;
    let (a, b) = (address(&cluster, "a")?, address(&cluster, "b")?);
    let before = [epoch(&cluster, 1, 2)?, epoch(&cluster, 2, 1)?];
    let watch = cluster.host(2)?.start_watch()?;
    let pings = [
        cluster.host(1)?.start_ping(Some("a.web"), &endless(b))?,
        cluster.host(2)?.start_ping(Some("b.web"), &endless(a))?,
    ];
    pinging(&cluster, pings.len())?;
    for host in [2, 1] {
        let process = cluster.json(host, "status")?["dataplane"]["pid"].clone();
        cluster.host(host)?.kill_agent()?;
        cluster.host(host)?.start_agent()?;
        cluster
            .host(host)?
            .wait_ready(weft_cluster_tests::PATIENCE)?;
        protected(&cluster, host, 1)?;
        let after = eventually("the process is known", || {
            let process = cluster.json(host, "status")?["dataplane"]["pid"].clone();
            ensure!(process.is_u64());
            Ok(process)
        })?;
        ensure!(process == after, "process {process} became {after}");
        eventually("both directions have other keys", || {
            let now = [epoch(&cluster, 1, 2)?, epoch(&cluster, 2, 1)?];
            ensure!(
                now.iter().zip(before).all(|(now, before)| *now > before),
                "{now:?}"
            );
            Ok(())
        })?;
    }
    for ping in pings {
        unharmed(&ping.finish()?)?;
    }
    sealed(watch)
}

fn replaced_under_load() -> Result<()> {
    replaced_under_load_with(&["--rekey=1s"])
}

pub(crate) fn replaced_under_load_with(agent_args: &[&str]) -> Result<()> {
    let cluster = encrypted(&options_with(2, agent_args)?)?;
    let b = address(&cluster, "b")?;
    let _server = server(&cluster, 2, "b")?;
    let watch = cluster.host(1)?.start_watch()?;
    let before = [epoch(&cluster, 1, 2)?, epoch(&cluster, 2, 1)?];
    let ping = cluster.host(1)?.start_ping(Some("a.web"), &endless(b))?;
    eventually("three keys were replaced in each direction", || {
        // What is transferred waits for what is in its way, so nothing is too fast for this machine.
        let spec = PullSpec {
            from: SocketAddr::new(b, SERVER),
            bytes: 4 << 20,
        };
        cluster.host(1)?.pull(Some("a.web"), &spec)?;
        let now = [epoch(&cluster, 1, 2)?, epoch(&cluster, 2, 1)?];
        ensure!(
            now.iter()
                .zip(before)
                .all(|(now, before)| *now >= before + 3),
            "{now:?}"
        );
        Ok(())
    })?;
    let report = ping.finish()?;
    for (host, other) in [(1, 2), (2, 1)] {
        let faults = key_faults(&cluster, host, other)?;
        ensure!(
            faults == 0,
            "h{host}: {faults} packets had no key: {:?}",
            peers(&cluster, host)?
        );
    }
    // Queues that are full lose packets as on any wire; keys lose none.
    ensure!(
        report.received > 10 && report.lost * 50 <= report.sent,
        "{report:?}"
    );
    sealed(watch)
}

fn a_process_dies() -> Result<()> {
    let cluster = encrypted(&options(2)?)?;
    let b = address(&cluster, "b")?;
    let watch = cluster.host(2)?.start_watch()?;
    let ping = cluster.host(1)?.start_ping(Some("a.web"), &endless(b))?;
    for host in [1, 2] {
        let pid = cluster.json(host, "status")?["dataplane"]["pid"].clone();
        cluster.sh(host, &["kill", "-9", &pid.to_string()])?;
        eventually("another process has keys", || {
            let status = cluster.json(host, "status")?;
            let process = &status["dataplane"];
            ensure!(process["pid"].is_u64() && process["pid"] != pid, "{status}");
            ensure!(
                status["encryption"]["peers"][0]["state"] == "protected",
                "{status}"
            );
            Ok(())
        })?;
        eventually("it is reached again", || {
            let report = cluster.host(1)?.ping(Some("a.web"), &PingSpec::once(b))?;
            ensure!(report.lost == 0, "{report:?}");
            Ok(())
        })?;
    }
    let report = ping.finish()?;
    ensure!(report.received > 0, "{report:?}");
    sealed(watch)
}

fn another_program() -> Result<()> {
    another_program_with(&[])
}

pub(crate) fn another_program_with(agent_args: &[&str]) -> Result<()> {
    let cluster = encrypted(&options_with(2, agent_args)?)?;
    let (a, b) = (address(&cluster, "a")?, address(&cluster, "b")?);
    let before = cluster.json(2, "status")?["dataplane"]["pid"].clone();
    let watch = cluster.host(2)?.start_watch()?;
    let pings = [
        cluster.host(1)?.start_ping(Some("a.web"), &endless(b))?,
        cluster.host(2)?.start_ping(Some("b.web"), &endless(a))?,
    ];
    pinging(&cluster, pings.len())?;
    // A copy is another file, as an upgrade is.
    let own = weft_exe()?;
    let dir = format!("{}.keys-{}", own.display(), std::process::id());
    let copy = format!("{dir}/weft");
    std::fs::create_dir_all(&dir)?;
    let upgraded = || -> Result<()> {
        cluster.sh(2, &["cp", own.to_str().context("a path")?, &copy])?;
        cluster.host(2)?.kill_agent()?;
        let agent = format!("exec {copy} agent {} >/dev/null 2>&1", agent_args.join(" "));
        let agent = cluster.spawn(2, &["sh", "-c", &agent])?;
        eventually("another process is in charge, with keys", || {
            let status = cluster.json(2, "status")?;
            let pid = &status["dataplane"]["pid"];
            ensure!(pid.is_u64() && *pid != before, "{status}");
            ensure!(
                status["encryption"]["peers"][0]["state"] == "protected",
                "{status}"
            );
            ensure!(status["encryption"]["error"].is_null(), "{status}");
            Ok(())
        })?;
        let old = format!("/proc/{before}/exe");
        eventually("the first process has ended", || {
            ensure!(
                cluster.run(2, &["test", "-e", &old])?.status != 0,
                "it runs"
            );
            Ok(())
        })?;
        let report = cluster
            .host(1)?
            .ping(Some("a.web"), &PingSpec::once(b).times(20, 5_000))?;
        ensure!(report.lost == 0, "{report:?}");
        drop(agent);
        Ok(())
    };
    let outcome = upgraded();
    let _ = std::fs::remove_dir_all(&dir);
    outcome?;
    for ping in pings {
        // What waits in a queue that is full at that moment is what one retransmission repairs.
        let report = ping.finish()?;
        ensure!(report.received > 10 && report.lost <= 2, "{report:?}");
    }
    sealed(watch)
}

fn a_node_is_removed() -> Result<()> {
    let mut options = options(3)?;
    options.managers = 1;
    let cluster = encrypted(&options)?;
    let c = address(&cluster, "c")?;
    let watch = cluster.host(1)?.start_watch()?;
    // What is sealed is on the wire before the node goes, however late the endless one starts.
    eventually("it is reached", || {
        let report = cluster.host(1)?.ping(Some("a.web"), &PingSpec::once(c))?;
        ensure!(report.lost == 0, "{report:?}");
        Ok(())
    })?;
    let ping = cluster.host(1)?.start_ping(Some("a.web"), &endless(c))?;
    cluster.weft(3, "leave --force")?;
    for host in [1, 2] {
        eventually("nothing is known of it", || {
            let peers = peers(&cluster, host)?;
            ensure!(peers.len() == 1 && peers[0]["name"] != "h3", "{peers:?}");
            Ok(())
        })?;
    }
    eventually("nothing of encryption is left there", || {
        let rules = cluster.sh(3, &["ip", "rule"])?;
        ensure!(!rules.contains(&INNER.to_string()), "{rules}");
        let links = cluster.sh(3, &["ip", "-o", "link"])?;
        ensure!(!links.contains("wf-esp"), "{links}");
        let tables = cluster.sh(3, &["nft", "list", "tables"])?;
        ensure!(!tables.contains("weft-esp"), "{tables}");
        Ok(())
    })?;
    drop(ping.finish()?);
    sealed(watch)
}

fn a_peer_is_blocked() -> Result<()> {
    let mut options = options(2)?;
    options.managers = 1;
    let cluster = encrypted(&options)?;
    let b = address(&cluster, "b")?;
    let watch = cluster.host(1)?.start_watch()?;
    let report = cluster.host(1)?.ping(Some("a.web"), &PingSpec::once(b))?;
    ensure!(report.lost == 0, "{report:?}");
    // Without its agent nobody agrees on keys, and without its process h1 has none.
    cluster.host(2)?.kill_agent()?;
    let pid = cluster.json(1, "status")?["dataplane"]["pid"].clone();
    cluster.sh(1, &["kill", "-9", &pid.to_string()])?;
    eventually("it is blocked", || {
        let peer = peer(&cluster, 1, 2)?;
        ensure!(
            peer["state"] == "blocked" && peer["reason"].is_string(),
            "{peer}"
        );
        let network = cluster.json(1, "network inspect web")?;
        let warning = network["warnings"][0].as_str().unwrap_or_default();
        ensure!(warning.contains("exchanged with h2: "), "{network}");
        let shown = cluster.weft(1, "status")?;
        ensure!(
            shown.contains("Blocked") && shown.contains("h2: "),
            "{shown}"
        );
        Ok(())
    })?;
    eventually("a ping that is not sent is counted", || {
        let spec = PingSpec {
            timeout_ms: 100,
            ..PingSpec::once(b)
        };
        let report = cluster.host(1)?.ping(Some("a.web"), &spec)?;
        ensure!(report.received == 0, "{report:?}");
        let peer = peer(&cluster, 1, 2)?;
        ensure!(peer["drops"]["no_key"].as_u64() > Some(0), "{peer}");
        Ok(())
    })?;
    cluster.host(2)?.start_agent()?;
    eventually("it is reached again", || {
        let report = cluster.host(1)?.ping(Some("a.web"), &PingSpec::once(b))?;
        ensure!(report.lost == 0, "{report:?}");
        Ok(())
    })?;
    sealed(watch)
}

fn another_data_path() -> Result<()> {
    another_data_path_with(&[])
}

pub(crate) fn another_data_path_with(agent_args: &[&str]) -> Result<()> {
    may_make_devices()?;
    let cluster = Cluster::with(&options_with(2, agent_args)?.without_cluster())?;
    // Containers' packets go by other addresses than the agents speak at.
    for host in 1..=2 {
        let address = format!("fd00:19::{host}/64");
        cluster.sh(
            host,
            &["ip", "address", "add", &address, "dev", "eth0", "nodad"],
        )?;
    }
    cluster.weft(1, "init --data-path-addr fd00:19::1 --data-path-port 5789")?;
    let token = cluster.weft(1, "token worker -q")?;
    let join = format!(
        "join --token {} 198.18.0.1 --data-path-addr fd00:19::2",
        token.trim()
    );
    cluster.weft(2, &join)?;
    cluster.weft(1, "network create web --encrypted")?;
    let network = cluster.json(1, "network inspect web")?;
    ensure!(network["mtu"] == 1388, "{network}");
    let watch = cluster.host(1)?.start_watch()?;
    cluster.container(1, "web", "a")?;
    let b: IpAddr = cluster.container(2, "web", "b")?.parse()?;
    cluster.settle(1)?;
    protected(&cluster, 1, 1)?;
    protected(&cluster, 2, 1)?;
    let widest = PingSpec::once(b).unfragmented(1388);
    let report = cluster.host(1)?.ping(Some("a.web"), &widest)?;
    ensure!(report.lost == 0, "{report:?}");
    ensure!(peer(&cluster, 1, 2)?["vtep"] == "fd00:19::2");
    let _server = server(&cluster, 2, "b")?;
    let spec = PullSpec {
        from: SocketAddr::new(b, SERVER),
        bytes: 16 << 20,
    };
    cluster.host(1)?.pull(Some("a.web"), &spec)?;
    let seen = watch.finish()?;
    let clear = [5789, 5790].map(|port| seen.udp.get(&port).copied().unwrap_or(0));
    ensure!(seen.clear == 0 && clear == [0, 0], "in clear: {seen:?}");
    Ok(())
}

/// What leaves h2 from the port of ESP comes from another one, and nothing reaches it by its own.
const TRANSLATOR: &str = "
table ip translator {
    chain out {
        type nat hook postrouting priority srcnat;
        oifname eth0 udp sport 4500 masquerade to :50000-50999
    }
    chain in {
        type filter hook prerouting priority raw;
        iifname eth0 udp dport 4500 drop
    }
}";

fn a_node_is_translated() -> Result<()> {
    may_make_devices()?;
    let cluster = Cluster::with(&options(2)?)?;
    let rules = format!("nft -f - <<'END'\n{TRANSLATOR}\nEND\n");
    cluster.sh(2, &["sh", "-c", &rules])?;
    cluster.weft(1, "network create web --encrypted")?;
    cluster.container(1, "web", "a")?;
    cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    protected(&cluster, 1, 1)?;
    protected(&cluster, 2, 1)?;
    let (a, b) = (address(&cluster, "a")?, address(&cluster, "b")?);
    // Who is behind the translator is heard of first; until then nothing reaches it.
    for (host, from, to) in [(2, "b.web", a), (1, "a.web", b)] {
        eventually("it is reached", || {
            let report = cluster.host(host)?.ping(Some(from), &PingSpec::once(to))?;
            ensure!(report.lost == 0, "{report:?}");
            Ok(())
        })?;
    }
    eventually("it is said where it is", || {
        let peer = peer(&cluster, 1, 2)?;
        let remote = peer["remote"].as_str().unwrap_or_default();
        ensure!(remote.starts_with("198.18.0.2:50"), "{peer}");
        Ok(())
    })
}
