//! Making clusters, joining them, and losing leaders.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weft_agent::lab::PingSpec;
use weft_cluster_tests::cluster::{Cluster, options};
use weft_cluster_tests::{PATIENCE, eventually, kernel};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "control::init_picks_the_only_address_and_refuses_to_guess",
        init_picks_the_address,
    ),
    (
        "control::the_data_path_port_is_checked_and_used",
        the_data_path_port,
    ),
    (
        "control::pools_decide_the_subnets",
        pools_decide_the_subnets,
    ),
    (
        "control::a_token_grants_its_role_and_no_more",
        a_token_grants_its_role,
    ),
    (
        "control::wrong_tokens_are_refused_and_change_nothing",
        wrong_tokens_are_refused,
    ),
    ("control::any_node_takes_writes", any_node_takes_writes),
    (
        "control::a_killed_leader_is_replaced_and_nothing_is_lost",
        a_killed_leader,
    ),
    (
        "control::without_quorum_changes_fail_and_packets_flow",
        without_quorum,
    ),
    (
        "control::all_managers_restarted_at_once_have_the_same_state",
        all_restarted_at_once,
    ),
    (
        "control::a_worker_catches_up_by_revision_and_by_snapshot",
        a_worker_catches_up,
    ),
    (
        "control::wait_returns_when_every_kernel_is_there",
        wait_returns,
    ),
    (
        "control::a_dead_node_is_down_and_comes_back",
        a_dead_node_is_down,
    ),
    (
        "control::a_node_that_leaves_takes_everything_with_it",
        a_node_that_leaves,
    ),
];

fn token(cluster: &Cluster, role: &str) -> Result<String> {
    Ok(cluster
        .weft(1, &format!("token {role} -q"))?
        .trim()
        .to_owned())
}

fn init_picks_the_address() -> Result<()> {
    let cluster = Cluster::unformed(1)?;
    cluster.sh(
        1,
        &[
            "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth2",
        ],
    )?;
    cluster.sh(1, &["ip", "address", "add", "192.0.2.7/24", "dev", "eth1"])?;
    cluster.sh(1, &["ip", "link", "set", "eth1", "up"])?;
    cluster.sh(1, &["ip", "link", "set", "eth2", "up"])?;
    let both = [
        "198.18.0.1",
        "eth0",
        "192.0.2.7",
        "eth1",
        "--advertise-addr",
    ];
    cluster.refused(1, "init", 1, &both)?;
    cluster.refused(
        1,
        "init --advertise-addr 0.0.0.0",
        1,
        &["0.0.0.0", "198.18.0.1"],
    )?;
    cluster.refused(1, "init --advertise-addr 203.0.113.9", 1, &["203.0.113.9"])?;
    cluster.refused(1, "init --advertise-addr wlan0", 1, &["wlan0", "eth0"])?;
    cluster.weft(1, "init --advertise-addr eth1")?;
    let nodes = cluster.json(1, "node ls")?;
    ensure!(nodes[0]["addr"] == "192.0.2.7:2377", "{nodes}");
    ensure!(nodes[0]["data_path_addr"] == "192.0.2.7", "{nodes}");
    cluster.refused(1, "init --advertise-addr eth1", 1, &["already"])?;

    let single = Cluster::unformed(1)?;
    single.weft(1, "init")?;
    let nodes = single.json(1, "node ls")?;
    ensure!(
        nodes[0]["addr"] == "198.18.0.1:2377" && nodes[0]["name"] == "h1",
        "{nodes}"
    );
    Ok(())
}

