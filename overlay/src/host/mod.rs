//! What the agent must know of its host: addresses, links, routes and path MTUs, read over
//! rtnetlink in the network namespace of the calling thread, word that one of them changed, and what
//! the paths to other hosts really carry ([`PathSearch`], [`EchoSocket`]).
//!
//! Reading ([`facts`], [`mtu_to`]) and choosing ([`HostFacts::pick_advertise`] and its siblings)
//! are apart: choosing is pure and works on any [`HostFacts`].

mod echo;
mod facts;
pub mod firewall;
mod monitor;
mod path;
mod pick;
mod read;
mod routes;
mod search;

pub use echo::EchoSocket;
pub use facts::{HostAddress, HostError, HostFacts, HostLink, is_own_link};
pub use monitor::{HostMonitor, monitor};
pub use path::mtu_to;
pub use pick::{PickError, Purpose};
pub use read::facts;
pub use routes::ROUTES_MAX;
pub use search::PathSearch;
