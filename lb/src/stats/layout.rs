//! The table's sets, chains and rules. All of it is constant but the elements.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use weft_netns::nft::{
    BaseChain, Chain, CompareOp, CtDirection, CtKey, Expr, Hook, KeyType, Map, MapTarget, MetaKey,
    PayloadBase, Register, Rule, Table, TableFlags, Verdict,
};

use super::spec::StatsSpec;
use crate::exprs::port_value;
use crate::layout::{padded, protocol_number};
use crate::spec::Protocol;

/// `NF_IP_PRI_FILTER`: after destinations are rewritten, and before a flow is confirmed.
const PRIORITY_FILTER: i32 = 0;
/// `LOOPBACK_IFINDEX`.
const LOOPBACK: u32 = 1;
/// `IPS_CONFIRMED`: a packet of the flow has passed before.
const STATUS_CONFIRMED: u32 = 1 << 3;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
/// `IFNAMSIZ`.
const IFNAME_LEN: usize = 16;
/// Source and destination in an IPv4 header (RFC 791 section 3.1).
const SOURCE_ADDRESS: u32 = 12;
const DESTINATION_ADDRESS: u32 = 16;
/// Source and destination port (RFC 768, RFC 9293 section 3.1).
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

const INPUT: &str = "input";
const OUTPUT: &str = "output";
const TAKEN: &str = "taken";
const ANSWERED: &str = "answered";
const PORT_TAKEN: &str = "port-taken";
const PORT_ANSWERED: &str = "port-answered";

/// What the table should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) table: String,
    pub(super) spec: StatsSpec,
}

/// How a backend is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    Address,
    Port,
}

/// What is counted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    Connections,
    Received,
    Sent,
}

/// A set of counters.
pub(super) type Set = (By, What);

pub(super) const SETS: [Set; 6] = [
    (By::Address, What::Connections),
    (By::Address, What::Received),
    (By::Address, What::Sent),
    (By::Port, What::Connections),
    (By::Port, What::Received),
    (By::Port, What::Sent),
];

pub(super) const fn set_name(set: Set) -> &'static str {
    match set {
        (By::Address, What::Connections) => "connections",
        (By::Address, What::Received) => "received",
        (By::Address, What::Sent) => "sent",
        (By::Port, What::Connections) => "port-connections",
        (By::Port, What::Received) => "port-received",
        (By::Port, What::Sent) => "port-sent",
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

    pub(super) fn maps(&self) -> Vec<Map> {
        let map = |set: Set| {
            let (fields, key_len): (&[KeyType], _) = match set.0 {
                By::Address => (&[KeyType::IPV4_ADDR], 4),
                By::Port => (&[KeyType::PROTOCOL, KeyType::PORT], 8),
            };
            Map {
                table: self.table.clone(),
                name: set_name(set).to_owned(),
                key_type: KeyType::concat(fields),
                key_len,
                concatenated: fields.len() > 1,
                target: MapTarget::Counted,
            }
        };
        SETS.map(map).to_vec()
    }

    pub(super) fn keys(&self, set: Set) -> BTreeSet<Vec<u8>> {
        match set.0 {
            By::Address => (self.spec.addresses.iter())
                .map(|address| address.octets().to_vec())
                .collect(),
            By::Port => self.spec.ports.iter().map(port_key).collect(),
        }
    }

    /// In the order in which they are made: a chain after those that it leads to.
    pub(super) fn chains(&self) -> Vec<Chain> {
        let chain = |name: &str, hook: Option<Hook>| Chain {
            table: self.table.clone(),
            name: name.to_owned(),
            base: hook.map(|hook| BaseChain {
                kind: "filter".to_owned(),
                hook,
                priority: PRIORITY_FILTER,
                accept: true,
            }),
        };
        vec![
            chain(PORT_TAKEN, None),
            chain(PORT_ANSWERED, None),
            chain(TAKEN, None),
            chain(ANSWERED, None),
            chain(INPUT, Some(Hook::INPUT)),
            chain(OUTPUT, Some(Hook::OUTPUT)),
        ]
    }

    /// In order within each chain.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let leg = &self.spec.leg;
        let rules = [
            (
                INPUT,
                outside(MetaKey::INPUT_INDEX, CtDirection::ORIGINAL, TAKEN),
            ),
            (TAKEN, by_device(MetaKey::INPUT_NAME, leg, PORT_TAKEN)),
            (TAKEN, [first(), count(What::Connections)].concat()),
            (TAKEN, count(What::Received)),
            (
                PORT_TAKEN,
                [first(), count_port(What::Connections)].concat(),
            ),
            (PORT_TAKEN, count_port(What::Received)),
            (
                OUTPUT,
                outside(MetaKey::OUTPUT_INDEX, CtDirection::REPLY, ANSWERED),
            ),
            (
                ANSWERED,
                by_device(MetaKey::OUTPUT_NAME, leg, PORT_ANSWERED),
            ),
            (ANSWERED, count(What::Sent)),
            (PORT_ANSWERED, count_port(What::Sent)),
        ];
        let rule = |(chain, exprs): (&str, Vec<Expr>)| Rule {
            table: self.table.clone(),
            chain: chain.to_owned(),
            exprs,
        };
        rules.map(rule).to_vec()
    }
}

