//! Encrypted networks whose frames go by ports of bridges, as on kernels without segmentation of UDP
//! tunnels: on all hosts, and on one of several.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use weft_agent::lab::{PingSpec, PullSpec};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::talk::Talk;
use weft_cluster_tests::weft::probe_exe;
use weft_cluster_tests::wiretap::Wiretap;
use weft_cluster_tests::{eventually, kernel};

use crate::secret::*;
use crate::{Case, t80_encrypted, t81_wire, t82_keys, t83_upsets};

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "ports::turned_on_and_off_on_a_live_network_no_frame_is_in_clear",
        || t80_encrypted::turned_on_and_off_with(PORT),
    ),
    (
        "ports::a_data_path_that_is_killed_leaves_nothing_in_clear_and_comes_back",
        || t80_encrypted::data_path_is_killed_with(PORT),
    ),
    (
        "ports::published_ports_are_carried_by_an_encrypted_ingress_network",
        || t80_encrypted::ingress_with(PORT),
    ),
    (
        "ports::nothing_is_in_clear_and_nothing_lost_while_keys_change_and_agents_are_killed",
        || t81_wire::nothing_is_in_clear_with(&[PORT[0], "--rekey=1s"]),
    ),
    (
        "ports::clear_frames_of_members_and_strangers_are_dropped_and_counted",
        || t81_wire::clear_frames_are_dropped_with(PORT),
    ),
    (
        "ports::replayed_and_damaged_packets_are_dropped_by_cause",
        || t81_wire::replayed_and_damaged_packets_with(PORT),
    ),
    ("ports::keys_replaced_under_load_lose_nothing", || {
        t82_keys::replaced_under_load_with(&[PORT[0], "--rekey=1s"])
    }),
    (
        "ports::another_program_takes_over_and_goes_on_with_them",
        || t82_keys::another_program_with(PORT),
    ),
    ("ports::over_a_data_path_of_its_own_with_ipv6", || {
        t82_keys::another_data_path_with(PORT)
    }),
    ("ports::one_that_is_removed_comes_back", a_port_is_removed),
    (
        "ports::broadcasts_go_by_them_where_they_are_asked_for",
        broadcasts,
    ),
    (
        "ports::beside_the_other_form_the_wire_is_the_same",
        beside_the_other_form,
    ),
];

/// What pings and transfers carry.
const PING: &[u8] = &[0x77; 32];
const HEARD: u16 = 9999;
/// A group of nobody in particular (RFC 2365).
const GROUP: &str = "239.1.1.1";

fn network_id(cluster: &Cluster, network: &str) -> Result<String> {
    let network = cluster.json(1, &format!("network inspect {network}"))?;
    Ok(network["id"].as_str().context("no id")?.to_owned())
}

fn a_port_is_removed() -> Result<()> {
    let cluster = encrypted(&options_with(2, PORT)?)?;
    let network = network_id(&cluster, "web")?;
    for host in 1..=2 {
        let links = kernel::links(&cluster, host, Some(&network))?;
        let has = |name: &str| links.iter().any(|link| link == name);
        ensure!(has("esp0") && !has("vxlan0"), "h{host}: {links:?}");
    }
    let encryption = cluster.json(1, "status")?["encryption"].take();
    ensure!(
        encryption["path"] == "userspace" && encryption["form"] == "port",
        "{encryption}"
    );
    let shown = cluster.weft(1, "status")?;
    ensure!(shown.contains("userspace-port"), "{shown}");
    t83_upsets::is_reached_without(&cluster, |cluster| {
        let remove = ["ip", "link", "delete", "esp0"];
        kernel::ip(cluster, 2, Some(&network), &remove).map(drop)
    })
}

