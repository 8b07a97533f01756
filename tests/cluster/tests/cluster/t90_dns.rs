//! Names inside containers, asked by `dig`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::cluster::{Cluster, Running};
use weft_cluster_tests::eventually;
use weft_cluster_tests::weft::weft_exe;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "dns::a_command_that_has_just_started_finds_containers_of_other_hosts",
        names_across_hosts,
    ),
    (
        "dns::services_have_one_address_or_all_and_lose_who_is_down",
        services,
    ),
    ("dns::a_container_on_two_networks_knows_both", two_networks),
    (
        "dns::others_are_asked_by_the_host_and_not_for_internal_networks",
        others_are_asked,
    ),
    (
        "dns::no_answer_is_lost_when_the_agent_dies_or_is_another_program",
        no_answer_is_lost,
    ),
    (
        "dns::a_container_that_has_the_port_is_told_of_and_served_later",
        the_port_is_taken,
    ),
    ("dns::junk_does_no_harm_and_is_counted", junk),
];

/// What `dig` says of a query.
#[derive(Debug, Default)]
struct Reply {
    /// `NOERROR` or another word.
    status: String,
    /// The end of each record of the answer, in order: an address, or a name.
    records: Vec<String>,
    /// The seconds for which each may be kept.
    ttls: BTreeSet<String>,
    flags: String,
}

impl Reply {
    fn set(&self) -> BTreeSet<&str> {
        self.records.iter().map(String::as_str).collect()
    }

    fn read(text: &str) -> Result<Self> {
        let mut reply = Self::default();
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("status: ") {
                reply.status = rest.split(',').next().unwrap_or_default().to_owned();
            } else if let Some(rest) = line.strip_prefix(";; flags: ") {
                reply.flags = rest.split(';').next().unwrap_or_default().to_owned();
            } else if !line.starts_with(';') && !line.is_empty() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let (ttl, data) = (words.get(1), words.get(4..));
                reply.ttls.insert((*ttl.context("no TTL")?).to_owned());
                reply.records.push(data.context("no data")?.join(" "));
            }
        }
        ensure!(!reply.status.is_empty(), "no answer: {text}");
        Ok(reply)
    }
}

const DIG: &str = "dig +noall +comments +answer +tries=1 +time=20";

/// Asks inside a container.
fn ask(cluster: &Cluster, host: usize, container: &str, query: &str) -> Result<Reply> {
    let text = cluster.weft(host, &format!("exec {container} -- {DIG} {query}"))?;
    Reply::read(&text).with_context(|| query.to_owned())
}

fn says(reply: &Reply, status: &str, records: &[&str]) -> Result<()> {
    let expected: BTreeSet<&str> = records.iter().copied().collect();
    ensure!(
        reply.status == status && reply.set() == expected && reply.records.len() == records.len(),
        "{reply:?} instead of {status} {records:?}"
    );
    Ok(())
}

