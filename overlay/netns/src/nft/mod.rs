//! nf_tables over netlink: enough of the protocol to keep one table right.
//!
//! - [`object`], [`map`], [`expr`]: tables, chains, sets, maps and rules as values.
//! - [`timeout`]: connection tracking time-outs, as objects.
//! - [`batch`]: changes collected into one transaction.
//! - [`socket`]: the one socket that commits them and reads objects back.
//!
//! - [`foreign`]: reads others' chains, of all families of IP packets.
//!
//! The protocol is described by linux/netfilter/nf_tables.h. Only tables of family `inet` are
//! written.

pub mod batch;
pub mod expr;
pub mod foreign;
pub mod map;
pub mod object;
pub mod socket;
pub mod timeout;

pub use batch::Batch;
pub use expr::{
    CompareOp, Counter, CtDirection, CtKey, Expr, LearnOp, MetaKey, NatFamily, PayloadBase,
    Register, Verdict,
};
pub use foreign::{ForeignSet, Step, TableFamily};
pub use map::{Map, MapData, MapElement, MapTarget};
pub use object::{BaseChain, Chain, Hook, KeyType, Rule, Set, Table, TableFlags};
pub use socket::{NftSocket, Reading};
pub use timeout::{FlowState, Timeout};

pub use crate::nfnetlink::{Cause, NftError, Refusal};
