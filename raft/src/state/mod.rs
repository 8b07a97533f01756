//! The replicated state machine: what a cluster is after a given prefix of its log.
//!
//! [`State::apply`] is a pure function of the state and the entry: it decides first, looking only,
//! and then takes in the [`Change`]s of its decision, all by one path. A refused command therefore
//! cannot leave half a change, and a replica that applies the same changes to its [`View`] is equal
//! to the original by construction. Subnets, VNIs, names and addresses are assigned here and
//! nowhere else, so that no two rows can hold the same.
//!
//! Every rule and limit here is part of what a log means: managers that decide one entry
//! differently are no replicas any more. A change of one needs a new [`crate::codec::WIRE_VERSION`].

mod address;
mod backend;
mod check;
mod cluster;
pub(crate) mod cost;
mod endpoint;
mod index;
mod ingress;
pub mod limits;
mod network;
mod node;
mod pool;
mod ports;
mod prefix;
mod refuse;
mod requests;
mod route;
mod service;
mod subnet;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::command::{Applied, Command, Object, Outcome, Proposal, Refusal, Secrets};
use crate::model::{Change, Cluster, NetworkId, Node, Revision, View};
use index::{Floors, Index};
use pool::AddressPool;
use requests::Requests;

pub use subnet::Room;

/// The replicated state. Serializes into a snapshot; equal states give equal bytes.
#[derive(Clone, Debug, Default)]
pub struct State {
    view: View,
    secrets: Option<Secrets>,
    requests: Requests,
    index: Index,
}

/// What a command comes to, before any of it is done.
struct Decision {
    object: Object,
    changes: Vec<Change>,
    secrets: Option<Secrets>,
    floors: Option<Floors>,
}

impl Decision {
    fn new(object: Object, changes: Vec<Change>) -> Self {
        Self {
            object,
            changes,
            secrets: None,
            floors: None,
        }
    }
}

impl State {
    /// The state before the first command.
    pub fn new() -> Self {
        Self::default()
    }

    /// What every node may know of it.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What only managers may know of it; `None` before the cluster is made.
    pub fn secrets(&self) -> Option<&Secrets> {
        self.secrets.as_ref()
    }

    /// The manager with that id in the Raft membership.
    pub fn raft_node(&self, raft_id: u64) -> Option<&Arc<Node>> {
        self.view.nodes.get(self.index.raft_ids.get(&raft_id)?)
    }

    /// Applies the log entry at `index`, which must be greater than the revision of the state.
    /// Returns the outcome and the rows that changed; a refused command changes none, and neither
    /// does a request that was applied before, which is answered with the first outcome.
    pub fn apply(&mut self, index: Revision, proposal: &Proposal) -> (Outcome, Vec<Change>) {
        if let Some(first) = self.requests.get(&proposal.request).cloned() {
            self.advance(index);
            return (first, Vec::new());
        }
        if index <= self.view.revision {
            let refusal = refuse::invalid(format_args!(
                "log entry {index} refused: the state reflects entry {} already",
                self.view.revision
            ));
            return (Err(refusal), Vec::new());
        }
        let (outcome, changes) = match self.decide(index, &proposal.command) {
            Ok(decision) => self.commit(index, decision),
            Err(refusal) => (Err(refusal), Vec::new()),
        };
        self.advance(index);
        self.requests.record(proposal.request, outcome.clone());
        (outcome, changes)
    }

    /// Takes note of a log entry that carries no proposal: only the revision moves.
    pub fn advance(&mut self, index: Revision) {
        self.view.apply(index, &[]);
    }

    fn decide(&self, index: Revision, command: &Command) -> Result<Decision, Refusal> {
        if let Command::Init(init) = command {
            return self.init(index, init);
        }
        let cluster = self.view.cluster.as_ref().ok_or_else(|| {
            refuse::conflict("there is no cluster yet; make one with `weft init`")
        })?;
        match command {
            Command::Init(init) => self.init(index, init),
            Command::AddNode(spec) => self.add_node(index, spec),
            Command::UpdateNode { id, change } => self.update_node(index, *id, change),
            Command::RemoveNode { id } => self.remove_node(*id),
            Command::SetNodeStatus(heard) => self.set_node_status(index, heard),
            Command::RotateToken { role, secret } => self.rotate_token(*role, secret.0),
            Command::CreateNetwork(spec) => self.create_network(index, cluster, spec),
            Command::RemoveNetwork { id } => self.remove_network(index, *id),
            Command::CreateEndpoint(spec) => self.create_endpoint(index, spec),
            Command::RemoveEndpoint { id } => self.remove_endpoint(*id),
            Command::CreateService(spec) => self.create_service(index, spec),
            Command::UpdateService { id, change } => self.update_service(index, *id, change),
            Command::RemoveService { id } => self.remove_service(index, *id),
            Command::UpdateEndpoint { id, change } => self.update_endpoint(index, *id, *change),
            Command::SetBackends(heard) => self.set_backends(index, heard),
            Command::UpdateNetwork { id, change } => self.update_network(index, *id, change),
        }
    }

    fn commit(&mut self, index: Revision, decision: Decision) -> (Outcome, Vec<Change>) {
        for change in &decision.changes {
            self.index.absorb(&self.view, change);
        }
        if let Some(floors) = decision.floors {
            self.index.floors = floors;
        }
        if decision.secrets.is_some() {
            self.secrets = decision.secrets;
        }
        self.view.apply(index, &decision.changes);
        let applied = Applied {
            revision: index,
            object: decision.object,
        };
        (Ok(applied), decision.changes)
    }

    /// Refuses to grow by a row of `bytes` past what a manager's memory is meant to hold.
    fn check_room(&self, bytes: usize) -> Result<(), Refusal> {
        if self.index.bytes.saturating_add(bytes) <= limits::STATE_BYTES {
            return Ok(());
        }
        Err(refuse::exhausted(format_args!(
            "the cluster's state is full: {} of {} bytes are used; remove endpoints, networks or \
             labels",
            self.index.bytes,
            limits::STATE_BYTES
        )))
    }
}

/// [`State`] as it is stored: without what follows from the rows.
#[derive(Serialize, Deserialize)]
struct Snapshot<V, S, P, R> {
    view: V,
    secrets: S,
    pools: P,
    requests: R,
}

type Owned = Snapshot<View, Option<Secrets>, BTreeMap<NetworkId, AddressPool>, Requests>;

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pools: BTreeMap<_, _> = (self.index.members.iter())
            .map(|(network, members)| (network, &members.pool))
            .collect();
        Snapshot {
            view: &self.view,
            secrets: &self.secrets,
            pools,
            requests: &self.requests,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for State {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Owned::deserialize(deserializer)?;
        Ok(Self {
            index: Index::rebuild(&stored.view, stored.pools),
            view: stored.view,
            secrets: stored.secrets,
            requests: stored.requests,
        })
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
