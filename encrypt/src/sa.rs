//! Security associations: one key, one direction.

mod inbound;
mod limits;
mod outbound;
mod table;

pub use inbound::{InboundSa, Opened};
pub use limits::{Limits, LimitsError, RekeyReason};
pub use outbound::{OutboundSa, Reserved, SealError, Sealed};
pub use table::{Entry, InboundTable, InsertError, MAX_ASSOCIATIONS};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
