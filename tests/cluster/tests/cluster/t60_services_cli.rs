//! Services as the command line and the API know them: what is refused, and what is kept.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::eventually;
use weft_cluster_tests::picture::{Refused, all_refused};
use weft_cluster_tests::weft::probe_exe;

use crate::Case;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "services_cli::names_networks_and_members_that_cannot_be",
        names_networks_and_members,
    ),
    ("services_cli::ports_that_cannot_be_published", ports),
    (
        "services_cli::updates_that_cannot_be_and_what_is_not_built_yet",
        updates,
    ),
    ("services_cli::a_service_is_what_it_was_told_to_be", life),
    (
        "services_cli::a_dynamic_port_is_kept_over_updates",
        dynamic_ports,
    ),
    (
        "services_cli::updates_at_the_same_time_all_count",
        updates_at_the_same_time,
    ),
    (
        "services_cli::members_join_weigh_and_stay_when_the_service_goes",
        members,
    ),
    (
        "services_cli::what_may_come_into_a_ports_way_is_said",
        warnings,
    ),
];

/// Two hosts, two networks, and a service on the first that publishes two ports.
fn front() -> Result<Cluster> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.weft(1, "network create db")?;
    cluster.weft(
        1,
        "service create front --network web --publish 8080:80 --publish 5353:53/udp",
    )?;
    Ok(cluster)
}

/// `service create x` with further words.
fn create<'a>(words: &[&'a str]) -> Vec<&'a str> {
    [&["service", "create", "x"], words].concat()
}

/// Lines that are all refused on h1 and, those that the agent judges, on h2.
fn refused(cluster: &Cluster, lines: &[(Vec<&str>, i32, &[&str])]) -> Result<()> {
    let table: Vec<Refused<'_>> = lines
        .iter()
        .map(|(line, status, says)| (line.as_slice(), *status, *says))
        .collect();
    all_refused(cluster, 2, 1, &table)?;
    let judged: Vec<Refused<'_>> = table.into_iter().filter(|line| line.1 == 1).collect();
    all_refused(cluster, 2, 2, &judged)
}

fn names_networks_and_members() -> Result<()> {
    const FORM: &str = "a-z, 0-9 and -";
    let cluster = front()?;
    for host in 1..=2 {
        cluster.sh(host, &["ip", "netns", "add", "blue"])?;
    }
    let long = "x".repeat(64);
    let named = |name| vec!["service", "create", name, "--network", "web"];
    let attach = |words: &[&'static str]| {
        let line = ["attach", "db", "--netns", "/run/netns/blue"];
        [&line[..], words].concat()
    };
    let run = |words: &[&'static str]| {
        let line = ["run", "--network", "db"];
        [&line[..], words, &["--", "true"]].concat()
    };
    refused(
        &cluster,
        &[
            (named("front"), 1, &["front", "taken", "another"]),
            (named("Web"), 2, &["Web", "service name", FORM]),
            (named("a.b"), 2, &["a.b", FORM]),
            (named("a_b"), 2, &["a_b", FORM]),
            (named("trailing-"), 2, &["trailing-", FORM]),
            (named(&long), 2, &["1 to 63", FORM]),
            (named(""), 2, &[FORM]),
            (create(&[]), 2, &["--network"]),
            (
                create(&["--network", "nope"]),
                1,
                &["nope", "weft network ls"],
            ),
            (
                create(&["--network", "ingress"]),
                1,
                &["ingress", "published ports", "another"],
            ),
            (
                create(&["--network", "web", "--network", "web"]),
                1,
                &["web", "twice", "once"],
            ),
            (
                vec!["network", "rm", "web"],
                1,
                &["web", "service", "front"],
            ),
            (
                vec!["network", "rm", "ingress"],
                1,
                &["ingress", "8080/tcp", "front", "--publish-rm"],
            ),
            (
                vec!["service", "inspect", "nope"],
                1,
                &["nope", "weft service ls"],
            ),
            (
                vec!["service", "rm", "nope"],
                1,
                &["nope", "weft service ls"],
            ),
            (vec!["service", "rm"], 2, &["SERVICE"]),
            (
                vec!["wait", "--service", "nope"],
                1,
                &["nope", "weft service ls"],
            ),
            (
                attach(&["--service", "nope"]),
                1,
                &["nope", "weft service ls"],
            ),
            (
                attach(&["--service", "front"]),
                1,
                &["front", "network", "db"],
            ),
            (
                attach(&["--service", "front", "--weight", "65536"]),
                2,
                &["65536", "0 to 65535"],
            ),
            (
                attach(&["--service", "front", "--weight=-1"]),
                2,
                &["-1", "0 to 65535"],
            ),
            (attach(&["--weight", "2"]), 2, &["--service"]),
            (run(&["--service", "front"]), 1, &["front", "network", "db"]),
            (
                run(&["--network", "nope", "--service", "front"]),
                1,
                &["nope", "weft network ls"],
            ),
            (
                run(&["--network", "ingress", "--service", "front"]),
                1,
                &["front", "none of these networks", "web"],
            ),
            (
                vec!["endpoint", "update", "nope", "--weight", "1"],
                1,
                &["nope", "weft endpoint ls"],
            ),
            (
                vec!["endpoint", "update", "nope", "--weight", "65536"],
                2,
                &["65536", "0 to 65535"],
            ),
        ],
    )
}

