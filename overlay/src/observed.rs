use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::spec::{Mac, StaticRoute};

/// What the kernel has of one network, as far as it matters to the planner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Links of this network that are in the host's namespace, where none belongs.
    pub host_links: BTreeSet<String>,
    /// The sandbox.
    pub namespace: Namespace,
    /// What the namespaces of the spec's endpoints are like, by endpoint id.
    pub endpoints: BTreeMap<String, EndpointNamespace>,
}

/// The state of a sandbox's namespace file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// No file.
    #[default]
    Absent,
    /// A file that no namespace is mounted on.
    Stale,
    /// A namespace.
    Present(Box<Sandbox>),
}

/// What is in a sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sandbox {
    /// Whether the namespace's switches are as [`SWITCHES`](crate::op::SWITCHES) says.
    pub tuned: bool,
    /// `br0`, if it is a bridge.
    pub bridge: Option<Bridge>,
    /// `vxlan0`, if it is a VXLAN device.
    pub vxlan: Option<Vxlan>,
    /// `esp0`, if it is a TAP device.
    pub tap: Option<Tap>,
    /// veths that are named as an endpoint's, by name.
    pub ports: BTreeMap<String, Port>,
    /// Links that are in the way: of the wrong kind under one of our names, or further VXLAN
    /// devices.
    pub strays: BTreeSet<String>,
    /// The bridge's static entries: which port a MAC address is behind. Entries that the bridge made
    /// for itself or learned are not in here.
    pub stations: BTreeMap<Mac, String>,
}

/// What every link of ours has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Makes no IPv6 address for itself, and so neither duplicate address detection nor
    /// multicast reports nor router solicitations.
    pub quiet: bool,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
}

/// A bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// As a link.
    pub link: Link,
    /// No multicast snooping, no VLANs, no spanning tree.
    pub plain: bool,
}

/// A link's place in `br0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Is a port of it.
    pub bridged: bool,
    /// The bridge learns from what comes in by this port.
    pub learning: bool,
}

/// A VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// As a link.
    pub link: Link,
    /// As a bridge port.
    pub member: Membership,
    /// What can only be chosen when it is made.
    pub fixed: VxlanFixed,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// Learns tunnel ends from what it receives.
    pub learning: bool,
    /// Outer hop limit.
    pub ttl: u8,
    /// Where it sends what.
    pub forwards: BTreeSet<Forward>,
    /// Whom it answers ARP and neighbour discovery for.
    pub neighbours: BTreeMap<IpAddr, Neighbour>,
}

/// A TAP device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tap {
    /// As a link.
    pub link: Link,
    /// As a bridge port.
    pub member: Membership,
}

/// What of a VXLAN device can only be chosen when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanFixed {
    /// Segment number.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Its tunnel socket is in the host's namespace.
    pub host_underlay: bool,
    /// Everything else is as [`Op::CreateVxlan`](crate::op::Op::CreateVxlan) makes it: `proxy`, the
    /// checksum flags of its address family, and no option that changes what it does.
    pub usual: bool,
}

/// An entry of a VXLAN device's forwarding table (`self` entries of `bridge fdb`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// Destination of the frame; all zero for what has no entry of its own.
    pub mac: Mac,
    /// Tunnel end; none for an entry that names a next hop group.
    pub vtep: Option<IpAddr>,
    /// UDP port, if not the device's.
    pub port: Option<u16>,
    /// Segment number, if not the device's.
    pub vni: Option<u32>,
    /// Does not age.
    pub permanent: bool,
}

impl Forward {
    /// The entry that we make.
    pub const fn to(mac: Mac, vtep: IpAddr) -> Self {
        Self {
            mac,
            vtep: Some(vtep),
            port: None,
            vni: None,
            permanent: true,
        }
    }
}

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC address.
    pub mac: Mac,
    /// Does not age.
    pub permanent: bool,
}

/// The sandbox's end of an endpoint's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// As a link.
    pub link: Link,
    /// As a bridge port.
    pub member: Membership,
    /// The other end.
    pub peer: Peer,
}

/// The container's end of an endpoint's veth pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// In the namespace that the spec names for this port's endpoint.
    Home(Inner),
    /// Anywhere else, or the spec has no such endpoint.
    Elsewhere,
}

/// An endpoint's interface inside its container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inner {
    /// Its name.
    pub ifname: String,
    /// Its MAC address.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// Largest number of segments in one super-packet.
    pub gso_max_segs: u32,
    /// Smallest size in bytes that is too large for one.
    pub gso_max_size: u32,
    /// IPv6 is turned off on it (`disable_ipv6`), so that it takes no IPv6 address.
    pub ipv6_off: bool,
    /// Addresses with their prefix lengths, link-local ones included.
    pub addresses: BTreeSet<IpNet>,
    /// Routes by it of our protocol number ([`ROUTE_PROTOCOL`](crate::op::ROUTE_PROTOCOL)).
    pub routes: BTreeSet<StaticRoute>,
}

/// The namespace of an endpoint of the spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointNamespace {
    /// No longer there, or the path has come to mean another one.
    Gone,
    /// There, but it cannot be worked in; says why.
    Unusable(String),
    /// There.
    Here {
        /// `lo` is up.
        loopback_up: bool,
        /// The name that the spec wants is held by an interface that is not this endpoint's.
        taken: bool,
    },
}
