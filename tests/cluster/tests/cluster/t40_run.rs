//! Containers that weft starts, and namespaces that others made.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::PingSpec;
use weft_cluster_tests::cluster::{Cluster, Ran, Running};
use weft_cluster_tests::weft::probe_exe;
use weft_cluster_tests::{PATIENCE, eventually, kernel};

use crate::Case;

mod attach;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "run::a_foreground_command_is_as_if_run_directly",
        as_if_run_directly,
    ),
    ("run::signals_reach_the_command", signals_reach_the_command),
    (
        "run::interfaces_and_files_are_there_before_the_command",
        there_before_the_command,
    ),
    (
        "run::what_cannot_be_started_leaves_nothing",
        what_cannot_be_started,
    ),
    (
        "run::a_detached_command_is_listed_until_it_ends",
        listed_until_it_ends,
    ),
    (
        "run::a_detached_command_survives_its_agent",
        survives_its_agent,
    ),
    (
        "run::a_killed_run_leaves_no_process_and_no_endpoint",
        a_killed_run,
    ),
    (
        "run::the_last_detach_ends_a_detached_command",
        the_last_detach,
    ),
    ("run::exec_runs_inside_the_endpoint", exec_runs_inside),
    (
        "attach::a_named_namespace_is_reached_across_hosts",
        attach::named_namespaces,
    ),
    (
        "attach::address_mac_name_and_alias_are_as_wanted",
        attach::as_wanted,
    ),
    (
        "attach::a_namespace_that_ends_takes_its_endpoint_with_it",
        attach::a_namespace_that_ends,
    ),
];

/// A cluster of so many hosts with a network `web`.
fn with_web(hosts: usize) -> Result<Cluster> {
    let cluster = Cluster::up(hosts)?;
    cluster.weft(1, "network create web")?;
    Ok(cluster)
}

/// `weft run --network web` with further words.
fn run(cluster: &Cluster, words: &[&str]) -> Result<Ran> {
    cluster.run(1, &[&["weft", "run", "--network", "web"], words].concat())
}

fn endpoints(cluster: &Cluster, host: usize) -> Result<Vec<Value>> {
    let listed = cluster.json(host, "endpoint ls")?;
    Ok(listed.as_array().context("no list")?.clone())
}

/// Waits until there are neither endpoints nor sandboxes nor directories of containers.
fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    eventually("nothing is left", || {
        let found = endpoints(cluster, 1)?;
        ensure!(found.is_empty(), "{found:?}");
        let sandboxes = kernel::sandboxes(cluster, 1)?;
        ensure!(sandboxes.is_empty(), "{sandboxes:?}");
        let script = "cd /run/weft/containers 2>/dev/null && ls -d */ || true";
        let kept = cluster.sh(1, &["sh", "-c", script])?;
        ensure!(kept.trim().is_empty(), "{kept}");
        Ok(())
    })
}

/// Waits until no process of the lab has this in its command line.
fn no_process(cluster: &Cluster, mark: &str) -> Result<()> {
    let script = "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $p; echo; done 2>/dev/null; :";
    eventually(&format!("no process {mark} is left"), || {
        let listed = cluster.sh(1, &["sh", "-c", script])?;
        let found: Vec<&str> = listed.lines().filter(|line| line.contains(mark)).collect();
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })
}

fn as_if_run_directly() -> Result<()> {
    let cluster = with_web(1)?;
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)] {
        let ran = run(&cluster, &["--", "sh", "-c", script])?;
        ensure!(ran.status == status, "{script}: {ran:?}");
        ensure!(ran.stdout.is_empty() && ran.stderr.is_empty(), "{ran:?}");
    }
    let ran = run(&cluster, &["--", "sh", "-c", "kill -KILL $$"])?;
    ensure!(ran.status == 137, "{ran:?}");
    let ran = run(
        &cluster,
        &[
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; echo \"$1\"",
            "sh",
            "a  b",
        ],
    )?;
    ensure!(
        ran.stdout == "out\na  b\n" && ran.stderr == "err\n",
        "{ran:?}"
    );
    // More than a pipe holds, in and out.
    let text = "all work and no play\n".repeat(20_000);
    let mut command = cluster.host(1)?.command("weft");
    let words = ["run", "--network", "web", "--", "tr", "a-z", "A-Z"];
    let mut child = command
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = text.clone();
    let writing = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    writing
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    ensure!(
        output.stdout == text.to_uppercase().into_bytes(),
        "{} bytes came back",
        output.stdout.len()
    );
    nothing_is_left(&cluster)
}

