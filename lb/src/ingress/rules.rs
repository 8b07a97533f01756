//! The table's chains and rules. The addresses and devices of the host are constants in them.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_netns::nft::{
    BaseChain, Chain, CompareOp, Counter, CtDirection, CtKey, Expr, Hook, MetaKey, NatFamily,
    PayloadBase, Register, Rule, Verdict,
};

use super::layout::{FAMILIES, Layout, Set, device_key};
use super::spec::MARK_MASK;
use crate::exprs::{ROUTE_LOCAL, port_value};
use crate::layout::address_bytes;
use crate::spec::Family;

/// `NF_IP_PRI_RAW`: before connection tracking.
const PRIORITY_ZONE: i32 = -300;
/// After connection tracking (-200), and before `NF_IP_PRI_MANGLE` (-150), where others set marks.
const PRIORITY_MARK: i32 = -160;
/// `NF_IP_PRI_FILTER`.
const PRIORITY_FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`.
const PRIORITY_SNAT: i32 = 100;
/// Bits of a packet's state (`NF_CT_STATE_BIT`).
const STATE_ESTABLISHED_OR_RELATED: u32 = 1 << 1 | 1 << 2;
const STATE_NEW: u32 = 1 << 3;
/// `IPS_DST_NAT`: the flow's destination was rewritten.
const STATUS_DNAT: u32 = 1 << 5;
/// `ARPHRD_ETHER`.
const TYPE_ETHERNET: u16 = 1;
/// First byte of every loopback address of IPv4 (RFC 1122 section 3.2.1.3).
const LOOPBACK4: u8 = 127;
/// Source and destination in an IPv4 header (RFC 791 section 3.1).
const ADDRESSES4: [u32; 2] = [12, 16];

const ZONES: &str = "zones";
const PREROUTING: &str = "prerouting";
const FORWARD: &str = "forward";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";
const FROM_MESH: &str = "from-mesh";
const FROM_GATEWAY: &str = "from-gateway";
const TO_MESH: &str = "to-mesh";
const TO_GATEWAY: &str = "to-gateway";
const LEAVING: &str = "leaving";
const FITTING: &str = "fitting";
const LIMITS: &str = "limits";

/// Why packets are dropped, each with a chain that counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum DropReason {
    /// A new connection from the mesh whose frame is no entry node's.
    NoEntry,
    /// The source is none of those that the port is for.
    NotAllowed,
    /// Routed to the gateway, the mesh or a network by no published port.
    NotPublished,
    /// From a container with an address that is not its leg's.
    Foreign,
    /// A loopback address on a wire.
    Loopback,
}

impl DropReason {
    pub(super) const ALL: [Self; 5] = [
        Self::NoEntry,
        Self::NotAllowed,
        Self::NotPublished,
        Self::Foreign,
        Self::Loopback,
    ];

    pub(super) const fn chain(self) -> &'static str {
        match self {
            Self::NoEntry => "drop-no-entry",
            Self::NotAllowed => "drop-not-allowed",
            Self::NotPublished => "drop-not-published",
            Self::Foreign => "drop-foreign",
            Self::Loopback => "drop-loopback",
        }
    }
}

/// How a source is rewritten.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// To that address.
    Address(IpAddr),
    /// To one of the device that the packet leaves by.
    Device,
}

impl Layout {
    /// In the order in which they are made: a chain after those that it leads to.
    pub(super) fn chains(&self) -> Vec<Chain> {
        let base = |name, kind, hook, priority| (name, Some((kind, hook, priority)));
        let mut chains = DropReason::ALL
            .map(|reason| (reason.chain(), None))
            .to_vec();
        chains.extend([
            (LIMITS, None),
            (FROM_MESH, None),
            (FROM_GATEWAY, None),
            (TO_MESH, None),
            (TO_GATEWAY, None),
            (FITTING, None),
            (LEAVING, None),
            base(ZONES, "filter", Hook::PREROUTING, PRIORITY_ZONE),
            base(PREROUTING, "filter", Hook::PREROUTING, PRIORITY_MARK),
            base(OUTPUT, "route", Hook::OUTPUT, PRIORITY_MARK),
            base(FORWARD, "filter", Hook::FORWARD, PRIORITY_FILTER),
            base(POSTROUTING, "nat", Hook::POSTROUTING, PRIORITY_SNAT),
        ]);
        let chain = |(name, base): (&str, Option<(&str, Hook, i32)>)| Chain {
            table: self.table.clone(),
            name: name.to_owned(),
            base: base.map(|(kind, hook, priority)| BaseChain {
                kind: kind.to_owned(),
                hook,
                priority,
                accept: true,
            }),
        };
        chains.into_iter().map(chain).collect()
    }

    /// In order within each chain. The counters go on from what is given.
    pub(super) fn rules(&self, counted: impl Fn(DropReason) -> Counter) -> Vec<Rule> {
        let drops = DropReason::ALL.map(|reason| {
            let counter = Expr::Counter(counted(reason));
            (reason.chain(), vec![counter, Expr::Verdict(Verdict::Drop)])
        });
        let mut rules = drops.to_vec();
        rules.extend(FAMILIES.map(|family| (LIMITS, limit(family))));
        rules.extend(self.marks());
        rules.push((FITTING, fit_segment()));
        rules.extend(self.leaving().into_iter().map(|exprs| (LEAVING, exprs)));
        rules.extend(self.forward().map(|exprs| (FORWARD, exprs)));
        rules.extend(self.sources());
        let rule = |(chain, exprs): (&str, Vec<Expr>)| Rule {
            table: self.table.clone(),
            chain: chain.to_owned(),
            exprs,
        };
        rules.into_iter().map(rule).collect()
    }

    /// Before it is decided where a packet goes: marks, and who may connect.
    fn marks(&self) -> Vec<(&'static str, Vec<Expr>)> {
        let from = |name: &str, chain| {
            let mut exprs = device(MetaKey::INPUT_NAME, CompareOp::EQ, name).to_vec();
            exprs.push(goto(chain));
            exprs
        };
        let mut rules = vec![
            (ZONES, zone_of_entry(&self.spec.mesh_if)),
            (PREROUTING, from(&self.spec.mesh_if, FROM_MESH)),
            (PREROUTING, from(&self.spec.gateway_if, FROM_GATEWAY)),
            (PREROUTING, judge_new()),
            (OUTPUT, mark_reply()),
            (OUTPUT, judge_new()),
        ];
        for chain in [FROM_MESH, FROM_GATEWAY] {
            rules.extend(ADDRESSES4.map(|offset| (chain, drop_loopback(offset))));
        }
        rules.extend([
            (FROM_MESH, mark_entry()),
            (FROM_GATEWAY, mark_reply()),
            (FROM_GATEWAY, judge_new()),
        ]);
        rules
    }

    /// What containers send by their legs. The host may be in networks of containers: nobody gets there
    /// but by a published port.
    fn leaving(&self) -> Vec<Vec<Expr>> {
        let spec = &self.spec;
        let legs = [spec.gateway4.map(IpNet::V4), spec.gateway6.map(IpNet::V6)];
        let mut rules: Vec<Vec<Expr>> = { legs.into_iter().flatten() }
            .map(|legs| {
                let mut exprs = is_source(legs, CompareOp::NE);
                exprs.push(goto(DropReason::Foreign.chain()));
                exprs
            })
            .collect();
        rules.push(
            [
                in_devices().to_vec(),
                vec![ct(CtKey::STATUS), and(STATUS_DNAT), is(&[0; 4])],
                vec![goto(DropReason::NotPublished.chain())],
            ]
            .concat(),
        );
        rules
    }

    /// What may pass to the gateway and to the mesh.
    fn forward(&self) -> [Vec<Expr>; 9] {
        let (mesh, gateway) = (&self.spec.mesh_if, &self.spec.gateway_if);
        let leaves_by = |op, name: &str| device(MetaKey::OUTPUT_NAME, op, name);
        let accept = || vec![Expr::Verdict(Verdict::Accept)];
        let elsewhere = [mesh, gateway].map(|name| leaves_by(CompareOp::NE, name));
        let from_gateway = device(MetaKey::INPUT_NAME, CompareOp::EQ, gateway).to_vec();
        let fitted = |mut exprs: Vec<Expr>| {
            exprs.push(jump(FITTING));
            exprs
        };
        let from_mesh = device(MetaKey::INPUT_NAME, CompareOp::EQ, mesh);
        let no_entry = [ct(CtKey::MARK), and(MARK_MASK), is(&[0; 4])];
        [
            fitted(from_gateway.clone()),
            fitted(leaves_by(CompareOp::EQ, gateway).to_vec()),
            fitted(leaves_by(CompareOp::EQ, mesh).to_vec()),
            [from_gateway, vec![jump(LEAVING)]].concat(),
            [elsewhere.concat(), accept()].concat(),
            [
                has(CtKey::STATE, STATE_ESTABLISHED_OR_RELATED).to_vec(),
                accept(),
            ]
            .concat(),
            [
                from_mesh.to_vec(),
                no_entry.to_vec(),
                vec![goto(DropReason::NoEntry.chain())],
            ]
            .concat(),
            [has(CtKey::STATUS, STATUS_DNAT).to_vec(), accept()].concat(),
            vec![goto(DropReason::NotPublished.chain())],
        ]
    }

    /// Sources that have no way back, as they leave.
    fn sources(&self) -> Vec<(&'static str, Vec<Expr>)> {
        let spec = &self.spec;
        let towards = |name: &str, chain| {
            let mut exprs = device(MetaKey::OUTPUT_NAME, CompareOp::EQ, name).to_vec();
            exprs.push(goto(chain));
            (POSTROUTING, exprs)
        };
        let mut rules = vec![
            towards(&spec.mesh_if, TO_MESH),
            towards(&spec.gateway_if, TO_GATEWAY),
        ];
        let legs = [spec.gateway4.map(IpNet::V4), spec.gateway6.map(IpNet::V6)];
        let mesh = [spec.mesh4.map(IpAddr::V4), spec.mesh6.map(IpAddr::V6)];
        for ((family, legs), mesh) in FAMILIES.into_iter().zip(legs).zip(mesh) {
            let without_way_back = || [Some(loopback(family)), legs].into_iter().flatten();
            if let Some(address) = mesh {
                let source = Source::Address(address);
                let peers = [is_family(family), in_peers(family), source.rewrite()].concat();
                let prefixes = without_way_back().map(|prefix| from_prefix(prefix, source));
                let rewritten = [prefixes.collect(), vec![from_any(source), peers]].concat();
                rules.extend(rewritten.into_iter().map(|exprs| (TO_MESH, exprs)));
            }
            let prefixes = without_way_back().map(|prefix| from_prefix(prefix, Source::Device));
            rules.extend(prefixes.map(|exprs| (TO_GATEWAY, exprs)));
        }
        rules.push((TO_GATEWAY, from_any(Source::Device)));
        // Those that leave the host. Nobody beyond it knows the way to a leg.
        let outward = { legs.into_iter().flatten() }.map(|legs| from_prefix(legs, Source::Device));
        rules.extend(outward.map(|exprs| (POSTROUTING, exprs)));
        rules
    }
}

impl Source {
    fn rewrite(self) -> Vec<Expr> {
        let Self::Address(address) = self else {
            return vec![Expr::Masquerade];
        };
        let family = match address {
            IpAddr::V4(_) => NatFamily::IPV4,
            IpAddr::V6(_) => NatFamily::IPV6,
        };
        let (value, register) = (address_bytes(address), Register::R1);
        vec![
            Expr::Immediate { value, register },
            Expr::SourceNat {
                family,
                address: register,
            },
        ]
    }
}

/// `meta l4proto . th dport @restricted fib daddr type local meta l4proto . th dport . ip saddr !=
/// @allowed4 goto drop-not-allowed`
fn limit(family: Family) -> Vec<Expr> {
    let port = Register::slot(0);
    let address = Register::slot(2);
    // Behind the largest address.
    let route = Register::slot(8);
    let lookup = |set: Set, inverted| Expr::Lookup {
        set: set.name().to_owned(),
        register: port,
        inverted,
    };
    let mut exprs = is_family(family);
    exprs.extend([
        Expr::Meta {
            key: MetaKey::L4PROTO,
            register: port,
        },
        // Destination port (RFC 768, RFC 9293).
        port_value(2, Register::slot(1)),
        lookup(Set::Restricted, false),
        Expr::RouteType { register: route },
        Expr::Compare {
            register: route,
            op: CompareOp::EQ,
            value: ROUTE_LOCAL.to_ne_bytes().to_vec(),
        },
        source_address(family, address),
        lookup(Set::Allowed(family), true),
        goto(DropReason::NotAllowed.chain()),
    ]);
    exprs
}

