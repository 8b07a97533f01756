use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_raft::model;

/// A host in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Derived from the node's public key.
    pub id: String,
    /// Unique in the cluster.
    pub name: String,
    /// Whether it is the node that answers.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// Whether it votes.
    pub role: Role,
    /// Whether it leads the managers.
    pub leader: bool,
    /// Whether the cluster hears of it.
    pub status: NodeStatus,
    /// Whether it takes part in balancing.
    pub availability: Availability,
    /// Control address (UDP).
    #[schema(value_type = String, example = "192.0.2.1:2377")]
    pub addr: SocketAddr,
    /// Underlay address of its tunnel end.
    #[schema(value_type = String, example = "192.0.2.1")]
    pub data_path_addr: IpAddr,
    /// MTU in bytes of the device that carries `data_path_addr`.
    pub underlay_mtu: u32,
    /// What the paths to other nodes' tunnel ends carry, bytes by node id, where that is less than
    /// the devices at both ends do. Networks with both nodes have a smaller MTU for it.
    pub narrow_paths: BTreeMap<String, u32>,
    /// Version of its agent.
    pub version: String,
    /// Operator annotations.
    pub labels: BTreeMap<String, String>,
    /// Log index of the last change.
    pub revision: u64,
    /// Addresses of the host that a port may be published at, beside `addr` and `data_path_addr`.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// What of the host keeps services from being reached there, a line each.
    pub warnings: Vec<String>,
}

/// Something that keeps a service from being reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// Name of the node where it is so; `null`: on all of them.
    pub node: Option<String>,
    /// What it is and what to do, in one line.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "{node}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Whether a node votes.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes.
    Manager,
    /// Follows a manager.
    Worker,
}

/// Whether the cluster hears of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// It reports.
    Ready,
    /// Nothing was heard of it for longer than the detection time.
    Down,
}

/// Whether a node takes part in balancing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Its endpoints serve.
    Active,
    /// Its endpoints run on and are left out of VIPs, DNS and ingress.
    Drain,
}

impl Node {
    /// The row of `view` as seen on node `this` while `leader` leads.
    pub fn from_row(
        row: &model::Node,
        leader: Option<model::NodeId>,
        this: Option<model::NodeId>,
    ) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            is_self: this == Some(row.id),
            role: row.role.into(),
            leader: leader == Some(row.id),
            status: row.status.into(),
            availability: row.availability.into(),
            addr: row.addr,
            data_path_addr: row.data_path_addr,
            underlay_mtu: row.underlay_mtu,
            narrow_paths: { row.paths.iter() }
                .map(|(node, mtu)| (node.to_string(), *mtu))
                .collect(),
            version: row.version.clone(),
            labels: row.labels.clone(),
            revision: row.revision,
            addresses: row.addresses.clone(),
            warnings: host_wide(row),
        }
    }
}

/// What concerns every service.
pub(crate) fn host_wide(row: &model::Node) -> Vec<String> {
    let notices = row.notices.iter();
    let host_wide = notices.filter(|notice| notice.service.is_none());
    host_wide.map(|notice| notice.message.clone()).collect()
}

impl From<model::Role> for Role {
    fn from(role: model::Role) -> Self {
        match role {
            model::Role::Manager => Self::Manager,
            model::Role::Worker => Self::Worker,
        }
    }
}

impl From<Role> for model::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Manager => Self::Manager,
            Role::Worker => Self::Worker,
        }
    }
}

impl From<model::NodeStatus> for NodeStatus {
    fn from(status: model::NodeStatus) -> Self {
        match status {
            model::NodeStatus::Ready => Self::Ready,
            model::NodeStatus::Down => Self::Down,
        }
    }
}

impl From<model::Availability> for Availability {
    fn from(availability: model::Availability) -> Self {
        match availability {
            model::Availability::Active => Self::Active,
            model::Availability::Drain => Self::Drain,
        }
    }
}

impl From<Availability> for model::Availability {
    fn from(availability: Availability) -> Self {
        match availability {
            Availability::Active => Self::Active,
            Availability::Drain => Self::Drain,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&model::Role::from(*self), f)
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

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&model::Availability::from(*self), f)
    }
}
