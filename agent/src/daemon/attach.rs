//! Attaching a namespace to a network, and the way back.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;
use weft_raft::command::{Command, EndpointSpec, Object, RefusalKind};
use weft_raft::control::ProposeError;
use weft_raft::model::{self, Attachment, BackendState, EndpointId, NodeId, Revision};

use super::backend::{Daemon, PROPOSE_TIMEOUT};
use super::reconcile::KernelState;
use super::{service_plane, services};
use crate::api::lookup;
use crate::api::types::{ApiError, AttachRequest, Endpoint, ErrorCode};
use crate::container::{self, NetnsIdentity};

/// How long the kernel of this node may take.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the cluster may take to call a new backend ready. It goes on without.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the kernels of the network's other nodes are waited for. A node that is behind for
/// longer is no reason to hold back an endpoint that works towards all others.
const ELSEWHERE_TIMEOUT: Duration = Duration::from_millis(250);
/// How often the leader is asked how far they are; a change is in their kernels within some of it.
const ELSEWHERE_INTERVAL: Duration = Duration::from_millis(3);

/// An endpoint's share unless told otherwise.
const WEIGHT: u16 = 1;

/// Attaches; answers when this node's kernel has it, and as a rule those of the network's other
/// nodes too. A failure leaves nothing behind.
pub(super) async fn attach(daemon: Daemon, request: AttachRequest) -> Result<Endpoint, ApiError> {
    let this = daemon.this()?;
    let spec = spec(&daemon, this, request)?;
    let created = daemon
        .propose(Command::CreateEndpoint(Box::new(spec)))
        .await?;
    let Object::Endpoint(row) = created else {
        return Err(ApiError::failed(
            "the cluster answered something else than an endpoint",
        ));
    };
    match programmed(&daemon, &row).await {
        Ok(()) => {
            let row = taking_traffic(&daemon, row).await;
            elsewhere(&daemon, &row).await;
            Ok(daemon.describe(&row, None))
        }
        Err(error) => {
            let undo = Command::RemoveEndpoint { id: row.id };
            if let Err(undo) = daemon.control.propose(undo, PROPOSE_TIMEOUT).await {
                warn!(endpoint = %row.id, error = %undo, "a failed attach could not be undone");
            }
            Err(error)
        }
    }
}

