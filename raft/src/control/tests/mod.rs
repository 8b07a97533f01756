mod cluster;
mod history;
mod numbers;
mod peering;
mod quorum;
mod rights;
mod single;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::command::{EndpointSpec, NetworkSpec};
use crate::model::{
    Attachment, Availability, Driver, EndpointId, EndpointKind, Labels, NetworkId, NodeStatus,
};

/// Longest that anything here may take on a busy machine.
const LONG: Duration = Duration::from_secs(30);
const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// One agent's control plane with its directory.
struct Host {
    dir: tempfile::TempDir,
    plane: ControlPlane,
}

impl Host {
    async fn idle() -> Self {
        Self::idle_with(|_| {}).await
    }

    async fn idle_with(adjust: impl FnOnce(&mut ControlConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        adjust(&mut config);
        let plane = ControlPlane::open(config).await.unwrap();
        Self { dir, plane }
    }

    /// A new cluster's first manager.
    async fn first() -> Self {
        Self::first_with(|_| {}).await
    }

    async fn first_with(adjust: impl FnOnce(&mut ControlConfig)) -> Self {
        let host = Self::idle_with(adjust).await;
        host.plane.init(init_request()).await.unwrap();
        host
    }

    /// A further node.
    async fn joined(to: &Host, role: Role) -> Self {
        let host = Self::idle().await;
        host.plane.join(to.join_request(role).await).await.unwrap();
        host
    }

    async fn join_request(&self, role: Role) -> JoinRequest {
        let token = self.plane.token(role).await.unwrap();
        JoinRequest {
            token: token.parse().unwrap(),
            remotes: vec![self.addr()],
            listen: LOOPBACK,
            advertise: LOOPBACK,
            facts: facts(),
            availability: Availability::Active,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.plane.status().addr.unwrap()
    }

    fn id(&self) -> NodeId {
        self.plane.membership().unwrap().node
    }

    async fn network(&self, name: &str) -> Result<Applied, ProposeError> {
        self.plane.propose(create_network(name), LONG).await
    }

    fn revision(&self) -> Revision {
        self.plane.with_view(|view| view.revision)
    }

    fn leads(&self) -> bool {
        self.plane.status().leader == Some(self.id())
            && self
                .plane
                .inner
                .running()
                .is_some_and(|running| running.is_leader())
    }

    /// Ends the agent and starts it again on the same directory.
    async fn restarted(self) -> Self {
        self.restarted_with(|_| {}).await
    }

    async fn restarted_with(self, adjust: impl Fn(&mut ControlConfig)) -> Self {
        self.plane.shutdown().await;
        let Self { dir, plane } = self;
        drop(plane);
        let plane = reopened_with(dir.path(), adjust).await;
        Self { dir, plane }
    }
}

fn config(dir: &Path) -> ControlConfig {
    ControlConfig::new(dir, "0.0.0-test")
}

/// Opens a directory; waits while an agent that was dropped is still letting go of it.
async fn reopened(dir: &Path) -> ControlPlane {
    reopened_with(dir, |_| {}).await
}

async fn reopened_with(dir: &Path, adjust: impl Fn(&mut ControlConfig)) -> ControlPlane {
    let deadline = Instant::now() + LONG;
    loop {
        let mut config = config(dir);
        adjust(&mut config);
        match ControlPlane::open(config).await {
            Ok(plane) => return plane,
            Err(OpenError::Lock(_) | OpenError::Bind(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn facts() -> NodeFacts {
    NodeFacts {
        name: "host".to_owned(),
        data_path_addr: LOOPBACK.ip(),
        underlay_mtu: 1500,
        host_routes: Vec::new(),
    }
}

fn init_request() -> InitRequest {
    InitRequest {
        listen: LOOPBACK,
        advertise: LOOPBACK,
        facts: facts(),
        data_path_port: 4789,
        pools: Vec::new(),
        pool_mask_length: 24,
        cert_expiry: Duration::from_secs(90 * 86_400),
        availability: Availability::Active,
    }
}

/// Ids that differ in one process.
fn fresh() -> [u8; 10] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0; 10];
    bytes[2..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

fn create_network(name: &str) -> Command {
    Command::CreateNetwork(Box::new(NetworkSpec {
        id: NetworkId::new(fresh()),
        name: name.to_owned(),
        driver: Driver::Overlay,
        subnets: Vec::new(),
        ipv6: false,
        aux_addresses: Default::default(),
        vni: None,
        routes: Vec::new(),
        mtu: None,
        internal: false,
        multicast: false,
        encrypted: false,
        allow_overlap: false,
        labels: Labels::new(),
        ingress: false,
    }))
}

fn create_endpoint(name: &str, network: NetworkId, node: NodeId) -> Command {
    let inode = u64::from_be_bytes(fresh()[2..].try_into().unwrap());
    Command::CreateEndpoint(Box::new(EndpointSpec {
        id: EndpointId::new(fresh()),
        name: name.to_owned(),
        network,
        node,
        ipv4: None,
        ipv6: None,
        mac: None,
        ifname: None,
        aliases: Vec::new(),
        labels: Labels::new(),
        attachment: Attachment {
            path: format!("/proc/{inode}/ns/net"),
            device: 4,
            inode,
            boot_id: "boot".to_owned(),
        },
        kind: EndpointKind::Attached,
        service: None,
        weight: 1,
        new_service: None,
    }))
}

/// Waits for a condition.
#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) -> impl Future<Output = ()> {
    let failed = format!("not reached: {what} ({})", std::panic::Location::caller());
    async move {
        let deadline = Instant::now() + LONG;
        while !holds() {
            assert!(Instant::now() < deadline, "{failed}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn views(hosts: &[&Host]) -> Vec<View> {
    hosts
        .iter()
        .map(|host| host.plane.with_view(View::clone))
        .collect()
}

/// Waits until all hosts reflect the same state, at or past what the first reflects now.
async fn converged(hosts: &[&Host]) {
    let least = hosts.first().map_or(0, |host| host.revision());
    until("equal views", || {
        let views = views(hosts);
        views
            .iter()
            .all(|view| view.revision >= least && *view == views[0])
    })
    .await;
}
