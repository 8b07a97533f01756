use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::MAX_PROPOSAL;
use super::authorise::{self, Denied};
use super::counters::count;
use super::running::Running;
use crate::codec;
use crate::consensus::{Group, WriteError};
use crate::identity::Caller;
use crate::model::{Role, ServiceId};
use crate::transport::{FrameStream, Handler, PeerClose, PeerConnection};
use crate::wire::{Failure, Leader, Opening, ProbeAnswer, Request, Response, Secret};

/// Bytes that a request takes beside the command in it, at most.
const REQUEST_OVERHEAD: usize = 16;

/// Answers other nodes for as long as the membership lasts.
pub(super) struct Server {
    // Weak: the transport holds the server, and the membership holds the transport.
    running: Weak<Running>,
}

impl Server {
    pub(super) fn new(running: &Arc<Running>) -> Self {
        Self {
            running: Arc::downgrade(running),
        }
    }
}

impl Handler for Server {
    fn call(&self, caller: Caller, _from: SocketAddr, body: Bytes) -> BoxFuture<'_, Vec<u8>> {
        let running = self.running.upgrade();
        Box::pin(async move {
            let response = match running {
                Some(running) => running.answer(caller, &body).await,
                None => Response::Failed(Failure::Other("the agent is stopping".to_owned())),
            };
            codec::encode(&response).unwrap_or_default()
        })
    }

    fn stream(
        &self,
        caller: Caller,
        _from: SocketAddr,
        first: Bytes,
        stream: FrameStream,
    ) -> BoxFuture<'_, ()> {
        let running = self.running.upgrade();
        Box::pin(async move {
            let Some(running) = running else { return };
            match codec::decode::<Opening>(&first) {
                Ok(Opening::Watch { from }) => running.serve_watch(caller, from, stream).await,
                Err(error) => {
                    count(&running.counters.undecodable);
                    tracing::debug!(%error, "a stream began with what this agent cannot read");
                }
            }
        })
    }

    fn peering(&self, caller: Caller, connection: PeerConnection, offer: Bytes) {
        match self.running.upgrade() {
            Some(running) => running.admit_peering(caller, connection, &offer),
            None => connection.close(PeerClose::Ending),
        }
    }
}

impl Running {
    /// Lets a member's connection for peering in.
    fn admit_peering(&self, caller: Caller, connection: PeerConnection, offer: &[u8]) {
        let allowed = self
            .hub
            .with_view(|view| authorise::check_member(&caller, view));
        match allowed {
            Ok(()) => self.door.enter(connection, offer),
            Err(reason) => {
                count(&self.counters.unauthorised);
                tracing::debug!(?caller, %reason, "peer session refused");
                connection.close(PeerClose::Refused);
            }
        }
    }

    pub(super) async fn answer(&self, caller: Caller, body: &[u8]) -> Response {
        let request = match codec::decode::<Request>(body) {
            Ok(request) => request,
            Err(error) => {
                count(&self.counters.undecodable);
                return Response::Failed(Failure::Undecodable(error.to_string()));
            }
        };
        // What is in the log has to fit one request to every other manager.
        if matches!(request, Request::Propose(_)) && body.len() > MAX_PROPOSAL + REQUEST_OVERHEAD {
            let len = body.len();
            let reason = format!("command of {len} bytes refused: at most {MAX_PROPOSAL} fit");
            return Response::Failed(Failure::Other(reason));
        }
        let allowed = self
            .hub
            .with_view(|view| authorise::check(&caller, &request, view));
        match allowed {
            Ok(()) => {}
            // The leader knows every member; this manager may not have heard of this one yet.
            Err(Denied::Unknown(_)) if self.group.is_some() && !self.is_leader() => {
                return self.not_leader();
            }
            Err(Denied::Role(reason) | Denied::Unknown(reason)) => {
                count(&self.counters.unauthorised);
                return Response::Failed(Failure::Unauthorised(reason));
            }
        }
        match request {
            Request::Join(ask) => self.take_join(*ask).await,
            Request::Probe => Response::Probe(ProbeAnswer {
                leader: self.leader(),
                revision: self.hub.revision(),
            }),
            Request::OwnNumbers(service) => Response::Numbers(self.own_numbers(service).await),
            Request::ServiceNumbers(service) => self.numbers_for(caller, service).await,
            request => self.lead(request).await,
        }
    }

    /// What all nodes but the caller, who knows its own, have counted.
    async fn numbers_for(&self, caller: Caller, service: ServiceId) -> Response {
        let Caller::Member { node, .. } = caller else {
            return Response::Failed(Failure::Other("not a question for strangers".to_owned()));
        };
        match self.member.role {
            Role::Manager => Response::Numbers(self.gather(service, node).await),
            Role::Worker => Response::Failed(Failure::Other("not a manager".to_owned())),
        }
    }

    /// Carries out what is the leader's to do, and what concerns this manager's part in Raft.
    pub(super) async fn lead(&self, request: Request) -> Response {
        let Some(group) = &self.group else {
            return Response::Failed(Failure::NotLeader(self.leader(), self.quorum()));
        };
        match request {
            Request::Propose(proposal) => match group.write(proposal).await {
                Ok(outcome) => Response::Outcome(outcome),
                Err(error) => self.unwritten(error),
            },
            Request::RelayedJoin(ask) if group.is_leader() => self.admit(group, *ask).await,
            Request::Reports(heard) if group.is_leader() => {
                self.absorb_reports(heard);
                Response::Done
            }
            Request::Applied if group.is_leader() => Response::Applied(self.ready_nodes()),
            Request::Token(role) if group.is_leader() => token(group, role),
            Request::Removed(_) if !group.is_leader() => self.not_leader(),
            Request::RelayedJoin(_)
            | Request::Reports(_)
            | Request::Applied
            | Request::Token(_) => self.not_leader(),
            request => match group.answer(request).await {
                Some(response) => response,
                None => Response::Failed(Failure::Other("not a request for a manager".to_owned())),
            },
        }
    }

    pub(super) fn not_leader(&self) -> Response {
        let other = self
            .leader()
            .filter(|leader| leader.node != self.member.node);
        Response::Failed(Failure::NotLeader(other, self.quorum()))
    }

    pub(super) fn unwritten(&self, error: WriteError) -> Response {
        match error {
            WriteError::NotLeader(peer) => {
                let leader = peer.map(|peer| Leader {
                    node: peer.node,
                    addr: peer.addr,
                });
                Response::Failed(Failure::NotLeader(leader, self.quorum()))
            }
            // Asking again is safe: the request id is the same.
            WriteError::Unknown => Response::Failed(Failure::NotLeader(None, self.quorum())),
            WriteError::Stopped(reason) => {
                tracing::error!(%reason, "consensus has stopped on this manager");
                Response::Failed(Failure::NotLeader(None, self.quorum()))
            }
        }
    }
}

fn token(group: &Group, role: Role) -> Response {
    let secret = group.replica().with(|state| {
        state.secrets().map(|secrets| match role {
            Role::Manager => secrets.manager_token,
            Role::Worker => secrets.worker_token,
        })
    });
    match secret {
        Some(secret) => Response::Token(Secret(secret)),
        None => Response::Failed(Failure::Other("there is no cluster yet".to_owned())),
    }
}
