//! What an operator does with services that is not everyday: another ingress network, another
//! endpoint mode, a container that publishes itself.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::{PATIENCE, eventually, kernel};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "control_services::the_ingress_network_is_removed_and_made_again",
        another_ingress_network,
    ),
    (
        "control_services::kernels_follow_a_change_of_endpoint_mode",
        another_mode,
    ),
    (
        "control_services::what_run_publishes_ends_with_its_last_container",
        run_publishes,
    ),
    (
        "control_services::what_run_publishes_ends_while_the_agent_is_away",
        ends_without_agent,
    ),
    (
        "control_services::run_says_which_ports_it_published",
        run_says_ports,
    ),
    (
        "control_services::a_run_that_cannot_publish_leaves_nothing",
        run_cannot_publish,
    ),
];

const OUTSIDE_ADDRESS: &str = "198.18.0.254";

/// Three of four hosts in a cluster, with a network.
fn three_of_four() -> Result<Cluster> {
    let cluster = Cluster::unformed(4)?;
    cluster.weft(1, "init")?;
    for host in [2, 3] {
        join(&cluster, host)?;
    }
    cluster.weft(1, "network create app")?;
    Ok(cluster)
}

fn join(cluster: &Cluster, host: usize) -> Result<()> {
    let token = cluster.weft(1, "token worker -q")?;
    let join = format!("join --token {} 198.18.0.1", token.trim());
    cluster.weft(host, &join).map(drop)
}

fn underlay(host: usize) -> String {
    format!("198.18.0.{host}")
}

