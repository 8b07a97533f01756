//! The steps of the demo and their checks.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::{super::cluster, Page, service, wire};
use crate::{
    api::types::{Endpoint, Network, Node, NodeStatus, Status},
    lab::{Host, Lab, LabError, PingReport, PingSpec},
};

/// A step's result and what to print of it; the first line is the headline.
pub(super) type Checked<T> = Result<(T, String), LabError>;

pub(super) const NETWORK: &str = "demo";
/// What VXLAN takes of an IPv4 underlay: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14
/// (RFC 7348, section 5).
const VXLAN_OVERHEAD: u32 = 50;
/// What ESP in UDP takes more: UDP 8, ESP 8, IV 8, trailer 2, ICV 16 (RFC 3948, RFC 4303, RFC 4106);
/// the packet ends on four bytes then.
const ESP_OVERHEAD: u32 = 42;
/// Requests per pair of the matrix, and microseconds between them.
const MATRIX_PINGS: u32 = 5;
const MATRIX_INTERVAL_US: u64 = 2_000;
/// Containers that the matrix shows; all pairs of more would fill pages.
pub(super) const MATRIX_MAX: usize = 6;
/// Microseconds between the requests of the ping that runs while agents are killed.
const ENDLESS_INTERVAL_US: u64 = 2_000;
/// Ping goes on for this long after an agent has come back.
const AFTERGLOW: Duration = Duration::from_millis(300);
/// How long an agent that comes back may take until it is as before.
pub(super) const RETURN_LIMIT: Duration = Duration::from_secs(10);
/// Longest time without writes when the leader dies.
const FAILOVER_LIMIT: Duration = Duration::from_secs(5);
/// Time between two tries of a write, or two looks at a state.
pub(super) const POLL: Duration = Duration::from_millis(10);

/// The steps after the hosts are up.
pub(super) struct Steps<'a> {
    lab: &'a Lab,
    page: &'a mut Page,
    encrypted: bool,
}

impl<'a> Steps<'a> {
    pub(super) fn new(lab: &'a Lab, page: &'a mut Page, encrypted: bool) -> Self {
        Self {
            lab,
            page,
            encrypted,
        }
    }

    /// Does all of them, up to the first that fails; whether none did.
    pub(super) fn run(&mut self) -> bool {
        match self.lab.hosts() {
            Ok(hosts) => self.all(&hosts).is_some(),
            Err(error) => self
                .page
                .step("cluster", || Err::<((), String), _>(error))
                .is_some(),
        }
    }

    fn all(&mut self, hosts: &[Host]) -> Option<()> {
        let [h1, h2, ..] = hosts else {
            return None;
        };
        self.page.command("h1", "weft init");
        self.page.command("h2", "weft join --token WFTKN-1-.. h1");
        self.page.step("cluster", || cluster(hosts))?;
        let mut create = vec!["network", "create", NETWORK];
        if self.encrypted {
            create.push("--encrypted");
        }
        self.page
            .command("h1", &format!("weft {}", create.join(" ")));
        let network = self.page.step("network", || network(h1, &create))?;
        self.page.command(
            "h1",
            "weft run --network demo --name c1 --detach -- sleep infinity",
        );
        let endpoints = self.page.step("run", || containers(hosts, &network))?;
        self.page.command(
            "h1",
            &format!("weft exec c1 -- ping {}", address(&endpoints, 1)?),
        );
        if self.encrypted {
            self.page.step("keys", || wire::agreed(hosts))?;
        }
        self.page.step("ping", || matrix(hosts, &endpoints))?;
        self.page
            .step("mtu", || largest_packet(h1, &endpoints, &network))?;
        self.page.command("h1", service::CREATE);
        self.page.command("h1", service::RUN);
        self.page
            .step("service", || service::publish(self.lab, hosts))?;
        if self.encrypted {
            self.page.command("h1", "weft status");
            self.page.step("wire", || wire::sealed(hosts, &endpoints))?;
        }
        self.page.command("h2", "kill -9 $(pidof weft); weft agent");
        self.page
            .step("restart", || agent_restarts(h1, h2, &endpoints))?;
        self.page
            .step("failover", || leader_dies(hosts, &endpoints))
    }
}

fn cluster(hosts: &[Host]) -> Checked<()> {
    cluster::form(hosts, 3)?;
    let (first, count) = (first(hosts)?, hosts.len());
    let nodes: Vec<Node> = list(first, "node")?;
    let leaders = nodes.iter().filter(|node| node.leader).count();
    check(nodes.len() == count, || {
        format!("{} nodes are listed", nodes.len())
    })?;
    check(leaders == 1, || format!("{leaders} leaders are listed"))?;
    let table = first.weft(&["node", "ls"])?;
    Ok((
        (),
        format!(
            "{count} nodes, identified by certificates, one leader\n{}",
            table.trim_end()
        ),
    ))
}

