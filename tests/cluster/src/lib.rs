//! What cluster tests and benchmarks share: labs of real agents, and readers of the kernel that are
//! not weft.
//!
//! A test binary is its own `weft`: it carries the agent as a library and behaves as the command
//! when it is called by that name, so what is tested is always what was just built.

pub mod api;
pub mod backend;
pub mod capture;
pub mod cluster;
pub mod conform;
pub mod echo;
pub mod flows;
pub mod forge;
pub mod ghost;
pub mod harm;
pub mod junk;
pub mod kernel;
pub mod neighbours;
pub mod picture;
pub mod ping;
pub mod probe;
pub mod random;
mod rate;
pub mod rogue;
pub mod signals;
pub mod talk;
pub mod traffic;
pub mod weft;
pub mod wiretap;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Longest that a condition is waited for: far above what it takes, for machines under load.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; fails with what it last said.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(error) if started.elapsed() > PATIENCE => {
                bail!("{what}: not within {PATIENCE:?}: {error:#}")
            }
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}
