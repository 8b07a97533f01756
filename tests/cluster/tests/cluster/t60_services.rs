//! Services from the containers' side: their addresses, who answers there, and what happens when
//! that changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::Cable;
use weft_cluster_tests::backend::{Answer, Server, Tally, spread};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE, Running};
use weft_cluster_tests::talk::Talk;
use weft_cluster_tests::{PATIENCE, eventually};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "services::requests_are_taken_in_turn_and_show_the_client",
        taken_in_turn,
    ),
    (
        "services::a_backend_reaches_its_own_service_and_itself",
        reaches_itself,
    ),
    (
        "services::weight_zero_takes_nothing_new_and_nobody_refuses",
        weight_zero,
    ),
    (
        "services::only_containers_with_services_are_touched",
        only_containers_with_services,
    ),
    (
        "services::backends_are_replaced_and_no_request_fails",
        backends_are_replaced,
    ),
    (
        "services::a_backend_that_leaves_is_drained",
        a_backend_that_leaves,
    ),
    (
        "services::a_drain_that_was_cut_short_is_finished_by_the_next",
        a_drain_that_was_cut_short,
    ),
    (
        "services::flows_of_a_backend_that_vanishes_do_not_hang",
        flows_of_a_backend_that_vanishes,
    ),
    (
        "services::agents_that_are_killed_fail_no_request",
        agents_that_are_killed,
    ),
    (
        "services::a_node_that_dies_takes_its_backends_along",
        a_node_that_dies,
    ),
    (
        "services::others_in_a_container_change_nothing",
        others_in_a_container,
    ),
    (
        "services::a_container_that_cannot_have_its_addresses_is_shown",
        cannot_have_its_addresses,
    ),
];

const PORT: u16 = 80;
/// A backend that does not answer any more is given up well within this time.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(5);
/// Between two requests that go on, in microseconds.
const PACE_US: u64 = 2_000;

/// Three hosts with the service `shop` on the network `web`, and a container `c1` to `c3` on each.
struct Shop {
    cluster: Cluster,
    vip: String,
    clients: Vec<String>,
}

impl Shop {
    fn open(options: &str) -> Result<Self> {
        let cluster = Cluster::up(3)?;
        cluster.weft(1, "network create web")?;
        cluster.weft(1, &format!("service create shop --network web {options}"))?;
        let vip = vip(&cluster, "shop")?;
        let clients = (1..=3).map(|host| cluster.container(host, "web", &format!("c{host}")));
        let clients = clients.collect::<Result<_>>()?;
        Ok(Self {
            cluster,
            vip,
            clients,
        })
    }

    /// A server that listens before it becomes a backend; answers when it is one everywhere.
    fn backend(&self, host: usize, name: &str) -> Result<Server> {
        let server = serve(&self.cluster, host, name)?;
        self.join(host, name, "")?;
        self.cluster.settle(host)?;
        Ok(server)
    }

    fn join(&self, host: usize, name: &str, options: &str) -> Result<()> {
        let attach =
            format!("attach web --netns /run/netns/{name} --name {name} --service shop {options}");
        self.cluster.weft(host, &attach)?;
        Ok(())
    }

    /// So many requests from the container on a host.
    fn ask(&self, host: usize, times: usize) -> Result<Vec<Answer>> {
        let client = self.cluster.client_in(host, &format!("c{host}.web"));
        client.tcp(&self.vip, PORT, times)
    }

    /// How many of so many requests from a host each backend answered.
    fn spread(&self, host: usize, times: usize) -> Result<BTreeMap<String, usize>> {
        Ok(spread(&self.ask(host, times)?))
    }

    /// A connection from the container on a host that is to this backend.
    fn connected_to(&self, host: usize, backend: &str) -> Result<Talk> {
        eventually(&format!("a connection to {backend}"), || {
            let client = self.cluster.client_in(host, &format!("c{host}.web"));
            let mut talk = client.hold(&self.vip, PORT)?;
            ensure!(asked(&mut talk)? == backend, "to another");
            Ok(talk)
        })
    }

