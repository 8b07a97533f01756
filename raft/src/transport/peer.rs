//! Connections for peering: each for itself, beside the ones that calls share, so that it can end
//! alone; told apart in the handshake by the protocol (ALPN, RFC 7301).
//!
//! Who dialled opens the one stream and sends a frame; the other side answers with a frame, or
//! closes with a code that says why not. From then on both are equals.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, ConnectionError, VarInt};
use thiserror::Error;
use tokio::time::timeout;

use super::counters::Counters;
use super::dial::unreachable;
use super::io::{FrameInput, FrameOutput};
use super::{CallError, FrameStream, Limits, Transport, code, tls};
use crate::model::NodeId;

/// Largest message, bytes.
pub const MAX_PEER_MESSAGE: usize = 4 << 10;

/// What every cipher suite can derive: 255 SHA-256 digests (RFC 5869 section 2.3).
const MAX_EXPORT: usize = 255 * 32;
/// Longest reason of the other side that is repeated, characters.
const REASON_MAX: usize = 200;

/// A connection for peering that both sides have agreed to. Dropping it closes it.
#[derive(Debug)]
pub struct PeerConnection {
    connection: Connection,
    node: NodeId,
    stream: Option<FrameStream>,
    /// Of a connection that we dialled.
    _counted: Option<Arc<()>>,
}

/// Yields keying material of a connection, also after it was closed.
#[derive(Clone)]
pub(crate) struct Exporter(Connection);

/// Why this side closes a connection for peering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerClose {
    /// Nothing more comes.
    Ending,
    /// The other side is no member, as far as this one knows.
    Refused,
    /// What it asks with cannot be read.
    Unreadable,
    /// At a limit.
    Overloaded,
    /// No session with the other side is wanted, yet or any more.
    NotWanted,
    /// Another session with the same node counts.
    Superseded,
    /// A new one, with new secrets, is to follow.
    Renewed,
}

/// Why there is no connection for peering.
#[derive(Clone, Debug, Error)]
pub(crate) enum PeerDialError {
    /// As for calls.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The other side does not want one.
    #[error("{to} does not want a session with this node (yet)")]
    NotWanted { to: SocketAddr },
    /// There is one that counts more.
    #[error("{to} has another session with this node that counts")]
    Superseded { to: SocketAddr },
}

/// Keying material that was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("keying material of {len} bytes refused: at most {MAX_EXPORT} bytes can be derived")]
pub struct ExportError {
    /// As asked for.
    pub len: usize,
}

impl PeerClose {
    fn code(self) -> (VarInt, &'static [u8]) {
        match self {
            Self::Ending => (code::CLOSING, b"closing"),
            Self::Refused => (code::REFUSED, b"not a member"),
            Self::Unreadable => (code::BAD_FRAME, b"it speaks another version"),
            Self::Overloaded => (code::OVERLOADED, b"too many sessions"),
            Self::NotWanted => (code::NOT_WANTED, b"session not wanted"),
            Self::Superseded => (code::SUPERSEDED, b"another session counts"),
            Self::Renewed => (code::RENEWED, b"a new session follows"),
        }
    }
}

impl PeerConnection {
    /// Who is at the other end, as its certificate says.
    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn exporter(&self) -> Exporter {
        Exporter(self.connection.clone())
    }

    /// What the messages travel on; once.
    pub(crate) fn take_stream(&mut self) -> Option<FrameStream> {
        self.stream.take()
    }

    pub(crate) fn close(&self, why: PeerClose) {
        let (code, reason) = why.code();
        self.connection.close(code, reason);
    }

    /// Resolves with the reason once it is closed, by whomever.
    pub(crate) fn closed(&self) -> impl Future<Output = String> + Send + 'static {
        let connection = self.connection.clone();
        async move { connection.closed().await.to_string() }
    }
}

impl Drop for PeerConnection {
    fn drop(&mut self) {
        // Without effect on one that is closed already.
        self.close(PeerClose::Ending);
    }
}