fn ports() -> Result<()> {
    let cluster = front()?;
    let publish = |specs: &[&'static str]| {
        let mut words = vec!["--network", "web"];
        words.extend(specs.iter().flat_map(|spec| ["--publish", *spec]));
        create(&words)
    };
    let mut lines: Vec<(Vec<&str>, i32, &[&str])> = vec![(
        create(&[
            "--network",
            "web",
            "--endpoint-mode",
            "dnsrr",
            "-p",
            "80:80",
        ]),
        1,
        &["dnsrr", "vip", "mode=host"],
    )];
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["8080:81"], 1, &["8080/tcp", "service front"]),
        (&["5353:53/udp"], 1, &["5353/udp", "service front"]),
        (
            &["target=1,published=8080,mode=host"],
            1,
            &["8080/tcp", "service front"],
        ),
        (
            &["target=1,published=8080,ip=198.18.0.1"],
            1,
            &["8080/tcp", "service front"],
        ),
        (&["8079-8081:1-3"], 1, &["8080/tcp", "service front"]),
        (&["9000:80", "9000:81"], 1, &["9000/tcp", "twice", "once"]),
        (&["9000-9002:80-81"], 2, &["3", "2", "as many of both"]),
        (&["9001-9000:80-81"], 2, &["ends before it begins"]),
        (&["9000:80/sctp"], 2, &["sctp", "tcp or udp"]),
        (&["127.0.0.1:9000:80"], 2, &["ip=192.0.2.1"]),
        (&["0:80"], 2, &["1 to 65535"]),
        (&["65536:80"], 2, &["65536", "1 to 65535"]),
        (&["published=9000"], 2, &["target="]),
        (&["target=80,mode=mesh"], 2, &["mesh", "ingress or host"]),
        (
            &["target=80,ip=203.0.113.7"],
            1,
            &["203.0.113.7", "no node has", "weft node inspect"],
        ),
        (&["target=80,ip=0.0.0.0"], 2, &["ip="]),
        (&["target=80,allow-from=10.0.0.1/8"], 2, &["10.0.0.0/8"]),
        // What the cluster itself needs.
        (&["2377:80/udp"], 1, &["2377/udp", "control plane"]),
        (&["4789:80/udp"], 1, &["4789/udp", "tunnels"]),
        (&["1-1024:1-1024", "2000:80"], 1, &["1025", "1024"]),
        (&["target=80,source=proxy-v2,protocol=udp"], 2, &["TCP"]),
    ];
    lines.extend(
        cases
            .iter()
            .map(|(specs, status, says)| (publish(specs), *status, *says)),
    );
    let clients: String = (0..65)
        .map(|number| format!(",allow-from=10.0.{number}.0/24"))
        .collect();
    let crowd = format!("target=80{clients}");
    lines.push((
        create(&["--network", "web", "--publish", &crowd]),
        1,
        &["65", "64"],
    ));
    refused(&cluster, &lines)
}

