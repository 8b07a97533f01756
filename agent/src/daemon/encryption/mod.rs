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

mod choice;
mod keeper;
mod path;
mod peer;
mod report;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weft_encrypt::path::PathSpec;
use weft_raft::control::ControlPlane;
use weft_raft::model::NodeId;

use super::dataplane::Dataplane;
use crate::config::Config;
use crate::translate::Encryption;
pub(super) use choice::Choice;
use choice::Chooser;
use keeper::{Ends, Keeper};
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
    /// Which data path it is; why there is none, if so.
    pub(super) path: Result<Choice, String>,
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
    chooser: Chooser,
    poke: Arc<Notify>,
    ports: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Encryptor {
    /// Wants nothing yet. To be called inside a tokio runtime.
    pub(super) fn start(config: &Config, control: &ControlPlane, dataplane: &Dataplane) -> Self {
        let (wanted, follow) = watch::channel(Numbered::default());
        let (sender, report) = watch::channel(Arc::default());
        let (opened, ports) = watch::channel(0);
        let poke = Arc::new(Notify::new());
        let ends = Ends {
            wanted: follow,
            report: sender,
            poked: poke.clone(),
            ports: opened,
        };
        let keeper = Keeper::new(config, control, dataplane, ends);
        let task = tokio::spawn(keeper.keep());
        Self {
            wanted,
            opened: 0,
            report,
            chooser: Chooser::new(config.encryption.path),
            poke,
            ports,
            task,
        }
    }

    /// Where the latest report can be read.
    pub(super) fn reports(&self) -> watch::Receiver<Arc<EncryptionReport>> {
        self.report.clone()
    }

    /// Which data path carries what goes out from a tunnel end. The first time, that is tried out.
    ///
    /// # Errors
    /// When there is none, in one line.
    pub(super) async fn choose(&mut self, local: IpAddr) -> Result<Choice, String> {
        self.chooser.choose(local).await
    }

    /// Says that sandboxes were changed: ports in them may be waited for.
    pub(super) fn sandboxes_changed(&self) {
        let report = self.report.borrow();
        if report.ports.values().any(|port| port.error.is_some()) {
            self.poke.notify_one();
        }
    }

    /// Changes each time when the port of a network was opened.
    pub(super) fn port_opened(&self) -> watch::Receiver<u64> {
        self.ports.clone()
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
