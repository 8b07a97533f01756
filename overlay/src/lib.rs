//! Networks on one node: a sandbox namespace per network with its bridge, VXLAN device, veth
//! pairs, forwarding and neighbour entries.
//!
//! A planner is pure: it turns what is wanted ([`Spec`]) and what was read back from the
//! kernel into an ordered list of changes. [`Overlay`] reads and performs.

pub mod drift;
pub mod gateway;
pub mod guard;
pub mod host;
mod kernel;
/// What was read back from the kernel.
pub mod observed;
/// Changes of the kernel's state, as values.
pub mod op;
pub mod plan;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream;
use thiserror::Error;
use weft_netns::Netns;

pub use spec::{
    LocalEndpoint, Mac, NetnsRef, Remote, SandboxSpec, Spec, StaticRoute, Tunnel, Vtep,
};

/// Where an [`Overlay`] keeps what it makes.
#[derive(Clone, Debug)]
pub struct OverlayConfig {
    /// Directory of the sandboxes' namespace files; made if it is not there.
    pub netns_dir: PathBuf,
}

/// Keeps the kernel's networks as the spec wants them. Remembers nothing: what there is is read
/// from the kernel every time.
#[derive(Debug)]
pub struct Overlay {
    netns_dir: Arc<Path>,
    /// Where the underlay is.
    host: Arc<Netns>,
    features: Features,
}

/// Which of the kernel's features networks need are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Each with its name; in a stable order.
    pub list: Vec<Feature>,
}

/// One feature of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Short name: `vxlan`, `bridge`, `veth`, `netns`.
    pub name: &'static str,
    /// The kernel's build option, such as `CONFIG_VXLAN`.
    pub option: &'static str,
    /// Why it cannot be used; `None` when it can.
    pub missing: Option<String>,
}

/// Which part of the kernel a reconciliation looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything, and what carries our mark and is in no spec is removed.
    All,
    /// These networks only; one that is not in the spec is removed.
    Networks(BTreeSet<String>),
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct ReconcileReport {
    /// Changes made; zero when the kernel was as wanted.
    pub ops: usize,
    /// Networks that could not be brought to what is wanted, and why.
    pub failed: BTreeMap<String, ApplyError>,
    /// Endpoints whose namespace is no longer there.
    pub endpoints_gone: BTreeSet<String>,
    /// Endpoints that could not be attached, each with one line that says why.
    pub endpoints_failed: BTreeMap<String, String>,
}

/// An [`Overlay`] that could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory of the namespace files cannot be used.
    #[error("cannot use {} for network namespaces: {reason}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The host's namespace cannot be used.
    #[error("cannot work in the host's network namespace: {0}")]
    Namespace(String),
}

/// A network that could not be brought to what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{doing}: {reason}")]
pub struct ApplyError {
    /// What was being done, such as `create vxlan0`.
    pub doing: String,
    /// Why it was refused.
    pub reason: String,
}

/// Networks that are worked on at a time. The kernel changes links one at a time whoever asks; the
/// second hides the other's waiting for a grace period.
const NETWORKS_AT_A_TIME: usize = 4;

impl Overlay {
    /// Opens the kernel's side and finds out what it offers. Call it in the host's namespace,
    /// inside tokio.
    ///
    /// # Errors
    /// When the directory or a netlink socket cannot be used. A missing feature is no error here;
    /// see [`Overlay::features`].
    pub async fn open(config: OverlayConfig) -> Result<Self, OpenError> {
        let host = Netns::current().map_err(|e| OpenError::Namespace(e.to_string()))?;
        Self::open_in(host, config).await
    }

