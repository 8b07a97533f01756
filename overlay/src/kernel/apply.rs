use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd as _, RawFd};

use super::messages::{self, VethEnds};
use super::observe::get_link;
use super::session::{Place, Session};
use super::view::link_query;
use crate::ApplyError;
use crate::op::{Op, SWITCHES};
use weft_netns::rtnl::{Request, RtnlError};

/// What became of a list of ops.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// How many were performed.
    pub(super) done: usize,
    /// The first that failed and concerns the network as a whole.
    pub(super) failed: Option<ApplyError>,
    /// Endpoints that could not be attached, each with the reason.
    pub(super) endpoints: BTreeMap<String, String>,
}

/// Performs ops in order. One that concerns the network as a whole ends it when it fails, unless it is
/// one entry of a table; one that concerns an endpoint ends that endpoint's part.
pub(super) fn apply(session: &mut Session<'_>, ops: &[Op]) -> Applied {
    let mut applied = Applied::default();
    let mut indices = Indices::default();
    let mut rest = ops;
    while let Some(op) = rest.first() {
        let entries = rest.iter().take_while(|op| op.is_entry()).count();
        let (now, later) = rest.split_at(entries.max(1));
        rest = later;
        let results = if entries > 0 {
            entry_ops(session, &mut indices, now)
        } else if op
            .endpoint()
            .is_some_and(|id| applied.endpoints.contains_key(id))
        {
            continue;
        } else {
            vec![perform(session, &mut indices, op)]
        };
        for (op, result) in now.iter().zip(results) {
            applied.note(op, result);
        }
        if entries == 0 && applied.failed.is_some() {
            break;
        }
    }
    applied
}

impl Applied {
    fn note(&mut self, op: &Op, result: Result<(), String>) {
        match (result, op.endpoint()) {
            (Ok(()), _) => {
                tracing::debug!(%op, "done");
                self.done += 1;
            }
            (Err(reason), Some(endpoint)) => {
                tracing::warn!(%op, endpoint, reason, "failed");
                let line = format!("cannot {op}: {reason}");
                self.endpoints.entry(endpoint.to_owned()).or_insert(line);
            }
            (Err(reason), None) => {
                tracing::warn!(%op, reason, "failed");
                let doing = op.to_string();
                self.failed.get_or_insert(ApplyError { doing, reason });
            }
        }
    }
}

/// Indices of links of the sandbox, looked up once.
#[derive(Debug, Default)]
struct Indices(BTreeMap<String, u32>);

impl Indices {
    fn get(&mut self, sandbox: &mut Place, name: &str) -> Result<u32, String> {
        if let Some(index) = self.0.get(name) {
            return Ok(*index);
        }
        let link = get_link(&mut sandbox.rtnl, link_query(Some(name), 0)).map_err(text)?;
        let index = link.ok_or_else(|| format!("there is no {name}"))?.index;
        self.0.insert(name.to_owned(), index);
        Ok(index)
    }
}

fn text(error: RtnlError) -> String {
    error.to_string()
}

/// Performs entries of tables, many at a time.
fn entry_ops(
    session: &mut Session<'_>,
    indices: &mut Indices,
    ops: &[Op],
) -> Vec<Result<(), String>> {
    let Some(sandbox) = &mut session.sandbox else {
        return ops.iter().map(|_| Err(NO_SANDBOX.to_owned())).collect();
    };
    let requests: Vec<Result<Request, String>> = ops
        .iter()
        .map(|op| entry_request(sandbox, indices, op))
        .collect();
    let sendable: Vec<Request> = requests.iter().flatten().cloned().collect();
    let mut answers = sandbox.rtnl.change_all(&sendable).into_iter();
    requests
        .into_iter()
        .map(|request| {
            request?;
            let answer = answers.next();
            answer.map_or_else(|| Err("no answer".to_owned()), |a| a.map_err(text))
        })
        .collect()
}

const NO_SANDBOX: &str = "the sandbox's namespace is not there";

fn entry_request(sandbox: &mut Place, indices: &mut Indices, op: &Op) -> Result<Request, String> {
    Ok(match op {
        Op::SetForward { name, mac, vtep } => {
            messages::set_forward(indices.get(sandbox, name)?, *mac, *vtep)
        }
        Op::AddFlood { name, vtep } => messages::add_flood(indices.get(sandbox, name)?, *vtep),
        Op::RemoveForward { name, forward } => {
            messages::remove_forward(indices.get(sandbox, name)?, forward)
        }
        Op::SetStation { port, mac, .. } => {
            messages::set_station(indices.get(sandbox, port)?, *mac)
        }
        Op::RemoveStation { port, mac } => {
            messages::remove_station(indices.get(sandbox, port)?, *mac)
        }
        Op::SetNeighbour { name, address, mac } => {
            messages::set_neighbour(indices.get(sandbox, name)?, *address, *mac)
        }
        Op::RemoveNeighbour { name, address } => {
            messages::remove_neighbour(indices.get(sandbox, name)?, *address)
        }
        other => return Err(format!("{other} is no change of an entry")),
    })
}

