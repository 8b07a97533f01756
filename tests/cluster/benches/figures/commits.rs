use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use weft_raft::command::{Command, NodeChange};
use weft_raft::control::{ControlConfig, ControlPlane, InitRequest, JoinRequest, NodeFacts};
use weft_raft::model::{Availability, Role};

use crate::state::State;
use crate::table::Table;

/// How long each is measured.
const SPAN: Duration = Duration::from_secs(4);
/// Longest that one change may take.
const LIMIT: Duration = Duration::from_secs(30);
const MANAGERS: usize = 3;
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Acknowledged changes on three managers whose stores are on a disk.
pub(crate) fn commits(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    table.times(
        "write and fdatasync of 4 KiB on this disk",
        &state.syncs(200)?,
    );
    drop(state);
    through_the_api(table)?;
    in_one_process(table)
}

/// Networks are created and removed on agents of a lab, on connections that stay open.
fn through_the_api(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    let cluster = state.cluster(MANAGERS)?;
    let sockets: Vec<_> = (1..=MANAGERS)
        .map(|host| Ok(cluster.host(host)?.agent_socket()))
        .collect::<Result<_>>()?;
    let leader = cluster.leader(1)? - 1;
    for clients in [1, 64] {
        let times = std::thread::scope(|scope| {
            let lanes: Vec<_> = (0..clients)
                .map(|lane| {
                    // One asks the leader, several ask all.
                    let socket = &sockets[(leader + lane) % sockets.len()];
                    scope.spawn(move || Lane::open(socket)?.churn(lane))
                })
                .collect();
            let mut times = Vec::new();
            for lane in lanes {
                times.extend(lane.join().map_err(|_| anyhow!("a lane panicked"))??);
            }
            anyhow::Ok(times)
        })?;
        tell(table, "API, network create and rm", clients, &times);
    }
    Ok(())
}

fn tell(table: &mut Table, how: &str, clients: usize, times: &[Duration]) {
    let rate = times.len() as f64 / SPAN.as_secs_f64();
    let mut ms: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let at = |share| crate::table::percentile(&ms, share);
    let spread = format!("each p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));
    let name = format!("commits on 3 managers, {clients} clients ({how})");
    table.add(&name, format!("{rate:.0}"), "1/s", spread);
}

/// A connection on which one request follows another (RFC 9112).
struct Lane {
    stream: BufReader<UnixStream>,
}

impl Lane {
    fn open(socket: &Path) -> Result<Self> {
        let stream = BufReader::new(UnixStream::connect(socket)?);
        Ok(Self { stream })
    }

    fn churn(&mut self, lane: usize) -> Result<Vec<Duration>> {
        let (started, mut times) = (Instant::now(), Vec::new());
        let body = format!(r#"{{"name":"c{lane}","subnets":["10.60.{lane}.0/24"]}}"#);
        let path = format!("/v1/networks/c{lane}");
        let mut there = false;
        while started.elapsed() < SPAN {
            let asked = Instant::now();
            match there {
                false => self.ask("POST", "/v1/networks", &body)?,
                true => self.ask("DELETE", &path, "")?,
            }
            there = !there;
            times.push(asked.elapsed());
        }
        if there {
            self.ask("DELETE", &path, "")?;
        }
        Ok(times)
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<()> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: weft\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (String::new(), 0);
        self.stream.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        ensure!(
            status.contains(" 20"),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    }
}

/// Small changes of a node's row, proposed to control planes in this process: consensus, store
/// and transport without agents around them.
fn in_one_process(table: &mut Table) -> Result<()> {
    let state = State::new()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let planes = managers(state.path()).await?;
        for clients in [1, 64, 512] {
            let times = proposals(&planes, clients).await?;
            tell(table, "in process, node update", clients, &times);
        }
        for plane in &planes {
            plane.shutdown().await;
        }
        Ok(())
    })
}

async fn managers(dir: &Path) -> Result<Vec<ControlPlane>> {
    let open = async |number: usize| {
        let dir = dir.join(format!("plane{number}"));
        std::fs::create_dir_all(&dir)?;
        anyhow::Ok(ControlPlane::open(ControlConfig::new(dir, "bench")).await?)
    };
    let facts = NodeFacts {
        name: "bench".to_owned(),
        data_path_addr: LOOPBACK.ip(),
        underlay_mtu: 1500,
        host_routes: Vec::new(),
    };
    let first = open(0).await?;
    let init = InitRequest {
        listen: LOOPBACK,
        advertise: LOOPBACK,
        facts: facts.clone(),
        data_path_port: 4789,
        pools: Vec::new(),
        pool_mask_length: 24,
        cert_expiry: Duration::from_secs(86_400),
        availability: Availability::Active,
    };
    first.init(init).await?;
    let mut planes = vec![first.clone()];
    for number in 1..MANAGERS {
        let plane = open(number).await?;
        let join = JoinRequest {
            token: first.token(Role::Manager).await?.parse()?,
            remotes: vec![first.status().addr.context("no address")?],
            listen: LOOPBACK,
            advertise: LOOPBACK,
            facts: facts.clone(),
            availability: Availability::Active,
        };
        plane.join(join).await?;
        planes.push(plane);
    }
    while first.status().managers.total < MANAGERS {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(planes)
}

async fn proposals(planes: &[ControlPlane], clients: usize) -> Result<Vec<Duration>> {
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..clients {
        // The first manager leads.
        let plane = planes[lane % planes.len()].clone();
        let node = plane.membership().context("no member")?.node;
        lanes.spawn(async move {
            let (started, mut times) = (Instant::now(), Vec::new());
            while started.elapsed() < SPAN {
                let change = NodeChange {
                    underlay_mtu: Some(1500 + times.len() as u32 % 2),
                    ..Default::default()
                };
                let asked = Instant::now();
                let command = Command::UpdateNode {
                    id: node,
                    change: Box::new(change),
                };
                plane.propose(command, LIMIT).await?;
                times.push(asked.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(lane) = lanes.join_next().await {
        times.extend(lane??);
    }
    Ok(times)
}
