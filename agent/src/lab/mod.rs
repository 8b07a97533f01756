//! Clusters of several hosts on one machine: `weft lab`.
//!
//! A lab is one supervisor process in its own mount, network, pid, ipc and uts namespaces (and a
//! user namespace where the caller is not root), as process 1 of its pid namespace. The underlay
//! is a bridge there. Every host has its own network, mount and uts namespace, kept by a holder
//! process, with its own `/run`, `/etc`, `/var/lib` and `/sys` over the machine's files. Agents are
//! children of the supervisor. So nothing of a lab is ever in the namespaces of the machine, and
//! whatever way the lab ends, the kernel takes all of it away.
//!
//! ```text
//! owner (weft lab up, a test)
//!  └─ launcher   unshares; waits; removes the lab's directory at the end
//!      └─ supervisor   process 1; bridge `underlay`; control socket; reaps
//!          ├─ holder of h1 (eth0 198.18.0.1/24) ─ agent of h1, containers of h1
//!          ├─ holder of h2 ...
//!          └─ holder of outside (198.18.0.254)
//! ```

mod cluster;
mod control;
mod demo;
mod dirs;
mod enter;
mod error;
mod exec;
mod helper;
mod holder;
mod host;
#[expect(clippy::module_inception, reason = "a lab is the main thing in it")]
mod lab;
mod launch;
mod options;
mod ping;
mod running;
mod supervisor;
mod underlay;
mod verbs;
mod watch;
mod web;

pub use control::{AgentStatus, Cable, HostStatus, LabStatus};
pub use dirs::{DEFAULT_NAME, LabDir};
pub use error::LabError;
pub use exec::exec;
pub use helper::internal;
pub use host::Host;
pub use lab::{Lab, down};
pub use options::{AgentArg, LabOptions};
pub use ping::{PingReport, PingSpec, Pinger};
pub use running::Running;
pub use verbs::run;
pub use watch::WatchReport;
pub use web::{Answer, FetchSpec, PullSpec, Pulled, ServeSpec, serve};

/// Most hosts with an agent in one lab.
pub const HOSTS_MAX: u8 = 50;
/// What transfers and pings carry, so that it is found where it should not be.
pub const PATTERN: u8 = 0x77;
/// Name of the host without an agent.
pub const OUTSIDE: &str = "outside";
