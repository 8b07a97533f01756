//! Names of networks and services, answered to containers (RFC 1034, RFC 1035).
//!
//! The core of a server, without sockets, clock or random numbers:
//!
//! - [`Zone`]: what the names of one network mean. [`Site`]: which zones a container may ask.
//! - [`resolve`]: from a site and a packet to a packet, or to a [`Query`] that is for others.
//! - [`Exchange`]: such a query on its way through the host's resolvers, which [`ResolvConf`] names.
//! - [`Budget`]: how many of them one container may have.
//!
//! Answers about names of zones are authoritative and never come from anywhere else: a name of a
//! network that the container is on, or a reverse name of one of its addresses, that nothing has does
//! not exist, whatever other resolvers know.
//!
//! The wire format is the `domain` crate's.

mod budget;
mod exchange;
mod packet;
mod resolv_conf;
mod site;
#[cfg(test)]
mod tests;

pub use budget::Budget;
pub use exchange::{Exchange, Policy, Step};
pub use packet::{Kind, Query, Transport, Verdict, resolve};
pub use resolv_conf::{NameServer, OWN_ADDRESS, ResolvConf};
pub use site::{Site, Target, Zone};

/// How long an answer about a name of a zone may be kept, in seconds.
pub const TTL_S: u32 = 5;
/// Longest answer over UDP, and what clients are told that this side takes, in bytes. Nothing leaves the
/// host's memory, so no packet is lost for its size.
pub const UDP_MAX: u16 = 4096;
/// What other resolvers are told to send at most over UDP, in bytes: what passes everywhere in one piece.
pub const UPSTREAM_UDP_MAX: u16 = 1232;
/// Longest message over TCP in bytes (RFC 1035 section 4.2.2).
pub const TCP_MAX: u16 = u16::MAX;
