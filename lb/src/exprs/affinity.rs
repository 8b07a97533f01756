//! How clients keep their backends.
//!
//! The registers hold, one behind the other: the client's address, what names the service, and a
//! number. The first two are the key of a client, the last two that of a backend.

use weft_netns::nft::{Expr, LearnOp, MetaKey, Register};

use super::{Words, clear_priority, destination_nat, load_service};
use crate::class::Affinity;
use crate::layout::Map;

const MS_PER_S: u64 = 1000;

/// `meta priority set ip saddr . ip daddr . meta l4proto . th dport map @clients4`: the number of
/// the backend that the client has, if it has one.
pub(crate) fn keep(affinity: Affinity) -> Vec<Expr> {
    let number = Register::slot(number(affinity));
    let mut exprs = load_client(affinity);
    exprs.extend([
        Expr::MapLookup {
            map: Map::Clients(affinity.family).name().to_owned(),
            register: Register::slot(0),
            target: number,
        },
        Expr::SetMeta {
            key: MetaKey::PRIORITY,
            register: number,
        },
    ]);
    exprs
}

/// `update @clients4 { ip saddr . ip daddr . meta l4proto . th dport timeout 1h : meta priority }
/// dnat ip to ip daddr . meta l4proto . th dport . meta priority map @backends4`, if the backend is
/// still there.
pub(crate) fn kept(affinity: Affinity) -> Vec<Expr> {
    let Affinity { family, place, .. } = affinity;
    let backend = number(affinity) + 1;
    let mut exprs = load_client(affinity);
    exprs.extend([
        load_number(affinity),
        Expr::MapLookup {
            map: Map::Backends(family).name().to_owned(),
            register: Register::slot(Words::of(family).address_slots),
            target: Register::slot(backend),
        },
        change(affinity, LearnOp::UPDATE),
    ]);
    // The number has done its work.
    exprs.extend(clear_priority(number(affinity)));
    exprs.push(destination_nat(family, place, backend));
    exprs
}

/// `delete @clients4 { .. }`: the backend is not there any more.
pub(crate) fn forget(affinity: Affinity) -> Vec<Expr> {
    let mut exprs = load_client(affinity);
    exprs.extend([load_number(affinity), change(affinity, LearnOp::DELETE)]);
    exprs
}

/// `meta priority set ip daddr . meta l4proto . th dport . meta priority map @picks4`: from the
/// number of a slot to that of its backend.
pub(crate) fn learn(affinity: Affinity) -> Vec<Expr> {
    let Affinity { family, place, .. } = affinity;
    let first = Words::of(family).address_slots;
    let number = Register::slot(number(affinity));
    let mut exprs = load_service(family, place, first);
    exprs.extend([
        load_number(affinity),
        Expr::MapLookup {
            map: Map::Picks(family).name().to_owned(),
            register: Register::slot(first),
            target: number,
        },
        Expr::SetMeta {
            key: MetaKey::PRIORITY,
            register: number,
        },
    ]);
    exprs
}

/// `add @clients4 { .. }`, and then as in [`keep`]: of several first packets of a client at a time
/// all go where one of them goes. Where the map is full every packet goes its own way.
pub(crate) fn learned(affinity: Affinity) -> Vec<Expr> {
    let mut exprs = load_client(affinity);
    exprs.extend([load_number(affinity), change(affinity, LearnOp::ADD)]);
    exprs.extend(keep(affinity));
    exprs
}

fn number(affinity: Affinity) -> u32 {
    2 * Words::of(affinity.family).address_slots + 2
}

fn load_client(affinity: Affinity) -> Vec<Expr> {
    let Affinity { family, place, .. } = affinity;
    let words = Words::of(family);
    let client = words.address(words.source_offset, 0);
    let service = load_service(family, place, words.address_slots);
    [vec![client], service].concat()
}

fn load_number(affinity: Affinity) -> Expr {
    Expr::Meta {
        key: MetaKey::PRIORITY,
        register: Register::slot(number(affinity)),
    }
}

fn change(affinity: Affinity, op: LearnOp) -> Expr {
    let timeout_ms = match op {
        LearnOp::DELETE => 0,
        _ => u64::from(affinity.seconds.get()) * MS_PER_S,
    };
    Expr::Learn {
        op,
        map: Map::Clients(affinity.family).name().to_owned(),
        register: Register::slot(0),
        data: Register::slot(number(affinity)),
        timeout_ms,
    }
}
