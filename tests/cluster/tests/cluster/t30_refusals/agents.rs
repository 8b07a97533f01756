//! Agents that must not start, and agents that are not there.

use anyhow::{Result, ensure};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::picture::{Picture, Refused, all_refused, weft};

pub(super) fn usage_and_unreachable() -> Result<()> {
    let cluster = Cluster::up(1)?;
    let prepare = "touch /run/plain; python3 -c \"import socket; \
                   socket.socket(socket.AF_UNIX).bind('/run/dead.sock')\"";
    cluster.sh(1, &["sh", "-c", prepare])?;
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
        let words = [&["timeout", "20", "weft"], *words].concat();
        let ran = cluster.run(1, &words)?;
        ran.is_refused(&words.join(" "), 1, says)?;
    }
    before.is_still(&Picture::of(&cluster, 1)?, "a second agent")?;
    // The first one still takes orders.
    cluster.weft(1, "detach a.web")?;
    cluster.weft(1, "network rm web")?;
    Ok(())
}

/// A server that is not weft's: what it does with a connection is the argument.
const FOREIGN: &str = "
import os, socket, sys
mode = sys.argv[1]
listening = socket.socket(socket.AF_UNIX)
listening.bind('/run/foreign.sock')
listening.listen(8)
print('ready', flush=True)
while True:
    peer, _ = listening.accept()
    if mode == 'junk':
        peer.sendall(b'SSH-2.0-server\\r\\n')
    peer.close()
";

pub(super) fn a_socket_that_is_not_ours() -> Result<()> {
    let cluster = Cluster::unformed(1)?;
    let prepare = "echo precious > /run/plain; mkdir /run/dir.sock; ln -s /run/plain /run/link.sock; \
                   python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('/run/dead.sock')\"";
    cluster.sh(1, &["sh", "-c", prepare])?;
    let start = |socket: &str| {
        let argv = "timeout 20 weft agent --data-dir /run/d2 --run-dir /run/r2 --socket";
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
    for mode in ["close", "junk"] {
        let _server = cluster.spawn(1, &["python3", "-c", FOREIGN, mode])?;
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