/// Removes an endpoint; answers when this node's kernel no longer has it. A member of a service is
/// drained first, unless forced.
pub(super) async fn detach(
    daemon: Daemon,
    wanted: String,
    force: bool,
) -> Result<Endpoint, ApiError> {
    let this = daemon.this()?;
    let row = daemon
        .control
        .with_view(|view| lookup::endpoint(view, &wanted).cloned())?;
    if row.node != this && !force {
        let node = daemon.control.with_view(|view| {
            view.nodes
                .get(&row.node)
                .map_or_else(|| row.node.to_string(), |n| n.name.clone())
        });
        return Err(ApiError::new(
            ErrorCode::Conflict,
            format!(
                "endpoint `{}` is on node {node}; detach it there, or use --force",
                row.name
            ),
        ));
    }
    let was = daemon.describe(&row, None);
    if !force {
        service_plane::drain(&daemon, &row).await?;
    }
    let remove = Command::RemoveEndpoint { id: row.id };
    let applied = match daemon.control.propose(remove, PROPOSE_TIMEOUT).await {
        Ok(applied) => applied,
        // It was there a moment ago: somebody else has removed it meanwhile.
        Err(ProposeError::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {
            return Ok(was);
        }
        Err(error) => return Err(error.into()),
    };
    if row.node == this {
        // The row is gone either way; a kernel that cannot follow is shown by `status`.
        let _ = seen(&daemon, applied.revision).await;
    }
    Ok(was)
}

fn spec(daemon: &Daemon, this: NodeId, request: AttachRequest) -> Result<EndpointSpec, ApiError> {
    let (network, service) = daemon.control.with_view(|view| {
        let network = lookup::network(view, &request.network)?;
        if network.ingress {
            return Err(ApiError::invalid(format!(
                "network {} carries published ports and takes no endpoints; name another network",
                network.name
            )));
        }
        let service = match &request.service {
            Some(wanted) => Some(lookup::service(view, wanted)?.id),
            None => None,
        };
        Ok((network.id, service))
    })?;
    // Says which of the two ways to name a namespace was meant, before anything is opened.
    request.netns_path()?;
    let identity = container::identify(request.pid, request.netns.as_deref())
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    if is_sandbox(&daemon.netns_dir, &identity) {
        return Err(ApiError::invalid(format!(
            "`{}` is a sandbox of weft's own; only a container's namespace can be attached",
            identity.path
        )));
    }
    let id = EndpointId(daemon.random_id()?);
    let name = request.name.unwrap_or_else(|| format!("e-{id}"));
    let new_service = match request.publish {
        Some(publish) => Some(services::with_endpoint(daemon, publish, &name, network)?.into()),
        None => None,
    };
    Ok(EndpointSpec {
        id,
        name,
        network,
        node: this,
        ipv4: request.ip,
        ipv6: request.ip6,
        mac: request.mac,
        ifname: request
            .ifname
            .or_else(|| free_ifname(daemon, this, &identity)),
        aliases: request.aliases,
        labels: request.labels,
        attachment: Attachment {
            path: identity.path,
            device: identity.device,
            inode: identity.inode,
            boot_id: identity.boot_id,
        },
        kind: request.kind.into(),
        service,
        weight: request.weight.unwrap_or(WEIGHT),
        new_service,
    })
}

/// The cluster chooses among the names that its own endpoints leave. Only this host knows which
/// others the container has, such as the `eth0` that a runtime gave it; `None` if none is in the
/// way.
fn free_ifname(daemon: &Daemon, this: NodeId, identity: &NetnsIdentity) -> Option<String> {
    let numbered = |number: usize| format!("eth{number}");
    let taken = daemon.control.with_view(|view| {
        let own: BTreeSet<&str> = view
            .endpoints
            .values()
            .filter(|row| row.node == this)
            .filter(|row| {
                let place = &row.attachment;
                (place.device, place.inode) == (identity.device, identity.inode)
                    && place.boot_id == identity.boot_id
            })
            .map(|row| row.ifname.as_str())
            .collect();
        let there = identity.interfaces.iter().map(String::as_str);
        let foreign: BTreeSet<&str> = there.filter(|name| !own.contains(name)).collect();
        let wanted = (0..)
            .map(numbered)
            .find(|name| !own.contains(name.as_str()))?;
        let all: BTreeSet<String> = own.union(&foreign).map(|name| (*name).to_owned()).collect();
        foreign.contains(wanted.as_str()).then_some(all)
    })?;
    (0..).map(numbered).find(|name| !taken.contains(name))
}

/// Whether a namespace is one that this agent made to hold a network, by whatever path.
fn is_sandbox(netns_dir: &Path, identity: &NetnsIdentity) -> bool {
    let Ok(entries) = std::fs::read_dir(netns_dir) else {
        return false;
    };
    entries
        .filter_map(|entry| std::fs::metadata(entry.ok()?.path()).ok())
        .any(|found| (found.dev(), found.ino()) == (identity.device, identity.inode))
}

/// Waits until the kernel was brought to the revision that made the endpoint.
async fn programmed(daemon: &Daemon, row: &Arc<model::Endpoint>) -> Result<(), ApiError> {
    let kernel = seen(daemon, row.revision).await?;
    if let Some(why) = kernel.failure(row) {
        return Err(ApiError::failed(format!(
            "endpoint `{}` cannot be attached: {why}",
            row.name
        )));
    }
    if daemon
        .control
        .with_view(|view| view.endpoints.contains_key(&row.id))
    {
        Ok(())
    } else {
        Err(ApiError::failed(format!(
            "endpoint `{}` was removed again: its namespace is gone",
            row.name
        )))
    }
}

/// Waits, not for long, until a member of a service is ready where nothing but its being there is
/// asked for: who takes another backend away after this one has come loses no request.
async fn taking_traffic(daemon: &Daemon, row: Arc<model::Endpoint>) -> Arc<model::Endpoint> {
    let Some(service) = row.service else {
        return row;
    };
    let mut changes = daemon.control.subscribe();
    let reached = async {
        // The first item is what there is.
        while changes.next().await.is_some() {
            let (now, waits) = daemon.control.with_view(|view| {
                let now = view.endpoints.get(&row.id).cloned();
                let service = view.services.get(&service);
                (now, service.is_some_and(|service| service.health.is_none()))
            });
            let starting = |row: &Arc<model::Endpoint>| row.backend == BackendState::Starting;
            if !waits || !now.as_ref().is_some_and(starting) {
                return now;
            }
        }
        None
    };
    let reached = tokio::time::timeout(READY_TIMEOUT, reached).await;
    reached.ok().flatten().unwrap_or(row)
}

/// Waits, not for long, until the network's other nodes know the endpoint. Without it the first
/// packet is answered by a container whose question for the endpoint's MAC address nobody answers
/// yet, and that is asked again only after a second (RFC 1122 section 2.3.2.1).
async fn elsewhere(daemon: &Daemon, row: &model::Endpoint) {
    let others: BTreeSet<NodeId> = daemon.control.with_view(|view| {
        let on_it = view.endpoints.values().filter(|e| e.network == row.network);
        on_it
            .map(|e| e.node)
            .filter(|node| *node != row.node)
            .collect()
    });
    if others.is_empty() {
        return;
    }
    let deadline = Instant::now() + ELSEWHERE_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Nodes that are down are not in the answer, and not waited for.
        let Ok(applied) = daemon.control.applied(left).await else {
            return;
        };
        let behind = |node: &NodeId| applied.get(node).is_some_and(|at| *at < row.revision);
        if left.is_zero() || !others.iter().any(behind) {
            return;
        }
        tokio::time::sleep(ELSEWHERE_INTERVAL).await;
    }
}

async fn seen(daemon: &Daemon, revision: Revision) -> Result<Arc<KernelState>, ApiError> {
    let mut follow = daemon.kernel.clone();
    let reached = tokio::time::timeout(
        PROGRAM_TIMEOUT,
        follow.wait_for(|state| state.seen >= revision),
    );
    match reached.await {
        Ok(Ok(state)) => Ok(state.clone()),
        _ => Err(ApiError::new(
            ErrorCode::TimedOut,
            format!("this node's kernel did not reach revision {revision} in {PROGRAM_TIMEOUT:?}"),
        )),
    }
}
