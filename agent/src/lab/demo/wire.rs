//! What the demo shows of an encrypted network.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::steps::{
    Checked, POLL, RETURN_LIMIT, check, check_unharmed, endless, failed, pair, read,
};
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
/// Bytes of the transfer.
const TRANSFER: u64 = 64 << 20;

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
    let path = path(hosts)?;
    Ok((
        (),
        format!("{pairs} pairs of nodes have agreed on keys; ESP in {path}"),
    ))
}

/// Pings and a transfer, while the wire is looked at and keys are replaced.
pub(super) fn sealed(h1: &Host, h2: &Host, endpoints: &[Endpoint]) -> Checked<()> {
    let (from, to) = pair(endpoints)?;
    let watch = h1.start_watch()?;
    let pings = PingSpec {
        size: PING_LENGTH,
        ..PingSpec::once(to.ipv4).times(PINGS, 1000)
    };
    check_unharmed(&h1.ping(Some(&from.name), &pings)?)?;
    let web = backend(h2)?;
    let spec = PullSpec {
        from: SocketAddr::new(web.ipv4.into(), TARGET),
        bytes: TRANSFER,
    };
    let pulled = h1.pull(Some(&from.name), &spec)?;
    let pinger = h1.start_ping(Some(&from.name), &endless(to))?;
    let before = epoch(h1, h2)?;
    let after = wait_epoch(h1, h2, before + EPOCHS)?;
    let report = pinger.finish()?;
    check_unharmed(&report)?;
    let seen = watch.finish()?;
    let esp = seen.udp.get(&ESP).copied().unwrap_or(0);
    check(esp > 0, || format!("no ESP on the wire: {:?}", seen.udp))?;
    check(seen.clear == 0, || {
        format!("{} frames in clear on the wire", seen.clear)
    })?;
    let rate = TRANSFER as f64 * 8.0 / (pulled.micros.max(1) as f64 * 1e3);
    Ok((
        (),
        format!(
            "ping and a transfer of {} MiB ({rate:.1} Gbit/s): on the wire {esp} frames of ESP, 0 with \
             their content\nthen keys {before} to {after} from h1 to h2; {} packets, lost: 0",
            TRANSFER >> 20,
            report.sent
        ),
    ))
}

fn backend(host: &Host) -> Result<Endpoint, LabError> {
    read(host, &["endpoint", "inspect", "web2", "--format", "json"])
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

fn path(hosts: &[Host]) -> Result<String, LabError> {
    let host = super::steps::first(hosts)?;
    let status: Status = read(host, &["status", "--format", "json"])?;
    Ok(match status.encryption.map(|all| all.path).as_deref() {
        Some("kernel") => "the kernel".to_owned(),
        _ => "user space".to_owned(),
    })
}