fn names_across_hosts() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    let run = "run --network web --alias pair --detach";
    cluster.weft(1, &format!("{run} --name one -- sleep infinity"))?;
    cluster.weft(2, &format!("{run} --name two -- sleep infinity"))?;
    let one = cluster.address(1, "one.web")?;
    let two = cluster.address(2, "two.web")?;
    cluster.settle(1)?;

    // The very first thing that a command does.
    let text = cluster.weft(2, &format!("run --network web --name asks -- {DIG} one"))?;
    let reply = Reply::read(&text)?;
    says(&reply, "NOERROR", &[&one])?;
    ensure!(reply.ttls == BTreeSet::from(["5".to_owned()]), "{reply:?}");
    ensure!(reply.flags.contains("aa"), "{reply:?}");
    // By the C library, and so by every program.
    let found = cluster.weft(1, "exec one -- getent ahostsv4 two")?;
    ensure!(found.starts_with(&two), "{found}");

    eventually("the one who asked is forgotten", || {
        says(&ask(&cluster, 1, "one", "asks")?, "SERVFAIL", &[])
    })?;
    for (query, status, records) in [
        ("two", "NOERROR", vec![two.as_str()]),
        ("TWO.Web", "NOERROR", vec![&two]),
        ("pair", "NOERROR", vec![&one, &two]),
        ("+tcp pair.web", "NOERROR", vec![&one, &two]),
        ("two AAAA", "NOERROR", vec![]),
        ("two MX", "NOERROR", vec![]),
        ("web", "NOERROR", vec![]),
        ("nobody.web", "NXDOMAIN", vec![]),
        ("tasks.nobody", "NXDOMAIN", vec![]),
        (&format!("-x {two}"), "NOERROR", vec!["two.web."]),
        ("-x 10.0.1.77", "NXDOMAIN", vec![]),
    ] {
        says(&ask(&cluster, 1, "one", query)?, status, &records).context(query.to_owned())?;
    }

    eventually("what was asked is counted", || {
        let dns = cluster.json(1, "status")?["dns"].clone();
        ensure!(dns["serving"] == 1 && dns["failed"] == 0, "{dns}");
        ensure!(dns["queries"]["answered"].as_u64() > Some(4), "{dns}");
        Ok(())
    })?;
    let text = cluster.weft(1, "status")?;
    ensure!(text.contains("answered in 1 container;"), "{text}");

    // A name that goes is gone for all.
    cluster.weft(2, "detach two.web")?;
    eventually("the alias is one container's", || {
        says(&ask(&cluster, 1, "one", "pair")?, "NOERROR", &[&one])?;
        says(&ask(&cluster, 1, "one", "two.web")?, "NXDOMAIN", &[])
    })
}

fn services() -> Result<()> {
    let cluster = Cluster::up(3)?;
    cluster.weft(1, "network create web")?;
    let create = "service create --network web";
    cluster.weft(1, &format!("{create} shop --publish 8080:80"))?;
    cluster.weft(1, &format!("{create} list --endpoint-mode dnsrr"))?;
    let run = "run --network web --detach";
    for host in 1..=3 {
        for service in ["shop", "list"] {
            let name = format!("{service}{host}");
            let run = format!("{run} --service {service} --name {name}");
            cluster.weft(host, &format!("{run} -- sleep infinity"))?;
        }
    }
    let address = |name: &str, host| cluster.address(host, &format!("{name}{host}.web"));
    let list = [
        address("list", 1)?,
        address("list", 2)?,
        address("list", 3)?,
    ];
    let shop = [
        address("shop", 1)?,
        address("shop", 2)?,
        address("shop", 3)?,
    ];
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let shop: Vec<&str> = shop.iter().map(String::as_str).collect();
    let inspected = cluster.json(1, "service inspect shop")?;
    let vip = inspected["networks"][0]["vip"].as_str().context("no VIP")?;

    eventually("all backends are named", || {
        for host in 1..=3 {
            let asks = format!("list{host}");
            says(&ask(&cluster, host, &asks, "list")?, "NOERROR", &list)?;
            says(
                &ask(&cluster, host, &asks, "tasks.list.web")?,
                "NOERROR",
                &list,
            )?;
            says(&ask(&cluster, host, &asks, "tasks.shop")?, "NOERROR", &shop)?;
        }
        Ok(())
    })?;
    says(&ask(&cluster, 2, "list2", "shop")?, "NOERROR", &[vip])?;
    let reverse = ask(&cluster, 2, "list2", &format!("-x {vip}"))?;
    says(&reverse, "NOERROR", &["shop.web."])?;
    let place = ask(&cluster, 2, "list2", "_80._tcp.shop SRV")?;
    says(&place, "NOERROR", &["0 0 80 shop.web."])?;
    let places = ask(&cluster, 2, "list2", "_80._tcp.tasks.shop.web SRV")?;
    let expected = [
        "0 1 80 shop1.web.",
        "0 1 80 shop2.web.",
        "0 1 80 shop3.web.",
    ];
    says(&places, "NOERROR", &expected)?;
    // Each comes first in its turn.
    let mut first = BTreeSet::new();
    for _ in 0..3 {
        first.extend(
            ask(&cluster, 1, "shop1", "list")?
                .records
                .into_iter()
                .take(1),
        );
    }
    ensure!(first.len() == 3, "{first:?}");

    cluster.host(3)?.kill_agent()?;
    eventually("what is on a node that is down is left out", || {
        says(&ask(&cluster, 1, "shop1", "list")?, "NOERROR", &list[..2])?;
        says(
            &ask(&cluster, 1, "shop1", "tasks.shop")?,
            "NOERROR",
            &shop[..2],
        )?;
        says(&ask(&cluster, 1, "shop1", "shop")?, "NOERROR", &[vip])?;
        says(&ask(&cluster, 1, "shop1", "list3")?, "NOERROR", &[])
    })?;
    Ok(())
}

