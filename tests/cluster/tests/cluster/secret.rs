//! Clusters with an encrypted network, and what is known of them.

use std::fs::OpenOptions;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weft_agent::lab::{
    FetchSpec, Host, LabOptions, PingReport, PingSpec, Running, ServeSpec, WatchReport,
};
use weft_cluster_tests::cluster::{self, Cluster};
use weft_cluster_tests::eventually;

/// UDP ports of ESP, and of what it carries.
pub(crate) const ESP: u16 = 4500;
pub(crate) const INNER: u16 = 4790;
/// Port that transfers come from.
pub(crate) const SERVER: u16 = 7000;

/// That all agents carry encrypted networks by ports of bridges, whatever their kernel has.
pub(crate) const PORT: &[&str] = &["--encryption=userspace-port"];

/// Options for so many hosts whose agents get these arguments besides.
pub(crate) fn options_with(hosts: usize, agent_args: &[&str]) -> Result<LabOptions> {
    let mut options = cluster::options(hosts)?;
    options.agent_args = agent_args.iter().map(|&word| word.to_owned()).collect();
    Ok(options)
}

/// A cluster with containers `a`, `b`, .. of an encrypted network on h1, h2, .., that are reached.
pub(crate) fn encrypted(options: &LabOptions) -> Result<Cluster> {
    may_make_devices()?;
    let cluster = Cluster::with(options)?;
    cluster.weft(1, "network create web --encrypted")?;
    for (host, name) in (1..=options.hosts).zip(["a", "b", "c"]) {
        cluster.container(host, "web", name)?;
    }
    cluster.settle(1)?;
    for host in 1..=options.hosts {
        protected(&cluster, host, options.hosts - 1)?;
    }
    Ok(cluster)
}

/// Waits until a host has keys with so many others.
pub(crate) fn protected(cluster: &Cluster, host: usize, others: usize) -> Result<()> {
    eventually("all peers are protected", || {
        let peers = peers(cluster, host)?;
        let protected = peers.iter().filter(|peer| peer["state"] == "protected");
        ensure!(protected.count() == others, "{peers:?}");
        Ok(())
    })
}

pub(crate) fn peers(cluster: &Cluster, host: usize) -> Result<Vec<Value>> {
    let status = cluster.json(host, "status")?;
    let peers = status["encryption"]["peers"].as_array();
    Ok(peers.cloned().unwrap_or_default())
}

/// What a host knows of another.
pub(crate) fn peer(cluster: &Cluster, host: usize, other: usize) -> Result<Value> {
    let name = format!("h{other}");
    let peers = peers(cluster, host)?;
    let found = peers.into_iter().find(|peer| peer["name"] == name.as_str());
    found.with_context(|| format!("h{host} knows nothing of {name}"))
}

pub(crate) fn epoch(cluster: &Cluster, host: usize, other: usize) -> Result<u64> {
    let peer = peer(cluster, host, other)?;
    peer["epoch_out"].as_u64().context("no key")
}

pub(crate) fn address(cluster: &Cluster, endpoint: &str) -> Result<IpAddr> {
    Ok(cluster.address(1, &format!("{endpoint}.web"))?.parse()?)
}

pub(crate) fn endless(to: IpAddr) -> PingSpec {
    PingSpec::once(to).endless(20_000)
}

pub(crate) fn unharmed(report: &PingReport) -> Result<()> {
    ensure!(report.received > 10 && report.lost == 0, "{report:?}");
    Ok(())
}

/// Waits until so many pings run: until then they need the agents of their hosts.
pub(crate) fn pinging(cluster: &Cluster, pings: usize) -> Result<()> {
    eventually("pings run", || {
        // Hosts share the lab's processes.
        let found = cluster.run(1, &["pgrep", "-f", "-c", "^weft internal lab .*Ping"])?;
        ensure!(found.stdout.trim() == pings.to_string(), "{found:?}");
        Ok(())
    })
}

/// Nothing but ESP was on the wire.
pub(crate) fn sealed(watch: Running<WatchReport>) -> Result<()> {
    let seen = watch.finish()?;
    let clear = [4789, INNER].map(|port| seen.udp.get(&port).copied().unwrap_or(0));
    ensure!(seen.clear == 0 && clear == [0, 0], "in clear: {seen:?}");
    ensure!(seen.udp.get(&ESP).copied() > Some(0), "no ESP: {seen:?}");
    Ok(())
}

/// Packets that were dropped because a key was not where it should be, by cause.
pub(crate) fn key_faults(cluster: &Cluster, host: usize, other: usize) -> Result<u64> {
    let drops = peer(cluster, host, other)?["drops"].clone();
    let strays = cluster.json(host, "status")?["encryption"]["strays"].clone();
    let causes = [
        "unknown_spi",
        "auth_failed",
        "too_old",
        "replayed",
        "no_key",
    ];
    let count = |of: &Value| -> u64 { causes.iter().filter_map(|name| of[name].as_u64()).sum() };
    Ok(count(&drops) + count(&strays))
}

pub(crate) fn server(cluster: &Cluster, host: usize, endpoint: &str) -> Result<cluster::Running> {
    let spec = ServeSpec {
        name: endpoint.to_owned(),
        port: SERVER,
    };
    let args = Host::serve_args(&spec)?;
    let name = format!("{endpoint}.web");
    let mut argv = vec!["weft", "exec", &name, "--", "weft"];
    argv.extend(args.iter().map(String::as_str));
    let running = cluster.spawn(host, &argv)?;
    let to = SocketAddr::new(address(cluster, endpoint)?, SERVER);
    eventually("the server answers", || {
        let spec = FetchSpec { to, count: 1 };
        Ok(cluster.host(host)?.fetch(Some(&name), &spec)?)
    })?;
    Ok(running)
}

/// Whether this user's agents can carry encrypted networks in user space.
///
/// # Errors
/// They cannot, because the device of TAPs is another's alone.
pub(crate) fn may_make_devices() -> Result<()> {
    let opened = OpenOptions::new().write(true).open("/dev/net/tun");
    opened.context("this user may not open /dev/net/tun: run the tests as root, or let it")?;
    Ok(())
}
