//! The way between containers and the world beyond their networks: an interface `weft-gw` of the host,
//! and a leg to it in each container that needs one. They meet in a namespace of their own, the hub.
//!
//! ```text
//!   client ── host ── weft-gw ═ veth ═ uplink ┐ hub
//!               │                         br0 ┤
//!             mesh ── other nodes             └ wfg.. ═ veth ═ wfgw ── container
//! ```
//!
//! A leg is its container's way out ([`GatewaySpec::egress`]): its default route, unless it has another.
//! And it is the way of clients to the container ([`GatewaySpec::published`]), which answers by its leg what
//! came in by it, whatever its own routes say: a rule leads what leaves from the leg's address back to the
//! host. What came in by another node carries that node's
//! number in its mark ([`mark`]), and goes back by that node's address in the mesh. Legs exchange frames
//! with the host only (isolated ports): one that answered another past the host would leave out its
//! translation.
//!
//! The bridge is not in the host's namespace because bridged packets meet the host's IP rules there
//! where `br_netfilter` is loaded, as it is beside Docker: what is translated for another leg never
//! leaves the bridge then, and what is translated back for ::1 never enters the host.
//!
//! Our objects carry names and protocol numbers of our own ([`layout`]), so that others' are never
//! touched, and ours are known after a restart. Packets that are forwarded between two legs, from the
//! mesh to anywhere, or to 127.0.0.0/8 (see `plan::switches`) are not refused here, nor are those that
//! leave the host given an address that the world knows: that is for the packet rules of whoever marks and
//! translates.

mod kernel;
pub mod layout;
/// What was read back from the kernel.
pub mod observed;
/// Changes of the kernel's state, as values.
pub mod op;
pub mod plan;
mod record;
mod spec;
mod subnet;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_netns::Netns;

pub use layout::{MARK_MASK, NODE_MAX, SUBNET6, mark};
pub use spec::{GatewaySpec, LegAddresses, MeshEntry, MeshSpec, host_addresses};
pub use subnet::{choose_subnet, observed_subnet};

use crate::{ApplyError, OpenError, blocking};

/// Keeps the gateway as the spec wants it. Remembers nothing: what there is is read from the kernel
/// every time.
#[derive(Debug)]
pub struct Gateway {
    host: Arc<Netns>,
    hub: Arc<Path>,
}

/// What a reconciliation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayReport {
    /// Changes made; zero when the kernel was as wanted.
    pub ops: usize,
    /// The legs that are attached, with their addresses, by key.
    pub legs: BTreeMap<String, LegAddresses>,
    /// Legs that could not be attached, each with one line that says why.
    pub failed: BTreeMap<String, String>,
    /// Legs whose container is no longer there; that is no failure.
    pub gone: BTreeSet<String>,
    /// Versions of IP for which a leg of [`GatewaySpec::egress`] is not the way out, because somebody else
    /// has made a default route in its container. That is no failure either.
    pub own_way: BTreeMap<String, BTreeSet<observed::Family>>,
    /// What could not be brought to what is wanted besides the legs: the first of it.
    pub error: Option<ApplyError>,
}

impl Gateway {
    /// Opens the namespace that it is called in as the host's. `hub` is the file that the hub's
    /// namespace is kept at, in a directory that is there and is not that of the sandboxes.
    ///
    /// # Errors
    /// When the namespace cannot be opened.
    pub fn open(hub: PathBuf) -> Result<Self, OpenError> {
        let host = Netns::current().map_err(|e| OpenError::Namespace(e.to_string()))?;
        Ok(Self::open_in(host, hub))
    }

    /// As [`Gateway::open`], with a host's namespace that need not be this process's.
    pub fn open_in(host: Netns, hub: PathBuf) -> Self {
        Self {
            host: Arc::new(host),
            hub: Arc::from(hub),
        }
    }

    /// Makes the gateway what `spec` says, whatever it was; without one, removes it. A leg's failure
    /// never stops another's. Issues nothing when all is right. To be called inside tokio, after the
    /// mesh's interface was made.
    ///
    /// Let it finish: what it has begun goes on when the future is dropped.
    pub async fn reconcile(&mut self, spec: Option<&GatewaySpec>) -> GatewayReport {
        let (host, hub, spec) = (self.host.clone(), self.hub.clone(), spec.cloned());
        reported(blocking(move || kernel::reconcile(&host, &hub, spec.as_ref())).await)
    }

    /// Brings some legs to what `spec` says, those that it has no more among them, and looks at nothing
    /// else: what that takes does not grow with the number of legs. To be called while the gateway is
    /// otherwise as `spec` says; `taken` are the addresses of all other legs. The report tells of these legs
    /// only.
    ///
    /// Let it finish: what it has begun goes on when the future is dropped.
    pub async fn reconcile_legs(
        &mut self,
        spec: &GatewaySpec,
        keys: BTreeSet<String>,
        taken: BTreeSet<Ipv4Addr>,
    ) -> GatewayReport {
        let (host, hub, part) = (self.host.clone(), self.hub.clone(), spec.part(&keys));
        let work = move || kernel::reconcile_legs(&host, &hub, &part, &keys, &taken);
        reported(blocking(work).await)
    }

    /// Performs only the first `limit` changes, as an agent does that is killed then. Returns whether
    /// that was all of them. For tests of what the next reconciliation makes of it.
    #[doc(hidden)]
    pub async fn reconcile_up_to(&mut self, spec: Option<&GatewaySpec>, limit: usize) -> bool {
        let (host, hub, spec) = (self.host.clone(), self.hub.clone(), spec.cloned());
        let work = move || kernel::first_changes(&host, &hub, spec.as_ref(), limit);
        matches!(blocking(work).await, Ok(Ok(true)))
    }
}

fn reported(done: Result<GatewayReport, String>) -> GatewayReport {
    done.unwrap_or_else(|reason| GatewayReport {
        error: Some(ApplyError {
            doing: "reconcile".to_owned(),
            reason,
        }),
        ..GatewayReport::default()
    })
}

impl GatewayReport {
    /// Whether everything is as wanted.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.error.is_none()
    }
}
