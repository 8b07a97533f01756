//! The data-plane process: what cannot live in the kernel and must go on when the agent is gone.
//!
//! That is the relay: connections of published ports whose backends want a PROXY protocol header
//! ([`weft_lb::relay`]); names inside containers ([`weft_lb::dns`]); and encrypted networks where the
//! kernel has no ESP ([`weft_encrypt::userspace`]). The process is told completely what is wanted, does it, and says what
//! it does; it decides nothing else and keeps nothing on disk. Whoever speaks to it over its socket is
//! the agent, any number of agents one after the other, or its own successor.
//!
//! # Upgrade
//!
//! A process that starts asks those that run to hand over their listening sockets and those in containers (`SCM_RIGHTS`,
//! unix(7)), so that at every moment somebody accepts. It then makes `dataplane.sock`, a symbolic link,
//! lead to its own socket and tells the others that they have been succeeded. These finish their
//! connections and end. Should it die on the way, the others have lost nothing, and the next one does
//! the same again.
//!
//! Encrypted networks are carried by one process alone, since no sequence number may be used twice:
//! the old one stops, and then gives keys, sequence numbers and descriptors away. Packets wait in the
//! descriptors' queues meanwhile. Should the new one die before it has begun, the agent finds no keys
//! in the next one, and agrees on new ones with its peers.

pub(crate) mod client;
mod connection;
mod descriptors;
pub(crate) mod dns;
mod esp;
mod identity;
mod listening;
mod place;
mod process;
mod relay;
pub(crate) mod wire;

use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) use identity::build;
pub(crate) use place::Place;

use crate::config::{Config, LogFormat, Overrides};

/// Runs the process until there is nothing left for it to do, or it is killed.
///
/// # Errors
/// When it cannot be set up. What others do then goes on.
pub fn run(
    run_dir: Option<PathBuf>,
    log_format: Option<LogFormat>,
    log_level: Option<String>,
) -> Result<ExitCode, anyhow::Error> {
    let config = Config::load(Overrides {
        run_dir,
        log_format,
        log_level,
        ..Overrides::default()
    })?;
    crate::log::init(&config)?;
    process::run(Place::new(&config.run_dir))?;
    Ok(ExitCode::SUCCESS)
}
