//! The table's sets and maps, and their elements as bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weft_netns::nft::{KeyType, Map, MapData, MapElement, MapTarget, Table, TableFlags};

use super::spec::{IngressSpec, Port, mark};
use crate::layout::{address_bytes, padded, protocol_number};
use crate::spec::Family;

pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// `IFNAMSIZ`.
const IFNAME_LEN: u32 = 16;

/// Keys with what they map to.
pub(super) type Elements = BTreeMap<Vec<u8>, MapData>;

/// What the table should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) table: String,
    pub(super) spec: IngressSpec,
}

/// A set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    /// The mark of each source MAC.
    Entries,
    /// Ports whose connections get another source.
    Rewritten,
    /// Ports that are not for everybody.
    Restricted,
    /// Port and source that may connect.
    Allowed(Family),
    /// Source and chosen node that are one host.
    Peers(Family),
    /// The host's devices in networks of containers.
    Networks,
    /// The zone of each source MAC.
    Zones,
}

impl Set {
    pub(super) const ALL: [Self; 9] = [
        Self::Allowed(Family::V4),
        Self::Allowed(Family::V6),
        Self::Entries,
        Self::Networks,
        Self::Peers(Family::V4),
        Self::Peers(Family::V6),
        Self::Restricted,
        Self::Rewritten,
        Self::Zones,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Allowed(Family::V4) => "allowed4",
            Self::Allowed(Family::V6) => "allowed6",
            Self::Entries => "entries",
            Self::Networks => "networks",
            Self::Peers(Family::V4) => "peers4",
            Self::Peers(Family::V6) => "peers6",
            Self::Restricted => "restricted",
            Self::Rewritten => "rewritten",
            Self::Zones => "zones",
        }
    }

    fn object(self, table: &str) -> Map {
        let nothing = MapTarget::Nothing;
        let (fields, key_len, target): (&[KeyType], _, _) = match self {
            // A zone is a number of two bytes; there is no name for a type of these.
            Self::Entries | Self::Zones => {
                let kind = KeyType::MARK;
                (&[KeyType::ETHER_ADDR], 6, MapTarget::Value { kind, len: 4 })
            }
            Self::Restricted | Self::Rewritten => (&[KeyType::PROTOCOL, KeyType::PORT], 8, nothing),
            Self::Allowed(Family::V4) => (
                &[KeyType::PROTOCOL, KeyType::PORT, KeyType::IPV4_ADDR],
                12,
                MapTarget::RangeEnd,
            ),
            Self::Allowed(Family::V6) => (
                &[KeyType::PROTOCOL, KeyType::PORT, KeyType::IPV6_ADDR],
                24,
                MapTarget::RangeEnd,
            ),
            Self::Networks => (&[KeyType::DEVICE], IFNAME_LEN, nothing),
            Self::Peers(Family::V4) => (&[KeyType::IPV4_ADDR; 2], 8, nothing),
            Self::Peers(Family::V6) => (&[KeyType::IPV6_ADDR; 2], 32, nothing),
        };
        Map {
            table: table.to_owned(),
            name: self.name().to_owned(),
            key_type: KeyType::concat(fields),
            key_len,
            concatenated: fields.len() > 1,
            target,
        }
    }
}

impl Layout {
    pub(super) fn table(&self, flags: TableFlags) -> Table {
        Table {
            name: self.table.clone(),
            flags,
            owner: None,
        }
    }

    /// By name.
    pub(super) fn maps(&self) -> Vec<Map> {
        Set::ALL.map(|set| set.object(&self.table)).to_vec()
    }

    pub(super) fn elements(&self, set: Set) -> Elements {
        let spec = &self.spec;
        match set {
            Set::Entries => {
                let entries = spec.entries.iter().map(|(mac, number)| {
                    let mark = mark(*number).to_ne_bytes();
                    (mac.to_vec(), MapData::Value(mark.to_vec()))
                });
                entries.collect()
            }
            Set::Networks => keys(spec.networks.iter().map(|name| device_key(name))),
            Set::Zones => {
                let entries = spec.entries.iter().map(|(mac, number)| {
                    let zone = padded(&number.to_ne_bytes());
                    (mac.to_vec(), MapData::Value(zone.to_vec()))
                });
                entries.collect()
            }
            Set::Rewritten => keys(spec.snat_ports.iter().map(port_key)),
            Set::Restricted => keys(spec.allowed.keys().map(port_key)),
            Set::Allowed(family) => {
                let ports = spec.allowed.iter();
                ports
                    .flat_map(|(port, prefixes)| ranges(family, port, prefixes))
                    .collect()
            }
            Set::Peers(family) => {
                let peers = spec.peers.iter();
                let peers = peers.filter(|(host, _)| Family::of(**host) == family);
                keys(peers.map(|(host, mesh)| [*host, *mesh].map(address_bytes).concat()))
            }
        }
    }
}

