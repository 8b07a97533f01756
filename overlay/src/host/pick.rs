use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::facts::{HostAddress, HostFacts, HostLink, is_own_link};

/// What an address is chosen for; names the flag in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `--advertise-addr`: what peers dial.
    Advertise,
    /// `--data-path-addr`: the tunnel end.
    DataPath,
    /// `--listen-addr`: what the control socket binds.
    Listen,
}

/// No address could be chosen. Each message says what would be accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PickError {
    /// Nothing to choose from.
    #[error(
        "could not choose an address to advertise: no interface of this host that is up has an \
         address beyond loopback and link-local; configure one or pass --advertise-addr IP|IFACE"
    )]
    NoCandidate,
    /// More than one to choose from.
    #[error(
        "could not choose an address to advertise: this host has several ({candidates}); \
         pass --advertise-addr IP|IFACE"
    )]
    Ambiguous {
        /// `address on interface`, separated by commas.
        candidates: String,
    },
    /// Neither an address nor an interface.
    #[error("{flag} `{wanted}` is neither an IP address nor an interface of this host ({links})")]
    Unknown {
        /// The flag.
        flag: Purpose,
        /// What was given.
        wanted: String,
        /// This host's interfaces.
        links: String,
    },
    /// The interface has no usable address.
    #[error(
        "{flag} `{ifname}` has no IP address that could be used; name another interface or an \
             IP address ({candidates})"
    )]
    BareInterface {
        /// The flag.
        flag: Purpose,
        /// The interface.
        ifname: String,
        /// What this host has.
        candidates: String,
    },
    /// The interface has several addresses.
    #[error("{flag} `{ifname}` has several IP addresses ({addresses}); name one of them")]
    AmbiguousInterface {
        /// The flag.
        flag: Purpose,
        /// The interface.
        ifname: String,
        /// Its addresses.
        addresses: String,
    },
    /// An address that cannot name one host.
    #[error("{flag} `{address}` is {kind}; name one of this host's addresses ({candidates})")]
    NotUnicast {
        /// The flag.
        flag: Purpose,
        /// What was given.
        address: IpAddr,
        /// `unspecified`, `multicast`, ..
        kind: &'static str,
        /// What this host has.
        candidates: String,
    },
    /// Not an address of this host.
    #[error(
        "{flag} `{address}` is not an address of this host; name one of its own ({candidates})"
    )]
    NotLocal {
        /// The flag.
        flag: Purpose,
        /// What was given.
        address: IpAddr,
        /// What this host has.
        candidates: String,
    },
    /// The advertised address is somebody else's (a NAT's, say) and the own one is not named.
    #[error(
        "--advertise-addr `{address}` is not an address of this host ({candidates}); if peers \
         reach this host by it, pass --listen-addr IP|IFACE too"
    )]
    ListenNeeded {
        /// What was given.
        address: IpAddr,
        /// What this host has.
        candidates: String,
    },
}

impl HostFacts {
    /// The address that peers dial: `wanted` (an address of this host, or an interface with one
    /// address; IPv4 goes first), or without it the only candidate of this host. Candidates are the
    /// stable global addresses on interfaces that are up, have a carrier, and are neither loopback
    /// nor weft's own; those of IPv6 only if there is none of IPv4.
    ///
    /// # Errors
    /// [`PickError`], with the candidates; bad input among them.
    pub fn pick_advertise(&self, wanted: Option<&str>) -> Result<IpAddr, PickError> {
        self.pick_advertise_behind(wanted, Ipv4Addr::UNSPECIFIED.into())
    }

    /// Like [`pick_advertise`](Self::pick_advertise), for an agent that listens on `listen`: when
    /// that is one address rather than all (Docker's rule), `wanted` may also be an address that
    /// this host does not have, such as that of a NAT in front of it.
    ///
    /// # Errors
    /// As [`pick_advertise`](Self::pick_advertise).
    pub fn pick_advertise_behind(
        &self,
        wanted: Option<&str>,
        listen: IpAddr,
    ) -> Result<IpAddr, PickError> {
        let Some(wanted) = wanted else {
            return self.only_candidate();
        };
        let address = self.named(Purpose::Advertise, wanted)?;
        if self.is_local(address) || !listen.is_unspecified() {
            Ok(address)
        } else {
            Err(PickError::ListenNeeded {
                address,
                candidates: self.candidates_text(),
            })
        }
    }

    /// The tunnel end: `wanted` (an address of this host, or an interface with one address), or
    /// without it the advertised address.
    ///
    /// # Errors
    /// [`PickError`]; among others when the address, also the advertised one, is not this host's.
    pub fn pick_data_path(
        &self,
        wanted: Option<&str>,
        advertise: IpAddr,
    ) -> Result<IpAddr, PickError> {
        let flag = Purpose::DataPath;
        let address = wanted.map_or(Ok(advertise), |wanted| self.named(flag, wanted))?;
        self.local(flag, address)
    }

    /// What the control socket binds: `wanted` as `IP|IFACE[:PORT]` (IPv6 with a port in brackets),
    /// with the port of `default` where it names none; `default` without it. Unspecified addresses
    /// are accepted, for all addresses of the host.
    ///
    /// # Errors
    /// [`PickError`].
    pub fn pick_listen(
        &self,
        wanted: Option<&str>,
        default: SocketAddr,
    ) -> Result<SocketAddr, PickError> {
        let Some(wanted) = wanted else {
            return Ok(default);
        };
        let (host, port) = self.split_port(wanted, default.port());
        if let Ok(address) = host.parse::<IpAddr>()
            && address.is_unspecified()
        {
            return Ok(SocketAddr::new(address, port));
        }
        let address = self.named(Purpose::Listen, host)?;
        Ok(SocketAddr::new(self.local(Purpose::Listen, address)?, port))
    }

