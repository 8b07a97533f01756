use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

/// Addresses, links and routes of one network namespace at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Every address of every link, in the order of interface indices.
    pub addresses: Vec<HostAddress>,
    /// Every link, in the order of interface indices.
    pub links: Vec<HostLink>,
    /// The smallest set of prefixes that covers the main table's routes; without default routes and
    /// without routes that lead to weft's own links. At most [`ROUTES_MAX`](super::ROUTES_MAX).
    pub routes: Vec<IpNet>,
    /// How many prefixes `routes` lacks because there were more than the limit; the longest
    /// prefixes are left out first.
    pub routes_omitted: usize,
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// Name of the link.
    pub ifname: String,
    /// Index of the link.
    pub ifindex: u32,
    /// The address and the prefix length of its network.
    pub address: IpNet,
    /// Whether it is valid beyond the link (scope global or site).
    pub global: bool,
    /// Whether others may be told of it for long: not a temporary (RFC 8981), deprecated, tentative
    /// or duplicate address.
    pub stable: bool,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier (`IFF_LOWER_UP`). A bridge without ports, for example, has none.
    pub carrier: bool,
    /// Is a loopback device.
    pub loopback: bool,
    /// What kind of virtual device it is (`veth`, `bridge`, ..); none for hardware.
    pub kind: Option<String>,
}

impl HostFacts {
    /// MTU in bytes of the device that has `local`; none when no device has it.
    pub fn mtu_for(&self, local: IpAddr) -> Option<u32> {
        self.link_for(local).map(|link| link.mtu)
    }

    /// The device that has `local`.
    pub fn link_for(&self, local: IpAddr) -> Option<&HostLink> {
        let address = self.addresses.iter().find(|a| a.address.addr() == local)?;
        self.link(address.ifindex)
    }

    /// Whether a link that is not weft's own has the address.
    pub fn is_local(&self, address: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|a| a.address.addr() == address && !is_own_link(&a.ifname))
    }

    /// The device of that index.
    pub fn link(&self, index: u32) -> Option<&HostLink> {
        self.links.iter().find(|link| link.index == index)
    }
}

/// Whether weft made the link: every link of weft's carries one of two prefixes.
pub fn is_own_link(name: &str) -> bool {
    name.starts_with("weft") || name.starts_with("wf")
}

/// The host could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No rtnetlink socket.
    #[error("cannot open a netlink route socket: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused a request.
    #[error("cannot read this host's {what}: {source}")]
    Read {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The stream of changes broke.
    #[error("cannot follow this host's network changes: {0}")]
    Monitor(#[source] io::Error),
}
