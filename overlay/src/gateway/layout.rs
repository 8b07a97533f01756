//! How what the gateway makes is named and numbered, so that it is known when it is read back.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::Ipv6Net;

/// The host's interface.
pub const HOST_END: &str = "weft-gw";

/// A leg's interface inside its container.
pub const LEG: &str = "wfgw";

/// The hub's end of the host's interface.
pub const UPLINK: &str = "uplink";

/// Prefix of the gateway's IPv6 addresses on every node, in the range of locally assigned ones
/// (RFC 4193); its digits are "weft".
pub const SUBNET6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd77, 0x6566, 0x7400, 0, 0, 0, 0, 0), 64);

/// `rtm_protocol` and `FRA_PROTOCOL` of our routes and rules in the host's namespace. Nobody else's in
/// iproute2's `rt_protos`, nor of the routing daemons that we know.
pub const PROTOCOL: u8 = 119;

/// As [`PROTOCOL`], in a container: one in which weft itself runs is a container of the one and the
/// host of the other.
pub const LEG_PROTOCOL: u8 = 120;

/// Largest number of a node: it has 12 bits of the packet mark.
pub const NODE_MAX: u16 = 0x0fff;

/// Where a node's number begins in a packet's mark.
pub const MARK_SHIFT: u32 = 12;

/// The bits of a packet's mark that say by which node it came in; zero for none.
pub const MARK_MASK: u32 = (NODE_MAX as u32) << MARK_SHIFT;

/// Routing table, in a container, of what leaves from its leg's address.
pub const LEG_TABLE: u32 = 0x7767_0000;

/// Priority of the rule that leads to [`LEG_TABLE`]: behind the local table, before what VPN clients
/// (Tailscale from 5210, wg-quick 32764) put in front of the main one.
pub const LEG_PRIORITY: u32 = 119;

/// Priority of the rules for answers that have no source yet, to the main table without its default
/// routes: clients of the container's own networks.
pub const ANSWERS_NEAR: u32 = LEG_PRIORITY + 1;

/// And to [`LEG_TABLE`]: all others.
pub const ANSWERS_FAR: u32 = ANSWERS_NEAR + 1;

/// `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = 254;

/// Metric of a container's default routes by its leg: high, so that one that somebody else adds counts
/// at once, and is not refused as a second one of the same.
pub const EGRESS_METRIC: u32 = 0x7767;

/// `RT_TABLE_LOCAL`.
pub const LOCAL_TABLE: u32 = 255;

/// Rules of the host. The kernel tries rules one after the other, at 8 to 9 ns each here; so they are a
/// tree of three levels over the hexadecimal digits of a node's number, in which a packet meets 48 at
/// most and usually less than 20. A packet without a node's mark meets one, which leads it past all
/// others. Rules that are tried together have one priority: the kernel leads a `goto` to the first
/// that has it, whichever of them come and go.
pub const RULES_GATE: u32 = 200;
/// One rule for each first digit.
pub const RULES_DIGIT1: u32 = RULES_GATE + 1;
/// One priority for each first digit, with a rule for each second digit.
pub const RULES_DIGIT2: u32 = RULES_DIGIT1 + 1;
/// One priority for each first two digits, with a rule for each node.
pub const RULES_NODES: u32 = RULES_DIGIT2 + 16;
/// Where the tree ends: a rule that does nothing.
pub const RULES_END: u32 = RULES_NODES + 256;

const TABLE_BASE: u32 = 0x7766_0000;
const PORT_PREFIX: &str = "wfg";
const PORT_DIGITS: usize = 12;

/// Routing table, in the host's namespace, of the replies that go back by a node.
pub fn table(node: u16) -> u32 {
    TABLE_BASE + u32::from(node)
}

/// The bits of a packet's mark that say that it came in by a node.
pub const fn mark(node: u16) -> u32 {
    (node as u32) << MARK_SHIFT
}

/// Name of the hub's end of a leg.
pub fn port(key: &str) -> String {
    let hash = fnv1a(key.as_bytes()) >> 16;
    format!("{PORT_PREFIX}{hash:0PORT_DIGITS$x}")
}

/// Whether a link has the form of [`port`].
pub fn is_port(name: &str) -> bool {
    name.strip_prefix(PORT_PREFIX).is_some_and(|hash| {
        hash.len() == PORT_DIGITS && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The host's link-local address. Fixed, and without duplicate address detection: the host
/// solicits a leg's MAC address from it, and that is not to wait for a second behind the first leg.
pub fn link_local() -> ipnet::IpNet {
    let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    ipnet::IpNet::new_assert(IpAddr::V6(address), 64)
}

/// 64-bit FNV-1a: the same in every version of the program, which std's hashers do not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::names;

    #[test]
    fn names_fit_the_kernel_and_no_others_pattern() {
        for key in ["", "a", "0123456789abcdef0123456789abcdef"] {
            let name = port(key);
            assert!(names::is_ifname(&name) && is_port(&name), "{name}");
            assert!(!names::is_host_vxlan(&name));
        }
        assert_eq!(port(""), "wfgcbf29ce48422");
        for other in [
            "wfgw",
            "wf-ingress",
            "wfgcbf29ce4842",
            "wfgCBF29CE48422",
            HOST_END,
        ] {
            assert!(!is_port(other), "{other}");
        }
    }

    #[test]
    fn numbers_do_not_meet() {
        assert_eq!(MARK_MASK, 0x00ff_f000);
        assert!(table(NODE_MAX) < LEG_TABLE);
        // Before the main table's rule.
        const { assert!(RULES_END < 32_766) };
    }
}
