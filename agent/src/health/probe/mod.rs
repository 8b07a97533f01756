//! One look at one endpoint. Why it failed is one line for a person.

mod connection;
mod exec;
mod http;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::check::{Probe, Target};

/// Longest reason, in characters.
const MAX_REASON: usize = 200;

/// Probes a target.
pub(super) async fn perform(target: &Target, run_dir: &Path) -> Result<(), String> {
    let timeout = target.check.timeout;
    let at = |port| SocketAddr::new(target.address, port);
    let outcome = match &target.check.probe {
        Probe::Tcp { port } => connection::open(&target.netns, at(*port), timeout)
            .await
            .map(drop),
        Probe::Http { port, path } => http::get(&target.netns, at(*port), path, timeout).await,
        Probe::Exec { command } => exec::run(run_dir, &target.netns, command, timeout).await,
    };
    outcome.map_err(|reason| one_line(&reason))
}

fn late(what: impl std::fmt::Display, timeout: Duration) -> String {
    format!("{what} within {timeout:?}")
}

fn one_line(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(shown).take(MAX_REASON).collect()
}
