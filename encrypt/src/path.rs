//! What a node's data path of encrypted networks has to be, and what it is: the words that the
//! kernel's and the user-space path have in common.
//!
//! [`PathSpec`] is complete and holds no keys. Keys are installed one by one
//! ([`crate::rotation::Action`]) and are in no value that can be printed or kept.

mod port;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::esp::Spi;
use crate::offload::RejectionCounters;
use crate::rotation::KeyId;
use crate::{InboundCounters, OutboundCounters};

pub use port::{PortSpec, PortState, RemoteSpec};

/// UDP port of ESP in UDP (RFC 3948 section 2).
pub const ESP_PORT: u16 = 4500;

/// What the data path of one node has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathSpec {
    /// This node's tunnel end: source address of what it sends, and the one it takes ESP at.
    pub local: IpAddr,
    /// UDP port that ESP comes and goes by, [`ESP_PORT`].
    pub esp_port: u16,
    /// UDP port of the VXLAN datagrams that are wrapped. No datagram to it is ever on the underlay.
    pub inner_port: u16,
    /// MTU of the underlay, bytes.
    pub underlay_mtu: u32,
    /// Peers by tunnel end. Packets to and from anybody else are dropped.
    pub peers: BTreeMap<IpAddr, PeerSpec>,
    /// How the user-space path gets the frames of containers.
    #[serde(default)]
    pub form: Form,
    /// Ports by VNI, in [`Form::Port`]: frames of a network without one are dropped. None in
    /// [`Form::Vxlan`].
    #[serde(default)]
    pub ports: BTreeMap<u32, PortSpec>,
}

/// How the user-space path gets the frames of containers, and gives them theirs. Both forms put the
/// same bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// In VXLAN, from and to the kernel's VXLAN devices: one device of the host takes what they
    /// send. Linux 6.17 and later.
    #[default]
    Vxlan,
    /// As they are, from and to a port of each network's bridge; VXLAN is made in user space.
    Port,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vxlan => "vxlan",
            Self::Port => "port",
        })
    }
}

/// A peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSpec {
    /// VNIs of the encrypted networks that both nodes take part in. A frame of another network is
    /// dropped and counted, whatever key it came with.
    pub networks: BTreeSet<u32>,
}

/// Which association of which peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SaName {
    /// Tunnel end of the peer.
    pub peer: IpAddr,
    /// Which key it has.
    pub key: KeyId,
    /// The receiver's choice.
    pub spi: Spi,
}

/// What a data path is at that moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathState {
    /// Associations that open.
    pub inbound: Vec<Inbound>,
    /// Associations that seal, one per peer at most.
    pub outbound: Vec<Outbound>,
    /// What is known of each peer of the specification.
    pub peers: BTreeMap<IpAddr, PeerState>,
    /// Packets that belonged to no association.
    pub strays: InboundCounters,
    /// Packets for the path that it could not take apart, or that were for nobody.
    #[serde(default)]
    pub rejected: RejectionCounters,
    /// Packets that were opened and that the kernel did not take.
    #[serde(default)]
    pub undelivered: u64,
    /// Packets that were opened, of a network that the peer shares and that has no open port.
    #[serde(default)]
    pub no_port: u64,
    /// Which form of the user-space path runs, if one does.
    #[serde(default)]
    pub form: Option<Form>,
    /// Ports of the specification, by VNI.
    #[serde(default)]
    pub ports: BTreeMap<u32, PortState>,
    /// Why the path does not carry anything, if so.
    pub error: Option<String>,
}

/// An association that opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbound {
    /// Which.
    pub name: SaName,
    /// What it has counted.
    pub counters: InboundCounters,
}

/// An association that seals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outbound {
    /// Which.
    pub name: SaName,
    /// What it has counted.
    pub counters: OutboundCounters,
    /// Whether it has reached a soft limit.
    pub rekey_due: bool,
}

/// What is known of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerState {
    /// Where its packets come from and ours go to: its tunnel end, unless an address translator is
    /// between (RFC 3948 section 4).
    pub remote: Option<SocketAddr>,
    /// Milliseconds since the last packet of it that was opened; none before the first.
    pub last_received_ms: Option<u64>,
    /// Packets to it that were dropped because there was no key.
    pub no_key: u64,
    /// Packets of it that were of a network that it shares with this node not.
    pub foreign_network: u64,
    /// Packets to it that could not be sent: too long for the path, or no room.
    pub send_failed: u64,
    /// Sums over all associations with it, those that are gone included.
    pub inbound: InboundCounters,
    /// The same of the other direction.
    pub outbound: OutboundCounters,
}
