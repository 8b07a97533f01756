//! Forms of names that can be judged without knowing the cluster.

/// Longest DNS label (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;
/// `IFNAMSIZ` less the final zero byte.
const MAX_IFNAME: usize = 15;

/// Whether `name` may name a node.
pub fn check_node(name: &str) -> Result<(), String> {
    check("a node name", name)
}

/// Whether `name` may name a network.
pub fn check_network(name: &str) -> Result<(), String> {
    check("a network name", name)
}

/// Whether `name` may name an endpoint, or be a further name of one.
pub fn check_endpoint(name: &str) -> Result<(), String> {
    check("an endpoint name", name)
}

/// Whether `name` may name a service.
pub fn check_service(name: &str) -> Result<(), String> {
    check("a service name", name)
}

/// Whether `name` may name a lab.
pub fn check_lab(name: &str) -> Result<(), String> {
    check("a lab name", name)
}

/// Whether `name` may name an interface.
pub fn check_ifname(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if (1..=MAX_IFNAME).contains(&name.len())
        && name.chars().all(allowed)
        && !matches!(name, "." | ".." | "lo" | "all" | "default")
    {
        Ok(())
    } else {
        Err(format!(
            "`{name}` cannot name an interface; use 1 to 15 letters, digits, - or _, such as eth1"
        ))
    }
}

fn check(what: &str, name: &str) -> Result<(), String> {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| *b != b'-');
    let bytes = name.as_bytes();
    if bytes.len() <= MAX_LABEL
        && bytes
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && edge(bytes.first())
        && edge(bytes.last())
    {
        Ok(())
    } else {
        Err(format!(
            "`{name}` is not {what}; use 1 to 63 of a-z, 0-9 and -, not beginning or ending with -"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for name in ["a", "web", "web-1", "0", &"x".repeat(63)] {
            assert_eq!(check_network(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "a b",
            "ä",
            &"x".repeat(64),
        ] {
            assert!(check_network(name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_interface_name_is_what_the_kernel_takes() {
        for name in ["eth0", "a", "net_1", "x23456789012345"] {
            assert_eq!(check_ifname(name), Ok(()), "{name}");
        }
        for name in ["", "lo", ".", "..", "a/b", "a b", "a:1", "x234567890123456"] {
            assert!(check_ifname(name).is_err(), "{name}");
        }
    }
}
