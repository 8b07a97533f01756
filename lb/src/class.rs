//! Classes of services: the number of slots is a constant of a rule, so that services with as many
//! of them, chosen in the same way, share a chain.

use std::fmt;

use weft_netns::nft::{CompareOp, Expr, MetaKey, NatFamily, PayloadBase, Register};

use crate::layout::{Map, port_value};
use crate::spec::{Address, Family, Ports, ServiceKey};

/// What the hashes start with: the same on every node, so that they agree about a flow.
const HASH_SEED: u32 = 0x7765_6674;
/// Offset of the ports in the transport header (RFC 9293 section 3.1, RFC 768).
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// How a number below the number of slots is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pick {
    /// At random.
    Random,
    /// From the source address.
    Source,
    /// From source address and port.
    Flow,
}

/// What the services of a class are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A port of a service address.
    Port,
    /// A service address.
    Address,
    /// A port of all local addresses.
    Local,
}

/// What services that share a chain have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// No backend takes flows: they are refused.
    Empty,
    /// Some do.
    Slots {
        family: Family,
        place: Place,
        pick: Pick,
        slots: u16,
    },
}

impl Place {
    /// In the order in which a packet is looked for at them.
    pub(crate) const ALL: [Self; 3] = [Self::Port, Self::Address, Self::Local];

    fn of(key: &ServiceKey) -> Self {
        match (key.address, key.ports) {
            (Address::Local(_), _) => Self::Local,
            (Address::Vip(_), Ports::All) => Self::Address,
            (Address::Vip(_), Ports::One(..)) => Self::Port,
        }
    }
}

impl Class {
    /// Classes that have their chains whether a service is in them or not: for refusal, and for
    /// one rule that rewrites in each family. The kernel tracks connections only as long as a rule
    /// needs that; without these, flows would lose their backends when the last service is drained.
    pub(crate) const PERMANENT: [Self; 3] = [
        Self::Empty,
        Self::single(Family::V4),
        Self::single(Family::V6),
    ];

    const fn single(family: Family) -> Self {
        Self::Slots {
            family,
            place: Place::Port,
            pick: Pick::Random,
            slots: 1,
        }
    }

    pub(crate) fn is_permanent(self) -> bool {
        Self::PERMANENT.contains(&self)
    }

    /// The class of a service with that many slots.
    pub(crate) fn new(key: &ServiceKey, pick: Pick, slots: usize) -> Self {
        match u16::try_from(slots) {
            Ok(slots) if slots > 0 => Self::Slots {
                family: key.family(),
                place: Place::of(key),
                pick,
                slots,
            },
            _ => Self::Empty,
        }
    }

    /// How many slots a service of the class has.
    pub(crate) fn slots(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Slots { slots, .. } => u32::from(slots),
        }
    }

    /// Its number in the maps: the count in the lower half, the rest above.
    pub(crate) fn number(self) -> u32 {
        let Self::Slots {
            family,
            place,
            pick,
            slots,
        } = self
        else {
            return 0;
        };
        let family = match family {
            Family::V4 => 0,
            Family::V6 => 1,
        };
        let pick = match pick {
            Pick::Random => 1,
            Pick::Source => 2,
            Pick::Flow => 3,
        };
        let place = match place {
            Place::Port => 0,
            Place::Local => 1,
            Place::Address => 2,
        };
        (pick << 3 | place << 1 | family) << 16 | u32::from(slots)
    }

    /// The class with that number.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        let (kind, slots) = (number >> 16, (number & 0xffff) as u16);
        let family = match kind & 1 {
            0 => Family::V4,
            _ => Family::V6,
        };
        let pick = match kind >> 3 {
            1 => Pick::Random,
            2 => Pick::Source,
            3 => Pick::Flow,
            _ => return (number == 0).then_some(Self::Empty),
        };
        let place = match kind >> 1 & 3 {
            0 => Place::Port,
            1 => Place::Local,
            2 => Place::Address,
            _ => return None,
        };
        (slots > 0).then_some(Self::Slots {
            family,
            place,
            pick,
            slots,
        })
    }

    /// The rules of its chain, which lead to a backend, such as the one that
    /// `ip daddr . meta l4proto . th dport . numgen random mod 3` has in the map; or which refuse.
    pub(crate) fn rules(self) -> Vec<Vec<Expr>> {
        let Self::Slots {
            family,
            place,
            pick,
            slots,
        } = self
        else {
            return refusal();
        };
        let words = Words::of(family);
        let port = Register::slot(words.address_slots);
        let mut exprs = vec![
            // The packet's priority carried the class here and is nobody else's business.
            Expr::Immediate {
                value: vec![0; 4],
                register: Register::slot(0),
            },
            Expr::SetMeta {
                key: MetaKey::PRIORITY,
                register: Register::slot(0),
            },
        ];
        exprs.extend(load_service(family, place));
        exprs.extend(words.pick(pick, u32::from(slots)));
        exprs.extend([
            Expr::MapLookup {
                map: Map::Backends(family).name().to_owned(),
                register: Register::slot(0),
                target: Register::slot(0),
            },
            Expr::DestinationNat {
                family: match family {
                    Family::V4 => NatFamily::IPV4,
                    Family::V6 => NatFamily::IPV6,
                },
                address: Register::slot(0),
                port: (place != Place::Address).then_some(port),
            },
        ]);
        vec![exprs]
    }
}

