//! Starting a cluster and entering one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use weft_overlay::host::{self, HostFacts};
use weft_raft::control::{self, Member, NodeFacts};
use weft_raft::identity::JoinToken;
use weft_raft::model;

use super::backend::{Daemon, PROPOSE_TIMEOUT};
use crate::api::types::{ApiError, InitRequest, JoinRequest, Joined};

/// UDP port of the control plane.
const CONTROL_PORT: u16 = 2377;
/// UDP port of VXLAN (RFC 7348 section 5).
const DATA_PATH_PORT: u16 = 4789;
/// Prefix length of subnets that are assigned.
const POOL_MASK_LENGTH: u8 = 24;
/// Lifetime of node certificates: 90 days.
const CERT_EXPIRY: Duration = Duration::from_secs(90 * 24 * 3600);
/// Shortest lifetime: renewal must have time to happen.
const MIN_CERT_EXPIRY: Duration = Duration::from_secs(3600);
/// Managers that a joiner may be pointed at.
const MAX_REMOTES: usize = 16;

pub(super) async fn init(daemon: Daemon, request: InitRequest) -> Result<Joined, ApiError> {
    let facts = facts().await?;
    let place = Place::choose(
        &daemon,
        &facts,
        request.advertise_addr.as_deref(),
        request.listen_addr.as_deref(),
        request.data_path_addr.as_deref(),
    )?;
    let data_path_port = request.data_path_port.unwrap_or(DATA_PATH_PORT);
    if !(1024..=49151).contains(&data_path_port) {
        return Err(ApiError::invalid(format!(
            "data-path port {data_path_port} is not in the accepted range 1024-49151"
        )));
    }
    let cert_expiry = request
        .cert_expiry_s
        .map_or(CERT_EXPIRY, Duration::from_secs);
    if cert_expiry < MIN_CERT_EXPIRY {
        return Err(ApiError::invalid(format!(
            "certificates that live {}s cannot be renewed in time; use 1h or more",
            cert_expiry.as_secs()
        )));
    }
    let member = daemon
        .control
        .init(control::InitRequest {
            listen: place.listen,
            advertise: place.advertise,
            facts: place.facts,
            data_path_port,
            pools: request.default_addr_pools,
            pool_mask_length: request
                .default_addr_pool_mask_length
                .unwrap_or(POOL_MASK_LENGTH),
            cert_expiry,
            availability: request
                .availability
                .map_or(model::Availability::Active, Into::into),
        })
        .await?;
    joined(&daemon, member, place.advertise).await
}

pub(super) async fn join(daemon: Daemon, request: JoinRequest) -> Result<Joined, ApiError> {
    let token: JoinToken = request
        .token
        .parse()
        .map_err(|error| ApiError::invalid(format!("join token refused: {error}")))?;
    let facts = facts().await?;
    let place = Place::choose(
        &daemon,
        &facts,
        request.advertise_addr.as_deref(),
        request.listen_addr.as_deref(),
        request.data_path_addr.as_deref(),
    )?;
    let member = daemon
        .control
        .join(control::JoinRequest {
            token,
            remotes: resolve(&request.remotes).await?,
            listen: place.listen,
            advertise: place.advertise,
            facts: place.facts,
            availability: request
                .availability
                .map_or(model::Availability::Active, Into::into),
        })
        .await?;
    joined(&daemon, member, place.advertise).await
}

/// Where this node listens and how it is reached.
struct Place {
    listen: SocketAddr,
    advertise: SocketAddr,
    facts: NodeFacts,
}

impl Place {
    fn choose(
        daemon: &Daemon,
        facts: &HostFacts,
        advertise: Option<&str>,
        listen: Option<&str>,
        data_path: Option<&str>,
    ) -> Result<Self, ApiError> {
        let invalid = |error: host::PickError| ApiError::invalid(error.to_string());
        let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, CONTROL_PORT));
        let mut listen = facts.pick_listen(listen, all).map_err(invalid)?;
        let advertise = facts
            .pick_advertise_behind(advertise, listen.ip())
            .map_err(invalid)?;
        let data_path_addr = facts
            .pick_data_path(data_path, advertise)
            .map_err(invalid)?;
        if listen.ip().is_unspecified() && advertise.is_ipv6() {
            // The IPv6 wildcard takes IPv4 too (RFC 3493 section 5.3), the IPv4 one nothing else.
            listen.set_ip(std::net::Ipv6Addr::UNSPECIFIED.into());
        }
        let underlay_mtu = facts.mtu_for(data_path_addr).ok_or_else(|| {
            ApiError::invalid(format!(
                "data-path address {data_path_addr} is on no interface of this host"
            ))
        })?;
        let name = match &daemon.node_name {
            Some(name) => name.clone(),
            None => host_name()?,
        };
        Ok(Self {
            advertise: SocketAddr::new(advertise, listen.port()),
            listen,
            facts: NodeFacts {
                name,
                data_path_addr,
                underlay_mtu,
                host_routes: facts.routes.clone(),
            },
        })
    }
}

async fn facts() -> Result<HostFacts, ApiError> {
    host::facts()
        .await
        .map_err(|error| ApiError::failed(format!("this host's addresses cannot be read: {error}")))
}

fn host_name() -> Result<String, ApiError> {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| {
            ApiError::failed("this host has no name; set one, or give the agent --node-name")
        })
}

async fn joined(daemon: &Daemon, member: Member, addr: SocketAddr) -> Result<Joined, ApiError> {
    // The answer names the node as the cluster does, which the first row to arrive tells.
    let mut changes = daemon.control.subscribe();
    let name = tokio::time::timeout(PROPOSE_TIMEOUT, async {
        loop {
            let row = daemon
                .control
                .with_view(|view| view.nodes.get(&member.node).cloned());
            if let Some(row) = row {
                return Some(row.name.clone());
            }
            changes.next().await?;
        }
    })
    .await;
    Ok(Joined {
        node: member.node.to_string(),
        name: name.ok().flatten().unwrap_or_default(),
        cluster: member.cluster.to_string(),
        role: member.role.into(),
        addr,
    })
}

/// `HOST[:PORT]`, where HOST is an address (IPv6 in brackets when a port follows) or a name.
async fn resolve(remotes: &[String]) -> Result<Vec<SocketAddr>, ApiError> {
    let mut addresses = Vec::new();
    for remote in remotes.iter().take(MAX_REMOTES) {
        if let Ok(address) = remote.parse::<SocketAddr>() {
            addresses.push(address);
            continue;
        }
        let bare = remote.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            addresses.push(SocketAddr::new(ip, CONTROL_PORT));
            continue;
        }
        let with_port = match remote.contains(':') {
            true => remote.clone(),
            false => format!("{remote}:{CONTROL_PORT}"),
        };
        let found = tokio::net::lookup_host(&with_port).await.map_err(|error| {
            ApiError::invalid(format!(
                "manager `{}` cannot be resolved ({error}); give HOST[:PORT], such as 192.0.2.1:2377",
                remote.escape_debug()
            ))
        })?;
        addresses.extend(found);
    }
    Ok(addresses)
}