/// A foreground `weft run` whose process id is in `/run/<name>.pid`, once its command is ready.
fn foreground(cluster: &Cluster, name: &str, script: &str) -> Result<Running> {
    let outer = format!(
        "echo $$ > /run/{name}.pid; exec weft run --network web --name {name} -- sh -c '{script}'"
    );
    let running = cluster.spawn(1, &["sh", "-c", &outer])?;
    let ready = format!("/run/{name}.ready");
    eventually("the command is ready", || {
        cluster.sh(1, &["test", "-e", &ready])
    })?;
    Ok(running)
}

/// Sends a signal to `weft run` alone.
fn signal(cluster: &Cluster, name: &str, signal: &str) -> Result<()> {
    let kill = format!("kill -{signal} $(cat /run/{name}.pid)");
    cluster.sh(1, &["sh", "-c", &kill])?;
    Ok(())
}

fn signals_reach_the_command() -> Result<()> {
    let cluster = with_web(1)?;
    let probe = probe_exe()?;
    for name in ["TERM", "INT", "HUP", "USR1", "QUIT"] {
        let container = format!("s-{}", name.to_lowercase());
        let script = format!(
            "exec {} tell-signals /run/{container}.ready",
            probe.display()
        );
        let running = foreground(&cluster, &container, &script)?;
        signal(&cluster, &container, name)?;
        let ran = running.wait()?;
        ensure!(
            ran.status == 40 && ran.stdout == format!("SIG{name}\n"),
            "{name}: {ran:?}"
        );
    }
    // A command that does not care ends as the signal says.
    let running = foreground(&cluster, "plain", "touch /run/plain.ready; exec sleep 600")?;
    signal(&cluster, "plain", "TERM")?;
    let ran = running.wait()?;
    ensure!(ran.status == 143, "{ran:?}");
    nothing_is_left(&cluster)
}

fn there_before_the_command() -> Result<()> {
    let cluster = with_web(1)?;
    cluster.weft(1, "network create db")?;
    let before = cluster.sh(1, &["cat", "/etc/hosts"])?;
    let show = "ip -j address show; echo ---; cat /etc/hosts; echo ---; cat /etc/resolv.conf";
    let ran = run(
        &cluster,
        &[
            "--network",
            "db",
            "--name",
            "two",
            "--alias",
            "other",
            "--",
            "sh",
            "-c",
            show,
        ],
    )?;
    ensure!(ran.status == 0, "{ran:?}");
    let parts: Vec<&str> = ran.stdout.split("---\n").collect();
    let [links, hosts, resolv_conf] = parts.as_slice() else {
        anyhow::bail!("{ran:?}")
    };
    let links: Value = serde_json::from_str(links)?;
    let found: Vec<String> = links
        .as_array()
        .into_iter()
        .flatten()
        .filter(|link| link["ifname"] != "wfgw")
        .map(|link| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let local = link["addr_info"][0]["local"].clone();
            let up = link["operstate"] == "UP" || link["ifname"] == "lo";
            format!("{} {} {up}", text(&link["ifname"]), text(&local))
        })
        .collect();
    let expected = [
        "lo 127.0.0.1 true",
        "eth0 10.0.1.2 true",
        "eth1 10.0.2.2 true",
    ];
    ensure!(found == expected, "{found:?}");
    let names = |line: &str| -> Vec<String> {
        let words = line.split('#').next().unwrap_or_default();
        words.split_whitespace().map(str::to_owned).collect()
    };
    let lines: Vec<Vec<String>> = hosts.lines().map(names).collect();
    for (address, name) in [
        ("127.0.0.1", "localhost"),
        ("10.0.1.2", "two"),
        ("10.0.1.2", "two.web"),
        ("10.0.1.2", "other"),
        ("10.0.2.2", "two.db"),
    ] {
        ensure!(
            lines
                .iter()
                .any(|line| line.first().is_some_and(|a| a == address)
                    && line.iter().skip(1).any(|n| n == name)),
            "{name} is not {address} in {hosts}"
        );
    }
    // The host's servers are not reachable from inside, so they are not named.
    let servers = resolv_conf
        .lines()
        .filter(|line| line.starts_with("nameserver"));
    let servers: Vec<&str> = servers.collect();
    ensure!(servers == ["nameserver 127.0.0.11"], "{resolv_conf}");
    ensure!(
        cluster.sh(1, &["cat", "/etc/hosts"])? == before,
        "the host's own file changed"
    );
    nothing_is_left(&cluster)
}