fn the_data_path_port() -> Result<()> {
    let cluster = Cluster::unformed(2)?;
    for port in ["1023", "49152", "0", "70000"] {
        let ran = cluster.try_weft(1, &format!("init --data-path-port {port}"))?;
        ensure!(ran.status == 1 || ran.status == 2, "port {port}: {ran:?}");
        ran.is_refused(port, ran.status, &["1024", "49151"])?;
    }
    for (port, why) in [
        ("4500", "ESP"),
        ("4499", "ESP"),
        ("2377", "belong to tunnels"),
        ("2376", "belong to tunnels"),
    ] {
        let ran = cluster.try_weft(1, &format!("init --data-path-port {port}"))?;
        ran.is_refused(port, 1, &[why, "4789"])?;
    }
    ensure!(
        cluster.json(1, "status")?["cluster"].is_null(),
        "a refused init changed something"
    );
    cluster.weft(1, "init --data-path-port 7777")?;
    cluster.weft(
        2,
        &format!("join --token {} 198.18.0.1", token(&cluster, "worker")?),
    )?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    let second = cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    let id = cluster.json(1, "network inspect web")?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    for host in 1..=2 {
        let vxlan = kernel::ip(
            &cluster,
            host,
            Some(&id),
            &["ip", "-j", "-d", "link", "show", "vxlan0"],
        )?;
        ensure!(
            vxlan[0]["linkinfo"]["info_data"]["port"] == 7777,
            "h{host}: {vxlan}"
        );
    }
    let spec = PingSpec::once(second.parse::<std::net::IpAddr>()?);
    let report = cluster.host(1)?.ping(Some("a.web"), &spec)?;
    ensure!(report.lost == 0, "{report:?}");
    Ok(())
}

fn pools_decide_the_subnets() -> Result<()> {
    let cluster = Cluster::unformed(1)?;
    let pool = "init --default-addr-pool 20.20.0.0/16 --default-addr-pool-mask-length";
    for mask in ["30", "15"] {
        let ran = cluster.try_weft(1, &format!("{pool} {mask}"))?;
        ran.is_refused(mask, ran.status, &[mask])?;
        ensure!(ran.status == 1 || ran.status == 2, "{ran:?}");
    }
    cluster.weft(1, &format!("{pool} 24"))?;
    cluster.weft(1, "network create first")?;
    let subnet = |name: &str| -> Result<String> {
        let found = cluster.json(1, &format!("network inspect {name}"))?;
        Ok(found["subnets"][0]["cidr"]
            .as_str()
            .context("no subnet")?
            .to_owned())
    };
    let found = (subnet("ingress")?, subnet("first")?);
    ensure!(
        found == ("20.20.0.0/24".to_owned(), "20.20.1.0/24".to_owned()),
        "{found:?}"
    );
    Ok(())
}

fn a_token_grants_its_role() -> Result<()> {
    let cluster = Cluster::unformed(3)?;
    cluster.weft(1, "init")?;
    cluster.weft(
        2,
        &format!("join --token {} 198.18.0.1", token(&cluster, "worker")?),
    )?;
    cluster.weft(
        3,
        &format!("join --token {} 198.18.0.1", token(&cluster, "manager")?),
    )?;
    eventually("the roles are as the tokens say", || {
        let nodes = cluster.json(1, "node ls")?;
        let roles: Vec<_> = nodes
            .as_array()
            .into_iter()
            .flatten()
            .map(|n| {
                (
                    n["name"].as_str().unwrap_or(""),
                    n["role"].as_str().unwrap_or(""),
                )
            })
            .collect();
        ensure!(
            roles == [("h1", "manager"), ("h2", "worker"), ("h3", "manager")],
            "{roles:?}"
        );
        Ok(())
    })?;
    // Tokens are for managers' eyes.
    let ran = cluster.try_weft(2, "token manager -q")?;
    ran.is_refused("token on a worker", 1, &["manager"])
}

