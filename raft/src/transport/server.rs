//! Letting others in: who may have a connection, a stream, a call, and how many of them.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::debug;

use super::counters::Counters;
use super::frame::Kind;
use super::inbound::Inbound;
use super::io::{FrameInput, FrameOutput, InputError};
use super::peer::{self, PeerPlaces};
use super::{FrameStream, Handler, Limits, code, plain, tls};
use crate::identity::Caller;

/// The serving side of a transport.
pub(super) struct Server {
    limits: Arc<Limits>,
    counters: Arc<Counters>,
    handler: RwLock<Option<Arc<dyn Handler>>>,
    pub(super) inbound: Arc<Inbound>,
    peerings: PeerPlaces,
    handshakes: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    stranger_calls: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    request_bytes: Arc<Semaphore>,
}

/// An open connection and who is at its other end.
#[derive(Clone)]
struct Session {
    connection: Connection,
    caller: Caller,
    from: SocketAddr,
}

/// A request that arrived whole.
enum Request {
    Call(Bytes, Option<OwnedSemaphorePermit>),
    Stream(Bytes),
}

/// Why a stream is not served.
enum Reject {
    /// Tell the other side so.
    With(VarInt),
    /// The other side ended it, or was thrown out.
    Gone,
}

impl Server {
    pub(super) fn new(limits: &Arc<Limits>, counters: &Arc<Counters>) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            inbound: Arc::new(Inbound::new(limits)),
            peerings: PeerPlaces::new(limits),
            handler: RwLock::new(None),
            handshakes: semaphore(limits.max_handshakes),
            calls: semaphore(limits.max_calls),
            stranger_calls: semaphore(limits.max_stranger_calls),
            streams: semaphore(limits.max_open_streams),
            request_bytes: semaphore(limits.max_request_bytes),
            limits: limits.clone(),
            counters: counters.clone(),
        }
    }

    /// True the first time.
    pub(super) fn set_handler(&self, handler: Arc<dyn Handler>) -> bool {
        let mut slot = self.handler.write().unwrap_or_else(PoisonError::into_inner);
        slot.replace(handler).is_none()
    }

    pub(super) fn drop_handler(&self) {
        let mut slot = self.handler.write().unwrap_or_else(PoisonError::into_inner);
        *slot = None;
    }

    pub(super) fn handler(&self) -> Option<Arc<dyn Handler>> {
        let slot = self.handler.read().unwrap_or_else(PoisonError::into_inner);
        slot.clone()
    }

    /// Connections that others have opened to us.
    pub(super) fn open(&self) -> usize {
        self.inbound.count() + self.peerings.count()
    }

    /// Takes in what dials until the endpoint is closed.
    pub(super) async fn run(self: Arc<Self>, endpoint: Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            self.admit(incoming);
        }
    }

    fn admit(self: &Arc<Self>, incoming: Incoming) {
        let Ok(permit) = self.handshakes.clone().try_acquire_owned() else {
            self.counters.overload.one();
            return incoming.refuse();
        };
        let free = self.handshakes.available_permits();
        let busy = self.limits.max_handshakes - free > self.limits.retry_above;
        if busy && !incoming.remote_address_validated() {
            self.counters.retries.one();
            // Cannot fail for an address that is not validated.
            let _ = incoming.retry();
            return;
        }
        match incoming.accept() {
            Ok(connecting) => {
                tokio::spawn(self.clone().shake_hands(connecting, permit));
            }
            Err(e) => self.count_failed_handshake(&e),
        }
    }

    async fn shake_hands(
        self: Arc<Self>,
        connecting: quinn::Connecting,
        permit: OwnedSemaphorePermit,
    ) {
        let connection = match timeout(self.limits.handshake_timeout, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(e)) => return self.count_failed_handshake(&e),
            Err(_) => return self.counters.handshakes_failed.one(),
        };
        drop(permit);
        let Some(caller) = tls::caller(&connection) else {
            self.counters.refused_tls.one();
            return connection.close(code::REFUSED, b"certificate");
        };
        let from = plain(connection.remote_address());
        let session = Session {
            connection,
            caller,
            from,
        };
        if peer::is_peering(&session.connection) {
            self.serve_peering(&session).await;
        } else {
            self.serve(session).await;
        }
    }

    fn count_failed_handshake(&self, error: &ConnectionError) {
        debug!(%error, "handshake failed");
        match error {
            ConnectionError::TransportError(_) | ConnectionError::VersionMismatch => {
                self.counters.refused_tls.one();
            }
            _ => self.counters.handshakes_failed.one(),
        }
    }

    async fn serve(self: Arc<Self>, session: Session) {
        let Some(place) = self.inbound.enter(session.caller, &session.connection) else {
            self.counters.overload.one();
            return session.connection.close(code::OVERLOADED, b"connections");
        };
        self.counters.overload.add(place.evicted);
        self.counters.accepted.one();
        match session.caller {
            Caller::Member { .. } => {
                tls::trust_member(&session.connection, &self.limits);
                self.accept_streams(&session, None).await;
            }
            Caller::Stranger => {
                let patience = Some(self.limits.request_timeout);
                let served = self.accept_streams(&session, patience);
                let _ = timeout(self.limits.stranger_lifetime, served).await;
                session.connection.close(code::EXPIRED, b"time is up");
            }
        }
        drop(place);
    }

    /// Hands a connection for peering over and keeps its place for as long as it is open.
    async fn serve_peering(&self, session: &Session) {
        let connection = &session.connection;
        let Caller::Member { node, .. } = session.caller else {
            self.counters.refused_streams.one();
            return connection.close(code::REFUSED, b"only members may ask for this");
        };
        let Some(_place) = self.peerings.enter(node) else {
            self.counters.overload.one();
            return connection.close(code::OVERLOADED, b"too many sessions");
        };
        let Some(handler) = self.handler() else {
            return connection.close(code::REFUSED, b"nobody serves this");
        };
        self.counters.accepted.one();
        let accepted = peer::accept(connection, node, &self.counters);
        match timeout(self.limits.request_timeout, accepted).await {
            Ok(Some((peer, offer))) => handler.peering(session.caller, peer, offer),
            Ok(None) => connection.close(code::FAILED, b"no stream"),
            Err(_) => {
                self.counters.calls_timed_out.one();
                connection.close(code::FAILED, b"no request in time");
            }
        }
        drop(handler);
        connection.closed().await;
    }

    /// Until the connection is gone, or nothing was asked for as long as `patience`.
    async fn accept_streams(self: &Arc<Self>, session: &Session, patience: Option<Duration>) {
        let busy = Arc::new(());
        loop {
            let accepted = session.connection.accept_bi();
            let accepted = match patience {
                None => accepted.await,
                Some(patience) => match timeout(patience, accepted).await {
                    Ok(accepted) => accepted,
                    Err(_) if Arc::strong_count(&busy) > 1 => continue,
                    Err(_) => return,
                },
            };
            let Ok((send, recv)) = accepted else {
                return;
            };
            let serving = self.clone().serve_stream(session.clone(), send, recv);
            let busy = busy.clone();
            tokio::spawn(async move {
                serving.await;
                drop(busy);
            });
        }
    }

    async fn serve_stream(self: Arc<Self>, session: Session, send: SendStream, recv: RecvStream) {
        let limit = match session.caller {
            Caller::Member { .. } => self.limits.max_frame,
            Caller::Stranger => self.limits.max_stranger_frame,
        };
        let mut input = FrameInput::new(recv, limit, &session.connection, &self.counters);
        let mut output = FrameOutput::new(send);
        let request = self.read_request(session.caller, &mut input);
        let request = match timeout(self.limits.request_timeout, request).await {
            Ok(request) => request,
            Err(_) => {
                self.counters.calls_timed_out.one();
                Err(Reject::With(code::FAILED))
            }
        };
        let served = match request {
            Ok(Request::Call(body, held)) => {
                let served = self.serve_call(&session, body, &mut output).await;
                drop(held);
                input.settle();
                served
            }
            Ok(Request::Stream(first)) => {
                return self.serve_open(session, first, input, output).await;
            }
            Err(reject) => Err(reject),
        };
        if let Err(Reject::With(code)) = served {
            input.stop(code);
            output.reset(code);
        }
    }

    async fn read_request(
        &self,
        caller: Caller,
        input: &mut FrameInput,
    ) -> Result<Request, Reject> {
        let kind = input.kind().await?;
        if kind == Kind::Stream && caller == Caller::Stranger {
            self.counters.refused_streams.one();
            return Err(Reject::With(code::REFUSED));
        }
        let len = input.body_len().await?.unwrap_or(0);
        // A stranger's requests are small and its streams few: its connection is the limit.
        let held = match caller {
            Caller::Member { .. } => Some(self.hold_bytes(len)?),
            Caller::Stranger => None,
        };
        let Some(body) = input.frame().await? else {
            return Err(Reject::With(code::FAILED));
        };
        Ok(match kind {
            Kind::Call => Request::Call(body, held),
            Kind::Stream => Request::Stream(body),
        })
    }

    fn hold_bytes(&self, len: usize) -> Result<OwnedSemaphorePermit, Reject> {
        let permits = u32::try_from(len).map_err(|_| Reject::With(code::OVERLOADED))?;
        let held = self.request_bytes.clone().try_acquire_many_owned(permits);
        held.map_err(|_| self.overloaded())
    }

    fn take(&self, semaphore: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Reject> {
        let permit = semaphore.clone().try_acquire_owned();
        permit.map_err(|_| self.overloaded())
    }

    fn overloaded(&self) -> Reject {
        self.counters.overload.one();
        Reject::With(code::OVERLOADED)
    }

    async fn serve_call(
        &self,
        session: &Session,
        body: Bytes,
        output: &mut FrameOutput,
    ) -> Result<(), Reject> {
        let _permit = match session.caller {
            Caller::Member { .. } => self.take(&self.calls)?,
            Caller::Stranger => self.take(&self.stranger_calls)?,
        };
        let handler = self.handler().ok_or(Reject::With(code::REFUSED))?;
        let answer = handler.call(session.caller, session.from, body);
        let answer = self.in_time(self.limits.handler_timeout, answer).await?;
        if answer.len() > self.limits.max_frame {
            tracing::error!(
                len = answer.len(),
                "answer is over the frame limit; not sent"
            );
            return Err(Reject::With(code::FAILED));
        }
        let written = output.frame(None, answer.into());
        let written = self.in_time(self.limits.request_timeout, written).await?;
        written.map_err(|_| Reject::Gone)?;
        output.finish();
        self.counters.calls_served.one();
        Ok(())
    }

    async fn in_time<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, Reject> {
        timeout(limit, work).await.map_err(|_| {
            self.counters.calls_timed_out.one();
            Reject::With(code::FAILED)
        })
    }

    async fn serve_open(
        &self,
        session: Session,
        first: Bytes,
        mut input: FrameInput,
        mut output: FrameOutput,
    ) {
        let (Ok(_permit), Some(handler)) = (self.take(&self.streams), self.handler()) else {
            input.stop(code::OVERLOADED);
            return output.reset(code::OVERLOADED);
        };
        self.counters.streams_served.one();
        let stream = FrameStream::new(output, input, self.limits.max_frame);
        let Session { caller, from, .. } = session;
        handler.stream(caller, from, first, stream).await;
    }
}

impl From<InputError> for Reject {
    fn from(_: InputError) -> Self {
        Self::Gone
    }
}