fn broadcasts() -> Result<()> {
    may_make_devices()?;
    let probe = probe_exe()?;
    let probe = probe.to_str().context("a path that is not UTF-8")?;
    let cluster = Cluster::with(&options_with(2, PORT)?)?;
    let tap = Wiretap::start(&cluster, 2, "eth0", &[b"to-the-group"])?;
    for (network, flag) in [("plain", ""), ("many", "--multicast")] {
        cluster.weft(1, &format!("network create {network} --encrypted {flag}"))?;
        cluster.container(1, network, "a")?;
        cluster.container(2, network, "b")?;
    }
    cluster.settle(1)?;
    protected(&cluster, 1, 1)?;
    protected(&cluster, 2, 1)?;
    for (network, expected) in [("plain", false), ("many", true)] {
        let to: IpAddr = cluster.address(1, &format!("b.{network}"))?.parse()?;
        let from = format!("a.{network}");
        eventually("it is reached", || {
            let report = cluster.host(1)?.ping(Some(&from), &PingSpec::once(to))?;
            ensure!(report.lost == 0, "{report:?}");
            Ok(())
        })?;
        let route = format!("exec {from} -- ip route add {GROUP} dev eth0");
        cluster.weft(1, &route)?;
        let join = format!("exec b.{network} -- ip address add {GROUP}/32 dev eth0 autojoin");
        cluster.weft(2, &join)?;
        let port = HEARD.to_string();
        let inside = format!("b.{network}");
        let through = ["weft", "exec", &inside, "--"];
        let mut heard = Talk::start(&cluster, 2, &through, &["hear", &port])?;
        // What was said first is there first, if it comes at all.
        for (to, text) in [(GROUP, "to-the-group"), (&to.to_string(), "to-one")] {
            let argv = ["weft", "exec", &from, "--", probe, "say", to, &port, text];
            cluster.sh(1, &argv)?;
        }
        let line = heard.line()?;
        let first = if expected { "to-the-group" } else { "to-one" };
        ensure!(line == first, "{network}: {line:?} arrived");
    }
    let seen = tap.stop()?;
    ensure!(seen.patterns == 0 && seen.inner == 0, "{seen:?}");
    Ok(())
}

fn beside_the_other_form() -> Result<()> {
    let mut options = options_with(3, &["--rekey=1s"])?;
    for (host, form) in [("h1", "port"), ("h2", "vxlan"), ("h3", "vxlan")] {
        let arg = format!("--encryption=userspace-{form}");
        options.host_args.insert(host.to_owned(), vec![arg]);
    }
    let cluster = encrypted(&options)?;
    for (host, form) in [(1, "port"), (2, "vxlan"), (3, "vxlan")] {
        let encryption = cluster.json(host, "status")?["encryption"].take();
        ensure!(encryption["form"] == form, "h{host}: {encryption}");
    }
    let taps = [1, 2, 3].map(|host| Wiretap::start(&cluster, host, "eth0", &[PING]));
    let names = ["a", "b", "c"];
    let mut servers = Vec::new();
    for (host, name) in (1..).zip(names) {
        servers.push(server(&cluster, host, name)?);
    }
    let before = epoch(&cluster, 1, 2)?;
    for (host, name) in (1..).zip(names) {
        let from = format!("{name}.web");
        for other in names.into_iter().filter(|other| *other != name) {
            let to = address(&cluster, other)?;
            let spec = PingSpec::once(to).times(20, 2_000);
            let report = cluster.host(host)?.ping(Some(&from), &spec)?;
            ensure!(report.lost == 0, "{from} to {other}: {report:?}");
            let spec = PullSpec {
                from: SocketAddr::new(to, SERVER),
                bytes: 4 << 20,
            };
            cluster.host(host)?.pull(Some(&from), &spec)?;
        }
    }
    eventually("keys were replaced meanwhile", || {
        let now = epoch(&cluster, 1, 2)?;
        ensure!(now >= before + 2, "{now}");
        Ok(())
    })?;
    for tap in taps {
        let seen = tap?.stop()?;
        seen.is_sealed()?;
        ensure!(seen.clear == 0, "{seen:?}");
    }
    Ok(())
}
