//! What backends have taken and answered, asked of the nodes that have counted it. It is no part of
//! the replicated state: it would change with every packet.
//!
//! A manager asks the nodes; a worker asks a manager, which does. Nobody is waited for long, and
//! of whoever did not answer it is said that nothing is known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::running::Running;
use crate::codec;
use crate::model::{EndpointId, Node, NodeId, NodeStatus, Role, ServiceId};
use crate::transport::CallError;
use crate::wire::{Failure, Request, Response};

/// How long a node may take to read its counters.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long all of them may take.
const ALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a worker waits for its manager, which waits for the others.
const MANAGER_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long a worker looks for a manager that answers.
const WORKER_TIMEOUT: Duration = Duration::from_secs(4);
/// Nodes that are asked at once.
const AT_A_TIME: usize = 32;
/// Questions about services that a manager puts to others at once. A node closes the oldest of more
/// than eight connections with one other.
pub(super) const GATHERINGS: usize = 4;
/// Longest reason of another node that is repeated, characters.
const REASON_MAX: usize = 200;

/// What a backend of a service has taken and answered since it was attached, and what it has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendNumbers {
    /// Flows that it has now.
    pub connections: u64,
    /// Connections that others have begun to it.
    pub connections_total: u64,
    /// Packets from those who began them.
    pub packets_in: u64,
    /// IP packets' bytes from them.
    pub bytes_in: u64,
    /// Packets to them.
    pub packets_out: u64,
    /// IP packets' bytes to them.
    pub bytes_out: u64,
}

/// The numbers of backends, or why they are not known, in one line.
pub type NumbersOf = BTreeMap<EndpointId, Result<BackendNumbers, String>>;

/// Reads what a node's own kernel has counted.
pub trait NumbersSource: Send + Sync + 'static {
    /// Of this node's backends of a service.
    fn numbers(&self, service: ServiceId) -> BoxFuture<'static, NumbersOf>;
}

/// Where the source is, once there is one.
#[derive(Clone, Default)]
pub(super) struct SourceSlot(Arc<Mutex<Option<Arc<dyn NumbersSource>>>>);

impl SourceSlot {
    pub(super) fn set(&self, source: Option<Arc<dyn NumbersSource>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    async fn read(&self, service: ServiceId) -> NumbersOf {
        let source = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match source {
            Some(source) => source.numbers(service).await,
            None => NumbersOf::new(),
        }
    }
}

impl fmt::Debug for SourceSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SourceSlot(..)")
    }
}

impl Running {
    /// The numbers of a service's backends on other nodes than this.
    pub(super) async fn others_numbers(&self, service: ServiceId) -> NumbersOf {
        let own = self.member.node;
        match self.member.role {
            Role::Manager => self.gather(service, own).await,
            Role::Worker => self.ask_a_manager(service, own).await,
        }
    }

    /// What this node's kernel has counted.
    pub(super) async fn own_numbers(&self, service: ServiceId) -> NumbersOf {
        self.numbers.read(service).await
    }

    /// The numbers of a service's backends on all nodes but one.
    pub(super) async fn gather(&self, service: ServiceId, except: NodeId) -> NumbersOf {
        let deadline = Instant::now() + ALL_TIMEOUT;
        let members = self.members_elsewhere(service, except);
        let Ok(Ok(_room)) = timeout_at(deadline, self.gatherings.acquire()).await else {
            let busy = "too many ask for such numbers at once";
            return unknown(members.into_iter().flat_map(|(_, ids)| ids), busy);
        };
        let asked = members.into_iter().map(|(node, ids)| async move {
            let answer = match &node {
                Some(node) => self.numbers_on(node, service, deadline).await,
                None => Err("its node is gone".to_owned()),
            };
            match answer {
                Ok(mut found) => ids
                    .into_iter()
                    .map(|id| (id, found.remove(&id).unwrap_or_else(uncounted)))
                    .collect(),
                Err(why) => unknown(ids, &why),
            }
        });
        let answers: Vec<NumbersOf> = stream::iter(asked)
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await;
        answers.into_iter().flatten().collect()
    }

