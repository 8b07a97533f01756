//! The local API: HTTP/1.1 and JSON over a Unix socket.
//!
//! [`types`] is what is spoken, [`Backend`] what the agent must be able to do, [`client`] how the
//! command line asks.

mod backend;
pub mod client;
#[cfg(test)]
pub(crate) mod fake;
pub mod lookup;
pub mod server;
pub mod socket;
pub mod types;

use std::time::Duration;

pub use backend::{Backend, Events, Reply, WaitFor};

/// Longest that the agent works on a request, waits and event streams apart. A join may have to
/// try several managers.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest that one request waits for kernels to catch up.
pub const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Longest that a detach takes: the longest that a backend may be drained, and what comes before
/// and after.
pub const DETACH_TIMEOUT: Duration = Duration::from_secs(3600 + 60);
/// How long a wait may take when it is not told.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(30);
