//! Segmentation and receive offload of the user-space data path, without a device in sight.
//!
//! A TAP hands over super-packets of up to 64 KiB with a virtio network header that says how to
//! take them apart ([`vnet`]). What comes from the kernel's VXLAN device has an outer header in
//! front ([`outer`]). [`Segments`] writes the packets that are on the wire, one after the other, and
//! [`Coalescer`] makes super-packets of those that come in.
//!
//! Two forms of the data path share all of it. With the kernel's VXLAN device, packets on the TAP
//! are Ethernet, IP, UDP, VXLAN and the inner frame, and the virtio header has 24 bytes. Without,
//! the TAP is a bridge port: they are the inner frame alone, and it has 10 or 12. What is sealed is
//! the same: UDP, VXLAN, frame ([`crate::inner`]).
//!
//! Everything that comes in is taken for hostile, what the kernel says included: offsets are looked
//! up, not trusted, and what cannot be dealt with is refused by a [`Rejection`] that has a counter.

pub mod checksum;
mod coalesce;
pub(crate) mod frame;
pub mod outer;
mod rejection;
mod segment;
pub mod vnet;

#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) mod test_frames;
#[cfg(test)]
mod tests;

pub use coalesce::{Arrival, Coalescer, Config, Form, MAX_PIECES, Merged};
pub use rejection::{Rejection, RejectionCounters};
pub use segment::{MAX_SEGMENTS, Segments};
