use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Labels, NodeId, Revision, ServiceId};

/// A host in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Derived from the node's public key.
    pub id: NodeId,
    /// Unique in the cluster; the host's name unless the operator chose another.
    pub name: String,
    /// Whether it votes.
    pub role: Role,
    /// Id in the Raft membership, for managers: the index of the log entry that added the node,
    /// hence never used twice. Zero for workers.
    pub raft_id: u64,
    /// Control address that peers dial (UDP).
    pub addr: SocketAddr,
    /// VTEP: underlay address of the node's tunnel end.
    pub data_path_addr: IpAddr,
    /// MTU in bytes of the device that carries `data_path_addr`.
    pub underlay_mtu: u32,
    /// Prefixes that the host routes itself; no network may overlap one of them.
    pub host_routes: Vec<IpNet>,
    /// The node's own address on the ingress network, by which the other nodes hand it what came
    /// to a published port; `None` when that network has none left, or there is none.
    pub ingress: Option<Ipv4Addr>,
    /// Whether the node takes part in balancing.
    pub availability: Availability,
    /// Whether the cluster hears of it.
    pub status: NodeStatus,
    /// Operator annotations.
    pub labels: Labels,
    /// Version of the agent.
    pub version: String,
    /// Last change.
    pub revision: Revision,
    /// Addresses of the host that others may reach it by, sorted; on links of others than weft.
    pub addresses: Vec<IpAddr>,
    /// What of the host keeps services from being reached there, as its agent found.
    pub notices: Vec<Notice>,
    /// What the paths to other nodes' tunnel ends carry, bytes, where that is less than both ends'
    /// `underlay_mtu`; as its agent found.
    pub paths: BTreeMap<NodeId, u32>,
}

/// Something of a host that keeps services from being reached there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Notice {
    /// The service that it concerns; `None` concerns all of them.
    pub service: Option<ServiceId>,
    /// What it is and what to do, in one line.
    pub message: String,
}

/// Whether a node votes in Raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Votes, holds the log and the CA key.
    Manager,
    /// Follows a manager.
    Worker,
}

/// Whether a node takes part in balancing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Availability {
    /// Its endpoints serve.
    Active,
    /// Its endpoints run on and are left out of VIPs, DNS and ingress.
    Drain,
}

/// What the leader last heard of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeStatus {
    /// Reports arrive.
    Ready,
    /// No report for longer than the detection time. Nothing of the node is evicted.
    Down,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Manager => "manager",
            Self::Worker => "worker",
        })
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Drain => "drain",
        })
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Down => "down",
        })
    }
}
