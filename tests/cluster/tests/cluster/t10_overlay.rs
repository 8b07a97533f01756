//! Networks across hosts.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::PingSpec;
use weft_cluster_tests::backend::Answer;
use weft_cluster_tests::capture::Capture;
use weft_cluster_tests::cluster::{Cluster, options};
use weft_cluster_tests::{eventually, kernel};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "overlay::every_container_reaches_every_other_by_address",
        every_container_reaches_every_other,
    ),
    (
        "overlay::a_server_sees_its_clients_own_addresses",
        a_server_sees_its_clients,
    ),
    (
        "overlay::a_host_that_joins_later_sees_all",
        a_host_that_joins_later_sees_all,
    ),
    (
        "overlay::address_mac_and_mtu_are_as_promised",
        address_mac_and_mtu_are_as_promised,
    ),
    (
        "overlay::arp_never_crosses_the_underlay",
        arp_never_crosses_the_underlay,
    ),
    (
        "overlay::unknown_and_broadcast_frames_never_cross",
        unknown_and_broadcast_frames_never_cross,
    ),
    (
        "overlay::networks_with_the_same_subnet_stay_isolated",
        same_subnet_stays_isolated,
    ),
    (
        "overlay::vnis_are_assigned_from_4096_and_never_twice",
        vnis_are_assigned_from_4096,
    ),
    (
        "overlay::an_address_that_moves_is_reached_at_its_new_host",
        an_address_that_moves,
    ),
    (
        "overlay::the_kernel_holds_what_is_wanted_and_nothing_else",
        the_kernel_holds_what_is_wanted,
    ),
    ("overlay::drift_is_repaired", drift_is_repaired),
    (
        "overlay::the_mtu_follows_the_underlay",
        the_mtu_follows_the_underlay,
    ),
    (
        "overlay::frames_of_strangers_are_dropped",
        frames_of_strangers_are_dropped,
    ),
    (
        "overlay::multicast_reaches_members_only_when_asked_for",
        multicast_only_when_asked_for,
    ),
];

/// Pings until a reply comes, then that one alone must be counted: replies within the first
/// second of a network's life are another test's business.
fn reaches(cluster: &Cluster, host: usize, from: &str, to: &str) -> Result<()> {
    let spec = PingSpec::once(to.parse::<std::net::IpAddr>()?);
    eventually(&format!("{from} reaches {to}"), || {
        let report = cluster.host(host)?.ping(Some(from), &spec)?;
        ensure!(report.lost == 0, "{report:?}");
        Ok(())
    })
}

fn every_container_reaches_every_other() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create web")?;
    let mut addresses = Vec::new();
    for host in 1..=3 {
        addresses.push(cluster.container(host, "web", &format!("c{host}"))?);
    }
    ensure!(
        addresses == ["10.0.1.2", "10.0.1.3", "10.0.1.4"],
        "{addresses:?}"
    );
    // Once every kernel reflects the last change, the first packet arrives.
    cluster.settle(1)?;
    for host in 1..=3 {
        for to in &addresses {
            let spec = PingSpec::once(to.parse::<std::net::IpAddr>()?);
            let report = cluster
                .host(host)?
                .ping(Some(&format!("c{host}.web")), &spec)?;
            ensure!(report.lost == 0, "c{host} to {to}: {report:?}");
        }
    }
    Ok(())
}

fn a_server_sees_its_clients() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.backend(1, "web", "server", 8080, "")?;
    let server = cluster.address(1, "server.web")?;
    let client = cluster.container(2, "web", "client")?;
    cluster.settle(1)?;
    let from = cluster.client_in(2, "client.web");
    let wanted = Answer {
        name: "server".to_owned(),
        peer: client.parse()?,
    };
    for answers in [from.tcp(&server, 8080, 3)?, from.udp(&server, 8080, 3)?] {
        ensure!(
            answers == [wanted.clone(), wanted.clone(), wanted.clone()],
            "{answers:?}"
        );
    }
    let mut held = from.hold(&server, 8080)?;
    let asking = from.start(&server, 8080, 1_000)?;
    for _ in 0..3 {
        held.tell()?;
        let answer = held.line()?;
        ensure!(answer == format!("server {}", wanted.peer), "{answer}");
    }
    let tally = asking.finish()?;
    ensure!(tally.failed == 0 && tally.answers.len() == 1, "{tally:?}");
    Ok(())
}

