//! nf_tables over netlink: enough of the protocol to keep one table right.
//!
//! - [`attr`]: netlink attributes, written and read.
//! - [`message`]: netlink messages, as the kernel sends them.
//! - [`object`], [`map`], [`expr`]: tables, chains, sets, maps and rules as values.
//! - [`batch`]: changes collected into one transaction.
//! - [`socket`]: the one socket that commits them and reads objects back.
//!
//! The protocol is described by linux/netfilter/nf_tables.h and nfnetlink.h; scalars in it are
//! big-endian. Only tables of family `inet` are spoken of. Whatever the kernel sends is parsed with
//! checked bounds: malformed input is an error, never a panic.

pub mod attr;
pub mod batch;
mod error;
pub mod expr;
pub mod map;
pub mod message;
pub mod object;
pub mod socket;

pub use batch::Batch;
pub use error::NftError;
pub use expr::{
    CompareOp, Counter, CtDirection, CtKey, Expr, LearnOp, MetaKey, NatFamily, PayloadBase,
    Register, Verdict,
};
pub use map::{Map, MapData, MapElement, MapTarget};
pub use object::{BaseChain, Chain, Hook, KeyType, Rule, Set, Table, TableFlags};
pub use socket::{NftSocket, Reading};
