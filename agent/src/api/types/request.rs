use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use weft_raft::model::MacAddr;

use super::{ApiError, Availability, Kind, PublishRequest, Route};

/// Starts a cluster with this node as its only manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InitRequest {
    /// Address or interface that peers dial, with an optional port. Without it: the only address
    /// that qualifies.
    #[schema(example = "eth0")]
    pub advertise_addr: Option<String>,
    /// Address or interface to listen on, with an optional port.
    #[schema(example = "0.0.0.0:2377")]
    pub listen_addr: Option<String>,
    /// Address or interface of the tunnel end; without it, the advertised address.
    pub data_path_addr: Option<String>,
    /// UDP port of VXLAN on every node, 1024-49151; 4789 without it.
    pub data_path_port: Option<u16>,
    /// Ranges that subnets are assigned from; 10.0.0.0/8 without any.
    #[schema(value_type = Vec<String>)]
    pub default_addr_pools: Vec<Ipv4Net>,
    /// Prefix length of assigned subnets; 24 without it.
    pub default_addr_pool_mask_length: Option<u8>,
    /// Life of node certificates in seconds, an hour at least; 90 days without it.
    pub cert_expiry_s: Option<u64>,
    /// Active without it.
    pub availability: Option<Availability>,
}

/// Enters a cluster. The token decides the role.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JoinRequest {
    /// `WFTKN-1-...`, from `weft token` on a manager.
    pub token: String,
    /// Managers to ask, `HOST[:PORT]`; the first that answers is used.
    pub remotes: Vec<String>,
    /// See [`InitRequest::advertise_addr`].
    pub advertise_addr: Option<String>,
    /// See [`InitRequest::listen_addr`].
    pub listen_addr: Option<String>,
    /// See [`InitRequest::data_path_addr`].
    pub data_path_addr: Option<String>,
    /// Active without it.
    pub availability: Option<Availability>,
}

/// Takes this node out of its cluster and forgets its identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LeaveRequest {
    /// Also when it is a manager, or when no manager can be told.
    pub force: bool,
}

/// Creates a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkCreateRequest {
    /// A DNS label that no network has.
    pub name: String,
    /// `overlay`, also without it, or `bridge`.
    pub driver: Option<String>,
    /// Without any of IPv4: the next one from the cluster's pools, unless all are of IPv6 and `ipv6` is not
    /// set.
    #[schema(value_type = Vec<String>)]
    pub subnets: Vec<IpNet>,
    /// Each inside one of `subnets`; a subnet without one gets its first address.
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpAddr>,
    /// Parts of `subnets`, one of each at most, that addresses are assigned from.
    #[schema(value_type = Vec<String>)]
    pub ip_ranges: Vec<IpNet>,
    /// Addresses of `subnets` that no endpoint is given, by a name for each.
    #[schema(value_type = BTreeMap<String, String>)]
    pub aux_addresses: BTreeMap<String, IpAddr>,
    /// Its endpoints have addresses of IPv4 and of IPv6. Without a subnet of IPv6: a /64 of the cluster's
    /// own.
    pub ipv6: bool,
    /// No route out and no foreign names.
    pub internal: bool,
    /// Further ways of its endpoints.
    pub routes: Vec<Route>,
    /// MTU in bytes of endpoints; derived from the underlay without it.
    pub mtu: Option<u32>,
    /// VXLAN network identifier, 1-16777215; the smallest free one from 4097 up without it, 4096 for
    /// the ingress network.
    pub vni: Option<u32>,
    /// Replicate broadcast and multicast to the member nodes.
    pub multicast: bool,
    /// Wrap what its nodes send one another in ESP; what cannot be wrapped is not sent.
    pub encrypted: bool,
    /// Admit subnets that overlap another network's.
    pub allow_overlap: bool,
    /// Operator annotations.
    pub labels: BTreeMap<String, String>,
    /// Make it the network that carries published ports, of which there is one at most: every node
    /// gets an address from it.
    pub ingress: bool,
}