fn what_cannot_be_started() -> Result<()> {
    let cluster = with_web(1)?;
    cluster.sh(1, &["sh", "-c", "echo data > /run/data"])?;
    for detach in [&["--detach"][..], &[]] {
        for (command, status, says) in [
            ("no-such-command", 127, "no-such-command"),
            ("/no/such/path", 127, "/no/such/path"),
            ("/run/data", 126, "/run/data"),
            ("/run", 126, "/run"),
        ] {
            let ran = run(&cluster, &[detach, &["--", command]].concat())?;
            ran.is_refused(command, status, &[says])?;
        }
        // The second network is refused after the first was attached.
        let ran = run(
            &cluster,
            &[&["--network", "nope"], detach, &["--", "true"]].concat(),
        )?;
        ran.is_refused("an unknown second network", 1, &["nope"])?;
        let ran = run(
            &cluster,
            &[&["--network", "web"], detach, &["--", "true"]].concat(),
        )?;
        ran.is_refused("the same network twice", 2, &["--network", "web", "once"])?;
        nothing_is_left(&cluster)?;
    }
    cluster.container(1, "web", "a")?;
    let before = endpoints(&cluster, 1)?;
    for detach in [&["--detach"][..], &[]] {
        let words = [detach, &["--name", "a", "--", "touch", "/run/ran"]].concat();
        run(&cluster, &words)?.is_refused("a taken name", 1, &["a", "taken"])?;
    }
    ensure!(endpoints(&cluster, 1)? == before, "something changed");
    let ran = cluster.run(1, &["test", "-e", "/run/ran"])?;
    ensure!(ran.status == 1, "a refused command ran");
    Ok(())
}

fn listed_until_it_ends() -> Result<()> {
    let cluster = with_web(2)?;
    let script = "echo to the log; while ! test -e /run/stop; do sleep 0.02; done";
    let words = ["--name", "d", "--detach", "--", "sh", "-c", script];
    let ran = run(&cluster, &words)?;
    ensure!(ran.status == 0 && ran.stderr.is_empty(), "{ran:?}");
    let shown = cluster.json(2, "endpoint inspect d.web")?;
    ensure!(ran.stdout.trim() == shown["id"], "{ran:?} and {shown}");
    ensure!(
        shown["kind"]["command"] == serde_json::json!(["sh", "-c", script])
            && shown["kind"]["detached"] == true,
        "{shown}"
    );
    ensure!(
        shown["node"] == "h1" && shown["ipv4"] == "10.0.1.2",
        "{shown}"
    );
    cluster.sh(1, &["touch", "/run/stop"])?;
    for host in 1..=2 {
        eventually("the endpoint goes with its command", || {
            let found = endpoints(&cluster, host)?;
            ensure!(found.is_empty(), "{found:?}");
            Ok(())
        })?;
    }
    nothing_is_left(&cluster)
}

fn survives_its_agent() -> Result<()> {
    let cluster = with_web(2)?;
    let address = cluster.container(1, "web", "d")?;
    cluster.container(2, "web", "client")?;
    cluster.settle(1)?;
    let before = cluster.json(1, "endpoint inspect d.web")?;
    let spec = PingSpec::once(address.parse::<std::net::IpAddr>()?).endless(10_000);
    let ping = cluster.host(2)?.start_ping(Some("client.web"), &spec)?;
    kernel::flowing(&cluster, 2, "web")?;
    cluster.host(1)?.kill_agent()?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(PATIENCE)?;
    eventually("the agent is as far as before", || {
        let now = cluster.json(1, "endpoint inspect d.web")?;
        ensure!(now == before, "{now} is not {before}");
        Ok(())
    })?;
    cluster.settle(2)?;
    let report = ping.finish()?;
    ensure!(report.lost == 0 && report.sent > 10, "{report:?}");
    let ran = cluster.try_weft(1, "exec d.web -- true")?;
    ensure!(ran.status == 0, "{ran:?}");
    // A command that ends while the agent is away is not forgotten.
    cluster.host(1)?.kill_agent()?;
    let netns = before["netns"].as_str().context("no netns")?.to_owned();
    let shim = netns
        .strip_prefix("/proc/")
        .and_then(|rest| rest.split('/').next())
        .context("not a process")?;
    cluster.sh(1, &["sh", "-c", &format!("kill -TERM {shim}")])?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(PATIENCE)?;
    eventually("the endpoint is gone", || {
        let found = endpoints(&cluster, 1)?;
        ensure!(found.len() == 1, "{found:?}");
        let sandboxes = kernel::sandboxes(&cluster, 1)?;
        ensure!(sandboxes.is_empty(), "{sandboxes:?}");
        Ok(())
    })
}

