//! Others' chains, rules and sets, as far as it takes to judge what they do to a packet. Whatever
//! this module does not know is left as a name: somebody else's rules are no error.

use super::batch::{SUBSYSTEM, kind};
use super::expr::{Expr, LIST_ELEM};
use super::map::{MapElement, MapElements};
use super::object::{Chain, Object};
use super::socket::{NftSocket, absent_is_empty};
use crate::nfnetlink::attr::{Attr, Attrs, Malformed};
use crate::nfnetlink::{NftError, Query};

/// `NFT_SET_INTERVAL`.
const FLAG_INTERVAL: u32 = 0x4;

/// What packets the chains of a table see (`enum nfproto`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// Those of IPv4 and IPv6.
    Inet,
    /// Those of IPv4.
    Ip,
    /// Those of IPv6.
    Ip6,
}

impl TableFamily {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Inet, Self::Ip, Self::Ip6];

    /// `nft`'s word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    const fn query(self, kind: u16, dump: bool) -> Query {
        Query {
            subsystem: SUBSYSTEM,
            kind,
            family: self.number(),
            dump,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// A step of somebody's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// One of nf_tables' own.
    Native(Expr),
    /// A match of iptables (`struct xt_match`), as `iptables-nft` puts it into rules.
    Match {
        /// Its name: `conntrack`, `comment`.
        name: String,
        /// Its own structure.
        info: Vec<u8>,
    },
    /// A target of iptables (`struct xt_target`): `REJECT`, `LOG`.
    Target(String),
}

/// A set or a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignSet {
    /// Whether its elements are the ends of ranges.
    pub ranges: bool,
    /// Its elements.
    pub elements: Vec<MapElement>,
}

/// The steps of a rule, and where it is.
struct ForeignRule {
    table: String,
    chain: String,
    steps: Vec<Step>,
}

impl ForeignRule {
    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let (mut table, mut chain, mut steps) = (String::new(), String::new(), Vec::new());
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => table = attr.string(),
                2 => chain = attr.string(),
                4 => {
                    for elem in attr.nested() {
                        let elem = elem?;
                        if elem.kind == LIST_ELEM {
                            steps.push(Step::read(elem)?);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            table,
            chain,
            steps,
        })
    }
}

impl Step {
    fn read(elem: Attr<'_>) -> Result<Self, Malformed> {
        let name = elem.nested().find(1)?.ok_or(Malformed)?.string();
        let field = |kind| match elem.nested().find(2)? {
            Some(data) => data.nested().find(kind),
            None => Ok(None),
        };
        Ok(match name.as_str() {
            "match" => Self::Match {
                name: field(1)?.ok_or(Malformed)?.string(),
                info: field(3)?
                    .map(|info| info.value.to_vec())
                    .unwrap_or_default(),
            },
            "target" => Self::Target(field(1)?.ok_or(Malformed)?.string()),
            // One that newer kernels have more of than this module knows.
            _ => Self::Native(Expr::read(elem).unwrap_or(Expr::Other(name))),
        })
    }
}

impl NftSocket {
    /// The chains of all tables of a family.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn chains_of(&mut self, family: TableFamily) -> Result<Vec<Chain>, NftError> {
        let mut found = Vec::new();
        let asked = self.ask(
            "read the host's chains",
            family.query(kind::GET_CHAIN, true),
            |_| {},
            |kind, attrs| {
                if kind == kind::NEW_CHAIN {
                    found.push(Chain::read(attrs)?);
                }
                Ok(())
            },
        );
        absent_is_empty(asked.map(|()| found))
    }

    /// The rules of one chain, in order, at most `limit`.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn steps_of(
        &mut self,
        family: TableFamily,
        table: &str,
        chain: &str,
        limit: usize,
    ) -> Result<Vec<Vec<Step>>, NftError> {
        let mut found = Vec::new();
        let asked = self.ask(
            "read the host's rules",
            family.query(kind::GET_RULE, true),
            |attrs| {
                attrs.string(1, table);
                attrs.string(2, chain);
            },
            |kind, attrs| {
                if kind != kind::NEW_RULE || found.len() >= limit {
                    return Ok(());
                }
                let rule = ForeignRule::read(attrs)?;
                // An old kernel knows no such filter.
                if rule.table == table && rule.chain == chain {
                    found.push(rule.steps);
                }
                Ok(())
            },
        );
        absent_is_empty(asked.map(|()| found))
    }

    /// A set or map, with at most `limit` of its elements.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn set_of(
        &mut self,
        family: TableFamily,
        table: &str,
        set: &str,
        limit: usize,
    ) -> Result<ForeignSet, NftError> {
        let mut found = ForeignSet::default();
        let asked = self.ask(
            "read a set of the host",
            family.query(kind::GET_SET, false),
            |attrs| {
                attrs.string(1, table);
                attrs.string(2, set);
            },
            |kind, attrs| {
                if kind == kind::NEW_SET {
                    let flags = attrs.find(3)?.map_or(Ok(0), |flags| flags.u32())?;
                    found.ranges = flags & FLAG_INTERVAL != 0;
                }
                Ok(())
            },
        );
        absent_is_empty(asked.map(|()| Vec::<()>::new()))?;
        let asked = self.ask(
            "read the elements of a set of the host",
            family.query(kind::GET_ELEMENTS, true),
            |attrs| {
                attrs.string(1, table);
                attrs.string(2, set);
            },
            |kind, attrs| {
                if kind == kind::NEW_ELEMENTS && found.elements.len() < limit {
                    found.elements.extend(MapElements::read(attrs)?.elements);
                }
                Ok(())
            },
        );
        absent_is_empty(asked.map(|()| Vec::<()>::new()))?;
        Ok(found)
    }
}