impl Exporter {
    /// See [`Connection::export_keying_material`].
    pub(crate) fn export(
        &self,
        out: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportError> {
        let len = out.len();
        if len > MAX_EXPORT {
            return Err(ExportError { len });
        }
        let exported = self.0.export_keying_material(out, label, context);
        exported.map_err(|_| ExportError { len })
    }
}

impl Transport {
    /// Dials a member for peering. `offer` is what it is asked with; what it answered comes with
    /// the connection. Takes two handshake times at most.
    pub(crate) async fn dial_peer(
        &self,
        to: SocketAddr,
        expect: NodeId,
        offer: Bytes,
    ) -> Result<(PeerConnection, Bytes), PeerDialError> {
        let core = &self.core;
        let connection = core
            .dial_for(to, Some(expect), tls::Protocol::Peering)
            .await?;
        let mut peer = PeerConnection {
            connection: connection.connection,
            node: expect,
            stream: None,
            _counted: Some(core.peerings.clone()),
        };
        let exchange = open(&peer.connection, offer, &core.counters);
        let (stream, answer) = match timeout(core.limits.handshake_timeout, exchange).await {
            Ok(Some(agreed)) => agreed,
            Ok(None) => return Err(not_agreed(to, &peer.connection)),
            Err(_) => return Err(unreachable(to, "no answer").into()),
        };
        peer.stream = Some(stream);
        Ok((peer, answer))
    }
}

async fn open(
    connection: &Connection,
    offer: Bytes,
    counters: &Arc<Counters>,
) -> Option<(FrameStream, Bytes)> {
    let (send, recv) = connection.open_bi().await.ok()?;
    let mut output = FrameOutput::new(send);
    output.frame(None, offer).await.ok()?;
    let mut input = FrameInput::new(recv, MAX_PEER_MESSAGE, connection, counters);
    let answer = input.frame().await.ok()??;
    Some((FrameStream::new(output, input, MAX_PEER_MESSAGE), answer))
}

/// The counterpart of [`open`]: the stream and what the other side asks with.
pub(super) async fn accept(
    connection: &Connection,
    node: NodeId,
    counters: &Arc<Counters>,
) -> Option<(PeerConnection, Bytes)> {
    let (send, recv) = connection.accept_bi().await.ok()?;
    let output = FrameOutput::new(send);
    let mut input = FrameInput::new(recv, MAX_PEER_MESSAGE, connection, counters);
    let offer = input.frame().await.ok()??;
    let peer = PeerConnection {
        connection: connection.clone(),
        node,
        stream: Some(FrameStream::new(output, input, MAX_PEER_MESSAGE)),
        _counted: None,
    };
    Some((peer, offer))
}

fn not_agreed(to: SocketAddr, connection: &Connection) -> PeerDialError {
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close)) => match close.error_code {
            code::NOT_WANTED => PeerDialError::NotWanted { to },
            code::SUPERSEDED => PeerDialError::Superseded { to },
            code::OVERLOADED => CallError::Overloaded { to }.into(),
            _ => {
                let reason = String::from_utf8_lossy(&close.reason);
                let reason = reason.chars().take(REASON_MAX).collect();
                CallError::Refused { to, reason }.into()
            }
        },
        Some(error) => super::dial::not_connected(to, &error).into(),
        None => unreachable(to, "it ended the stream").into(),
    }
}

/// Whether a connection that others opened is one for peering.
pub(super) fn is_peering(connection: &Connection) -> bool {
    let data = connection.handshake_data();
    let data = data.and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(tls::PEERING_ALPN))
}

/// The connections for peering that others have opened, within limits.
pub(super) struct PeerPlaces {
    limits: Arc<Limits>,
    held: Mutex<BTreeMap<NodeId, usize>>,
}

/// A connection's place; free again when dropped.
pub(super) struct PeerPlace<'a> {
    places: &'a PeerPlaces,
    node: NodeId,
}

impl PeerPlaces {
    pub(super) fn new(limits: &Arc<Limits>) -> Self {
        Self {
            limits: limits.clone(),
            held: Mutex::default(),
        }
    }

    pub(super) fn count(&self) -> usize {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().sum()
    }

    /// `None` when there is no room.
    pub(super) fn enter(&self, node: NodeId) -> Option<PeerPlace<'_>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.get(&node).copied().unwrap_or_default();
        let all: usize = held.values().sum();
        if own >= self.limits.max_peerings_per_node || all >= self.limits.max_peerings {
            return None;
        }
        held.insert(node, own + 1);
        Some(PeerPlace { places: self, node })
    }
}

impl Drop for PeerPlace<'_> {
    fn drop(&mut self) {
        let held = &self.places.held;
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&self.node) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                held.remove(&self.node);
            }
        }
    }
}
