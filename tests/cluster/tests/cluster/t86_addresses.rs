//! Addresses of networks: ranges, reservations, growth, and both versions of IP.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_agent::lab::PingSpec;
use weft_cluster_tests::capture::Capture;
use weft_cluster_tests::cluster::{Cluster, OUTSIDE};
use weft_cluster_tests::talk::Talk;
use weft_cluster_tests::{conform, eventually};

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "addresses::ranges_gateways_and_reservations_are_kept",
        ranges,
    ),
    ("addresses::a_full_network_says_so_and_grows", grows),
    ("addresses::mtu_and_multicast_change_live", live_change),
    ("addresses::dual_stack_across_hosts", dual_stack),
    ("addresses::ipv6_only_across_hosts", ipv6_only),
];

const PORT: u16 = 7000;

fn ranges() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(
        1,
        "network create lan --subnet 10.70.0.0/24 --subnet 10.71.0.0/28 --gateway 10.71.0.14 \
         --gateway 10.70.0.254 --ip-range 10.70.0.8/30 --aux-address nas=10.70.0.9",
    )?;
    let lan = cluster.json(1, "network inspect lan")?;
    let first = json!({
        "cidr": "10.70.0.0/24", "gateway": "10.70.0.254", "ip_range": "10.70.0.8/30",
        "used": 0, "free": 3,
    });
    let second = json!({
        "cidr": "10.71.0.0/28", "gateway": "10.71.0.14", "ip_range": null, "used": 0, "free": 13,
    });
    ensure!(lan["subnets"] == json!([first, second]), "{lan}");
    ensure!(lan["aux_addresses"] == json!({"nas": "10.70.0.9"}), "{lan}");
    for (name, address) in [
        ("a", "10.70.0.8"),
        ("b", "10.70.0.10"),
        ("c", "10.70.0.11"),
        ("d", "10.71.0.1"),
    ] {
        let given = cluster.container(1, "lan", name)?;
        ensure!(given == address, "{name} got {given}");
    }
    // Outside the part that addresses come from by themselves, who asks gets one.
    cluster.weft(
        1,
        "run --network lan --name e --ip 10.70.0.100 --detach -- sleep infinity",
    )?;
    let lan = cluster.json(1, "network inspect lan")?;
    let counts = |at: usize| {
        (
            lan["subnets"][at]["used"].clone(),
            lan["subnets"][at]["free"].clone(),
        )
    };
    ensure!(counts(0) == (json!(4), json!(0)), "{lan}");
    ensure!(counts(1) == (json!(1), json!(12)), "{lan}");
    conform::check(&cluster, 1)?;

    let refused = |args: &str, status, says: &[&str]| cluster.refused(1, args, status, says);
    refused(
        "run --network lan --ip 10.70.0.9 --detach -- sleep 1",
        1,
        &["10.70.0.9 is reserved", "auxiliary address `nas`"],
    )?;
    let create = "network create other --subnet 10.72.0.0/24";
    refused(
        &format!("{create} --gateway 10.73.0.1"),
        2,
        &["10.73.0.1 is in none of the subnets"],
    )?;
    refused(
        &format!("{create} --ip-range 10.73.0.0/25"),
        1,
        &["IP range 10.73.0.0/25 is in none"],
    )?;
    refused(
        &format!("{create} --aux-address x=10.73.0.9"),
        1,
        &["x=10.73.0.9 is outside", "10.72.0.0/24"],
    )?;
    refused(
        &format!("{create} --aux-address x=10.72.0.1"),
        1,
        &["x=10.72.0.1 is the gateway"],
    )?;
    refused(
        &format!("{create} --aux-address x=10.72.0.9 --aux-address y=10.72.0.9"),
        1,
        &["y=10.72.0.9 is reserved twice"],
    )?;
    refused(
        &format!("{create} --aux-address x=10.72.0.9 --aux-address x=10.72.0.8"),
        2,
        &["--aux-address x is given twice"],
    )?;
    refused(
        "network create other --subnet 10.70.0.128/25",
        1,
        &["overlaps 10.70.0.0/24 of network lan"],
    )?;
    refused(
        "network create other --subnet fd00:7::/64 --mtu 1279",
        1,
        &["MTU 1279 is too small", "1280"],
    )?;
    refused(
        "network create other --subnet fe80::/64",
        1,
        &["reserved (link-local)"],
    )?;
    let networks = cluster.weft(1, "network ls -q")?;
    ensure!(networks.lines().count() == 2, "{networks}");
    Ok(())
}

