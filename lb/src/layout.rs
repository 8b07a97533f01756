//! The table's maps, and their elements as bytes.

use std::net::IpAddr;
use std::num::NonZeroU16;

use weft_netns::nft::{self, KeyType, MapData, MapElement, MapTarget, Verdict};

use crate::classes::Numbered;
use crate::idle::Idle;
use crate::spec::{Address, Backend, CLIENTS_MAX, Family, Ports, Protocol, ServiceKey};

/// A map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Map {
    /// The chain of each class.
    Classes,
    /// The class of each service.
    Services(Family),
    /// The backend of each slot of each service, or, where clients keep theirs, of each number that
    /// is a backend's own.
    Backends(Family),
    /// The number that is a backend's own, of each slot of each service whose clients keep theirs.
    Picks(Family),
    /// The number of each client's backend, by client and service.
    Clients(Family),
    /// The time-out of each service's flows, where it is not the kernel's.
    Idles(Family),
}

impl Map {
    pub(crate) const ALL: [Self; 11] = [
        Self::Classes,
        Self::Services(Family::V4),
        Self::Services(Family::V6),
        Self::Backends(Family::V4),
        Self::Backends(Family::V6),
        Self::Picks(Family::V4),
        Self::Picks(Family::V6),
        Self::Clients(Family::V4),
        Self::Clients(Family::V6),
        Self::Idles(Family::V4),
        Self::Idles(Family::V6),
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Classes => "classes",
            Self::Services(Family::V4) => "services4",
            Self::Services(Family::V6) => "services6",
            Self::Backends(Family::V4) => "backends4",
            Self::Backends(Family::V6) => "backends6",
            Self::Picks(Family::V4) => "picks4",
            Self::Picks(Family::V6) => "picks6",
            Self::Clients(Family::V4) => "clients4",
            Self::Clients(Family::V6) => "clients6",
            Self::Idles(Family::V4) => "idle4",
            Self::Idles(Family::V6) => "idle6",
        }
    }

    /// Whether packets fill it.
    pub(crate) const fn is_learned(self) -> bool {
        matches!(self, Self::Clients(_))
    }

    const fn family(self) -> Family {
        match self {
            Self::Classes => Family::V4,
            Self::Services(family)
            | Self::Backends(family)
            | Self::Picks(family)
            | Self::Clients(family)
            | Self::Idles(family) => family,
        }
    }

    pub(crate) fn object(self, table: &str) -> nft::Map {
        let (address, address_len) = match self.family() {
            Family::V4 => (KeyType::IPV4_ADDR, 4),
            Family::V6 => (KeyType::IPV6_ADDR, 16),
        };
        let service = [address, KeyType::PROTOCOL, KeyType::PORT];
        let service_len = address_len + 8;
        let slot = [&service[..], &[KeyType::MARK]].concat();
        let value = |kind, len| MapTarget::Value { kind, len };
        let (key, key_len, target) = match self {
            Self::Classes => (vec![KeyType::CLASS_ID], 4, MapTarget::Verdict),
            Self::Services(_) => (service.to_vec(), service_len, value(KeyType::CLASS_ID, 4)),
            Self::Backends(_) => {
                let kind = KeyType::concat(&[address, KeyType::PORT]);
                (slot, service_len + 4, value(kind, address_len + 4))
            }
            Self::Idles(_) => (service.to_vec(), service_len, MapTarget::Timeout),
            Self::Picks(_) => (slot, service_len + 4, value(KeyType::MARK, 4)),
            Self::Clients(_) => {
                let client = [&[address], &service[..]].concat();
                let target = MapTarget::Learned {
                    kind: KeyType::MARK,
                    len: 4,
                    size: CLIENTS_MAX,
                };
                (client, address_len + service_len, target)
            }
        };
        nft::Map {
            table: table.to_owned(),
            name: self.name().to_owned(),
            key_type: KeyType::concat(&key),
            key_len,
            concatenated: self != Self::Classes,
            target,
        }
    }
}

/// The element of a class in its map.
pub(crate) fn class_element(class: Numbered) -> MapElement {
    MapElement {
        key: class.number.to_ne_bytes().to_vec(),
        data: MapData::Verdict(Verdict::Goto(class.class.to_string())),
    }
}

