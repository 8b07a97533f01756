//! How links are named, so that what is ours is known when it is read back.

/// Every interface of ours that is not inside a container starts with this.
pub const PREFIX: &str = "wf";

/// Starts the alias of every interface of ours; the id of its endpoint or network follows.
pub const ALIAS_PREFIX: &str = "weft:";

/// The bridge of a sandbox.
pub const BRIDGE: &str = "br0";

/// The VXLAN device of a sandbox.
pub const VXLAN: &str = "vxlan0";

/// The TAP device of a sandbox; whoever carries the network's frames makes it.
pub const TAP: &str = "esp0";

/// Characters of an endpoint id that fit an interface name behind [`PREFIX`]: `IFNAMSIZ` is 16 with
/// the closing zero. 13 characters of base32 are 65 bits.
const ID_CHARACTERS: usize = 13;

/// Longest interface name in bytes (`IFNAMSIZ` without the closing zero).
pub const IFNAME_MAX: usize = 15;

/// Name of the sandbox's end of an endpoint's veth pair.
pub fn port(endpoint: &str) -> String {
    let id: String = endpoint.chars().take(ID_CHARACTERS).collect();
    format!("{PREFIX}{id}")
}

/// Alias that names the endpoint or network that a link belongs to.
pub fn alias(id: &str) -> String {
    format!("{ALIAS_PREFIX}{id}")
}

/// Name that a network's VXLAN device has if it is ever seen in the host's namespace.
pub fn host_vxlan(network: &str) -> String {
    format!("{PREFIX}vx{:08x}", fnv1a(network.as_bytes()))
}

/// Whether a link has the form of [`host_vxlan`].
pub fn is_host_vxlan(name: &str) -> bool {
    const HASH_DIGITS: usize = 8;
    name.strip_prefix(PREFIX)
        .and_then(|rest| rest.strip_prefix("vx"))
        .is_some_and(|hash| {
            hash.len() == HASH_DIGITS && hash.bytes().all(|b| b.is_ascii_hexdigit())
        })
}

/// 32-bit FNV-1a: the same in every version of the program, which std's hashers do not promise.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Whether an id can name a file and interfaces.
pub fn is_id(id: &str) -> bool {
    const ID_MAX: usize = 64;
    !id.is_empty()
        && id.len() <= ID_MAX
        && id
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether the kernel takes it as an interface name (`dev_valid_name`), and it is not `lo`.
pub fn is_ifname(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= IFNAME_MAX
        && !matches!(name, "." | ".." | "lo")
        && !name
            .bytes()
            .any(|b| b == b'/' || b == b':' || b == b'%' || b.is_ascii_whitespace() || b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        for id in ["a", "abcdefghijklmnop", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"] {
            assert!(is_ifname(&port(id)), "{id}");
            assert!(is_ifname(&host_vxlan(id)), "{id}");
        }
        assert_eq!(port("abcdefghijklmnop"), "wfabcdefghijklm");
        assert_eq!(host_vxlan(""), "wfvx811c9dc5");
        assert!(is_host_vxlan(&host_vxlan("abc")) && !is_host_vxlan("wfvx"));
    }

    #[test]
    fn what_the_kernel_refuses_is_no_name() {
        for name in [
            "",
            "a/b",
            "a b",
            ".",
            "..",
            "lo",
            "sixteen-bytes-xx",
            "a:1",
            "a%d",
        ] {
            assert!(!is_ifname(name), "{name:?}");
        }
        for id in ["", "../x", "A", "a_b"] {
            assert!(!is_id(id), "{id:?}");
        }
    }
}