fn grows() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create small --subnet 10.72.0.0/29")?;
    for number in 1..=5 {
        cluster.container(1, "small", &format!("c{number}"))?;
    }
    cluster.refused(
        1,
        "run --network small --name c6 --detach -- sleep infinity",
        1,
        &["5 of 5 are used", "--subnet-add CIDR small"],
    )?;
    let small = cluster.json(1, "network inspect small")?;
    let warning = small["warnings"][0].as_str().unwrap_or_default();
    ensure!(warning.contains("uses 5 of 5 IPv4 addresses"), "{small}");
    for (cidr, says) in [
        (
            "10.72.0.0/28",
            "overlaps subnet 10.72.0.0/29 of the same network",
        ),
        ("10.0.0.0/24", "overlaps 10.0.0.0/24 of network ingress"),
        ("198.18.0.0/25", "overlaps route 198.18.0.0/"),
        ("fd00:72::/64", "has no IPv6"),
    ] {
        let update = format!("network update small --subnet-add {cidr}");
        cluster.refused(1, &update, 1, &[says])?;
    }
    cluster.weft(1, "network update small --subnet-add 10.73.0.0/29")?;
    let sixth = cluster.container(1, "small", "c6")?;
    ensure!(sixth == "10.73.0.2", "{sixth}");
    // Each reaches the other's subnet without a router, also who was there before.
    for (from, to) in [("c1.small", "10.73.0.2"), ("c6.small", "10.72.0.2")] {
        eventually("a way to the other subnet", || pings(&cluster, 1, from, to))?;
    }
    // A freed address comes after those never used.
    cluster.weft(1, "detach c3.small")?;
    let seventh = cluster.container(1, "small", "c7")?;
    ensure!(seventh == "10.73.0.3", "{seventh}");
    eventually("the kernel is as wanted", || conform::check(&cluster, 1))
}

fn live_change() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.container(2, "web", "b")?;
    cluster.settle(1)?;
    let mtu = |host: usize, name: &str| -> Result<Value> {
        let show = format!("exec {name}.web -- ip -j link show dev eth0");
        let links: Value = serde_json::from_str(&cluster.weft(host, &show)?)?;
        Ok(links[0]["mtu"].clone())
    };
    for (change, wanted) in [("1300", 1300), ("auto", 1450)] {
        cluster.weft(1, &format!("network update web --mtu {change}"))?;
        cluster.settle(1)?;
        for (host, name) in [(1, "a"), (2, "b")] {
            let found = mtu(host, name)?;
            ensure!(found == json!(wanted), "{name} has {found}, not {wanted}");
        }
    }
    for wanted in [true, false] {
        cluster.weft(1, &format!("network update web --multicast {wanted}"))?;
        cluster.settle(1)?;
        let web = cluster.json(1, "network inspect web")?;
        ensure!(web["multicast"] == json!(wanted), "{web}");
        let capture = Capture::start(&cluster, 2, "eth0", 4789)?;
        // It goes to the broadcast MAC address, which a tunnel has an entry for or has not.
        let neighbour = "ip neigh replace 10.0.1.200 lladdr ff:ff:ff:ff:ff:ff dev eth0";
        cluster.weft(1, &format!("exec a.web -- {neighbour}"))?;
        let spec = PingSpec {
            timeout_ms: 300,
            ..PingSpec::once(IpAddr::from([10, 0, 1, 200]))
        };
        cluster.host(1)?.ping(Some("a.web"), &spec)?;
        let frames = capture.stop()?;
        let crossed = frames
            .iter()
            .filter(|frame| frame["inner"]["dst_mac"] == "ff:ff:ff:ff:ff:ff");
        let count = crossed.count();
        ensure!((count > 0) == wanted, "multicast {wanted}: {count} crossed");
    }
    Ok(())
}

