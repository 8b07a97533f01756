//! What the demo shows of an encrypted network.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::page::listed;
use super::steps::{Checked, POLL, RETURN_LIMIT, check, check_unharmed, endless, failed, ip, read};
use crate::{
    api::types::{Endpoint, ProtectedPeer, ProtectionState, Status},
    lab::{Host, LabError, PingSpec, PullSpec},
};

/// Age at which the demo's keys are replaced, so that it is seen.
pub(super) const REKEY: &str = "1s";
/// Keys that are seen to be replaced.
const EPOCHS: u64 = 2;
/// UDP port of ESP (RFC 3948), and the port that the backends of the demo's service are at.
const ESP: u16 = 4500;
const TARGET: u16 = 80;
/// Pings whose content is looked for on the wire, and their length.
const PINGS: u32 = 50;
const PING_LENGTH: u16 = 1000;
/// Bytes of each transfer.
const TRANSFER: u64 = 32 << 20;
/// Hosts whose pairs are looked at, from the first on.
const HOSTS: usize = 3;

/// Waits until every node has agreed on keys with every other.
pub(super) fn agreed(hosts: &[Host]) -> Checked<()> {
    let start = Instant::now();
    for host in hosts {
        loop {
            let status: Status = read(host, &["status", "--format", "json"])?;
            let encryption = status.encryption;
            let error = encryption.as_ref().and_then(|all| all.error.clone());
            let peers = encryption.map(|all| all.peers).unwrap_or_default();
            let is_done = |peer: &ProtectedPeer| peer.state == ProtectionState::Protected;
            if peers.len() + 1 == hosts.len() && peers.iter().all(is_done) {
                break;
            }
            if start.elapsed() > RETURN_LIMIT {
                let why = error.unwrap_or_else(|| format!("{peers:?}"));
                return Err(failed(format!("{} has no keys: {why}", host.name())));
            }
            std::thread::sleep(POLL);
        }
    }
    let pairs = hosts.len() * (hosts.len() - 1) / 2;
    let paths = paths(hosts)?;
    Ok((
        (),
        format!("{pairs} pairs of nodes have agreed on keys; ESP in {paths}"),
    ))
}

/// Pings and a transfer between any two hosts, while the wire is looked at; then keys are replaced while
/// they ping.
pub(super) fn sealed(hosts: &[Host], endpoints: &[Endpoint]) -> Checked<()> {
    let pairs = pairs(hosts, endpoints);
    let watches = { hosts.iter().take(HOSTS) }.map(Host::start_watch);
    let watches: Vec<_> = watches.collect::<Result<_, _>>()?;
    let mut slowest = f64::INFINITY;
    for pair in &pairs {
        slowest = slowest.min(pair.exchange()?);
    }
    let (replaced, sent) = replace(&pairs)?;
    let mut esp = 0;
    for watch in watches {
        let seen = watch.finish()?;
        let sealed = seen.udp.get(&ESP).copied().unwrap_or(0);
        check(sealed > 0, || format!("no ESP on the wire: {:?}", seen.udp))?;
        check(seen.clear == 0, || {
            format!("{} frames in clear on the wire: {:?}", seen.clear, seen.udp)
        })?;
        esp += sealed;
    }
    let count = pairs.len();
    Ok((
        (),
        format!(
            "{count} pairs of hosts: ping, {} MiB each ({slowest:.2} Gbit/s or more): {esp} frames of ESP \
             on the wires, 0 with their content\nthen keys {replaced} from h1 to h2, as between all; \
             {sent} packets, lost: 0",
            TRANSFER >> 20,
        ),
    ))
}