/// Changes a network. What is not given stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkUpdateRequest {
    /// See [`NetworkCreateRequest::encrypted`]. While nodes learn of it one after the other, those
    /// that have do not reach those that have not.
    pub encrypted: Option<bool>,
    /// Routes to add.
    pub routes_add: Vec<Route>,
    /// Destinations of routes to remove, before any is added.
    #[schema(value_type = Vec<String>)]
    pub routes_rm: Vec<IpNet>,
    /// See [`NetworkCreateRequest::multicast`].
    pub multicast: Option<bool>,
    /// New MTU in bytes of endpoints; 0 to derive it from the underlay.
    pub mtu: Option<u32>,
    /// Further subnets, of a version of IP that it has. Endpoints keep their addresses.
    #[schema(value_type = Vec<String>)]
    pub subnets_add: Vec<IpNet>,
    /// Labels to set.
    pub labels_add: BTreeMap<String, String>,
    /// Labels to remove, before any is set.
    pub labels_rm: Vec<String>,
}

/// Attaches a network namespace of this node to a network. Exactly one of `pid` and `netns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// Name, id or unambiguous beginning of the id.
    pub network: String,
    /// Process whose network namespace it is, as the agent numbers processes.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Path that opens the namespace, as the agent sees it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
    /// A DNS label, unique in the network; derived from the endpoint's id without it.
    #[serde(default)]
    pub name: Option<String>,
    /// Wanted address; the next free one without it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ip: Option<Ipv4Addr>,
    /// Wanted address of IPv6; the next free one without it.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub ip6: Option<Ipv6Addr>,
    /// Wanted MAC address; derived from the address without it.
    #[serde(default, with = "super::text")]
    #[schema(value_type = Option<String>)]
    pub mac: Option<MacAddr>,
    /// Wanted interface name; the first free of eth0, eth1, .. without it.
    #[serde(default)]
    pub ifname: Option<String>,
    /// Further names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Service to join: name, id or unambiguous beginning of the id.
    #[serde(default)]
    pub service: Option<String>,
    /// Share of the service's new flows beside the others', 0 for none; 1 without it.
    #[serde(default)]
    pub weight: Option<u16>,
    /// Operator annotations.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Who looks after the container.
    #[serde(default = "attached")]
    pub kind: Kind,
    /// Service to make, with this as its first endpoint; not with `service`.
    #[serde(default)]
    pub publish: Option<PublishRequest>,
}

/// How to detach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DetachQuery {
    /// Also when the endpoint is on another node, or its namespace is gone; and a member of a
    /// service at once, whatever flows it has.
    pub force: bool,
}

/// Waits until every ready node's kernel reflects something. Exactly one of `revision`, `endpoint`
/// and `service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WaitRequest {
    /// Log index.
    pub revision: Option<u64>,
    /// `NAME.NETWORK`, an unambiguous name, or an id.
    pub endpoint: Option<String>,
    /// Name, id or unambiguous beginning of the id: it and its endpoints.
    pub service: Option<String>,
    /// Milliseconds, an hour at most; 30 seconds without it.
    pub timeout_ms: Option<u64>,
}

impl AttachRequest {
    /// A request for one namespace, with everything else left open.
    pub fn new(network: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            pid: None,
            netns: None,
            name: None,
            ip: None,
            ip6: None,
            mac: None,
            ifname: None,
            aliases: Vec::new(),
            service: None,
            weight: None,
            labels: BTreeMap::new(),
            kind: Kind::Attached,
            publish: None,
        }
    }

    /// Path that opens the namespace.
    pub fn netns_path(&self) -> Result<PathBuf, ApiError> {
        match (self.pid, &self.netns) {
            (Some(pid), None) if pid > 0 => Ok(PathBuf::from(format!("/proc/{pid}/ns/net"))),
            (None, Some(path)) if path.is_absolute() => Ok(path.clone()),
            (None, Some(path)) => Err(ApiError::invalid(format!(
                "the namespace path `{}` is not absolute; give one such as /run/netns/blue",
                path.display()
            ))),
            _ => Err(ApiError::invalid(
                "which namespace is not clear; give exactly one of a process id above 0 and a path",
            )),
        }
    }
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("remotes", &self.remotes)
            .field("advertise_addr", &self.advertise_addr)
            .field("listen_addr", &self.listen_addr)
            .field("data_path_addr", &self.data_path_addr)
            .field("availability", &self.availability)
            .finish_non_exhaustive()
    }
}

fn attached() -> Kind {
    Kind::Attached
}
