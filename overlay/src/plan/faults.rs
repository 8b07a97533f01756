use std::collections::{BTreeMap, BTreeSet};

use super::names;
use crate::spec::{SandboxSpec, Tunnel};

/// Smallest MTU that IPv4 allows (RFC 791).
const MTU_MIN: u32 = 68;
/// What a VXLAN device takes at most.
const MTU_MAX: u32 = 65_535;
/// 24 bits (RFC 7348 section 5).
const VNI_MAX: u32 = (1 << 24) - 1;

/// Why a network cannot be made as its spec says, whatever the kernel's state.
pub fn network_fault(id: &str, spec: &SandboxSpec) -> Option<String> {
    if !names::is_id(id) {
        return Some(format!(
            "`{id}` cannot name a sandbox; a network id is 1 to 64 characters of a-z, 0-9 and -"
        ));
    }
    if spec.tunnel != Tunnel::Closed && !(1..=VNI_MAX).contains(&spec.vni) {
        return Some(format!("VNI {} is not between 1 and {VNI_MAX}", spec.vni));
    }
    if !(MTU_MIN..=MTU_MAX).contains(&spec.mtu) {
        return Some(format!(
            "MTU {} is not between {MTU_MIN} and {MTU_MAX}",
            spec.mtu
        ));
    }
    let local = spec.vtep.local;
    (local.is_unspecified() || local.is_multicast() || spec.vtep.port == 0).then(|| {
        format!(
            "{local} port {} cannot be a tunnel end; give an address of this host and a UDP port",
            spec.vtep.port
        )
    })
}

/// Endpoints of the spec that cannot be attached as it says, whatever the kernel's state, each with
/// the reason.
pub fn endpoint_faults(spec: &SandboxSpec) -> BTreeMap<String, String> {
    let mut ports = BTreeSet::new();
    let mut macs = BTreeSet::new();
    let mut places = BTreeSet::new();
    let mut faults = BTreeMap::new();
    for (id, local) in &spec.locals {
        let fault = if !names::is_id(id) {
            Some("its id cannot name an interface".to_owned())
        } else if !ports.insert(names::port(id)) {
            Some(format!(
                "another endpoint has port {} already",
                names::port(id)
            ))
        } else if !names::is_ifname(&local.ifname) {
            Some(format!(
                "`{}` cannot name an interface; a name has 1 to 15 bytes without space, / and :",
                local.ifname
            ))
        } else if !local.mac.is_unicast() {
            Some(format!(
                "{} is not the MAC address of one interface",
                local.mac
            ))
        } else if !macs.insert(local.mac) {
            Some(format!(
                "another endpoint here has MAC address {}",
                local.mac
            ))
        } else if !places.insert((&local.netns, &local.ifname)) {
            Some(format!(
                "another endpoint of its container is {}",
                local.ifname
            ))
        } else {
            None
        };
        faults.extend(fault.map(|fault| (id.clone(), fault)));
    }
    faults
}
