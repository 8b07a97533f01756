//! The dialling side: connections to members and pinned managers, and what goes wrong with them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{
    ConnectError, Connecting, Connection, ConnectionError, ReadError, TransportErrorCode, VarInt,
    WriteError,
};
use tokio::time::timeout;

use super::counters::Counters;
use super::frame::{FrameError, Kind};
use super::io::{FrameInput, FrameOutput, InputError};
use super::pool::Peer;
use super::verify::{Distrust, Verdict};
use super::{CallError, Limits, code, tls};
use crate::identity::{CaDigest, Caller};
use crate::model::NodeId;

/// Completes a handshake that was begun with `to`.
pub(super) async fn finish_dial(
    to: SocketAddr,
    expect: Option<NodeId>,
    connecting: Result<Connecting, ConnectError>,
    verdict: &Verdict,
    limit: Duration,
) -> Result<Peer, CallError> {
    let connection = match timeout(limit, begun(to, connecting)?).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(e)) => {
            return Err(match verdict.get() {
                Some(reason) => distrusted(to, expect, None, reason),
                None => not_connected(to, &e),
            });
        }
        Err(_) => return Err(unreachable(to, "no answer")),
    };
    match tls::caller(&connection) {
        Some(Caller::Member { node, .. }) => Ok(Peer { connection, node }),
        _ => Err(CallError::NotTrusted {
            to,
            reason: "it presented no certificate".into(),
        }),
    }
}

/// As [`finish_dial`], for a manager that a join token leads to.
pub(super) async fn finish_pinned_dial(
    to: SocketAddr,
    pin: &CaDigest,
    connecting: Result<Connecting, ConnectError>,
    verdict: &Verdict,
) -> Result<Connection, CallError> {
    begun(to, connecting)?
        .await
        .map_err(|e| match verdict.get() {
            Some(reason) => distrusted(to, None, Some(*pin), reason),
            None => not_connected(to, &e),
        })
}

fn begun(
    to: SocketAddr,
    connecting: Result<Connecting, ConnectError>,
) -> Result<Connecting, CallError> {
    connecting.map_err(|e| match e {
        ConnectError::EndpointStopping => CallError::Closed,
        e => unreachable(to, &e.to_string()),
    })
}

/// A stream that could not be begun.
pub(super) struct Unbegun {
    /// Whether it is certain that the other side has done nothing, because the connection was
    /// dead before the whole first frame was sent.
    pub(super) unsent: bool,
    pub(super) error: CallError,
}

/// A stream to be opened.
pub(super) struct NewStream<'a> {
    pub(super) to: SocketAddr,
    pub(super) connection: &'a Connection,
    pub(super) limits: &'a Limits,
    pub(super) counters: &'a Arc<Counters>,
}

impl NewStream<'_> {
    /// Opens the stream and sends its first frame.
    pub(super) async fn begin(
        self,
        kind: Kind,
        body: Bytes,
    ) -> Result<(FrameOutput, FrameInput), Unbegun> {
        let (to, limit) = (self.to, self.limits.max_frame);
        let failed = |unsent, error| Unbegun { unsent, error };
        let opened = self.connection.open_bi().await;
        let (send, recv) = opened.map_err(|e| failed(true, not_sent(to, &e)))?;
        let mut output = FrameOutput::new(send);
        let input = FrameInput::new(recv, limit, self.connection, self.counters);
        match output.frame(Some(kind), body).await {
            Ok(()) => Ok((output, input)),
            Err(WriteError::ConnectionLost(e)) => Err(failed(true, not_sent(to, &e))),
            Err(WriteError::Stopped(code)) => Err(failed(false, of_code(to, code))),
            Err(e) => Err(failed(true, unreachable(to, &e.to_string()))),
        }
    }
}

/// The one frame that answers a call.
pub(super) async fn answer(to: SocketAddr, input: &mut FrameInput) -> Result<Bytes, CallError> {
    let answer = input.frame().await.map_err(|e| of_input(to, e))?;
    input.settle();
    answer.ok_or_else(|| malformed(to, "an empty stream"))
}