fn a_host_that_joins_later_sees_all() -> Result<()> {
    let cluster = Cluster::with(&options(3)?.without_cluster())?;
    cluster.weft(1, "init")?;
    let token = cluster.weft(1, "token worker -q")?;
    cluster.weft(2, &format!("join --token {} 198.18.0.1", token.trim()))?;
    cluster.weft(1, "network create web")?;
    let first = cluster.container(1, "web", "a")?;
    cluster.container(2, "web", "b")?;
    cluster.weft(3, &format!("join --token {} 198.18.0.1:2377", token.trim()))?;
    let third = cluster.container(3, "web", "c")?;
    reaches(&cluster, 3, "c.web", &first)?;
    reaches(&cluster, 2, "b.web", &third)?;
    let endpoints = cluster.json(3, "endpoint ls")?;
    ensure!(endpoints.as_array().map(Vec::len) == Some(3), "{endpoints}");
    Ok(())
}

fn address_mac_and_mtu_are_as_promised() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create web")?;
    let address = cluster.container(1, "web", "a")?;
    ensure!(address == "10.0.1.2", "{address}");
    let shown: Value =
        serde_json::from_str(&cluster.weft(1, "exec a.web -- ip -j address show dev eth0")?)?;
    let link = &shown[0];
    ensure!(link["address"] == "02:42:0a:00:01:02", "{link}");
    ensure!(link["mtu"] == 1450, "{link}");
    let inet: Vec<&Value> = link["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|info| info["family"] == "inet")
        .collect();
    ensure!(inet.len() == 1 && inet[0]["local"] == "10.0.1.2", "{link}");
    ensure!(inet[0]["prefixlen"] == 24, "{link}");
    let networks = cluster.json(1, "network ls")?;
    let numbers: Vec<_> = networks
        .as_array()
        .into_iter()
        .flatten()
        .map(|n| {
            (
                n["name"].clone(),
                n["vni"].clone(),
                n["subnets"][0]["cidr"].clone(),
            )
        })
        .collect();
    let expected = [
        ("ingress", 4096, "10.0.0.0/24"),
        ("web", 4097, "10.0.1.0/24"),
    ];
    ensure!(
        numbers == expected.map(|(n, v, s)| (n.into(), v.into(), s.into())),
        "{numbers:?}"
    );
    Ok(())
}

fn arp_never_crosses_the_underlay() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    let second = cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    let capture = Capture::start(&cluster, 2, "eth0", 4789)?;
    let spec = PingSpec::once(second.parse::<std::net::IpAddr>()?).times(5, 10_000);
    let report = cluster.host(1)?.ping(Some("a.web"), &spec)?;
    ensure!(report.lost == 0, "{report:?}");
    let frames = capture.stop()?;
    let tunnelled: Vec<&Value> = frames.iter().filter(|frame| frame["vni"] == 4097).collect();
    ensure!(
        tunnelled.len() >= 10,
        "five requests and replies expected: {frames:?}"
    );
    for frame in tunnelled {
        ensure!(
            frame["inner"]["kind"] == "ipv4",
            "not unicast IPv4: {frame}"
        );
        ensure!(
            frame["inner"]["dst_mac"] != "ff:ff:ff:ff:ff:ff",
            "broadcast: {frame}"
        );
    }
    Ok(())
}

fn unknown_and_broadcast_frames_never_cross() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    let capture = Capture::start(&cluster, 2, "eth0", 4789)?;
    // Nobody has this address: its neighbour entry never resolves, so nothing is sent.
    let spec = PingSpec {
        timeout_ms: 300,
        ..PingSpec::once(std::net::Ipv4Addr::new(10, 0, 1, 200))
    };
    let report = cluster.host(1)?.ping(Some("a.web"), &spec)?;
    ensure!(report.received == 0, "{report:?}");
    // A static neighbour with an unknown MAC, and the broadcast MAC: the tunnel has no entry.
    for mac in ["02:42:0a:00:01:c8", "ff:ff:ff:ff:ff:ff"] {
        cluster.weft(
            1,
            &format!("exec a.web -- ip neigh replace 10.0.1.200 lladdr {mac} dev eth0"),
        )?;
        let report = cluster.host(1)?.ping(Some("a.web"), &spec)?;
        ensure!(report.received == 0, "{report:?}");
    }
    let crossed: Vec<Value> = capture
        .stop()?
        .into_iter()
        .filter(|frame| frame["vni"] == 4097)
        .collect();
    ensure!(crossed.is_empty(), "{crossed:?}");
    Ok(())
}

