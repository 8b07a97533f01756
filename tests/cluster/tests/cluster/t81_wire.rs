//! What is on the wire of encrypted networks, and what comes from it that no member has sealed.
//!
//! On a machine where `/dev/net/tun` is root's alone, an ordinary user's data path cannot start. Then the
//! cases are that nothing leaves and that it is said why.

use std::fs::OpenOptions;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::{Cable, PingSpec};
use weft_cluster_tests::cluster::{Cluster, OUTSIDE, options};
use weft_cluster_tests::forge::{self, End};
use weft_cluster_tests::talk::Talk;
use weft_cluster_tests::wiretap::{CLEAR, ESP, INNER, Wiretap};
use weft_cluster_tests::{PATIENCE, eventually};

use crate::Case;
use crate::secret::options_with;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "wire::the_search_finds_what_is_in_clear_and_forged_frames_arrive",
        the_search_finds_what_is_in_clear,
    ),
    (
        "wire::nothing_is_in_clear_and_nothing_lost_while_keys_change_and_agents_are_killed",
        nothing_is_in_clear,
    ),
    (
        "wire::clear_frames_of_members_and_strangers_are_dropped_and_counted",
        clear_frames_are_dropped,
    ),
    (
        "wire::replayed_and_damaged_packets_are_dropped_by_cause",
        replayed_and_damaged_packets,
    ),
    (
        "wire::a_node_that_was_away_while_keys_changed_is_reached_again",
        a_node_that_was_away,
    ),
    (
        "wire::with_another_data_path_port_it_is_the_same",
        another_data_path_port,
    ),
];

/// What pings carry, and what transfers do.
const PING: &[u8] = &[0x77; 32];
const TRANSFER: &[u8] = &[0x5a; 64];
const HEARD: u16 = 9999;
const SERVED: u16 = 7001;

/// A cluster with the encrypted network `web`, and a container on each host: `c1`, `c2`, ..
struct Sealed {
    cluster: Cluster,
    vni: u32,
    containers: Vec<Ipv4Addr>,
}

impl Sealed {
    /// Nothing if this user's agents can have no data path, after it was seen that they say so.
    fn open(hosts: usize, agent_args: &[&str]) -> Result<Option<Self>> {
        Self::on(Cluster::with(&options_with(hosts, agent_args)?)?, hosts)
    }

    fn on(cluster: Cluster, hosts: usize) -> Result<Option<Self>> {
        let tap = Wiretap::start(&cluster, 1, "eth0", &[PING])?;
        cluster.weft(1, "network create web --encrypted")?;
        let mut containers = Vec::new();
        for host in 1..=hosts {
            let created = format!("run --network web --name c{host} --detach -- sleep infinity");
            let ran = cluster.try_weft(host, &created)?;
            ensure!(ran.status == 0 || !may_open_the_device(), "{ran:?}");
            let address = cluster.address(host, &format!("c{host}.web"));
            containers.extend(
                address
                    .ok()
                    .and_then(|address| address.parse::<Ipv4Addr>().ok()),
            );
        }
        let nothing_clear = |tap: Wiretap| {
            let seen = tap.stop()?;
            ensure!(seen.patterns == 0 && seen.inner == 0, "{seen:?}");
            Ok(())
        };
        if !may_open_the_device() {
            eventually("it is said why nothing is carried", || {
                let problems = cluster.json(1, "status")?["problems"].to_string();
                ensure!(problems.contains("/dev/net/tun"), "{problems}");
                Ok(())
            })?;
            nothing_clear(tap)?;
            return Ok(None);
        }
        let network = cluster.json(1, "network inspect web")?;
        let vni = u32::try_from(network["vni"].as_u64().context("no vni")?)?;
        let sealed = Self {
            cluster,
            vni,
            containers,
        };
        for host in 1..=hosts {
            sealed.protected(host, hosts - 1)?;
        }
        sealed.cluster.settle(1)?;
        nothing_clear(tap)?;
        Ok(Some(sealed))
    }

