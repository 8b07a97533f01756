//! The metrics page: Prometheus' text format 0.0.4 over HTTP/1.1.
//!
//! - [`page`]: the format.
//! - [`server`]: who may ask for how long, and how many at a time.
//!
//! What is on it is the daemon's business.

pub mod page;
pub mod server;

pub use page::{Kind, Page};
pub use server::{Listener, Source, serve};
