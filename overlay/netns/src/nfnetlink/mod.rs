//! The netlink protocol of netfilter's subsystems (linux/netfilter/nfnetlink.h); scalars in it are
//! big-endian. Whatever the kernel sends is parsed with checked bounds: malformed input is an error,
//! never a panic.

pub(crate) mod attr;
mod error;
mod link;
pub(crate) mod message;

pub use error::{Cause, NftError};
pub(crate) use link::{Link, Query};
pub use message::Refusal;
