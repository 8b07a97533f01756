//! The way out: containers reach the world as their host, nobody reaches them by it, and they reach
//! published ports as everybody does.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::backend::Answer;
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::eventually;
use weft_cluster_tests::talk::Talk;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "egress::containers_reach_the_world_as_their_host",
        as_their_host,
    ),
    (
        "egress::containers_of_internal_networks_have_no_way_out",
        internal,
    ),
    (
        "egress::containers_reach_published_ports_everywhere",
        published_ports,
    ),
    (
        "egress::containers_do_not_reach_each_other_by_the_way_out",
        isolated,
    ),
    (
        "egress::a_default_route_of_the_containers_own_is_left_alone",
        own_default_route,
    ),
    (
        "egress::a_default_route_that_was_taken_away_is_put_back",
        put_back,
    ),
    (
        "egress::a_transfer_outlives_the_agent",
        transfer_outlives_the_agent,
    ),
    ("egress::nothing_is_left_when_nobody_needs_it", nothing_left),
];

const OUTSIDE4: &str = "198.18.0.254";
const OUTSIDE6: &str = "fd00:18::fe";
/// Where servers listen that are in no container.
const PORT: u16 = 7000;

fn underlay4(host: usize) -> String {
    format!("198.18.0.{host}")
}

fn underlay6(host: usize) -> String {
    format!("fd00:18::{host}")
}

/// Gives the underlay IPv6 addresses as well.
fn with_ipv6(cluster: &Cluster, hosts: usize) -> Result<()> {
    for host in (1..=hosts).chain([OUTSIDE]) {
        let address = match host {
            OUTSIDE => OUTSIDE6.to_owned(),
            host => underlay6(host),
        };
        let address = format!("{address}/64");
        let argv = ["ip", "-6", "addr", "add", &address, "dev", "eth0", "nodad"];
        cluster.sh(host, &argv)?;
    }
    Ok(())
}

/// A server on a host itself, over TCP and UDP, until it is dropped.
fn server(cluster: &Cluster, host: usize, name: &str) -> Result<Talk> {
    let port = PORT.to_string();
    let talk = Talk::begin(cluster, host, &[], &["serve", name, &port])?;
    eventually(&format!("{name} listens"), || {
        cluster.client(host).tcp("127.0.0.1", PORT, 1).map(drop)
    })?;
    Ok(talk)
}

/// One answer, from that server to a client that it takes for `client`.
fn said(answers: &[Answer], name: &str, client: &str) -> Result<()> {
    let client: IpAddr = client.parse()?;
    let right = |answer: &Answer| answer.name == name && answer.peer == client;
    ensure!(
        !answers.is_empty() && answers.iter().all(right),
        "{answers:?} instead of {name} to {client}"
    );
    Ok(())
}

/// `ip` in the namespace of a container.
fn ip_in(cluster: &Cluster, host: usize, endpoint: &str, args: &str) -> Result<String> {
    let mut argv = vec!["weft", "exec", endpoint, "--", "ip"];
    argv.extend(args.split(' '));
    cluster.sh(host, &argv)
}

fn as_their_host() -> Result<()> {
    let cluster = Cluster::up(2)?;
    with_ipv6(&cluster, 2)?;
    cluster.weft(1, "network create app")?;
    let _outside = server(&cluster, OUTSIDE, "world")?;
    for host in 1..=2 {
        cluster.container(host, "app", &format!("c{host}"))?;
        let client = cluster.client_in(host, &format!("c{host}.app"));
        for (to, own) in [(OUTSIDE4, underlay4(host)), (OUTSIDE6, underlay6(host))] {
            said(&client.tcp(to, PORT, 3)?, "world", &own)?;
            said(&client.udp(to, PORT, 3)?, "world", &own)?;
        }
        let probe = weft_cluster_tests::weft::probe_exe()?;
        let probe = probe.to_str().context("a path that is not UTF-8")?;
        let name = format!("c{host}.app");
        let ping = ["weft", "exec", &name, "--", probe, "-c", "2", OUTSIDE4];
        cluster.sh(host, &ping)?;
    }
    Ok(())
}

