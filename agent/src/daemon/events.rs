mod warnings;

use std::sync::Arc;

use tokio::sync::broadcast;
use weft_raft::model::{self, Change, NodeId, Revision, View};

use super::health::Reasons;
use crate::api::lookup;
use crate::api::types::{
    Endpoint, EndpointState, Event, EventAction, EventObject, EventType, Network, Node, Service,
    Warning,
};
use crate::translate::{self, Index};

/// Events that a slow listener may fall behind by before it is told to read everything again.
const BACKLOG: usize = 1024;

/// Where things that happened are told to whoever listens.
#[derive(Clone, Debug)]
pub(super) struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    reasons: Reasons,
}

impl Events {
    pub(super) fn new(reasons: Reasons) -> Self {
        Self {
            sender: broadcast::channel(BACKLOG).0,
            reasons,
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
            let mut event = event(before, index, local, revision, change);
            if let (Change::Endpoint(row), Some(EventObject::Endpoint(shown))) =
                (change, &mut event.object)
            {
                shown.backend_error = self.reasons.of(row);
            }
            self.send(event);
            for warning in warnings::of_change(before, revision, change) {
                self.send(warning);
            }
        }
        for warning in warnings::shortages(before, revision, changes) {
            self.send(warning);
        }
    }

    /// Tells of an endpoint of this node what is to be known of it.
    pub(super) fn notice(&self, view: &View, row: &model::Endpoint, notice: String) {
        let endpoint = Endpoint {
            notice: Some(notice),
            ..Endpoint::from_row(row, view, EndpointState::Ready, None)
        };
        self.send(Event {
            revision: view.revision,
            object_type: EventType::Endpoint,
            action: EventAction::Changed,
            id: row.id.to_string(),
            name: Some(row.name.clone()),
            object: Some(EventObject::Endpoint(Box::new(endpoint))),
        });
    }

    /// Tells that changes which somebody else made to what is weft's were taken back here.
    pub(super) fn repaired(&self, view: &View, node: NodeId, changes: u64) {
        let name = view.nodes.get(&node).map(|row| row.name.clone());
        let message = format!("put back what somebody else had changed: {changes} changes");
        self.send(Event {
            revision: view.revision,
            object_type: EventType::Node,
            action: EventAction::Repaired,
            id: node.to_string(),
            name: name.clone(),
            object: Some(EventObject::Warning(Warning {
                node: name,
                message,
            })),
        });
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
    let now = |object_type, known, id: &dyn ToString, name: Option<&String>, object| Event {
        revision,
        object_type,
        action: match known {
            true => EventAction::Changed,
            false => EventAction::Created,
        },
        id: id.to_string(),
        name: name.cloned(),
        object,
    };
    let gone = |object_type, id: &dyn ToString, name: Option<&String>| Event {
        revision,
        object_type,
        action: EventAction::Removed,
        id: id.to_string(),
        name: name.cloned(),
        object: None,
    };
    match change {
        Change::Cluster(row) => {
            let known = before.cluster.is_some();
            now(EventType::Cluster, known, &row.id, None, None)
        }
        Change::Node(row) => {
            let known = before.nodes.contains_key(&row.id);
            let object = EventObject::Node(Box::new(Node::from_row(row, None, local)));
            now(
                EventType::Node,
                known,
                &row.id,
                Some(&row.name),
                Some(object),
            )
        }
        Change::NodeGone(id) => {
            let name = before.nodes.get(id).map(|row| &row.name);
            gone(EventType::Node, id, name)
        }
        Change::Network(row) => {
            let known = before.networks.contains_key(&row.id);
            let mtu = translate::network_mtu(before, index, row, local);
            let object = EventObject::Network(Box::new(Network::from_row(row, mtu, before)));
            now(
                EventType::Network,
                known,
                &row.id,
                Some(&row.name),
                Some(object),
            )
        }
        Change::NetworkGone(id) => {
            let name = before.networks.get(id).map(|row| &row.name);
            gone(EventType::Network, id, name)
        }
        Change::Endpoint(row) => {
            let known = before.endpoints.contains_key(&row.id);
            let endpoint = Endpoint::from_row(row, before, EndpointState::Pending, None);
            let object = EventObject::Endpoint(Box::new(endpoint));
            now(
                EventType::Endpoint,
                known,
                &row.id,
                Some(&row.name),
                Some(object),
            )
        }
        Change::EndpointGone(id) => {
            let name = before.endpoints.get(id).map(|row| &row.name);
            gone(EventType::Endpoint, id, name)
        }
        Change::Service(row) => {
            let known = before.services.contains_key(&row.id);
            let members = lookup::members(before, row.id);
            let untold = "an event tells no numbers; inspect the service";
            let service = Service::from_row(row, members, before, |_| Err(untold.to_owned()));
            let object = EventObject::Service(Box::new(service));
            now(
                EventType::Service,
                known,
                &row.id,
                Some(&row.name),
                Some(object),
            )
        }
        Change::ServiceGone(id) => {
            let name = before.services.get(id).map(|row| &row.name);
            gone(EventType::Service, id, name)
        }
    }
}
