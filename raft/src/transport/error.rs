use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::identity::CaDigest;
use crate::model::NodeId;

/// Why the control port could not be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error(
        "cannot listen on {addr}/udp: the address is in use, another program holds it \
         (stop it or choose another port with --listen-addr)"
    )]
    InUse {
        /// Which.
        addr: SocketAddr,
    },
    /// This host does not have it.
    #[error("cannot listen on {addr}/udp: no interface of this host has this address")]
    NotLocal {
        /// Which.
        addr: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {addr}/udp: {source}")]
    Io {
        /// Which.
        addr: SocketAddr,
        /// As the kernel says.
        source: io::Error,
    },
}

/// Why a call or stream did not work.
#[derive(Clone, Debug, Error)]
pub enum CallError {
    /// [`super::Transport::set_identity`] was not called yet.
    #[error("this node is not a member of a cluster")]
    NoIdentity,
    /// No answer from the address.
    #[error("cannot reach {to}: {reason}")]
    Unreachable {
        /// Who was dialled.
        to: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// Another node of the cluster answers there.
    #[error("{to} is node {found}, not {expected}")]
    WrongNode {
        /// Who was dialled.
        to: SocketAddr,
        /// Wanted.
        expected: NodeId,
        /// Present.
        found: NodeId,
    },
    /// Who answers there is no member of our cluster.
    #[error("{to} is not trusted: {reason}")]
    NotTrusted {
        /// Who was dialled.
        to: SocketAddr,
        /// What its certificate lacks.
        reason: String,
    },
    /// Who answers there belongs to another CA than the join token says. Nothing was sent.
    #[error(
        "the manager at {to} belongs to another cluster than the join token \
         (its CA is not the token's {pinned})"
    )]
    WrongCa {
        /// Who was dialled.
        to: SocketAddr,
        /// From the token.
        pinned: CaDigest,
    },
    /// The other side does not want us.
    #[error("{to} refused: {reason}")]
    Refused {
        /// Who.
        to: SocketAddr,
        /// As it says.
        reason: String,
    },
    /// The other side is at one of its limits.
    #[error("{to} is overloaded; try again")]
    Overloaded {
        /// Who.
        to: SocketAddr,
    },
    /// No answer in time.
    #[error("no answer from {to} within {after:?}")]
    TimedOut {
        /// Who.
        to: SocketAddr,
        /// How long it was waited.
        after: Duration,
    },
    /// The connection broke after the request was sent; it may have been carried out.
    #[error("connection to {to} lost: {reason}")]
    Lost {
        /// Who.
        to: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// More than one frame holds.
    #[error("message of {len} bytes is over the limit of {limit}")]
    TooLarge {
        /// Of the body.
        len: usize,
        /// Of the body.
        limit: usize,
    },
    /// The answer is not framed as agreed.
    #[error("{to} sent a malformed answer: {reason}")]
    Malformed {
        /// Who.
        to: SocketAddr,
        /// What is wrong.
        reason: String,
    },
    /// [`super::Transport::close`] was called.
    #[error("the transport is closed")]
    Closed,
}

impl CallError {
    /// Whether the other side may have carried the request out. When not, it is safe to ask
    /// somebody else.
    pub fn maybe_delivered(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. } | Self::Lost { .. } | Self::Malformed { .. }
        )
    }
}

/// Why a stream ended other than by the other side finishing it.
#[derive(Clone, Debug, Error)]
pub enum StreamError {
    /// The connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The other side does not want this stream.
    #[error("stream refused by the other side")]
    Refused,
    /// The other side is at one of its limits.
    #[error("the other side is overloaded; try again")]
    Overloaded,
    /// The other side dropped its end.
    #[error("stream closed by the other side")]
    Closed,
    /// More than one frame holds.
    #[error("frame of {len} bytes is over the limit of {limit}")]
    TooLarge {
        /// Of the body.
        len: usize,
        /// Of the body.
        limit: usize,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame")]
    Truncated,
    /// An earlier send was given up half way, so the frames behind it would make no sense.
    #[error("an earlier send was cancelled half way")]
    Cancelled,
}
