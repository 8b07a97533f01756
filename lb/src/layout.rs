//! The table's fixed objects, and its maps' elements as bytes.

use std::net::IpAddr;
use std::num::NonZeroU16;

use weft_netns::nft::{
    self, BaseChain, Chain, CompareOp, Expr, Hook, KeyType, MapData, MapElement, MapTarget,
    MetaKey, PayloadBase, Register, Rule, Verdict,
};

use crate::class::{Class, Place, load_service};
use crate::spec::{Address, Backend, Family, Ports, Protocol, ServiceKey};

/// `NF_IP_PRI_NAT_DST`: where destinations are rewritten.
const PRIORITY_DNAT: i32 = -100;
/// `RTN_LOCAL`.
const ROUTE_LOCAL: u32 = 2;
/// The chain that both hooks run.
const SERVICES: &str = "services";
/// Base chains with their hooks.
const HOOKS: [(&str, Hook); 2] = [("prerouting", Hook::PREROUTING), ("output", Hook::OUTPUT)];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Map {
    /// The chain of each class.
    Classes,
    /// The class of each service.
    Services(Family),
    /// The backend of each slot of each service.
    Backends(Family),
}

impl Map {
    pub(crate) const ALL: [Self; 5] = [
        Self::Classes,
        Self::Services(Family::V4),
        Self::Services(Family::V6),
        Self::Backends(Family::V4),
        Self::Backends(Family::V6),
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Classes => "classes",
            Self::Services(Family::V4) => "services4",
            Self::Services(Family::V6) => "services6",
            Self::Backends(Family::V4) => "backends4",
            Self::Backends(Family::V6) => "backends6",
        }
    }

    pub(crate) fn object(self, table: &str) -> nft::Map {
        let (service, service_len) = match self {
            Self::Services(Family::V6) | Self::Backends(Family::V6) => (KeyType::IPV6_ADDR, 24),
            _ => (KeyType::IPV4_ADDR, 12),
        };
        let key = [service, KeyType::PROTOCOL, KeyType::PORT, KeyType::MARK];
        let (key_type, key_len, target) = match self {
            Self::Classes => (KeyType::CLASS_ID, 4, MapTarget::Verdict),
            Self::Services(_) => {
                let kind = KeyType::CLASS_ID;
                let target = MapTarget::Value { kind, len: 4 };
                (KeyType::concat(&key[..3]), service_len, target)
            }
            Self::Backends(_) => {
                let kind = KeyType::concat(&[service, KeyType::PORT]);
                let len = service_len - 4;
                let target = MapTarget::Value { kind, len };
                (KeyType::concat(&key), service_len + 4, target)
            }
        };
        nft::Map {
            table: table.to_owned(),
            name: self.name().to_owned(),
            key_type,
            key_len,
            concatenated: self != Self::Classes,
            target,
        }
    }
}

/// Chains that are there whatever the services, in the order in which they are made.
pub(crate) fn chains(table: &str) -> Vec<Chain> {
    let mut chains = Class::PERMANENT
        .map(|class| class_chain(table, class))
        .to_vec();
    chains.push(Chain {
        table: table.to_owned(),
        name: SERVICES.to_owned(),
        base: None,
    });
    chains.extend(HOOKS.map(|(name, hook)| Chain {
        table: table.to_owned(),
        name: name.to_owned(),
        base: Some(BaseChain {
            kind: "nat".to_owned(),
            hook,
            priority: PRIORITY_DNAT,
            accept: true,
        }),
    }));
    chains
}

/// Their rules.
pub(crate) fn rules(table: &str) -> Vec<Rule> {
    let rule = |chain: &str, exprs| Rule {
        table: table.to_owned(),
        chain: chain.to_owned(),
        exprs,
    };
    let mut rules = Class::PERMANENT
        .map(|class| class_rules(table, class))
        .concat();
    for place in Place::ALL {
        rules.extend(FAMILIES.map(|family| rule(SERVICES, dispatch(family, place))));
    }
    let jump = || vec![Expr::Verdict(Verdict::Jump(SERVICES.to_owned()))];
    rules.extend(HOOKS.map(|(name, _)| rule(name, jump())));
    rules
}

