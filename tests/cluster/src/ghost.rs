//! A node with a control plane and no kernel, which has as many endpoints as it likes: for
//! benchmarks of what many endpoints cost the other nodes.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use weft_raft::command::{Command, EndpointSpec};
use weft_raft::control::{ControlConfig, ControlPlane, JoinRequest, NodeFacts};
use weft_raft::model::{
    Attachment, Availability, EndpointId, EndpointKind, Id, Labels, NetworkId, NodeId,
};

/// Endpoints that are proposed at the same time.
const LANES: usize = 64;
/// Longest that one may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Joins, makes `count` endpoints on a network, prints how long that took, and goes silent.
pub fn main(dir: &str, address: &str, manager: &str, token: &str, rest: [&str; 2]) -> Result<()> {
    let [network, count] = rest;
    let network: NetworkId = network.parse().context("no network id")?;
    let count = count.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let plane = ControlPlane::open(ControlConfig::new(Path::new(dir), "ghost")).await?;
        let address: IpAddr = address.parse()?;
        let member = plane
            .join(JoinRequest {
                token: token.parse()?,
                remotes: vec![SocketAddr::new(manager.parse()?, 2377)],
                listen: SocketAddr::new(address, 2377),
                advertise: SocketAddr::new(address, 2377),
                facts: NodeFacts {
                    name: "ghost".to_owned(),
                    data_path_addr: address,
                    underlay_mtu: 1500,
                    host_routes: Vec::new(),
                },
                availability: Availability::Active,
            })
            .await?;
        let started = Instant::now();
        let mut lanes = tokio::task::JoinSet::new();
        for lane in 0..LANES {
            let plane = plane.clone();
            lanes.spawn(async move {
                for number in (lane..count).step_by(LANES) {
                    let command = endpoint(number, network, member.node);
                    plane.propose(command, LIMIT).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(lane) = lanes.join_next().await {
            lane??;
        }
        println!("{:.6}", started.elapsed().as_secs_f64());
        plane.shutdown().await;
        anyhow::Ok(())
    })
}

fn endpoint(number: usize, network: NetworkId, node: NodeId) -> Command {
    let mut id = [0xee; Id::LEN];
    let number = number as u64;
    id[2..].copy_from_slice(&number.to_be_bytes());
    Command::CreateEndpoint(Box::new(EndpointSpec {
        id: EndpointId(Id::new(id)),
        name: format!("ghost-{number}"),
        network,
        node,
        ipv4: None,
        ipv6: None,
        mac: None,
        ifname: None,
        aliases: Vec::new(),
        labels: Labels::new(),
        attachment: Attachment {
            path: format!("/run/netns/ghost-{number}"),
            device: 4,
            inode: number,
            boot_id: "ghost".to_owned(),
        },
        kind: EndpointKind::Attached,
        service: None,
        weight: 1,
        new_service: None,
    }))
}
