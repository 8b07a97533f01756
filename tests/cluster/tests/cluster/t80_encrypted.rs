//! Networks whose frames must not be in clear between hosts.

use std::fs::OpenOptions;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::{PATTERN, PingSpec};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::wiretap::{CLEAR, Seen, Wiretap};
use weft_cluster_tests::{PATIENCE, eventually, kernel};

use crate::Case;
use crate::secret::options_with;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "encrypted::a_network_says_that_it_is_and_what_that_leaves_it",
        a_network_says_that_it_is,
    ),
    (
        "encrypted::a_worker_does_not_turn_it_off",
        a_worker_does_not_turn_it_off,
    ),
    (
        "encrypted::turned_on_and_off_on_a_live_network_no_frame_is_in_clear",
        turned_on_and_off,
    ),
    (
        "encrypted::a_node_whose_agent_was_away_meanwhile_gets_nothing_in_clear",
        agent_was_away,
    ),
    (
        "encrypted::where_the_host_cannot_be_closed_nothing_leaves_and_it_is_said",
        cannot_be_closed,
    ),
    (
        "encrypted::where_its_device_cannot_be_made_nothing_leaves_and_it_is_said",
        cannot_have_its_device,
    ),
    (
        "encrypted::a_data_path_that_is_killed_leaves_nothing_in_clear_and_comes_back",
        data_path_is_killed,
    ),
    (
        "encrypted::published_ports_are_carried_by_an_encrypted_ingress_network",
        ingress,
    ),
];

/// What pings carry.
const PING: &[u8] = &[PATTERN; 32];

fn a_network_says_that_it_is() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create plain")?;
    cluster.weft(1, "network create secret --encrypted --label tier=a")?;
    for (name, encrypted, mtu) in [("plain", false, 1450), ("secret", true, 1408)] {
        let network = cluster.json(1, &format!("network inspect {name}"))?;
        ensure!(network["encrypted"] == encrypted, "{network}");
        ensure!(network["mtu"] == mtu, "{network}");
    }
    let listed = cluster.weft(1, "network ls")?;
    let shown = |name: &str| {
        listed
            .lines()
            .any(|l| l.contains(name) && l.contains("encrypted"))
    };
    ensure!(shown("secret") && !shown("plain"), "{listed}");

    let wide = cluster.try_weft(1, "network create wide --encrypted --mtu 1450")?;
    ensure!(
        wide.status == 0 && wide.stderr.contains("leaves 1408"),
        "{wide:?}"
    );
    let network = cluster.json(1, "network inspect wide")?;
    ensure!(network["mtu"] == 1450, "{network}");
    ensure!(network["warnings"][0].as_str().is_some(), "{network}");

    cluster.weft(
        1,
        "network update secret --label-rm tier --label-add zone=b",
    )?;
    let labels = cluster.json(1, "network inspect secret")?["labels"].take();
    ensure!(labels == serde_json::json!({"zone": "b"}), "{labels}");
    cluster.refused(1, "network update secret", 2, &["nothing to change"])?;
    cluster.refused(1, "network update nobody --encrypted true", 1, &["nobody"])?;
    cluster.refused(
        1,
        "network update secret --encrypted maybe",
        2,
        &["true", "false"],
    )?;

    cluster.weft(1, "network rm ingress")?;
    cluster.weft(1, "network create ingress --ingress --encrypted")?;
    let ingress = cluster.json(1, "network inspect ingress")?;
    ensure!(
        ingress["encrypted"] == true && ingress["vni"] == 4096,
        "{ingress}"
    );
    Ok(())
}

fn a_worker_does_not_turn_it_off() -> Result<()> {
    let cluster = Cluster::looking_again_every("1h")?;
    cluster.weft(2, "network create web --encrypted")?;
    let off = "network update web --encrypted false";
    cluster.refused(2, off, 1, &["worker", "ask a manager"])?;
    ensure!(cluster.json(1, "network inspect web")?["encrypted"] == true);
    cluster.weft(1, off)?;
    cluster.weft(2, "network update web --encrypted true")?;
    Ok(())
}