fn two_networks() -> Result<()> {
    let cluster = Cluster::up(2)?;
    for network in ["alpha", "beta"] {
        cluster.weft(1, &format!("network create {network}"))?;
    }
    let both = "run --network alpha --network beta --detach";
    cluster.weft(1, &format!("{both} --name both -- sleep infinity"))?;
    let in_alpha = cluster.container(2, "alpha", "twin")?;
    let in_beta = cluster.container(2, "beta", "twin")?;
    cluster.settle(1)?;
    for (query, address) in [
        ("twin", &in_alpha),
        ("twin.alpha", &in_alpha),
        ("twin.beta", &in_beta),
    ] {
        says(
            &ask(&cluster, 1, "both.alpha", query)?,
            "NOERROR",
            &[address],
        )?;
    }
    let twins = ask(&cluster, 2, "twin.beta", "twin.alpha")?;
    ensure!(twins.records.is_empty(), "{twins:?}");

    // One server knows of a network from when the container is on it, and until it is not.
    cluster.weft(1, "detach both.alpha")?;
    eventually("the name means the other network's", || {
        says(
            &ask(&cluster, 1, "both.beta", "twin")?,
            "NOERROR",
            &[&in_beta],
        )
    })?;
    Ok(())
}

const PYTHON: &str = "/usr/bin/python3";
const UPSTREAM: &str = include_str!("t90_dns/upstream.py");
const ASKER: &str = include_str!("t90_dns/asker.py");
const JUNK: &str = include_str!("t90_dns/junk.py");

/// A name server on a host.
fn upstream(cluster: &Cluster, address: &str, which: &str) -> Result<Running> {
    let argv = [PYTHON, "-c", UPSTREAM, address, which];
    let running = cluster.spawn(1, &argv)?;
    eventually("the name server answers", || {
        let query = format!("{DIG} @{address} ready.example");
        let argv: Vec<&str> = query.split(' ').collect();
        says(
            &Reply::read(&cluster.sh(1, &argv)?)?,
            "NOERROR",
            &["203.0.113.1"],
        )
    })?;
    Ok(running)
}

/// What the host says who knows names.
fn host_asks(cluster: &Cluster, text: &str) -> Result<()> {
    let write = format!(
        "printf '{text}' > /etc/resolv.conf.new && mv /etc/resolv.conf.new /etc/resolv.conf"
    );
    cluster.sh(1, &["sh", "-c", &write]).map(drop)
}