fn a_killed_run() -> Result<()> {
    let cluster = with_web(1)?;
    // One that obeys signals, and one with a child of its own that ignores them.
    for (name, script) in [
        ("meek", "touch /run/meek.ready; exec sleep 7777"),
        (
            "stubborn",
            "trap \"\" TERM INT HUP; sleep 7777 & touch /run/stubborn.ready; \
             while true; do sleep 0.1; done",
        ),
    ] {
        let running = foreground(&cluster, name, script)?;
        ensure!(endpoints(&cluster, 1)?.len() == 1, "{name} is not listed");
        signal(&cluster, name, "KILL")?;
        running.wait()?;
        no_process(&cluster, "sleep 7777")?;
        no_process(&cluster, "internal container")?;
        nothing_is_left(&cluster)?;
    }
    Ok(())
}

fn the_last_detach() -> Result<()> {
    let cluster = with_web(1)?;
    cluster.weft(1, "network create db")?;
    let words = "--network db --name two --detach -- sleep 7778";
    let ran = run(&cluster, &words.split(' ').collect::<Vec<_>>())?;
    ensure!(
        ran.status == 0 && ran.stdout.lines().count() == 2,
        "{ran:?}"
    );
    cluster.weft(1, "detach two.web")?;
    let shown: Value = serde_json::from_str(&cluster.weft(1, "exec two.db -- ip -j link show")?)?;
    let names: Vec<&str> = shown
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|link| link["ifname"].as_str())
        .filter(|name| *name != "wfgw")
        .collect();
    ensure!(names == ["lo", "eth1"], "{names:?}");
    cluster.weft(1, "detach two.db")?;
    no_process(&cluster, "sleep 7778")?;
    nothing_is_left(&cluster)
}

fn exec_runs_inside() -> Result<()> {
    let cluster = with_web(2)?;
    cluster.container(1, "web", "a")?;
    cluster.settle(1)?;
    let exec = |host: usize, words: &[&str]| {
        cluster.run(host, &[&["weft", "exec", "a.web", "--"], words].concat())
    };
    let ran = exec(1, &["sh", "-c", "echo in; cat; exit 9"])?;
    ensure!(ran.status == 9 && ran.stdout == "in\n", "{ran:?}");
    let ran = exec(1, &["sh", "-c", "kill -KILL $$"])?;
    ensure!(ran.status == 137, "{ran:?}");
    exec(1, &["no-such-command"])?.is_refused("exec", 127, &["no-such-command"])?;
    let inside = exec(
        1,
        &["sh", "-c", "readlink /proc/self/ns/net; cat /etc/hosts"],
    )?
    .stdout;
    let shown = cluster.json(1, "endpoint inspect a.web")?;
    let netns = shown["netns"].as_str().context("no netns")?;
    let wanted = cluster.sh(1, &["readlink", netns])?;
    ensure!(inside.starts_with(&wanted), "{inside} is not in {wanted}");
    ensure!(inside.contains("10.0.1.2"), "{inside}");
    let host = cluster.sh(1, &["readlink", "/proc/self/ns/net"])?;
    ensure!(host != wanted, "the container is in the host's namespace");
    exec(2, &["true"])?.is_refused("exec elsewhere", 1, &["a.web", "h1"])?;
    for name in ["a", shown["id"].as_str().context("no id")?] {
        let ran = cluster.run(1, &["weft", "exec", name, "--", "true"])?;
        ensure!(ran.status == 0, "{name}: {ran:?}");
    }
    Ok(())
}
