use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Every network that this node takes part in, by network id. Complete: what carries our mark in
/// the kernel and is not in here is to be removed.
pub type Spec = BTreeMap<String, SandboxSpec>;

/// What one network's sandbox on this node has to look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Segment number on the wire (RFC 7348 section 5), 1 to 2^24 - 1.
    pub vni: u32,
    /// MTU of the endpoints in bytes, encapsulation not included.
    pub mtu: u32,
    /// This node's end of the tunnels.
    pub vtep: Vtep,
    /// How frames get to and from other nodes.
    pub tunnel: Tunnel,
    /// Broadcast and multicast are copied to every member node.
    pub multicast: bool,
    /// Endpoints on this node, by endpoint id.
    pub locals: BTreeMap<String, LocalEndpoint>,
    /// Endpoints on other nodes, by MAC address.
    pub remotes: BTreeMap<Mac, Remote>,
    /// Tunnel ends of the other member nodes; used when `multicast` is set.
    pub flood: BTreeSet<IpAddr>,
}

/// How frames of a network get to and from other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tunnel {
    /// Not at all: this node's endpoints reach one another and nobody else. No frame leaves the node,
    /// and none that arrives is taken.
    Closed,
    /// By a VXLAN device of the kernel.
    Vxlan,
    /// By a program that has opened the TAP device [`TAP`](crate::plan::names::TAP) in the sandbox, and
    /// does there what a VXLAN device would: answers for remote endpoints, copies what floods. As long
    /// as there is no such device, this is as [`Closed`](Self::Closed).
    Port,
}

/// A node's end of the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vtep {
    /// Outer source address of what this node sends.
    pub local: IpAddr,
    /// UDP port, the same on every node.
    pub port: u16,
}

/// An endpoint whose container runs on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// The container's network namespace.
    pub netns: NetnsRef,
    /// Name of the interface inside the container, at most 15 bytes.
    pub ifname: String,
    /// Of that interface.
    pub mac: Mac,
    /// Addresses of that interface with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Further ways by that interface.
    pub routes: BTreeSet<StaticRoute>,
    /// Whether the namespace passes on what others send, as a host does; such packets are as large
    /// as their sender made them.
    pub forwards: bool,
}

/// A route of an endpoint's interface, beside those that follow from its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StaticRoute {
    /// Where to; host bits are zero.
    pub destination: IpNet,
    /// The next hop, which is on the link whatever the addresses say; none for what is itself there.
    pub via: Option<IpAddr>,
}

/// An endpoint on another node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// Addresses that ARP and neighbour discovery are answered for.
    pub addresses: Vec<IpAddr>,
    /// Tunnel end of its node.
    pub vtep: IpAddr,
}

/// A network namespace named so that a path which has come to mean another one is noticed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NetnsRef {
    /// Where it can be opened: `/proc/PID/ns/net` or a bind mount.
    pub path: PathBuf,
    /// `st_dev` of the namespace file.
    pub device: u64,
    /// `st_ino` of the namespace file.
    pub inode: u64,
}

impl fmt::Display for StaticRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route to {}", self.destination)?;
        match self.via {
            Some(via) => write!(f, " via {via}"),
            None => Ok(()),
        }
    }
}

impl NetnsRef {
    /// Whether a look at the file shows that the namespace is not there any more. What may be
    /// temporary, such as a lack of permission or of memory, does not show that. Blocks where the
    /// file system does.
    pub fn is_gone(&self) -> bool {
        match std::fs::metadata(&self.path) {
            Ok(found) => (found.dev(), found.ino()) != (self.device, self.inode),
            // A process that is gone takes the links in its directory with it.
            Err(error) => {
                error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
            }
        }
    }
}

/// An IEEE 802 MAC address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The destination that a VXLAN device uses for what it has no entry for.
    pub const ZERO: Self = Self([0; 6]);

    /// Whether it can name one interface: not multicast (first bit) and not all zero.
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self != Self::ZERO
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is not a MAC address; write it like 02:42:0a:00:01:02");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        if parts.next().is_some() {
            Err(refused())
        } else {
            Ok(Self(bytes))
        }
    }
}
