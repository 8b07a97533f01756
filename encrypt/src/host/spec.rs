use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::HostError;

/// Most pairs of a peer and a network that the guard lets in. In a user namespace, where a socket's buffer
/// may not be enlarged, about 4,000 fit into one transaction, and more are refused.
pub const ALLOWED_MAX: usize = 65_536;
/// Least MTU of a device over which there is IPv6 (RFC 8200 section 5).
pub(super) const LEAST_MTU6: u32 = 1280;
/// Largest VNI (RFC 7348 section 5: 24 bits).
const VNI_MAX: u32 = 0x00ff_ffff;

/// Who does ESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The data-plane process, behind [`TAP`](super::TAP).
    Userspace,
    /// The kernel, by policies of its own.
    Kernel,
}

/// What a host has to be for encrypted networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// Who does ESP.
    pub mode: Mode,
    /// UDP port of the VXLAN devices of encrypted networks.
    pub inner_port: u16,
    /// This node's tunnel end.
    pub local: IpAddr,
    /// MTU of [`TAP`](super::TAP), bytes: what a VXLAN device of the largest inner MTU makes of a packet.
    pub tap_mtu: u32,
    /// VNIs of the networks that a peer shares with this node, by the peer's tunnel end. Enforced where the
    /// kernel does ESP; the data-plane process knows them from its own specification.
    pub allowed: BTreeMap<IpAddr, BTreeSet<u32>>,
}

impl HostSpec {
    pub(super) fn check(&self) -> Result<(), HostError> {
        let count: usize = self.allowed.values().map(BTreeSet::len).sum();
        let reason = if self.inner_port == 0 {
            "port 0 is none: 1 to 65535 are accepted".to_owned()
        } else if count > ALLOWED_MAX {
            format!("{count} pairs of a peer and a network: at most {ALLOWED_MAX} are accepted")
        } else if self.allowed.values().flatten().any(|vni| *vni > VNI_MAX) {
            format!("a vni is larger than {VNI_MAX}, the largest that there is")
        } else if self.local.is_ipv6() && self.tap_mtu < LEAST_MTU6 {
            let mtu = self.tap_mtu;
            format!(
                "mtu {mtu} of device {}: IPv6 needs {LEAST_MTU6}",
                super::TAP
            )
        } else {
            return Ok(());
        };
        Err(HostError::Spec(reason))
    }
}