pub(crate) fn class_chain(table: &str, class: Class) -> Chain {
    Chain {
        table: table.to_owned(),
        name: class.to_string(),
        base: None,
    }
}

pub(crate) fn class_rules(table: &str, class: Class) -> Vec<Rule> {
    let rules = class.rules().into_iter().map(|exprs| Rule {
        table: table.to_owned(),
        chain: class.to_string(),
        exprs,
    });
    rules.collect()
}

/// `meta priority set ip daddr . meta l4proto . th dport map @services4`, and then
/// `meta priority vmap @classes`. A packet of no service passes by. The detour through the priority
/// is there for `nft list`, which fails over a lookup's result used as the next one's key.
fn dispatch(family: Family, place: Place) -> Vec<Expr> {
    let register = Register::slot(0);
    let equals = |value: Vec<u8>| Expr::Compare {
        register,
        op: CompareOp::EQ,
        value,
    };
    let key = MetaKey::NFPROTO;
    let protocol = match family {
        // `NFPROTO_IPV4`, `NFPROTO_IPV6`.
        Family::V4 => 2,
        Family::V6 => 10,
    };
    let mut exprs = vec![Expr::Meta { key, register }, equals(vec![protocol])];
    if place == Place::Local {
        exprs.push(Expr::RouteType { register });
        exprs.push(equals(ROUTE_LOCAL.to_ne_bytes().to_vec()));
    }
    exprs.extend(load_service(family, place));
    let key = MetaKey::PRIORITY;
    exprs.extend([
        Expr::MapLookup {
            map: Map::Services(family).name().to_owned(),
            register,
            target: register,
        },
        Expr::SetMeta { key, register },
        Expr::Meta { key, register },
        Expr::VerdictMap {
            map: Map::Classes.name().to_owned(),
            register,
        },
    ]);
    exprs
}

/// Loads one of the transport header's ports.
pub(crate) fn port_value(offset: u32, register: Register) -> Expr {
    Expr::Payload {
        base: PayloadBase::TRANSPORT,
        offset,
        len: 2,
        register,
    }
}

/// The element of a class in its map.
pub(crate) fn class_element(class: Class) -> MapElement {
    MapElement {
        key: class.number().to_ne_bytes().to_vec(),
        data: MapData::Verdict(Verdict::Goto(class.to_string())),
    }
}

/// The element of a service in its map.
pub(crate) fn service_element(key: &ServiceKey, class: Class) -> MapElement {
    MapElement {
        key: service_key(key),
        data: MapData::Value(class.number().to_ne_bytes().to_vec()),
    }
}

/// The element of a service's slot in its map.
pub(crate) fn slot_element(key: &ServiceKey, slot: u32, backend: &Backend) -> MapElement {
    let mut data = address_bytes(backend.address);
    data.extend(port_bytes(backend.port));
    MapElement {
        key: slot_key(key, slot),
        data: MapData::Value(data),
    }
}

/// Address, protocol, port; each padded to four bytes. All ports are protocol 0 and port 0.
pub(crate) fn service_key(key: &ServiceKey) -> Vec<u8> {
    let address = match key.address {
        Address::Vip(address) => address,
        Address::Local(family) => family.unspecified(),
    };
    let mut bytes = address_bytes(address);
    let (protocol, port) = match key.ports {
        Ports::All => (0, None),
        Ports::One(protocol, port) => (protocol_number(protocol), Some(port)),
    };
    bytes.extend(padded(&[protocol]));
    bytes.extend(port_bytes(port));
    bytes
}

pub(crate) fn slot_key(key: &ServiceKey, slot: u32) -> Vec<u8> {
    let mut bytes = service_key(key);
    bytes.extend(slot.to_ne_bytes());
    bytes
}