/// Two hosts, and a container on each.
struct Pair<'a> {
    hosts: [&'a Host; 2],
    ends: [&'a Endpoint; 2],
}

fn pairs<'a>(hosts: &'a [Host], endpoints: &'a [Endpoint]) -> Vec<Pair<'a>> {
    let all: Vec<_> = hosts.iter().zip(endpoints).take(HOSTS).collect();
    let mut pairs = Vec::new();
    for (index, (host, end)) in all.iter().enumerate() {
        for (other, far) in all.iter().skip(index + 1) {
            pairs.push(Pair {
                hosts: [host, other],
                ends: [end, far],
            });
        }
    }
    pairs
}

impl Pair<'_> {
    /// Pings with content, and a transfer; its rate in Gbit/s.
    fn exchange(&self) -> Result<f64, LabError> {
        let ([here, there], [from, to]) = (self.hosts, self.ends);
        let pings = PingSpec {
            size: PING_LENGTH,
            ..PingSpec::once(ip(to)).times(PINGS, 1000)
        };
        check_unharmed(&here.ping(Some(&from.name), &pings)?)?;
        let spec = PullSpec {
            from: SocketAddr::new(ip(&backend(there)?), TARGET),
            bytes: TRANSFER,
        };
        let pulled = here.pull(Some(&from.name), &spec)?;
        Ok(TRANSFER as f64 * 8.0 / (pulled.micros.max(1) as f64 * 1e3))
    }
}

/// Waits until the keys of all pairs were replaced, in both directions, while each pair pings. What
/// became of the first one's, and how many packets were sent, none of which was lost.
fn replace(pairs: &[Pair<'_>]) -> Result<(String, u64), LabError> {
    let start = |pair: &Pair<'_>| {
        let (here, [from, to]) = (pair.hosts[0], pair.ends);
        here.start_ping(Some(&from.name), &endless(to))
    };
    let pingers: Vec<_> = pairs.iter().map(start).collect::<Result<_, _>>()?;
    let directions = pairs.iter().flat_map(|pair| {
        let [one, two] = pair.hosts;
        [(one, two), (two, one)]
    });
    let before: Vec<_> = directions
        .map(|(host, peer)| Ok((host, peer, epoch(host, peer)?)))
        .collect::<Result<_, LabError>>()?;
    let mut replaced = String::new();
    for (host, peer, before) in before {
        let after = wait_epoch(host, peer, before + EPOCHS)?;
        if replaced.is_empty() {
            replaced = format!("{before} to {after}");
        }
    }
    let mut sent = 0;
    for pinger in pingers {
        let report = pinger.finish()?;
        check_unharmed(&report)?;
        sent += report.sent;
    }
    Ok((replaced, sent))
}

/// The one of the demo's service on a host.
fn backend(host: &Host) -> Result<Endpoint, LabError> {
    let number = host.name().trim_start_matches('h');
    let name = format!("web{number}");
    read(host, &["endpoint", "inspect", &name, "--format", "json"])
}

fn wait_epoch(host: &Host, peer: &Host, wanted: u64) -> Result<u64, LabError> {
    let start = Instant::now();
    loop {
        let now = epoch(host, peer)?;
        if now >= wanted {
            return Ok(now);
        }
        if start.elapsed() > RETURN_LIMIT {
            return Err(failed(format!(
                "the key is still number {now}, not {wanted}"
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn epoch(host: &Host, peer: &Host) -> Result<u64, LabError> {
    let peers = peers(host)?;
    let found = peers.iter().find(|known| known.name == peer.name());
    let epoch = found.and_then(|known| known.epoch_out);
    epoch.ok_or_else(|| failed(format!("no key is in use with {}: {peers:?}", peer.name())))
}

fn peers(host: &Host) -> Result<Vec<ProtectedPeer>, LabError> {
    let status: Status = read(host, &["status", "--format", "json"])?;
    Ok(status.encryption.map(|all| all.peers).unwrap_or_default())
}

/// Who does ESP: one word for all, or which hosts do it where.
fn paths(hosts: &[Host]) -> Result<String, LabError> {
    let mut by_path: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for host in hosts {
        let status: Status = read(host, &["status", "--format", "json"])?;
        let path = match status.encryption.map(|all| all.path).as_deref() {
            Some("kernel") => "the kernel",
            _ => "user space",
        };
        by_path
            .entry(path)
            .or_default()
            .push(host.name().to_owned());
    }
    let said = match by_path.len() {
        1 => by_path.into_keys().map(str::to_owned).collect(),
        _ => { by_path.into_iter() }
            .map(|(path, hosts)| format!("{path} on {}", listed(&hosts)))
            .collect::<Vec<_>>(),
    };
    Ok(said.join(", in "))
}
