use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::observed::Forward;
use crate::spec::{Mac, StaticRoute, Vtep};

/// Switches below `/proc/sys/net` of a sandbox's namespace, and what we set them to.
///
/// Bridge netfilter is on in every new namespace; handing each bridged frame to the IP hooks cost 9 %
/// of the throughput here, and no rule in a sandbox wants to see bridged frames. `addr_gen_mode` 1
/// is "none": a link that is made in the sandbox never makes itself an IPv6 address, so there is
/// no duplicate address detection, no multicast report and no router solicitation to keep off the
/// underlay. (Turning IPv6 off altogether would also refuse IPv6 neighbour entries.)
pub const SWITCHES: [(&str, &str); 4] = [
    ("bridge/bridge-nf-call-arptables", "0"),
    ("bridge/bridge-nf-call-iptables", "0"),
    ("bridge/bridge-nf-call-ip6tables", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
];

/// Segments of one super-packet that an interface may send. At the MSS of a 1450 byte MTU three of
/// 31 segments are one 128 KiB write, which otherwise ends in a tail of one and a bit segments with
/// its own trip through the stack: 13 % of the throughput of one stream here.
pub const GSO_MAX_SEGS: u32 = 31;

/// Bytes from which a super-packet is too large for it: the kernel's default (`GSO_LEGACY_MAX_SIZE`).
pub const GSO_MAX_SIZE: u32 = 65_536;

/// Segments of one super-packet on an interface by which a host forwards ([`forwards`](crate::LocalEndpoint::forwards)): the
/// kernel's default. What comes to it has up to 46 segments, and one with more than an interface takes
/// is cut to single ones by the CPU (`gso_features_check` in `net/core/dev.c`), then and on every hop
/// that follows: a fifth of the throughput of one stream was left here.
pub const FORWARDED_GSO_MAX_SEGS: u32 = 65_535;

/// Bytes from which a frame is cut by the CPU on such an interface. What a network card put together
/// may be an IP packet of 65,535 bytes, and would leave no number for the length of the tunnel's: 50 bytes
/// of it are IPv4, UDP, VXLAN and the inner Ethernet header.
pub const FORWARDED_GSO_MAX_SIZE: u32 = 65_535 - 50 + 14 + 1;

/// `rtm_protocol` of an endpoint's routes in its container; those of the gateway's leg are of
/// [`LEG_PROTOCOL`](crate::gateway::layout::LEG_PROTOCOL).
pub const ROUTE_PROTOCOL: u8 = 121;

/// Metric of those routes: behind what the container routes itself without one, before the way out by a
/// leg ([`EGRESS_METRIC`](crate::gateway::layout::EGRESS_METRIC)).
pub const ROUTE_METRIC: u32 = 121;

/// Outer hop limit. Fixed, so that it does not tell the inner one's.
pub const OUTER_TTL: u8 = 64;

/// One change of the kernel's state. Carries everything that it takes; performing it decides nothing.
/// Names without an endpoint are names in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Removes a link from the host's namespace.
    DeleteHostLink {
        /// Its name there.
        name: String,
    },
    /// Makes the sandbox's namespace and its file.
    CreateNamespace,
    /// Removes the sandbox's file; the namespace ends with it.
    DeleteNamespace,
    /// Sets [`SWITCHES`].
    Tune,
    /// Removes a link.
    DeleteLink {
        /// Its name.
        name: String,
    },
    /// Makes a bridge without snooping, VLANs and spanning tree. Down.
    CreateBridge {
        /// Its name.
        name: String,
        /// In bytes.
        mtu: u32,
    },
    /// Turns snooping, VLANs and spanning tree off.
    SimplifyBridge {
        /// Its name.
        name: String,
    },
    /// Makes a VXLAN device in the sandbox with its tunnel socket in the host's namespace. Down.
    CreateVxlan {
        /// Its name.
        name: String,
        /// In bytes.
        mtu: u32,
        /// Segment number.
        vni: u32,
        /// Outer source address and UDP port.
        vtep: Vtep,
    },
    /// Sets what can be changed of a VXLAN device while it forwards.
    SetVxlan {
        /// Its name.
        name: String,
        /// Outer source address.
        local: IpAddr,
    },
    /// Makes a veth pair: one end a port of the bridge, the other in the endpoint's namespace
    /// under its final name. Both down. Either the whole pair is there or nothing.
    CreateVeth {
        /// Whose.
        endpoint: String,
        /// Name of the sandbox's end.
        port: String,
        /// Name of the bridge.
        bridge: String,
        /// Of both ends, in bytes.
        mtu: u32,
        /// Name of the container's end.
        ifname: String,
        /// Of the container's end.
        mac: Mac,
    },
    /// Sets a link of the sandbox.
    SetLink {
        /// Its name.
        name: String,
        /// The endpoint that it is the port of.
        endpoint: Option<String>,
        /// What to set.
        change: LinkChange,
    },
    /// Sets an endpoint's interface inside its container.
    SetInner {
        /// Whose.
        endpoint: String,
        /// Its name.
        ifname: String,
        /// What to set.
        change: InnerChange,
    },
    /// Sets `lo` up in an endpoint's namespace.
    RaiseLoopback {
        /// Whose.
        endpoint: String,
    },
    /// Gives an endpoint's interface an address.
    AddAddress {
        /// Whose.
        endpoint: String,
        /// Name of the interface.
        ifname: String,
        /// With its prefix length.
        address: IpNet,
    },
    /// Takes an address from an endpoint's interface.
    RemoveAddress {
        /// Whose.
        endpoint: String,
        /// Name of the interface.
        ifname: String,
        /// With its prefix length.
        address: IpNet,
    },
    /// Makes a route by an endpoint's interface.
    AddRoute {
        /// Whose.
        endpoint: String,
        /// Name of the interface.
        ifname: String,
        /// The route.
        route: StaticRoute,
    },
    /// Removes a route by an endpoint's interface.
    RemoveRoute {
        /// Whose.
        endpoint: String,
        /// Name of the interface.
        ifname: String,
        /// The route.
        route: StaticRoute,
    },
    /// Makes or replaces the VXLAN device's entry for a MAC address.
    SetForward {
        /// Name of the VXLAN device.
        name: String,
        /// Destination of the frame.
        mac: Mac,
        /// Tunnel end.
        vtep: IpAddr,
    },
    /// Adds a tunnel end to those that get a copy of what has no entry.
    AddFlood {
        /// Name of the VXLAN device.
        name: String,
        /// Tunnel end.
        vtep: IpAddr,
    },
    /// Removes an entry of the VXLAN device.
    RemoveForward {
        /// Name of the VXLAN device.
        name: String,
        /// The entry.
        forward: Forward,
    },
    /// Makes or replaces the bridge's static entry for a MAC address.
    SetStation {
        /// Name of the port that it is behind.
        port: String,
        /// The endpoint whose port that is, if it is a local one's.
        endpoint: Option<String>,
        /// The address.
        mac: Mac,
    },
    /// Removes a static entry of the bridge.
    RemoveStation {
        /// Name of the port.
        port: String,
        /// The address.
        mac: Mac,
    },
    /// Makes or replaces a permanent neighbour entry.
    SetNeighbour {
        /// Name of the VXLAN device.
        name: String,
        /// Whom to answer for.
        address: IpAddr,
        /// What to answer.
        mac: Mac,
    },
    /// Removes a neighbour entry.
    RemoveNeighbour {
        /// Name of the VXLAN device.
        name: String,
        /// Whose.
        address: IpAddr,
    },
}