fn of_input(to: SocketAddr, error: InputError) -> CallError {
    match error {
        InputError::Frame(FrameError::Oversized { len, limit }) => {
            CallError::TooLarge { len, limit }
        }
        InputError::Frame(e) => malformed(to, &e.to_string()),
        InputError::Read(ReadError::Reset(code)) => of_code(to, code),
        InputError::Read(ReadError::ConnectionLost(e)) => lost(to, &e),
        InputError::Read(e) => malformed(to, &e.to_string()),
    }
}

fn of_code(to: SocketAddr, code: VarInt) -> CallError {
    match code {
        code::OVERLOADED => CallError::Overloaded { to },
        code::REFUSED => CallError::Refused {
            to,
            reason: "it does not serve this".into(),
        },
        code::FAILED => lost_because(to, "it had no answer in time"),
        _ => lost_because(to, "it dropped the request"),
    }
}

/// A connection ended that a request may have been sent on.
fn lost(to: SocketAddr, error: &ConnectionError) -> CallError {
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == code::OVERLOADED => {
            CallError::Overloaded { to }
        }
        // Only handshakes end so. Ours was complete; the other side did not like our half of it
        // and has looked at nothing else.
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => {
            refused_by_tls(to, error)
        }
        ConnectionError::TimedOut => lost_because(to, "it has gone silent"),
        ConnectionError::Reset => lost_because(to, "it has restarted"),
        ConnectionError::LocallyClosed => lost_because(to, "closed by this node"),
        e => lost_because(to, &e.to_string()),
    }
}

/// As [`lost`], before the whole request was handed over.
fn not_sent(to: SocketAddr, error: &ConnectionError) -> CallError {
    match lost(to, error) {
        CallError::Lost { to, reason } => CallError::Unreachable { to, reason },
        other => other,
    }
}

pub(super) fn not_connected(to: SocketAddr, error: &ConnectionError) -> CallError {
    match error {
        ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => {
            refused_by_tls(to, error)
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            CallError::Overloaded { to }
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == code::OVERLOADED => {
            CallError::Overloaded { to }
        }
        ConnectionError::TimedOut => unreachable(to, "no answer"),
        ConnectionError::LocallyClosed => CallError::Closed,
        ConnectionError::TransportError(e) => CallError::NotTrusted {
            to,
            reason: e.to_string(),
        },
        e => unreachable(to, &e.to_string()),
    }
}

fn distrusted(
    to: SocketAddr,
    expect: Option<NodeId>,
    pin: Option<CaDigest>,
    reason: &Distrust,
) -> CallError {
    match (reason, expect, pin) {
        (Distrust::WrongNode(found), Some(expected), _) => CallError::WrongNode {
            to,
            expected,
            found: *found,
        },
        (Distrust::WrongCa, _, Some(pinned)) => CallError::WrongCa { to, pinned },
        (Distrust::Certificate(reason), ..) => CallError::NotTrusted {
            to,
            reason: reason.clone(),
        },
        (other, ..) => CallError::NotTrusted {
            to,
            reason: format!("{other:?}"),
        },
    }
}

/// Whether a close carries a TLS alert (RFC 9001 section 4.8).
fn is_tls(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

fn refused_by_tls(to: SocketAddr, error: &ConnectionError) -> CallError {
    CallError::Refused {
        to,
        reason: format!("it does not accept our certificate or protocol ({error})"),
    }
}

pub(super) fn unreachable(to: SocketAddr, reason: &str) -> CallError {
    CallError::Unreachable {
        to,
        reason: reason.into(),
    }
}

fn lost_because(to: SocketAddr, reason: &str) -> CallError {
    CallError::Lost {
        to,
        reason: reason.into(),
    }
}

fn malformed(to: SocketAddr, reason: &str) -> CallError {
    CallError::Malformed {
        to,
        reason: reason.into(),
    }
}