fn internal() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create app --internal")?;
    cluster.weft(1, "network create open")?;
    let _outside = server(&cluster, OUTSIDE, "world")?;
    cluster.container(1, "app", "c")?;
    for family in ["-4", "-6"] {
        let routes = ip_in(
            &cluster,
            1,
            "c.app",
            &format!("{family} route show default"),
        )?;
        ensure!(routes.is_empty(), "{routes}");
    }
    let links = ip_in(&cluster, 1, "c.app", "-o link")?;
    ensure!(!links.contains("wfgw"), "{links}");
    let client = cluster.client_in(1, "c.app");
    ensure!(client.tcp(OUTSIDE4, PORT, 1).is_err(), "there is a way");
    // A network that is not gives it one, as long as it is on that.
    let found = cluster.json(1, "endpoint inspect c.app")?;
    let netns = found["netns"].as_str().context("no netns")?;
    cluster.weft(1, &format!("attach open --netns {netns} --name c"))?;
    said(&client.tcp(OUTSIDE4, PORT, 1)?, "world", &underlay4(1))?;
    cluster.weft(1, "detach c.open")?;
    eventually("the way is gone", || {
        let links = ip_in(&cluster, 1, "c.app", "-o link")?;
        ensure!(!links.contains("wfgw"), "{links}");
        Ok(())
    })?;
    ensure!(client.tcp(OUTSIDE4, PORT, 1).is_err(), "there is a way");
    Ok(())
}

/// h1 has a container and no backend, h2 both, h3 neither; and each asks everywhere.
fn published_ports() -> Result<()> {
    let cluster = Cluster::up(3)?;
    with_ipv6(&cluster, 3)?;
    for network in ["app --internal", "open", "shut --internal"] {
        cluster.weft(1, &format!("network create {network}"))?;
    }
    let publish = "--publish 8080:80 --publish 8080:80/udp";
    cluster.weft(
        1,
        &format!("service create web --network app --health tcp:80 {publish}"),
    )?;
    cluster.backend(2, "app", "b2", 80, "--service web")?;
    serving(&cluster, "b2")?;
    for host in 1..=3 {
        eventually("the cluster knows the host's addresses", || {
            let node = cluster.json(1, &format!("node inspect h{host}"))?;
            let found = node["addresses"].as_array().context("no addresses")?;
            ensure!(found.iter().any(|at| *at == underlay6(host)), "{found:?}");
            Ok(())
        })?;
    }
    cluster.settle(1)?;
    for host in 1..=2 {
        cluster.container(host, "open", &format!("c{host}"))?;
        cluster.container(host, "shut", &format!("s{host}"))?;
    }
    for host in 1..=2 {
        let client = cluster.client_in(host, &format!("c{host}.open"));
        let mut everywhere: Vec<String> = (1..=3).map(underlay4).collect();
        everywhere.extend((1..=3).map(underlay6));
        everywhere.extend(["192.168.240.1".to_owned(), "fd77:6566:7400::1".to_owned()]);
        for to in &everywhere {
            let what = || format!("c{host} to {to}");
            for answers in [client.tcp(to, 8080, 2), client.udp(to, 8080, 2)] {
                let answers = answers.with_context(what)?;
                ensure!(
                    answers.iter().all(|answer| answer.name == "b2"),
                    "{answers:?}"
                );
            }
        }
        let shut = cluster.client_in(host, &format!("s{host}.shut"));
        ensure!(
            shut.tcp(&underlay4(host), 8080, 1).is_err(),
            "s{host} gets out"
        );
    }
    // A backend uses its own port.
    cluster.weft(1, "service create own --network open --publish 8081:80")?;
    cluster.backend(1, "open", "itself", 80, "--service own")?;
    cluster.weft(1, "wait --service own --timeout 60s")?;
    let itself = cluster.client_in(1, "itself.open");
    for to in [underlay4(1), underlay6(1), underlay4(3)] {
        let what = || format!("itself through {to}");
        let answers = itself.tcp(&to, 8081, 2).with_context(what)?;
        ensure!(
            answers.iter().all(|answer| answer.name == "itself"),
            "{answers:?}"
        );
    }
    Ok(())
}

/// Waits until a backend is ready in every node's eyes.
fn serving(cluster: &Cluster, name: &str) -> Result<()> {
    eventually(&format!("{name} is ready"), || {
        let service = cluster.json(1, "service inspect web")?;
        let endpoints = service["endpoints"].as_array().context("no endpoints")?;
        let found = endpoints.iter().find(|endpoint| endpoint["name"] == name);
        ensure!(
            found.is_some_and(|one| one["state"] == "ready"),
            "{service}"
        );
        Ok(())
    })?;
    cluster.weft(1, "wait --service web --timeout 60s")?;
    Ok(())
}

