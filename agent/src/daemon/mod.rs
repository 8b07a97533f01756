//! The agent: the one place with a runtime, a clock and signals.

mod attach;
mod backend;
mod claim;
mod convert;
mod dataplane;
mod drift;
mod encryption;
mod events;
mod facts;
mod health;
mod host_ports;
mod liveness;
mod marker;
mod member;
mod metrics;
mod names;
mod notices;
mod own_ports;
mod passes;
mod paths;
mod reconcile;
mod service_plane;
mod services;
mod wait;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_overlay::{NetnsRef, Overlay, OverlayConfig, host};
use weft_raft::control::{self, ControlConfig, ControlPlane};

use self::backend::{Daemon, DaemonParts};
use self::claim::RunClaim;
use self::dataplane::Dataplane;
use self::encryption::Encryptor;
use self::events::Events;
use self::health::Health;
use self::names::Names;
use self::reconcile::{Parts, Reconciler};
use crate::api::server;
use crate::api::socket::ApiSocket;
use crate::config::Config;
use crate::container;
use crate::core_dumps;
use crate::metrics::{Listener, Source};

/// Threads that run the control plane and the API. Packets need none: they stay in the kernel.
const WORKER_THREADS: usize = 2;

/// Runs the agent until it is told to stop. Namespaces, tunnels and containers stay as they are.
pub fn run(config: Config) -> Result<(), anyhow::Error> {
    raise_descriptor_limit();
    core_dumps::prevent();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("weft")
        .enable_all()
        .build()
        .context("the runtime cannot be started")?;
    let result = runtime.block_on(serve(config));
    // Blocking helpers hold nothing that must be finished.
    runtime.shutdown_background();
    result
}

/// A network takes two descriptors for each of its endpoints here while it is looked at, and the
/// soft limit of 1024 that a login has is for programs that use `select`.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(config: Config) -> Result<(), anyhow::Error> {
    make_dir(&config.run_dir, 0o755)?;
    make_dir(&config.data_dir, 0o700)?;
    // Both directories are claimed before anything in them is touched: here and by opening.
    let _claim = RunClaim::acquire(&config.run_dir)?;
    let mut control_config = ControlConfig::new(&config.data_dir, env!("CARGO_PKG_VERSION"));
    control_config.timing = timing(&config.timing);
    let control = ControlPlane::open(control_config).await?;
    let result = with_control(&config, &control).await;
    control.shutdown().await;
    result
}

/// The namespace that the agent was started in, where the underlay is.
fn host_netns() -> std::io::Result<NetnsRef> {
    let path = PathBuf::from("/proc/self/ns/net");
    let found = fs::metadata(&path)?;
    Ok(NetnsRef {
        path,
        device: found.dev(),
        inode: found.ino(),
    })
}

async fn with_control(config: &Config, control: &ControlPlane) -> Result<(), anyhow::Error> {
    // Before the socket is there: whoever sees it may already ask the agent to end.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let socket = ApiSocket::bind(&config.socket)?;
    let overlay = Overlay::open(OverlayConfig {
        netns_dir: config.netns_dir(),
    })
    .await?;
    let health = Health::start(control.clone(), &config.run_dir);
    let (reasons, probes) = (health.reasons(), health.counters());
    let events = Events::new(reasons.clone());
    let dataplane = Dataplane::start(config);
    let processes = dataplane.reports();
    let encryptor = Encryptor::start(config, control, &dataplane);
    let protection = encryptor.reports();
    let names = Names::start(config, &dataplane);
    let answers = names.reports();
    let features = convert::features(overlay.features());
    let (reconciler, kernel) = Reconciler::new(Parts {
        control: control.clone(),
        overlay,
        host: host::monitor()?,
        events: events.clone(),
        health,
        dataplane,
        encryptor,
        names,
        host_netns: host_netns()?,
        run_dir: config.run_dir.clone(),
        netns_dir: config.netns_dir(),
        resync: config.resync,
        boot_id: container::boot_id()?,
    });
    let parts = DaemonParts {
        control: control.clone(),
        kernel,
        dataplane: processes,
        encryption: protection,
        names: answers,
        passes: reconciler.passes(),
        events,
        reasons,
        probes,
    };
    let daemon = Daemon::new(parts, features, config);
    control.provide_numbers(Arc::new(daemon.clone()));

    let metrics = metrics_port(config).await?;
    let stop = CancellationToken::new();
    let measuring = metrics.map(|port| {
        let daemon = daemon.clone();
        let source: Source = Arc::new(move || Box::pin(metrics::page(daemon.clone())));
        tokio::spawn(crate::metrics::serve(port, source, stop.clone()))
    });
    let mut reconciling = tokio::spawn(reconciler.run(stop.clone()));
    let noticing = tokio::spawn(notices::keep(control.clone(), stop.clone()));
    let trying_out = tokio::spawn(paths::keep(control.clone(), stop.clone()));
    let serving = tokio::spawn(server::serve(
        socket,
        Arc::new(daemon),
        stop.clone().cancelled_owned(),
    ));
    tell_service_manager(&[sd_notify::NotifyState::Ready]);
    info!(socket = %config.socket.display(), version = env!("CARGO_PKG_VERSION"), "agent ready");

    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = &mut reconciling => match ended {
            Ok(()) => Err(anyhow::anyhow!("the reconciler ended")),
            Err(error) => Err(anyhow::anyhow!("the reconciler ended: {error}")),
        },
    };
    tell_service_manager(&[sd_notify::NotifyState::Stopping]);
    info!("agent stopping; the data plane goes on");
    stop.cancel();
    if ended.is_ok() {
        let _ = reconciling.await;
    }
    let _ = serving.await;
    if let Some(measuring) = measuring {
        let _ = measuring.await;
    }
    let _ = noticing.await;
    let _ = trying_out.await;
    ended
}

/// The port that metrics are wanted at, if they are.
async fn metrics_port(config: &Config) -> Result<Option<Listener>, anyhow::Error> {
    let Some(addr) = config.metrics else {
        return Ok(None);
    };
    let bound = Listener::bind(addr).await;
    let bound = bound.with_context(|| format!("metrics cannot be served at {addr}"))?;
    Ok(Some(bound))
}

fn timing(config: &crate::config::Timing) -> control::Timing {
    control::Timing {
        heartbeat: config.heartbeat,
        election_min: config.election_min,
        election_max: config.election_max,
        detection: config.detection,
        // Four reports may be lost before silence counts.
        report: config.detection / 5,
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), anyhow::Error> {
    if fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("the directory {} cannot be made", path.display()))
}

fn tell_service_manager(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_the_administrator_lets() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard - 1), hard).unwrap();
        raise_descriptor_limit();
        let limits = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(limits, (hard, hard));
    }
}