fn others_are_asked() -> Result<()> {
    let cluster = Cluster::up(1)?;
    let servers = [
        upstream(&cluster, "127.0.0.2", "first")?,
        upstream(&cluster, "127.0.0.3", "second")?,
    ];
    host_asks(
        &cluster,
        "nameserver 127.0.0.2\\nnameserver 127.0.0.3\\nsearch corp.example\\n",
    )?;
    cluster.weft(1, "network create web")?;
    cluster.weft(1, "network create closed --internal")?;
    cluster.container(1, "web", "open")?;
    cluster.container(1, "closed", "shut")?;
    let shown = cluster.weft(1, "exec open -- cat /etc/resolv.conf")?;
    ensure!(shown.contains("search corp.example\n"), "{shown}");
    for (query, status, count) in [
        ("www.example", "NOERROR", 1),
        ("+tcp www.example", "NOERROR", 1),
        ("+noedns www.example", "NOERROR", 1),
        ("none.example", "NXDOMAIN", 0),
        // The second one knows it.
        ("failing.example", "NOERROR", 1),
        ("silent.example", "NOERROR", 1),
        ("dead.example", "SERVFAIL", 0),
        ("spoofed.example", "NOERROR", 1),
        // Fetched by TCP for who takes so much; others are told to come by TCP.
        ("+bufsize=4096 +ignore big.example", "NOERROR", 100),
        ("+noedns +ignore big.example", "NOERROR", 0),
        ("+noedns big.example", "NOERROR", 100),
        ("single", "NOERROR", 1),
        ("-x 192.0.2.1", "NOERROR", 1),
    ] {
        let reply = ask(&cluster, 1, "open", query)?;
        let same = reply.status == status && reply.records.len() == count;
        ensure!(same, "{query}: {reply:?}");
    }
    for (query, status) in [
        ("www.example", "REFUSED"),
        ("single", "NXDOMAIN"),
        ("nobody.closed", "NXDOMAIN"),
        ("shut", "NOERROR"),
    ] {
        let reply = ask(&cluster, 1, "shut", query)?;
        ensure!(reply.status == status, "{query}: {reply:?}");
    }
    eventually("others are named", || {
        let dns = cluster.json(1, "status")?["dns"].clone();
        let named = dns["upstreams"] == serde_json::json!(["127.0.0.2", "127.0.0.3"]);
        ensure!(named && dns["queries"]["failed"] == 1, "{dns}");
        Ok(())
    })?;

    // Round in circles.
    host_asks(&cluster, "nameserver 127.0.0.11\\n")?;
    eventually("nobody is asked", || {
        says(&ask(&cluster, 1, "open", "www.example")?, "SERVFAIL", &[])?;
        let dns = cluster.json(1, "status")?["dns"].clone();
        let error = dns["error"].as_str().unwrap_or_default();
        ensure!(error.contains("names 127.0.0.11"), "{dns}");
        Ok(())
    })?;
    host_asks(&cluster, "nameserver 127.0.0.3\\n")?;
    eventually("the other one is asked", || {
        says(
            &ask(&cluster, 1, "open", "www.example")?,
            "NOERROR",
            &["203.0.113.1"],
        )
    })?;
    drop(servers);
    Ok(())
}

/// How often it was asked so far.
fn asked(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.sh(1, &["cat", "/run/asked"])?.trim().parse()?)
}

/// Until it was asked some times more.
fn asks_on(cluster: &Cluster) -> Result<()> {
    let before = asked(cluster)?;
    eventually("names are asked for", || {
        ensure!(asked(cluster)? >= before + 50);
        Ok(())
    })
}

fn process(cluster: &Cluster) -> Result<u64> {
    let status = cluster.json(1, "status")?;
    let pid = &status["dataplane"]["pid"];
    pid.as_u64()
        .with_context(|| format!("no process: {status}"))
}

fn no_answer_is_lost() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "one")?;
    cluster.container(2, "web", "two")?;
    cluster.settle(1)?;
    let exec = ["weft", "exec", "one", "--", PYTHON, "-c", ASKER];
    let asker = cluster.spawn(1, &exec)?;
    eventually("it asks", || asked(&cluster))?;
    let first = process(&cluster)?;

    cluster.host(1)?.kill_agent()?;
    asks_on(&cluster)?;
    cluster.host(1)?.start_agent()?;
    cluster.host(1)?.wait_ready(weft_cluster_tests::PATIENCE)?;
    eventually("the process is known to the next agent", || {
        ensure!(process(&cluster)? == first);
        Ok(())
    })?;

    // A copy is another file, as an upgrade is.
    let own = weft_exe()?;
    let dir = format!("{}.names-{}", own.display(), std::process::id());
    let copy = format!("{dir}/weft");
    std::fs::create_dir_all(&dir)?;
    let upgraded = || -> Result<()> {
        cluster.sh(1, &["cp", own.to_str().context("a path")?, &copy])?;
        cluster.host(1)?.kill_agent()?;
        let agent = format!("exec {copy} agent >/dev/null 2>&1");
        let agent = cluster.spawn(1, &["sh", "-c", &agent])?;
        let second = eventually("another process is in charge", || {
            let pid = process(&cluster)?;
            ensure!(pid != first);
            Ok(pid)
        })?;
        eventually("the first process has ended", || {
            let left = cluster.run(1, &["test", "-e", &format!("/proc/{first}/exe")])?;
            ensure!(left.status != 0, "it runs");
            Ok(())
        })?;
        asks_on(&cluster)?;
        cluster.sh(1, &["touch", "/run/stop"])?;
        let ran = asker.wait()?;
        let lost = ran.stdout.trim().split(' ').nth(1);
        ensure!(lost == Some("0"), "{ran:?}");

        // What comes later is known to the second one, and to a third one when that dies.
        let three = cluster.container(2, "web", "three")?;
        eventually("the new name is known", || {
            says(&ask(&cluster, 1, "one", "three")?, "NOERROR", &[&three])
        })?;
        cluster.sh(1, &["kill", "-KILL", &second.to_string()])?;
        eventually("a third one answers", || {
            ensure!(process(&cluster)? != second);
            says(&ask(&cluster, 1, "one", "three.web")?, "NOERROR", &[&three])
        })?;
        drop(agent);
        Ok(())
    };
    let outcome = upgraded();
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