    /// Waits until a host has keys with so many others.
    fn protected(&self, host: usize, others: usize) -> Result<()> {
        eventually(&format!("h{host} has keys"), || {
            let peers = self.encryption(host)?["peers"].take();
            let peers = peers.as_array().context("no peers")?;
            let all = peers.iter().all(|peer| peer["state"] == "protected");
            ensure!(all && peers.len() == others, "{peers:?}");
            Ok(())
        })
    }

    fn encryption(&self, host: usize) -> Result<Value> {
        Ok(self.cluster.json(host, "status")?["encryption"].take())
    }

    /// What a host says of the other one.
    fn peer(&self, host: usize, other: usize) -> Result<Value> {
        let encryption = self.encryption(host)?;
        let peers = encryption["peers"].as_array().context("no peers")?;
        let found = peers
            .iter()
            .find(|peer| peer["name"] == format!("h{other}"));
        found
            .cloned()
            .with_context(|| format!("no h{other}: {encryption}"))
    }

    /// The number of the key that a host seals with for the other.
    fn epoch(&self, host: usize, other: usize) -> Result<u64> {
        self.peer(host, other)?["epoch_out"]
            .as_u64()
            .context("no key")
    }

    /// Waits until a host has had so many more keys for the other.
    fn rekeyed(&self, host: usize, other: usize, more: u64) -> Result<()> {
        let before = self.epoch(host, other)?;
        eventually("keys change", || {
            let now = self.epoch(host, other)?;
            ensure!(now >= before + more, "{before}, now {now}");
            Ok(())
        })
    }

    /// Two changes of keys, and one more after each host's agent was killed and came back.
    fn keys_change_and_agents_die(&self) -> Result<()> {
        self.rekeyed(1, 2, 2)?;
        for host in [1, 2] {
            let killed = self.cluster.host(host)?;
            killed.kill_agent()?;
            killed.start_agent()?;
            killed.wait_ready(PATIENCE)?;
            self.protected(host, 1)?;
            self.rekeyed(1, 2, 1)?;
        }
        Ok(())
    }

    fn ends(&self) -> Result<[End; 2]> {
        let end = |host| End::of(&self.cluster, host, "eth0");
        Ok([end(1)?, end(2)?])
    }

    /// Pings from `c1` to `c2`; how many were lost.
    fn ping(&self, times: u32) -> Result<u64> {
        let spec = PingSpec::once(self.containers[1]).times(times, 2_000);
        let report = self.cluster.host(1)?.ping(Some("c1.web"), &spec)?;
        Ok(report.lost)
    }

    /// A probe in `c2` that tells the datagrams it gets.
    fn hear(&self) -> Result<Talk> {
        let port = HEARD.to_string();
        let through = ["weft", "exec", "c2.web", "--"];
        Talk::start(&self.cluster, 2, &through, &["hear", &port])
    }

    /// That the next datagram which arrives there is one that `c1` sends by the network.
    fn hears_only_its_own(&self, heard: &mut Talk) -> Result<()> {
        let (to, port) = (self.containers[1].to_string(), HEARD.to_string());
        let through = ["weft", "exec", "c1.web", "--"];
        let said = Talk::begin(&self.cluster, 1, &through, &["say", &to, &port, "sealed"])?;
        let line = heard.line()?;
        ensure!(line == "sealed", "{line:?} arrived");
        drop(said);
        Ok(())
    }
}

fn may_open_the_device() -> bool {
    OpenOptions::new().write(true).open("/dev/net/tun").is_ok()
}

/// A datagram that says so, from one container to another.
fn inner(from: Ipv4Addr, to: Ipv4Addr, text: &str) -> Result<Vec<u8>> {
    let ends = (End::of_container(from), End::of_container(to));
    forge::datagram(ends.0, ends.1, (HEARD, HEARD), text.as_bytes())
}