fn wrong_tokens_are_refused() -> Result<()> {
    let cluster = Cluster::unformed(3)?;
    cluster.weft(1, "init")?;
    cluster.weft(2, "init")?;
    let ours = token(&cluster, "worker")?;
    let other = cluster.weft(2, "token worker -q")?.trim().to_owned();
    let parts: Vec<&str> = ours.split('-').collect();
    ensure!(ours.starts_with("WFTKN-1-") && parts.len() == 4, "{ours}");
    let flip = |text: &str| {
        let first = if text.starts_with('a') { "b" } else { "a" };
        format!("{first}{}", &text[1..])
    };
    let wrong_digest = format!("WFTKN-1-{}-{}", flip(parts[2]), parts[3]);
    let wrong_secret = format!("WFTKN-1-{}-{}", parts[2], flip(parts[3]));
    let join = |token: &str| format!("join --token {token} 198.18.0.1");
    cluster
        .refused(3, &join("SWMTKN-1-x-y"), 1, &["WFTKN-1-"])
        .or_else(|_| cluster.refused(3, &join("SWMTKN-1-x-y"), 2, &["WFTKN-1-"]))?;
    cluster.refused(3, &join(&wrong_digest), 1, &["token"])?;
    cluster.refused(3, &join(&other), 1, &["token"])?;
    cluster.refused(3, &join(&wrong_secret), 1, &["token"])?;
    let secrets = cluster.json(1, "status")?["drops"]["control_bad_tokens"].as_u64();
    ensure!(
        secrets == Some(1),
        "only the wrong secret may have been sent: {secrets:?}"
    );
    cluster.weft(1, "token worker --rotate -q")?;
    cluster.refused(3, &join(&ours), 1, &["token"])?;
    ensure!(
        cluster.json(3, "status")?["cluster"].is_null(),
        "a refused join changed something"
    );
    cluster.weft(3, &join(&token(&cluster, "worker")?))?;
    let nodes = cluster.json(1, "node ls")?;
    ensure!(nodes.as_array().map(Vec::len) == Some(2), "{nodes}");
    cluster.refused(3, &join(&token(&cluster, "worker")?), 1, &["already"])?;
    Ok(())
}

fn any_node_takes_writes() -> Result<()> {
    let cluster = Cluster::up(4)?;
    for host in 1..=4 {
        cluster.weft(host, &format!("network create n{host}"))?;
        let found = cluster.json(host, &format!("network inspect n{host}"))?;
        ensure!(
            found["name"] == format!("n{host}"),
            "h{host} does not read its own write"
        );
    }
    cluster.settle(4)?;
    for host in 1..=4 {
        let networks = cluster.json(host, "network ls")?;
        ensure!(
            networks.as_array().map(Vec::len) == Some(5),
            "h{host}: {networks}"
        );
    }
    Ok(())
}

fn a_killed_leader() -> Result<()> {
    let cluster = Cluster::up(3)?;
    let mut worst = Duration::ZERO;
    let mut made = Vec::new();
    for round in 0..20 {
        let leader = eventually("there is a leader", || {
            let leader = cluster.leader(1)?;
            ensure!(
                cluster
                    .host(leader)?
                    .agent()?
                    .is_some_and(|agent| agent.is_alive()),
                "dead"
            );
            Ok(leader)
        })?;
        let name = format!("before-{round}");
        cluster.weft(
            leader,
            &format!("network create {name} --subnet 10.77.{round}.0/24"),
        )?;
        made.push(name);
        let survivor = leader % 3 + 1;
        cluster.host(leader)?.kill_agent()?;
        let killed = Instant::now();
        let name = format!("after-{round}");
        cluster.weft(
            survivor,
            &format!("network create {name} --subnet 10.78.{round}.0/24"),
        )?;
        worst = worst.max(killed.elapsed());
        made.push(name);
        cluster.host(leader)?.start_agent()?;
        cluster.host(leader)?.wait_ready(PATIENCE)?;
        let revision = cluster.revision(survivor)?;
        eventually("the killed manager has caught up", || {
            ensure!(cluster.revision(leader)? >= revision, "it has not");
            let managers = cluster.json(survivor, "status")?["managers"].clone();
            ensure!(managers["reachable"] == 3, "{managers}");
            Ok(())
        })?;
    }
    for host in 1..=3 {
        let networks = cluster.json(host, "network ls")?;
        let names: Vec<&str> = networks
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|n| n["name"].as_str())
            .collect();
        for name in &made {
            ensure!(names.contains(&name.as_str()), "h{host} lost {name}");
        }
    }
    // Not asserted to the second: the figure is the benchmark's, this is against hanging.
    ensure!(worst < Duration::from_secs(10), "a write took {worst:?}");
    println!("    leader killed 20 times, longest until a write succeeded: {worst:?}");
    Ok(())
}

