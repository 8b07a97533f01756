//! What a container reads in `/etc/resolv.conf` and `/etc/hosts`.

use std::fmt::Write as _;
use std::net::IpAddr;

/// No name server is named before one answers: resolvers would wait for it on every name. With
/// `ndots:0` a single label is asked for as it is (resolv.conf(5)).
pub(super) const RESOLV_CONF: &str = "\
# Written by weft. No name server answers in this container; names are in /etc/hosts.
options ndots:0
";

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
    fn no_name_server_is_promised() {
        assert!(!RESOLV_CONF.contains("nameserver"));
    }
}