    /// A socket of the container on a host whose datagrams go to this backend.
    fn datagrams_to(&self, host: usize, backend: &str) -> Result<Talk> {
        eventually(&format!("datagrams to {backend}"), || {
            let client = self.cluster.client_in(host, &format!("c{host}.web"));
            let mut talk = client.hold_udp(&self.vip, PORT)?;
            ensure!(asked(&mut talk)? == backend, "to another");
            Ok(talk)
        })
    }

    /// What the cluster says of a backend.
    fn state(&self, host: usize, backend: &str) -> Result<String> {
        let shown = self.cluster.json(host, "service inspect shop")?;
        let endpoints = shown["endpoints"].as_array().context("no endpoints")?;
        let row = endpoints.iter().find(|row| row["name"] == backend);
        let state = row.and_then(|row| row["state"].as_str());
        Ok(state.unwrap_or("gone").to_owned())
    }

    /// How many flows a host knows that a backend has.
    fn connections(&self, host: usize, backend: &str) -> Result<Value> {
        let shown = self.cluster.json(host, "service inspect shop")?;
        let endpoints = shown["endpoints"].as_array().context("no endpoints")?;
        let row = endpoints.iter().find(|row| row["name"] == backend);
        Ok(row.context("no such backend")?["connections"].clone())
    }

    fn until_state(&self, host: usize, backend: &str, wanted: &str) -> Result<()> {
        eventually(&format!("{backend} is {wanted}"), || {
            let state = self.state(host, backend)?;
            ensure!(state == wanted, "{state}");
            Ok(())
        })
    }

    fn spawn(&self, host: usize, command: &str) -> Result<Running> {
        let argv: Vec<&str> = command.split(' ').collect();
        self.cluster.spawn(host, &argv)
    }
}

fn vip(cluster: &Cluster, service: &str) -> Result<String> {
    let shown = cluster.json(1, &format!("service inspect {service}"))?;
    let vip = shown["networks"][0]["vip"].as_str().context("no vip")?;
    Ok(vip.to_owned())
}

/// A server in a new namespace of that name.
fn serve(cluster: &Cluster, host: usize, name: &str) -> Result<Server> {
    Server::start(cluster, host, name, PORT)
}

