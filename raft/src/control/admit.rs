use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::counters::count;
use super::running::Running;
use super::{ProposeError, random};
use crate::command::{Command, NodeSpec, Object, Proposal, Secrets};
use crate::consensus::Group;
use crate::identity::{Authority, IdentityError};
use crate::model::{NodeId, Role};
use crate::wire::{Blob, Failure, JoinAsk, Joined, Request, Response, Secret};

/// How long a manager looks for a leader on a joiner's behalf; the joiner asks again.
const RELAY_TIMEOUT: Duration = Duration::from_secs(5);

impl Running {
    /// A stranger asks this manager: the leader answers.
    pub(super) async fn take_join(&self, ask: JoinAsk) -> Response {
        let request = Request::RelayedJoin(Box::new(ask));
        match self
            .ask_leader(&request, Instant::now() + RELAY_TIMEOUT)
            .await
        {
            Ok(response) => response,
            Err(ProposeError::NoLeader(quorum)) => {
                Response::Failed(Failure::NotLeader(None, quorum))
            }
            Err(error) => Response::Failed(Failure::Other(error.to_string())),
        }
    }

    /// Admits a node: checks the secret, enters the node into the state, signs its certificate.
    /// A node that asks again with the same key is the same node.
    pub(super) async fn admit(&self, group: &Group, ask: JoinAsk) -> Response {
        let secrets = group.replica().with(|state| state.secrets().cloned());
        let Some(secrets) = secrets else {
            return self.not_leader();
        };
        let Some(role) = granted(&secrets, ask.secret) else {
            count(&self.counters.bad_tokens);
            return Response::Failed(Failure::WrongSecret);
        };
        let id = match Authority::requester(&ask.csr.0) {
            Ok(id) => id,
            Err(error) => return Response::Failed(Failure::Other(error.to_string())),
        };
        let csr = ask.csr.clone();
        let proposal = match proposal(id, role, ask) {
            Ok(proposal) => proposal,
            Err(reason) => return Response::Failed(Failure::Other(reason)),
        };
        let applied = match group.write(Arc::new(proposal)).await {
            Ok(Ok(applied)) => applied,
            Ok(Err(refusal)) => return Response::Failed(Failure::Refused(refusal)),
            Err(error) => return self.unwritten(error),
        };
        let Object::Node(node) = applied.object else {
            return Response::Failed(Failure::Other("the node was not admitted".to_owned()));
        };
        match self.certified(&secrets, node.role, &csr) {
            Ok((cert, ca_cert)) => Response::Joined(Box::new(Joined {
                cert: Blob(cert),
                ca_cert: Blob(ca_cert),
                raft_id: node.raft_id,
                revision: applied.revision,
                managers: self.managers(),
            })),
            Err(error) => Response::Failed(Failure::Other(error.to_string())),
        }
    }

    fn certified(
        &self,
        secrets: &Secrets,
        role: Role,
        csr: &Blob,
    ) -> Result<(Vec<u8>, Vec<u8>), IdentityError> {
        let cluster = self.hub.with_view(|view| view.cluster.clone());
        let cluster =
            cluster.ok_or_else(|| IdentityError::Request("there is no cluster yet".to_owned()))?;
        let authority = Authority::from_parts(&cluster.ca_cert, &secrets.ca_key)?;
        let lifetime = Duration::from_secs(cluster.cert_expiry_s);
        let cert = authority.sign(&csr.0, role, lifetime, SystemTime::now())?;
        Ok((cert, cluster.ca_cert))
    }
}

fn proposal(id: NodeId, role: Role, ask: JoinAsk) -> Result<Proposal, String> {
    Ok(Proposal {
        request: random().map_err(|error| error.to_string())?,
        time_ms: super::now_ms(),
        command: Command::AddNode(Box::new(NodeSpec {
            id,
            name: ask.name,
            role,
            addr: ask.addr,
            data_path_addr: ask.data_path_addr,
            underlay_mtu: ask.underlay_mtu,
            host_routes: ask.host_routes,
            availability: ask.availability,
            version: ask.version,
        })),
    })
}

/// The role that a join secret grants. Takes the same time whatever the secret is.
fn granted(secrets: &Secrets, secret: Secret) -> Option<Role> {
    let manager = same(&secrets.manager_token, &secret.0);
    let worker = same(&secrets.worker_token, &secret.0);
    match (manager, worker) {
        (true, _) => Some(Role::Manager),
        (false, true) => Some(Role::Worker),
        (false, false) => None,
    }
}

/// Compares without stopping at the first difference. The optimiser is kept from seeing through
/// it by comparing digests under a key that it cannot know.
fn same(one: &[u8; 16], other: &[u8; 16]) -> bool {
    let Ok(key) = random::<32>() else {
        return false;
    };
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let tag = ring::hmac::sign(&key, one);
    ring::hmac::verify(&key, other, tag.as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_grants_its_own_role_and_no_other_grants_any() {
        let secrets = Secrets {
            ca_key: vec![],
            manager_token: [1; 16],
            worker_token: [2; 16],
        };
        assert_eq!(granted(&secrets, Secret([1; 16])), Some(Role::Manager));
        assert_eq!(granted(&secrets, Secret([2; 16])), Some(Role::Worker));
        assert_eq!(granted(&secrets, Secret([3; 16])), None);
    }
}
