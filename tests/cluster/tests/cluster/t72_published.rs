//! Published ports in every way that they can be asked, when they change hands, and beside other
//! people's packet filters.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use weft_cluster_tests::backend::{Answer, Client, spread};
use weft_cluster_tests::cluster::OUTSIDE;
use weft_cluster_tests::eventually;
use weft_cluster_tests::talk::Talk;

use crate::Case;
use crate::site::{HOSTS, PORT, PUBLISHED, Site, rounded, underlay};

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "published::every_node_answers_everybody_over_both_families_and_protocols",
        every_way,
    ),
    (
        "published::ports_of_a_service_that_is_gone_serve_another",
        ports_change_hands,
    ),
    (
        "published::host_mode_is_where_the_backends_are_and_they_are_replaced",
        host_mode,
    ),
    (
        "published::other_packet_filters_are_reloaded_and_left_alone",
        other_filters,
    ),
    (
        "published::streams_of_datagrams_follow_their_backends",
        streams_of_datagrams,
    ),
];

/// The same with `source=snat`.
const REWRITTEN: u16 = 8081;
/// Requests a second while something changes.
const RATE: u32 = 50;

/// An address of a host on the underlay, of the family that is asked for.
fn address(host: usize, v6: bool) -> String {
    match (v6, host) {
        (true, OUTSIDE) => "fd00:18::fe".to_owned(),
        (true, host) => format!("fd00:18::{host}"),
        (false, OUTSIDE) => "198.18.0.254".to_owned(),
        (false, host) => underlay(host),
    }
}

/// Asks both ports over TCP and UDP; the answers of the first, and of the one with `source=snat`.
fn both(client: &Client<'_>, to: &str) -> Result<[Vec<Answer>; 2]> {
    let ask = |port| -> Result<Vec<Answer>> {
        let tcp = client.tcp(to, port, 2);
        let udp = client.udp(to, port, 2);
        let tcp = tcp.with_context(|| format!("{to} port {port}, TCP"))?;
        let udp = udp.with_context(|| format!("{to} port {port}, UDP"))?;
        Ok([tcp, udp].concat())
    };
    Ok([ask(PUBLISHED)?, ask(REWRITTEN)?])
}

fn every_way() -> Result<()> {
    let plain = format!("--publish {PUBLISHED}:{PORT} --publish {PUBLISHED}:{PORT}/udp");
    let snat = ["tcp", "udp"].map(|protocol| {
        format!(" --publish published={REWRITTEN},target={PORT},source=snat,protocol={protocol}")
    });
    let site = Site::open(&(plain + &snat.concat()), &[(2, "b")])?;
    let mut of_hosts = String::new();
    for host in [1, 2, 3, OUTSIDE] {
        let own = format!("{}/64", address(host, true));
        let add = ["ip", "-6", "addr", "add", &own, "dev", "eth0", "nodad"];
        site.cluster.sh(host, &add)?;
    }
    for host in HOSTS {
        of_hosts += &site.cluster.sh(host, &["ip", "-o", "addr"])?;
    }
    let of_a_host = |peer: IpAddr| of_hosts.contains(&format!(" {peer}/"));
    let mut ways = 0;
    for v6 in [false, true] {
        for entry in HOSTS {
            for from in [OUTSIDE, 1, 2, 3] {
                // The cluster does not know these addresses of its hosts: one that speaks to its own
                // backend by way of another host is not told from a stranger.
                if v6 && from == 2 && entry != 2 {
                    continue;
                }
                let (to, own) = (address(entry, v6), address(from, v6).parse::<IpAddr>()?);
                let way = || format!("h{from} to {to}");
                let client = site.cluster.client(from);
                let [plain, snat] = both(&client, &to).with_context(way)?;
                let mut all = plain.iter().chain(&snat);
                ensure!(all.all(|answer| answer.name == "b"), "{}: {plain:?}", way());
                // What a host asks of its own backend is seen as from the host.
                let seen = |answer: &Answer| match from {
                    2 => of_a_host(answer.peer),
                    _ => answer.peer == own,
                };
                ensure!(plain.iter().all(seen), "{}: {plain:?}", way());
                let rewritten = |answer: &Answer| {
                    of_a_host(answer.peer) && (from != OUTSIDE || answer.peer != own)
                };
                ensure!(snat.iter().all(rewritten), "{}: {snat:?}", way());
                ways += 4;
            }
            let to = if v6 { "::1" } else { "127.0.0.1" };
            let client = site.cluster.client(entry);
            let answers = both(&client, to).with_context(|| format!("h{entry} to {to}"))?;
            let right = |answer: &Answer| answer.name == "b" && of_a_host(answer.peer);
            ensure!(answers.iter().flatten().all(right), "{to}: {answers:?}");
            ways += 4;
        }
    }
    println!("    answered in {ways} ways");
    Ok(())
}

