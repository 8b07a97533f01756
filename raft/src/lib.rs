//! weft's control plane: cluster vocabulary, replicated state machine, storage, QUIC transport,
//! identity and watch.
//!
//! This crate speaks cluster words (node, network, endpoint, service) and knows nothing of
//! kernels. The pure half ([`model`], [`command`], [`state`], [`codec`]) reads no clock, no random
//! numbers and no sockets: what it needs of them arrives inside a [`command::Proposal`].
#![forbid(unsafe_code)]

pub mod codec;
pub mod command;
mod consensus;
pub mod control;
pub mod identity;
pub mod model;
pub mod peering;
pub mod state;
mod store;
pub mod transport;
pub mod watch;
mod wire;
