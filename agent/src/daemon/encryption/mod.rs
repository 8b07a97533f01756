//! Encrypted networks on this node: agrees on keys with the agents of the nodes that it shares such
//! networks with, and has a data path carry what they protect.
//!
//! ```text
//!  translate ─ Wanted ─▶ keeper ◀─ sessions, messages ─▶ agents of the peers (QUIC)
//!                          │ ▲
//!                    keys  ▼ │ what it carries
//!                        data path (data-plane process, or the kernel)
//! ```
//!
//! Fail closed: the host's part (the packet filter, the routes that end in nothing) is there before
//! [`Encryptor::want`] says that encrypted networks may be programmed. From then on whatever does not
//! work, and however the agent or the data path ends, loses packets and sends none in clear.
//!
//! Keys are derived here and are with the data path alone; a session's secret is here while the session
//! lasts. An agent that starts finds what the data path holds and goes on with it until the new
//! sessions have brought other keys.

mod keeper;
mod path;
mod peer;
mod report;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_encrypt::path::PathSpec;
use weft_raft::control::ControlPlane;
use weft_raft::model::NodeId;

use super::dataplane::Dataplane;
use crate::config::Config;
use crate::translate::Encryption;
use keeper::Keeper;
pub(super) use report::{EncryptionReport, PeerReport, Protection};

/// How long the rest of a node waits for the host's part.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a node's encrypted networks need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// This node.
    pub(super) node: NodeId,
    /// What the data path has to be, and whom keys are agreed on with.
    pub(super) encryption: Encryption,
}

/// What clear datagrams of encrypted networks are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    local: IpAddr,
    inner_port: u16,
}

impl Place {
    fn of(spec: &PathSpec) -> Self {
        let (local, inner_port) = (spec.local, spec.inner_port);
        Self { local, inner_port }
    }
}

#[derive(Clone, Debug, Default)]
struct Numbered {
    /// Zero until something was wanted, be it nothing: what an earlier agent left goes on until then.
    number: u64,
    wanted: Option<Arc<Wanted>>,
}

/// The keeper of encrypted networks as the rest of the agent sees it. Dropping this leaves the data
/// path alone.
#[derive(Debug)]
pub(super) struct Encryptor {
    wanted: watch::Sender<Numbered>,
    /// The last time that nothing was wanted: what was closed before may have been opened since.
    opened: u64,
    report: watch::Receiver<Arc<EncryptionReport>>,
    task: JoinHandle<()>,
}

impl Encryptor {
    /// Wants nothing yet. To be called inside a tokio runtime.
    pub(super) fn start(config: &Config, control: &ControlPlane, dataplane: &Dataplane) -> Self {
        let (wanted, follow) = watch::channel(Numbered::default());
        let (sender, report) = watch::channel(Arc::default());
        let keeper = Keeper::new(config, control, dataplane, follow, sender);
        let task = tokio::spawn(keeper.keep());
        Self {
            wanted,
            opened: 0,
            report,
            task,
        }
    }

    /// Where the latest report can be read.
    pub(super) fn reports(&self) -> watch::Receiver<Arc<EncryptionReport>> {
        self.report.clone()
    }

    /// Has exactly this carried, and waits until encrypted networks may be programmed: until nothing
    /// of them can leave or come in clear. Whether peers are reached already is another matter.
    ///
    /// # Errors
    /// In one line, when that cannot be made sure of; it is tried again.
    pub(super) async fn want(&mut self, wanted: Option<Wanted>) -> Result<(), String> {
        let place = wanted
            .as_ref()
            .map(|wanted| Place::of(&wanted.encryption.path));
        let mut number = 0;
        self.wanted.send_if_modified(|now| {
            number = now.number;
            if now.number > 0 && now.wanted.as_deref() == wanted.as_ref() {
                return false;
            }
            now.number += 1;
            now.wanted = wanted.map(Arc::new);
            number = now.number;
            true
        });
        if place.is_none() {
            self.opened = number;
        }
        // What keeps clear datagrams from leaving depends on nothing else.
        let opened = self.opened;
        let is_told = |report: &Arc<EncryptionReport>| {
            let is_closed = place.is_some() && report.closed == Ok(place);
            report.number >= number || (is_closed && report.number > opened)
        };
        let answered = self.report.wait_for(is_told);
        match timeout(PATIENCE, answered).await {
            Ok(Ok(report)) => report.closed.clone().map(drop),
            Ok(Err(_)) => Err("encrypted networks are not looked after".to_owned()),
            Err(_) => Err("the host is not ready for encrypted networks yet".to_owned()),
        }
    }
}

impl Drop for Encryptor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
