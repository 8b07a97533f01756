//! Consensus among the managers: what the Raft library is given of storage, network and state.

mod group;
mod machine;
mod network;
mod types;

pub(crate) use group::{Group, GroupConfig, WriteError};
#[cfg(test)]
pub(crate) use machine::{Machine, Replica};
pub(crate) use types::*;
