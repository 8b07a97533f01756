//! Becoming a member of a cluster that exists.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::enter::{addresses, close};
use super::local::{self, Local};
use super::{Inner, JoinError, JoinRequest, Member, Quorum};
use crate::codec::{self, CodecError};
use crate::consensus::Group;
use crate::identity::{Identity, NodeKey};
use crate::model::Role;
use crate::store::{Header, Store};
use crate::transport::{CallError, Transport};
use crate::wire::{Blob, Failure, JoinAsk, Joined, Request, Response, Secret};

/// A joiner waits so long for the cluster to have a leader.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// A joiner waits so long for any manager to answer at all.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);
/// One attempt: the manager may look for its leader meanwhile.
const ASK_TIMEOUT: Duration = Duration::from_secs(7);
/// Between rounds of attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// After joining, how long to wait for the first view. It may also come later.
const VIEW_TIMEOUT: Duration = Duration::from_secs(5);

impl Inner {
    pub(super) async fn join(&self, request: JoinRequest) -> Result<Member, JoinError> {
        let _changing = self.change.lock().await;
        if let Some(running) = self.running() {
            return Err(JoinError::AlreadyMember {
                cluster: running.member.cluster,
            });
        }
        if request.remotes.is_empty() {
            return Err(JoinError::NoRemote);
        }
        let dir = &self.config.data_dir;
        let key = local::begin_joining(dir)?;
        let bound = Transport::bind_as(request.listen, self.config.limits.clone(), &key);
        let transport = match bound {
            Ok(transport) => transport,
            Err(error) => {
                local::finish_joining(dir)?;
                return Err(error.into());
            }
        };
        let local = addresses(&transport, request.advertise, request.listen);
        let mut asking = Asking::default();
        let joined = match asking
            .ask(&transport, &request, &key, &local, &self.config.version)
            .await
        {
            Ok(joined) => joined,
            Err(error) => {
                transport.close().await;
                // The same key again only if the cluster may know it already.
                if !asking.maybe_admitted {
                    local::finish_joining(dir)?;
                }
                return Err(error);
            }
        };
        let revision = joined.revision;
        match self.settle(joined, &request, key, local, &transport).await {
            Ok((identity, local, group)) => {
                let running = self.start(&identity, local, transport, group);
                self.set_running(Some(Arc::clone(&running)));
                // Not an error if it takes longer: the node is a member.
                let _ = timeout(VIEW_TIMEOUT, self.hub.wait_revision(revision)).await;
                if let Some(group) = &running.group {
                    let _ = timeout(VIEW_TIMEOUT, group.voting()).await;
                }
                Ok(running.member)
            }
            Err(error) => {
                transport.close().await;
                Err(error)
            }
        }
    }

    /// Makes the admission last: from the removal of the mark on this node is a member.
    async fn settle(
        &self,
        joined: Joined,
        request: &JoinRequest,
        key: NodeKey,
        mut local: Local,
        transport: &Transport,
    ) -> Result<(Arc<Identity>, Local, Option<Group>), JoinError> {
        let dir = &self.config.data_dir;
        let identity = Arc::new(Identity::new(key, &joined.cert.0, &joined.ca_cert.0)?);
        if identity.ca_digest() != request.token.digest {
            let remote = request.remotes.first().copied().unwrap_or(local.listen);
            return Err(JoinError::OtherCluster { remote });
        }
        local.managers = joined.managers;
        local::remove_half_made(dir)?;
        let store = match identity.role {
            Role::Manager => {
                let claim = self
                    .claim()
                    .ok_or_else(|| JoinError::Raft("shut down".to_owned()))?;
                let (node, cluster) = (identity.node, identity.cluster);
                let header = Header {
                    node,
                    cluster,
                    raft_id: joined.raft_id,
                };
                Some(Store::create(dir, header, claim)?)
            }
            Role::Worker => None,
        };
        let lasting = identity.save(dir).map_err(JoinError::from).and_then(|()| {
            local::save(dir, &local).map_err(|source| JoinError::Write {
                path: dir.clone(),
                source,
            })?;
            Ok(local::finish_joining(dir)?)
        });
        if let Err(error) = lasting {
            close(store).await;
            return Err(error);
        }
        transport.set_identity(Arc::clone(&identity))?;
        let group = match store {
            Some(store) => Some(
                self.start_group(store, transport)
                    .await
                    .map_err(JoinError::Raft)?,
            ),
            None => None,
        };
        Ok((identity, local, group))
    }
}