/// Whether this user's agents can have a data path. Where the device of TAPs is root's alone, what is
/// to be encrypted stays closed.
fn is_carried() -> bool {
    OpenOptions::new().write(true).open("/dev/net/tun").is_ok()
}

/// `web` on a manager and a worker, with the containers `a` and `c` on the first and `b` on the other.
struct Web {
    cluster: Cluster,
    id: String,
    near: IpAddr,
    far: IpAddr,
}

impl Web {
    fn open(agent_args: &[&str]) -> Result<Self> {
        let cluster = Cluster::looking_again_with("1h", agent_args)?;
        cluster.weft(1, "network create web")?;
        cluster.container(1, "web", "a")?;
        let far = cluster.container(2, "web", "b")?.parse()?;
        let near = cluster.container(1, "web", "c")?.parse()?;
        cluster.settle(1)?;
        let network = cluster.json(1, "network inspect web")?;
        let id = network["id"].as_str().context("no id")?.to_owned();
        let web = Self {
            cluster,
            id,
            near,
            far,
        };
        web.reaches()?;
        Ok(web)
    }

    fn encrypt(&self, encrypted: bool) -> Result<()> {
        let update = format!("network update web --encrypted {encrypted}");
        self.cluster.weft(1, &update).map(drop)
    }

    /// Waits until a host has no tunnel in clear any more, whether or not it has another one.
    fn is_closed(&self, host: usize) -> Result<()> {
        let argv = ["ip", "-j", "-d", "link", "show", "type", "vxlan"];
        eventually(&format!("h{host} has no tunnel in clear"), || {
            let links = kernel::ip(&self.cluster, host, Some(&self.id), &argv)?;
            let port = &links[0]["linkinfo"]["info_data"]["port"];
            ensure!(*port != CLEAR, "{links}");
            Ok(())
        })
    }

    /// Waits until some answers come one after the other. On a busy machine the queue in front of the
    /// data path is full at times: what is lost of a ping is another test's business.
    fn reaches(&self) -> Result<()> {
        let spec = PingSpec {
            timeout_ms: 1_000,
            ..PingSpec::once(self.far).times(10, 10_000)
        };
        eventually("a reaches b", || {
            let report = self.cluster.host(1)?.ping(Some("a.web"), &spec)?;
            ensure!(report.lost == 0, "{report:?}");
            Ok(())
        })
    }

    fn is_not_reached(&self) -> Result<()> {
        let spec = PingSpec {
            timeout_ms: 500,
            ..PingSpec::once(self.far).times(20, 2_000)
        };
        let report = self.cluster.host(1)?.ping(Some("a.web"), &spec)?;
        ensure!(report.received == 0, "{report:?}");
        Ok(())
    }

    /// What is sealed arrives; where it cannot be, it is said why.
    fn is_sealed(&self) -> Result<()> {
        match is_carried() {
            true => self.reaches(),
            false => eventually("what is closed says so", || says_closed(&self.cluster)),
        }
    }

    fn has_mtu(&self, wanted: u64) -> Result<()> {
        eventually(&format!("the MTU is {wanted}"), || {
            let show = "exec a.web -- ip -j link show dev eth0";
            let links: Value = serde_json::from_str(&self.cluster.weft(1, show)?)?;
            ensure!(links[0]["mtu"] == wanted, "{links}");
            Ok(())
        })
    }
}

fn says_closed(cluster: &Cluster) -> Result<()> {
    let network = cluster.json(1, "network inspect web")?;
    let status = cluster.json(1, "status")?;
    let said = |object: &Value| object.to_string().contains("/dev/net/tun");
    ensure!(said(&network) || said(&status), "{network} {status}");
    Ok(())
}

fn nothing_in_clear(seen: &Seen) -> Result<()> {
    match is_carried() {
        true => seen.is_sealed(),
        false => {
            ensure!(seen.patterns == 0 && seen.inner == 0, "{seen:?}");
            Ok(())
        }
    }
}

fn turned_on_and_off() -> Result<()> {
    turned_on_and_off_with(&[])
}

