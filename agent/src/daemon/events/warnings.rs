//! What came into the way of services, and what is no longer in it, as events beside those of the
//! rows that tell of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_raft::model::{Change, Node, NodeId, Revision, View};

use crate::api::lookup;
use crate::api::types::{Event, EventAction, EventObject, EventType, Warning, nobody_has};
use crate::translate;

pub(super) fn of_change(before: &View, revision: Revision, change: &Change) -> Vec<Event> {
    match change {
        Change::Node(row) => {
            let known = before.nodes.get(&row.id).map(AsRef::as_ref);
            let mut events = notices(before, known, row, revision);
            events.extend(addresses(before, row.id, known, Some(row), revision));
            events
        }
        Change::NodeGone(id) => {
            let known = before.nodes.get(id).map(AsRef::as_ref);
            addresses(before, *id, known, None, revision)
        }
        _ => Vec::new(),
    }
}

/// Networks that came to be short of addresses, or are not any more.
pub(super) fn shortages(before: &View, revision: Revision, changes: &[Change]) -> Vec<Event> {
    let news = translate::shortage_news(before, changes).into_iter();
    news.map(|(id, is_short, message)| Event {
        revision,
        object_type: EventType::Network,
        action: match is_short {
            true => EventAction::Warning,
            false => EventAction::Cleared,
        },
        id: id.to_string(),
        name: before.networks.get(&id).map(|row| row.name.clone()),
        object: Some(EventObject::Warning(Warning {
            node: None,
            message,
        })),
    })
    .collect()
}

/// A node's own notices and narrow paths that it had not before, or has no longer.
fn notices(view: &View, before: Option<&Node>, now: &Node, revision: Revision) -> Vec<Event> {
    let of = |row: &Node| -> BTreeSet<String> {
        let messages = row.notices.iter().map(|notice| notice.message.clone());
        messages.chain(narrow_paths(view, row)).collect()
    };
    let (was, is) = (before.map(of).unwrap_or_default(), of(now));
    let event = |action, message: &String| Event {
        revision,
        object_type: EventType::Node,
        action,
        id: now.id.to_string(),
        name: Some(now.name.clone()),
        object: Some(EventObject::Warning(Warning {
            node: Some(now.name.clone()),
            message: message.clone(),
        })),
    };
    let gone = was.difference(&is).map(|m| event(EventAction::Cleared, m));
    let new = is.difference(&was).map(|m| event(EventAction::Warning, m));
    gone.chain(new).collect()
}

/// Published ports whose address the last node lost, or the first one got.
fn addresses(
    view: &View,
    id: NodeId,
    before: Option<&Node>,
    now: Option<&Node>,
    revision: Revision,
) -> Vec<Event> {
    let has = |row: Option<&Node>, ip| row.is_some_and(|row| lookup::has_address(row, ip));
    let others = |ip: IpAddr| {
        let mut others = view.nodes.values().filter(|node| node.id != id);
        ip.is_loopback() || others.any(|node| lookup::has_address(node, ip))
    };
    let mut events = Vec::new();
    for service in view.services.values() {
        for port in &service.ports {
            let Some(ip) = port.ip else {
                continue;
            };
            let action = match (has(before, ip), has(now, ip)) {
                (true, false) => EventAction::Warning,
                (false, true) => EventAction::Cleared,
                _ => continue,
            };
            if others(ip) {
                continue;
            }
            events.push(Event {
                revision,
                object_type: EventType::Service,
                action,
                id: service.id.to_string(),
                name: Some(service.name.clone()),
                object: Some(EventObject::Warning(Warning {
                    node: None,
                    message: nobody_has(ip, port),
                })),
            });
        }
    }
    events
}

/// What is to be known of paths that carry less than the devices at their ends.
fn narrow_paths(view: &View, row: &Node) -> impl Iterator<Item = String> {
    { row.paths.iter() }.filter_map(|(id, mtu)| {
        let peer = view.nodes.get(id)?;
        let devices = row.underlay_mtu.min(peer.underlay_mtu);
        Some(format!(
            "packets of more than {mtu} bytes do not reach {}, though the devices at both ends carry \
             {devices}: networks with both have a smaller MTU; let what is between pass {devices} bytes",
            peer.name
        ))
    })
}