/// The element of a service in its map, with the number of its class.
pub(crate) fn service_element(key: &ServiceKey, class: u32) -> MapElement {
    MapElement {
        key: service_key(key),
        data: MapData::Value(class.to_ne_bytes().to_vec()),
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

/// The element of a service's slot that leads to a backend by its number.
pub(crate) fn pick_element(key: &ServiceKey, slot: u32, number: u32) -> MapElement {
    MapElement {
        key: slot_key(key, slot),
        data: MapData::Value(number.to_ne_bytes().to_vec()),
    }
}

/// The element of a service for the flows of a protocol.
pub(crate) fn idle_element(key: &ServiceKey, idle: Idle) -> MapElement {
    MapElement {
        key: idle_key(key, idle.protocol),
        data: MapData::Object(idle.to_string()),
    }
}

/// Address, protocol, port; each padded to four bytes. All ports are port 0.
pub(crate) fn idle_key(key: &ServiceKey, protocol: Protocol) -> Vec<u8> {
    let port = match key.ports {
        Ports::All => None,
        Ports::One(_, port) => Some(port),
    };
    destination_key(key.address, protocol_number(protocol), port)
}

/// Address, protocol, port; each padded to four bytes. All ports are protocol 0 and port 0.
pub(crate) fn service_key(key: &ServiceKey) -> Vec<u8> {
    let (protocol, port) = match key.ports {
        Ports::All => (0, None),
        Ports::One(protocol, port) => (protocol_number(protocol), Some(port)),
    };
    destination_key(key.address, protocol, port)
}

fn destination_key(address: Address, protocol: u8, port: Option<NonZeroU16>) -> Vec<u8> {
    let address = match address {
        Address::Vip(address) => address,
        Address::Local(family) => family.unspecified(),
    };
    let mut bytes = address_bytes(address);
    bytes.extend(padded(&[protocol]));
    bytes.extend(port_bytes(port));
    bytes
}

pub(crate) fn slot_key(key: &ServiceKey, slot: u32) -> Vec<u8> {
    let mut bytes = service_key(key);
    bytes.extend(slot.to_ne_bytes());
    bytes
}

/// The class of an element.
pub(crate) fn read_class(element: &MapElement) -> Option<Numbered> {
    let number = read_number(&element.key)?;
    let MapData::Verdict(Verdict::Goto(chain)) = &element.data else {
        return None;
    };
    let class = chain.parse().ok()?;
    Some(Numbered { class, number })
}

/// The number of a class or of a backend.
pub(crate) fn read_number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

pub(crate) fn read_service_key(family: Family, bytes: &[u8]) -> Option<ServiceKey> {
    let (address, rest) = read_address(family, bytes)?;
    let (protocol, rest) = rest.split_first_chunk::<4>()?;
    let ports = match (*protocol, read_port(rest)?) {
        ([0, 0, 0, 0], None) => Ports::All,
        (number, Some(port)) => Ports::One(read_protocol(number)?, port),
        _ => return None,
    };
    let address = read_destination(family, address, ports)?;
    Some(ServiceKey { address, ports })
}

/// The service, and the protocol of the flows of it that are meant.
pub(crate) fn read_idle_key(family: Family, bytes: &[u8]) -> Option<(ServiceKey, Protocol)> {
    let (address, rest) = read_address(family, bytes)?;
    let (protocol, rest) = rest.split_first_chunk::<4>()?;
    let protocol = read_protocol(*protocol)?;
    let ports = match read_port(rest)? {
        None => Ports::All,
        Some(port) => Ports::One(protocol, port),
    };
    let address = read_destination(family, address, ports)?;
    Some((ServiceKey { address, ports }, protocol))
}

fn read_protocol(number: [u8; 4]) -> Option<Protocol> {
    let is_it = |p: &Protocol| number == padded(&[protocol_number(*p)]);
    [Protocol::Tcp, Protocol::Udp].into_iter().find(is_it)
}

fn read_destination(family: Family, address: IpAddr, ports: Ports) -> Option<Address> {
    match (address.is_unspecified(), ports) {
        (true, Ports::All) => None,
        (true, Ports::One(..)) => Some(Address::Local(family)),
        (false, _) => Some(Address::Vip(address)),
    }
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

pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(crate) fn padded(bytes: &[u8]) -> [u8; 4] {
    let mut slot = [0; 4];
    for (to, from) in slot.iter_mut().zip(bytes) {
        *to = *from;
    }
    slot
}

/// `IPPROTO_TCP`, `IPPROTO_UDP`.
pub(crate) const fn protocol_number(protocol: Protocol) -> u8 {
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
                let idle: Idle = "udp-30s".parse().unwrap();
                let element = idle_element(&key, idle);
                let protocol = match key.ports {
                    Ports::All => idle.protocol,
                    Ports::One(protocol, _) => protocol,
                };
                let bytes = idle_key(&key, protocol);
                assert_eq!(read_idle_key(family, &bytes), Some((key, protocol)));
                let map = Map::Idles(family).object("weft");
                assert_eq!(map.key_len as usize, element.key.len());
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
        assert_eq!(read_number(&[1]), None);
    }
}