/// The class of a class's or service's element; none if there is no such.
pub(crate) fn read_class(bytes: &[u8]) -> Option<Class> {
    Class::from_number(u32::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn read_service_key(family: Family, bytes: &[u8]) -> Option<ServiceKey> {
    let (address, rest) = read_address(family, bytes)?;
    let (protocol, rest) = rest.split_first_chunk::<4>()?;
    let ports = match (*protocol, read_port(rest)?) {
        ([0, 0, 0, 0], None) => Ports::All,
        (number, Some(port)) => {
            let is_it = |p: &Protocol| number == padded(&[protocol_number(*p)]);
            let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(is_it)?;
            Ports::One(protocol, port)
        }
        _ => return None,
    };
    let address = match (address.is_unspecified(), ports) {
        (true, Ports::All) => return None,
        (true, Ports::One(..)) => Address::Local(family),
        (false, _) => Address::Vip(address),
    };
    Some(ServiceKey { address, ports })
}

pub(crate) fn read_slot_key(family: Family, bytes: &[u8]) -> Option<(ServiceKey, u32)> {
    let (service, slot) = bytes.split_last_chunk::<4>()?;
    let slot = u32::from_ne_bytes(*slot);
    Some((read_service_key(family, service)?, slot))
}

pub(crate) fn read_backend(family: Family, bytes: &[u8]) -> Option<Backend> {
    let (address, rest) = read_address(family, bytes)?;
    let port = read_port(rest)?;
    Some(Backend { address, port })
}

fn read_address(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => {
            let (octets, rest) = bytes.split_first_chunk::<4>()?;
            Some((IpAddr::from(*octets), rest))
        }
        Family::V6 => {
            let (octets, rest) = bytes.split_first_chunk::<16>()?;
            Some((IpAddr::from(*octets), rest))
        }
    }
}

/// A port (none is 0) and its padding, and nothing more.
fn read_port(bytes: &[u8]) -> Option<Option<NonZeroU16>> {
    let [high, low, 0, 0] = *bytes else {
        return None;
    };
    Some(NonZeroU16::new(u16::from_be_bytes([high, low])))
}

fn port_bytes(port: Option<NonZeroU16>) -> [u8; 4] {
    padded(&port.map_or(0, NonZeroU16::get).to_be_bytes())
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn padded(bytes: &[u8]) -> [u8; 4] {
    let mut slot = [0; 4];
    for (to, from) in slot.iter_mut().zip(bytes) {
        *to = *from;
    }
    slot
}

/// `IPPROTO_TCP`, `IPPROTO_UDP`.
const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{all_ports, backend, key, port};

    #[test]
    fn elements_are_read_as_they_are_written_and_fit_their_maps() {
        for (vip, address) in [("10.0.9.9", "10.0.0.2"), ("2001:db8::9", "2001:db8::2")] {
            let (all, vip) = (all_ports(vip), key(vip, 80));
            let family = vip.family();
            let local = ServiceKey {
                address: Address::Local(family),
                ports: Ports::One(Protocol::Udp, port(53)),
            };
            for (key, port) in [(vip, 8080), (local, 8080), (all, 0)] {
                let backend = backend(address, port);
                let element = slot_element(&key, 7, &backend);
                assert_eq!(read_slot_key(family, &element.key), Some((key, 7)));
                let MapData::Value(data) = element.data else {
                    panic!("no value");
                };
                assert_eq!(read_backend(family, &data), Some(backend));
                let map = Map::Backends(family).object("weft");
                assert_eq!(map.key_len as usize, element.key.len());
                let len = data.len() as u32;
                assert!(matches!(map.target, MapTarget::Value { len: l, .. } if l == len));
                let map = Map::Services(family).object("weft");
                assert_eq!(map.key_len as usize, service_key(&key).len());
            }
        }
    }

    #[test]
    fn bytes_of_no_element_are_refused() {
        let good = service_key(&key("10.0.9.9", 80));
        assert!(read_service_key(Family::V4, &good).is_some());
        for (index, value) in [(4, 0), (4, 1), (5, 1), (9, 0), (11, 1)] {
            let mut bytes = good.clone();
            bytes[index] = value;
            assert_eq!(read_service_key(Family::V4, &bytes), None);
        }
        assert_eq!(read_service_key(Family::V6, &good), None);
        assert_eq!(read_service_key(Family::V4, &[0; 12]), None);
        assert_eq!(read_backend(Family::V4, &[10, 0, 0, 1, 0, 80]), None);
        assert_eq!(read_class(&[1]), None);
    }
}
