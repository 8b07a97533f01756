use proptest::prelude::*;

use super::*;
use crate::nft::expr::{
    CompareOp, Counter, CtDirection, CtKey, LearnOp, MetaKey, NatFamily, PayloadBase, Register,
    Verdict,
};
use crate::nft::map::{Map, MapElements};

fn round_trip<T: Object>(object: &T) -> T {
    let mut writer = AttrWriter::default();
    object.write(&mut writer);
    let bytes = writer.finish().unwrap();
    T::read(Attrs::new(&bytes)).unwrap()
}

#[test]
fn every_object_reads_as_it_was_written() {
    let table = Table {
        name: "weft".into(),
        flags: TableFlags::OWNED_AND_PERSISTENT,
        owner: None,
    };
    assert_eq!(round_trip(&table), table);
    let base = BaseChain {
        kind: "filter".into(),
        hook: Hook::INPUT,
        priority: -300,
        accept: true,
    };
    let chain = Chain {
        table: "weft".into(),
        name: "c".into(),
        base: Some(base),
    };
    assert_eq!(round_trip(&chain), chain);
    let plain = Chain {
        base: None,
        ..chain
    };
    assert_eq!(round_trip(&plain), plain);
    let set = Set {
        table: "weft".into(),
        name: "s".into(),
        key_type: KeyType::IPV6_ADDR,
        key_len: 16,
        size: Some(9),
    };
    assert_eq!(round_trip(&set), set);
    let keys = vec![vec![1, 2, 3, 4], vec![5, 6, 7, 8]];
    let elements = Elements {
        table: "weft".into(),
        set: "s".into(),
        keys,
    };
    assert_eq!(round_trip(&elements), elements);
}

#[test]
fn every_expression_reads_as_it_was_written() {
    let register = Register::R1;
    let exprs = vec![
        Expr::Meta {
            key: MetaKey::L4PROTO,
            register,
        },
        Expr::Compare {
            register,
            op: CompareOp::EQ,
            value: vec![17],
        },
        Expr::Payload {
            base: PayloadBase::TRANSPORT,
            offset: 2,
            len: 2,
            register,
        },
        Expr::Lookup {
            set: "s".into(),
            register,
            inverted: true,
        },
        Expr::Lookup {
            set: "s".into(),
            register,
            inverted: false,
        },
        Expr::Counter(Counter {
            packets: 3,
            bytes: 99,
        }),
        Expr::Verdict(Verdict::Drop),
        Expr::Verdict(Verdict::Accept),
        Expr::Verdict(Verdict::Jump("d".into())),
        Expr::Verdict(Verdict::Goto("d".into())),
        Expr::Immediate {
            value: vec![0; 16],
            register,
        },
        Expr::SetMeta {
            key: MetaKey::PRIORITY,
            register: Register::slot(5),
        },
        Expr::MapLookup {
            map: "m".into(),
            register,
            target: Register::slot(4),
        },
        Expr::VerdictMap {
            map: "m".into(),
            register,
        },
        Expr::Learn {
            op: LearnOp::UPDATE,
            map: "m".into(),
            register,
            data: Register::slot(4),
            timeout_ms: 30_000,
        },
        Expr::Random {
            modulus: 3,
            register,
        },
        Expr::Counted {
            modulus: 3,
            register,
        },
        Expr::Hash {
            source: Register::slot(12),
            len: 8,
            modulus: 251,
            seed: Some(7),
            register: Register::slot(3),
        },
        Expr::RouteType { register },
        Expr::DestinationNat {
            family: NatFamily::IPV6,
            address: register,
            port: Some(Register::slot(4)),
        },
        Expr::DestinationNat {
            family: NatFamily::IPV4,
            address: register,
            port: None,
        },
        Expr::Ct {
            key: CtKey::MARK,
            direction: None,
            register,
        },
        Expr::Ct {
            key: CtKey::DESTINATION_PORT,
            direction: Some(CtDirection::ORIGINAL),
            register,
        },
        Expr::SetTimeout {
            map: "idle4".into(),
            register: Register::slot(0),
        },
        Expr::SetCt {
            key: CtKey::MARK,
            direction: None,
            register,
        },
        Expr::SetCt {
            key: CtKey::ZONE,
            direction: Some(CtDirection::ORIGINAL),
            register,
        },
        Expr::Bitwise {
            source: register,
            mask: vec![0xff; 4],
            xor: vec![0; 4],
            register: Register::slot(5),
        },
        Expr::SourceNat {
            family: NatFamily::IPV4,
            address: register,
        },
        Expr::Masquerade,
        Expr::RejectPort,
        Expr::RejectReset,
        Expr::RouteSegment { register },
        Expr::RouteTransformed { register },
        Expr::NetworkOrder { register },
        Expr::LowerSegment { register },
        Expr::Other("limit".into()),
    ];
    let rule = Rule {
        table: "weft".into(),
        chain: "c".into(),
        exprs,
    };
    assert_eq!(round_trip(&rule), rule);
}

/// Attributes with plausible types and lengths, nested to some depth: what random bytes seldom are.
fn attribute_soup() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop::collection::vec(any::<u8>(), 0..12);
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop::collection::vec((0u16..12, inner), 0..6).prop_map(|attrs| {
            let mut writer = AttrWriter::default();
            for (kind, value) in attrs {
                writer.bytes(kind, &value);
            }
            writer.finish().unwrap()
        })
    })
}

fn read_as_everything(bytes: &[u8]) {
    let _ = Table::read(Attrs::new(bytes));
    let _ = Chain::read(Attrs::new(bytes));
    let _ = Set::read(Attrs::new(bytes));
    let _ = Rule::read(Attrs::new(bytes));
    let _ = Elements::read(Attrs::new(bytes));
    let _ = Map::read(Attrs::new(bytes));
    let _ = MapElements::read(Attrs::new(bytes));
}

const EXPR_NAMES: [&str; 14] = [
    "meta",
    "payload",
    "cmp",
    "lookup",
    "counter",
    "immediate",
    "numgen",
    "hash",
    "fib",
    "nat",
    "reject",
    "ct",
    "bitwise",
    "masq",
];

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn malformed_attributes_never_panic(bytes in attribute_soup()) {
        read_as_everything(&bytes);
    }

    #[test]
    fn malformed_expressions_never_panic(
        name in prop::sample::select(&EXPR_NAMES[..]),
        data in attribute_soup(),
    ) {
        let mut writer = AttrWriter::default();
        writer.nested(4, |list| {
            list.nested(LIST_ELEM, |elem| {
                elem.string(1, name);
                elem.bytes(2, &data);
            });
        });
        let _ = Rule::read(Attrs::new(&writer.finish().unwrap()));
    }
}
