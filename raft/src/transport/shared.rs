//! What the handles of one transport share, and how they get a connection to somebody.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Connection, Endpoint};
use tokio::time::{Instant, timeout_at};

use super::counters::Counters;
use super::dial::{self, NewStream, unreachable};
use super::frame::Kind;
use super::io::{FrameInput, FrameOutput};
use super::pool::{Dial, Found, Peer, Pool};
use super::server::Server;
use super::socket::CountedSocket;
use super::tls::{self, Credentials, Protocol};
use super::{CallError, Limits, code};
use crate::model::NodeId;

/// A caller that finds another node at an address than it wants dials again; addresses do not
/// change hands more often than this during one call.
const MAX_DIALS: usize = 3;

pub(super) struct Core {
    pub(super) local_addr: SocketAddr,
    pub(super) endpoint: Endpoint,
    pub(super) socket: Arc<CountedSocket>,
    pub(super) limits: Arc<Limits>,
    pub(super) counters: Arc<Counters>,
    pub(super) credentials: RwLock<Option<Arc<Credentials>>>,
    pub(super) server: Arc<Server>,
    pub(super) pool: Pool,
    /// Every connection for peering that we opened holds a clone.
    pub(super) peerings: Arc<()>,
}

impl Core {
    /// Opens a stream to `to` and sends its first frame; with a fresh connection when the kept one
    /// was dead before the frame was sent.
    pub(super) async fn begin(
        self: &Arc<Self>,
        to: SocketAddr,
        expect: Option<NodeId>,
        kind: Kind,
        body: Bytes,
        deadline: Instant,
    ) -> Result<(FrameOutput, FrameInput), CallError> {
        let mut again = true;
        loop {
            let peer = timeout_at(deadline, self.peer(to, expect)).await;
            let peer = peer.unwrap_or_else(|_| Err(unreachable(to, "no answer yet")))?;
            let stream = self.stream(to, &peer.connection);
            match timeout_at(deadline, stream.begin(kind, body.clone())).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) if e.unsent && again => again = false,
                Ok(Err(e)) => return Err(e.error),
                Err(_) => return Err(unreachable(to, "it takes no more requests")),
            }
        }
    }

    pub(super) fn stream<'a>(
        &'a self,
        to: SocketAddr,
        connection: &'a Connection,
    ) -> NewStream<'a> {
        NewStream {
            to,
            connection,
            limits: &self.limits,
            counters: &self.counters,
        }
    }

    /// A live connection to `to`, where `expect` must be if given.
    pub(super) async fn peer(
        self: &Arc<Self>,
        to: SocketAddr,
        expect: Option<NodeId>,
    ) -> Result<Peer, CallError> {
        for _ in 0..MAX_DIALS {
            let dial = match self
                .pool
                .find(to, |number| self.shared_dial(to, expect, number))
            {
                Found::Open(peer) if expect.is_none_or(|node| node == peer.node) => {
                    return Ok(peer);
                }
                Found::Open(_) => {
                    let peer = self.dial(to, expect).await?;
                    self.pool.replace(to, peer.clone());
                    return Ok(peer);
                }
                Found::Dialling(dial) => dial,
                Found::Full => return Err(unreachable(to, "too many peers already")),
            };
            match dial.await {
                Ok(peer) if expect.is_none_or(|node| node == peer.node) => return Ok(peer),
                // Dialled for somebody who expected somebody else.
                Ok(_) => {}
                Err(CallError::WrongNode { expected, .. }) if Some(expected) != expect => {}
                Err(e) => return Err(e),
            }
        }
        Err(unreachable(to, "other nodes keep answering there"))
    }

    /// A dial that goes on when its callers give up, so that the next one finds it done.
    fn shared_dial(self: &Arc<Self>, to: SocketAddr, expect: Option<NodeId>, number: u64) -> Dial {
        let core = self.clone();
        let dial = async move {
            let result = core.dial(to, expect).await;
            core.pool.dialled(to, number, &result);
            result
        };
        let dial = dial.boxed().shared();
        tokio::spawn(dial.clone());
        dial
    }

    pub(super) async fn dial(
        &self,
        to: SocketAddr,
        expect: Option<NodeId>,
    ) -> Result<Peer, CallError> {
        self.dial_for(to, expect, Protocol::Calls).await
    }

    pub(super) async fn dial_for(
        &self,
        to: SocketAddr,
        expect: Option<NodeId>,
        protocol: Protocol,
    ) -> Result<Peer, CallError> {
        let credentials = self.credentials().ok_or(CallError::NoIdentity)?;
        let (config, verdict) = credentials
            .client(expect, protocol, &self.limits)
            .map_err(|e| unreachable(to, &e.to_string()))?;
        let connecting = self.endpoint.connect_with(config, to, tls::SERVER_NAME);
        let limit = self.limits.handshake_timeout;
        let dialled = dial::finish_dial(to, expect, connecting, &verdict, limit).await;
        self.count_dial(dialled.is_ok());
        dialled
    }

    /// Connections that we have opened to others.
    pub(super) fn open(&self) -> usize {
        self.pool.links().len() + Arc::strong_count(&self.peerings) - 1
    }

    pub(super) fn count_dial(&self, worked: bool) {
        if worked {
            self.counters.dialled.one();
        } else {
            self.counters.dials_failed.one();
        }
    }

    pub(super) fn handshake_deadline(&self) -> Instant {
        Instant::now() + self.limits.handshake_timeout
    }

    pub(super) fn credentials(&self) -> Option<Arc<Credentials>> {
        let slot = self.credentials.read();
        slot.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn fitting(&self, body: Bytes) -> Result<Bytes, CallError> {
        let (len, limit) = (body.len(), self.limits.max_frame);
        if len > limit {
            Err(CallError::TooLarge { len, limit })
        } else {
            Ok(body)
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.endpoint.close(code::CLOSING, b"closing");
    }
}