/// The addresses of an endpoint.
fn addresses(cluster: &Cluster, endpoint: &str) -> Result<(Option<String>, String)> {
    let found = cluster.json(1, &format!("endpoint inspect {endpoint}"))?;
    let v6 = found["ipv6"].as_str().context("no ipv6")?.to_owned();
    Ok((found["ipv4"].as_str().map(str::to_owned), v6))
}

fn pings(cluster: &Cluster, host: usize, from: &str, to: &str) -> Result<()> {
    let spec = PingSpec::once(to.parse::<IpAddr>()?).times(5, 10_000);
    let report = cluster.host(host)?.ping(Some(from), &spec)?;
    ensure!(report.lost == 0, "{from} to {to}: {report:?}");
    Ok(())
}

/// Frames of containers are sent to one host each, and none asks who has an address.
fn ensure_quiet(frames: &[Value], vni: &Value) -> Result<usize> {
    let ours: Vec<&Value> = frames.iter().filter(|frame| frame["vni"] == *vni).collect();
    for frame in &ours {
        let inner = &frame["inner"];
        let kind = inner["kind"].as_str().unwrap_or_default();
        ensure!(["ipv4", "ipv6"].contains(&kind), "{frame}");
        let to = inner["dst_mac"].as_str().context("no destination")?;
        let first = u8::from_str_radix(&to[..2], 16)?;
        ensure!(first & 1 == 0, "sent to many: {frame}");
        // Router and neighbour discovery (RFC 4861 section 4).
        let icmp6 = inner["icmp6"].as_u64().unwrap_or_default();
        ensure!(!(133..=137).contains(&icmp6), "discovery: {frame}");
    }
    Ok(ours.len())
}

/// Pings and TCP both ways between `a` on h1 and `b` on h2, and what crosses the underlay meanwhile.
fn talk(cluster: &Cluster, network: &str) -> Result<()> {
    let vni = cluster.json(1, &format!("network inspect {network}"))?["vni"].clone();
    let names = ["a", "b"].map(|name| format!("{name}.{network}"));
    let known = [
        addresses(cluster, &names[0])?,
        addresses(cluster, &names[1])?,
    ];
    cluster.settle(1)?;
    let capture = Capture::start(cluster, 2, "eth0", 4789)?;
    for (from, to) in [(0, 1), (1, 0)] {
        let (v4, v6) = &known[to];
        for address in v4.iter().chain([v6]) {
            pings(cluster, from + 1, &names[from], address)?;
            let client = cluster.client_in(from + 1, &names[from]);
            for answers in [client.tcp(address, PORT, 3)?, client.udp(address, PORT, 3)?] {
                let right = |name: &str| name == ["a", "b"][to];
                ensure!(answers.iter().all(|a| right(&a.name)), "{answers:?}");
            }
        }
    }
    // Nobody has this one: it is asked for, and nobody else hears of it.
    let (_, v6) = &known[1];
    let nobody = format!("{}dead", v6.trim_end_matches(|c| c != ':'));
    let spec = PingSpec {
        timeout_ms: 300,
        ..PingSpec::once(nobody.parse::<IpAddr>()?)
    };
    let report = cluster.host(1)?.ping(Some(&names[0]), &spec)?;
    ensure!(report.received == 0, "{report:?}");
    let frames = capture.stop()?;
    let crossed = ensure_quiet(&frames, &vni)?;
    ensure!(crossed >= 20, "{crossed} frames crossed");
    for host in [1, 2] {
        eventually("the kernel is as wanted", || conform::check(cluster, host))?;
    }
    Ok(())
}

