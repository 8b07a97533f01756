//! Who may ask for what. The one place where it is decided.

use crate::command::Command;
use crate::identity::Caller;
use crate::model::{NodeId, Role, View};
use crate::wire::Request;

/// Why a request is not carried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Whatever this node may hear of yet.
    Role(String),
    /// The caller is no member as far as this node knows, which may be behind.
    Unknown(String),
}

/// Whether `caller` may ask for `request`; the reason if not. `view` is what this node reflects.
pub(super) fn check(caller: &Caller, request: &Request, view: &View) -> Result<(), Denied> {
    let (node, role) = match (caller, request) {
        (_, Request::Join(_)) => return Ok(()),
        (Caller::Stranger, _) => {
            return Err(Denied::Role("only members may ask for this".to_owned()));
        }
        (Caller::Member { node, role, .. }, _) => (*node, *role),
    };
    match request {
        // A manager that was admitted a moment ago may lead before this one heard of it, so the
        // role in its certificate has to do.
        Request::Append(_)
        | Request::Vote(_)
        | Request::PreVote(_)
        | Request::Snapshot(_)
        | Request::TransferLeader(_) => manager(role).map_err(Denied::Role),
        // Asked by a manager that has just left.
        Request::Removed(_) => manager(role).map_err(Denied::Role),
        Request::RelayedJoin(_) | Request::Reports(_) | Request::Token(_) => {
            manager(role).map_err(Denied::Role)?;
            member(node, view).map_err(Denied::Unknown)
        }
        Request::Propose(proposal) => {
            member(node, view).map_err(Denied::Unknown)?;
            command(node, role, &proposal.command, view).map_err(Denied::Role)
        }
        Request::Applied | Request::Probe => member(node, view).map_err(Denied::Unknown),
        Request::Join(_) => Ok(()),
    }
}

/// Whether a node may follow the state.
pub(super) fn check_watch(caller: &Caller, view: &View) -> Result<(), String> {
    match caller {
        Caller::Member { node, .. } => member(*node, view),
        Caller::Stranger => Err("only members may ask for this".to_owned()),
    }
}

/// Whether a node may have a command carried out.
pub(super) fn command(
    node: NodeId,
    role: Role,
    command: &Command,
    view: &View,
) -> Result<(), String> {
    match command {
        Command::Init(_) | Command::AddNode(_) | Command::SetNodeStatus(_) => {
            Err("this is the leader's own business".to_owned())
        }
        Command::RotateToken { .. } => manager(role),
        Command::UpdateNode { id, .. } | Command::RemoveNode { id } => own(node, role, *id),
        Command::CreateEndpoint(spec) => own(node, role, spec.node),
        Command::RemoveEndpoint { id } | Command::UpdateEndpoint { id, .. } => {
            match view.endpoints.get(id) {
                Some(endpoint) => own(node, role, endpoint.node),
                None => Ok(()),
            }
        }
        Command::SetBackends(heard) => (heard.iter())
            .filter_map(|(id, _)| view.endpoints.get(id))
            .try_for_each(|endpoint| own(node, role, endpoint.node)),
        Command::CreateNetwork(_)
        | Command::RemoveNetwork { .. }
        | Command::CreateService(_)
        | Command::UpdateService { .. }
        | Command::RemoveService { .. } => Ok(()),
    }
}

fn manager(role: Role) -> Result<(), String> {
    match role {
        Role::Manager => Ok(()),
        Role::Worker => Err("only managers may ask for this".to_owned()),
    }
}

fn own(node: NodeId, role: Role, of: NodeId) -> Result<(), String> {
    if role == Role::Manager || node == of {
        Ok(())
    } else {
        Err(format!(
            "a worker may only do this for itself, not for node {of}; ask a manager"
        ))
    }
}

/// A certificate outlives a removal from the cluster.
fn member(node: NodeId, view: &View) -> Result<(), String> {
    if view.cluster.is_none() || view.nodes.contains_key(&node) {
        Ok(())
    } else {
        Err(format!(
            "node {node} is not, or no longer, a member of the cluster"
        ))
    }
}