fn same_subnet_stays_isolated() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create red --subnet 10.9.0.0/24")?;
    cluster.refused(
        1,
        "network create blue --subnet 10.9.0.0/24",
        1,
        &["overlap", "red"],
    )?;
    cluster.weft(
        1,
        "network create blue --subnet 10.9.0.0/24 --allow-overlap",
    )?;
    for (network, hosts) in [("red", [1, 2]), ("blue", [1, 2])] {
        for host in hosts {
            cluster.container(host, network, &format!("{network}{host}"))?;
        }
    }
    cluster.settle(1)?;
    // Both networks have 10.9.0.2 on h1 and 10.9.0.3 on h2; each hears only its own.
    for network in ["red", "blue"] {
        let report = cluster.host(1)?.ping(
            Some(&format!("{network}1.{network}")),
            &PingSpec::once(std::net::Ipv4Addr::new(10, 9, 0, 3)),
        )?;
        ensure!(report.lost == 0, "{network}: {report:?}");
    }
    let capture = Capture::start(&cluster, 2, "eth0", 4789)?;
    let spec = PingSpec::once(std::net::Ipv4Addr::new(10, 9, 0, 3)).times(5, 10_000);
    cluster.host(1)?.ping(Some("blue1.blue"), &spec)?;
    let frames = capture.stop()?;
    let blue = cluster.json(1, "network inspect blue")?["vni"].clone();
    let vnis: Vec<&Value> = frames
        .iter()
        .map(|f| &f["vni"])
        .filter(|v| !v.is_null())
        .collect();
    ensure!(
        vnis.len() >= 10 && vnis.iter().all(|vni| **vni == blue),
        "{vnis:?} are not {blue}"
    );
    // An address that only the other network has is not reached.
    cluster.container(2, "red", "extra")?;
    cluster.settle(1)?;
    let only_red = cluster
        .address(1, "extra.red")?
        .parse::<std::net::IpAddr>()?;
    let spec = PingSpec {
        timeout_ms: 300,
        ..PingSpec::once(only_red)
    };
    let report = cluster.host(1)?.ping(Some("blue1.blue"), &spec)?;
    ensure!(report.received == 0, "{report:?}");
    Ok(())
}

fn vnis_are_assigned_from_4096() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create a")?;
    cluster.weft(1, "network create b --vni 5000")?;
    cluster.weft(1, "network create c")?;
    let vni = |name: &str| -> Result<u64> {
        let found = cluster.json(1, &format!("network inspect {name}"))?;
        found["vni"].as_u64().context("no vni")
    };
    let found = (vni("ingress")?, vni("a")?, vni("b")?, vni("c")?);
    ensure!(found == (4096, 4097, 5000, 4098), "{found:?}");
    cluster.refused(1, "network create d --vni 5000", 1, &["5000", "b"])?;
    cluster.refused(1, "network create d --vni 16777216", 2, &["16777215"])?;
    cluster.refused(1, "network create a", 1, &["a"])?;
    Ok(())
}

fn an_address_that_moves() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create web")?;
    cluster.weft(
        1,
        "run --network web --ip 10.0.1.50 --name m --detach -- sleep infinity",
    )?;
    cluster.container(3, "web", "client")?;
    reaches(&cluster, 3, "client.web", "10.0.1.50")?;
    cluster.weft(1, "detach m.web")?;
    cluster.weft(
        2,
        "run --network web --ip 10.0.1.50 --name m --detach -- sleep infinity",
    )?;
    cluster.settle(2)?;
    let spec = PingSpec::once(std::net::Ipv4Addr::new(10, 0, 1, 50));
    let report = cluster.host(3)?.ping(Some("client.web"), &spec)?;
    ensure!(report.lost == 0, "{report:?}");
    let id = cluster.json(1, "network inspect web")?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    let entries = kernel::forwarding(&cluster, 3, &id)?;
    ensure!(
        entries == ["02:42:0a:00:01:32 dst 198.18.0.2"],
        "{entries:?}"
    );
    ensure!(
        kernel::sandboxes(&cluster, 1)?.is_empty(),
        "h1 still has a sandbox"
    );
    Ok(())
}

