use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_raft::model;
use weft_raft::state::Room;

/// An isolated layer-2 segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Never used twice.
    pub id: String,
    /// Unique in the cluster.
    pub name: String,
    /// How endpoints reach one another: `overlay` (across nodes, by VXLAN) or `bridge` (those of one node).
    pub driver: String,
    /// VXLAN network identifier; `null` of a driver without tunnels.
    pub vni: Option<u32>,
    /// Where its addresses come from.
    pub subnets: Vec<Subnet>,
    /// Further ways of its endpoints.
    pub routes: Vec<Route>,
    /// Addresses that no endpoint is given, by a name for each.
    #[schema(value_type = BTreeMap<String, String>)]
    pub aux_addresses: BTreeMap<String, IpAddr>,
    /// MTU in bytes of endpoints.
    pub mtu: u32,
    /// Whether traffic between nodes is encrypted.
    pub encrypted: bool,
    /// No route out and no foreign names.
    pub internal: bool,
    /// Broadcast and multicast are replicated to the member nodes.
    pub multicast: bool,
    /// Carries published ports; one network at most does.
    pub ingress: bool,
    /// Admitted although its subnets overlap another network's.
    pub allow_overlap: bool,
    /// Operator annotations.
    pub labels: BTreeMap<String, String>,
    /// Why it does not work on the node that answers, in one line; `null` if it does.
    pub error: Option<String>,
    /// What is to be known of it otherwise, each in one line.
    pub warnings: Vec<String>,
    /// Log index of the last change.
    pub revision: u64,
}

/// A static route of a network: each of its endpoints has it, but the one that it leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where to.
    #[schema(value_type = String, example = "172.16.0.0/12")]
    pub destination: IpNet,
    /// The next hop, an address of the network.
    #[schema(value_type = String, example = "10.0.1.9")]
    pub via: IpAddr,
}

impl From<&model::Route> for Route {
    fn from(row: &model::Route) -> Self {
        Self {
            destination: row.destination,
            via: row.via,
        }
    }
}

impl From<Route> for model::Route {
    fn from(route: Route) -> Self {
        Self {
            destination: route.destination,
            via: route.via,
        }
    }
}

/// One address range of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subnet {
    /// The range.
    #[schema(value_type = String, example = "10.0.1.0/24")]
    pub cidr: IpNet,
    /// Reserved for the way out.
    #[schema(value_type = String, example = "10.0.1.1")]
    pub gateway: IpAddr,
    /// The part of it that addresses are assigned from; `null`: all of it.
    #[schema(value_type = Option<String>, example = "10.0.1.128/25")]
    pub ip_range: Option<IpNet>,
    /// Addresses that endpoints, services and nodes hold.
    pub used: u64,
    /// Addresses that may still be assigned; 2^53 - 1 stands for more, too.
    pub free: u64,
}

impl Network {
    /// The row with what is derived: `mtu` in bytes, and addresses counted from the endpoints of
    /// `view`. Who answers knows whether it works.
    pub fn from_row(row: &model::Network, mtu: u32, view: &model::View) -> Self {
        let subnets = row
            .subnets
            .iter()
            .map(|subnet| Subnet::from_row(subnet, row, view))
            .collect();
        Self {
            id: row.id.to_string(),
            name: row.name.clone(),
            driver: row.driver.to_string(),
            vni: row.vni.map(model::Vni::get),
            subnets,
            routes: row.routes.iter().map(Route::from).collect(),
            aux_addresses: row.aux_addresses.clone(),
            mtu,
            encrypted: row.encrypted,
            internal: row.internal,
            multicast: row.multicast,
            ingress: row.ingress,
            allow_overlap: row.allow_overlap,
            labels: row.labels.clone(),
            error: None,
            warnings: Vec::new(),
            revision: row.revision,
        }
    }
}

impl Subnet {
    fn from_row(row: &model::Subnet, network: &model::Network, view: &model::View) -> Self {
        let room = Room::of(network, row, view.held_addresses(network.id));
        Self {
            cidr: row.cidr,
            gateway: row.gateway,
            ip_range: row.range,
            used: room.used,
            free: room.free,
        }
    }
}
