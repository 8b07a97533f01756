//! What names mean: those of networks, and who may ask for them on a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_lb::dns::{Target, Zone};
use weft_netns::Identity;
use weft_raft::model::{
    Change, Driver, Endpoint, EndpointMode, Network, NetworkId, Node, NodeId, NodeStatus, Service,
    View,
};

use super::services::{Here, weight};
use super::{Index, netns};
use crate::dataplane::dns::PlaceSpec;

/// Networks whose names may mean something else after these changes, which lead away from `before`.
pub(crate) fn touched(before: &View, changes: &[Change]) -> BTreeSet<NetworkId> {
    let mut networks = BTreeSet::new();
    for change in changes {
        match change {
            Change::Network(row) => {
                networks.insert(row.id);
            }
            Change::NetworkGone(id) => {
                networks.insert(*id);
            }
            Change::Endpoint(row) => {
                networks.insert(row.network);
                networks.extend(before.endpoints.get(&row.id).map(|row| row.network));
            }
            Change::EndpointGone(id) => {
                networks.extend(before.endpoints.get(id).map(|row| row.network));
            }
            Change::Service(row) => {
                networks.extend(row.networks.iter().map(|on| on.network));
                networks.extend(networks_of(before.services.get(&row.id).map(AsRef::as_ref)));
            }
            Change::ServiceGone(id) => {
                networks.extend(networks_of(before.services.get(id).map(AsRef::as_ref)));
            }
            Change::Node(row) => {
                let part = |node: &Node| (node.status, node.availability);
                let old = before.nodes.get(&row.id).map(|old| part(old));
                if old != Some(part(row)) {
                    networks.extend(networks_on(before, row.id));
                }
            }
            Change::NodeGone(id) => networks.extend(networks_on(before, *id)),
            Change::Cluster(_) => {}
        }
    }
    networks
}

fn networks_of(service: Option<&Service>) -> impl Iterator<Item = NetworkId> {
    let networks = service.into_iter().flat_map(|row| &row.networks);
    networks.map(|on| on.network)
}

fn networks_on(view: &View, node: NodeId) -> BTreeSet<NetworkId> {
    let rows = view.endpoints.values().filter(|row| row.node == node);
    rows.map(|row| row.network).collect()
}

/// The containers of this node that are on networks, by their namespaces.
pub(crate) fn places(view: &View, here: Here<'_>) -> BTreeMap<Identity, PlaceSpec> {
    let mut places: BTreeMap<Identity, PlaceSpec> = BTreeMap::new();
    let mut zones: BTreeMap<Identity, BTreeSet<(&str, NetworkId)>> = BTreeMap::new();
    let own = |row: &&Endpoint| row.node == here.node && row.attachment.boot_id == here.boot_id;
    let rows = view.endpoints.values().map(AsRef::as_ref).filter(own);
    for row in rows {
        let Some(network) = view.networks.get(&row.network).filter(|row| !row.ingress) else {
            continue;
        };
        let place = Identity {
            device: row.attachment.device,
            inode: row.attachment.inode,
        };
        if place == here.host {
            continue;
        }
        let on = zones.entry(place).or_default();
        on.insert((&network.name, network.id));
        let place = places.entry(place).or_default();
        place.netns.insert(netns(&row.attachment));
        // With one way out it is as open as if all of them had one.
        place.forwards |= !network.internal;
    }
    for (place, on) in zones {
        // A name that several networks have means what it does on the first of them.
        let ids = on.into_iter().map(|(_, id)| id.to_string());
        places.entry(place).or_default().zones = ids.collect();
    }
    places
}

/// The names of a network as `local` knows them; `None` if it is no more.
pub(crate) fn zone(view: &View, index: &Index, network: NetworkId, local: NodeId) -> Option<Zone> {
    let network = view.networks.get(&network)?;
    let mut zone = Zone {
        name: network.name.clone(),
        subnets: network.subnets.iter().map(|one| one.cidr).collect(),
        ..Zone::default()
    };
    // Where each node is alone, others' endpoints cannot be reached.
    let alone = network.driver == Driver::Bridge;
    let rows = index.endpoints(view, network.id);
    let rows: Vec<&Endpoint> = rows.filter(|row| !alone || row.node == local).collect();
    endpoints(view, &rows, &mut zone);
    let services = view.services.values().map(AsRef::as_ref);
    for row in services {
        service(view, network, row, &rows, &mut zone);
    }
    Some(zone)
}

/// Names and further names of endpoints. One whose node is down has no address; one that is no ready
/// backend of its service has one by its own name alone.
fn endpoints(view: &View, rows: &[&Endpoint], zone: &mut Zone) {
    for row in rows {
        let addresses = addresses(row);
        let is_up =
            { view.nodes.get(&row.node) }.is_some_and(|node| node.status != NodeStatus::Down);
        add(zone, &row.name, addresses.clone().filter(|_| is_up));
        let is_there = is_up && (row.service.is_none() || share(view, row).is_some());
        for alias in &row.aliases {
            add(zone, alias, addresses.clone().filter(|_| is_there));
        }
        for address in addresses {
            zone.reverse.insert(address, row.name.clone());
        }
    }
}

/// A service's name, the name of all its endpoints, and where its ports are.
fn service(view: &View, network: &Network, row: &Service, rows: &[&Endpoint], zone: &mut Zone) {
    let Some(on) = row.networks.iter().find(|on| on.network == network.id) else {
        return;
    };
    let members = rows.iter().filter(|member| member.service == Some(row.id));
    let ready: Vec<(&Endpoint, u16)> = members
        .filter_map(|member| Some((*member, share(view, member)?)))
        .collect();
    let tasks = format!("tasks.{}", row.name);
    let all = ready.iter().flat_map(|(member, _)| addresses(member));
    let all: Vec<IpAddr> = all.collect();
    let vip = on.vip.filter(|_| row.mode == EndpointMode::Vip);
    let vip = vip.map(IpAddr::V4);
    let targets = |port: u16| -> Vec<Target> {
        let target = |(member, weight): &(&Endpoint, u16)| Target {
            port,
            weight: *weight,
            name: member.name.clone(),
        };
        ready.iter().map(target).collect()
    };
    for port in &row.ports {
        let label = format!("_{}._{}", port.target, port.protocol);
        let of_service = match vip {
            Some(_) => vec![Target {
                port: port.target,
                weight: 0,
                name: row.name.clone(),
            }],
            None => targets(port.target),
        };
        let name = format!("{label}.{}", row.name);
        zone.services.insert(name, of_service);
        let name = format!("{label}.{tasks}");
        zone.services.insert(name, targets(port.target));
    }
    if let Some(vip) = vip {
        zone.reverse.insert(vip, row.name.clone());
    }
    let of_service = vip.map_or_else(|| all.clone(), |vip| vec![vip]);
    // A service goes before endpoints that are called the same.
    zone.names.insert(row.name.clone(), of_service);
    zone.names.insert(tasks, all);
}

/// An endpoint's part of the new flows of its service, if it takes any.
fn share(view: &View, row: &Endpoint) -> Option<u16> {
    let node = view.nodes.get(&row.node)?;
    weight(row, node).filter(|weight| *weight > 0)
}

fn addresses(row: &Endpoint) -> impl Iterator<Item = IpAddr> + Clone + use<> {
    row.addresses()
}

fn add(zone: &mut Zone, name: &str, addresses: impl Iterator<Item = IpAddr>) {
    let known = zone.names.entry(name.to_owned()).or_default();
    for address in addresses {
        if !known.contains(&address) {
            known.push(address);
        }
    }
}

#[cfg(test)]
mod tests;
