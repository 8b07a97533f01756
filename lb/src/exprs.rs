//! The steps of the table's rules.

mod affinity;

use weft_netns::nft::{CompareOp, Expr, MetaKey, NatFamily, PayloadBase, Register};

pub(crate) use affinity::{forget, keep, kept, learn, learned};

use crate::class::{Pick, Place};
use crate::layout::Map;
use crate::spec::Family;

/// What the hashes start with: the same on every node, so that they agree about a flow. Another one
/// where the first of two choices is made, of a node, or of its backends only those would ever be
/// chosen second whose hash falls to that node.
const HASH_SEED: u32 = 0x7765_6674;
const HASH_SEED_LOCAL: u32 = 0x7765_6675;
/// Offset of the ports in the transport header (RFC 9293 section 3.1, RFC 768).
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `RTN_LOCAL`.
pub(crate) const ROUTE_LOCAL: u32 = 2;

/// `meta priority set ip daddr . meta l4proto . th dport map @services4`, and then
/// `meta priority vmap @classes`. A packet of no service passes by. The detour through the priority
/// is there for `nft list`, which fails over a lookup's result used as the next one's key.
pub(crate) fn dispatch(family: Family, place: Place) -> Vec<Expr> {
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
    exprs.extend(load_service(family, place, 0));
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

/// `meta priority set numgen random mod 3`: the packet then carries the number of a slot. Where
/// there are no ports, the hash takes what is in their place.
pub(crate) fn pick(family: Family, place: Place, pick: Pick, slots: u16) -> Vec<Expr> {
    let words = Words::of(family);
    let modulus = u32::from(slots);
    // Behind the address and the port.
    let register = Register::slot(8);
    let seed = match place {
        Place::Local => HASH_SEED_LOCAL,
        Place::Address | Place::Port => HASH_SEED,
    };
    let hash = |len| Expr::Hash {
        source: Register::slot(0),
        len,
        modulus,
        seed: Some(seed),
        register,
    };
    let address = words.address(words.source_offset, 0);
    let mut exprs = match pick {
        Pick::Random => vec![Expr::Random { modulus, register }],
        Pick::RoundRobin => vec![Expr::Counted { modulus, register }],
        Pick::Source => vec![address, hash(4 * words.address_slots)],
        Pick::Flow => {
            let port = port_value(SOURCE_PORT, Register::slot(words.address_slots));
            vec![address, port, hash(4 * (words.address_slots + 1))]
        }
    };
    let key = MetaKey::PRIORITY;
    exprs.push(Expr::SetMeta { key, register });
    exprs
}

/// `dnat ip to ip daddr . meta l4proto . th dport . meta priority map @backends4`, and the priority
/// is nobody else's business any more.
pub(crate) fn rewrite(family: Family, place: Place) -> Vec<Expr> {
    let words = Words::of(family);
    let register = Register::slot(words.address_slots + 2);
    let key = MetaKey::PRIORITY;
    let mut exprs = load_service(family, place, 0);
    exprs.push(Expr::Meta { key, register });
    exprs.extend(clear_priority(words.address_slots + 3));
    exprs.extend([
        Expr::MapLookup {
            map: Map::Backends(family).name().to_owned(),
            register: Register::slot(0),
            target: Register::slot(0),
        },
        destination_nat(family, place, 0),
    ]);
    exprs
}

/// `ct timeout set ip daddr . meta l4proto . th dport map @idle4`, if the service's flows have a
/// time-out of their own.
pub(crate) fn idle(family: Family, place: Place) -> Vec<Expr> {
    let words = Words::of(family);
    let mut exprs = load_service(family, place, 0);
    if place == Place::Address {
        // In place of no protocol.
        exprs.push(Expr::Meta {
            key: MetaKey::L4PROTO,
            register: Register::slot(words.address_slots),
        });
    }
    exprs.push(Expr::SetTimeout {
        map: Map::Idles(family).name().to_owned(),
        register: Register::slot(0),
    });
    exprs
}

/// `meta priority set 0`, by way of a free slot.
fn clear_priority(slot: u32) -> [Expr; 2] {
    let register = Register::slot(slot);
    let (value, key) = (vec![0; 4], MetaKey::PRIORITY);
    [
        Expr::Immediate { value, register },
        Expr::SetMeta { key, register },
    ]
}

/// Rewrites to the backend that is loaded from slot `first` on.
fn destination_nat(family: Family, place: Place, first: u32) -> Expr {
    let port = first + Words::of(family).address_slots;
    Expr::DestinationNat {
        family: match family {
            Family::V4 => NatFamily::IPV4,
            Family::V6 => NatFamily::IPV6,
        },
        address: Register::slot(first),
        port: (place != Place::Address).then_some(Register::slot(port)),
    }
}

/// `meta l4proto tcp reject with tcp reset`, `reject with icmpx port-unreachable`. A program of the
/// namespace that connects over IPv6 would notice the latter only after a second.
pub(crate) fn refusal() -> Vec<Vec<Expr>> {
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

/// Loads what names a service, from slot `first` on: address, protocol, port. Of a place that is
/// known by less, what it is not known by is zero.
fn load_service(family: Family, place: Place, first: u32) -> Vec<Expr> {
    let words = Words::of(family);
    let zero = |slots: u32, slot| Expr::Immediate {
        value: vec![0; 4 * slots as usize],
        register: Register::slot(slot),
    };
    let protocol = first + words.address_slots;
    let port = protocol + 1;
    let address = match place {
        Place::Local => zero(words.address_slots, first),
        Place::Port | Place::Address => words.address(words.destination_offset, first),
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
