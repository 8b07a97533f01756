//! Expressions of a rule (linux/netfilter/nf_tables.h `enum nft_*_attributes`).

mod codec;

pub(super) use codec::{DATA_VALUE, LIST_ELEM, read_verdict, write_verdict};

/// A step of a rule; the rule ends at the first that does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a property of the packet.
    Meta {
        /// Which.
        key: MetaKey,
        /// Where to.
        register: Register,
    },
    /// Loads bytes of the packet.
    Payload {
        /// Counted from where.
        base: PayloadBase,
        /// First byte.
        offset: u32,
        /// How many.
        len: u32,
        /// Where to.
        register: Register,
    },
    /// Goes on if the register's value compares so.
    Compare {
        /// Left side.
        register: Register,
        /// How.
        op: CompareOp,
        /// Right side.
        value: Vec<u8>,
    },
    /// Goes on if the register's value is in a set (or is not, if `inverted`).
    Lookup {
        /// Name of the set.
        set: String,
        /// The value.
        register: Register,
        /// Not in the set.
        inverted: bool,
    },
    /// Loads a constant, padded with zero bytes to a multiple of four.
    Immediate {
        /// The bytes, at most 16.
        value: Vec<u8>,
        /// Where to.
        register: Register,
    },
    /// Changes a property of the packet.
    SetMeta {
        /// Which.
        key: MetaKey,
        /// The new value.
        register: Register,
    },
    /// Loads what a map says of the register's value; goes on if it says anything.
    MapLookup {
        /// Name of the map.
        map: String,
        /// The key.
        register: Register,
        /// Where to.
        target: Register,
    },
    /// Does what a verdict map says of the register's value; goes on if it says nothing.
    VerdictMap {
        /// Name of the map.
        map: String,
        /// The key.
        register: Register,
    },
    /// Loads a random number below `modulus`, in host order.
    Random {
        /// One more than the largest.
        modulus: u32,
        /// Where to.
        register: Register,
    },
    /// Loads a hash (jhash) below `modulus`, in host order.
    Hash {
        /// First register of what is hashed.
        source: Register,
        /// Bytes of what is hashed.
        len: u32,
        /// One more than the largest.
        modulus: u32,
        /// What the hash starts with; none lets the kernel choose one.
        seed: Option<u32>,
        /// Where to.
        register: Register,
    },
    /// Loads the kind of route (`RTN_*`) to the packet's destination, in host order.
    RouteType {
        /// Where to.
        register: Register,
    },
    /// Rewrites the destination of the packet's flow. Only in a chain of type `nat`; packets of the
    /// other address family pass by.
    DestinationNat {
        /// Of the address.
        family: NatFamily,
        /// The address.
        address: Register,
        /// The port, in network order; none leaves it as it is, whatever the protocol.
        port: Option<Register>,
    },
    /// Drops the packet and answers that the port is unreachable (ICMP or ICMPv6).
    RejectPort,
    /// Drops the segment and answers with a TCP reset. Only after TCP was compared for.
    RejectReset,
    /// Counts what comes this far.
    Counter(Counter),
    /// Ends the chain, or goes to another.
    Verdict(Verdict),
    /// Something that this module does not speak of.
    Other(String),
}

/// Packets and bytes counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What happens to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is dropped.
    Drop,
    /// It goes on to the next base chain.
    Accept,
    /// It goes through the named chain, and then on here.
    Jump(String),
    /// It goes through the named chain instead of what is left here.
    Goto(String),
}

/// The address family of a rewritten address (`NFPROTO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatFamily(pub u32);

impl NatFamily {
    /// IPv4.
    pub const IPV4: Self = Self(2);
    /// IPv6.
    pub const IPV6: Self = Self(10);
}

/// The kernel's number of a property (`enum nft_meta_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaKey(pub u32);

impl MetaKey {
    /// Priority for queueing, four bytes in host order.
    pub const PRIORITY: Self = Self(2);
    /// Netfilter's protocol family, one byte.
    pub const NFPROTO: Self = Self(15);
    /// Transport protocol, one byte.
    pub const L4PROTO: Self = Self(16);
}

/// Where bytes are counted from (`enum nft_payload_bases`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadBase(pub u32);

impl PayloadBase {
    /// The IP header.
    pub const NETWORK: Self = Self(1);
    /// The transport header. Fragments after the first have none and do not match.
    pub const TRANSPORT: Self = Self(2);
}

/// A comparison (`enum nft_cmp_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompareOp(pub u32);

impl CompareOp {
    /// Equal.
    pub const EQ: Self = Self(0);
}

/// Where a value starts among the 16 slots of four bytes that a rule works with. A longer value
/// takes the slots that follow, and values side by side form a concatenated key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub u32);

impl Register {
    /// The first (`NFT_REG_1`).
    pub const R1: Self = Self::slot(0);

    /// The slot with that number, below 16, by the name that the kernel gives back: every fourth
    /// one is called by its older name as a register of 16 bytes (`NFT_REG_1` to `NFT_REG_4`), the
    /// others by their own (from `NFT_REG32_00` on).
    pub const fn slot(index: u32) -> Self {
        if index.is_multiple_of(4) {
            Self(1 + index / 4)
        } else {
            Self(8 + index)
        }
    }
}
