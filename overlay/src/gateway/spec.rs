use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::layout::{self, NODE_MAX};
use crate::plan::names;
use crate::spec::{Mac, NetnsRef};

/// What the gateway of this node has to look like. Complete: what carries the gateway's mark and is
/// not in here is to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySpec {
    /// The gateway's network; the host has its first address. At most a /16.
    pub subnet4: Ipv4Net,
    /// As `subnet4`, for IPv6; usually [`SUBNET6`](layout::SUBNET6).
    pub subnet6: Ipv6Net,
    /// MTU of the gateway's links in bytes; at least IPv6's 1280.
    pub mtu: u32,
    /// The containers that have a leg, by a key of 1 to 64 characters of a-z, 0-9 and -.
    pub legs: BTreeMap<String, NetnsRef>,
    /// Those of `legs` that clients come to: their containers answer by the leg what came in by it,
    /// whatever their own routes say.
    pub published: BTreeSet<String>,
    /// Those of `legs` that are their container's way out: its default routes lead there. A container that
    /// has a default route of its own keeps that; see [`GatewayReport::own_way`](super::GatewayReport).
    pub egress: BTreeSet<String>,
    /// UDP ports of containers that clients come to by their legs, by the keys of `legs`. A server that
    /// listens on all addresses leaves the source of its answer to the kernel, which looks for the way
    /// first; so these ports' answers to clients that are not in a network of the container's go by its
    /// leg, whether they came by it or not.
    pub udp_ports: BTreeMap<String, BTreeSet<u16>>,
    /// The way to the other nodes; without it nothing is sent back by one.
    pub mesh: Option<MeshSpec>,
}

/// The network between the nodes that forward to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshSpec {
    /// This host's interface in it, which is not the gateway's to make.
    pub ifname: String,
    /// The other nodes by which packets come in, by their number of 1 to [`NODE_MAX`]. What comes in
    /// by this node itself carries no number.
    pub entries: BTreeMap<u16, MeshEntry>,
}

/// A node's addresses in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshEntry {
    /// Where IPv4 packets go back to.
    pub via4: Option<Ipv4Addr>,
    /// Where IPv6 packets go back to.
    pub via6: Option<Ipv6Addr>,
}

/// Addresses of a leg inside its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegAddresses {
    /// In the gateway's IPv4 network.
    pub v4: Ipv4Addr,
    /// In the gateway's IPv6 network, with the same host part; none on a kernel without IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// IPv6's smallest (RFC 8200 section 5).
const MTU_MIN: u32 = 1280;
const MTU_MAX: u32 = 65_535;
/// As much as a node can make use of.
pub(super) const PREFIX4_MIN: u8 = 16;
/// A network of four addresses, two of them of use: the host's and one leg's.
pub(super) const PREFIX4_MAX: u8 = 30;
const FIRST: u32 = 1;

impl GatewaySpec {
    /// Why a gateway cannot be made so, whatever the kernel's state.
    pub(super) fn fault(&self) -> Option<String> {
        let (prefix4, prefix6) = (self.subnet4.prefix_len(), self.subnet6.prefix_len());
        if !(PREFIX4_MIN..=PREFIX4_MAX).contains(&prefix4) {
            return Some(format!(
                "{} cannot be the gateway's network; give one of /{PREFIX4_MIN} to /{PREFIX4_MAX}",
                self.subnet4
            ));
        }
        if self.subnet6.max_prefix_len() - prefix6 < self.subnet4.max_prefix_len() - prefix4 {
            return Some(format!(
                "{} has less addresses than {}; give a /64",
                self.subnet6, self.subnet4
            ));
        }
        if !(MTU_MIN..=MTU_MAX).contains(&self.mtu) {
            let mtu = self.mtu;
            return Some(format!("MTU {mtu} is not between {MTU_MIN} and {MTU_MAX}"));
        }
        self.mesh.as_ref().and_then(MeshSpec::fault)
    }

    /// Legs that cannot be attached whatever the kernel's state, each with the reason.
    pub(super) fn leg_faults(&self) -> BTreeMap<&str, String> {
        let mut ports = BTreeSet::new();
        let mut containers = BTreeSet::new();
        let mut faults = BTreeMap::new();
        for (key, netns) in &self.legs {
            let fault = if !names::is_id(key) {
                Some("its key is not 1 to 64 characters of a-z, 0-9 and -".to_owned())
            } else if !ports.insert(layout::port(key)) {
                Some(format!("another leg is {} already", layout::port(key)))
            } else if !containers.insert(netns) {
                Some(format!("its container has another {} already", layout::LEG))
            } else {
                None
            };
            faults.extend(fault.map(|fault| (key.as_str(), fault)));
        }
        faults
    }

