//! Network namespaces and the sockets that weft opens inside them.
//!
//! A thread's network namespace is never changed unless the thread was started for that and ends
//! with it: an async runtime's workers stay where the process started.

pub mod conntrack;
mod namespace;
mod nfnetlink;
pub mod nft;
pub mod rtnl;
mod sockets;

pub use namespace::{
    Entry, EntryState, Identity, Netns, NetnsError, create, delete, entry_state, list,
};
