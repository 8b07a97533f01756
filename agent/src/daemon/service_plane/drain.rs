//! How a backend leaves without a request failing, in two phases through the log.
//!
//! Nothing of it is remembered but the row's state, which is final: a detach that is cut short, by
//! the end of the agent or of its connection to the managers, leaves a backend that takes no new
//! flow, and the next detach of it does the rest.

use std::time::Duration;

use tracing::{debug, info};
use weft_raft::command::Command;
use weft_raft::model::{BackendState, Endpoint, Revision};

use super::inbound;
use crate::api::WaitFor;
use crate::api::types::ApiError;
use crate::daemon::backend::{Daemon, PROPOSE_TIMEOUT};
use crate::daemon::wait;

/// How long the kernels of the ready nodes may take to send it no new flow. One that is behind for
/// longer is no reason to keep a backend.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether a backend is used.
const LOOK: Duration = Duration::from_millis(100);
/// So often in a row it is found not to be: a first packet may be under way.
const IDLE_LOOKS: u32 = 3;

/// Sees a member of a service off: no node sends it a new flow, then those that it has may end, as
/// long as the service's drain timeout says at most.
/// Done at once for what is no member; and when somebody else removes it meanwhile, as a second
/// detach with `--force` does.
///
/// # Errors
/// When the cluster cannot be told. Nothing has changed then.
pub(in crate::daemon) async fn drain(daemon: &Daemon, row: &Endpoint) -> Result<(), ApiError> {
    let Some(grace) = grace(daemon, row) else {
        return Ok(());
    };
    let draining = Command::SetBackends(vec![(row.id, BackendState::Draining)]);
    let told = daemon.control.propose(draining, PROPOSE_TIMEOUT).await?;
    tokio::select! {
        () = let_go(daemon, row, told.revision, grace) => {}
        () = no_member(daemon, row) => {}
    }
    Ok(())
}

/// How long the flows of a member of a service may last; `None` when it is none.
fn grace(daemon: &Daemon, row: &Endpoint) -> Option<Duration> {
    let service = row.service?;
    daemon.control.with_view(|view| {
        let service = view.services.get(&service)?;
        Some(Duration::from_millis(service.drain_timeout_ms.into()))
    })
}

async fn let_go(daemon: &Daemon, row: &Endpoint, revision: Revision, grace: Duration) {
    info!(endpoint = %row.id, ?grace, "draining");
    let confirmed = wait::wait(daemon, WaitFor::Revision(revision), CONFIRM_TIMEOUT).await;
    if let Err(error) = confirmed {
        info!(endpoint = %row.id, %error, "not every node has confirmed that it drains");
    }
    tokio::select! {
        () = tokio::time::sleep(grace) => debug!(endpoint = %row.id, "its time is over"),
        () = idle(daemon, row) => debug!(endpoint = %row.id, "nobody uses it any more"),
    }
}

/// Until nobody has a flow with the backend. Never, where that cannot be told.
async fn idle(daemon: &Daemon, row: &Endpoint) {
    let inbound = (daemon.control).with_view(|view| inbound::of(view, row));
    let failed = daemon.kernel.borrow().failure(row).is_some();
    let Some(inbound) = inbound.filter(|_| !failed) else {
        return std::future::pending().await;
    };
    let mut idle = 0;
    while idle < IDLE_LOOKS {
        let looked = inbound.clone();
        let counts = tokio::task::spawn_blocking(move || looked.count()).await;
        match counts {
            Ok(Ok(counts)) if counts.values().all(|count| *count == 0) => idle += 1,
            Ok(Ok(_)) => idle = 0,
            Ok(Err(why)) => {
                info!(endpoint = %row.id, why, "cannot tell whether it is used");
                return std::future::pending().await;
            }
            Err(_) => return std::future::pending().await,
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Until the endpoint is gone, or in no service.
async fn no_member(daemon: &Daemon, row: &Endpoint) {
    let mut changes = daemon.control.subscribe();
    let is_member = || {
        daemon.control.with_view(|view| {
            let row = view.endpoints.get(&row.id);
            row.is_some_and(|row| row.service.is_some())
        })
    };
    // The first item is what there is.
    while changes.next().await.is_some() {
        if !is_member() {
            return;
        }
    }
}