fn the_kernel_holds_what_is_wanted() -> Result<()> {
    let cluster = Cluster::up(2)?;
    let before = kernel::links(&cluster, 1, None)?;
    cluster.weft(1, "network create web")?;
    ensure!(
        kernel::sandboxes(&cluster, 1)?.is_empty(),
        "a sandbox without an endpoint"
    );
    cluster.container(1, "web", "a")?;
    cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    let id = cluster.json(1, "network inspect web")?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    ensure!(
        kernel::sandboxes(&cluster, 1)? == [id.clone()],
        "not one sandbox"
    );
    let links = kernel::links(&cluster, 1, Some(&id))?;
    let own = links.iter().filter(|name| name.starts_with("wf")).count();
    ensure!(own == 1, "{links:?}");
    ensure!(
        links.contains(&"br0".to_owned()) && links.contains(&"vxlan0".to_owned()),
        "{links:?}"
    );
    // The host's own links are what they were, but for the containers' way out.
    let mut now = kernel::links(&cluster, 1, None)?;
    now.retain(|link| link != "weft-gw");
    ensure!(now == before, "{before:?} became {now:?}");
    let entries = kernel::forwarding(&cluster, 1, &id)?;
    ensure!(
        entries == ["02:42:0a:00:01:03 dst 198.18.0.2"],
        "{entries:?}"
    );
    let neighbours = kernel::neighbours(&cluster, 1, &id)?;
    ensure!(
        neighbours == ["10.0.1.3 lladdr 02:42:0a:00:01:03"],
        "{neighbours:?}"
    );
    let vxlan = kernel::ip(
        &cluster,
        1,
        Some(&id),
        &["ip", "-j", "-d", "link", "show", "vxlan0"],
    )?;
    let data = &vxlan[0]["linkinfo"]["info_data"];
    ensure!(
        data["id"] == 4097 && data["port"] == 4789 && data["local"] == "198.18.0.1",
        "{data}"
    );
    ensure!(data["learning"] == false && data["proxy"] == true, "{data}");
    cluster.refused(1, "network rm web", 1, &["web", "endpoint"])?;
    for (host, name) in [(1, "a"), (2, "b")] {
        cluster.weft(host, &format!("detach {name}.web"))?;
        ensure!(
            kernel::sandboxes(&cluster, host)?.is_empty(),
            "h{host} still has a sandbox"
        );
    }
    cluster.weft(1, "network rm web")?;
    Ok(())
}

fn drift_is_repaired() -> Result<()> {
    // By the kernel's word of it, and not by looking again.
    let cluster = Cluster::looking_again_every("1h")?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    let second = cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    let id = cluster.json(1, "network inspect web")?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    let inside = format!("--net=/run/weft/netns/{id}");
    let is_repaired = |harm: &str| {
        eventually(&format!("`{harm}` is repaired"), || {
            let spec = PingSpec::once(second.parse::<std::net::IpAddr>()?);
            let report = cluster.host(1)?.ping(Some("a.web"), &spec)?;
            ensure!(report.lost == 0, "{report:?}");
            let show = ["ip", "-j", "link", "show", "vxlan0"];
            let link = kernel::ip(&cluster, 1, Some(&id), &show)?;
            ensure!(link[0]["mtu"] == 1450, "{link}");
            let text = cluster.weft(1, "exec a.web -- ip -j link show dev eth0")?;
            let link: Value = serde_json::from_str(&text)?;
            ensure!(link[0]["mtu"] == 1450, "{link}");
            let entries = kernel::forwarding(&cluster, 1, &id)?;
            ensure!(entries.len() == 1, "{entries:?}");
            Ok(())
        })
    };
    for harm in [
        "bridge fdb del 02:42:0a:00:01:03 dev vxlan0 dst 198.18.0.2",
        "ip neigh del 10.0.1.3 dev vxlan0",
        "ip link set vxlan0 mtu 1300",
        "ip link set br0 down",
        "ip link del vxlan0",
    ] {
        let argv: Vec<&str> = ["nsenter", &inside, "--"]
            .into_iter()
            .chain(harm.split(' '))
            .collect();
        cluster.sh(1, &argv)?;
        is_repaired(harm)?;
    }
    for harm in [
        "ip addr flush dev eth0",
        "ip link set eth0 down",
        "ip link set eth0 mtu 1300",
        "ip link del eth0",
    ] {
        cluster.weft(1, &format!("exec a.web -- {harm}"))?;
        is_repaired(harm)?;
    }
    is_told_of(&cluster)
}