/// What to set on a link of the sandbox; `None` and `false` leave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// In bytes.
    pub mtu: Option<u32>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// Make no IPv6 address.
    pub quiet: bool,
    /// Become a port of this bridge.
    pub bridge: Option<String>,
    /// Be no bridge's port.
    pub leave: bool,
    /// As a bridge port, do not learn.
    pub stop_learning: bool,
    /// Set it up.
    pub raise: bool,
}

/// What to set on an endpoint's interface; `None` and `false` leave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InnerChange {
    /// MAC address.
    pub mac: Option<Mac>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// See [`GSO_MAX_SEGS`].
    pub gso_max_segs: Option<u32>,
    /// See [`GSO_MAX_SIZE`].
    pub gso_max_size: Option<u32>,
    /// Turn IPv6 on, on this interface alone.
    pub ipv6: bool,
    /// Set it up.
    pub raise: bool,
}

impl Op {
    /// The endpoint that alone suffers when this fails.
    pub fn endpoint(&self) -> Option<&str> {
        match self {
            Self::CreateVeth { endpoint, .. }
            | Self::SetInner { endpoint, .. }
            | Self::RaiseLoopback { endpoint }
            | Self::AddAddress { endpoint, .. }
            | Self::RemoveAddress { endpoint, .. }
            | Self::AddRoute { endpoint, .. }
            | Self::RemoveRoute { endpoint, .. } => Some(endpoint),
            Self::SetLink { endpoint, .. } | Self::SetStation { endpoint, .. } => {
                endpoint.as_deref()
            }
            _ => None,
        }
    }

