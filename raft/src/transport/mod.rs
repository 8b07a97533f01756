//! One UDP port for the control plane: QUIC with mutual TLS 1.3, calls and long-lived streams.
//!
//! A call is a bidirectional stream with one frame each way; a stream carries frames both ways
//! until either side ends it. The first byte of a stream says which of the two it is; a frame is
//! its length (32 bits, big endian) and its body. Connections for peering speak a protocol of
//! their own: see `peer`.

mod code;
mod counters;
mod dial;
mod error;
mod frame;
mod inbound;
mod io;
mod limits;
mod peer;
mod pool;
mod server;
mod shared;
mod socket;
mod stream;
mod tls;
mod verify;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use quinn::{Endpoint, TokioRuntime};
use tokio::time::{Instant, timeout, timeout_at};

pub use counters::TransportCounters;
pub use error::{BindError, CallError, StreamError};
pub use limits::Limits;
pub use peer::{ExportError, MAX_PEER_MESSAGE, PeerConnection};
pub use stream::{FrameReceiver, FrameSender, FrameStream};

pub(crate) use peer::{Exporter, PeerClose, PeerDialError};

use self::counters::Counters;
use self::dial::unreachable;
use self::frame::Kind;
use self::pool::Pool;
use self::server::Server;
use self::shared::Core;
use self::socket::CountedSocket;
use self::tls::Credentials;
use crate::identity::{CaDigest, Caller, Identity, IdentityError, NodeKey};
use crate::model::NodeId;

/// What answers calls and streams of others. It decides who may ask for what.
pub trait Handler: Send + Sync + 'static {
    /// One request, one response. Given up after [`Limits::handler_timeout`], not when the caller
    /// goes away.
    fn call(&self, caller: Caller, from: SocketAddr, body: Bytes) -> BoxFuture<'_, Vec<u8>>;

    /// A long-lived stream whose first frame is `first`; ends when the future does. Only members
    /// get this far.
    fn stream(
        &self,
        caller: Caller,
        from: SocketAddr,
        first: Bytes,
        stream: FrameStream,
    ) -> BoxFuture<'_, ()>;

    /// A connection for peering that a member has opened, and what it asks with. It is closed when
    /// it is dropped, so a handler that does not know peering refuses it.
    fn peering(&self, _caller: Caller, connection: PeerConnection, _offer: Bytes) {
        connection.close(PeerClose::NotWanted);
    }
}

/// An open connection, for `weft status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// At the other end.
    pub node: NodeId,
    /// Where.
    pub addr: SocketAddr,
    /// Whether we dialled.
    pub outbound: bool,
    /// Smoothed round-trip time.
    pub rtt: Duration,
}

/// How long [`Transport::close`] waits until the other sides know.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// The control port of this agent. Clones share it; the last one to be dropped closes it.
#[derive(Clone)]
pub struct Transport {
    core: Arc<Core>,
}

impl Transport {
    /// Opens the port. Must be called inside a tokio runtime.
    pub fn bind(listen: SocketAddr, limits: Limits) -> Result<Self, BindError> {
        Self::open_port(listen, limits, None)
    }

    /// As [`Self::bind`], and lets peers of the agent's previous run know at once that their
    /// connections are gone (QUIC stateless reset, RFC 9000 section 10.3): the reset key comes
    /// from the node's key.
    pub fn bind_as(listen: SocketAddr, limits: Limits, key: &NodeKey) -> Result<Self, BindError> {
        Self::open_port(listen, limits, Some(key))
    }

    fn open_port(
        listen: SocketAddr,
        limits: Limits,
        key: Option<&NodeKey>,
    ) -> Result<Self, BindError> {
        let failed = |source| BindError::Io {
            addr: listen,
            source,
        };
        let (limits, counters) = (Arc::new(limits), Arc::new(Counters::default()));
        let socket = socket::open(listen, limits.socket_buffer)?;
        let local_addr = socket.local_addr().map_err(failed)?;
        let socket = CountedSocket::new(socket, &TokioRuntime, &counters).map_err(failed)?;
        let socket = Arc::new(socket);
        let endpoint = Endpoint::new_with_abstract_socket(
            tls::endpoint_config(key),
            None,
            socket.clone(),
            Arc::new(TokioRuntime),
        );
        let core = Core {
            local_addr,
            endpoint: endpoint.map_err(failed)?,
            socket,
            server: Arc::new(Server::new(&limits, &counters)),
            pool: Pool::new(limits.max_peers),
            peerings: Arc::default(),
            credentials: RwLock::new(None),
            limits,
            counters,
        };
        let core = Arc::new(core);
        Ok(Self { core })
    }