    /// How many addresses the host and the legs may have: numbers 1 to this.
    pub(super) fn hosts(&self) -> u32 {
        let bits = self.subnet4.max_prefix_len() - self.subnet4.prefix_len();
        (1 << bits) - 2
    }

    /// The legs in which another differs; `None` if it differs in anything else.
    pub fn differing_legs(&self, other: &Self) -> Option<BTreeSet<String>> {
        let same = self.subnet4 == other.subnet4
            && self.subnet6 == other.subnet6
            && self.mtu == other.mtu
            && self.mesh == other.mesh;
        let leg = |spec: &Self, key: &String| {
            let ports = spec
                .udp_ports
                .get(key)
                .filter(|ports| !ports.is_empty())
                .cloned();
            let is = [&spec.published, &spec.egress].map(|keys| keys.contains(key));
            (spec.legs.get(key).cloned(), is, ports)
        };
        let keys: BTreeSet<&String> = self.legs.keys().chain(other.legs.keys()).collect();
        let differing = keys
            .into_iter()
            .filter(|key| leg(self, key) != leg(other, key));
        same.then(|| differing.cloned().collect())
    }

    /// Of some legs, without the rest. That they have one container each is not known then.
    pub(super) fn part(&self, keys: &BTreeSet<String>) -> Self {
        let ports = self.udp_ports.iter();
        Self {
            legs: { self.legs.iter() }
                .filter(|(key, _)| keys.contains(*key))
                .map(|(key, netns)| (key.clone(), netns.clone()))
                .collect(),
            published: &self.published & keys,
            egress: &self.egress & keys,
            udp_ports: ports
                .filter(|(key, _)| keys.contains(*key))
                .map(|(key, ports)| (key.clone(), ports.clone()))
                .collect(),
            mesh: None,
            ..*self
        }
    }

    /// The IPv4 address of a number.
    pub(super) fn address4(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet4.network()) | number)
    }

    /// The IPv6 address that goes with an IPv4 address.
    pub(super) fn address6(&self, v4: Ipv4Addr) -> Ipv6Addr {
        let number = u32::from(v4) & u32::from(self.subnet4.hostmask());
        Ipv6Addr::from(u128::from(self.subnet6.network()) | u128::from(number))
    }

    /// Whether a leg may have the address.
    pub(super) fn is_for_legs(&self, address: Ipv4Addr) -> bool {
        let number = u32::from(address) & u32::from(self.subnet4.hostmask());
        self.subnet4.contains(&address) && number > FIRST && number <= self.hosts()
    }

    /// The host's address of IPv4.
    pub(super) fn host4(&self) -> Ipv4Addr {
        self.address4(FIRST)
    }

    /// The host's address of IPv6.
    pub(super) fn host6(&self) -> Ipv6Addr {
        self.address6(self.host4())
    }

    /// With the prefix length of the gateway's network.
    pub(super) fn net4(&self, address: Ipv4Addr) -> IpNet {
        IpNet::V4(Ipv4Net::new_assert(address, self.subnet4.prefix_len()))
    }

    /// With the prefix length of the gateway's network.
    pub(super) fn net6(&self, address: Ipv6Addr) -> IpNet {
        IpNet::V6(Ipv6Net::new_assert(address, self.subnet6.prefix_len()))
    }
}

/// The host's addresses on a gateway of these networks.
pub fn host_addresses(subnet4: Ipv4Net, subnet6: Ipv6Net) -> (Ipv4Addr, Ipv6Addr) {
    let gateway = GatewaySpec {
        subnet4,
        subnet6,
        mtu: 0,
        legs: BTreeMap::new(),
        published: BTreeSet::new(),
        egress: BTreeSet::new(),
        udp_ports: BTreeMap::new(),
        mesh: None,
    };
    (gateway.host4(), gateway.host6())
}

impl MeshSpec {
    fn fault(&self) -> Option<String> {
        if !names::is_ifname(&self.ifname) {
            return Some(format!("`{}` cannot name an interface", self.ifname));
        }
        let odd = self.entries.keys().find(|n| !(1..=NODE_MAX).contains(*n))?;
        Some(format!("node number {odd} is not between 1 and {NODE_MAX}"))
    }
}

/// The MAC address of who has an IPv4 address of the gateway's network. Fixed, so that a neighbour
/// entry stays right when another leg gets the address.
pub(super) fn mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    Mac([0x02, 0x42, a, b, c, d])
}