fn updates() -> Result<()> {
    let cluster = front()?;
    cluster.weft(1, "service create back --network db --endpoint-mode dnsrr")?;
    let front = |words: &[&'static str]| [&["service", "update", "front"], words].concat();
    let back = |words: &[&'static str]| [&["service", "update", "back"], words].concat();
    refused(
        &cluster,
        &[
            (front(&[]), 2, &["nothing to change", "--help"]),
            (
                vec!["service", "update", "nope", "--scheduler", "rr"],
                1,
                &["nope", "weft service ls"],
            ),
            (front(&["--scheduler", "best"]), 2, &["best", "least-conn"]),
            (front(&["--affinity", "cookie"]), 2, &["client-ip=10m"]),
            (front(&["--drain-timeout", "2h"]), 2, &["1h"]),
            (front(&["--publish-rm", "9999"]), 1, &["9999/tcp", "front"]),
            (
                front(&["--publish-rm", "8080/udp"]),
                1,
                &["8080/udp", "front"],
            ),
            (
                front(&["--publish-add", "8080:81"]),
                1,
                &["8080/tcp", "twice"],
            ),
            (
                front(&["--publish-add", "8080-8081:81"]),
                2,
                &["as many of both"],
            ),
            (
                back(&["--publish-add", "8080:81"]),
                1,
                &["dnsrr", "mode=host"],
            ),
            (
                back(&["--publish-add", "target=81,published=8080,mode=host"]),
                1,
                &["8080/tcp", "service front"],
            ),
            (
                back(&["--publish-add", "target=81,ip=203.0.113.7,mode=host"]),
                1,
                &["203.0.113.7", "no node has"],
            ),
            (front(&["--network-add", "nope"]), 1, &["nope"]),
            (front(&["--network-add", "web"]), 1, &["web", "already"]),
            (front(&["--network-rm", "db"]), 1, &["db", "not on"]),
            (front(&["--network-rm", "web"]), 1, &["at least one"]),
            (
                front(&["--health-interval", "2s"]),
                1,
                &["front", "no health check", "--health"],
            ),
            (
                front(&["--health", "none", "--health-retries", "2"]),
                2,
                &["--health none"],
            ),
            (front(&["--health", "icmp"]), 2, &["tcp:PORT"]),
            (front(&["--label-add", "x"]), 2, &["KEY=VALUE"]),
            (front(&["--idle-timeout", "25d"]), 2, &["24d"]),
        ],
    )
}

fn life() -> Result<()> {
    let cluster = front()?;
    let line = "service create api --network web --network db --publish 9000-9001:90-91/udp \
                --publish target=443,published=9443,ip=198.18.0.2,source=snat,mode=host,\
                allow-from=192.0.2.0/24 --scheduler maglev --affinity client-ip=10m \
                --drain-timeout 1500ms --health http:80/healthz --health-interval 2s --label a=b";
    let id = cluster.weft(1, line)?;
    cluster.settle(1)?;
    let api = cluster.json(2, "service inspect api")?;
    ensure!(api["id"] == id.trim(), "{id} and {api}");
    let port = |published, target| {
        json!({
            "published": published, "target": target, "protocol": "udp", "mode": "ingress",
            "ip": null, "source": "preserve", "allow_from": [],
        })
    };
    let secure = json!({
        "published": 9443, "target": 443, "protocol": "tcp", "mode": "host",
        "ip": "198.18.0.2", "source": "snat", "allow_from": ["192.0.2.0/24"],
    });
    same(
        &api,
        "ports",
        json!([port(9000, 90), port(9001, 91), secure]),
    )?;
    same(&api, "scheduler", json!("maglev"))?;
    same(
        &api,
        "affinity",
        json!({"type": "client-ip", "timeout_s": 600}),
    )?;
    same(&api, "drain_timeout_ms", json!(1500))?;
    same(&api, "labels", json!({"a": "b"}))?;
    let health = json!({
        "probe": {"type": "http", "port": 80, "path": "/healthz"},
        "interval_ms": 2000, "timeout_ms": 1000, "retries": 3,
    });
    same(&api, "health", health)?;
    for (at, name) in ["web", "db"].into_iter().enumerate() {
        let network = &api["networks"][at];
        ensure!(
            network["name"] == name && network["vip"].is_string(),
            "{api}"
        );
    }
    let dns = "service create dns --network web --endpoint-mode dnsrr";
    cluster.weft(2, dns)?;
    let dns = cluster.json(2, "service inspect dns")?;
    ensure!(dns["networks"][0]["vip"].is_null(), "{dns}");
    same(&dns, "scheduler", json!("rr"))?;
    same(&dns, "affinity", json!({"type": "none"}))?;
    same(&dns, "drain_timeout_ms", json!(10_000))?;
    same(&dns, "health", Value::Null)?;
    changes(&cluster)
}

fn changes(cluster: &Cluster) -> Result<()> {
    cluster.settle(2)?;
    let before = cluster.json(1, "service inspect api")?;
    let line = "service update api --publish-rm 9000-9001/udp --publish-add 9000:99 \
                --scheduler wrr --affinity none --health-retries 5 --drain-timeout 2s \
                --network-rm db --label-add c=d --label-rm a";
    let printed = cluster.weft(2, line)?;
    ensure!(printed == "api\n", "{printed:?}");
    let after = cluster.json(2, "service inspect api")?;
    let numbers: Vec<_> = after["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| (port["published"].as_u64(), port["protocol"].as_str()))
        .collect();
    ensure!(
        numbers == [(Some(9443), Some("tcp")), (Some(9000), Some("tcp"))],
        "{after}"
    );
    same(&after, "scheduler", json!("wrr"))?;
    same(&after, "affinity", json!({"type": "none"}))?;
    same(&after, "drain_timeout_ms", json!(2000))?;
    same(&after, "labels", json!({"c": "d"}))?;
    same(&after, "id", before["id"].clone())?;
    same(&after, "networks", json!([before["networks"][0]]))?;
    let mut health = before["health"].clone();
    health["retries"] = json!(5);
    same(&after, "health", health)?;
    cluster.weft(2, "service update api --health none")?;
    let after = cluster.json(2, "service inspect api")?;
    same(&after, "health", Value::Null)?;
    // What one service gave up another may have.
    cluster.weft(2, "service create other --network db --publish 9001:1/udp")?;
    let printed = cluster.weft(2, "service rm other api dns")?;
    ensure!(printed == "other\napi\ndns\n", "{printed:?}");
    let left = cluster.json(2, "service ls")?;
    ensure!(left.as_array().is_some_and(|all| all.len() == 1), "{left}");
    cluster.weft(2, "network rm db")?;
    Ok(())
}

fn same(object: &Value, field: &str, wanted: Value) -> Result<()> {
    ensure!(
        object[field] == wanted,
        "{field} is {} and not {wanted}",
        object[field]
    );
    Ok(())
}

fn published(cluster: &Cluster, host: usize, service: &str) -> Result<Vec<u64>> {
    let service = cluster.json(host, &format!("service inspect {service}"))?;
    let ports = service["ports"].as_array().context("no ports")?;
    let numbers = ports.iter().map(|port| port["published"].as_u64());
    numbers.collect::<Option<_>>().context("no number")
}

fn dynamic_ports() -> Result<()> {
    let cluster = front()?;
    cluster.weft(1, "service create a --network web -p 80 -p 81")?;
    cluster.weft(1, "service create b --network web -p 80")?;
    ensure!(published(&cluster, 1, "a")? == [30_000, 30_001], "a");
    ensure!(published(&cluster, 1, "b")? == [30_002], "b");
    cluster.weft(1, "service update a --scheduler wrr --publish-add 82")?;
    ensure!(
        published(&cluster, 1, "a")? == [30_000, 30_001, 30_003],
        "a"
    );
    // Taken back and asked for again at once, it is the same; UDP has numbers of its own.
    cluster.weft(
        1,
        "service update a --publish-rm 30000-30001 --publish-add 81 --publish-add 80/udp",
    )?;
    ensure!(
        published(&cluster, 1, "a")? == [30_003, 30_001, 30_000],
        "{:?}",
        published(&cluster, 1, "a")?
    );
    Ok(())
}

fn updates_at_the_same_time() -> Result<()> {
    let cluster = front()?;
    cluster.settle(1)?;
    let mut running = Vec::new();
    for number in 0..8 {
        let spec = format!("{}:80", 9000 + number);
        let line = ["weft", "service", "update", "front", "--publish-add", &spec];
        running.push(cluster.spawn(1 + number % 2, &line)?);
    }
    for update in running {
        let ran = update.wait()?;
        ensure!(ran.status == 0, "{ran:?}");
    }
    cluster.settle(1)?;
    let mut ports = published(&cluster, 1, "front")?;
    ports.sort_unstable();
    let wanted: Vec<u64> = [5353, 8080].into_iter().chain(9000..9008).collect();
    ensure!(ports == wanted, "{ports:?}");
    Ok(())
}

fn members() -> Result<()> {
    let cluster = front()?;
    cluster.weft(
        1,
        "run --network web --service front --name a --detach -- sleep infinity",
    )?;
    cluster.weft(
        2,
        "run --network web --network db --service front --weight 3 --name b --detach -- \
         sleep infinity",
    )?;
    cluster.settle(2)?;
    let of = |host, name: &str| cluster.json(host, &format!("endpoint inspect {name}"));
    let a = of(2, "a.web")?;
    ensure!(a["service"] == "front" && a["weight"] == 1, "{a}");
    ensure!(a["backend"].is_string(), "{a}");
    let b = of(1, "b.web")?;
    ensure!(b["service"] == "front" && b["weight"] == 3, "{b}");
    let elsewhere = of(1, "b.db")?;
    ensure!(
        elsewhere["service"].is_null() && elsewhere["backend"].is_null(),
        "{elsewhere}"
    );
    // From the host where it is not.
    let printed = cluster.weft(1, "endpoint update b.web --weight 0")?;
    ensure!(b["id"] == printed.trim(), "{printed}");
    cluster.weft(1, "wait --service front --timeout 60s")?;
    let front = cluster.json(2, "service inspect front")?;
    let listed: Vec<_> = front["endpoints"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            let weight = one["weight"].as_u64();
            (text("name"), text("node"), text("network"), weight)
        })
        .collect();
    let member = |name: &str, node: &str, weight| {
        let (name, node) = (name.to_owned(), node.to_owned());
        (name, node, "web".to_owned(), Some(weight))
    };
    ensure!(
        listed == [member("a", "h1", 1), member("b", "h2", 0)],
        "{front}"
    );
    cluster.refused(1, "service update front --network-rm web", 1, &["web"])?;
    // Without the service they go on.
    cluster.weft(2, "service rm front")?;
    for name in ["a.web", "b.web"] {
        let endpoint = of(2, name)?;
        ensure!(
            endpoint["service"].is_null() && endpoint["backend"].is_null(),
            "{endpoint}"
        );
    }
    Ok(())
}

fn warnings() -> Result<()> {
    let cluster = front()?;
    let probe = probe_exe()?;
    let probe = probe.to_str().context("a path that is not UTF-8")?;
    let _listening = cluster.spawn(1, &[probe, "serve", "host", "7777"])?;
    eventually("a program of the host listens", || {
        cluster.client(1).tcp("127.0.0.1", 7777, 1)
    })?;
    let warned = |host, args: &str, says: &[&str]| -> Result<String> {
        let ran = cluster.try_weft(host, args)?;
        ensure!(ran.status == 0, "{args}: {ran:?}");
        // What other nodes say may come in time, or not.
        let own = format!("weft: warning: h{host}: ");
        let lines: Vec<&str> = { ran.stderr.lines() }
            .filter(|line| line.starts_with(&own))
            .collect();
        ensure!(lines.len() == says.len(), "{args}: {ran:?}");
        for (line, say) in lines.iter().zip(says) {
            ensure!(line.contains(say), "{args}: {line}");
        }
        Ok(ran.stdout)
    };
    let range = cluster.sh(1, &["cat", "/proc/sys/net/ipv4/ip_local_port_range"])?;
    let first = range.split_whitespace().next().context("no range")?;
    let create = |name: &str, spec: &str| format!("service create {name} --network web -p {spec}");
    let printed = warned(1, &create("a", "7777:80"), &["port 7777/tcp"])?;
    let id = cluster.json(1, "service inspect a")?["id"].clone();
    ensure!(id == printed.trim(), "{printed}");
    warned(1, &create("b", "7777:80/udp"), &["port 7777/udp"])?;
    warned(1, &create("c", "7778:80"), &[])?;
    let handed_out = format!("port {first}/tcp");
    warned(1, &create("d", &format!("{first}:80")), &[&handed_out])?;
    warned(1, &create("e", "80"), &[])?;
    // Only what is new is told of, and of the host that is asked.
    warned(1, "service update a --publish-add 7779:80", &[])?;
    warned(1, "service rm a", &[])?;
    warned(2, &create("a", "7777:80"), &[])?;
    Ok(())
}
