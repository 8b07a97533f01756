//! What the ingress table should do, in kernel words.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::spec::Protocol;

/// The bits of a packet's and of a flow's mark that hold the number of the node by which a
/// connection entered the mesh. Other bits are other programs'.
pub const MARK_MASK: u32 = 0x00ff_f000;
/// Where these bits start.
pub const MARK_SHIFT: u32 = 12;
/// The largest node number that they hold. None is 0.
pub const NODE_MAX: u16 = 0xfff;
/// Most [`entries`](IngressSpec::entries): one for each node number.
pub const ENTRIES_MAX: usize = NODE_MAX as usize;
/// Most [`peers`](IngressSpec::peers): four addresses of each node.
pub const PEERS_MAX: usize = 4 * ENTRIES_MAX;
/// Most ports in [`snat_ports`](IngressSpec::snat_ports), and in [`allowed`](IngressSpec::allowed).
pub const PORTS_MAX: usize = 65_536;
/// Most prefixes in [`allowed`](IngressSpec::allowed), of all ports together. The kernel takes time
/// with the square of their number: so many are loaded in a third of a second here and removed in
/// two, and eight times as many in 21 and 52.
pub const PREFIXES_MAX: usize = 8192;
/// Most [`networks`](IngressSpec::networks).
pub const DEVICES_MAX: usize = 65_536;
/// Most bytes of a device's name (`IFNAMSIZ` without its end).
const IFNAME_MAX: usize = 15;

/// A port of a transport protocol.
pub type Port = (Protocol, NonZeroU16);

/// The wanted table. Ports are published ones: as clients name them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngressSpec {
    /// The host's device on the ingress network.
    pub mesh_if: String,
    /// The host's device on which containers' legs are.
    pub gateway_if: String,
    /// The nodes by which connections may enter: the source MAC of their frames on `mesh_if`, and
    /// their number from 1 to [`NODE_MAX`], which [`mark`] makes a mark of.
    pub entries: BTreeMap<[u8; 6], u16>,
    /// The host's own address on `mesh_if`, the source of connections whose own has no way back.
    /// None when the mesh has no IPv4.
    pub mesh4: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub mesh6: Option<Ipv6Addr>,
    /// The addresses of containers' legs. None when they have no IPv4.
    pub gateway4: Option<Ipv4Net>,
    /// The same of IPv6.
    pub gateway6: Option<Ipv6Net>,
    /// Addresses of other nodes' hosts, each with that node's address on the ingress network. A
    /// connection from a host that is sent to a container of the same host gets this node's source:
    /// its replies would not come back here otherwise, for that host takes them for its own.
    pub peers: BTreeMap<IpAddr, IpAddr>,
    /// Ports whose backends see a node's address instead of the client's.
    pub snat_ports: BTreeSet<Port>,
    /// Ports that are not for everybody, with who may connect. Nobody may where there is no prefix.
    pub allowed: BTreeMap<Port, BTreeSet<IpNet>>,
    /// The host's devices in networks of containers. Containers do not get there by their legs.
    pub networks: BTreeSet<String>,
}

/// A wanted content that no table can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IngressSpecError {
    /// Not a device's name.
    #[error("device `{name}` refused: a name has 1 to {IFNAME_MAX} bytes without `/` and spaces")]
    BadInterface {
        /// The name.
        name: String,
    },
    /// Both devices are one.
    #[error("device `{name}` refused for both mesh and gateway: they must be two")]
    SameInterface {
        /// Its name.
        name: String,
    },
    /// A number that the mark has no room for.
    #[error("node number {number} refused: it must be 1 to {NODE_MAX}")]
    BadNode {
        /// The number.
        number: u16,
    },
    /// A host's address and its ingress address are of two families.
    #[error("ingress address {mesh} refused for host address {host}: both must be of one family")]
    MixedFamilies {
        /// The host's address.
        host: IpAddr,
        /// Its ingress address.
        mesh: IpAddr,
    },
    /// Too much of something.
    #[error("{count} {what} refused: the ingress table takes at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// Most.
        max: usize,
    },
}

/// The mark of connections that entered by a node, within [`MARK_MASK`].
///
/// ```
/// assert_eq!(weft_lb::ingress::mark(2), 0x2000);
/// ```
pub const fn mark(node: u16) -> u32 {
    ((node as u32) << MARK_SHIFT) & MARK_MASK
}