fn without_quorum() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    let third = cluster.container(3, "web", "c")?;
    cluster.settle(1)?;
    let spec = PingSpec::once(third.parse::<std::net::IpAddr>()?).endless(10_000);
    let ping = cluster.host(1)?.start_ping(Some("a.web"), &spec)?;
    kernel::flowing(&cluster, 1, "web")?;
    cluster.host(2)?.kill_agent()?;
    cluster.host(3)?.kill_agent()?;
    let ran = cluster.try_weft(1, "network create more")?;
    ran.is_refused(
        "a change without quorum",
        4,
        &["1 of 3 managers", "2 needed"],
    )?;
    let networks = cluster.json(1, "network ls")?;
    ensure!(
        networks.as_array().map(Vec::len) == Some(2),
        "reads fail: {networks}"
    );
    cluster.host(2)?.start_agent()?;
    cluster.host(2)?.wait_ready(PATIENCE)?;
    eventually("writes resume", || cluster.weft(1, "network create again"))?;
    let report = ping.finish()?;
    ensure!(report.lost == 0 && report.sent > 50, "{report:?}");
    Ok(())
}

fn all_restarted_at_once() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    let second = cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    let before = cluster.json(1, "endpoint ls")?;
    let spec = PingSpec::once(second.parse::<std::net::IpAddr>()?).endless(10_000);
    let ping = cluster.host(1)?.start_ping(Some("a.web"), &spec)?;
    kernel::flowing(&cluster, 1, "web")?;
    for host in 1..=3 {
        cluster.host(host)?.kill_agent()?;
    }
    for host in 1..=3 {
        cluster.host(host)?.start_agent()?;
    }
    for host in 1..=3 {
        cluster.host(host)?.wait_ready(PATIENCE)?;
    }
    eventually("writes succeed", || cluster.weft(2, "network create more"))?;
    cluster.settle(2)?;
    for host in 1..=3 {
        let endpoints = cluster.json(host, "endpoint ls")?;
        ensure!(endpoints == before, "h{host}: {endpoints} is not {before}");
    }
    let report = ping.finish()?;
    ensure!(report.lost == 0 && report.sent > 20, "{report:?}");
    Ok(())
}

fn a_worker_catches_up() -> Result<()> {
    let cluster = Cluster::up(4)?;
    cluster.weft(1, "network create web --subnet 10.50.0.0/16")?;
    cluster.container(4, "web", "w")?;
    // Some hundred changes stay in the ring of recent ones; the other way is to be so far behind
    // that the ring has gone on, which takes more changes than it holds.
    for (rounds, label) in [(500, "by revision"), (4_500, "by snapshot")] {
        cluster.host(4)?.kill_agent()?;
        let target = cluster.host(1)?.agent_socket();
        churn(&target, rounds)?;
        let newcomer = format!("new-{rounds}");
        cluster.container(1, "web", &newcomer)?;
        let wanted = cluster.revision(1)?;
        cluster.host(4)?.start_agent()?;
        cluster.host(4)?.wait_ready(PATIENCE)?;
        eventually(&format!("the worker has caught up {label}"), || {
            let reached = cluster.json(4, "status")?["applied"]
                .as_u64()
                .context("no applied")?;
            ensure!(reached >= wanted, "{reached} of {wanted}");
            Ok(())
        })?;
        let address = cluster.address(4, &format!("{newcomer}.web"))?;
        let spec = PingSpec::once(address.parse::<std::net::IpAddr>()?);
        let report = cluster.host(4)?.ping(Some("w.web"), &spec)?;
        ensure!(report.lost == 0, "{label}: {report:?}");
    }
    Ok(())
}

