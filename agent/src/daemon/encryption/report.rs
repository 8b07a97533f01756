//! What there is to be known of encrypted networks on this node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_encrypt::InboundCounters;
use weft_encrypt::path::{PathState, PortState};
use weft_raft::model::NodeId;

use super::{Choice, Place};

/// What the keeper knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EncryptionReport {
    /// Up to which [`want`](super::Encryptor::want) this is.
    pub(super) number: u64,
    /// Where nothing of encrypted networks can leave or come in clear; why it can, if so.
    pub(super) closed: Result<Option<Place>, String>,
    /// Which data path is in use; none while no encrypted network is here.
    pub(crate) path: Option<Choice>,
    /// Why the data path does not carry anything, if so.
    pub(crate) error: Option<String>,
    /// The peers.
    pub(crate) peers: BTreeMap<NodeId, PeerReport>,
    /// Ports of networks by VNI, where the data path has such.
    pub(crate) ports: BTreeMap<u32, PortState>,
    /// Packets that belonged to no association.
    pub(crate) strays: InboundCounters,
    /// Packets of networks whose port is not open.
    pub(crate) no_port: u64,
    /// Clear datagrams of encrypted networks that were dropped on their way in, and out.
    pub(crate) clear_dropped: (u64, u64),
}

impl Default for EncryptionReport {
    fn default() -> Self {
        Self {
            number: 0,
            closed: Ok(None),
            path: None,
            error: None,
            peers: BTreeMap::new(),
            ports: BTreeMap::new(),
            strays: InboundCounters::default(),
            no_port: 0,
            clear_dropped: (0, 0),
        }
    }
}

/// Whether a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// Both directions have a key.
    Protected,
    /// Nothing goes to it, or comes from it, and why.
    Blocked(String),
}

/// What there is to be known of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerReport {
    /// Its tunnel end.
    pub(crate) vtep: IpAddr,
    /// Whether it is reached.
    pub(crate) protection: Protection,
    /// Number of the key that is sealed with.
    pub(crate) epoch_out: Option<u64>,
    /// Number of the newest key that is accepted.
    pub(crate) epoch_in: Option<u64>,
    /// For how long the key has been sealed with, where this agent saw it begin.
    pub(crate) age: Option<Duration>,
    /// What the data path knows of it.
    pub(crate) state: weft_encrypt::path::PeerState,
}

impl PeerReport {
    /// Of a node that says that its tunnel end is another's.
    pub(super) fn clashing(vtep: IpAddr) -> Self {
        let why = format!("another node has the data-path address {vtep} as well");
        Self {
            vtep,
            protection: Protection::Blocked(why),
            epoch_out: None,
            epoch_in: None,
            age: None,
            state: weft_encrypt::path::PeerState::default(),
        }
    }
}

impl EncryptionReport {
    /// Why something could leave or come in clear, if so; nothing is sent then.
    pub(crate) fn trouble(&self) -> Option<&String> {
        self.closed.as_ref().err().or(self.error.as_ref())
    }

    /// Takes what the data path says over.
    pub(super) fn take(&mut self, state: &PathState) {
        self.strays = state.strays;
        self.no_port = state.no_port;
        self.ports.clone_from(&state.ports);
        self.error.clone_from(&state.error);
    }
}