/// What the other cases rely on, where nothing is encrypted: otherwise they might not find what they
/// look for because they look wrongly.
fn the_search_finds_what_is_in_clear() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    let a: Ipv4Addr = cluster.container(1, "web", "a")?.parse()?;
    let b: Ipv4Addr = cluster.container(2, "web", "b")?.parse()?;
    cluster.settle(1)?;
    let vni = cluster.json(1, "network inspect web")?["vni"].as_u64();
    let vni = u32::try_from(vni.context("no vni")?)?;
    let tap = Wiretap::start(&cluster, 2, "eth0", &[PING, b"never said"])?;
    let report = cluster
        .host(1)?
        .ping(Some("a.web"), &PingSpec::once(b).times(5, 1000))?;
    ensure!(report.lost == 0, "{report:?}");
    let seen = tap.stop()?;
    ensure!(
        seen.patterns >= 10 && seen.clear >= 10 && seen.esp == 0 && seen.inner == 0,
        "{seen:?}"
    );
    ensure!(seen.is_sealed().is_err() && seen.esp_frames().is_empty());

    let (h1, h2) = (End::of(&cluster, 1, "eth0")?, End::of(&cluster, 2, "eth0")?);
    let port = HEARD.to_string();
    let mut heard = Talk::start(
        &cluster,
        2,
        &["weft", "exec", "b.web", "--"],
        &["hear", &port],
    )?;
    let forged = forge::vxlan(h1, h2, CLEAR, vni, &inner(a, b, "forged")?)?;
    forge::send(&cluster, 1, "eth0", &[forged])?;
    ensure!(heard.line()? == "forged");
    Ok(())
}

fn nothing_is_in_clear() -> Result<()> {
    nothing_is_in_clear_with(&["--rekey=1s"])
}

pub(crate) fn nothing_is_in_clear_with(agent_args: &[&str]) -> Result<()> {
    let Some(sealed) = Sealed::open(2, agent_args)? else {
        return Ok(());
    };
    let cluster = &sealed.cluster;
    let taps = [1, 2].map(|host| Wiretap::start(cluster, host, "eth0", &[PING, TRANSFER]));
    // Not at the same time as a transfer, which fills queues until something is dropped.
    let endless = PingSpec::once(sealed.containers[1]).endless(10_000);
    let pings = cluster.host(1)?.start_ping(Some("c1.web"), &endless)?;
    sealed.keys_change_and_agents_die()?;
    let report = pings.finish()?;
    ensure!(report.lost == 0 && report.received > 0, "{report:?}");

    let at = format!("{}:{SERVED}", sealed.containers[1]);
    let through = |name| ["weft", "exec", name, "--"];
    let mut served = Talk::start(cluster, 2, &through("c2.web"), &["tcp-serve", &at])?;
    let send = ["tcp-send", at.as_str(), "5"];
    let mut sent = Talk::begin(cluster, 1, &through("c1.web"), &send)?;
    sealed.keys_change_and_agents_die()?;
    let line = sent.line()?;
    let (bytes, _) = line.split_once(' ').context("no figures")?;
    ensure!(served.line()? == bytes, "not all that was sent arrived");
    for tap in taps {
        let seen = tap?.stop()?;
        seen.is_sealed()?;
        ensure!(seen.clear == 0, "{seen:?}");
    }
    Ok(())
}

fn clear_frames_are_dropped() -> Result<()> {
    clear_frames_are_dropped_with(&[])
}