/// Who answers over a connection that is held.
fn asked(talk: &mut Talk) -> Result<String> {
    talk.tell()?;
    let line = talk.line()?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

/// Names of the nftables tables in the namespace of an endpoint.
fn tables(cluster: &Cluster, host: usize, endpoint: &str) -> Result<Vec<String>> {
    let said = cluster.weft(host, &format!("exec {endpoint} -- nft -j list tables"))?;
    let said: Value = serde_json::from_str(&said)?;
    let rows = said["nftables"].as_array().context("no list")?;
    let names = rows.iter().filter_map(|row| row["table"]["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn none_failed(tally: &Tally) -> Result<()> {
    ensure!(tally.failed == 0, "{tally:?}");
    Ok(())
}

fn taken_in_turn() -> Result<()> {
    let shop = Shop::open("")?;
    let _servers = [shop.backend(2, "b2")?, shop.backend(3, "b3")?];
    for host in 1..=3 {
        let own = shop.clients[host - 1].parse::<IpAddr>()?;
        let client = shop.cluster.client_in(host, &format!("c{host}.web"));
        for answers in [
            client.tcp(&shop.vip, PORT, 30)?,
            client.udp(&shop.vip, PORT, 30)?,
        ] {
            ensure!(
                answers.iter().all(|answer| answer.peer == own),
                "{own} is not who h{host}'s backends see: {answers:?}"
            );
            let spread = spread(&answers);
            let even = |name| (14..=16).contains(&spread.get(name).copied().unwrap_or(0));
            ensure!(even("b2") && even("b3"), "h{host}: {spread:?}");
        }
        let address = shop.vip.parse::<IpAddr>()?;
        let ping = weft_agent::lab::PingSpec::once(address);
        let report = shop
            .cluster
            .host(host)?
            .ping(Some(&format!("c{host}.web")), &ping)?;
        ensure!(report.lost == 0, "h{host}: {report:?}");
    }
    Ok(())
}

fn reaches_itself() -> Result<()> {
    let shop = Shop::open("")?;
    let _first = shop.backend(2, "b2")?;
    let client = shop.cluster.client_in(2, "b2.web");
    let answers = client.tcp(&shop.vip, PORT, 6)?;
    ensure!(spread(&answers)["b2"] == 6, "{answers:?}");
    let _second = shop.backend(2, "b3")?;
    let answers = client.tcp(&shop.vip, PORT, 6)?;
    let own = shop.cluster.address(2, "b2.web")?.parse::<IpAddr>()?;
    ensure!(spread(&answers)["b3"] == 3, "{answers:?}");
    let others = answers.iter().filter(|answer| answer.name == "b3");
    let others: Vec<&Answer> = others.collect();
    ensure!(others.iter().all(|answer| answer.peer == own), "{others:?}");
    Ok(())
}

fn weight_zero() -> Result<()> {
    let shop = Shop::open("")?;
    let _servers = [shop.backend(2, "b2")?, shop.backend(3, "b3")?];
    let mut held = shop.connected_to(1, "b2")?;
    shop.cluster.weft(1, "endpoint update b2.web --weight 0")?;
    shop.cluster.settle(1)?;
    let spread = shop.spread(1, 10)?;
    ensure!(spread.keys().eq(["b3"]), "{spread:?}");
    ensure!(asked(&mut held)? == "b2", "the connection was lost");
    shop.cluster.weft(1, "endpoint update b3.web --weight 0")?;
    shop.cluster.settle(1)?;
    let Err(refused) = shop.ask(1, 1) else {
        anyhow::bail!("somebody answered");
    };
    let refused = refused.to_string();
    ensure!(refused.contains("refused"), "{refused}");
    ensure!(asked(&mut held)? == "b2", "the connection was lost");
    shop.cluster.weft(1, "endpoint update b2.web --weight 5")?;
    shop.cluster.settle(1)?;
    let spread = shop.spread(1, 4)?;
    ensure!(spread.keys().eq(["b2"]), "{spread:?}");
    Ok(())
}

fn only_containers_with_services() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create web")?;
    cluster.weft(1, "network create other")?;
    cluster.container(1, "web", "a")?;
    cluster.container(1, "other", "b")?;
    cluster.sh(1, &["ip", "netns", "add", "blue"])?;
    cluster.weft(1, "attach web --netns /run/netns/blue --name c")?;
    let have = |endpoint: &str| tables(&cluster, 1, endpoint);
    let nothing: [&str; 0] = [];
    ensure!(have("a.web")? == nothing, "{:?}", have("a.web")?);
    cluster.weft(2, "service create shop --network web")?;
    cluster.settle(2)?;
    ensure!(have("a.web")? == ["weft-lb"], "{:?}", have("a.web")?);
    ensure!(have("b.other")? == nothing, "{:?}", have("b.other")?);
    // A container that goes on without the network loses what was for it.
    cluster.weft(1, "detach c.web")?;
    let left = cluster.sh(
        1,
        &["nsenter", "--net=/run/netns/blue", "nft", "list", "tables"],
    )?;
    ensure!(left.trim().is_empty(), "{left}");
    cluster.weft(2, "service rm shop")?;
    cluster.settle(2)?;
    ensure!(have("a.web")? == nothing, "{:?}", have("a.web")?);
    // What comes while no agent looks is found when one does.
    cluster.host(1)?.kill_agent()?;
    cluster.weft(2, "service create shop --network other")?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(PATIENCE)?;
    eventually("the service is in the container", || {
        ensure!(have("b.other")? == ["weft-lb"], "it is not");
        Ok(())
    })?;
    // And what has gone.
    cluster.host(1)?.kill_agent()?;
    cluster.weft(2, "service rm shop")?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(PATIENCE)?;
    eventually("the service is not in the container", || {
        ensure!(have("b.other")? == nothing, "it is");
        Ok(())
    })
}

fn backends_are_replaced() -> Result<()> {
    let shop = Shop::open("--drain-timeout 200ms")?;
    let mut servers = BTreeMap::new();
    for (host, name) in [(1, "a1"), (2, "a2"), (3, "a3")] {
        servers.insert(name.to_owned(), shop.backend(host, name)?);
    }
    let client = |host: usize| {
        let client = shop.cluster.client_in(host, &format!("c{host}.web"));
        client.start(&shop.vip, PORT, PACE_US)
    };
    let asking = [client(1)?, client(2)?, client(3)?];
    // First the new one, then the old one away.
    for host in 1..=3 {
        let new = format!("b{host}");
        let server = serve(&shop.cluster, host, &new)?;
        shop.join(host, &new, "")?;
        servers.insert(new, server);
        shop.cluster.weft(host, &format!("detach a{host}.web"))?;
        servers.remove(&format!("a{host}"));
    }
    // The other way round.
    for host in 1..=3 {
        shop.cluster.weft(host, &format!("detach b{host}.web"))?;
        servers.remove(&format!("b{host}"));
        let new = format!("d{host}");
        let server = serve(&shop.cluster, host, &new)?;
        shop.join(host, &new, "")?;
        servers.insert(new, server);
    }
    let mut requests = 0;
    for asking in asking {
        let tally = asking.finish()?;
        none_failed(&tally)?;
        ensure!(
            tally.answers.len() >= 8,
            "not everybody answered: {tally:?}"
        );
        requests += tally.answers.values().sum::<u64>();
    }
    println!("    {requests} requests over six replacements, none failed");
    Ok(())
}

fn a_backend_that_leaves() -> Result<()> {
    let shop = Shop::open("--drain-timeout 1h")?;
    let _servers = [shop.backend(2, "b2")?, shop.backend(3, "b3")?];
    let mut held = shop.connected_to(1, "b2")?;
    let detach = shop.spawn(2, "weft detach b2.web")?;
    shop.until_state(1, "b2", "draining")?;
    shop.cluster.settle(1)?;
    let spread = shop.spread(1, 10)?;
    ensure!(spread.keys().eq(["b3"]), "{spread:?}");
    ensure!(asked(&mut held)? == "b2", "the connection was lost");
    // Its own host knows of all its clients, and tells the others.
    for host in 1..=3 {
        ensure!(shop.connections(host, "b2")? == 1, "not one connection");
    }
    // With the last connection it may go, however long it would be waited for.
    drop(held);
    let ran = detach.wait()?;
    ensure!(ran.status == 0, "{ran:?}");
    ensure!(shop.state(1, "b2")? == "gone", "it is still there");

    let mut held = shop.connected_to(1, "b3")?;
    let detach = shop.spawn(3, "weft detach b3.web")?;
    shop.until_state(1, "b3", "draining")?;
    ensure!(asked(&mut held)? == "b3", "the connection was lost");
    // Whoever cannot wait need not, and the other is answered too.
    shop.cluster.weft(3, "detach --force b3.web")?;
    let ran = detach.wait()?;
    ensure!(ran.status == 0, "{ran:?}");
    ensure!(shop.state(1, "b3")? == "gone", "it is still there");
    shop.cluster.refused(3, "detach b3.web", 1, &["b3"])
}

fn a_drain_that_was_cut_short() -> Result<()> {
    let shop = Shop::open("--drain-timeout 1h")?;
    let _servers = [shop.backend(2, "b2")?, shop.backend(3, "b3")?];
    let mut held = shop.connected_to(1, "b2")?;
    let detach = shop.spawn(2, "weft detach b2.web")?;
    shop.until_state(1, "b2", "draining")?;
    shop.cluster.host(2)?.kill_agent()?;
    ensure!(detach.wait()?.status != 0, "the detach went well");
    shop.cluster.host(2)?.start_agent()?;
    shop.cluster.host(2)?.wait_ready(PATIENCE)?;
    shop.until_state(2, "b2", "draining")?;
    ensure!(asked(&mut held)? == "b2", "the connection was lost");
    shop.cluster
        .weft(1, "service update shop --drain-timeout 0s")?;
    shop.cluster.settle(1)?;
    shop.cluster.weft(2, "detach b2.web")?;
    ensure!(shop.state(2, "b2")? == "gone", "it is still there");
    Ok(())
}

/// Until a connection that is held is reset.
fn is_reset(held: &mut Talk) -> Result<()> {
    held.tell()?;
    let line = held.line()?;
    ensure!(line.contains("reset"), "{line}");
    Ok(())
}

fn flows_of_a_backend_that_vanishes() -> Result<()> {
    let shop = Shop::open("")?;
    let servers = [shop.backend(2, "b2")?, shop.backend(3, "b3")?];
    let mut tcp = shop.connected_to(1, "b2")?;
    let (mut moves, mut stays) = (shop.datagrams_to(1, "b2")?, shop.datagrams_to(1, "b3")?);
    shop.cluster.weft(2, "detach --force b2.web")?;
    shop.cluster.settle(2)?;
    ensure!(asked(&mut moves)? == "b3", "the datagrams are lost");
    ensure!(asked(&mut stays)? == "b3", "the others' are lost");
    is_reset(&mut tcp)?;

    // The same when the agent of the client's host hears of it later.
    drop(servers);
    let _servers = [shop.backend(2, "d2")?, shop.backend(3, "d3")?];
    shop.cluster.weft(3, "detach --force b3.web")?;
    let mut tcp = shop.connected_to(1, "d2")?;
    let mut moves = shop.datagrams_to(1, "d2")?;
    let agent = shop.cluster.host(1)?;
    agent.kill_agent()?;
    shop.cluster.weft(2, "detach --force d2.web")?;
    agent.start_agent()?;
    agent.wait_ready(PATIENCE)?;
    shop.cluster.settle(1)?;
    ensure!(asked(&mut moves)? == "d3", "the datagrams are lost");
    is_reset(&mut tcp)
}

fn agents_that_are_killed() -> Result<()> {
    let shop = Shop::open("--publish 8080:80")?;
    let _servers = [shop.backend(2, "b2")?, shop.backend(3, "b3")?];
    let mut held = shop.connected_to(1, "b2")?;
    // From outside, by way of the first host.
    let mut published = eventually("a connection from outside", || {
        let mut talk = shop.cluster.client(OUTSIDE).hold("198.18.0.1", 8080)?;
        ensure!(asked(&mut talk)? == "b2", "to another");
        Ok(talk)
    })?;
    let client = shop.cluster.client_in(1, "c1.web");
    let asking = client.start(&shop.vip, PORT, PACE_US)?;
    // That of the client, which has a new state to catch up with, and one with a backend.
    for (host, other) in [(1, 3), (2, 1)] {
        let agent = shop.cluster.host(host)?;
        agent.kill_agent()?;
        eventually("the node is down", || {
            let nodes = shop.cluster.json(other, "node ls")?;
            let rows = nodes.as_array().context("no list")?;
            let name = format!("h{host}");
            let row = rows.iter().find(|row| row["name"] == name.as_str());
            let row = row.context("no row")?;
            ensure!(row["status"] == "down", "{row}");
            Ok(())
        })?;
        let weight = format!("endpoint update b3.web --weight {}", host + 1);
        shop.cluster.weft(other, &weight)?;
        // Long enough for a backend that is really gone to be given up.
        std::thread::sleep(GIVEN_UP_WITHIN);
        for held in [&mut held, &mut published] {
            ensure!(asked(held)? == "b2", "the connection was lost");
        }
        agent.start_agent()?;
        agent.wait_ready(PATIENCE)?;
        shop.until_state(other, "b2", "ready")?;
        shop.cluster.settle(other)?;
    }
    let tally = asking.finish()?;
    none_failed(&tally)?;
    for held in [&mut held, &mut published] {
        ensure!(asked(held)? == "b2", "the connection was lost");
    }
    let spread = shop.spread(1, 10)?;
    ensure!(spread.len() == 2, "{spread:?}");
    Ok(())
}

fn a_node_that_dies() -> Result<()> {
    let shop = Shop::open("")?;
    let _servers = [shop.backend(2, "b2")?, shop.backend(3, "b3")?];
    let mut tcp = shop.connected_to(1, "b3")?;
    let mut udp = shop.datagrams_to(1, "b3")?;
    let started = Instant::now();
    shop.cluster.host(3)?.set_cable(Cable::Silent)?;
    shop.until_state(1, "b3", "down")?;
    shop.cluster.settle(1)?;
    println!("    out of every service after {:?}", started.elapsed());
    for host in 1..=2 {
        let spread = shop.spread(host, 10)?;
        ensure!(spread.keys().eq(["b2"]), "h{host}: {spread:?}");
    }
    eventually("the datagrams go to another", || {
        let backend = asked(&mut udp)?;
        ensure!(backend == "b2", "{backend}");
        Ok(())
    })?;
    eventually("the connection is reset", || is_reset(&mut tcp))?;
    println!("    its flows given up after {:?}", started.elapsed());
    shop.cluster.host(3)?.set_cable(Cable::In)?;
    shop.until_state(1, "b3", "ready")?;
    shop.cluster.settle(1)?;
    let spread = shop.spread(1, 10)?;
    ensure!(spread.len() == 2, "{spread:?}");
    Ok(())
}

fn others_in_a_container() -> Result<()> {
    let shop = Shop::open("")?;
    let _server = shop.backend(2, "b2")?;
    let inside = inside(&shop.cluster, 1, "c1.web")?;
    let nft = |words: &[&str]| {
        let argv = [&["nsenter", &inside, "nft"], words].concat();
        shop.cluster.run(1, &argv)
    };
    let delete = ["delete", "table", "inet", "weft-lb"];
    let refused = nft(&delete)?;
    ensure!(refused.status != 0, "it was deleted");
    ensure!(nft(&["flush", "ruleset"])?.status == 0, "it cannot flush");
    let there = || tables(&shop.cluster, 1, "c1.web");
    ensure!(there()? == ["weft-lb"], "{:?}", there()?);
    shop.ask(1, 3)?;
    // While no agent runs it belongs to nobody, once the kernel has let go of what the agent had.
    let agent = shop.cluster.host(1)?;
    agent.kill_agent()?;
    eventually("it can be deleted", || {
        let deleted = nft(&delete)?;
        ensure!(deleted.status == 0, "{deleted:?}");
        Ok(())
    })?;
    agent.start_agent()?;
    agent.wait_ready(PATIENCE)?;
    eventually("the service is in the container again", || {
        ensure!(there()? == ["weft-lb"], "it is not");
        Ok(())
    })?;
    shop.ask(1, 3)?;
    Ok(())
}

/// How nsenter(1) gets into the namespace of an endpoint.
fn inside(cluster: &Cluster, host: usize, endpoint: &str) -> Result<String> {
    let shown = cluster.json(host, &format!("endpoint inspect {endpoint}"))?;
    let netns = shown["netns"].as_str().context("no namespace")?;
    Ok(format!("--net={netns}"))
}

/// Holds the table in a container until it is told to let go (nft(8): an owner is who keeps its
/// socket).
const HOLD_TABLE: &str = "{ echo 'add table inet weft-lb { flags owner; }'; \
                          until [ -e /run/let-go ]; do sleep 0.1; done; } | nft -i";

fn cannot_have_its_addresses() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "c1")?;
    cluster.container(1, "web", "c2")?;
    let inside = inside(&cluster, 1, "c1.web")?;
    let _holder = cluster.spawn(1, &["nsenter", &inside, "sh", "-c", HOLD_TABLE])?;
    eventually("somebody else has the table", || {
        ensure!(tables(&cluster, 1, "c1.web")? == ["weft-lb"], "not yet");
        Ok(())
    })?;
    cluster.weft(1, "service create shop --network web")?;
    let state = |endpoint: &str| -> Result<Value> {
        cluster.json(1, &format!("endpoint inspect {endpoint}"))
    };
    eventually("the endpoint is shown as failed", || {
        let shown = state("c1.web")?;
        ensure!(shown["state"] == "failed", "{shown}");
        let why = shown["error"].as_str().unwrap_or_default();
        ensure!(why.contains("belongs to another"), "{why}");
        Ok(())
    })?;
    let status = cluster.weft(1, "status")?;
    ensure!(status.contains("c1"), "{status}");
    // The others have theirs.
    ensure!(state("c2.web")?["state"] == "ready", "{}", state("c2.web")?);
    ensure!(tables(&cluster, 1, "c2.web")? == ["weft-lb"], "no table");
    cluster.sh(1, &["touch", "/run/let-go"])?;
    eventually("the endpoint is ready", || {
        let shown = state("c1.web")?;
        ensure!(shown["state"] == "ready", "{shown}");
        Ok(())
    })?;
    cluster.settle(1)
}
