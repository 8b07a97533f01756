//! Connections that a process passes on instead of the kernel, because a header goes in front of
//! them: the PROXY protocol, by which a backend learns the client's address from the stream.
//!
//! Here is what is decided, without any socket or clock: what the process is to do
//! ([`RelaySpec`]), how it gets there from what it does ([`plan`]), who takes a connection
//! ([`Chooser`]), and the header's bytes ([`header`]).

mod chooser;
pub mod header;
mod plan;
mod spec;

pub use chooser::Chooser;
pub use plan::{Plan, Use, plan};
pub use spec::{LISTENERS_MAX, Listener, Member, RelaySpec, RelaySpecError, Scheduler, check};
