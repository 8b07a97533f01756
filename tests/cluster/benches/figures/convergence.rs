use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use weft_agent::api::types::{AttachRequest, Endpoint};
use weft_cluster_tests::api::Api;
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::echo::now_ns;
use weft_cluster_tests::talk::Talk;

use crate::state::State;
use crate::table::Table;

const HOSTS: usize = 10;
const ROUNDS: usize = 110;
const WARM: usize = 10;
/// Longest that a kernel is waited for.
const LIMIT: Duration = Duration::from_secs(10);

/// A change of a table in one host's sandbox.
struct Heard {
    host: usize,
    at_ns: u64,
    what: String,
}

/// How long until the kernels of ten nodes have taken in what happens on one of them: each tells
/// of changes of its tables itself, nobody polls.
pub(crate) fn convergence(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    let cluster = state.cluster(HOSTS)?;
    cluster.weft(1, "network create web")?;
    for host in 1..=HOSTS {
        cluster.container(host, "web", &format!("c{host}"))?;
        cluster.sh(host, &["ip", "netns", "add", "blue"])?;
    }
    cluster.settle(1)?;
    let network = cluster.json(1, "network inspect web")?["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    let (tell, heard) = channel();
    for host in 1..=HOSTS {
        listen(&cluster, host, &network, tell.clone())?;
    }
    let apis: Vec<Api> = (1..=HOSTS)
        .map(|host| Api::of(&cluster, host))
        .collect::<Result<_>>()?;
    let leader = cluster.leader(1)?;
    let committed = commits(&cluster, leader)?;
    for number in 0.. {
        // Until the stream is open; what happened before it is not told.
        cluster.weft(1, &format!("network create early{number}"))?;
        if committed.recv_timeout(Duration::from_millis(200)).is_ok() {
            break;
        }
    }
    let mut times = Times::default();
    for round in 0..WARM + ROUNDS {
        let host = 1 + round % HOSTS;
        let found = one(&apis, host, &heard, &committed)?;
        if round >= WARM {
            times.add(&found);
        }
    }
    table.times("attach, request to the last of 10 kernels", &times.attach);
    table.times(
        "attach, commit (as the leader tells it) to the last of 10 kernels",
        &times.commit,
    );
    table.times("detach, request to the last of 10 kernels", &times.detach);
    Ok(())
}

#[derive(Default)]
struct Times {
    attach: Vec<Duration>,
    commit: Vec<Duration>,
    detach: Vec<Duration>,
}

/// Nanoseconds since the Unix epoch.
struct Round {
    asked: u64,
    committed: u64,
    everywhere: u64,
    detach_asked: u64,
    gone_everywhere: u64,
}

impl Times {
    fn add(&mut self, round: &Round) {
        let span = |from: u64, to: u64| Duration::from_nanos(to.saturating_sub(from));
        self.attach.push(span(round.asked, round.everywhere));
        self.commit.push(span(round.committed, round.everywhere));
        self.detach
            .push(span(round.detach_asked, round.gone_everywhere));
    }
}

fn one(
    apis: &[Api],
    host: usize,
    heard: &Receiver<Heard>,
    committed: &Receiver<(String, u64)>,
) -> Result<Round> {
    let api = apis.get(host - 1).context("no such host")?;
    let request = AttachRequest {
        netns: Some(PathBuf::from("/run/netns/blue")),
        ..AttachRequest::new("web")
    };
    while heard.try_recv().is_ok() {}
    let asked = now_ns();
    let endpoint = api.ask(async |client| client.attach(&request).await)?;
    let everywhere = last(heard, host, &endpoint, "new")?;
    let told = loop {
        let (id, at_ns) = committed
            .recv_timeout(LIMIT)
            .context("the leader tells nothing")?;
        if id == endpoint.id {
            break at_ns;
        }
    };
    // Let what follows a change (reports of what was applied) come to rest.
    thread::sleep(Duration::from_millis(20));
    let detach_asked = now_ns();
    api.ask(async |client| client.detach(&endpoint.id, false).await)?;
    let gone_everywhere = last(heard, host, &endpoint, "gone")?;
    thread::sleep(Duration::from_millis(20));
    Ok(Round {
        asked,
        committed: told,
        everywhere,
        detach_asked,
        gone_everywhere,
    })
}

/// When the last table of all hosts had it: its station where it is, the tunnel entry and the
/// neighbour entry everywhere else.
fn last(heard: &Receiver<Heard>, at: usize, endpoint: &Endpoint, what: &str) -> Result<u64> {
    let mut missing: BTreeMap<(usize, String), ()> = BTreeMap::new();
    for host in 1..=HOSTS {
        if host == at {
            missing.insert((host, format!("{what} station {}", endpoint.mac)), ());
        } else {
            missing.insert((host, format!("{what} tunnel {}", endpoint.mac)), ());
            for address in endpoint.addresses() {
                missing.insert((host, format!("{what} neighbour {address}")), ());
            }
        }
    }
    let mut latest = 0;
    while !missing.is_empty() {
        let next = heard.recv_timeout(LIMIT);
        let next = next.with_context(|| format!("never heard: {:?}", missing.keys()))?;
        if missing.remove(&(next.host, next.what)).is_some() {
            latest = latest.max(next.at_ns);
        }
    }
    Ok(latest)
}

fn listen(cluster: &Cluster, host: usize, network: &str, tell: Sender<Heard>) -> Result<()> {
    let sandbox = format!("--net=/run/weft/netns/{network}");
    let mut probe = Talk::start(cluster, host, &["nsenter", &sandbox], &["watch-neighbours"])?;
    thread::spawn(move || {
        // Ends with the lab, and with the section.
        while let Ok(line) = probe.line() {
            let Some((at, what)) = line.split_once(' ') else {
                continue;
            };
            let (at_ns, what) = (at.parse().unwrap_or(0), what.to_owned());
            if tell.send(Heard { host, at_ns, what }).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Ids of what changes as the leader tells of it, and when.
fn commits(cluster: &Cluster, leader: usize) -> Result<Receiver<(String, u64)>> {
    let (tell, told) = channel();
    let mut events = cluster
        .host(leader)?
        .command("weft")
        .args(["events", "--format", "json"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let lines = std::io::BufReader::new(events.stdout.take().context("no stdout")?);
    thread::spawn(move || {
        use std::io::BufRead;
        for line in lines.lines().map_while(Result::ok) {
            let at = now_ns();
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            if tell.send((id, at)).is_err() {
                break;
            }
        }
        let _ = events.kill();
        let _ = events.wait();
    });
    Ok(told)
}
