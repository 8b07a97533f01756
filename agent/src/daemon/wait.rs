//! How far the kernels of the cluster are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_raft::model::{self, NodeId, NodeStatus, Revision, View};

use super::backend::Daemon;
use super::reconcile::KernelState;
use crate::api::types::{ApiError, EndpointState, ErrorCode};
use crate::api::{WaitFor, lookup};

/// What the ready nodes' kernels reflect.
pub(super) type AppliedMap = BTreeMap<NodeId, Revision>;

/// How often the leader is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// How long one question may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits until every ready node's kernel reflects something.
pub(super) async fn wait(
    daemon: &Daemon,
    what: WaitFor,
    timeout: Duration,
) -> Result<Revision, ApiError> {
    let this = daemon.this()?;
    let target = daemon.control.with_view(|view| Target::of(view, what))?;
    let wanted = target.revision;
    // An endpoint that cannot be attached holds no revision up; only its own node knows of it.
    let failure = || {
        let mut own = target.endpoints.iter().filter(|row| row.node == this);
        own.find_map(|row| {
            let why = daemon.describe(row, None).error?;
            Some(format!("endpoint `{}` cannot be attached: {why}", row.name))
        })
    };
    let deadline = Instant::now() + timeout;
    loop {
        let asked = daemon.control.applied(ASK_TIMEOUT.min(timeout)).await;
        let behind = match &asked {
            Ok(applied) => behind(applied, wanted),
            Err(_) => Vec::new(),
        };
        let failure = failure();
        if asked.is_ok() && behind.is_empty() && failure.is_none() {
            return Ok(wanted);
        }
        if Instant::now() >= deadline {
            return match (asked, failure) {
                (Err(error), _) => Err(error.into()),
                (Ok(_), Some(why)) if behind.is_empty() => {
                    Err(ApiError::new(ErrorCode::TimedOut, why))
                }
                (Ok(_), _) => Err(late(daemon, wanted, timeout, &behind)),
            };
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// What is to be in the kernels.
struct Target {
    revision: Revision,
    /// With these working.
    endpoints: Vec<Arc<model::Endpoint>>,
}

impl Target {
    fn of(view: &View, what: WaitFor) -> Result<Self, ApiError> {
        let (own, endpoints) = match what {
            WaitFor::Revision(revision) => (revision, Vec::new()),
            WaitFor::Endpoint(name) => (0, vec![lookup::endpoint(view, &name)?.clone()]),
            WaitFor::Service(name) => {
                let service = lookup::service(view, &name)?;
                let members = lookup::members(view, service.id).cloned();
                (service.revision, members.collect())
            }
        };
        let revisions = endpoints.iter().map(|row| row.revision);
        Ok(Self {
            revision: revisions.fold(own, Revision::max),
            endpoints,
        })
    }
}

/// The nodes whose kernels are not there yet.
fn behind(applied: &AppliedMap, wanted: Revision) -> Vec<(NodeId, Revision)> {
    applied
        .iter()
        .filter(|(_, revision)| **revision < wanted)
        .map(|(node, revision)| (*node, *revision))
        .collect()
}

fn late(
    daemon: &Daemon,
    wanted: Revision,
    timeout: Duration,
    behind: &[(NodeId, Revision)],
) -> ApiError {
    let nodes = daemon.control.with_view(|view| {
        let name = |id: &NodeId| {
            view.nodes
                .get(id)
                .map_or_else(|| id.to_string(), |n| n.name.clone())
        };
        let each: Vec<String> = behind
            .iter()
            .map(|(id, at)| format!("{} is at {at}", name(id)))
            .collect();
        each.join(", ")
    });
    ApiError::new(
        ErrorCode::TimedOut,
        format!(
            "revision {wanted} is not in every kernel after {timeout:?}: {nodes}; \
             'weft status' there says why"
        ),
    )
}

/// How far an endpoint is, and why if it failed. `applied` is what the leader said, if it did.
pub(super) fn endpoint_state(
    row: &model::Endpoint,
    view: &View,
    this: NodeId,
    kernel: &KernelState,
    applied: Option<&AppliedMap>,
) -> (EndpointState, Option<String>) {
    if row.node == this {
        return match kernel.failure(row) {
            Some(why) => (EndpointState::Failed, Some(why.clone())),
            None if kernel.seen >= row.revision => (EndpointState::Ready, None),
            None => (EndpointState::Pending, None),
        };
    }
    let node = view.nodes.get(&row.node);
    if node.is_none_or(|node| node.status == NodeStatus::Down) {
        return (EndpointState::Down, None);
    }
    let reached = applied
        .and_then(|applied| applied.get(&row.node))
        .copied()
        .unwrap_or(0);
    match reached >= row.revision {
        true => (EndpointState::Ready, None),
        false => (EndpointState::Pending, None),
    }
}