/// `ct state new goto limits`
fn judge_new() -> Vec<Expr> {
    vec![ct(CtKey::STATE), is(&STATE_NEW.to_ne_bytes()), goto(LIMITS)]
}

/// `iifname "wf-ingress" meta iiftype ether ct original zone set ether saddr map @zones`
fn zone_of_entry(mesh: &str) -> Vec<Expr> {
    let mut exprs = device(MetaKey::INPUT_NAME, CompareOp::EQ, mesh).to_vec();
    exprs.extend(by_entry(Set::Zones));
    exprs.push(Expr::SetCt {
        key: CtKey::ZONE,
        direction: Some(CtDirection::ORIGINAL),
        register: Register::R1,
    });
    exprs
}

/// `ct state new meta iiftype ether ct mark set ether saddr map @entries`
fn mark_entry() -> Vec<Expr> {
    let mut exprs = vec![ct(CtKey::STATE), is(&STATE_NEW.to_ne_bytes())];
    exprs.extend(by_entry(Set::Entries));
    exprs.push(Expr::SetCt {
        key: CtKey::MARK,
        direction: None,
        register: Register::R1,
    });
    exprs
}

/// `meta iiftype ether ether saddr map @SET`
fn by_entry(set: Set) -> [Expr; 4] {
    let register = Register::R1;
    [
        meta(MetaKey::INPUT_TYPE),
        is(&TYPE_ETHERNET.to_ne_bytes()),
        Expr::Payload {
            base: PayloadBase::LINK,
            offset: 6,
            len: 6,
            register,
        },
        Expr::MapLookup {
            map: set.name().to_owned(),
            register,
            target: register,
        },
    ]
}