/// The addresses of a container's leg.
fn leg(cluster: &Cluster, host: usize, endpoint: &str) -> Result<[String; 2]> {
    let of = |family: &str| -> Result<String> {
        let shown = ip_in(
            cluster,
            host,
            endpoint,
            &format!("{family} -o addr show dev wfgw scope global"),
        )?;
        let net = shown.split_whitespace().nth(3).context("no address")?;
        Ok(net.split('/').next().unwrap_or(net).to_owned())
    };
    Ok([of("-4")?, of("-6")?])
}

fn dropped(cluster: &Cluster, host: usize, chain: &str) -> Result<u64> {
    let argv = ["nft", "list", "chain", "inet", "weft-ingress", chain];
    let shown = cluster.sh(host, &argv)?;
    let mut words = shown
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    Ok(words.nth(1).context("no counter")?.parse()?)
}

fn isolated() -> Result<()> {
    let cluster = Cluster::up(2)?;
    with_ipv6(&cluster, 1)?;
    for network in ["red", "blue"] {
        cluster.weft(1, &format!("network create {network}"))?;
    }
    cluster.backend(1, "blue", "b", 80, "")?;
    cluster.container(1, "red", "r")?;
    let red = cluster.client_in(1, "r.red");
    let legs = leg(&cluster, 1, "b.blue")?;
    // The ports are apart, so that nothing comes of it in the hub; by way of the host it is counted.
    for to in &legs {
        ensure!(red.tcp(to, 80, 1).is_err(), "r reaches {to}");
    }
    for (to, host) in [(&legs[0], "192.168.240.1"), (&legs[1], "fd77:6566:7400::1")] {
        ip_in(
            &cluster,
            1,
            "r.red",
            &format!("route add {to} via {host} dev wfgw"),
        )?;
        let before = dropped(&cluster, 1, "drop-not-published")?;
        ensure!(red.tcp(to, 80, 1).is_err(), "r reaches {to}");
        let after = dropped(&cluster, 1, "drop-not-published")?;
        ensure!(after > before, "nothing was dropped on the way to {to}");
    }
    // Nor does a neighbour of the host that takes it for a router.
    let outside = cluster.client(OUTSIDE);
    for (to, host) in [(&legs[0], underlay4(1)), (&legs[1], underlay6(1))] {
        cluster.sh(OUTSIDE, &["ip", "route", "add", to, "via", &host])?;
        ensure!(outside.tcp(to, 80, 1).is_err(), "outside reaches {to}");
    }
    // And nothing leaves with an address that is not the leg's.
    let address = cluster.address(1, "r.red")?;
    ip_in(
        &cluster,
        1,
        "r.red",
        &format!("route add {OUTSIDE4} dev wfgw via 192.168.240.1 src {address}"),
    )?;
    let _outside = server(&cluster, OUTSIDE, "world")?;
    ensure!(red.tcp(OUTSIDE4, PORT, 1).is_err(), "{address} gets out");
    ensure!(
        dropped(&cluster, 1, "drop-foreign")? > 0,
        "nothing was dropped"
    );
    Ok(())
}

fn own_default_route() -> Result<()> {
    let cluster = Cluster::looking_again_every("500ms")?;
    cluster.weft(1, "network create app")?;
    cluster.sh(1, &["ip", "netns", "add", "own"])?;
    for args in [
        "link add lan0 type veth peer name lan1",
        "addr add 172.20.0.2/24 dev lan0",
        "link set lan0 up",
        "link set lan1 up",
        "route add default via 172.20.0.1 dev lan0",
    ] {
        let argv = [
            &["ip", "-n", "own"],
            args.split(' ').collect::<Vec<_>>().as_slice(),
        ]
        .concat();
        cluster.sh(1, &argv)?;
    }
    cluster.weft(1, "attach app --netns /run/netns/own --name own")?;
    let default = |family: &str| {
        let argv = ["ip", "-n", "own", family, "route", "show", "default"];
        cluster.sh(1, &argv)
    };
    let four = default("-4")?;
    ensure!(
        four.lines().count() == 1 && four.contains("dev lan0"),
        "{four}"
    );
    let found = cluster.json(1, "endpoint inspect own.app")?;
    let notice = found["notice"].as_str().context("no notice")?;
    ensure!(notice.contains("default route for IPv4,"), "{notice}");
    // It is for one version of IP only.
    ensure!(default("-6")?.contains("dev wfgw"), "{}", default("-6")?);
    // It goes, and ours comes; it comes back, and ours goes.
    cluster.sh(1, &["ip", "-n", "own", "route", "del", "default"])?;
    eventually("there is a way out", || {
        ensure!(default("-4")?.contains("dev wfgw"), "{}", default("-4")?);
        Ok(())
    })?;
    let add = [
        "ip",
        "-n",
        "own",
        "route",
        "add",
        "default",
        "via",
        "172.20.0.1",
    ];
    cluster.sh(1, &[add.as_slice(), &["metric", "99999"]].concat())?;
    eventually("its own is the only one", || {
        let four = default("-4")?;
        ensure!(
            four.lines().count() == 1 && four.contains("dev lan0"),
            "{four}"
        );
        Ok(())
    })
}