/// The address of a key, if it is one.
pub(super) fn address_of(key: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = key.try_into().ok()?;
    Some(octets.into())
}

/// The port of a key, if it is one.
pub(super) fn port_of(key: &[u8]) -> Option<(Protocol, NonZeroU16)> {
    let [number, 0, 0, 0, high, low, 0, 0] = *key else {
        return None;
    };
    let protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
    let protocol = { protocols }.find(|protocol| protocol_number(*protocol) == number)?;
    Some((protocol, NonZeroU16::new(u16::from_be_bytes([high, low]))?))
}

fn port_key((protocol, port): &(Protocol, NonZeroU16)) -> Vec<u8> {
    let mut key = padded(&[protocol_number(*protocol)]).to_vec();
    key.extend(padded(&port.get().to_be_bytes()));
    key
}

/// `iif != lo ct direction original goto taken`
fn outside(device: MetaKey, direction: CtDirection, chain: &str) -> Vec<Expr> {
    vec![
        meta(device),
        compare(CompareOp::NE, &LOOPBACK.to_ne_bytes()),
        ct(CtKey::DIRECTION),
        compare(CompareOp::EQ, &[direction.0]),
        goto(chain),
    ]
}

/// `iifname "wfgw" goto port-taken`
fn by_device(key: MetaKey, name: &str, chain: &str) -> Vec<Expr> {
    let mut value = name.as_bytes().to_vec();
    value.resize(IFNAME_LEN, 0);
    vec![meta(key), compare(CompareOp::EQ, &value), goto(chain)]
}

/// `ct status & confirmed == 0`
fn first() -> Vec<Expr> {
    let register = Register::R1;
    vec![
        ct(CtKey::STATUS),
        Expr::Bitwise {
            source: register,
            mask: STATUS_CONFIRMED.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
            register,
        },
        compare(CompareOp::EQ, &[0; 4]),
    ]
}

/// `ip daddr @received`, `ip saddr @sent`
fn count(what: What) -> Vec<Expr> {
    let offset = match what {
        What::Connections | What::Received => DESTINATION_ADDRESS,
        What::Sent => SOURCE_ADDRESS,
    };
    let register = Register::R1;
    vec![
        meta(MetaKey::NFPROTO),
        compare(CompareOp::EQ, &[IPV4]),
        Expr::Payload {
            base: PayloadBase::NETWORK,
            offset,
            len: 4,
            register,
        },
        find((By::Address, what)),
    ]
}

/// `meta l4proto . th dport @port-received`, `meta l4proto . th sport @port-sent`
fn count_port(what: What) -> Vec<Expr> {
    let offset = match what {
        What::Connections | What::Received => DESTINATION_PORT,
        What::Sent => SOURCE_PORT,
    };
    vec![
        meta(MetaKey::L4PROTO),
        port_value(offset, Register::slot(1)),
        find((By::Port, what)),
    ]
}

fn find(set: Set) -> Expr {
    Expr::Lookup {
        set: set_name(set).to_owned(),
        register: Register::R1,
        inverted: false,
    }
}

fn meta(key: MetaKey) -> Expr {
    let register = Register::R1;
    Expr::Meta { key, register }
}

fn ct(key: CtKey) -> Expr {
    Expr::Ct {
        key,
        direction: None,
        register: Register::R1,
    }
}

fn compare(op: CompareOp, value: &[u8]) -> Expr {
    Expr::Compare {
        register: Register::R1,
        op,
        value: value.to_vec(),
    }
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_were_made_from() {
        let spec = StatsSpec {
            addresses: ["10.0.1.2".parse().unwrap()].into(),
            leg: "wfgw".to_owned(),
            ports: [(Protocol::Udp, NonZeroU16::new(0x1234).unwrap())].into(),
        };
        let table = "weft-stats".to_owned();
        let layout = Layout { table, spec };
        for (set, map) in SETS.into_iter().zip(layout.maps()) {
            for key in layout.keys(set) {
                assert_eq!(key.len(), map.key_len as usize);
                match set.0 {
                    By::Address => {
                        assert!(layout.spec.addresses.contains(&address_of(&key).unwrap()))
                    }
                    By::Port => assert!(layout.spec.ports.contains(&port_of(&key).unwrap())),
                }
            }
        }
    }

    #[test]
    fn what_is_no_key_is_nothing() {
        assert_eq!(address_of(&[1, 2, 3]), None);
        assert_eq!(port_of(&[1, 0, 0, 0, 0, 80, 0, 0]), None);
        assert_eq!(port_of(&[6, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(port_of(&[6, 0, 0, 1, 0, 80, 0, 0]), None);
    }
}