impl IngressSpec {
    /// Whether a table can have this content.
    ///
    /// # Errors
    /// [`IngressSpecError`], for the first thing that is wrong.
    pub fn check(&self) -> Result<(), IngressSpecError> {
        for name in [&self.mesh_if, &self.gateway_if]
            .into_iter()
            .chain(&self.networks)
        {
            check_interface(name)?;
        }
        if self.mesh_if == self.gateway_if {
            let name = self.mesh_if.clone();
            return Err(IngressSpecError::SameInterface { name });
        }
        let mut numbers = self.entries.values().copied();
        if let Some(number) = numbers.find(|number| !(1..=NODE_MAX).contains(number)) {
            return Err(IngressSpecError::BadNode { number });
        }
        let mixed = |(host, mesh): &(&IpAddr, &IpAddr)| host.is_ipv4() != mesh.is_ipv4();
        if let Some((&host, &mesh)) = self.peers.iter().find(mixed) {
            return Err(IngressSpecError::MixedFamilies { host, mesh });
        }
        let prefixes = self.allowed.values().map(BTreeSet::len).sum();
        for (what, count, max) in [
            ("entry nodes", self.entries.len(), ENTRIES_MAX),
            ("addresses of nodes", self.peers.len(), PEERS_MAX),
            (
                "ports with source rewriting",
                self.snat_ports.len(),
                PORTS_MAX,
            ),
            ("ports not for everybody", self.allowed.len(), PORTS_MAX),
            ("allowed prefixes", prefixes, PREFIXES_MAX),
            ("devices in networks", self.networks.len(), DEVICES_MAX),
        ] {
            if count > max {
                return Err(IngressSpecError::TooMany { what, count, max });
            }
        }
        Ok(())
    }
}

/// As the kernel does (`dev_valid_name`).
fn check_interface(name: &str) -> Result<(), IngressSpecError> {
    let bad = |c: char| c.is_whitespace() || c == '/' || c == '\0';
    if name.is_empty() || name.len() > IFNAME_MAX || name.contains(bad) {
        let name = name.to_owned();
        return Err(IngressSpecError::BadInterface { name });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> IngressSpec {
        IngressSpec {
            mesh_if: "wf-ingress".into(),
            gateway_if: "weft-gw".into(),
            entries: [([2; 6], 1), ([3; 6], NODE_MAX)].into(),
            ..IngressSpec::default()
        }
    }

    #[test]
    fn marks_stay_within_their_bits() {
        assert_eq!(mark(1), 0x1000);
        assert_eq!(mark(NODE_MAX), MARK_MASK);
        assert_eq!(mark(NODE_MAX + 1), 0);
    }

    #[test]
    fn what_no_table_can_have_is_refused_by_name() {
        assert_eq!(spec().check(), Ok(()));
        let refused = |change: fn(&mut IngressSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.check().unwrap_err().to_string()
        };
        let message = refused(|spec| spec.mesh_if = "a/b".into());
        assert!(message.starts_with("device `a/b` refused"), "{message}");
        assert!(refused(|spec| spec.gateway_if = "x".repeat(16)).contains("1 to 15 bytes"));
        assert!(refused(|spec| spec.gateway_if = spec.mesh_if.clone()).contains("must be two"));
        for number in [0, NODE_MAX + 1] {
            let mut spec = spec();
            spec.entries.insert([4; 6], number);
            assert_eq!(spec.check(), Err(IngressSpecError::BadNode { number }));
        }
        let message = refused(|spec| {
            let mesh = "fd00::1".parse().unwrap();
            spec.peers.insert("192.0.2.1".parse().unwrap(), mesh);
        });
        assert!(message.contains("both must be of one family"), "{message}");
        let message = refused(|spec| {
            let port = (Protocol::Tcp, NonZeroU16::MIN);
            let prefixes = (0..=PREFIXES_MAX).map(|i| {
                let address = Ipv4Addr::from_bits(u32::try_from(i).unwrap());
                IpNet::from(IpAddr::from(address))
            });
            spec.allowed.insert(port, prefixes.collect());
        });
        assert_eq!(
            message,
            "8193 allowed prefixes refused: the ingress table takes at most 8192"
        );
    }
}
