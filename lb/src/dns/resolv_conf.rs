use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Where names are answered inside containers.
pub const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Name servers that are read (`MAXNS`, resolv.conf(5)).
const NAME_SERVERS_MAX: usize = 3;
/// Search domains that are read (resolv.conf(5): "unlimited" since glibc 2.26; six before).
const SEARCH_MAX: usize = 16;

/// What a host's `/etc/resolv.conf` says (resolv.conf(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Whom to ask, in this order.
    pub name_servers: Vec<NameServer>,
    /// Name servers that are not asked: the address at which containers ask would lead round in circles.
    pub refused: Vec<IpAddr>,
    /// Domains in which names are looked for.
    pub search: Vec<String>,
    /// How long one of them may take, if said.
    pub timeout: Option<Duration>,
    /// How often all of them are asked, if said.
    pub attempts: Option<u32>,
}

/// A resolver of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub address: IpAddr,
    /// The interface that a link-local address is on (RFC 4007 section 11).
    pub interface: Option<String>,
}

impl ResolvConf {
    /// Reads the text of such a file. What is not understood is passed over, as resolvers do.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.name_server(words.next().unwrap_or_default()),
                Some("search" | "domain") => {
                    // The last one counts.
                    conf.search = words.map(str::to_owned).take(SEARCH_MAX).collect();
                }
                Some("options") => words.for_each(|option| conf.option(option)),
                _ => {}
            }
        }
        conf
    }

    fn name_server(&mut self, text: &str) {
        let (address, interface) = match text.split_once('%') {
            Some((address, interface)) => (address, Some(interface.to_owned())),
            None => (text, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return;
        };
        if address.to_canonical() == IpAddr::V4(OWN_ADDRESS) {
            self.refused.push(address);
        } else if self.name_servers.len() < NAME_SERVERS_MAX {
            self.name_servers.push(NameServer { address, interface });
        }
    }

    fn option(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else {
            return;
        };
        let Ok(value) = value.parse::<u32>() else {
            return;
        };
        // The limits of resolv.conf(5).
        match name {
            "timeout" => self.timeout = Some(Duration::from_secs(value.clamp(1, 30).into())),
            "attempts" => self.attempts = Some(value.clamp(1, 5)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_domains_and_options_are_read_and_the_rest_is_passed_over() {
        let conf = ResolvConf::parse(
            "# nameserver 192.0.2.9\nnameserver 192.0.2.1 ; near\nnameserver\tfe80::1%eth0\n\
             nameserver nonsense\nnameserver 127.0.0.11\nnameserver ::ffff:127.0.0.11\n\
             nameserver 2001:db8::1\nnameserver 192.0.2.4\ndomain old.example\n\
             search example.org corp\noptions timeout:0 attempts:99 rotate edns0 ndots:x\n",
        );
        let server = |address: &str, interface: Option<&str>| NameServer {
            address: address.parse().unwrap(),
            interface: interface.map(str::to_owned),
        };
        let expected = [
            server("192.0.2.1", None),
            server("fe80::1", Some("eth0")),
            server("2001:db8::1", None),
        ];
        assert_eq!(conf.name_servers, expected);
        assert_eq!(conf.refused.len(), 2);
        assert_eq!(conf.search, ["example.org", "corp"]);
        assert_eq!(conf.timeout, Some(Duration::from_secs(1)));
        assert_eq!(conf.attempts, Some(5));
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
    }
}
