use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{BackendState, EndpointId, Labels, MacAddr, NetworkId, NodeId, Revision, ServiceId};

/// One attachment of a container to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Chosen by the proposer.
    pub id: EndpointId,
    /// Unique in its network; a DNS label.
    pub name: String,
    /// Where it is attached.
    pub network: NetworkId,
    /// Host that runs the container.
    pub node: NodeId,
    /// From the network's subnets, if it has any of IPv4; held by nothing else of the network.
    pub ipv4: Option<Ipv4Addr>,
    /// As `ipv4`, of IPv6. An endpoint has one of the two at least.
    pub ipv6: Option<Ipv6Addr>,
    /// Of the container's interface.
    pub mac: MacAddr,
    /// Name of the interface inside the container, at most 15 bytes.
    pub ifname: String,
    /// Further names.
    pub aliases: Vec<String>,
    /// Operator annotations.
    pub labels: Labels,
    /// Which namespace on `node` it is.
    pub attachment: Attachment,
    /// Who looks after the container.
    pub kind: EndpointKind,
    /// The service that it is a member of, if any; that one is on `network`.
    pub service: Option<ServiceId>,
    /// Its share of the service's new flows; 0 takes none.
    pub weight: u16,
    /// What it is to its service; without one it says nothing.
    pub backend: BackendState,
    /// Last change.
    pub revision: Revision,
}

impl Endpoint {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + Clone + use<> {
        let v4 = self.ipv4.map(IpAddr::V4).into_iter();
        v4.chain(self.ipv6.map(IpAddr::V6))
    }
}

/// Names a network namespace on one host so that a path which comes to mean another namespace
/// (a process id that is used again, a reboot) is noticed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// Where it can be opened: `/proc/PID/ns/net` or a bind mount.
    pub path: String,
    /// `st_dev` of the namespace file.
    pub device: u64,
    /// `st_ino` of the namespace file.
    pub inode: u64,
    /// `/proc/sys/kernel/random/boot_id` at the time of attaching.
    pub boot_id: String,
}

/// Who looks after the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndpointKind {
    /// Somebody else: attached to an existing namespace.
    Attached,
    /// `weft run`.
    Run {
        /// The command line.
        command: Vec<String>,
        /// Whether it goes on without a terminal.
        detached: bool,
    },
}
