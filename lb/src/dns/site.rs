//! What names mean, and to whom.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The names of one network, all of one revision. Names are in lower case, labels have a `.` between
/// them, and the network's own is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// The network's name, one label, which all of its names can be followed by.
    pub name: String,
    /// The network's addresses: nobody else is asked whose they are.
    pub subnets: Vec<IpNet>,
    /// Addresses of each name, each once. A name without any exists, too.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// The name of each address.
    pub reverse: BTreeMap<IpAddr, String>,
    /// Where services are, by `_port._protocol.name` (RFC 2782).
    pub services: BTreeMap<String, Vec<Target>>,
}

/// One place where a service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Port.
    pub port: u16,
    /// Part of the clients that it is for, beside the others.
    pub weight: u16,
    /// Its name, of the same zone.
    pub name: String,
}

/// What one container may ask.
#[derive(Clone, Debug, Default)]
pub struct Site {
    /// The networks that it is on. Of those that have a name the first gives its meaning.
    pub zones: Vec<Arc<Zone>>,
    /// Whether other names are looked for elsewhere.
    pub forwards: bool,
}

/// What a name is to a site.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// It is there.
    Known(Known<'a>),
    /// It would be one of these networks, and is not there.
    Missing,
    /// It is somebody else's.
    Foreign,
}

/// What is known of a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known<'a> {
    pub(super) addresses: &'a [IpAddr],
    /// And the zone that has them.
    pub(super) services: Option<(&'a Zone, &'a [Target])>,
    /// Whose address it is, if it is a reverse name: a name and its zone's.
    pub(super) owner: Option<(&'a str, &'a str)>,
}

impl Site {
    /// What a name means, in lower case and without the final dot.
    pub(super) fn meaning(&self, name: &str) -> Meaning<'_> {
        if let Some(known) = self.zones.iter().find_map(|zone| zone.get(name)) {
            return Meaning::Known(known);
        }
        if let Some(address) = reverse_address(name) {
            return self.owner(address);
        }
        if self.zones.iter().any(|zone| zone.name == name) {
            return Meaning::Known(Known::default());
        }
        if let Some((inner, last)) = name.rsplit_once('.') {
            let mut own = self.zones.iter().filter(|zone| zone.name == last);
            if let Some(zone) = own.next() {
                let found = [zone]
                    .into_iter()
                    .chain(own)
                    .find_map(|zone| zone.get(inner));
                return found.map_or(Meaning::Missing, Meaning::Known);
            }
        }
        match self.is_of_a_service(name) {
            true => Meaning::Missing,
            false => Meaning::Foreign,
        }
    }

    fn owner(&self, address: IpAddr) -> Meaning<'_> {
        let named = |zone: &'_ Arc<Zone>| zone.reverse.contains_key(&address);
        if let Some(zone) = self.zones.iter().find(|zone| named(zone))
            && let Some(name) = zone.reverse.get(&address)
        {
            return Meaning::Known(Known {
                owner: Some((name, &zone.name)),
                ..Known::default()
            });
        }
        let mut subnets = self.zones.iter().flat_map(|zone| &zone.subnets);
        match subnets.any(|subnet| subnet.contains(&address)) {
            true => Meaning::Missing,
            false => Meaning::Foreign,
        }
    }

    /// Whether a name asks for what only services of these networks have: all of a service's endpoints,
    /// or a port of something that is there.
    fn is_of_a_service(&self, name: &str) -> bool {
        if let Some(service) = name.strip_prefix("tasks.") {
            return !service.contains('.');
        }
        let mut labels = name.splitn(3, '.');
        let (Some(port), Some(protocol), Some(rest)) =
            (labels.next(), labels.next(), labels.next())
        else {
            return false;
        };
        port.starts_with('_')
            && matches!(protocol, "_tcp" | "_udp")
            && matches!(self.meaning(rest), Meaning::Known(_))
    }
}

impl Zone {
    fn get(&self, name: &str) -> Option<Known<'_>> {
        let addresses = self.names.get(name);
        let services = self.services.get(name);
        (addresses.is_some() || services.is_some()).then(|| Known {
            addresses: addresses.map(Vec::as_slice).unwrap_or_default(),
            services: services.map(|targets| (self, targets.as_slice())),
            owner: None,
        })
    }
}

/// The address that a reverse name is of (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = digits.split('.');
        for octet in octets.iter_mut().rev() {
            let label = labels.next()?;
            *octet = label.parse().ok()?;
            // Another way to write it is another name.
            if label != octet.to_string() {
                return None;
            }
        }
        return labels
            .next()
            .is_none()
            .then(|| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut bits = 0_u128;
    let mut count = 0;
    for label in digits.split('.').rev() {
        let [digit] = *label.as_bytes() else {
            return None;
        };
        count += 1;
        if count > 32 {
            return None;
        }
        bits = bits << 4 | u128::from(char::from(digit).to_digit(16)?);
    }
    (count == 32).then(|| Ipv6Addr::from(bits).into())
}