fn ports_change_hands() -> Result<()> {
    let ports = format!("--publish {PUBLISHED}:{PORT} --publish {REWRITTEN}:{PORT}");
    let mut site = Site::open(&ports, &[(1, "a"), (2, "b")])?;
    let asking = [1, 3].map(|host| site.load("tcp", host, RATE));
    for change in [
        "--publish-rm 8081 --publish-add 8082:80",
        "--publish-rm 8082 --publish-add 8081:80",
    ] {
        site.cluster
            .weft(3, &format!("service update web {change}"))?;
        site.settle(3)?;
        for host in HOSTS {
            site.outside().tcp(&underlay(host), PUBLISHED, 10)?;
        }
    }
    for asking in asking {
        asking?.finish()?.none_failed()?;
    }
    site.leave("a")?;
    site.cluster.weft(2, "service rm web")?;
    // What was another's port is the first's here, and the other way round.
    let create = format!("service create web --network app --publish {REWRITTEN}:{PORT} {ports}");
    site.cluster.refused(2, &create, 1, &["8081"])?;
    let create = format!("service create web --network app {ports}");
    site.cluster.weft(2, &create)?;
    site.join(3, "new")?;
    for host in HOSTS {
        for port in [PUBLISHED, REWRITTEN] {
            let answers = site.outside().tcp(&underlay(host), port, 5)?;
            let new = answers.iter().all(|answer| answer.name == "new");
            ensure!(new, "h{host} port {port}: {answers:?}");
        }
    }
    Ok(())
}

/// The only backend of a host that answers there.
fn answers_there(site: &Site, host: usize, name: &str) -> Result<()> {
    for (client, to) in [(OUTSIDE, underlay(host)), (host, "127.0.0.1".to_owned())] {
        let answers = site.cluster.client(client).tcp(&to, PUBLISHED, 4)?;
        let right = answers.iter().all(|answer| answer.name == name);
        ensure!(right, "{to} is not {name}: {answers:?}");
    }
    Ok(())
}

fn refuses(site: &Site, host: usize) -> Result<()> {
    let Err(refused) = site.outside().tcp(&underlay(host), PUBLISHED, 1) else {
        anyhow::bail!("h{host} answers");
    };
    let refused = refused.to_string();
    ensure!(refused.contains("refused"), "h{host}: {refused}");
    Ok(())
}

fn host_mode() -> Result<()> {
    let publish = format!("--publish published={PUBLISHED},target={PORT},mode=host");
    let mut site = Site::open(&publish, &[(1, "a0"), (2, "b0")])?;
    let asking = site.load("tcp", 1, RATE)?;
    for round in 0..3 {
        let old = |letter: &str| format!("{letter}{round}");
        let new = |letter: &str| format!("{letter}{}", round + 1);
        answers_there(&site, 1, &old("a"))?;
        answers_there(&site, 2, &old("b"))?;
        refuses(&site, 3)?;
        // Both want the same port of the host for a while.
        site.join(1, &new("a"))?;
        site.leave(&old("a"))?;
        site.leave(&old("b"))?;
        refuses(&site, 2)?;
        site.join(2, &new("b"))?;
    }
    answers_there(&site, 2, "b3")?;
    asking.finish()?.none_failed()
}

/// As a distribution's `/etc/nftables.conf` begins and goes on.
const FIREWALL: &str = "flush ruleset
table inet filter {
    set admins { type ipv4_addr; elements = { 192.0.2.1 } }
    chain input { type filter hook input priority filter; policy accept;
        ct state invalid drop
        tcp dport 22 ip saddr @admins accept
    }
    chain forward { type filter hook forward priority filter; policy accept; }
}
table ip nat {
    chain prerouting { type nat hook prerouting priority dstnat; policy accept;
        tcp dport 2222 dnat to 192.0.2.2:22
    }
    chain postrouting { type nat hook postrouting priority srcnat; policy accept; }
}
";
const LOAD_FIREWALL: &str = "nft -f /run/firewall.nft";

