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
    /// Changes an element of a map of [`MapTarget::Learned`](super::MapTarget::Learned). To add one
    /// to a map that is full does not match.
    Learn {
        /// How.
        op: LearnOp,
        /// Name of the map.
        map: String,
        /// The key.
        register: Register,
        /// What a new element maps to.
        data: Register,
        /// After how many milliseconds the element expires; the kernel keeps it in its clock ticks,
        /// of which a second is a whole number.
        timeout_ms: u64,
    },
    /// Loads a random number below `modulus`, in host order.
    Random {
        /// One more than the largest.
        modulus: u32,
        /// Where to.
        register: Register,
    },
    /// Loads the next number below `modulus`, in host order: 0 the first time, and 0 again after the
    /// last. The count is the rule's own.
    Counted {
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
    /// Loads a property of the packet's flow, as connection tracking knows it.
    Ct {
        /// Which.
        key: CtKey,
        /// Of which direction's addresses and ports; for keys that are the same in both: none.
        direction: Option<CtDirection>,
        /// Where to.
        register: Register,
    },
    /// Changes a property of the packet's flow.
    SetCt {
        /// Which.
        key: CtKey,
        /// Of which direction; for keys that are the same in both: none.
        direction: Option<CtDirection>,
        /// The new value.
        register: Register,
    },
    /// Gives the packet's flow, if this is its first packet, the time-out that a map says; goes on if
    /// it says any.
    SetTimeout {
        /// Name of the map, of [`MapTarget::Timeout`](super::MapTarget::Timeout).
        map: String,
        /// The key.
        register: Register,
    },
    /// Loads `(source & mask) ^ xor`, where both have the length of the value.
    Bitwise {
        /// The value.
        source: Register,
        /// Bits that are kept.
        mask: Vec<u8>,
        /// Bits that are turned over after that.
        xor: Vec<u8>,
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
    /// Rewrites the source address of the packet's flow, and its port where another flow has it.
    /// Only in a chain of type `nat`; packets of the other address family pass by.
    SourceNat {
        /// Of the address.
        family: NatFamily,
        /// The address.
        address: Register,
    },
    /// Rewrites the source address of the packet's flow to one of the device that it leaves by.
    /// Only in a chain of type `nat` in the postrouting hook.
    Masquerade,
    /// Drops the packet and answers that the port is unreachable (ICMP or ICMPv6).
    RejectPort,
    /// Drops the segment and answers with a TCP reset. Only after TCP was compared for.
    RejectReset,
    /// Loads the largest TCP segment that fits the routes to where the packet goes and to where it comes
    /// from: two bytes in host order. Only where it is known which way the packet leaves.
    RouteSegment {
        /// Where to.
        register: Register,
    },
    /// Loads whether the packet's route goes through a transformation (XFRM), of which it is still ahead:
    /// one byte, 1 or 0.
    RouteTransformed {
        /// Where to.
        register: Register,
    },
    /// Loads two bytes in network order that the register has in host order.
    NetworkOrder {
        /// Which.
        register: Register,
    },
    /// Lowers the largest segment that a TCP segment announces (RFC 9293 section 3.7.1) to two bytes in
    /// network order. Only after TCP was compared for; what announces none does not match.
    LowerSegment {
        /// To what.
        register: Register,
    },
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
    /// It goes on where it came from.
    Return,
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
    /// Mark, four bytes in host order.
    pub const MARK: Self = Self(3);
    /// Index of the device that it came in by, four bytes in host order.
    pub const INPUT_INDEX: Self = Self(4);
    /// Index of the device that it leaves by, four bytes in host order.
    pub const OUTPUT_INDEX: Self = Self(5);
    /// Name of the device that it came in by, 16 bytes padded with zero bytes.
    pub const INPUT_NAME: Self = Self(6);
    /// Name of the device that it leaves by, 16 bytes padded with zero bytes.
    pub const OUTPUT_NAME: Self = Self(7);
    /// Type (`ARPHRD_*`) of the device that it came in by, two bytes in host order.
    pub const INPUT_TYPE: Self = Self(8);
    /// Netfilter's protocol family, one byte.
    pub const NFPROTO: Self = Self(15);
    /// Transport protocol, one byte.
    pub const L4PROTO: Self = Self(16);
    /// Whether the packet came out of a transformation (XFRM): one byte, 1 or 0.
    pub const TRANSFORMED: Self = Self(25);
}

/// The kernel's number of a property of a flow (`enum nft_ct_keys`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtKey(pub u32);

impl CtKey {
    /// What the packet is to its flow, four bytes in host order: one bit each, counted from 0, for
    /// invalid, established, related, new, and (bit 6) untracked.
    pub const STATE: Self = Self(0);
    /// The direction that the packet goes in: one byte, a [`CtDirection`].
    pub const DIRECTION: Self = Self(1);
    /// What became of the flow (`IPS_*`), four bytes in host order.
    pub const STATUS: Self = Self(2);
    /// Mark, four bytes in host order.
    pub const MARK: Self = Self(3);
    /// Destination port, two bytes in network order.
    pub const DESTINATION_PORT: Self = Self(12);
    /// What tells flows with the same addresses and ports from one another, two bytes in host order.
    /// Set before connection tracking, and of one direction at a time.
    pub const ZONE: Self = Self(17);
}

/// A direction of a flow (`enum ip_conntrack_dir`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtDirection(pub u8);

impl CtDirection {
    /// That of its first packet.
    pub const ORIGINAL: Self = Self(0);
    /// The other.
    pub const REPLY: Self = Self(1);
}

/// Where bytes are counted from (`enum nft_payload_bases`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadBase(pub u32);

impl PayloadBase {
    /// The link layer's header: in Ethernet six bytes of destination, then six of source.
    pub const LINK: Self = Self(0);
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
    /// Not equal.
    pub const NE: Self = Self(1);
}

/// A change of an element (`enum nft_dynset_ops`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnOp(pub u32);

impl LearnOp {
    /// Adds an element, or leaves the one of the key as it is.
    pub const ADD: Self = Self(0);
    /// As [`ADD`](Self::ADD), but lets the one of the key, whatever it maps to, expire anew.
    pub const UPDATE: Self = Self(1);
    /// Deletes the element of the key.
    pub const DELETE: Self = Self(2);
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
