use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_raft::model;

use super::BackendState;

/// One attachment of a container to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Never used twice.
    pub id: String,
    /// Unique in its network.
    pub name: String,
    /// Name of the network.
    pub network: String,
    /// Id of the network.
    pub network_id: String,
    /// Name of the node.
    pub node: String,
    /// Id of the node.
    pub node_id: String,
    /// Held by nothing else of the network; `null` on a network without IPv4.
    #[schema(value_type = Option<String>, example = "10.0.1.2")]
    pub ipv4: Option<Ipv4Addr>,
    /// As `ipv4`; `null` on a network without IPv6.
    #[schema(value_type = Option<String>, example = "fd00::2")]
    pub ipv6: Option<Ipv6Addr>,
    /// Of the container's interface.
    #[schema(example = "02:42:0a:00:01:02")]
    pub mac: String,
    /// Name of the container's interface.
    pub ifname: String,
    /// Name of the service that it belongs to, if any.
    pub service: Option<String>,
    /// Share of the service's new flows beside the others'; 0 takes none.
    pub weight: u16,
    /// Whether it takes new flows of its service; `null` without one.
    pub backend: Option<BackendState>,
    /// Why it is `unhealthy`, in one line; `null` on other nodes, which do not know.
    pub backend_error: Option<String>,
    /// How far it is.
    pub state: EndpointState,
    /// Why it is `failed`, in one line.
    pub error: Option<String>,
    /// What else is to be known of it, in one line, such as that its container has a default route of its
    /// own and keeps that; `null` on other nodes, which do not know.
    pub notice: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Operator annotations.
    pub labels: BTreeMap<String, String>,
    /// Who looks after the container.
    pub kind: Kind,
    /// Network namespace on the node.
    pub netns: String,
    /// Log index of the last change.
    pub revision: u64,
}

/// How far an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// Its node has not programmed it yet.
    Pending,
    /// Its node has programmed it.
    Ready,
    /// Its node could not program it.
    Failed,
    /// Its node is down.
    Down,
}

/// Who looks after a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Kind {
    /// Somebody else: attached to a namespace that was there.
    Attached,
    /// `weft run`.
    Run {
        /// The command line.
        command: Vec<String>,
        /// Whether it goes on without a terminal.
        detached: bool,
    },
}

impl Endpoint {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.ipv4.map(IpAddr::V4).into_iter();
        v4.chain(self.ipv6.map(IpAddr::V6))
    }

    /// Its addresses for people, IPv4 first.
    pub fn address_text(&self) -> String {
        let addresses = self.addresses().map(|address| address.to_string());
        addresses.collect::<Vec<_>>().join(",")
    }

    /// The row with the names that `view` has for its network and node.
    pub fn from_row(
        row: &model::Endpoint,
        view: &model::View,
        state: EndpointState,
        error: Option<String>,
    ) -> Self {
        let network = view.networks.get(&row.network).map(|n| n.name.clone());
        let node = view.nodes.get(&row.node).map(|n| n.name.clone());
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            network: network.unwrap_or_else(|| row.network.to_string()),
            network_id: row.network.to_string(),
            node: node.unwrap_or_else(|| row.node.to_string()),
            node_id: row.node.to_string(),
            ipv4: row.ipv4,
            ipv6: row.ipv6,
            mac: row.mac.to_string(),
            ifname: row.ifname.clone(),
            service: row.service.map(|id| {
                let service = view.services.get(&id);
                service.map_or_else(|| id.to_string(), |service| service.name.clone())
            }),
            weight: row.weight,
            backend: row.service.map(|_| BackendState::of(row, view)),
            backend_error: None,
            state,
            error,
            notice: None,
            aliases: row.aliases.clone(),
            labels: row.labels.clone(),
            kind: row.kind.clone().into(),
            netns: row.attachment.path.clone(),
            revision: row.revision,
        }
    }
}

impl From<model::EndpointKind> for Kind {
    fn from(kind: model::EndpointKind) -> Self {
        match kind {
            model::EndpointKind::Attached => Self::Attached,
            model::EndpointKind::Run { command, detached } => Self::Run { command, detached },
        }
    }
}

impl From<Kind> for model::EndpointKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Attached => Self::Attached,
            Kind::Run { command, detached } => Self::Run { command, detached },
        }
    }
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Down => "down",
        })
    }
}
