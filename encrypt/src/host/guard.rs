//! The guard's table as a value.

use std::net::IpAddr;

use weft_netns::nft::{
    BaseChain, Chain, CompareOp, Content, Counter, Elements, Expr, Hook, KeyType, Map, MapData,
    MapTarget, MetaKey, PayloadBase, Register, Rule, Verdict,
};

use super::spec::{HostSpec, Mode};
use super::{TABLE, TAP};

/// `NF_IP_PRI_RAW`: before connection tracking and every usual filter.
const PRIORITY_RAW: i32 = -300;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// Longest name of a device, with its zero byte.
const IFNAME_LEN: usize = 16;
/// Where the 24 bits of the VNI and the eight reserved ones behind them are, from the UDP header on (RFC
/// 7348 section 5). The kernel's VXLAN devices drop what has any of the latter.
const VNI_OFFSET: u32 = 12;
const VNI_LEN: u32 = 4;

const DROP_IN: &str = "drop-in";
const DROP_OUT: &str = "drop-out";
const DROP_FOREIGN: &str = "drop-foreign";

/// What was dropped so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) incoming: u64,
    pub(super) outgoing: u64,
    pub(super) foreign: u64,
}

pub(super) fn dropped(content: &Content) -> Dropped {
    let packets = |chain| content.dropped(chain).packets;
    Dropped {
        incoming: packets(DROP_IN),
        outgoing: packets(DROP_OUT),
        foreign: packets(DROP_FOREIGN),
    }
}

/// What the table has to be.
pub(super) fn content(spec: &HostSpec) -> Content {
    let mut content = Content {
        chains: vec![
            base("output", Hook::OUTPUT),
            base("leaving", Hook::POSTROUTING),
            base("input", Hook::INPUT),
            chain(DROP_IN),
            chain(DROP_OUT),
            chain(DROP_FOREIGN),
        ],
        rules: [DROP_IN, DROP_OUT, DROP_FOREIGN].map(drop_rule).into(),
        ..Content::default()
    };
    let port = to_port(spec.inner_port);
    let uncovered = match spec.mode {
        Mode::Userspace => device_is_not(MetaKey::OUTPUT_NAME),
        Mode::Kernel => vec![Expr::RouteTransformed { register: R }, is(&[0])],
    };
    let mut local = Family::of(spec.local).is().to_vec();
    local.push(Family::of(spec.local).source(R));
    local.push(is(&octets(spec.local)));
    let came_clear = match spec.mode {
        Mode::Userspace => device_is_not(MetaKey::INPUT_NAME),
        Mode::Kernel => vec![meta(MetaKey::TRANSFORMED), is(&[0])],
    };
    content.rules.extend([
        rule("output", [&port[..], &uncovered], DROP_OUT),
        rule("leaving", [&local[..], &port, &uncovered], DROP_OUT),
        rule("input", [&port[..], &came_clear], DROP_IN),
    ]);
    if spec.mode == Mode::Kernel {
        for family in [Family::V4, Family::V6] {
            content.maps.push(family.allowed_set());
            let (name, elements) = (family.allowed(), family.elements(spec));
            content.elements.insert(name.to_owned(), elements);
            let exprs = [&family.is()[..], &port, &family.not_allowed()];
            content.rules.push(rule("input", exprs, DROP_FOREIGN));
        }
    }
    content
}