    /// Where the port is, with the real number if port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.core.local_addr
    }

    /// What it was bound with.
    pub(crate) fn limits(&self) -> &Limits {
        &self.core.limits
    }

    /// Who we are from here on. Open connections stay as they are.
    pub fn set_identity(&self, identity: Arc<Identity>) -> Result<(), IdentityError> {
        let unusable = |e: rustls::Error| IdentityError::Certificate(e.to_string());
        let credentials = Arc::new(Credentials::new(identity).map_err(unusable)?);
        let config = credentials.server(&self.core.limits).map_err(unusable)?;
        let core = &self.core;
        let mut slot = core
            .credentials
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some(credentials);
        if core.server.handler().is_some() {
            core.endpoint.set_server_config(Some(config));
        }
        Ok(())
    }

    /// Who we are.
    pub fn identity(&self) -> Option<Arc<Identity>> {
        let credentials = self.core.credentials();
        credentials.map(|credentials| credentials.identity.clone())
    }

    /// Lets others in, once there is an identity as well. A second handler replaces the first.
    pub fn serve(&self, handler: Arc<dyn Handler>) {
        let core = &self.core;
        // Held so that an identity which is set meanwhile is not missed.
        let slot = core
            .credentials
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if !core.server.set_handler(handler) {
            return;
        }
        if let Some(config) = slot.as_ref().map(|c| c.server(&core.limits)) {
            match config {
                Ok(config) => core.endpoint.set_server_config(Some(config)),
                Err(error) => tracing::error!(%error, "cannot serve with this identity"),
            }
        }
        tokio::spawn(core.server.clone().run(core.endpoint.clone()));
    }

    /// Asks whoever is at `to`, who must be `expect` if given, over the connection that is kept
    /// for this address. The request is sent at most once.
    pub async fn call(
        &self,
        to: SocketAddr,
        expect: Option<NodeId>,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let (core, body) = (&self.core, self.core.fitting(body.into())?);
        core.counters.calls_made.one();
        let deadline = Instant::now() + timeout;
        let begun = core.begin(to, expect, Kind::Call, body, deadline);
        let (mut output, mut input) = begun.await?;
        output.finish();
        let answer = timeout_at(deadline, dial::answer(to, &mut input)).await;
        answer.unwrap_or(Err(CallError::TimedOut { to, after: timeout }))
    }

    /// As [`Self::call`], over a connection for this call alone: for whom is asked so rarely that
    /// none should be kept.
    pub async fn call_once(
        &self,
        to: SocketAddr,
        expect: NodeId,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let (core, body) = (&self.core, self.core.fitting(body.into())?);
        core.counters.calls_made.one();
        let exchange = async {
            let connection = core.dial(to, Some(expect)).await?.connection;
            let closing = CloseWhenDropped(&connection);
            let begun = core.stream(to, &connection).begin(Kind::Call, body);
            let (mut output, mut input) = begun.await.map_err(|e| e.error)?;
            output.finish();
            let answer = dial::answer(to, &mut input).await;
            drop(closing);
            answer
        };
        let answer = tokio::time::timeout(timeout, exchange).await;
        answer.unwrap_or(Err(CallError::TimedOut { to, after: timeout }))
    }

    /// Opens a long-lived stream. Whether the other side wants it shows when it is used.
    pub async fn open(
        &self,
        to: SocketAddr,
        expect: Option<NodeId>,
        first: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<FrameStream, CallError> {
        let (core, first) = (&self.core, self.core.fitting(first.into())?);
        let deadline = Instant::now() + timeout;
        let begun = core.begin(to, expect, Kind::Stream, first, deadline);
        let (output, input) = begun.await?;
        Ok(FrameStream::new(output, input, core.limits.max_frame))
    }

    /// Asks a manager of a cluster that we do not belong to yet. Nothing is sent unless the other
    /// side proves to be a manager certified by the CA that `pin` names.
    pub async fn call_pinned(
        &self,
        to: SocketAddr,
        pin: &CaDigest,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let (core, body) = (&self.core, self.core.fitting(body.into())?);
        core.counters.calls_made.one();
        let deadline = Instant::now() + timeout;
        let (config, verdict) = tls::pinned_client(pin, tls::Protocol::Calls, &core.limits)
            .map_err(|e| unreachable(to, &e.to_string()))?;
        let connecting = core.endpoint.connect_with(config, to, tls::SERVER_NAME);
        let connected = dial::finish_pinned_dial(to, pin, connecting, &verdict);
        let connected = timeout_at(deadline.min(core.handshake_deadline()), connected).await;
        let connected = connected.unwrap_or_else(|_| Err(unreachable(to, "no answer")));
        core.count_dial(connected.is_ok());
        let connection = connected?;
        let exchange = async {
            let stream = core.stream(to, &connection).begin(Kind::Call, body);
            let (mut output, mut input) = stream.await.map_err(|e| e.error)?;
            output.finish();
            dial::answer(to, &mut input).await
        };
        let answer = timeout_at(deadline, exchange).await;
        connection.close(code::CLOSING, b"done");
        answer.unwrap_or(Err(CallError::TimedOut { to, after: timeout }))
    }

    /// Closes the connections with a node, in both directions.
    pub fn disconnect(&self, node: NodeId) {
        self.core.pool.disconnect(node);
        self.core.server.inbound.disconnect(node);
    }

    /// Open connections with members.
    pub fn links(&self) -> Vec<Link> {
        let mut links = self.core.pool.links();
        links.extend(self.core.server.inbound.links());
        links
    }

    /// What was done and refused so far.
    pub fn counters(&self) -> TransportCounters {
        TransportCounters {
            inbound_open: self.core.server.open() as u64,
            outbound_open: self.core.open() as u64,
            ..self.core.counters.read()
        }
    }

    /// Closes every connection and the port, and lets go of the handler; returns when the port is
    /// free again.
    pub async fn close(&self) {
        self.core.endpoint.close(code::CLOSING, b"closing");
        // Peers that do not hear it find out by themselves.
        let _ = timeout(CLOSE_WAIT, self.core.endpoint.wait_idle()).await;
        self.core.socket.shut();
        // The handler may well hold this transport.
        self.core.server.drop_handler();
    }
}

/// A connection that nobody else uses, and that its user may give up at any time.
struct CloseWhenDropped<'a>(&'a quinn::Connection);

impl Drop for CloseWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.close(code::CLOSING, b"done");
    }
}

/// An IPv4 address that came in on an IPv6 socket, as people write it.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests;
