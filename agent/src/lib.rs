//! The weft agent and the `weft` command.

pub mod api;
pub mod cli;
pub mod config;
pub mod container;
mod core_dumps;
pub mod daemon;
pub mod dataplane;
pub mod duration;
pub mod exit;
pub mod health;
pub mod lab;
pub mod log;
pub mod metrics;
pub mod name;
pub mod publish;
mod translate;