pub(crate) fn turned_on_and_off_with(agent_args: &[&str]) -> Result<()> {
    let web = Web::open(agent_args)?;
    let cluster = &web.cluster;
    let pings = |to| {
        let spec = PingSpec::once(to).endless(10_000);
        anyhow::Ok(cluster.host(1)?.start_ping(Some("a.web"), &spec)?)
    };
    // The ones go on all the time, whatever becomes of them; the others must not notice anything.
    let (beyond, beside) = (pings(web.far)?, pings(web.near)?);
    for round in 0..2 {
        web.encrypt(true)?;
        web.is_closed(1)?;
        web.is_closed(2)?;
        let taps = [1, 2].map(|host| Wiretap::start(cluster, host, "eth0", &[PING]));
        web.is_sealed()?;
        web.has_mtu(1408)?;
        for tap in taps {
            let seen = tap?.stop()?;
            nothing_in_clear(&seen).with_context(|| format!("round {round}"))?;
        }
        web.encrypt(false)?;
        web.reaches()?;
        web.has_mtu(1450)?;
        eventually("all is as before", || {
            let shown = cluster.json(1, "network inspect web")?;
            ensure!(shown["error"].is_null(), "{shown}");
            Ok(())
        })?;
    }
    let report = beyond.finish()?;
    ensure!(report.received > 10, "{report:?}");
    let report = beside.finish()?;
    ensure!(report.received > 10 && report.lost == 0, "{report:?}");
    Ok(())
}

fn agent_was_away() -> Result<()> {
    let web = Web::open(&[])?;
    let cluster = &web.cluster;
    let away = cluster.host(2)?;
    away.kill_agent()?;
    web.encrypt(true)?;
    web.is_closed(1)?;
    // Its kernel still has the tunnel in clear, and the other one no key for it.
    let tap = Wiretap::start(cluster, 1, "eth0", &[PING])?;
    web.is_not_reached()?;
    let seen = tap.stop()?;
    ensure!(seen.patterns == 0 && seen.inner == 0, "{seen:?}");

    away.start_agent()?;
    away.wait_ready(PATIENCE)?;
    web.is_closed(2)?;
    let tap = Wiretap::start(cluster, 2, "eth0", &[PING])?;
    web.is_sealed()?;
    nothing_in_clear(&tap.stop()?)
}

/// Holds the table that keeps clear datagrams back until it is told to let go (nft(8): an owner is who
/// keeps its socket).
const HOLD_TABLE: &str = "{ echo 'add table inet weft-esp { flags owner; }'; \
                          until [ -e /run/let-go ]; do sleep 0.1; done; } | nft -i";

fn cannot_be_closed() -> Result<()> {
    let web = Web::open(&[])?;
    let cluster = &web.cluster;
    let _holder = cluster.spawn(1, &["sh", "-c", HOLD_TABLE])?;
    eventually("somebody else has the table", || {
        let tables = cluster.sh(1, &["nft", "list", "tables"])?;
        ensure!(tables.contains("weft-esp"), "{tables}");
        Ok(())
    })?;
    web.encrypt(true)?;
    web.is_closed(1)?;
    web.is_closed(2)?;
    let tap = Wiretap::start(cluster, 1, "eth0", &[PING])?;
    eventually("it is said why", || {
        let endpoint = cluster.json(1, "endpoint inspect a.web")?;
        ensure!(endpoint["state"] == "failed", "{endpoint}");
        for object in [endpoint, cluster.json(1, "network inspect web")?] {
            let error = object["error"].as_str().unwrap_or_default();
            ensure!(error.contains("weft-esp"), "{object}");
        }
        Ok(())
    })?;
    web.is_not_reached()?;
    let seen = tap.stop()?;
    ensure!(seen.patterns == 0 && seen.inner == 0, "{seen:?}");
    cluster.sh(1, &["touch", "/run/let-go"])?;
    web.is_sealed()
}

