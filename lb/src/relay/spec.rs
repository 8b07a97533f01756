//! What the process should do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::BACKENDS_MAX;

/// Most listening sockets: two families of as many ports as a service's limits let one expect.
pub const LISTENERS_MAX: usize = 8192;

/// Listening sockets, by the address that they listen on.
pub type RelaySpec = BTreeMap<SocketAddr, Listener>;

/// One listening socket and who takes its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// How a backend is chosen.
    pub scheduler: Scheduler,
    /// With it a client, known by its address, stays with its backend until it had no new connection
    /// for that long, in seconds.
    pub affinity_s: Option<u32>,
    /// Largest TCP segment in bytes that either side may send, where the way to clients is narrower
    /// than the host's own.
    pub mss: Option<u16>,
    /// Backends, by where they are connected to.
    pub backends: BTreeMap<SocketAddr, Member>,
}

/// A backend of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Member {
    /// Its part of the new connections. With 0 it keeps those that it has, and gets new ones only when
    /// there is none with more.
    pub weight: u16,
    /// Tells it from another that has its address later.
    pub tag: u64,
}

/// How a backend is chosen for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scheduler {
    /// In turns, whatever the weights.
    RoundRobin,
    /// In turns, each as often as its weight says.
    WeightedRoundRobin,
    /// At random, in proportion to the weights.
    Random,
    /// By a hash of the client's address.
    SourceHash,
    /// By a hash of the client's address and port into a Maglev table.
    Maglev,
    /// The one with the fewest connections for its weight.
    LeastConnections,
}

/// A wanted content that no process takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelaySpecError {
    /// Too many listening sockets.
    #[error("{count} listeners refused: the relay takes at most {LISTENERS_MAX}")]
    TooManyListeners {
        /// How many.
        count: usize,
    },
    /// Too many backends of one.
    #[error("{count} backends of listener {listener} refused: it takes at most {BACKENDS_MAX}")]
    TooManyBackends {
        /// Of which.
        listener: SocketAddr,
        /// How many.
        count: usize,
    },
    /// Port 0, which is no port.
    #[error("address {address} refused: it must have a port")]
    NoPort {
        /// Which.
        address: SocketAddr,
    },
}

impl Listener {
    pub(super) fn affinity(&self) -> Option<Duration> {
        self.affinity_s
            .map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Who takes new connections, with their weights. Those without only when there is nobody else:
    /// who sent the connection here may know of a change a moment sooner or later, and whoever is
    /// there then is better than a refusal.
    pub(super) fn active(&self) -> Vec<(SocketAddr, u16)> {
        let all = || self.backends.iter();
        let weighted: Vec<_> = all()
            .filter(|(_, member)| member.weight > 0)
            .map(|(address, member)| (*address, member.weight))
            .collect();
        match weighted.is_empty() {
            true => all().map(|(address, _)| (*address, 1)).collect(),
            false => weighted,
        }
    }
}

/// Whether a process takes this content.
///
/// # Errors
/// [`RelaySpecError`], for the first thing that is wrong.
pub fn check(spec: &RelaySpec) -> Result<(), RelaySpecError> {
    let count = spec.len();
    if count > LISTENERS_MAX {
        return Err(RelaySpecError::TooManyListeners { count });
    }
    for (listener, wanted) in spec {
        let count = wanted.backends.len();
        if count > BACKENDS_MAX {
            let listener = *listener;
            return Err(RelaySpecError::TooManyBackends { listener, count });
        }
        let mut addresses = std::iter::once(listener).chain(wanted.backends.keys());
        if let Some(&address) = addresses.find(|address| address.port() == 0) {
            return Err(RelaySpecError::NoPort { address });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_process_takes_is_refused_by_name() {
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let listener = |count: u16| Listener {
            scheduler: Scheduler::RoundRobin,
            affinity_s: None,
            mss: None,
            backends: (1..=count)
                .map(|port| (at(port), Member { weight: 1, tag: 0 }))
                .collect(),
        };
        let refused = |spec: &RelaySpec| check(spec).unwrap_err().to_string();
        assert_eq!(check(&[(at(80), listener(512))].into()), Ok(()));
        assert!(refused(&[(at(0), listener(1))].into()).contains("must have a port"));
        assert_eq!(
            refused(&[(at(80), listener(513))].into()),
            "513 backends of listener 10.0.0.1:80 refused: it takes at most 512"
        );
        let many = (1..=8193).map(|port| (at(port), listener(0))).collect();
        assert!(refused(&many).contains("8193 listeners refused"));
    }
}
