use std::sync::Arc;

use tokio::sync::broadcast;
use weft_raft::model::{Change, NodeId, Revision, View};

use crate::api::types::{
    Endpoint, EndpointState, Event, EventAction, EventObject, EventType, Network, Node,
};
use crate::translate::{self, Index};

/// Events that a slow listener may fall behind by before it is told to read everything again.
const BACKLOG: usize = 1024;

/// Where things that happened are told to whoever listens.
#[derive(Clone, Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<Arc<Event>>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self {
            sender: broadcast::channel(BACKLOG).0,
        }
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }

    /// The state was replaced as a whole: what was between is not known.
    pub(super) fn snapshot(&self, revision: Revision) {
        self.send(resync(revision));
    }

    /// Tells of changes that lead from `before` to `revision`.
    pub(super) fn changes(
        &self,
        before: &View,
        index: &Index,
        local: Option<NodeId>,
        revision: Revision,
        changes: &[Change],
    ) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        for change in changes {
            self.send(event(before, index, local, revision, change));
        }
    }

    fn send(&self, event: Event) {
        // Nobody listening is no failure.
        let _ = self.sender.send(Arc::new(event));
    }
}

/// What a listener that lost its place is told.
pub(super) fn resync(revision: Revision) -> Event {
    Event {
        revision,
        object_type: EventType::Cluster,
        action: EventAction::Resync,
        id: String::new(),
        name: None,
        object: None,
    }
}

fn event(
    before: &View,
    index: &Index,
    local: Option<NodeId>,
    revision: Revision,
    change: &Change,
) -> Event {
    let made = |known: bool| {
        if known {
            EventAction::Changed
        } else {
            EventAction::Created
        }
    };
    let (object_type, action, id, name, object) = match change {
        Change::Cluster(cluster) => {
            let action = made(before.cluster.is_some());
            (
                EventType::Cluster,
                action,
                cluster.id.to_string(),
                None,
                None,
            )
        }
        Change::Node(row) => {
            let action = made(before.nodes.contains_key(&row.id));
            let object = EventObject::Node(Box::new(Node::from_row(row, None, local)));
            (
                EventType::Node,
                action,
                row.id.to_string(),
                Some(row.name.clone()),
                Some(object),
            )
        }
        Change::NodeGone(id) => {
            let name = before.nodes.get(id).map(|row| row.name.clone());
            (
                EventType::Node,
                EventAction::Removed,
                id.to_string(),
                name,
                None,
            )
        }
        Change::Network(row) => {
            let action = made(before.networks.contains_key(&row.id));
            let mtu = translate::network_mtu(before, index, row, local);
            let object = EventObject::Network(Box::new(Network::from_row(row, mtu, before)));
            (
                EventType::Network,
                action,
                row.id.to_string(),
                Some(row.name.clone()),
                Some(object),
            )
        }
        Change::NetworkGone(id) => {
            let name = before.networks.get(id).map(|row| row.name.clone());
            (
                EventType::Network,
                EventAction::Removed,
                id.to_string(),
                name,
                None,
            )
        }
        Change::Endpoint(row) => {
            let action = made(before.endpoints.contains_key(&row.id));
            let endpoint = Endpoint::from_row(row, before, EndpointState::Pending, None);
            let object = EventObject::Endpoint(Box::new(endpoint));
            (
                EventType::Endpoint,
                action,
                row.id.to_string(),
                Some(row.name.clone()),
                Some(object),
            )
        }
        Change::EndpointGone(id) => {
            let name = before.endpoints.get(id).map(|row| row.name.clone());
            (
                EventType::Endpoint,
                EventAction::Removed,
                id.to_string(),
                name,
                None,
            )
        }
        Change::Service(row) => {
            let action = made(before.services.contains_key(&row.id));
            (
                EventType::Service,
                action,
                row.id.to_string(),
                Some(row.name.clone()),
                None,
            )
        }
        Change::ServiceGone(id) => {
            let name = before.services.get(id).map(|row| row.name.clone());
            (
                EventType::Service,
                EventAction::Removed,
                id.to_string(),
                name,
                None,
            )
        }
    };
    Event {
        revision,
        object_type,
        action,
        id,
        name,
        object,
    }
}