/// `ct direction reply ct mark & MASK != 0 meta mark set ct mark & MASK`
fn mark_reply() -> Vec<Expr> {
    let register = Register::R1;
    let mut exprs = vec![ct(CtKey::DIRECTION), is(&[CtDirection::REPLY.0])];
    exprs.extend(has(CtKey::MARK, MARK_MASK));
    exprs.push(Expr::SetMeta {
        key: MetaKey::MARK,
        register,
    });
    exprs
}

/// `ip saddr 127.0.0.0/8 goto drop-loopback`, or of the destination.
fn drop_loopback(offset: u32) -> Vec<Expr> {
    let mut exprs = is_family(Family::V4);
    exprs.extend([
        Expr::Payload {
            base: PayloadBase::NETWORK,
            offset,
            len: 1,
            register: Register::R1,
        },
        is(&[LOOPBACK4]),
        goto(DropReason::Loopback.chain()),
    ]);
    exprs
}

/// `ip saddr PREFIX snat ip to ADDRESS`
fn from_prefix(prefix: IpNet, source: Source) -> Vec<Expr> {
    let mut exprs = is_source(prefix, CompareOp::EQ);
    exprs.extend(source.rewrite());
    exprs
}

/// `ip saddr PREFIX`, or `ip saddr != PREFIX`; either is of that family only.
fn is_source(prefix: IpNet, op: CompareOp) -> Vec<Expr> {
    let family = Family::of(prefix.addr());
    let mut exprs = is_family(family);
    exprs.push(source_address(family, Register::R1));
    if prefix.prefix_len() < prefix.max_prefix_len() {
        exprs.push(masked(&address_bytes(prefix.netmask())));
    }
    exprs.push(Expr::Compare {
        register: Register::R1,
        op,
        value: address_bytes(prefix.network()),
    });
    exprs
}

