use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_netns::nft::{
    BaseChain, Chain, CompareOp, Counter, Expr, Hook, KeyType, MetaKey, PayloadBase, Register,
    Rule, Set, Table, TableFlags, Verdict,
};

use super::error::GuardError;

/// Most members of the data path, IPv4 and IPv6 together.
pub const MEMBERS_MAX: usize = 8192;
/// Room of each set: in one transaction all members may be replaced, and the new ones come first.
const SET_SIZE: u32 = 2 * MEMBERS_MAX as u32;
/// The chain.
const CHAIN: &str = "datapath";
/// `NF_IP_PRI_RAW`: before connection tracking and every usual filter.
const PRIORITY_RAW: i32 = -300;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// The two address families, in the order of their rules.
pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// An address family, each with a set and a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const fn set(self) -> &'static str {
        match self {
            Self::V4 => "members4",
            Self::V6 => "members6",
        }
    }

    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
    const fn protocol(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    const fn key(self) -> (KeyType, u32) {
        match self {
            Self::V4 => (KeyType::IPV4_ADDR, 4),
            Self::V6 => (KeyType::IPV6_ADDR, 16),
        }
    }

    /// Offset of the source address in the header (RFC 791 section 3.1, RFC 8200 section 3).
    const fn source_offset(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }
}

/// What the table should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    table: String,
    port: u16,
    members4: BTreeSet<Vec<u8>>,
    members6: BTreeSet<Vec<u8>>,
}

impl Layout {
    pub(super) fn new(
        table: &str,
        port: u16,
        members: &BTreeSet<IpAddr>,
    ) -> Result<Self, GuardError> {
        if members.len() > MEMBERS_MAX {
            return Err(GuardError::TooManyMembers {
                count: members.len(),
            });
        }
        let (mut members4, mut members6) = (BTreeSet::new(), BTreeSet::new());
        for member in members {
            // On the wire an IPv4-mapped address is one of IPv4.
            match member.to_canonical() {
                IpAddr::V4(ip) => members4.insert(ip.octets().to_vec()),
                IpAddr::V6(ip) => members6.insert(ip.octets().to_vec()),
            };
        }
        Ok(Self {
            table: table.to_owned(),
            port,
            members4,
            members6,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.table
    }

    pub(super) fn keys(&self, family: Family) -> &BTreeSet<Vec<u8>> {
        match family {
            Family::V4 => &self.members4,
            Family::V6 => &self.members6,
        }
    }

    pub(super) fn members(&self) -> usize {
        self.members4.len() + self.members6.len()
    }

    pub(super) fn table(&self, flags: TableFlags) -> Table {
        Table {
            name: self.table.clone(),
            flags,
            owner: None,
        }
    }

    pub(super) fn chain(&self) -> Chain {
        let base = BaseChain {
            kind: "filter".to_owned(),
            hook: Hook::INPUT,
            priority: PRIORITY_RAW,
            accept: true,
        };
        Chain {
            table: self.table.clone(),
            name: CHAIN.to_owned(),
            base: Some(base),
        }
    }

    pub(super) fn set(&self, family: Family) -> Set {
        let (key_type, key_len) = family.key();
        let name = family.set().to_owned();
        Set {
            table: self.table.clone(),
            name,
            key_type,
            key_len,
            size: Some(SET_SIZE),
        }
    }

    /// `meta nfproto FAMILY udp dport PORT ip saddr != @SET counter drop`
    pub(super) fn rule(&self, family: Family, counter: Counter) -> Rule {
        let register = Register::R1;
        let equals = |value: &[u8]| Expr::Compare {
            register,
            op: CompareOp::EQ,
            value: value.to_vec(),
        };
        let (_, key_len) = family.key();
        let exprs = vec![
            Expr::Meta {
                key: MetaKey::NFPROTO,
                register,
            },
            equals(&[family.protocol()]),
            Expr::Meta {
                key: MetaKey::L4PROTO,
                register,
            },
            equals(&[UDP]),
            // Destination port (RFC 768).
            Expr::Payload {
                base: PayloadBase::TRANSPORT,
                offset: 2,
                len: 2,
                register,
            },
            equals(&self.port.to_be_bytes()),
            Expr::Payload {
                base: PayloadBase::NETWORK,
                offset: family.source_offset(),
                len: key_len,
                register,
            },
            Expr::Lookup {
                set: family.set().to_owned(),
                register,
                inverted: true,
            },
            Expr::Counter(counter),
            Expr::Verdict(Verdict::Drop),
        ];
        Rule {
            table: self.table.clone(),
            chain: CHAIN.to_owned(),
            exprs,
        }
    }
}