/// A joiner's search for a manager that admits it.
#[derive(Default)]
struct Asking {
    /// Whether the cluster may have taken this node in although no answer said so.
    maybe_admitted: bool,
    no_leader: Option<Quorum>,
    other_cluster: Option<SocketAddr>,
    last: String,
    answered: bool,
}

impl Asking {
    async fn ask(
        &mut self,
        transport: &Transport,
        request: &JoinRequest,
        key: &NodeKey,
        local: &Local,
        version: &str,
    ) -> Result<Joined, JoinError> {
        let facts = &request.facts;
        let ask = Request::Join(Box::new(JoinAsk {
            secret: Secret(request.token.secret),
            csr: Blob(key.csr()?),
            name: facts.name.clone(),
            addr: local.advertise,
            data_path_addr: facts.data_path_addr,
            underlay_mtu: facts.underlay_mtu,
            host_routes: facts.host_routes.clone(),
            availability: request.availability,
            version: version.to_owned(),
        }));
        let body = codec::encode(&ask).map_err(|error| JoinError::Raft(error.to_string()))?;
        let body = bytes::Bytes::from(body);
        let began = Instant::now();
        loop {
            for remote in &request.remotes {
                let pin = &request.token.digest;
                let answer = transport
                    .call_pinned(*remote, pin, body.clone(), ASK_TIMEOUT)
                    .await;
                if let Some(joined) = self.weigh(*remote, answer)? {
                    return Ok(joined);
                }
            }
            let patience = if self.answered {
                JOIN_TIMEOUT
            } else {
                REACH_TIMEOUT
            };
            if self.other_cluster.is_some() || began.elapsed() >= patience {
                return Err(self.give_up(&request.remotes));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// An admission, a final refusal, or neither.
    fn weigh(
        &mut self,
        remote: SocketAddr,
        answer: Result<bytes::Bytes, CallError>,
    ) -> Result<Option<Joined>, JoinError> {
        let bytes = match answer {
            Ok(bytes) => bytes,
            Err(CallError::WrongCa { .. }) => {
                self.other_cluster = Some(remote);
                return Ok(None);
            }
            Err(error) => {
                self.maybe_admitted |= error.maybe_delivered();
                self.last = error.to_string();
                return Ok(None);
            }
        };
        self.answered = true;
        match codec::decode::<Response>(&bytes) {
            Ok(Response::Joined(joined)) => return Ok(Some(*joined)),
            Ok(Response::Failed(Failure::WrongSecret)) => return Err(JoinError::WrongSecret),
            Ok(Response::Failed(Failure::Refused(refusal))) => return Err(refusal.into()),
            Ok(Response::Failed(Failure::Undecodable(reason))) => {
                return Err(JoinError::Version { remote, reason });
            }
            Ok(Response::Failed(Failure::NotLeader(_, quorum))) => {
                // The relayed request may be on its way through the log.
                self.maybe_admitted = true;
                self.no_leader = Some(quorum);
            }
            Ok(Response::Failed(Failure::Other(reason) | Failure::Unauthorised(reason))) => {
                self.maybe_admitted = true;
                self.last = reason;
            }
            Ok(_) => self.last = "its answer does not fit the request".to_owned(),
            Err(error @ CodecError::WrongVersion { .. }) => {
                return Err(JoinError::Version {
                    remote,
                    reason: error.to_string(),
                });
            }
            Err(error) => self.last = error.to_string(),
        }
        Ok(None)
    }

    fn give_up(&self, remotes: &[SocketAddr]) -> JoinError {
        if let Some(remote) = self.other_cluster {
            return JoinError::OtherCluster { remote };
        }
        if let Some(quorum) = self.no_leader {
            return JoinError::NoLeader(quorum);
        }
        let remotes = remotes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        JoinError::Unreachable {
            remotes,
            reason: self.last.clone(),
        }
    }
}
