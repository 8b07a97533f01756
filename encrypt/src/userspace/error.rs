//! What can go wrong.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::path::Form;
use crate::sa::InsertError;

use super::IFNAME;

/// Why the data path could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The TAP.
    #[error("tap {IFNAME} cannot be used: {what}: {source}")]
    Tap {
        /// What was refused.
        what: &'static str,
        /// By the kernel.
        source: io::Error,
    },
    /// The TAP is none that super-packets of UDP tunnels pass.
    #[error("packets of vxlan devices cannot be taken from a tap: {0}")]
    Probe(String),
    /// No device can be a port of a bridge.
    #[error("devices for bridges of encrypted networks cannot be made: {0}")]
    Port(String),
    /// The UDP socket.
    #[error("udp socket at {local} cannot be used: {source}")]
    Socket {
        /// Where it was to be bound.
        local: SocketAddr,
        /// By the kernel.
        source: io::Error,
    },
    /// A thread or a pipe to it.
    #[error("thread of the data path cannot be started: {0}")]
    Thread(io::Error),
    /// What an earlier process handed over.
    #[error("what was handed over cannot be gone on with: {0}")]
    HandOver(PathError),
}

/// Why a change was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The peer is not one.
    #[error("{0} is not a peer of the specification: only those are")]
    UnknownPeer(IpAddr),
    /// The association was not taken in.
    #[error(transparent)]
    Insert(#[from] InsertError),
    /// The key is not newer than the one that is sealed with.
    #[error(
        "key was sealed with already, or is older than the one that is: a later epoch is needed"
    )]
    UsedKey,
    /// The tunnel end is another.
    #[error("the data path is at {local}, port {port}: it has to be started again to move")]
    Moved {
        /// Where it is.
        local: IpAddr,
        /// At which port.
        port: u16,
    },
    /// The form is another.
    #[error("the data path is of form {0}: it has to be started again to be of another")]
    OtherForm(Form),
    /// State that was handed over is damaged.
    #[error("state has keys, windows or descriptors of a wrong size or number")]
    BadState,
}
