//! Tables, chains, sets and rules as values, and their attributes.

use super::expr::{DATA_VALUE, Expr, LIST_ELEM};
use crate::nfnetlink::attr::{AttrWriter, Attrs, Malformed};

/// A table of family `inet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// Its flags.
    pub flags: TableFlags,
    /// Netlink port of the socket that owns it. As a rule the process id of the owner.
    pub owner: Option<u32>,
}

/// Flags of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFlags(pub u32);

impl TableFlags {
    /// Anybody with the privilege may change the table.
    pub const NONE: Self = Self(0);
    /// `NFT_TABLE_F_OWNER` and `NFT_TABLE_F_PERSIST`: only the owning socket may change the table,
    /// another's flush of the ruleset skips it, and it outlives the socket, after which the next
    /// socket may claim it with the same flags. Linux 6.9 and later.
    pub const OWNED_AND_PERSISTENT: Self = Self(0x2 | 0x4);
    /// What is left of [`OWNED_AND_PERSISTENT`](Self::OWNED_AND_PERSISTENT) when the owner is gone.
    pub const PERSISTENT: Self = Self(0x4);
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where the kernel calls it; none for a chain that only rules jump to.
    pub base: Option<BaseChain>,
}

/// Where the kernel calls a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// The hook.
    pub hook: Hook,
    /// Order among the hook's chains, lowest first.
    pub priority: i32,
    /// Whether what no rule decided is accepted.
    pub accept: bool,
}

/// A netfilter hook (`enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook(pub u32);

impl Hook {
    /// Packets that came in, before it is decided where they go.
    pub const PREROUTING: Self = Self(0);
    /// Packets for this host's own sockets.
    pub const INPUT: Self = Self(1);
    /// Packets that only pass through this host.
    pub const FORWARD: Self = Self(2);
    /// Packets of this host's own sockets.
    pub const OUTPUT: Self = Self(3);
    /// Packets that leave, this host's own and others'.
    pub const POSTROUTING: Self = Self(4);
}

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// What its keys are called by `nft list`.
    pub key_type: KeyType,
    /// Bytes of a key.
    pub key_len: u32,
    /// Most elements. A set with a limit keeps the order of its dump when it grows.
    pub size: Option<u32>,
}

/// Bits of a type in that of values side by side.
const FIELD_BITS: u32 = 6;
const FIELD_MASK: u32 = (1 << FIELD_BITS) - 1;

/// A data type of the `nft` program; the kernel stores it without looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyType(pub u32);

impl KeyType {
    /// `ipv4_addr`.
    pub const IPV4_ADDR: Self = Self(7);
    /// `ipv6_addr`.
    pub const IPV6_ADDR: Self = Self(8);
    /// `ether_addr`.
    pub const ETHER_ADDR: Self = Self(9);
    /// `inet_proto`.
    pub const PROTOCOL: Self = Self(12);
    /// `inet_service`.
    pub const PORT: Self = Self(13);
    /// `mark`: a number in host order.
    pub const MARK: Self = Self(19);
    /// `classid`: what the priority of a packet is shown as.
    pub const CLASS_ID: Self = Self(23);
    /// `ifname`: the name of a device, 16 bytes padded with zero bytes.
    pub const DEVICE: Self = Self(41);

    /// The type of values side by side, at most five.
    pub fn concat(fields: &[Self]) -> Self {
        let number = fields
            .iter()
            .fold(0, |sum, field| sum << FIELD_BITS | field.0);
        Self(number)
    }

    /// Bytes of each of the values side by side, without padding; four of one that has no constant
    /// here.
    pub(super) fn field_lens(self) -> Vec<u32> {
        let fields = (0..u32::BITS / FIELD_BITS).rev();
        let fields = fields.map(|field| self.0 >> (field * FIELD_BITS) & FIELD_MASK);
        let named = fields.map(Self).skip_while(|field| field.0 == 0);
        let lens = named.map(|field| match field {
            Self::PROTOCOL => 1,
            Self::PORT => 2,
            Self::ETHER_ADDR => 6,
            Self::IPV6_ADDR | Self::DEVICE => 16,
            _ => 4,
        });
        lens.collect()
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its steps.
    pub exprs: Vec<Expr>,
}

/// An object that travels as the attributes of a message.
pub(super) trait Object: Sized {
    fn write(&self, attrs: &mut AttrWriter);
    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed>;
}

impl Object for Table {
    fn write(&self, attrs: &mut AttrWriter) {
        attrs.string(1, &self.name);
        attrs.u32(2, self.flags.0);
    }

    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let mut table = Self {
            name: String::new(),
            flags: TableFlags::NONE,
            owner: None,
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => table.name = attr.string(),
                2 => table.flags = TableFlags(attr.u32()?),
                7 => table.owner = Some(attr.u32()?),
                _ => {}
            }
        }
        Ok(table)
    }
}

