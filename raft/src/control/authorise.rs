//! Who may ask for what. The one place where it is decided.

use crate::command::Command;
use crate::identity::Caller;
use crate::model::{HealthCheck, NodeId, Probe, Role, View};
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
        Request::RelayedJoin(_)
        | Request::Reports(_)
        | Request::Token(_)
        | Request::OwnNumbers(_) => {
            manager(role).map_err(Denied::Role)?;
            member(node, view).map_err(Denied::Unknown)
        }
        Request::Propose(proposal) => {
            member(node, view).map_err(Denied::Unknown)?;
            command(node, role, &proposal.command, view).map_err(Denied::Role)
        }
        // A worker asks a manager, so that no worker can have all the others work.
        Request::Applied | Request::Probe | Request::ServiceNumbers(_) => {
            member(node, view).map_err(Denied::Unknown)
        }
        Request::Join(_) => Ok(()),
    }
}

/// Whether a node may follow the state, or have a session with this one if it is wanted here.
pub(super) fn check_member(caller: &Caller, view: &View) -> Result<(), String> {
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
        Command::CreateEndpoint(spec) => {
            own(node, role, spec.node)?;
            let made = spec.new_service.as_ref();
            health_check(role, made.and_then(|service| service.health.as_ref()))
        }
        Command::RemoveEndpoint { id } | Command::UpdateEndpoint { id, .. } => {
            match view.endpoints.get(id) {
                Some(endpoint) => own(node, role, endpoint.node),
                None => Ok(()),
            }
        }
        Command::SetBackends(heard) => (heard.iter())
            .filter_map(|(id, _)| view.endpoints.get(id))
            .try_for_each(|endpoint| own(node, role, endpoint.node)),
        Command::CreateService(spec) => health_check(role, spec.health.as_ref()),
        Command::UpdateService { change, .. } => {
            health_check(role, change.health.as_ref().and_then(Option::as_ref))
        }
        Command::UpdateNetwork { change, .. } => match (role, change.encrypted) {
            // Other nodes' frames would be in clear because of it.
            (Role::Worker, Some(false)) => Err(
                "a worker may not turn off the encryption of a network; ask a manager".to_owned(),
            ),
            _ => Ok(()),
        },
        Command::CreateNetwork(_)
        | Command::RemoveNetwork { .. }
        | Command::RemoveService { .. } => Ok(()),
    }
}

/// A program of the host is run by every node that has an endpoint of the service: whoever may
/// name one rules those nodes.
fn health_check(role: Role, wanted: Option<&HealthCheck>) -> Result<(), String> {
    match (role, wanted.map(|health| &health.probe)) {
        (Role::Worker, Some(Probe::Exec { .. })) => Err(
            "a worker may not have other nodes run a program as health check; ask a manager, or \
             check by tcp or http"
                .to_owned(),
        ),
        _ => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{EndpointSpec, NetworkChange, ServiceChange, ServiceSpec};
    use crate::model::BackendState;
    use crate::state::State;
    use crate::state::testing::*;

    /// Nodes 1 (manager) and 2 (worker), with endpoints 1 and 2.
    fn view() -> View {
        let mut state = State::new();
        let mut second = endpoint_spec(2, 1, "c2");
        second.node = node_id(2);
        let commands = [
            Command::Init(Box::new(init_cluster())),
            Command::AddNode(Box::new(node_spec(2, Role::Worker))),
            Command::CreateNetwork(Box::new(network_spec(1, "web"))),
            Command::CreateEndpoint(Box::new(endpoint_spec(1, 1, "c1"))),
            Command::CreateEndpoint(Box::new(second)),
        ];
        for (index, command) in (1..).zip(commands) {
            state.apply(index, &proposal(index, command)).0.unwrap();
        }
        state.view().clone()
    }

    fn asked_by(role: Role, wanted: &Command) -> Result<(), String> {
        let node = node_id(if role == Role::Manager { 1 } else { 2 });
        command(node, role, wanted, &view())
    }

    #[test]
    fn a_worker_speaks_of_its_own_endpoints_only() {
        let ready = |numbers: &[u32]| {
            let states = numbers
                .iter()
                .map(|n| (endpoint_id(*n), BackendState::Ready));
            Command::SetBackends(states.collect())
        };
        assert_eq!(asked_by(Role::Worker, &ready(&[2, 99])), Ok(()));
        assert!(asked_by(Role::Worker, &ready(&[2, 1])).is_err());
        assert_eq!(asked_by(Role::Manager, &ready(&[2, 1])), Ok(()));
        let weight = |number| Command::UpdateEndpoint {
            id: endpoint_id(number),
            change: crate::command::EndpointChange { weight: Some(0) },
        };
        assert_eq!(asked_by(Role::Worker, &weight(2)), Ok(()));
        assert!(asked_by(Role::Worker, &weight(1)).is_err());
    }

    #[test]
    fn a_worker_does_not_turn_encryption_off() {
        let update = |encrypted| Command::UpdateNetwork {
            id: network_id(1),
            change: Box::new(NetworkChange {
                encrypted,
                ..NetworkChange::default()
            }),
        };
        let refused = asked_by(Role::Worker, &update(Some(false))).unwrap_err();
        assert!(refused.contains("ask a manager"), "{refused}");
        assert_eq!(asked_by(Role::Manager, &update(Some(false))), Ok(()));
        for encrypted in [None, Some(true)] {
            assert_eq!(asked_by(Role::Worker, &update(encrypted)), Ok(()));
        }
    }

    #[test]
    fn a_worker_has_nobody_run_a_program() {
        let check = |probe| HealthCheck {
            probe,
            interval_ms: 1000,
            timeout_ms: 500,
            retries: 3,
        };
        let exec = check(Probe::Exec {
            command: vec!["true".to_owned()],
        });
        let tcp = check(Probe::Tcp { port: 80 });
        let create = |health| {
            Command::CreateService(Box::new(ServiceSpec {
                health: Some(health),
                ..service_spec(1, &[1], "web")
            }))
        };
        let update = |health| Command::UpdateService {
            id: service_id(1),
            change: Box::new(ServiceChange {
                health: Some(Some(health)),
                ..ServiceChange::default()
            }),
        };
        let with_endpoint = |health| {
            Command::CreateEndpoint(Box::new(EndpointSpec {
                new_service: Some(Box::new(ServiceSpec {
                    health: Some(health),
                    ..service_spec(1, &[1], "web")
                })),
                node: node_id(2),
                ..endpoint_spec(1, 1, "c1")
            }))
        };
        for command in [
            create(exec.clone()),
            with_endpoint(exec.clone()),
            update(exec),
        ] {
            let refused = asked_by(Role::Worker, &command).unwrap_err();
            assert!(refused.contains("ask a manager"), "{refused}");
            assert_eq!(asked_by(Role::Manager, &command), Ok(()));
        }
        for command in [create(tcp.clone()), with_endpoint(tcp.clone()), update(tcp)] {
            assert_eq!(asked_by(Role::Worker, &command), Ok(()));
        }
    }
}
