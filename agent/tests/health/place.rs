use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rtnetlink::LinkUnspec;
use tokio::runtime::Runtime;
use weft_agent::health::{Check, Probe, Prober, Target, Verdict};
use weft_netns::Netns;
use weft_overlay::NetnsRef;

/// Nothing here takes longer, even on a machine with much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// In every namespace of these tests.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 2);
pub(crate) const PORT: u16 = 80;

/// A container's namespace with [`ADDRESS`].
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) netns: Netns,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let netns = weft_netns::create(&directory.path().join("netns")).unwrap();
        netns.run(|| runtime().block_on(add_address())).unwrap();
        Self { directory, netns }
    }

    /// A server's socket. Connections are accepted by the kernel as long as it is there.
    pub(crate) fn listen(&self) -> TcpListener {
        let address = SocketAddr::from((ADDRESS, PORT));
        let listen = || TcpListener::bind(address).unwrap();
        self.netns.run(listen).unwrap()
    }

    pub(crate) fn target(&self, probe: Probe) -> Target {
        let identity = self.netns.identity();
        Target {
            netns: NetnsRef {
                path: self.path(),
                device: identity.device,
                inode: identity.inode,
            },
            address: ADDRESS.into(),
            check: Check {
                probe,
                interval: Duration::from_millis(20),
                timeout: PATIENCE,
                retries: 3,
            },
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("netns")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        weft_netns::delete(&self.path()).unwrap();
    }
}

/// A [`Prober`] on a runtime with one thread, so that whatever blocks is noticed.
pub(crate) struct Look {
    runtime: Runtime,
    pub(crate) prober: Prober,
}

impl Look {
    pub(crate) fn at(run_dir: &Path, targets: impl IntoIterator<Item = Target>) -> Self {
        let runtime = runtime();
        let inside = runtime.enter();
        let mut prober = Prober::new(run_dir);
        prober.set(named(targets));
        drop(inside);
        Self { runtime, prober }
    }

    /// At one target, with files in its own directory.
    pub(crate) fn one(place: &Place, probe: Probe) -> Self {
        Self::at(place.directory.path(), [place.target(probe)])
    }

    pub(crate) fn next(&mut self) -> Verdict {
        let next = async { tokio::time::timeout(PATIENCE, self.prober.next()).await };
        self.runtime.block_on(next).unwrap()
    }

    pub(crate) fn assert_healthy(&mut self) {
        let verdict = self.next();
        assert!(verdict.healthy, "{verdict:?}");
    }

    pub(crate) fn assert_unhealthy(&mut self, reason: &str) {
        let verdict = self.next();
        assert!(!verdict.healthy, "{verdict:?}");
        let why = verdict.reason.unwrap();
        assert!(why.contains(reason), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }

    /// Probes until something holds that no verdict tells of.
    pub(crate) fn until(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < PATIENCE, "never happened: {what}");
            let next = async { tokio::time::timeout(POLL, self.prober.next()).await };
            let _ = self.runtime.block_on(next);
        }
    }
}

pub(crate) fn named(targets: impl IntoIterator<Item = Target>) -> BTreeMap<String, Target> {
    let numbered = targets.into_iter().enumerate();
    numbered.map(|(n, t)| (format!("endpoint{n}"), t)).collect()
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(POLL);
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// On the loopback device, which always comes first in a namespace.
async fn add_address() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let up = LinkUnspec::new_with_index(1).up().build();
    handle.link().set(up).execute().await.unwrap();
    let address = handle.address().add(1, ADDRESS.into(), 32);
    address.execute().await.unwrap();
}