pub(crate) fn clear_frames_are_dropped_with(agent_args: &[&str]) -> Result<()> {
    let Some(sealed) = Sealed::open(2, agent_args)? else {
        return Ok(());
    };
    let cluster = &sealed.cluster;
    // A network with this node alone, and an administrator who lets everything in.
    cluster.weft(2, "network create alone --encrypted")?;
    cluster.container(2, "alone", "d")?;
    cluster.settle(1)?;
    let alone = cluster.json(2, "network inspect alone")?["vni"].as_u64();
    let alone = u32::try_from(alone.context("no vni")?)?;
    for command in [
        "nft add table inet admin",
        "nft add chain inet admin in { type filter hook input priority -500 ; policy accept ; }",
        "nft add rule inet admin in accept",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        cluster.sh(2, &words)?;
    }
    let mut heard = sealed.hear()?;
    let [member, victim] = sealed.ends()?;
    let stranger = End::of(cluster, OUTSIDE, "eth0")?;
    let [a, b] = [sealed.containers[0], sealed.containers[1]];
    let from = |end: End, port, vni| forge::vxlan(end, victim, port, vni, &inner(a, b, "forged")?);
    let before = forge::guarded(cluster, 2, "drop-in")?;
    let of_member = [
        from(member, INNER, sealed.vni)?,
        from(member, INNER, alone)?,
        from(member, CLEAR, sealed.vni)?,
    ];
    forge::send(cluster, 1, "eth0", &of_member)?;
    let of_stranger = [
        from(stranger, INNER, sealed.vni)?,
        from(stranger.called(member.ip), INNER, sealed.vni)?,
        from(stranger.called(member.ip), INNER, alone)?,
        from(stranger, CLEAR, sealed.vni)?,
        from(stranger.called(member.ip), CLEAR, sealed.vni)?,
    ];
    forge::send(cluster, OUTSIDE, "eth0", &of_stranger)?;
    eventually("all to the port of encrypted networks are counted", || {
        let count = forge::guarded(cluster, 2, "drop-in")? - before;
        ensure!(count == 5, "{count}");
        Ok(())
    })?;
    eventually("status says so", || {
        let encryption = sealed.encryption(2)?;
        ensure!(encryption["clear_dropped_in"] == before + 5, "{encryption}");
        Ok(())
    })?;
    sealed.hears_only_its_own(&mut heard)
}

/// Where a packet of ESP begins in a frame of IPv4 without options.
const AT: usize = 14 + 20 + 8;

fn replayed_and_damaged_packets() -> Result<()> {
    replayed_and_damaged_packets_with(&[])
}

pub(crate) fn replayed_and_damaged_packets_with(agent_args: &[&str]) -> Result<()> {
    let Some(sealed) = Sealed::open(2, agent_args)? else {
        return Ok(());
    };
    let cluster = &sealed.cluster;
    let tap = Wiretap::start(cluster, 2, "eth0", &[PING])?;
    // One by one: packets that wait together are one super-packet on this wire.
    for _ in 0..12 {
        ensure!(sealed.ping(1)? == 0);
    }
    let seen = tap.stop()?;
    seen.is_sealed()?;
    let [h1, h2] = sealed.ends()?;
    // Those of pings, not the keepalives of data paths and address translators, which are shorter.
    let is_ping = |frame: &&Vec<u8>| frame[..6] == h2.mac && frame.len() > AT + 64;
    let captured = seen.esp_frames();
    let packets: Vec<&[u8]> = captured.iter().filter(is_ping).map(|f| &f[AT..]).collect();
    ensure!(
        packets.len() >= 10,
        "{} packets were captured",
        packets.len()
    );

    let again = |packet: &[u8]| forge::datagram(h1, h2, (ESP, ESP), packet);
    let mut heard = sealed.hear()?;
    let before = Counted::at(&sealed)?;
    let mut frames = Vec::new();
    for packet in &packets[..10] {
        frames.push(again(packet)?);
    }
    let one = packets[0];
    for at in [8, 20, one.len() - 1] {
        // With a sequence number that was not received yet: else it is a replay.
        let ahead = forge::flipped(one, 5);
        frames.push(again(&forge::flipped(&ahead, at))?);
    }
    let ahead = forge::flipped(one, 5);
    frames.push(again(&ahead[..ahead.len() - 4])?);
    frames.push(again(&forge::flipped(one, 3))?);
    frames.push(again(&one[..one.len() - 1])?);
    frames.push(again(&one[..20])?);
    frames.push(again(&one[..3])?);
    forge::send(cluster, 1, "eth0", &frames)?;
    eventually("each is counted by its cause", || {
        let now = Counted::at(&sealed)?;
        let expected = Counted {
            replayed: before.replayed + 10,
            auth_failed: before.auth_failed + 4,
            unknown_spi: before.unknown_spi + 1,
            bad_length: before.bad_length + 3,
        };
        ensure!(now == expected, "{now:?} instead of {expected:?}");
        Ok(())
    })?;
    ensure!(sealed.ping(5)? == 0, "the window was moved");
    sealed.hears_only_its_own(&mut heard)
}

