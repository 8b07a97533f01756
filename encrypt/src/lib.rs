//! Encrypted networks: ESP (RFC 4303) in UDP (RFC 3948) with AES-256-GCM (RFC
//! 4106) around VXLAN datagrams.
//!
//! # What is here
//! - [`esp`]: the bytes of a packet, and of what else may come on its port.
//! - [`sa`]: outbound and inbound security associations, which seal and open in place.
//! - [`replay`]: the replay window and extended sequence numbers.
//! - [`keys`]: keys from what a TLS session exports.
//! - [`rotation`]: how two peers change keys, and sessions, without losing a packet.
//! - [`forwarding`]: where frames go, and answers to ARP and ND, without the kernel's VXLAN device.
//! - [`inner`]: the VXLAN datagram that is wrapped.
//! - [`mtu`]: what is left of the underlay's MTU.
//! - [`offload`]: super-packets taken apart and put together, checksums, virtio network headers.
//! - [`path`]: what a data path has to be and is, whichever it is.
//! - [`host`]: what the host has around a data path, so that nothing is ever in clear.
//! - [`userspace`]: the data path of this process: a TAP, a UDP socket and threads between them.
//! - [`kernel`]: the data path of the kernel: its associations and policies.
//! - Counters of packets dropped, by [cause](Refusal).
//!
//! All but the last three is pure: buffers, times, key material and SPIs come from the caller.
//!
//! Whoever uses it takes the secrets of sessions from elsewhere, and carries [`rotation`]'s messages
//! over them.
//!
//! It speaks kernel words (addresses, ports, SPIs) and depends on no crate of the workspace
//! but `weft-netns`.

mod aead;
mod counters;
pub mod esp;
pub mod forwarding;
pub mod host;
pub mod inner;
pub mod kernel;
pub mod keys;
pub mod mtu;
pub mod offload;
pub mod path;
pub mod replay;
pub mod rotation;
pub mod sa;
pub mod userspace;

#[cfg(test)]
mod test_util;

pub use counters::{InboundCounters, OutboundCounters, Refusal};