    fn only_candidate(&self) -> Result<IpAddr, PickError> {
        let candidates = self.candidates();
        match candidates.as_slice() {
            [] => Err(PickError::NoCandidate),
            [only] => Ok(only.address.addr()),
            _ => Err(PickError::Ambiguous {
                candidates: self.candidates_text(),
            }),
        }
    }

    /// What could be advertised without being told: all of IPv4, or where there is none, of IPv6.
    fn candidates(&self) -> Vec<&HostAddress> {
        let serves =
            |link: &HostLink| link.up && link.carrier && !link.loopback && !is_own_link(&link.name);
        let fits = |a: &&HostAddress| {
            let ip = a.address.addr();
            a.global
                && a.stable
                && !is_link_local(ip)
                && !ip.is_loopback()
                && self.link(a.ifindex).is_some_and(serves)
        };
        prefer_ipv4(self.addresses.iter().filter(fits).collect())
    }

    fn candidates_text(&self) -> String {
        let candidates = self.candidates();
        if candidates.is_empty() {
            return "it has none that is up and global".to_owned();
        }
        let texts: Vec<String> = candidates
            .iter()
            .map(|a| format!("{} on {}", a.address.addr(), a.ifname))
            .collect();
        texts.join(", ")
    }

    /// An address by its text or by its interface; refuses what cannot name one host.
    fn named(&self, flag: Purpose, wanted: &str) -> Result<IpAddr, PickError> {
        if self.links.iter().any(|link| link.name == wanted) && !is_own_link(wanted) {
            return self.address_of(flag, wanted);
        }
        let Ok(address) = wanted.parse::<IpAddr>() else {
            return Err(PickError::Unknown {
                flag,
                wanted: wanted.to_owned(),
                links: self.links_text(),
            });
        };
        match not_unicast(address) {
            None => Ok(address),
            Some(kind) => Err(PickError::NotUnicast {
                flag,
                address,
                kind,
                candidates: self.candidates_text(),
            }),
        }
    }

    /// The one address of an interface.
    fn address_of(&self, flag: Purpose, ifname: &str) -> Result<IpAddr, PickError> {
        let on_it = self
            .addresses
            .iter()
            .filter(|a| a.ifname == ifname && a.stable && not_unicast(a.address.addr()).is_none());
        let found = prefer_ipv4(on_it.collect());
        match found.as_slice() {
            [only] => Ok(only.address.addr()),
            [] => Err(PickError::BareInterface {
                flag,
                ifname: ifname.to_owned(),
                candidates: self.candidates_text(),
            }),
            several => {
                let texts: Vec<String> = several
                    .iter()
                    .map(|a| a.address.addr().to_string())
                    .collect();
                Err(PickError::AmbiguousInterface {
                    flag,
                    ifname: ifname.to_owned(),
                    addresses: texts.join(", "),
                })
            }
        }
    }

    fn local(&self, flag: Purpose, address: IpAddr) -> Result<IpAddr, PickError> {
        if self.is_local(address) {
            Ok(address)
        } else {
            Err(PickError::NotLocal {
                flag,
                address,
                candidates: self.candidates_text(),
            })
        }
    }

    fn links_text(&self) -> String {
        let names: Vec<&str> = self
            .links
            .iter()
            .map(|l| l.name.as_str())
            .filter(|name| !is_own_link(name))
            .collect();
        names.join(", ")
    }

    /// Splits `IP|IFACE[:PORT]`. A colon inside an interface's name or an address is none of a
    /// port.
    fn split_port<'a>(&self, text: &'a str, default: u16) -> (&'a str, u16) {
        let whole =
            self.links.iter().any(|link| link.name == text) || text.parse::<IpAddr>().is_ok();
        let parted = text.rsplit_once(':').filter(|_| !whole);
        match parted.and_then(|(host, port)| Some((host, port.parse().ok()?))) {
            Some((host, port)) => (unbracketed(host), port),
            None => (unbracketed(text), default),
        }
    }
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host)
}

/// The addresses of IPv4, or all when there is none.
fn prefer_ipv4(addresses: Vec<&HostAddress>) -> Vec<&HostAddress> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|a| a.address.addr().is_ipv4());
    if v4.is_empty() { v6 } else { v4 }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Why an address cannot name one host to its peers. Loopback can, for a cluster of one. A
/// link-local address of IPv6 cannot: it means nothing without an interface (RFC 4007 section 6).
fn not_unicast(address: IpAddr) -> Option<&'static str> {
    let broadcast = IpAddr::from(Ipv4Addr::BROADCAST);
    if address.is_unspecified() {
        Some("unspecified")
    } else if address.is_multicast() {
        Some("multicast")
    } else if address == broadcast {
        Some("broadcast")
    } else if address.is_ipv6() && is_link_local(address) {
        Some("link-local")
    } else {
        None
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Advertise => "--advertise-addr",
            Self::DataPath => "--data-path-addr",
            Self::Listen => "--listen-addr",
        })
    }
}

#[cfg(test)]
mod tests;