/// What others have in a host's packet filter.
fn of_others(site: &Site, host: usize) -> Result<String> {
    let filter = ["nft", "list", "table", "inet", "filter"];
    let nat = ["nft", "list", "table", "ip", "nat"];
    Ok(site.cluster.sh(host, &filter)? + &site.cluster.sh(host, &nat)?)
}

fn other_filters() -> Result<()> {
    // The third host's is there for the time that the second counts as down.
    let backends = [(2, "b0"), (3, "c")];
    let mut site = Site::open(&format!("--publish {PUBLISHED}:{PORT}"), &backends)?;
    let write = format!("printf '%s' '{FIREWALL}' > /run/firewall.nft");
    for host in HOSTS {
        site.cluster.sh(host, &["sh", "-c", &write])?;
    }
    let load = |site: &Site| -> Result<()> {
        for host in HOSTS {
            site.cluster.sh(host, &["sh", "-c", LOAD_FIREWALL])?;
        }
        Ok(())
    };
    let asking = [1, 2].map(|host| site.load("tcp", host, RATE));
    load(&site)?;
    let theirs = of_others(&site, 2)?;
    for _ in 0..10 {
        load(&site)?;
    }
    // Neither what weft changes nor an agent's end and start is their business.
    site.join(2, "b1")?;
    site.leave("b0")?;
    site.restart_agent(2)?;
    for asking in asking {
        asking?.finish()?.none_failed()?;
    }
    ensure!(of_others(&site, 2)? == theirs, "{}", of_others(&site, 2)?);
    // Without an agent nobody protects the rules: they are gone, and made again by the next one.
    for host in [1, 2] {
        let agent = site.cluster.host(host)?;
        agent.kill_agent()?;
        eventually("the rules are gone", || {
            site.cluster.sh(host, &["sh", "-c", LOAD_FIREWALL])?;
            let tables = site.cluster.sh(host, &["nft", "list", "tables"])?;
            ensure!(!tables.contains("weft"), "{tables}");
            Ok(())
        })?;
        agent.start_agent()?;
        agent.wait_ready(weft_cluster_tests::PATIENCE)?;
        eventually("it answers again", || {
            let answers = site.outside().tcp(&underlay(host), PUBLISHED, 10)?;
            ensure!(spread(&answers).len() == 2, "{answers:?}");
            Ok(())
        })?;
    }
    ensure!(of_others(&site, 2)? == theirs, "{}", of_others(&site, 2)?);
    Ok(())
}

/// Who answers the next datagram of a stream.
fn asked(stream: &mut Talk) -> Result<String> {
    stream.tell()?;
    let line = stream.line()?;
    Ok(line.split(' ').next().unwrap_or_default().to_owned())
}

fn streams_of_datagrams() -> Result<()> {
    let options = format!("--publish {PUBLISHED}:{PORT}/udp --drain-timeout 500ms");
    let mut site = Site::open(&options, &[(2, "b0")])?;
    let mut streams = Vec::new();
    // The second host has the backend, the others none.
    for host in HOSTS {
        let published = site.outside().hold_udp(&underlay(host), PUBLISHED)?;
        streams.push((format!("through h{host}"), published));
        let inside = site.inside(host).hold_udp(&site.vip, PORT)?;
        streams.push((format!("in h{host}"), inside));
    }
    // To another host, back, and within one.
    for (round, host) in [3, 2, 2].into_iter().enumerate() {
        let (old, new) = (format!("b{round}"), format!("b{}", round + 1));
        for (way, stream) in &mut streams {
            ensure!(asked(stream)? == old, "{way} not by {old}");
        }
        site.join(host, &new)?;
        for (way, stream) in &mut streams {
            ensure!(asked(stream)? == old, "{way} has left {old} early");
        }
        site.leave(&old)?;
        let gone = Instant::now();
        for (way, stream) in &mut streams {
            eventually(&format!("{way}: {new} answers"), || {
                let name = asked(stream)?;
                ensure!(name == new, "{name}");
                Ok(())
            })?;
        }
        let took = rounded(gone.elapsed());
        println!(
            "    {} streams with another {took:?} after the end",
            streams.len()
        );
    }
    Ok(())
}
