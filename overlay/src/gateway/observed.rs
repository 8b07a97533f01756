use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::observed::{Bridge, Link, Peer};

/// What the kernel has of the gateway, as far as it matters to the planner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The kernel has IPv6.
    pub ipv6: bool,
    /// The namespace that the legs meet in.
    pub hub: HubNamespace,
    /// Links of the host's namespace that are in the way.
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

/// The state of the hub's namespace file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HubNamespace {
    /// No file.
    #[default]
    Absent,
    /// A file that no namespace is mounted on.
    Stale,
    /// A namespace.
    Present(Box<Hub>),
}

/// What is in the hub's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hub {
    /// Whether the namespace's switches are as [`SWITCHES`](crate::op::SWITCHES) says.
    pub tuned: bool,
    /// `br0`, if it is a bridge.
    pub bridge: Option<Bridge>,
    /// The hub's ends of veth pairs, by name: of the host's interface and of legs.
    pub ports: BTreeMap<String, HubPort>,
    /// Links that are in the way: of the wrong kind under one of our names.
    pub strays: BTreeSet<String>,
}

/// The hub's end of a veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubPort {
    /// As a link.
    pub link: Link,
    /// It is a port of the bridge.
    pub bridged: bool,
    /// It does not exchange frames with other ports that do not either.
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
        /// Versions of IP for which somebody else has made a default route. Looked at only where ours is
        /// wanted.
        own_way: BTreeSet<Family>,
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
    /// UDP datagrams that are sent from one of these ports. Over IPv4 those that have no source address
    /// yet: an answer of a server that listens on all addresses and leaves it to the kernel.
    Answers {
        /// The first port.
        first: u16,
        /// The last port.
        last: u16,
    },
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Looks into a table.
    Table(u32),
    /// Looks into a table for other routes than default ones.
    Near(u32),
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
    /// The destination is this host (`RTN_LOCAL`).
    pub local: bool,
    /// It says more than this.
    pub odd: bool,
}