    async fn numbers_on(
        &self,
        node: &Node,
        service: ServiceId,
        deadline: Instant,
    ) -> Result<NumbersOf, String> {
        let name = &node.name;
        let deadline = deadline.min(Instant::now() + NODE_TIMEOUT);
        if node.id == self.member.node {
            let read = timeout_at(deadline, self.own_numbers(service)).await;
            return read.map_err(|_| format!("{name} took too long to count"));
        }
        if node.status == NodeStatus::Down {
            return Err(format!("node {name} is down"));
        }
        let request = Request::OwnNumbers(service);
        let left = deadline.saturating_duration_since(Instant::now());
        let answer = match node.role {
            Role::Manager => self.ask(node.addr, node.id, &request, left).await,
            // No connection is kept for what is asked so rarely.
            Role::Worker => self.ask_once(node, &request, left).await,
        };
        match answer {
            Ok(Response::Numbers(numbers)) => Ok(numbers.into_iter().map(bounded).collect()),
            Ok(Response::Failed(failure)) => Err(format!("node {name}: {}", reason(&failure))),
            Ok(_) => Err(format!("node {name} answers something else")),
            Err(CallError::TimedOut { .. }) => Err(format!("node {name} did not answer in time")),
            Err(error) => Err(shortened(&format!("node {name} does not answer: {error}"))),
        }
    }

    async fn ask_once(
        &self,
        node: &Node,
        request: &Request,
        timeout: Duration,
    ) -> Result<Response, CallError> {
        let malformed = |error: codec::CodecError| CallError::Malformed {
            to: node.addr,
            reason: error.to_string(),
        };
        let body = codec::encode(request).map_err(malformed)?;
        let call = self.transport.call_once(node.addr, node.id, body, timeout);
        codec::decode(&call.await?).map_err(malformed)
    }

    /// One manager after the other, who leads first.
    async fn ask_a_manager(&self, service: ServiceId, own: NodeId) -> NumbersOf {
        let deadline = Instant::now() + WORKER_TIMEOUT;
        let leader = self.leader().map(|leader| (leader.node, leader.addr));
        let others = self.managers().into_iter();
        let others = others.filter(|(node, _)| Some(*node) != leader.map(|(leader, _)| leader));
        let mut why = "no manager is known".to_owned();
        for (node, addr) in leader.into_iter().chain(others) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let request = Request::ServiceNumbers(service);
            let wait = left.min(MANAGER_TIMEOUT);
            match self.ask(addr, node, &request, wait).await {
                Ok(Response::Numbers(numbers)) => {
                    return numbers.into_iter().map(bounded).collect();
                }
                Ok(Response::Failed(failure)) => why = reason(&failure),
                Ok(_) => why = "it answers something else".to_owned(),
                Err(error) => why = shortened(&error.to_string()),
            }
        }
        let members = self.members_elsewhere(service, own).into_iter();
        let why = format!("no manager could be asked: {why}");
        unknown(members.flat_map(|(_, ids)| ids), &why)
    }

    /// Nodes with members of a service, all but one.
    fn members_elsewhere(
        &self,
        service: ServiceId,
        except: NodeId,
    ) -> Vec<(Option<Arc<Node>>, Vec<EndpointId>)> {
        self.hub.with_view(|view| {
            let mut members: BTreeMap<NodeId, Vec<EndpointId>> = BTreeMap::new();
            let rows = view.endpoints.values();
            for row in rows.filter(|row| row.service == Some(service) && row.node != except) {
                members.entry(row.node).or_default().push(row.id);
            }
            let members = members.into_iter();
            members
                .map(|(node, ids)| (view.nodes.get(&node).cloned(), ids))
                .collect()
        })
    }
}

fn unknown(ids: impl IntoIterator<Item = EndpointId>, why: &str) -> NumbersOf {
    ids.into_iter()
        .map(|id| (id, Err(why.to_owned())))
        .collect()
}

fn uncounted() -> Result<BackendNumbers, String> {
    Err("its connections are not counted yet".to_owned())
}

fn bounded(
    (id, numbers): (EndpointId, Result<BackendNumbers, String>),
) -> (EndpointId, Result<BackendNumbers, String>) {
    (id, numbers.map_err(|why| shortened(&why)))
}

fn shortened(text: &str) -> String {
    let clean = text.chars().filter(|c| !c.is_control());
    clean.take(REASON_MAX).collect()
}

fn reason(failure: &Failure) -> String {
    match failure {
        Failure::Undecodable(_) => "another version, which does not know the question".to_owned(),
        Failure::Unauthorised(why) | Failure::Other(why) => shortened(why),
        _ => "it refuses".to_owned(),
    }
}