fn put_back() -> Result<()> {
    let cluster = Cluster::looking_again_every("500ms")?;
    cluster.weft(1, "network create app")?;
    cluster.container(1, "app", "c")?;
    for family in ["-4", "-6"] {
        ip_in(&cluster, 1, "c.app", &format!("{family} route del default"))?;
        eventually("the route is back", || {
            let routes = ip_in(
                &cluster,
                1,
                "c.app",
                &format!("{family} route show default"),
            )?;
            ensure!(routes.contains("dev wfgw"), "{routes}");
            Ok(())
        })?;
    }
    ip_in(&cluster, 1, "c.app", "link del wfgw")?;
    let _outside = server(&cluster, OUTSIDE, "world")?;
    eventually("the leg is back", || {
        let answers = cluster.client_in(1, "c.app").tcp(OUTSIDE4, PORT, 1)?;
        said(&answers, "world", &underlay4(1))
    })
}

fn transfer_outlives_the_agent() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create app")?;
    cluster.container(1, "app", "c")?;
    let _outside = server(&cluster, OUTSIDE, "world")?;
    let client = cluster.client_in(1, "c.app");
    let mut held = client.hold(OUTSIDE4, PORT)?;
    let mut ask = || -> Result<()> {
        held.tell()?;
        let line = held.line()?;
        ensure!(line == format!("world {}", underlay4(1)), "{line}");
        Ok(())
    };
    ask()?;
    let asking = client.start(OUTSIDE4, PORT, 1_000)?;
    cluster.host(1)?.kill_agent()?;
    ask()?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(weft_cluster_tests::PATIENCE)?;
    eventually("the agent is back", || {
        let status = cluster.json(1, "status")?;
        ensure!(status["applied"] == status["revision"], "{status}");
        ensure!(status["revision"].as_u64() > Some(0), "{status}");
        Ok(())
    })?;
    ask()?;
    let tally = asking.finish()?;
    ensure!(tally.failed == 0 && !tally.answers.is_empty(), "{tally:?}");
    Ok(())
}

/// What there is of ways out on a host.
fn traces(cluster: &Cluster, host: usize) -> Result<String> {
    let links = cluster.sh(host, &["ip", "-o", "link"])?;
    let tables = cluster.sh(host, &["nft", "list", "tables"])?;
    let files = cluster.sh(host, &["ls", "/run/weft"])?;
    let found = ["weft-gw", "weft-ingress", "weft-ports", "gateway"].into_iter();
    let all = [links, tables, files].concat();
    Ok(found
        .filter(|word| all.contains(word))
        .collect::<Vec<_>>()
        .join(" "))
}

fn nothing_left() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create app")?;
    let gone = |host: usize| {
        eventually("everything of it is gone", || {
            let left = traces(&cluster, host)?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
    };
    let there = "weft-gw weft-ingress gateway";
    cluster.sh(1, &["ip", "netns", "add", "one"])?;
    cluster.weft(1, "attach app --netns /run/netns/one --name one")?;
    ensure!(traces(&cluster, 1)? == there, "{}", traces(&cluster, 1)?);
    cluster.weft(1, "detach one.app")?;
    gone(1)?;
    let left = ["ip", "-n", "one", "route", "show", "table", "all"];
    let left = cluster.sh(1, &left)? + &cluster.sh(1, &["ip", "-n", "one", "-o", "link"])?;
    ensure!(!left.contains("wfgw"), "{left}");
    // A namespace that ends takes its leg along.
    cluster.weft(1, "attach app --netns /run/netns/one --name one")?;
    cluster.sh(1, &["ip", "netns", "del", "one"])?;
    gone(1)?;
    // And so does a node that leaves.
    cluster.sh(2, &["ip", "netns", "add", "two"])?;
    cluster.weft(2, "attach app --netns /run/netns/two --name two")?;
    ensure!(traces(&cluster, 2)? == there, "{}", traces(&cluster, 2)?);
    cluster.weft(2, "leave --force")?;
    gone(2)?;
    let links = cluster.sh(2, &["ip", "-n", "two", "-o", "link"])?;
    ensure!(!links.contains("wfgw"), "{links}");
    Ok(())
}