    /// Whether it changes one entry of a table, of which there may be thousands in a row.
    pub fn is_entry(&self) -> bool {
        matches!(
            self,
            Self::SetForward { .. }
                | Self::AddFlood { .. }
                | Self::RemoveForward { .. }
                | Self::SetStation { .. }
                | Self::RemoveStation { .. }
                | Self::SetNeighbour { .. }
                | Self::RemoveNeighbour { .. }
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteHostLink { name } => write!(f, "delete {name} from the host"),
            Self::CreateNamespace => write!(f, "create the sandbox's namespace"),
            Self::DeleteNamespace => write!(f, "delete the sandbox's namespace"),
            Self::Tune => write!(f, "set the sandbox's switches"),
            Self::DeleteLink { name } => write!(f, "delete {name}"),
            Self::CreateBridge { name, .. } => write!(f, "create bridge {name}"),
            Self::SimplifyBridge { name } => write!(f, "set bridge {name}"),
            Self::CreateVxlan {
                name, vni, vtep, ..
            } => write!(
                f,
                "create VXLAN device {name} (VNI {vni}, {}, UDP port {})",
                vtep.local, vtep.port
            ),
            Self::SetVxlan { name, local } => write!(f, "set {name} to send from {local}"),
            Self::CreateVeth { port, ifname, .. } => {
                write!(f, "create veth pair {port} with {ifname} in the container")
            }
            Self::SetLink { name, .. } => write!(f, "set {name}"),
            Self::SetInner { ifname, .. } => write!(f, "set {ifname} in the container"),
            Self::RaiseLoopback { .. } => write!(f, "set lo up in the container"),
            Self::AddAddress {
                ifname, address, ..
            } => write!(f, "add {address} to {ifname} in the container"),
            Self::RemoveAddress {
                ifname, address, ..
            } => write!(f, "remove {address} from {ifname} in the container"),
            Self::AddRoute { ifname, route, .. } => {
                write!(f, "add {route} by {ifname} in the container")
            }
            Self::RemoveRoute { ifname, route, .. } => {
                write!(f, "remove {route} by {ifname} in the container")
            }
            Self::SetForward { name, mac, vtep } => {
                write!(f, "set forwarding of {mac} on {name} to {vtep}")
            }
            Self::AddFlood { name, vtep } => write!(f, "add {vtep} to the flood list of {name}"),
            Self::RemoveForward { name, forward } => {
                write!(f, "remove forwarding of {} on {name}", forward.mac)
            }
            Self::SetStation { port, mac, .. } => write!(f, "set bridge entry {mac} on {port}"),
            Self::RemoveStation { port, mac } => write!(f, "remove bridge entry {mac} on {port}"),
            Self::SetNeighbour { name, address, mac } => {
                write!(f, "set neighbour {address} on {name} to {mac}")
            }
            Self::RemoveNeighbour { name, address } => {
                write!(f, "remove neighbour {address} on {name}")
            }
        }
    }
}
