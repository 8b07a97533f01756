use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::observed::{Link, Peer};
use crate::spec::Mac;

/// What the kernel has of the gateway, as far as it matters to the planner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The kernel has IPv6.
    pub ipv6: bool,
    /// `weft-gw`, if it is a bridge.
    pub bridge: Option<GatewayBridge>,
    /// Host's ends of legs, by name.
    pub ports: BTreeMap<String, LegPort>,
    /// Links of the host that are in the way: of the wrong kind under one of our names.
    pub strays: BTreeSet<String>,
    /// The containers of the spec's legs, by key.
    pub legs: BTreeMap<String, Container>,
    /// The mesh's interface is there and up.
    pub mesh: bool,
    /// Our rules in the host's namespace.
    pub rules: BTreeSet<Rule>,
    /// Our routes in the host's namespace.
    pub routes: BTreeSet<Route>,
    /// Switches of the host's namespace that matter, by name below `/proc/sys/net`; those that are not
    /// there are left out.
    pub switches: BTreeMap<String, String>,
    /// Interfaces that follow router advertisements as long as IPv6 is not forwarded, and then do not
    /// any more.
    pub listeners: BTreeSet<String>,
}

/// The gateway's bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayBridge {
    /// As a link.
    pub link: Link,
    /// Its MAC address.
    pub mac: Mac,
    /// No multicast snooping, no VLANs, no spanning tree.
    pub plain: bool,
    /// With their prefix lengths.
    pub addresses: BTreeSet<IpNet>,
}

/// The host's end of a leg's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegPort {
    /// As a link.
    pub link: Link,
    /// It is a port of the bridge.
    pub bridged: bool,
    /// It exchanges frames with the bridge only, not with other ports.
    pub isolated: bool,
    /// The other end.
    pub peer: Peer,
}

/// The namespace of a leg of the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// No longer there, or the path has come to mean another one.
    Gone,
    /// There, but it cannot be worked in; says why.
    Unusable(String),
    /// There.
    Here {
        /// The leg's name is held by an interface that is not ours.
        taken: bool,
        /// Our rules.
        rules: BTreeSet<Rule>,
        /// Our routes.
        routes: BTreeSet<Route>,
    },
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// A rule of the routing policy (ip-rule(8)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Which packets it sees.
    pub family: Family,
    /// The smallest is tried first.
    pub priority: u32,
    /// Which of them it is for.
    pub select: Select,
    /// What it does.
    pub action: Action,
    /// It says more than this.
    pub odd: bool,
}

/// Which packets a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Select {
    /// All.
    All,
    /// Those whose mark has this value in these bits.
    Mark {
        /// Of the mark's bits.
        value: u32,
        /// Which bits.
        mask: u32,
    },
    /// Those from this address.
    From(IpAddr),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Looks into a table.
    Table(u32),
    /// Goes on with the first rule of a priority.
    Goto(u32),
    /// Nothing.
    Nop,
    /// Another one (`FR_ACT_*`).
    Other(u8),
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Of which table.
    pub table: u32,
    /// To where.
    pub destination: IpNet,
    /// The smallest is used.
    pub metric: u32,
    /// By which neighbour.
    pub via: Option<IpAddr>,
    /// By which interface.
    pub device: Option<String>,
    /// It says more than this.
    pub odd: bool,
}