/// The backend answers on port 8080 of every one of `hosts`, and sees the client.
fn answered_by_all(cluster: &Cluster, hosts: &[usize], backend: &str) -> Result<()> {
    let outside: IpAddr = OUTSIDE_ADDRESS.parse()?;
    for host in hosts {
        let what = format!("h{host} answers for {backend}");
        eventually(&what, || {
            let answers = cluster.client(OUTSIDE).tcp(&underlay(*host), 8080, 3)?;
            let right = |name: &str, peer: IpAddr| name == backend && peer == outside;
            ensure!(
                answers.iter().all(|a| right(&a.name, a.peer)),
                "{answers:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// The IPv4 addresses, with their prefix lengths, and the MTU of a host's place on the mesh.
fn mesh_device(cluster: &Cluster, host: usize) -> Result<(Vec<String>, u64)> {
    let argv = ["ip", "-j", "addr", "show", "dev", "wf-ingress"];
    let found = kernel::ip(cluster, host, None, &argv)?;
    let addresses = found[0]["addr_info"].as_array().context("no addresses")?;
    let v4 = addresses
        .iter()
        .filter(|address| address["family"] == "inet");
    let v4 = v4.map(|address| {
        let local = address["local"].as_str().unwrap_or_default();
        format!("{local}/{}", address["prefixlen"])
    });
    Ok((v4.collect(), found[0]["mtu"].as_u64().context("no MTU")?))
}

/// Nothing of the ingress network `id` is on any of `hosts`.
fn nothing_is_left(cluster: &Cluster, hosts: &[usize], id: &str) -> Result<()> {
    for host in hosts {
        eventually("nothing of the ingress network is left", || {
            let links = kernel::links(cluster, *host, None)?;
            let sandboxes = kernel::sandboxes(cluster, *host)?;
            let left = links.iter().any(|link| link == "wf-ingress")
                || sandboxes.iter().any(|sandbox| sandbox == id);
            ensure!(!left, "h{host}: {links:?}, {sandboxes:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn another_ingress_network() -> Result<()> {
    let cluster = three_of_four()?;
    let create = "service create web --network app --health tcp:80 --publish 8080:80";
    cluster.weft(1, create)?;
    cluster.backend(2, "app", "b2", 80, "--service web")?;
    answered_by_all(&cluster, &[1, 2, 3], "b2")?;
    ensure!(mesh_device(&cluster, 3)? == (vec!["10.0.0.4/24".to_owned()], 1450));
    for host in [1, 3] {
        let says = ["ingress", "8080/tcp", "service web"];
        cluster.refused(host, "network rm ingress", 1, &says)?;
    }
    answered_by_all(&cluster, &[3], "b2")?;

    let first = cluster.json(1, "network inspect ingress")?;
    let first = first["id"].as_str().context("no id")?;
    cluster.weft(1, "service rm web")?;
    cluster.weft(3, "network rm ingress")?;
    nothing_is_left(&cluster, &[1, 2, 3], first)?;
    let says = ["ingress network", "network create ingress --ingress"];
    cluster.refused(2, create, 1, &says)?;
    let too_small = "network create ingress --ingress --mtu 1279";
    cluster.refused(1, too_small, 1, &["1279", "IPv6", "1280"])?;

    // Another subnet and MTU, and a name of its own.
    let again = "network create mesh --ingress --subnet 10.99.0.0/24 --mtu 1300";
    cluster.weft(2, again)?;
    let second = cluster.json(3, "network inspect mesh")?;
    ensure!(
        second["vni"] == 4096 && second["mtu"] == 1300 && second["ingress"] == true,
        "{second}"
    );
    ensure!(second["subnets"][0]["used"] == 3, "{second}");
    cluster.weft(1, create)?;
    cluster.backend(2, "app", "b3", 80, "--service web")?;
    answered_by_all(&cluster, &[1, 2, 3], "b3")?;
    let mut devices = Vec::new();
    for host in 1..=3 {
        let (addresses, mtu) = mesh_device(&cluster, host)?;
        ensure!(mtu == 1300, "h{host}: {mtu}");
        devices.extend(addresses);
    }
    devices.sort();
    let expected = ["10.99.0.2/24", "10.99.0.3/24", "10.99.0.4/24"];
    ensure!(devices == expected, "{devices:?}");

    join(&cluster, 4)?;
    answered_by_all(&cluster, &[1, 2, 3, 4], "b3")?;
    ensure!(mesh_device(&cluster, 4)? == (vec!["10.99.0.5/24".to_owned()], 1300));
    Ok(())
}

/// The address of a service on its only network, or none.
fn vip(cluster: &Cluster, service: &str) -> Result<Option<String>> {
    let found = cluster.json(1, &format!("service inspect {service}"))?;
    Ok(found["networks"][0]["vip"].as_str().map(str::to_owned))
}

/// Waits until a container on h1 balances service addresses, or does not.
fn balances(cluster: &Cluster, container: &str, does: bool) -> Result<()> {
    let what = format!("{container} balances: {does}");
    eventually(&what, || {
        let exec = ["weft", "exec", container, "--", "nft", "list", "tables"];
        let tables = cluster.sh(1, &exec)?;
        ensure!(tables.contains("weft-lb") == does, "{tables}");
        Ok(())
    })
}

fn another_mode() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create app")?;
    cluster.weft(1, "service create web --network app --health tcp:80")?;
    cluster.backend(2, "app", "b2", 80, "--service web")?;
    cluster.container(1, "app", "client")?;
    let answered = || -> Result<String> {
        let vip = vip(&cluster, "web")?.context("no address")?;
        eventually("the service answers at its address", || {
            let client = cluster.client_in(1, "client.app");
            let answers = client.tcp(&vip, 80, 2)?;
            ensure!(
                answers.iter().all(|answer| answer.name == "b2"),
                "{answers:?}"
            );
            Ok(())
        })?;
        Ok(vip)
    };
    let first = answered()?;
    balances(&cluster, "client.app", true)?;

    cluster.weft(2, "service update web --endpoint-mode dnsrr")?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    let found = cluster.json(1, "service inspect web")?;
    ensure!(
        found["mode"] == "dnsrr" && found["networks"][0]["vip"].is_null(),
        "{found}"
    );
    balances(&cluster, "client.app", false)?;
    let says = ["dnsrr", "vip", "mode=host"];
    cluster.refused(1, "service update web --publish-add 8080:80", 1, &says)?;

    cluster.weft(1, "service update web --endpoint-mode vip")?;
    let second = answered()?;
    ensure!(first != second, "{first} was given back a moment ago");
    balances(&cluster, "client.app", true)?;
    cluster.weft(1, "service update web --publish-add 8080:80")?;
    let says = ["service web", "8080/tcp", "--publish-rm"];
    let to_dnsrr = "service update web --endpoint-mode dnsrr";
    cluster.refused(2, to_dnsrr, 1, &says)?;
    cluster.refused(
        2,
        "service update web --endpoint-mode dns",
        2,
        &["dns", "vip"],
    )?;
    ensure!(answered()? == second, "the address has changed");
    Ok(())
}

/// Waits until no service is left, and then publishes 8080 for another, and takes it away again.
fn nothing_is_published(cluster: &Cluster) -> Result<()> {
    eventually("the service is gone", || {
        let left = cluster.json(1, "service ls")?;
        ensure!(left == serde_json::json!([]), "{left}");
        Ok(())
    })?;
    cluster.weft(1, "service create free --network app --publish 8080:80")?;
    cluster.weft(1, "service rm free").map(drop)
}

fn run_publishes() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create app")?;
    cluster.backend(2, "app", "shop", 80, "--publish 8080:80")?;
    let found = cluster.json(1, "service inspect shop")?;
    ensure!(found["ends_with_endpoints"] == true, "{found}");
    ensure!(found["endpoints"][0]["name"] == "shop", "{found}");
    answered_by_all(&cluster, &[1, 2, 3], "shop")?;

    // It goes on without its agent, and with it again.
    cluster.host(2)?.kill_agent()?;
    answered_by_all(&cluster, &[1, 2, 3], "shop")?;
    cluster.host(2)?.start_agent()?;
    cluster.host(2)?.wait_ready(PATIENCE)?;
    cluster.settle(2)?;
    answered_by_all(&cluster, &[1, 2, 3], "shop")?;

    cluster.backend(3, "app", "more", 80, "--service shop")?;
    cluster.weft(2, "detach shop.app")?;
    answered_by_all(&cluster, &[1, 2, 3], "more")?;
    cluster.weft(3, "detach more.app")?;
    nothing_is_published(&cluster)
}

fn ends_without_agent() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create app")?;
    cluster.weft(1, "network create db")?;
    let script = "while ! test -e /run/stop; do sleep 0.02; done";
    let run = [
        "weft",
        "run",
        "--network",
        "app",
        "--network",
        "db",
        "--name",
        "c",
        "--publish",
        "8080:80",
        "--detach",
        "--",
        "sh",
        "-c",
        script,
    ];
    cluster.sh(2, &run)?;
    let found = cluster.json(1, "service inspect c")?;
    let count = |what: &str| found[what].as_array().map_or(0, Vec::len);
    ensure!((count("networks"), count("endpoints")) == (2, 2), "{found}");
    cluster.host(2)?.kill_agent()?;
    cluster.sh(2, &["touch", "/run/stop"])?;
    cluster.host(2)?.start_agent()?;
    cluster.host(2)?.wait_ready(PATIENCE)?;
    nothing_is_published(&cluster)
}

fn run_says_ports() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create app")?;
    let publish = "run --network app --publish 80 --publish 8081:81";
    let ran = cluster.try_weft(1, &format!("{publish} --service one -- true"))?;
    ensure!(ran.status == 0 && ran.stdout.is_empty(), "{ran:?}");
    ensure!(
        ran.stderr == "weft: published 30000:80/tcp\nweft: published 8081:81/tcp\n",
        "{ran:?}"
    );
    let said = cluster.weft(1, &format!("{publish} --detach -- sleep infinity"))?;
    let lines: Vec<&str> = said.lines().collect();
    let [id, first, second] = lines.as_slice() else {
        anyhow::bail!("{said}")
    };
    ensure!(
        (*first, *second) == ("30000:80/tcp", "8081:81/tcp"),
        "{said}"
    );
    // Without a name the service has that of the endpoint.
    let endpoint = cluster.json(1, &format!("endpoint inspect {id}"))?;
    ensure!(endpoint["service"] == endpoint["name"], "{endpoint}");
    cluster.weft(1, &format!("detach {id}"))?;
    nothing_is_published(&cluster)
}

fn run_cannot_publish() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create app")?;
    cluster.weft(1, "network create db")?;
    cluster.sh(
        2,
        &[
            "sh",
            "-c",
            "echo '#!/no/interpreter' > /run/data; chmod +x /run/data",
        ],
    )?;
    cluster.weft(1, "service create front --network app --publish 8080:80")?;
    cluster.container(1, "db", "taken")?;
    let exists = ["front", "exists", "weft service update front --publish-add"];
    let table: &[(&str, &str, i32, &[&str])] = &[
        (
            "--publish 8080:81",
            "true",
            1,
            &["8080/tcp", "service front"],
        ),
        ("--service front --publish 81", "true", 1, &exists),
        ("--name front --publish 81", "true", 1, &exists),
        (
            "--service Front --publish 81",
            "true",
            1,
            &["Front", "a-z, 0-9 and -"],
        ),
        ("--publish 81-82:80", "true", 2, &["81-82:80"]),
        ("--publish 4789:80/udp", "true", 1, &["4789/udp", "tunnels"]),
        (
            "--publish 81:80 --publish 81:82",
            "true",
            1,
            &["81/tcp", "twice"],
        ),
        ("--publish 81:80 --network nope", "true", 1, &["nope"]),
        (
            "--publish 81:80 --network ingress",
            "true",
            1,
            &["ingress", "another"],
        ),
        // What was attached and made is taken back.
        (
            "--publish 81:80 --network db --name taken",
            "true",
            1,
            &["taken"],
        ),
        ("--publish 81:80", "/run/data", 127, &["/run/data"]),
        ("--publish 81:80", "/no/such/path", 127, &["/no/such/path"]),
    ];
    for detach in ["", "--detach"] {
        for (words, command, status, says) in table {
            let line = format!("run --network app {words} {detach} -- {command}");
            cluster.refused(2, &line, *status, says)?;
        }
        for list in ["service ls", "endpoint ls"] {
            eventually("nothing of it is left", || {
                let left = cluster.json(2, list)?;
                ensure!(left.as_array().is_some_and(|all| all.len() == 1), "{left}");
                Ok(())
            })?;
        }
    }
    Ok(())
}