fn network(host: &Host, create: &[&str]) -> Checked<Network> {
    host.weft(create)?;
    let networks: Vec<Network> = list(host, "network")?;
    let found = networks.into_iter().find(|network| network.name == NETWORK);
    let network = found.ok_or_else(|| failed(format!("network {NETWORK} is not listed")))?;
    let subnets: Vec<String> = network.subnets.iter().map(|s| s.cidr.to_string()).collect();
    let text = format!(
        "{NETWORK} has subnet {} and VNI {}",
        subnets.join(", "),
        network.vni.unwrap_or_default()
    );
    Ok((network, text))
}

fn containers(hosts: &[Host], network: &Network) -> Checked<Vec<Endpoint>> {
    std::thread::scope(|scope| {
        let runs: Vec<_> = hosts
            .iter()
            .enumerate()
            .map(|(index, host)| {
                let name = container(index);
                let command = ["--detach", "--", "sleep", "infinity"];
                let args = ["run", "--network", &network.name, "--name", &name].map(str::to_owned);
                let args = args
                    .into_iter()
                    .chain(command.map(str::to_owned))
                    .collect::<Vec<_>>();
                scope.spawn(move || host.weft(&args))
            })
            .collect();
        runs.into_iter().try_for_each(|run| match run.join() {
            Ok(ran) => ran.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let first = first(hosts)?;
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(hosts.len());
    let mut text = format!("{} containers, one per host", hosts.len());
    for index in 0..hosts.len() {
        let name = container(index);
        first.weft(&["wait", "--endpoint", &name, "--timeout", "5s"])?;
        let all: Vec<Endpoint> = list(first, "endpoint")?;
        let found = all.into_iter().find(|endpoint| endpoint.name == name);
        let found = found.ok_or_else(|| failed(format!("endpoint {name} is not listed")))?;
        let wanted = mac_of(&found);
        check(found.mac == wanted, || {
            format!("{name} has MAC {}, not {wanted}", found.mac)
        })?;
        let Endpoint {
            node, mac, ifname, ..
        } = &found;
        text.push_str(&format!(
            "\n{name:<4} on {node:<4} {:<15} {mac}  {ifname}",
            found.address_text()
        ));
        endpoints.push(found);
    }
    Ok((endpoints, text))
}

fn matrix(hosts: &[Host], endpoints: &[Endpoint]) -> Checked<()> {
    let mut text = String::from("round trips in ms, to:\n     ");
    let shown = &endpoints[..endpoints.len().min(MATRIX_MAX)];
    shown
        .iter()
        .for_each(|to| text.push_str(&format!("{:>9}", to.name)));
    let (mut pairs, mut lost) = (0, 0);
    for (host, from) in hosts.iter().zip(shown) {
        text.push_str(&format!("\n{:<5}", from.name));
        for to in shown {
            let spec = PingSpec::once(ip(to)).times(MATRIX_PINGS, MATRIX_INTERVAL_US);
            let report = host.ping(Some(&from.name), &spec)?;
            pairs += 1;
            lost += report.lost;
            let cell = match report.received {
                0 => "lost".to_owned(),
                _ => format!("{:.3}", millis(report.avg_us)),
            };
            text.push_str(&format!("{cell:>9}"));
        }
    }
    check(lost == 0, || format!("{lost} packets lost\n{text}"))?;
    Ok((
        (),
        format!("{pairs} pairs by address, no packet lost; {text}"),
    ))
}

fn largest_packet(host: &Host, endpoints: &[Endpoint], network: &Network) -> Checked<()> {
    let (from, to) = pair(endpoints)?;
    let overhead = match network.encrypted {
        true => VXLAN_OVERHEAD + ESP_OVERHEAD,
        false => VXLAN_OVERHEAD,
    };
    let wanted = u16::try_from(1500 - overhead).unwrap_or(u16::MAX);
    check(network.mtu == u32::from(wanted), || {
        format!("the MTU is {}", network.mtu)
    })?;
    let send = |size| host.ping(Some(&from.name), &PingSpec::once(ip(to)).unfragmented(size));
    let fits = send(wanted)?;
    check(fits.lost == 0, || {
        format!("{wanted} bytes do not pass: {:?}", fits.refusal)
    })?;
    let over = send(wanted + 1)?;
    let refusal = over.refusal.unwrap_or_default();
    check(refusal == "Message too long", || {
        format!("{} bytes pass", wanted + 1)
    })?;
    let text = format!(
        "{wanted} bytes pass unfragmented, {} are refused: {refusal}",
        wanted + 1
    );
    Ok(((), text))
}

fn agent_restarts(h1: &Host, h2: &Host, endpoints: &[Endpoint]) -> Checked<()> {
    let (from, to) = pair(endpoints)?;
    let pinger = h1.start_ping(Some(&from.name), &endless(to))?;
    std::thread::sleep(AFTERGLOW);
    h2.kill_agent()?;
    std::thread::sleep(AFTERGLOW);
    let start = Instant::now();
    h2.start_agent()?;
    wait_returned(h2)?;
    let back = start.elapsed().as_millis();
    std::thread::sleep(AFTERGLOW);
    let report = pinger.finish()?;
    check_unharmed(&report)?;
    let (from, to, sent) = (&from.name, &to.name, report.sent);
    let killed = format!("agent of {} killed and back in {back} ms", h2.name());
    Ok((
        (),
        format!("{killed}; {from} to {to}: {sent} packets, lost: 0"),
    ))
}

fn leader_dies(hosts: &[Host], endpoints: &[Endpoint]) -> Checked<()> {
    let (from, to) = pair(endpoints)?;
    let nodes: Vec<Node> = list(first(hosts)?, "node")?;
    let leader = nodes
        .iter()
        .find(|node| node.leader)
        .map(|node| node.name.clone());
    let leader = leader.ok_or_else(|| failed("no leader is listed".to_owned()))?;
    let victim = hosts.iter().find(|host| host.name() == leader);
    let victim = victim.ok_or_else(|| failed(format!("leader {leader} is no host")))?;
    let writer = hosts.iter().find(|host| host.name() != leader);
    let writer = writer.ok_or_else(|| failed("no other host".to_owned()))?;
    let pinger = first(hosts)?.start_ping(Some(&from.name), &endless(to))?;
    std::thread::sleep(AFTERGLOW);
    let start = Instant::now();
    victim.kill_agent()?;
    while let Err(error) = writer.weft(&["network", "create", "after"]) {
        if start.elapsed() > FAILOVER_LIMIT {
            return Err(error);
        }
        std::thread::sleep(POLL);
    }
    let took = start.elapsed().as_millis();
    victim.start_agent()?;
    wait_returned(victim)?;
    let report = pinger.finish()?;
    check_unharmed(&report)?;
    let text = format!(
        "leader {leader} killed, {} writes again after {took} ms",
        writer.name()
    );
    Ok(((), format!("{text}; {} packets, lost: 0", report.sent)))
}

/// Waits until an agent that was started again is as before: ready in everybody's eyes, its kernel
/// state that of the cluster.
fn wait_returned(host: &Host) -> Result<(), LabError> {
    host.wait_ready(RETURN_LIMIT)?;
    let start = Instant::now();
    loop {
        let status: Result<Status, LabError> = read(host, &["status", "--format", "json"]);
        let nodes: Result<Vec<Node>, LabError> = list(host, "node");
        if let (Ok(status), Ok(nodes)) = (&status, &nodes) {
            let ready = nodes.iter().all(|node| node.status == NodeStatus::Ready);
            let applied = status.revision > 0 && status.applied >= status.revision;
            if ready && applied && status.problems.is_empty() && status.leader.is_some() {
                return Ok(());
            }
        }
        if start.elapsed() > RETURN_LIMIT {
            let what = format!("{} should be as before; it says {status:?}", host.name());
            return Err(LabError::TimedOut {
                what,
                seconds: RETURN_LIMIT.as_secs(),
            });
        }
        std::thread::sleep(POLL);
    }
}

pub(super) fn check_unharmed(report: &PingReport) -> Result<(), LabError> {
    check(report.received > 0 && report.lost == 0, || {
        let PingReport {
            sent,
            lost,
            refusal,
            longest_gap_us,
            ..
        } = report;
        let refusal = refusal.as_deref().unwrap_or("none refused");
        let gap = millis(*longest_gap_us);
        format!("{lost} of {sent} packets lost ({refusal}), longest gap {gap:.0} ms")
    })
}

pub(super) fn endless(to: &Endpoint) -> PingSpec {
    PingSpec::once(ip(to)).endless(ENDLESS_INTERVAL_US)
}

/// The address of an endpoint, of IPv4 if it has one.
pub(super) fn ip(endpoint: &Endpoint) -> IpAddr {
    let mut addresses = endpoint.addresses();
    addresses.next().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

fn container(index: usize) -> String {
    format!("c{}", index + 1)
}

/// `02:42:` and the address.
fn mac_of(endpoint: &Endpoint) -> String {
    let [a, b, c, d] = endpoint.ipv4.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn address(endpoints: &[Endpoint], index: usize) -> Option<String> {
    Some(endpoints.get(index)?.address_text())
}

pub(super) fn pair(endpoints: &[Endpoint]) -> Result<(&Endpoint, &Endpoint), LabError> {
    match endpoints {
        [one, two, ..] => Ok((one, two)),
        _ => Err(failed("two containers are needed".to_owned())),
    }
}

pub(super) fn first(hosts: &[Host]) -> Result<&Host, LabError> {
    hosts
        .first()
        .ok_or_else(|| failed("a host is needed".to_owned()))
}

fn list<T: DeserializeOwned>(host: &Host, what: &str) -> Result<T, LabError> {
    read(host, &[what, "ls", "--format", "json"])
}

pub(super) fn read<T: DeserializeOwned>(host: &Host, args: &[&str]) -> Result<T, LabError> {
    let text = host.weft(args)?;
    serde_json::from_str(&text).map_err(|error| {
        failed(format!(
            "`weft {}` prints something else: {error}",
            args.join(" ")
        ))
    })
}

pub(super) fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), LabError> {
    if holds {
        Ok(())
    } else {
        Err(failed(otherwise()))
    }
}

pub(super) fn failed(reason: String) -> LabError {
    LabError::Refused(reason)
}

fn millis(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1e3
}