impl Object for Chain {
    fn write(&self, attrs: &mut AttrWriter) {
        attrs.string(1, &self.table);
        attrs.string(3, &self.name);
        if let Some(base) = &self.base {
            attrs.nested(4, |hook| {
                hook.u32(1, base.hook.0);
                hook.u32(2, base.priority.cast_unsigned());
            });
            attrs.u32(5, u32::from(base.accept));
            attrs.string(7, &base.kind);
        }
    }

    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let (mut table, mut name) = (String::new(), String::new());
        let (mut hook, mut kind, mut accept) = (None, String::new(), true);
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => table = attr.string(),
                3 => name = attr.string(),
                4 => {
                    let number = attr.nested().find(1)?.ok_or(Malformed)?.u32()?;
                    let priority = attr.nested().find(2)?.ok_or(Malformed)?.u32()?;
                    hook = Some((Hook(number), priority.cast_signed()));
                }
                5 => accept = attr.u32()? == 1,
                7 => kind = attr.string(),
                _ => {}
            }
        }
        let base = hook.map(|(hook, priority)| BaseChain {
            kind,
            hook,
            priority,
            accept,
        });
        Ok(Self { table, name, base })
    }
}

impl Object for Set {
    fn write(&self, attrs: &mut AttrWriter) {
        attrs.string(1, &self.table);
        attrs.string(2, &self.name);
        attrs.u32(3, 0);
        attrs.u32(4, self.key_type.0);
        attrs.u32(5, self.key_len);
        if let Some(size) = self.size {
            attrs.nested(9, |description| description.u32(1, size));
        }
        // An id within the transaction; required, though rules find the set by name.
        attrs.u32(10, 1);
    }

    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let (table, name) = (String::new(), String::new());
        let mut set = Self {
            table,
            name,
            key_type: KeyType(0),
            key_len: 0,
            size: None,
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => set.table = attr.string(),
                2 => set.name = attr.string(),
                4 => set.key_type = KeyType(attr.u32()?),
                5 => set.key_len = attr.u32()?,
                9 => set.size = attr.nested().find(1)?.map(|size| size.u32()).transpose()?,
                _ => {}
            }
        }
        Ok(set)
    }
}

impl Object for Rule {
    fn write(&self, attrs: &mut AttrWriter) {
        attrs.string(1, &self.table);
        attrs.string(2, &self.chain);
        attrs.nested(4, |list| {
            for expr in &self.exprs {
                expr.write(list);
            }
        });
    }

    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let (table, chain) = (String::new(), String::new());
        let mut rule = Self {
            table,
            chain,
            exprs: Vec::new(),
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => rule.table = attr.string(),
                2 => rule.chain = attr.string(),
                4 => {
                    for elem in attr.nested() {
                        rule.exprs.push(Expr::read(elem?)?);
                    }
                }
                _ => {}
            }
        }
        Ok(rule)
    }
}

/// Keys of a set, as they travel in messages of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Elements {
    pub(super) table: String,
    pub(super) set: String,
    pub(super) keys: Vec<Vec<u8>>,
}

impl Object for Elements {
    fn write(&self, attrs: &mut AttrWriter) {
        attrs.string(1, &self.table);
        attrs.string(2, &self.set);
        attrs.nested(3, |list| {
            for key in &self.keys {
                list.nested(LIST_ELEM, |elem| {
                    elem.nested(1, |data| data.bytes(DATA_VALUE, key));
                });
            }
        });
    }

    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let mut elements = Self {
            table: String::new(),
            set: String::new(),
            keys: Vec::new(),
        };
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => elements.table = attr.string(),
                2 => elements.set = attr.string(),
                3 => {
                    for elem in attr.nested() {
                        // An element without a key is the set's catch-all.
                        if let Some(data) = elem?.nested().find(1)? {
                            let value = data.nested().find(DATA_VALUE)?.ok_or(Malformed)?;
                            elements.keys.push(value.value.to_vec());
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests;