pub(super) fn map_element((key, data): (&Vec<u8>, &MapData)) -> MapElement {
    MapElement {
        key: key.clone(),
        data: data.clone(),
    }
}

/// The name of a device as the kernel compares it.
pub(super) fn device_key(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(IFNAME_LEN as usize, 0);
    key
}

fn keys(keys: impl Iterator<Item = Vec<u8>>) -> Elements {
    keys.map(|key| (key, MapData::Other)).collect()
}

fn port_key((protocol, port): &Port) -> Vec<u8> {
    let mut key = padded(&[protocol_number(*protocol)]).to_vec();
    key.extend(padded(&port.get().to_be_bytes()));
    key
}

/// The prefixes of a family as ranges of keys with that port. Aggregated, for no two may overlap.
fn ranges(
    family: Family,
    port: &Port,
    prefixes: &BTreeSet<IpNet>,
) -> impl Iterator<Item = (Vec<u8>, MapData)> {
    let of_family = prefixes.iter().copied();
    let of_family = of_family.filter(|prefix| Family::of(prefix.addr()) == family);
    let port = port_key(port);
    let key = move |address: IpAddr| [port.clone(), address_bytes(address)].concat();
    let ranges = IpNet::aggregate(&of_family.collect());
    ranges.into_iter().map(move |prefix| {
        let end = key(prefix.broadcast());
        (key(prefix.network()), MapData::RangeEnd(end))
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::spec::Protocol;

    fn layout(spec: IngressSpec) -> Layout {
        let table = "weft-ingress".to_owned();
        Layout { table, spec }
    }

    #[test]
    fn elements_are_what_the_rules_look_up() {
        let port = (Protocol::Udp, NonZeroU16::new(0x1234).unwrap());
        let layout = layout(IngressSpec {
            entries: [([2, 0x42, 10, 0, 0, 2], 2)].into(),
            peers: [("192.0.2.1", "10.0.0.1"), ("2001:db8::1", "fd00::1")]
                .map(|(host, mesh)| (host.parse().unwrap(), mesh.parse().unwrap()))
                .into(),
            snat_ports: [port].into(),
            ..IngressSpec::default()
        });
        let mark = MapData::Value(0x2000u32.to_ne_bytes().to_vec());
        assert_eq!(
            layout.elements(Set::Entries),
            [(vec![2, 0x42, 10, 0, 0, 2], mark)].into()
        );
        let zone = MapData::Value([2u16.to_ne_bytes(), [0; 2]].concat());
        assert_eq!(
            layout.elements(Set::Zones),
            [(vec![2, 0x42, 10, 0, 0, 2], zone)].into()
        );
        let key = vec![17, 0, 0, 0, 0x12, 0x34, 0, 0];
        assert_eq!(
            layout.elements(Set::Rewritten),
            [(key, MapData::Other)].into()
        );
        let key = vec![192, 0, 2, 1, 10, 0, 0, 1];
        let peers4 = layout.elements(Set::Peers(Family::V4));
        assert_eq!(peers4, [(key, MapData::Other)].into());
        assert_eq!(layout.elements(Set::Peers(Family::V6)).len(), 1);
        for (set, map) in Set::ALL.into_iter().zip(layout.maps()) {
            let mut keys = layout.elements(set).into_keys();
            assert!(keys.all(|key| key.len() == map.key_len as usize));
        }
    }

    #[test]
    fn prefixes_become_ranges_that_do_not_overlap() {
        let port = (Protocol::Tcp, NonZeroU16::new(80).unwrap());
        let prefixes = ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"];
        let prefixes = prefixes.map(|prefix| prefix.parse().unwrap()).into();
        let layout = layout(IngressSpec {
            allowed: [(port, prefixes)].into(),
            ..IngressSpec::default()
        });
        assert_eq!(layout.elements(Set::Restricted).len(), 1);
        let key = |address: [u8; 4]| [vec![6, 0, 0, 0, 0, 80, 0, 0], address.to_vec()].concat();
        let range = |first, last| (key(first), MapData::RangeEnd(key(last)));
        assert_eq!(
            layout.elements(Set::Allowed(Family::V4)),
            [
                range([10, 0, 0, 0], [10, 255, 255, 255]),
                range([192, 0, 2, 7], [192, 0, 2, 7])
            ]
            .into()
        );
        assert_eq!(layout.elements(Set::Allowed(Family::V6)).len(), 1);
    }
}