fn perform(session: &mut Session<'_>, indices: &mut Indices, op: &Op) -> Result<(), String> {
    match op {
        Op::DeleteHostLink { name } => {
            let request = messages::delete_link(name);
            return session.host_rtnl.change(&request).map_err(text);
        }
        Op::CreateNamespace => {
            let netns = weft_netns::create(&session.path).map_err(|e| e.to_string())?;
            session.sandbox = Some(Place::new(netns)?);
            return Ok(());
        }
        Op::DeleteNamespace => {
            session.sandbox = None;
            return weft_netns::delete(&session.path).map_err(|e| e.to_string());
        }
        Op::RaiseLoopback { .. }
        | Op::SetInner { .. }
        | Op::AddAddress { .. }
        | Op::RemoveAddress { .. }
        | Op::AddRoute { .. }
        | Op::RemoveRoute { .. } => return inside_container(session, op),
        _ => {}
    }
    let Some(sandbox) = &mut session.sandbox else {
        return Err(NO_SANDBOX.to_owned());
    };
    let requests = match op {
        Op::CreateVxlan {
            name,
            mtu,
            vni,
            vtep,
        } => {
            let target = descriptor(sandbox);
            let request = messages::create_vxlan(name, *mtu, *vni, *vtep, target);
            return session.host_rtnl.change(&request).map_err(text);
        }
        Op::Tune => {
            return sandbox
                .netns
                .set_sysctls(&SWITCHES)
                .map_err(|e| e.to_string());
        }
        Op::DeleteLink { name } => {
            indices.0.remove(name);
            vec![messages::delete_link(name)]
        }
        Op::CreateBridge { name, mtu } => vec![messages::create_bridge(name, *mtu)],
        Op::SimplifyBridge { name } => messages::simplify_bridge(name).into(),
        Op::SetVxlan { name, local } => vec![messages::set_vxlan(name, *local)],
        Op::SetLink { name, change, .. } => {
            let bridge = change.bridge.as_ref();
            let bridge = bridge.map(|b| indices.get(sandbox, b)).transpose()?;
            messages::set_link(name, change, bridge)
        }
        Op::CreateVeth {
            endpoint,
            port,
            bridge,
            mtu,
            ifname,
            mac,
        } => {
            let container = session.endpoints.get(endpoint).ok_or(NO_CONTAINER)?;
            let ends = VethEnds {
                port,
                bridge: indices.get(sandbox, bridge)?,
                mtu: *mtu,
                ifname,
                mac: *mac,
                container: descriptor(container),
            };
            return messages::make_veth(&mut sandbox.rtnl, &ends).map_err(text);
        }
        other => return Err(format!("{other} cannot be done in a sandbox")),
    };
    all(sandbox, &requests)
}

const NO_CONTAINER: &str = "its namespace is not open";

fn descriptor(place: &Place) -> RawFd {
    place.netns.as_fd().as_raw_fd()
}

fn all(place: &mut Place, requests: &[Request]) -> Result<(), String> {
    let results = place.rtnl.change_all(requests);
    results.into_iter().collect::<Result<(), _>>().map_err(text)
}

/// The interface inside is named by the index that the sandbox's end of the pair tells, so a foreign
/// one that has taken its name is never touched.
fn inside_container(session: &mut Session<'_>, op: &Op) -> Result<(), String> {
    let endpoint = op.endpoint().ok_or(NO_CONTAINER)?;
    let container = session.endpoints.get_mut(endpoint).ok_or(NO_CONTAINER)?;
    if matches!(op, Op::RaiseLoopback { .. }) {
        return all(container, &[messages::raise("lo")]);
    }
    let sandbox = session.sandbox.as_mut().ok_or(NO_SANDBOX)?;
    let port = crate::plan::names::port(endpoint);
    let port = get_link(&mut sandbox.rtnl, link_query(Some(&port), 0)).map_err(text)?;
    let index = port
        .and_then(|port| port.peer)
        .ok_or("its veth pair is not there")?;
    let requests = match op {
        Op::SetInner { ifname, change, .. } => {
            if change.ipv6 {
                let switch = format!("ipv6/conf/{ifname}/disable_ipv6");
                let set = container.netns.set_sysctls(&[(&switch, "0")]);
                set.map_err(|e| e.to_string())?;
            }
            messages::set_inner(index, change)
        }
        Op::AddAddress { address, .. } => vec![messages::add_address(index, *address)],
        Op::RemoveAddress { address, .. } => vec![messages::remove_address(index, *address)],
        Op::AddRoute { route, .. } => vec![messages::add_route(index, route)],
        Op::RemoveRoute { route, .. } => vec![messages::remove_route(index, route)],
        other => return Err(format!("{other} cannot be done in a container")),
    };
    all(container, &requests)
}