/// Repairs are events.
fn is_told_of(cluster: &Cluster) -> Result<()> {
    let follow = "timeout 20 weft events --format json | grep -m 1 repaired";
    let host = cluster.host(1)?;
    let harm = "while sleep 0.2; do weft exec a.web -- ip link set eth0 mtu 1300; done & harm=$!";
    let script = format!("{harm}; {follow}; kill $harm");
    let output = host.command("sh").args(["-c", &script]).output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    let event: Value = serde_json::from_str(told.trim()).with_context(|| told.to_string())?;
    ensure!(
        event["type"] == "node" && event["object"]["node"] == "h1",
        "{event}"
    );
    Ok(())
}

fn the_mtu_follows_the_underlay() -> Result<()> {
    // By the kernel's word of it, and not by looking again.
    let cluster = Cluster::looking_again_every("1h")?;
    cluster.weft(1, "network create web")?;
    cluster.weft(1, "network create fixed --mtu 1300")?;
    cluster.container(1, "web", "a")?;
    let second = cluster.container(2, "web", "b")?;
    cluster.container(1, "fixed", "f")?;
    let mtu = |endpoint: &str, wanted: u64| kernel::until_mtu(&cluster, 1, endpoint, wanted);
    mtu("a.web", 1450)?;
    mtu("f.fixed", 1300)?;
    cluster.sh(2, &["ip", "link", "set", "eth0", "mtu", "1400"])?;
    mtu("a.web", 1350)?;
    mtu("f.fixed", 1300)?;
    let to = second.parse::<std::net::IpAddr>()?;
    let report = cluster
        .host(1)?
        .ping(Some("a.web"), &PingSpec::once(to).unfragmented(1350))?;
    ensure!(report.lost == 0, "{report:?}");
    let report = cluster
        .host(1)?
        .ping(Some("a.web"), &PingSpec::once(to).unfragmented(1351))?;
    ensure!(report.refused == 1, "{report:?}");
    Ok(())
}

fn frames_of_strangers_are_dropped() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.settle(1)?;
    let dropped = |cluster: &Cluster| -> Result<u64> {
        cluster.json(1, "status")?["drops"]["data_path_non_member"]
            .as_u64()
            .context("no counter")
    };
    ensure!(dropped(&cluster)? == 0, "dropped before anything was sent");
    let outside = cluster.outside()?;
    let argv = [
        "bash",
        "-c",
        "for i in 1 2 3; do echo -n hello > /dev/udp/198.18.0.1/4789; done",
    ];
    let sent = outside.run(&argv)?;
    ensure!(sent.status.success(), "{sent:?}");
    eventually("the stranger's datagrams are counted", || {
        let count = dropped(&cluster)?;
        ensure!(count == 3, "{count}");
        Ok(())
    })
}

fn multicast_only_when_asked_for() -> Result<()> {
    let cluster = Cluster::up(2)?;
    for (network, flag) in [("plain", ""), ("many", "--multicast")] {
        cluster.weft(1, &format!("network create {network} {flag}"))?;
        cluster.container(1, network, "a")?;
        cluster.container(2, network, "b")?;
    }
    cluster.settle(1)?;
    for (network, expected) in [("plain", false), ("many", true)] {
        let vni = cluster.json(1, &format!("network inspect {network}"))?["vni"].clone();
        let mut capture = Capture::start(&cluster, 2, "eth0", 4789)?;
        let multicast = |f: &Value| f["vni"] == vni && f["inner"]["dst"] == "239.1.1.1";
        cluster.weft(
            1,
            &format!("exec a.{network} -- ip route add 239.1.1.1 dev eth0"),
        )?;
        let send = format!("exec a.{network} -- /bin/bash -c :>/dev/udp/239.1.1.1/9");
        // An empty datagram is one too, and its words survive being split at spaces.
        let send = send.replace(":>", "printf${IFS}x>");
        cluster.weft(1, &send)?;
        if expected {
            capture.until(multicast)?;
        } else {
            let frames = capture.stop()?;
            ensure!(!frames.iter().any(multicast), "{network}: {frames:?}");
        }
    }
    Ok(())
}