/// `meta l4proto tcp reject with tcp reset`, `reject with icmpx port-unreachable`. A program of the
/// namespace that connects over IPv6 would notice the latter only after a second.
fn refusal() -> Vec<Vec<Expr>> {
    let register = Register::slot(0);
    let key = MetaKey::L4PROTO;
    let reset = vec![
        Expr::Meta { key, register },
        Expr::Compare {
            register,
            op: CompareOp::EQ,
            value: vec![TCP],
        },
        Expr::RejectReset,
    ];
    vec![reset, vec![Expr::RejectPort]]
}

/// The chain's name.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Slots {
            family,
            place,
            pick,
            slots,
        } = self
        else {
            return f.write_str("refuse");
        };
        let pick = match pick {
            Pick::Random => "random",
            Pick::Source => "source",
            Pick::Flow => "flow",
        };
        let place = match place {
            Place::Port => "vip",
            Place::Address => "all",
            Place::Local => "local",
        };
        let family = match family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        write!(f, "{pick}-{place}{family}-{slots}")
    }
}

/// Loads what names a service, from slot 0 on: address, protocol, port. Of a place that is known by
/// less, what it is not known by is zero.
pub(crate) fn load_service(family: Family, place: Place) -> Vec<Expr> {
    let words = Words::of(family);
    let zero = |slots: u32, slot| Expr::Immediate {
        value: vec![0; 4 * slots as usize],
        register: Register::slot(slot),
    };
    let (protocol, port) = (words.address_slots, words.address_slots + 1);
    let address = match place {
        Place::Local => zero(words.address_slots, 0),
        Place::Port | Place::Address => words.address(words.destination_offset, 0),
    };
    let rest = match place {
        Place::Address => vec![zero(2, protocol)],
        Place::Port | Place::Local => vec![
            Expr::Meta {
                key: MetaKey::L4PROTO,
                register: Register::slot(protocol),
            },
            port_value(DESTINATION_PORT, Register::slot(port)),
        ],
    };
    [vec![address], rest].concat()
}

/// Where things are in the headers and registers of a family.
struct Words {
    /// Register slots that an address takes.
    address_slots: u32,
    source_offset: u32,
    destination_offset: u32,
}

impl Words {
    /// RFC 791 section 3.1, RFC 8200 section 3.
    const fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                address_slots: 1,
                source_offset: 12,
                destination_offset: 16,
            },
            Family::V6 => Self {
                address_slots: 4,
                source_offset: 8,
                destination_offset: 24,
            },
        }
    }

    fn address(&self, offset: u32, slot: u32) -> Expr {
        Expr::Payload {
            base: PayloadBase::NETWORK,
            offset,
            len: 4 * self.address_slots,
            register: Register::slot(slot),
        }
    }

    /// Makes the number of the backend's slot, behind what names the service.
    fn pick(&self, pick: Pick, modulus: u32) -> Vec<Expr> {
        let number = self.address_slots + 2;
        let register = Register::slot(number);
        // A value of 16 bytes starts at a multiple of four slots.
        let source = (number + 1).next_multiple_of(self.address_slots);
        let hash = |len| Expr::Hash {
            source: Register::slot(source),
            len,
            modulus,
            seed: Some(HASH_SEED),
            register,
        };
        let address = self.address(self.source_offset, source);
        let port = Register::slot(source + self.address_slots);
        match pick {
            Pick::Random => vec![Expr::Random { modulus, register }],
            Pick::Source => vec![address, hash(4 * self.address_slots)],
            Pick::Flow => {
                let len = 4 * (self.address_slots + 1);
                vec![address, port_value(SOURCE_PORT, port), hash(len)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::key;

    #[test]
    fn a_class_has_its_number_and_its_name() {
        let mut names = BTreeSet::new();
        for pick in [Pick::Random, Pick::Source, Pick::Flow] {
            for vip in ["10.0.0.1", "2001:db8::1"] {
                for slots in [1, 3, 16_381] {
                    let vip = key(vip, 80);
                    let all = ServiceKey {
                        ports: Ports::All,
                        ..vip
                    };
                    let local = ServiceKey {
                        address: Address::Local(vip.family()),
                        ..vip
                    };
                    for key in [vip, all, local] {
                        let class = Class::new(&key, pick, slots);
                        assert_eq!(Class::from_number(class.number()), Some(class));
                        assert!(names.insert(class.to_string()), "{class}");
                    }
                }
            }
        }
        let class = Class::new(&key("2001:db8::1", 80), Pick::Random, 3);
        assert_eq!(class.to_string(), "random-vip6-3");
    }

    #[test]
    fn numbers_of_no_class_are_refused() {
        assert_eq!(Class::from_number(0), Some(Class::Empty));
        for number in [3, 1 << 19, 1 << 19 | 3 << 17 | 3, 4 << 19 | 3, u32::MAX] {
            assert_eq!(Class::from_number(number), None);
        }
    }
}