fn the_port_is_taken() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create web")?;
    cluster.sh(1, &["ip", "netns", "add", "blue"])?;
    let inside = ["nsenter", "--net=/run/netns/blue"];
    let take = "import os, socket, time\ns = socket.create_server(('0.0.0.0', 53))\n\
                while not os.path.exists('/run/free'): time.sleep(.05)";
    let argv = [inside.as_slice(), &[PYTHON, "-c", take]].concat();
    let program = cluster.spawn(1, &argv)?;
    eventually("the port is taken", || {
        let argv = [inside.as_slice(), &["cat", "/proc/self/net/tcp"]].concat();
        let sockets = cluster.sh(1, &argv)?;
        ensure!(sockets.contains(":0035 "), "{sockets}");
        Ok(())
    })?;
    cluster.weft(1, "attach web --netns /run/netns/blue --name blue")?;
    eventually("it is said", || {
        let row = cluster.json(1, "endpoint inspect blue.web")?;
        let notice = row["notice"].as_str().unwrap_or_default();
        ensure!(
            notice.contains("TCP port 53 of 127.0.0.11 is taken"),
            "{row}"
        );
        ensure!(row["error"].is_null(), "{row}");
        let status = cluster.weft(1, "status")?;
        ensure!(
            status.contains("not in 1 (see 'weft endpoint inspect')"),
            "{status}"
        );
        Ok(())
    })?;
    cluster.sh(1, &["touch", "/run/free"])?;
    program.wait()?;
    eventually("names are answered", || {
        says(&ask(&cluster, 1, "blue", "nobody.web")?, "NXDOMAIN", &[])?;
        let row = cluster.json(1, "endpoint inspect blue.web")?;
        ensure!(row["notice"].is_null(), "{row}");
        Ok(())
    })?;
    // Nothing holds the namespace when the container is no more.
    cluster.weft(1, "detach blue.web")?;
    eventually("the port is free", || {
        let argv = [inside.as_slice(), &["cat", "/proc/self/net/tcp"]].concat();
        let sockets = cluster.sh(1, &argv)?;
        ensure!(!sockets.contains(":0035 "), "{sockets}");
        Ok(())
    })
}

fn junk() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create web")?;
    let address = cluster.container(1, "web", "one")?;
    let exec = ["weft", "exec", "one", "--", PYTHON, "-c", JUNK];
    let answered = cluster.sh(1, &exec)?;
    ensure!(answered.trim() == "5", "{answered}");
    says(&ask(&cluster, 1, "one", "one")?, "NOERROR", &[&address])?;
    says(
        &ask(&cluster, 1, "one", "+tcp one")?,
        "NOERROR",
        &[&address],
    )?;
    eventually("it is counted", || {
        let queries = cluster.json(1, "status")?["dns"]["queries"].clone();
        ensure!(queries["malformed"].as_u64() >= Some(10), "{queries}");
        Ok(())
    })
}
