use std::net::IpAddr;
use std::time::Duration;

use weft_overlay::NetnsRef;

/// Bounds of [`Check::interval`] and [`Check::timeout`].
const TIME: (Duration, Duration) = (Duration::from_millis(10), Duration::from_hours(24));

/// How it is found out whether a backend serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is done.
    pub probe: Probe,
    /// From the start of one probe to the start of the next; at least 10 ms, at most a day.
    pub interval: Duration,
    /// A probe that takes longer has failed; at least 10 ms, at most a day.
    pub timeout: Duration,
    /// Failures in a row that make a backend unhealthy; at least 1.
    pub retries: u16,
}

/// One look at a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Succeeds when a TCP connection is accepted.
    Tcp {
        /// Where it listens.
        port: u16,
    },
    /// Succeeds when `GET` over HTTP/1.1 is answered with a status from 200 to 399. No redirect is
    /// followed and no body is read.
    Http {
        /// Where it listens.
        port: u16,
        /// What is asked for, with a leading slash.
        path: String,
    },
    /// Succeeds when a program of the host, run in the backend's network namespace, exits with
    /// status 0. Whatever it left running is ended.
    Exec {
        /// The program and its arguments.
        command: Vec<String>,
    },
}

/// An endpoint that is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it runs.
    pub netns: NetnsRef,
    /// Its own address, which is probed from inside its namespace.
    pub address: IpAddr,
    /// How it is looked at.
    pub check: Check,
}

/// What is known of an endpoint's health since now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Key of its [`Target`].
    pub endpoint: String,
    /// Whether it serves.
    pub healthy: bool,
    /// Why it does not, in one line; `None` when it does.
    pub reason: Option<String>,
}

impl Check {
    /// The check with every number within its bounds.
    pub(super) fn bounded(self) -> Self {
        Self {
            interval: self.interval.clamp(TIME.0, TIME.1),
            timeout: self.timeout.clamp(TIME.0, TIME.1),
            retries: self.retries.max(1),
            probe: self.probe,
        }
    }
}
