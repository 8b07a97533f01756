//! Whether the backends of services serve: probes, made inside each backend's network namespace.
//!
//! `schedule` is the pure core: it says when to probe what and what a result means.
//! [`Prober`] performs. It knows nothing of the cluster: it is told what to look at and tells
//! what it finds.

mod check;
mod probe;
mod prober;
mod schedule;

pub use check::{Check, Probe, Target, Verdict};
pub use prober::Prober;
pub use schedule::Counters;