const R: Register = Register::R1;

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    const fn allowed(self) -> &'static str {
        match self {
            Self::V4 => "allowed4",
            Self::V6 => "allowed6",
        }
    }

    /// Bytes of an address, and where the source's is in the header (RFC 791 section 3.1, RFC 8200 section
    /// 3).
    const fn address(self) -> (u32, u32) {
        match self {
            Self::V4 => (4, 12),
            Self::V6 => (16, 8),
        }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    fn is(self) -> [Expr; 2] {
        let protocol = match self {
            Self::V4 => 2,
            Self::V6 => 10,
        };
        [meta(MetaKey::NFPROTO), is(&[protocol])]
    }

    fn source(self, register: Register) -> Expr {
        let (len, offset) = self.address();
        Expr::Payload {
            base: PayloadBase::NETWORK,
            offset,
            len,
            register,
        }
    }

    /// The VNI has the type of an address, because that is the only one of four bytes that `nft` shows in
    /// the order of the wire: 4097 is 0.16.1.0.
    fn allowed_set(self) -> Map {
        let address = match self {
            Self::V4 => KeyType::IPV4_ADDR,
            Self::V6 => KeyType::IPV6_ADDR,
        };
        Map {
            table: TABLE.to_owned(),
            name: self.allowed().to_owned(),
            key_type: KeyType::concat(&[address, KeyType::IPV4_ADDR]),
            key_len: self.address().0 + VNI_LEN,
            concatenated: true,
            target: MapTarget::Nothing,
        }
    }

    fn elements(self, spec: &HostSpec) -> Elements {
        let mut elements = Elements::new();
        for (peer, networks) in &spec.allowed {
            let address = octets(*peer);
            if address.len() != self.address().0 as usize {
                continue;
            }
            for vni in networks {
                let mut key = address.clone();
                key.extend((vni << 8).to_be_bytes());
                elements.insert(key, MapData::Other);
            }
        }
        elements
    }

    fn not_allowed(self) -> [Expr; 3] {
        let behind = Register::slot(self.address().0 / 4);
        [
            self.source(R),
            Expr::Payload {
                base: PayloadBase::TRANSPORT,
                offset: VNI_OFFSET,
                len: VNI_LEN,
                register: behind,
            },
            Expr::Lookup {
                set: self.allowed().to_owned(),
                register: R,
                inverted: true,
            },
        ]
    }
}

/// On the wire an IPv4-mapped address is one of IPv4.
fn octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn to_port(port: u16) -> [Expr; 4] {
    // Destination port (RFC 768).
    let destination = Expr::Payload {
        base: PayloadBase::TRANSPORT,
        offset: 2,
        len: 2,
        register: R,
    };
    [
        meta(MetaKey::L4PROTO),
        is(&[UDP]),
        destination,
        is(&port.to_be_bytes()),
    ]
}

fn device_is_not(key: MetaKey) -> Vec<Expr> {
    let mut value = TAP.as_bytes().to_vec();
    value.resize(IFNAME_LEN, 0);
    let differs = Expr::Compare {
        register: R,
        op: CompareOp::NE,
        value,
    };
    vec![meta(key), differs]
}

fn meta(key: MetaKey) -> Expr {
    Expr::Meta { key, register: R }
}

fn is(value: &[u8]) -> Expr {
    Expr::Compare {
        register: R,
        op: CompareOp::EQ,
        value: value.to_vec(),
    }
}

fn base(name: &str, hook: Hook) -> Chain {
    let base = BaseChain {
        kind: "filter".to_owned(),
        hook,
        priority: PRIORITY_RAW,
        accept: true,
    };
    Chain {
        base: Some(base),
        ..chain(name)
    }
}

fn chain(name: &str) -> Chain {
    Chain {
        table: TABLE.to_owned(),
        name: name.to_owned(),
        base: None,
    }
}

fn rule<const N: usize>(chain: &str, conditions: [&[Expr]; N], drop: &str) -> Rule {
    let mut exprs = conditions.concat();
    exprs.push(Expr::Verdict(Verdict::Goto(drop.to_owned())));
    Rule {
        table: TABLE.to_owned(),
        chain: chain.to_owned(),
        exprs,
    }
}

fn drop_rule(chain: &str) -> Rule {
    Rule {
        table: TABLE.to_owned(),
        chain: chain.to_owned(),
        exprs: vec![
            Expr::Counter(Counter::default()),
            Expr::Verdict(Verdict::Drop),
        ],
    }
}