/// `oifname @networks`
fn in_devices() -> [Expr; 2] {
    let register = Register::R1;
    [
        meta(MetaKey::OUTPUT_NAME),
        Expr::Lookup {
            set: Set::Networks.name().to_owned(),
            register,
            inverted: false,
        },
    ]
}

/// `tcp flags syn tcp option maxseg size set rt mtu`: a path whose packets are smaller than both ends know
/// of is not left to messages that many a firewall drops (RFC 2923 section 2.1).
fn fit_segment() -> Vec<Expr> {
    /// `IPPROTO_TCP`.
    const TCP: u8 = 6;
    /// Flags in a TCP header, and SYN among them (RFC 9293 section 3.1).
    const FLAGS_AT: u32 = 13;
    const SYN: u8 = 2;
    let register = Register::R1;
    vec![
        meta(MetaKey::L4PROTO),
        is(&[TCP]),
        Expr::Payload {
            base: PayloadBase::TRANSPORT,
            offset: FLAGS_AT,
            len: 1,
            register,
        },
        masked(&[SYN]),
        Expr::Compare {
            register,
            op: CompareOp::NE,
            value: vec![0],
        },
        Expr::RouteSegment { register },
        Expr::NetworkOrder { register },
        Expr::LowerSegment { register },
    ]
}

