//! Finds the object that somebody named: by id, by name, or by the beginning of an id. A name wins
//! over the beginning of an id, for names are chosen and ids are not.

use std::net::IpAddr;
use std::sync::Arc;

use weft_raft::model::{Endpoint, Network, Node, NodeId, Service, ServiceId, View};

use super::types::ApiError;

/// Shorter beginnings of ids fit by chance.
pub const MIN_PREFIX: usize = 4;
/// How many candidates an error names.
const MAX_CANDIDATES: usize = 5;

/// The node called `wanted`; `self` is `this` unless a node has that name.
pub fn node<'a>(
    view: &'a View,
    this: Option<NodeId>,
    wanted: &str,
) -> Result<&'a Arc<Node>, ApiError> {
    let found = view.nodes.values().find(|node| node.name == wanted);
    if let Some(node) = found {
        return Ok(node);
    }
    if let Some(node) = this
        .filter(|_| wanted == "self")
        .and_then(|id| view.nodes.get(&id))
    {
        return Ok(node);
    }
    let rows = view.nodes.values();
    by_prefix(
        rows,
        wanted,
        |node| node.id.to_string(),
        |node| node.name.clone(),
    )?
    .ok_or_else(|| missing("node", wanted, "weft node ls"))
}

/// The network called `wanted`.
pub fn network<'a>(view: &'a View, wanted: &str) -> Result<&'a Arc<Network>, ApiError> {
    let found = view
        .networks
        .values()
        .find(|network| network.name == wanted);
    if let Some(network) = found {
        return Ok(network);
    }
    let rows = view.networks.values();
    by_prefix(
        rows,
        wanted,
        |network| network.id.to_string(),
        |network| network.name.clone(),
    )?
    .ok_or_else(|| missing("network", wanted, "weft network ls"))
}

/// The service called `wanted`.
pub fn service<'a>(view: &'a View, wanted: &str) -> Result<&'a Arc<Service>, ApiError> {
    let found = view
        .services
        .values()
        .find(|service| service.name == wanted);
    if let Some(service) = found {
        return Ok(service);
    }
    let rows = view.services.values();
    by_prefix(
        rows,
        wanted,
        |service| service.id.to_string(),
        |service| service.name.clone(),
    )?
    .ok_or_else(|| missing("service", wanted, "weft service ls"))
}

/// The endpoint called `wanted`: `NAME.NETWORK`, or a name that one network only has.
pub fn endpoint<'a>(view: &'a View, wanted: &str) -> Result<&'a Arc<Endpoint>, ApiError> {
    let full_name =
        |endpoint: &Endpoint| format!("{}.{}", endpoint.name, network_of(view, endpoint));
    let absent = || missing("endpoint", wanted, "weft endpoint ls");
    if let Some((name, network)) = wanted.split_once('.') {
        return view
            .endpoints
            .values()
            .find(|endpoint| endpoint.name == name && network_of(view, endpoint) == network)
            .ok_or_else(absent);
    }
    let named: Vec<_> = view
        .endpoints
        .values()
        .filter(|endpoint| endpoint.name == wanted)
        .collect();
    match named.as_slice() {
        [] => by_prefix(
            view.endpoints.values(),
            wanted,
            |e| e.id.to_string(),
            |e| full_name(e),
        )?
        .ok_or_else(absent),
        [one] => Ok(one),
        several => Err(ambiguous(wanted, several.iter().map(|e| full_name(e)))),
    }
}

/// The endpoints of a service. Looks at every endpoint.
pub fn members(view: &View, service: ServiceId) -> impl Iterator<Item = &Arc<Endpoint>> {
    view.endpoints
        .values()
        .filter(move |endpoint| endpoint.service == Some(service))
}

/// Whether a node has the address, as far as the nodes told. Every one has the loopback addresses.
pub fn is_of_a_node(view: &View, ip: IpAddr) -> bool {
    ip.is_loopback() || view.nodes.values().any(|node| has_address(node, ip))
}

/// Whether a node told that it has the address.
pub fn has_address(node: &Node, ip: IpAddr) -> bool {
    node.addr.ip() == ip || node.data_path_addr == ip || node.addresses.contains(&ip)
}

fn network_of(view: &View, endpoint: &Endpoint) -> String {
    view.networks.get(&endpoint.network).map_or_else(
        || endpoint.network.to_string(),
        |network| network.name.clone(),
    )
}

fn by_prefix<'a, T>(
    rows: impl Iterator<Item = &'a Arc<T>>,
    wanted: &str,
    id: impl Fn(&T) -> String,
    name: impl Fn(&T) -> String,
) -> Result<Option<&'a Arc<T>>, ApiError> {
    if wanted.len() < MIN_PREFIX {
        return Ok(None);
    }
    let found: Vec<_> = rows.filter(|row| id(row).starts_with(wanted)).collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => {
            let candidates = several
                .iter()
                .map(|row| format!("{} ({})", id(row), name(row)));
            Err(ambiguous(wanted, candidates))
        }
    }
}

fn missing(what: &str, wanted: &str, list: &str) -> ApiError {
    ApiError::not_found(format!(
        "no {what} `{}`; '{list}' shows them",
        wanted.escape_debug()
    ))
}

fn ambiguous(wanted: &str, candidates: impl ExactSizeIterator<Item = String>) -> ApiError {
    let count = candidates.len();
    let mut shown: Vec<String> = candidates.take(MAX_CANDIDATES).collect();
    if count > shown.len() {
        shown.push(format!("and {} more", count - shown.len()));
    }
    ApiError::invalid(format!(
        "`{}` fits {count}; say which: {}",
        wanted.escape_debug(),
        shown.join(", ")
    ))
}

#[cfg(test)]
mod tests;