fn cannot_have_its_device() -> Result<()> {
    if !is_carried() {
        return Ok(());
    }
    let web = Web::open(&[])?;
    let cluster = &web.cluster;
    // Somebody's who happens to like the name.
    cluster.sh(1, &["ip", "link", "add", "wf-esp", "type", "bridge"])?;
    web.encrypt(true)?;
    web.is_closed(1)?;
    web.is_closed(2)?;
    let tap = Wiretap::start(cluster, 1, "eth0", &[PING])?;
    eventually("it is said why", || {
        let status = cluster.json(1, "status")?;
        let error = status["encryption"]["error"].as_str().unwrap_or_default();
        ensure!(error.contains("wf-esp"), "{status}");
        Ok(())
    })?;
    web.is_not_reached()?;
    let seen = tap.stop()?;
    ensure!(seen.patterns == 0 && seen.inner == 0, "{seen:?}");
    cluster.sh(1, &["ip", "link", "del", "wf-esp"])?;
    web.is_sealed()
}

fn data_path_is_killed() -> Result<()> {
    data_path_is_killed_with(&[])
}

pub(crate) fn data_path_is_killed_with(agent_args: &[&str]) -> Result<()> {
    if !is_carried() {
        return Ok(());
    }
    let web = Web::open(agent_args)?;
    let cluster = &web.cluster;
    web.encrypt(true)?;
    web.is_closed(1)?;
    web.is_closed(2)?;
    web.is_sealed()?;
    let spec = PingSpec::once(web.far).endless(10_000);
    let pings = cluster.host(1)?.start_ping(Some("a.web"), &spec)?;
    let taps = [1, 2].map(|host| Wiretap::start(cluster, host, "eth0", &[PING]));
    for host in 1..=2 {
        let process = || {
            let pid = cluster.json(host, "status")?["dataplane"]["pid"].as_u64();
            pid.context("no process")
        };
        let before = process()?;
        cluster.sh(host, &["kill", "-KILL", &before.to_string()])?;
        eventually("there is another one", || {
            let now = process()?;
            ensure!(now != before, "{now}");
            Ok(())
        })?;
        web.is_sealed()?;
    }
    for tap in taps {
        let seen = tap?.stop()?;
        seen.is_sealed()?;
        ensure!(seen.clear == 0, "{seen:?}");
    }
    let report = pings.finish()?;
    ensure!(report.received > 0, "{report:?}");
    Ok(())
}

fn ingress() -> Result<()> {
    ingress_with(&[])
}

pub(crate) fn ingress_with(agent_args: &[&str]) -> Result<()> {
    const NAME: &str = "told-by-the-backend";
    let cluster = Cluster::with(&options_with(2, agent_args)?)?;
    cluster.weft(1, "network create app")?;
    let create = "service create web --network app --health tcp:80 --publish 8080:80";
    cluster.weft(1, create)?;
    cluster.backend(2, "app", NAME, 80, "--service web")?;
    let outside = cluster.client(OUTSIDE);
    // By a node that has no backend.
    let asks = || {
        eventually("it answers", || {
            let answers = outside.tcp("198.18.0.1", 8080, 3)?;
            let client: IpAddr = "198.18.0.254".parse()?;
            let right = { answers.iter() }.all(|a| a.name == NAME && a.peer == client);
            ensure!(right && answers.len() == 3, "{answers:?}");
            Ok(())
        })
    };
    let tapped = |work: &dyn Fn() -> Result<()>| {
        let tap = Wiretap::start(&cluster, 2, "eth0", &[NAME.as_bytes()])?;
        work()?;
        tap.stop()
    };
    asks()?;
    let seen = tapped(&asks)?;
    ensure!(seen.patterns >= 3, "the search is blind: {seen:?}");

    cluster.weft(1, "network update ingress --encrypted true")?;
    cluster.settle(1)?;
    if !is_carried() {
        let seen = tapped(&|| {
            let refused = outside.tcp("198.18.0.1", 8080, 1).is_err();
            ensure!(refused, "it answers");
            Ok(())
        })?;
        return nothing_in_clear(&seen);
    }
    let seen = tapped(&asks)?;
    seen.is_sealed()?;
    ensure!(seen.clear == 0, "{seen:?}");
    cluster.weft(1, "network update ingress --encrypted false")?;
    cluster.settle(1)?;
    let seen = tapped(&asks)?;
    ensure!(seen.patterns >= 3, "{seen:?}");
    Ok(())
}