/// `ct status dnat meta l4proto . ct original proto-dst @rewritten masquerade`
fn from_any(source: Source) -> Vec<Expr> {
    let register = Register::slot(0);
    let mut exprs = has(CtKey::STATUS, STATUS_DNAT).to_vec();
    exprs.extend([
        Expr::Meta {
            key: MetaKey::L4PROTO,
            register,
        },
        Expr::Ct {
            key: CtKey::DESTINATION_PORT,
            direction: Some(CtDirection::ORIGINAL),
            register: Register::slot(1),
        },
        Expr::Lookup {
            set: Set::Rewritten.name().to_owned(),
            register,
            inverted: false,
        },
    ]);
    exprs.extend(source.rewrite());
    exprs
}

/// `ip saddr . ip daddr @peers4`
fn in_peers(family: Family) -> Vec<Expr> {
    let register = Register::slot(0);
    let second = Register::slot(address_len(family) / 4);
    vec![
        source_address(family, register),
        Expr::Payload {
            base: PayloadBase::NETWORK,
            offset: source_offset(family) + address_len(family),
            len: address_len(family),
            register: second,
        },
        Expr::Lookup {
            set: Set::Peers(family).name().to_owned(),
            register,
            inverted: false,
        },
    ]
}

fn is_family(family: Family) -> Vec<Expr> {
    // `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    let protocol = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    vec![meta(MetaKey::NFPROTO), is(&[protocol])]
}

fn device(key: MetaKey, op: CompareOp, name: &str) -> [Expr; 2] {
    let (value, register) = (device_key(name), Register::R1);
    [
        meta(key),
        Expr::Compare {
            register,
            op,
            value,
        },
    ]
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

/// Loads what is set of those bits of a property of the flow; goes on if any is.
fn has(key: CtKey, bits: u32) -> [Expr; 3] {
    let nothing = Expr::Compare {
        register: Register::R1,
        op: CompareOp::NE,
        value: vec![0; 4],
    };
    [ct(key), and(bits), nothing]
}

fn and(bits: u32) -> Expr {
    masked(&bits.to_ne_bytes())
}

fn masked(mask: &[u8]) -> Expr {
    let register = Register::R1;
    Expr::Bitwise {
        source: register,
        mask: mask.to_vec(),
        xor: vec![0; mask.len()],
        register,
    }
}

fn is(value: &[u8]) -> Expr {
    Expr::Compare {
        register: Register::R1,
        op: CompareOp::EQ,
        value: value.to_vec(),
    }
}

fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.to_owned()))
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

fn source_address(family: Family, register: Register) -> Expr {
    Expr::Payload {
        base: PayloadBase::NETWORK,
        offset: source_offset(family),
        len: address_len(family),
        register,
    }
}

/// Where the source address is (RFC 791 section 3.1, RFC 8200 section 3); the destination follows.
const fn source_offset(family: Family) -> u32 {
    match family {
        Family::V4 => ADDRESSES4[0],
        Family::V6 => 8,
    }
}

const fn address_len(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert([LOOPBACK4, 0, 0, 0].into(), 8),
        Family::V6 => IpNet::from(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
    }
}