    /// As [`Overlay::open`], with the underlay in a namespace that need not be this process's.
    ///
    /// # Errors
    /// As [`Overlay::open`].
    pub async fn open_in(host: Netns, config: OverlayConfig) -> Result<Self, OpenError> {
        fs::create_dir_all(&config.netns_dir).map_err(|e| OpenError::Directory {
            path: config.netns_dir.clone(),
            reason: e.to_string(),
        })?;
        let features = blocking(kernel::probe).await;
        let features = features.map_err(OpenError::Namespace)?;
        for feature in &features.list {
            if let Some(missing) = &feature.missing {
                let (name, option) = (feature.name, feature.option);
                tracing::warn!(name, option, missing, "kernel feature cannot be used");
            }
        }
        Ok(Self {
            netns_dir: Arc::from(config.netns_dir),
            host: Arc::new(host),
            features,
        })
    }

    /// What the kernel offers.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Makes the kernel's state in `scope` what `spec` says, whatever it was. One network's failure
    /// never stops another's. Issues nothing when all is right.
    ///
    /// Let it finish: what it has begun goes on when the future is dropped.
    pub async fn reconcile(&mut self, spec: &Spec, scope: Scope) -> ReconcileReport {
        let mut report = ReconcileReport::default();
        let networks = match scope {
            Scope::Networks(networks) => networks,
            Scope::All => self.everything(spec, &mut report).await,
        };
        let jobs = networks.into_iter().map(|network| {
            let (host, dir) = (self.host.clone(), self.netns_dir.clone());
            let sandbox = spec.get(&network).cloned();
            async move {
                let id = network.clone();
                blocking(move || kernel::reconcile_network(&host, &dir, &id, sandbox.as_ref()))
                    .await
                    .unwrap_or_else(|reason| ReconcileReport::failure(&network, reason))
            }
        });
        let mut done = stream::iter(jobs).buffer_unordered(NETWORKS_AT_A_TIME);
        while let Some(one) = done.next().await {
            report.add(one);
        }
        report
    }

    /// Performs only the first `limit` changes that a network takes, as an agent does that is killed
    /// then. Returns whether that was all of them. For tests of what the next reconciliation makes of
    /// it.
    #[doc(hidden)]
    pub async fn reconcile_up_to(&mut self, spec: &Spec, network: &str, limit: usize) -> bool {
        let (host, dir) = (self.host.clone(), self.netns_dir.clone());
        let (id, sandbox) = (network.to_owned(), spec.get(network).cloned());
        let work = move || kernel::first_changes(&host, &dir, &id, sandbox.as_ref(), limit);
        matches!(blocking(work).await, Ok(Ok(true)))
    }

    /// Every network that is wanted or there. Cleans the host's namespace.
    async fn everything(&self, spec: &Spec, report: &mut ReconcileReport) -> BTreeSet<String> {
        let (host, dir) = (self.host.clone(), self.netns_dir.clone());
        let found = blocking(move || {
            let swept = kernel::sweep_host(&host);
            (swept, kernel::present(&dir).map_err(|e| e.to_string()))
        })
        .await;
        let mut networks: BTreeSet<String> = spec.keys().cloned().collect();
        match found {
            Ok((swept, present)) => {
                match swept {
                    Ok(swept) => report.ops += swept,
                    Err(error) => tracing::warn!(%error, "left-over links stay"),
                }
                match present {
                    Ok(present) => networks.extend(present),
                    Err(error) => tracing::warn!(error, "left-over sandboxes stay"),
                }
            }
            Err(error) => tracing::warn!(error, "left-overs stay"),
        }
        networks
    }
}

impl ReconcileReport {
    /// Whether everything is as wanted. An endpoint whose namespace is gone is no failure.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && self.endpoints_failed.is_empty()
    }

    fn failure(network: &str, reason: String) -> Self {
        let doing = "reconcile".to_owned();
        Self {
            failed: [(network.to_owned(), ApplyError { doing, reason })].into(),
            ..Self::default()
        }
    }

    fn add(&mut self, other: Self) {
        self.ops += other.ops;
        self.failed.extend(other.failed);
        self.endpoints_gone.extend(other.endpoints_gone);
        self.endpoints_failed.extend(other.endpoints_failed);
    }
}

/// Runs what blocks on a thread that may; the error is for a panic in there.
async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| e.to_string())
}
