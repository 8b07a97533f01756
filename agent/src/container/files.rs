//! What a container reads in `/etc/resolv.conf` and `/etc/hosts`.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use weft_lb::dns::{OWN_ADDRESS, ResolvConf};

/// The text of `/etc/resolv.conf`: the server inside the container, and the domains in which the host
/// looks for names. With `ndots:0` a name is asked for as it is first, a single label, too
/// (resolv.conf(5)).
pub(super) fn resolv_conf(host: &ResolvConf) -> String {
    let mut text = format!("# Written by weft.\nnameserver {OWN_ADDRESS}\n");
    if !host.search.is_empty() {
        // A String takes everything that is written to it.
        let _ = writeln!(text, "search {}", host.search.join(" "));
    }
    text.push_str("options ndots:0\n");
    text
}

/// What the host's own file says; nothing, if it cannot be read.
pub(super) fn host_resolv_conf() -> ResolvConf {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    ResolvConf::parse(&text)
}

const LOCALHOST: &str = "\
# Written by weft.
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
";

/// One address of the container with the names that mean it, the main one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostsEntry {
    pub(super) address: IpAddr,
    pub(super) names: Vec<String>,
}

/// The text of `/etc/hosts`: localhost and the container's own names (hosts(5)).
pub(super) fn hosts(entries: &[HostsEntry]) -> String {
    let mut text = LOCALHOST.to_owned();
    for entry in entries {
        // A String takes everything that is written to it.
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_hosts_file_has_localhost_and_the_own_names() {
        let text = hosts(&[
            HostsEntry {
                address: Ipv4Addr::new(10, 0, 1, 2).into(),
                names: vec!["api".to_owned(), "api.web".to_owned(), "backend".to_owned()],
            },
            HostsEntry {
                address: Ipv4Addr::new(10, 0, 2, 9).into(),
                names: vec!["api".to_owned()],
            },
        ]);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "127.0.0.1\tlocalhost",
                "::1\tlocalhost ip6-localhost ip6-loopback",
                "10.0.1.2\tapi api.web backend",
                "10.0.2.9\tapi",
            ]
        );
    }

    #[test]
    fn names_are_asked_for_inside_and_as_they_are() {
        let host = ResolvConf::parse("nameserver 192.0.2.1\nsearch a.example b.example\n");
        let text = resolv_conf(&host);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let expected = [
            "nameserver 127.0.0.11",
            "search a.example b.example",
            "options ndots:0",
        ];
        assert_eq!(lines, expected);
        assert!(!resolv_conf(&ResolvConf::default()).contains("search"));
    }
}
