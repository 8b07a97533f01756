//! nf_tables over netlink: enough of the protocol to keep one table right.
//!
//! - [`object`], [`map`], [`expr`]: tables, chains, sets, maps and rules as values.
//! - [`timeout`]: connection tracking time-outs, as objects.
//! - [`batch`]: changes collected into one transaction.
//! - [`socket`]: the one socket that commits them and reads objects back.
//!
//! - [`owned`]: one table, and the process that keeps it.
//! - [`content`]: all that is in a table, which it is brought to.
//! - [`foreign`]: reads others' chains, of all families of IP packets.
//!
//! The protocol is described by linux/netfilter/nf_tables.h. Only tables of family `inet` are
//! written.

pub mod batch;
pub mod content;
pub mod expr;
pub mod foreign;
pub mod map;
pub mod object;
pub mod owned;
pub mod socket;
pub mod timeout;

pub use batch::Batch;
pub use content::{Content, Elements, Reconciled};
pub use expr::{
    CompareOp, Counter, CtDirection, CtKey, Expr, LearnOp, MetaKey, NatFamily, PayloadBase,
    Register, Verdict,
};
pub use foreign::{ForeignSet, Step, TableFamily};
pub use map::{Map, MapData, MapElement, MapTarget};
pub use object::{BaseChain, Chain, Hook, KeyType, Rule, Set, Table, TableFlags};
pub use owned::{OwnedTable, Standing, TableError};
pub use socket::{NftSocket, Reading};
pub use timeout::{FlowState, Timeout};

pub use crate::nfnetlink::{Cause, NftError, Refusal};
