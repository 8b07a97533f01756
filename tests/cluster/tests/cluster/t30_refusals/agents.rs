//! Agents that must not start, and agents that are not there.

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::picture::{Picture, Refused, all_refused, weft};
use weft_cluster_tests::weft::probe_exe;

fn probe() -> Result<String> {
    let path = probe_exe()?;
    Ok(path.to_str().context("a path that is no text")?.to_owned())
}

pub(super) fn usage_and_unreachable() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.sh(1, &["touch", "/run/plain"])?;
    cluster.sh(1, &[&probe()?, "dead-socket", "/run/dead.sock"])?;
    let table: &[Refused<'_>] = &[
        (&["bogus"], 2, &["bogus", "weft --help"]),
        (&["status", "extra"], 2, &["extra", "weft status --help"]),
        (&["status", "--format", "xml"], 2, &["xml", "table", "json"]),
        (&["node", "ls", "--bogus"], 2, &["--bogus"]),
        (&["network", "bogus"], 2, &["bogus"]),
        (&["network", "create"], 2, &["NAME"]),
        (&["wait"], 2, &["--revision", "--endpoint"]),
        (&["wait", "--revision", "x"], 2, &["x"]),
        (&["wait", "--revision", "1", "--timeout", "x"], 2, &["x"]),
        (&["token", "king"], 2, &["king", "worker", "manager"]),
        (&["completions", "tcsh"], 2, &["tcsh", "bash"]),
        (&["run", "--network", "web"], 2, &["COMMAND"]),
        (&["run", "--", "true"], 2, &["--network"]),
        (&["exec", "a"], 2, &["COMMAND"]),
        (&["join", "198.18.0.1"], 2, &["--token"]),
        (&["init", "--cert-expiry", "1m"], 2, &["1h"]),
        (
            &["agent", "--node-name", "X_"],
            2,
            &["X_", "a-z, 0-9 and -"],
        ),
        (
            &["--socket", "/run/nope.sock", "status"],
            3,
            &["/run/nope.sock", "weft agent", "--socket"],
        ),
        (
            &["--socket", "/run/nope.sock", "network", "create", "n"],
            3,
            &["/run/nope.sock"],
        ),
        (
            &[
                "--socket",
                "/run/nope.sock",
                "run",
                "--network",
                "n",
                "--",
                "true",
            ],
            3,
            &["/run/nope.sock"],
        ),
        (
            &["--socket", "/run/plain", "status"],
            3,
            &["/run/plain", "not a socket"],
        ),
        (
            &["--socket", "/run/dead.sock", "status"],
            3,
            &["/run/dead.sock", "weft agent"],
        ),
    ];
    all_refused(&cluster, 1, 1, table)?;
    cluster.host(1)?.kill_agent()?;
    for verb in [
        "status",
        "node ls",
        "network create n",
        "events",
        "detach x",
    ] {
        cluster.refused(1, verb, 3, &["/run/weft/weft.sock", "weft agent"])?;
    }
    let alone = Cluster::unformed(1)?;
    for verb in ["node ls", "network create n", "token worker", "leave"] {
        alone.refused(1, verb, 1, &["no cluster", "weft init", "weft join"])?;
    }
    Ok(())
}

pub(super) fn a_second_agent() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.settle(1)?;
    let pid = format!("pid {}", cluster.host(1)?.agent_pid()?);
    let before = Picture::of(&cluster, 1)?;
    // Each of the three places is enough to be in the way.
    let table: &[(&[&str], &[&str])] = &[
        (&["agent"], &[&pid, "--data-dir"]),
        (
            &["agent", "--run-dir", "/run/r2"],
            &[&pid, "/var/lib/weft", "--data-dir"],
        ),
        (
            &["--socket", "/run/s2.sock", "agent", "--data-dir", "/run/d3"],
            &[&pid, "/run/weft", "--run-dir"],
        ),
        (
            &[
                "--socket",
                "/run/weft/weft.sock",
                "agent",
                "--data-dir",
                "/run/d4",
                "--run-dir",
                "/run/r4",
            ],
            &["/run/weft/weft.sock", "another agent"],
        ),
    ];
    for (words, says) in table {
        let words = [&["timeout", "60", "weft"], *words].concat();
        let ran = cluster.run(1, &words)?;
        ran.is_refused(&words.join(" "), 1, says)?;
    }
    before.is_still(&Picture::of(&cluster, 1)?, "a second agent")?;
    // The first one still takes orders.
    cluster.weft(1, "detach a.web")?;
    cluster.weft(1, "network rm web")?;
    Ok(())
}

pub(super) fn a_socket_that_is_not_ours() -> Result<()> {
    let cluster = Cluster::unformed(1)?;
    let prepare =
        "echo precious > /run/plain; mkdir /run/dir.sock; ln -s /run/plain /run/link.sock";
    cluster.sh(1, &["sh", "-c", prepare])?;
    cluster.sh(1, &[&probe()?, "dead-socket", "/run/dead.sock"])?;
    let start = |socket: &str| {
        let argv = "timeout 60 weft agent --data-dir /run/d2 --run-dir /run/r2 --socket";
        let mut argv: Vec<&str> = argv.split(' ').collect();
        argv.push(socket);
        cluster.run(1, &argv)
    };
    let inodes = [
        "stat",
        "-c",
        "%n %i %F",
        "/run/plain",
        "/run/dir.sock",
        "/run/link.sock",
    ];
    let before = cluster.sh(1, &inodes)?;
    for (socket, what) in [
        ("/run/plain", "regular file"),
        ("/run/dir.sock", "directory"),
        ("/run/link.sock", "symbolic link"),
        ("/run/dead.sock", "socket"),
    ] {
        start(socket)?.is_refused(socket, 1, &[socket, what, "not ours", "--socket"])?;
    }
    ensure!(cluster.sh(1, &inodes)? == before, "something was replaced");
    ensure!(
        cluster.sh(1, &["cat", "/run/plain"])? == "precious\n",
        "the file was written to"
    );
    for (mode, greeting) in [("close", ""), ("junk", "SSH-2.0-server\r\n")] {
        let server = [&probe()?, "foreign-server", "/run/foreign.sock", greeting];
        let _server = cluster.spawn(1, &server)?;
        weft_cluster_tests::eventually("the foreign server listens", || {
            cluster.sh(1, &["test", "-S", "/run/foreign.sock"])
        })?;
        let socket = "/run/foreign.sock";
        start(socket)?.is_refused(socket, 1, &[socket, "socket", "not ours"])?;
        let ran = weft(&cluster, 1, &["--socket", socket, "status"])?;
        ran.is_refused(mode, 3, &[socket])?;
        cluster.sh(1, &["rm", socket])?;
    }
    cluster.weft(1, "status")?;
    Ok(())
}