/// Creates and removes a network so many times, on few connections to the agent's socket.
fn churn(socket: &std::path::Path, rounds: usize) -> Result<()> {
    const LANES: usize = 8;
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| scope.spawn(move || churn_lane(socket, lane, rounds / LANES)))
            .collect();
        for lane in lanes {
            lane.join()
                .map_err(|_| anyhow::anyhow!("a lane panicked"))??;
        }
        Ok(())
    })
}

fn churn_lane(socket: &std::path::Path, lane: usize, rounds: usize) -> Result<()> {
    use weft_agent::api::client::Client;
    use weft_agent::api::types::NetworkCreateRequest;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = Client::new(socket);
    runtime.block_on(async {
        for _ in 0..rounds {
            let name = format!("churn-{lane}");
            let subnets = vec![format!("10.60.{lane}.0/24").parse()?];
            let request = NetworkCreateRequest {
                name,
                subnets,
                ..Default::default()
            };
            let made = client.network_create(&request).await?;
            client.network_remove(&made.id).await?;
        }
        Ok(())
    })
}

fn wait_returns() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.weft(2, "wait --endpoint a.web --timeout 30s")?;
    let revision = cluster.revision(1)?;
    cluster.weft(2, &format!("wait --revision {revision} --timeout 30s"))?;
    let far = revision + 1_000_000;
    cluster.refused(
        1,
        &format!("wait --revision {far} --timeout 300ms"),
        4,
        &["h1", "h2"],
    )?;
    cluster.refused(1, "wait --endpoint nobody.web", 1, &["nobody.web"])?;
    let ran = cluster.try_weft(1, "wait")?;
    ensure!(ran.status == 2, "{ran:?}");
    Ok(())
}

fn a_dead_node_is_down() -> Result<()> {
    let cluster = Cluster::with(&options(4)?)?;
    cluster.host(4)?.kill_agent()?;
    let status = |wanted: &str| {
        eventually(&format!("h4 is {wanted}"), || {
            let node = cluster.json(1, "node inspect h4")?;
            ensure!(node["status"] == wanted, "{node}");
            Ok(())
        })
    };
    status("down")?;
    cluster.host(4)?.start_agent()?;
    status("ready")
}

fn a_node_that_leaves() -> Result<()> {
    let cluster = Cluster::up(4)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.weft(4, "run --network web --name d --detach -- sleep infinity")?;
    cluster.refused(1, "leave", 1, &["--force"])?;
    cluster.weft(4, "leave")?;
    eventually("its endpoint and node are gone", || {
        let endpoints = cluster.json(1, "endpoint ls")?;
        let nodes = cluster.json(1, "node ls")?;
        ensure!(endpoints.as_array().map(Vec::len) == Some(1), "{endpoints}");
        ensure!(nodes.as_array().map(Vec::len) == Some(3), "{nodes}");
        ensure!(
            kernel::sandboxes(&cluster, 4)?.is_empty(),
            "h4 still has sandboxes"
        );
        Ok(())
    })?;
    ensure!(
        cluster.json(4, "status")?["cluster"].is_null(),
        "h4 still says that it is a member"
    );
    cluster.refused(4, "leave", 1, &["no cluster"])?;
    // It may come back, as a new node with the same name.
    cluster.weft(
        4,
        &format!("join --token {} 198.18.0.1", token(&cluster, "worker")?),
    )?;
    // A stopped agent ends in good order.
    cluster.host(4)?.signal_agent(Signal::SIGTERM)?;
    eventually("the agent ended", || {
        let agent = cluster.host(4)?.agent()?.context("never started")?;
        ensure!(!agent.is_alive(), "alive");
        Ok(())
    })
}