fn dual_stack() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create dual --ipv6")?;
    let dual = cluster.json(1, "network inspect dual")?;
    let prefix = dual["subnets"][1]["cidr"].as_str().context("no IPv6")?;
    ensure!(
        prefix.starts_with("fd") && prefix.ends_with("::/64"),
        "{dual}"
    );
    ensure!(dual["subnets"][0]["cidr"] == "10.0.1.0/24", "{dual}");
    cluster.backend(1, "dual", "a", PORT, "")?;
    cluster.backend(2, "dual", "b", PORT, "")?;
    let first = cluster.json(1, "endpoint inspect a.dual")?;
    ensure!(first["mac"] == "02:42:0a:00:01:02", "{first}");
    let wanted = prefix.replace("::/64", "::2");
    ensure!(first["ipv6"] == json!(wanted), "{first}");
    talk(&cluster, "dual")?;
    // The next network's is the next one.
    cluster.weft(1, "network create two --ipv6 --subnet 10.80.0.0/24")?;
    let two = cluster.json(1, "network inspect two")?;
    ensure!(two["subnets"][0]["cidr"] == "10.80.0.0/24", "{two}");
    let next = two["subnets"][1]["cidr"].as_str().context("no IPv6")?;
    ensure!(
        next != prefix && next[..12] == prefix[..12],
        "{next} after {prefix}"
    );
    // An agent that starts anew finds all as it is.
    cluster.host(2)?.kill_agent()?;
    cluster.host(2)?.start_agent()?;
    let (_, v6) = addresses(&cluster, "b.dual")?;
    pings(&cluster, 1, "a.dual", &v6)?;
    eventually("the kernel is as wanted", || conform::check(&cluster, 2))
}

fn ipv6_only() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create six --subnet fd00:0:0:6::/64")?;
    cluster.backend(1, "six", "a", PORT, "")?;
    cluster.backend(2, "six", "b", PORT, "--ip6 fd00:0:0:6::b:77")?;
    let first = cluster.json(1, "endpoint inspect a.six")?;
    ensure!(first["ipv4"].is_null(), "{first}");
    ensure!(first["ipv6"] == "fd00:0:0:6::2", "{first}");
    ensure!(first["mac"] == "02:46:00:00:00:02", "{first}");
    let second = cluster.json(1, "endpoint inspect b.six")?;
    ensure!(second["ipv6"] == "fd00::6:0:0:b:77", "{second}");
    ensure!(second["mac"] == "02:46:00:0b:00:77", "{second}");
    talk(&cluster, "six")?;
    cluster.refused(
        1,
        "run --network six --ip6 fd00:0:0:6::2 --detach -- sleep 1",
        1,
        &["fd00:0:0:6::2 is held by endpoint a on node h1"],
    )?;
    cluster.refused(
        1,
        "run --network six --ip 10.0.1.5 --detach -- sleep 1",
        1,
        &["10.0.1.5 is outside network six"],
    )?;
    cluster.refused(
        1,
        "service create front --network six",
        1,
        &["network six has no IPv4", "dnsrr"],
    )?;
    cluster.weft(
        1,
        "service create front --network six --endpoint-mode dnsrr",
    )?;
    way_out(&cluster)
}

/// By its host, whose address the world sees.
fn way_out(cluster: &Cluster) -> Result<()> {
    for (host, address) in [(1, "fd00:18::1/64"), (OUTSIDE, "fd00:18::fe/64")] {
        let argv = ["ip", "-6", "addr", "add", address, "dev", "eth0", "nodad"];
        cluster.sh(host, &argv)?;
    }
    let port = PORT.to_string();
    let _world = Talk::begin(cluster, OUTSIDE, &[], &["serve", "world", &port])?;
    eventually("the server outside listens", || {
        cluster.client(OUTSIDE).tcp("::1", PORT, 1).map(drop)
    })?;
    let answers = eventually("there is a way out", || {
        cluster.client_in(1, "a.six").tcp("fd00:18::fe", PORT, 1)
    })?;
    let host: IpAddr = "fd00:18::1".parse()?;
    ensure!(
        answers.iter().all(|answer| answer.peer == host),
        "{answers:?}"
    );
    Ok(())
}
