use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Driver, Labels, NetworkId, Revision, Route};

/// An isolated layer-2 segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Chosen by the proposer.
    pub id: NetworkId,
    /// Unique in the cluster.
    pub name: String,
    /// How endpoints on different nodes reach one another.
    pub driver: Driver,
    /// Segment number on the wire; only of a driver with tunnels.
    pub vni: Option<Vni>,
    /// Where addresses come from, of one family or both. Only ever appended to.
    pub subnets: Vec<Subnet>,
    /// Further ways of endpoints by it, in order of their destinations.
    pub routes: Vec<Route>,
    /// Addresses that no endpoint is given because something else has them, by a name for each.
    pub aux_addresses: BTreeMap<String, IpAddr>,
    /// MTU of endpoints in bytes; `None` derives it from the underlay.
    pub mtu: Option<u32>,
    /// No route out and no foreign names.
    pub internal: bool,
    /// Broadcast and multicast are replicated to the member nodes.
    pub multicast: bool,
    /// Frames between nodes are wrapped in ESP, or not sent at all.
    pub encrypted: bool,
    /// The network that carries published ports; at most one.
    pub ingress: bool,
    /// Admitted although its subnets overlap another network's.
    pub allow_overlap: bool,
    /// Operator annotations.
    pub labels: Labels,
    /// Last change.
    pub revision: Revision,
}

/// One address range of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The range; host bits are zero.
    pub cidr: IpNet,
    /// Reserved for the way out; never given to an endpoint.
    pub gateway: IpAddr,
    /// The part of it that addresses are assigned from; `None`: all of it. Who asks for an address
    /// outside it may have that.
    pub range: Option<IpNet>,
}

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Network {
    /// Whether it has a subnet of the family, and so each of its endpoints an address.
    pub fn has(&self, family: IpFamily) -> bool {
        self.subnets.iter().any(|subnet| subnet.family() == family)
    }

    /// The subnet that an address is in.
    pub fn subnet_of(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets
            .iter()
            .find(|subnet| subnet.cidr.contains(&address))
    }
}

impl Subnet {
    /// Of its addresses.
    pub fn family(&self) -> IpFamily {
        IpFamily::of(self.gateway)
    }
}

impl IpFamily {
    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// VXLAN network identifier: 24 bits, zero excluded (RFC 7348 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vni(u32);

impl Vni {
    /// The ingress network's unless another was asked for; never assigned to others.
    pub const INGRESS: Self = Self(4096);
    /// The first that is assigned to other networks.
    pub const FIRST: Self = Self(4097);
    /// Largest that fits the header field.
    pub const MAX: Self = Self((1 << 24) - 1);

    /// `None` when it does not fit the header field or is zero.
    pub const fn new(value: u32) -> Option<Self> {
        if value == 0 || value > Self::MAX.0 {
            None
        } else {
            Some(Self(value))
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