/// What h2 has dropped.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    replayed: u64,
    auth_failed: u64,
    unknown_spi: u64,
    bad_length: u64,
}

impl Counted {
    fn at(sealed: &Sealed) -> Result<Self> {
        let strays = sealed.encryption(2)?["strays"].take();
        let drops = sealed.peer(2, 1)?["drops"].take();
        // What is zero may be left out.
        let of = |counters: &Value, name: &str| counters[name].as_u64().unwrap_or_default();
        Ok(Self {
            replayed: of(&drops, "replayed"),
            auth_failed: of(&drops, "auth_failed"),
            unknown_spi: of(&strays, "unknown_spi"),
            // Of an association, where there is an SPI.
            bad_length: of(&drops, "bad_length") + of(&strays, "bad_length"),
        })
    }
}

fn a_node_that_was_away() -> Result<()> {
    let Some(sealed) = Sealed::open(3, &["--rekey", "1s"])? else {
        return Ok(());
    };
    let tap = Wiretap::start(&sealed.cluster, 1, "eth0", &[PING])?;
    ensure!(sealed.ping(5)? == 0);
    sealed.cluster.host(2)?.set_cable(Cable::Silent)?;
    // The others change theirs three times meanwhile.
    sealed.rekeyed(1, 3, 3)?;
    sealed.cluster.host(2)?.set_cable(Cable::In)?;
    eventually("it is reached again", || {
        let once = PingSpec {
            timeout_ms: 500,
            ..PingSpec::once(sealed.containers[1])
        };
        let report = sealed.cluster.host(1)?.ping(Some("c1.web"), &once)?;
        ensure!(report.lost == 0, "{report:?}");
        Ok(())
    })?;
    sealed.rekeyed(1, 2, 2)?;
    ensure!(sealed.ping(50)? == 0);
    tap.stop()?.is_sealed()
}

fn another_data_path_port() -> Result<()> {
    let mut options = options(2)?.without_cluster();
    options.agent_args = vec!["--rekey".to_owned(), "2s".to_owned()];
    let cluster = Cluster::with(&options)?;
    cluster.weft(1, "init --data-path-port 7777")?;
    let token = cluster.weft(1, "token worker -q")?;
    cluster.weft(2, &format!("join --token {} 198.18.0.1", token.trim()))?;
    let Some(sealed) = Sealed::on(cluster, 2)? else {
        return Ok(());
    };
    let tap = Wiretap::start(&sealed.cluster, 2, "eth0", &[PING])?;
    ensure!(sealed.ping(20)? == 0);
    tap.stop()?.is_sealed()?;
    // The port of encrypted networks is the one behind it.
    let [h1, h2] = sealed.ends()?;
    let [a, b] = [sealed.containers[0], sealed.containers[1]];
    let mut heard = sealed.hear()?;
    let forged = forge::vxlan(h1, h2, 7778, sealed.vni, &inner(a, b, "forged")?)?;
    forge::send(&sealed.cluster, 1, "eth0", &[forged])?;
    eventually("it is counted", || {
        let count = forge::guarded(&sealed.cluster, 2, "drop-in")?;
        ensure!(count == 1, "{count}");
        Ok(())
    })?;
    sealed.hears_only_its_own(&mut heard)
}
