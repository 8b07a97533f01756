//! Hosts, containers, and what is asked of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tempfile::TempDir;
use weft_netns::Netns;
use weft_overlay::{
    LocalEndpoint, Mac, NetnsRef, Overlay, OverlayConfig, ReconcileReport, Remote, SandboxSpec,
    Scope, Spec, Tunnel, Vtep,
};

pub(crate) const NETWORK: &str = "netaaaaaaaaaaaaa";
pub(crate) const OTHER: &str = "netbbbbbbbbbbbbb";
pub(crate) const VXLAN_PORT: u16 = 4789;

/// A directory with the namespaces of one test; takes them all away in the end.
pub(crate) struct Lab {
    dir: TempDir,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn namespace(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        weft_netns::create(&path).unwrap();
        sh(&path, "ip link set lo up");
        path
    }

    pub(crate) fn host(&self, name: &str) -> Host {
        Host {
            netns: self.namespace(name),
            sandboxes: self.path().join(format!("{name}-sandboxes")),
        }
    }

    /// Two hosts on one wire, 198.18.0.1 and .2, MTU 1500.
    pub(crate) fn two_hosts(&self) -> [Host; 2] {
        let hosts = [self.host("h1"), self.host("h2")];
        let peer = hosts[1].netns.display();
        let add = format!("ip link add u0 type veth peer name u0 netns {peer}");
        sh(&hosts[0].netns, &add);
        for (n, host) in hosts.iter().enumerate() {
            let n = n + 1;
            sh(&host.netns, &format!("ip addr add 198.18.0.{n}/24 dev u0"));
            sh(
                &host.netns,
                &format!("ip addr add fd00::{n}/64 dev u0 nodad"),
            );
            sh(&host.netns, "ip link set u0 up");
        }
        hosts
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for directory in std::fs::read_dir(self.path())
            .into_iter()
            .flatten()
            .flatten()
        {
            if directory.path().is_dir() {
                clear(&directory.path());
            }
        }
        clear(self.path());
    }
}

fn clear(dir: &Path) {
    for entry in weft_netns::list(dir).unwrap_or_default() {
        weft_netns::delete(&dir.join(entry.name)).unwrap();
    }
}

pub(crate) struct Host {
    pub(crate) netns: PathBuf,
    pub(crate) sandboxes: PathBuf,
}

impl Host {
    pub(crate) async fn overlay(&self) -> Overlay {
        let host = Netns::open(&self.netns).unwrap();
        let netns_dir = self.sandboxes.clone();
        let overlay = Overlay::open_in(host, OverlayConfig { netns_dir }).await;
        overlay.unwrap()
    }

    pub(crate) fn sandbox(&self) -> PathBuf {
        self.sandboxes.join(NETWORK)
    }

    pub(crate) async fn apply(&self, spec: &Spec) -> ReconcileReport {
        self.overlay().await.reconcile(spec, Scope::All).await
    }

    /// Applies and insists that it went well and that nothing is left to do.
    pub(crate) async fn settle(&self, spec: &Spec) -> usize {
        let report = self.apply(spec).await;
        assert!(report.is_clean(), "{report:?}");
        let again = self.apply(spec).await;
        assert_eq!(again.ops, 0, "{again:?}");
        report.ops
    }
}

/// Runs a test's body on a runtime of its own.
pub(crate) fn run(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(body);
}

/// Runs a command line in a namespace; it must succeed.
pub(crate) fn sh(netns: &Path, line: &str) -> String {
    let (output, ok) = try_sh(netns, line);
    assert!(ok, "{line}: {output}");
    output
}

pub(crate) fn try_sh(netns: &Path, line: &str) -> (String, bool) {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", netns.display()))
        .args(["sh", "-c", line])
        .output()
        .unwrap();
    let text = if output.status.success() {
        output.stdout
    } else {
        output.stderr
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    (text, output.status.success())
}

pub(crate) fn json(netns: &Path, line: &str) -> Vec<Value> {
    let text = sh(netns, line);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}"))
}

/// The one link of that name as `ip` tells it.
pub(crate) fn link(netns: &Path, name: &str) -> Value {
    let mut links = json(netns, &format!("ip -j -d link show dev {name}"));
    assert_eq!(links.len(), 1, "{links:?}");
    links.remove(0)
}

pub(crate) fn link_names(netns: &Path) -> BTreeSet<String> {
    json(netns, "ip -j link show")
        .iter()
        .filter_map(|link| link["ifname"].as_str())
        .map(str::to_owned)
        .collect()
}

pub(crate) fn endpoint_id(n: u8) -> String {
    format!("endpoint{}aaaaaaa", char::from(b'a' + n))
}

pub(crate) fn port_name(n: u8) -> String {
    weft_overlay::plan::names::port(&endpoint_id(n))
}

pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, n)
}

pub(crate) fn address6(n: u8) -> IpAddr {
    format!("fd11::{n:x}").parse().unwrap()
}

pub(crate) fn mac(n: u8) -> Mac {
    Mac([0x02, 0x42, 10, 0, 1, n])
}

pub(crate) fn vtep(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 18, 0, host))
}

pub(crate) fn netns_ref(path: &Path) -> NetnsRef {
    let identity = Netns::open(path).unwrap().identity();
    NetnsRef {
        path: path.to_owned(),
        device: identity.device,
        inode: identity.inode,
    }
}

pub(crate) fn sandbox_spec(host: u8) -> SandboxSpec {
    SandboxSpec {
        vni: 4097,
        mtu: 1450,
        vtep: Vtep {
            local: vtep(host),
            port: VXLAN_PORT,
        },
        tunnel: Tunnel::Vxlan,
        multicast: false,
        locals: BTreeMap::new(),
        remotes: BTreeMap::new(),
        flood: BTreeSet::new(),
    }
}

pub(crate) fn local(container: &Path, n: u8) -> LocalEndpoint {
    LocalEndpoint {
        netns: netns_ref(container),
        ifname: "eth0".to_owned(),
        mac: mac(n),
        addresses: vec![
            format!("{}/24", address(n)).parse().unwrap(),
            format!("{}/64", address6(n)).parse().unwrap(),
        ],
        routes: [].into(),
        forwards: false,
    }
}

pub(crate) fn remote(n: u8, host: u8) -> (Mac, Remote) {
    let remote = Remote {
        addresses: vec![IpAddr::V4(address(n)), address6(n)],
        vtep: vtep(host),
    };
    (mac(n), remote)
}

/// Adds endpoint `n` in `container` on `host`, as the other host's spec has it too.
pub(crate) fn attach(specs: &mut [SandboxSpec; 2], host: u8, container: &Path, n: u8) {
    let [mine, others] = if host == 1 { [0, 1] } else { [1, 0] };
    specs[mine]
        .locals
        .insert(endpoint_id(n), local(container, n));
    let (mac, remote) = remote(n, host);
    specs[others].remotes.insert(mac, remote);
}

/// Two hosts, one container each (endpoints 2 and 3), one network between them.
pub(crate) struct Pair {
    pub(crate) lab: Lab,
    pub(crate) hosts: [Host; 2],
    pub(crate) containers: [PathBuf; 2],
    pub(crate) specs: [SandboxSpec; 2],
}

impl Pair {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let hosts = lab.two_hosts();
        let containers = [lab.namespace("c1"), lab.namespace("c2")];
        let mut specs = [sandbox_spec(1), sandbox_spec(2)];
        attach(&mut specs, 1, &containers[0], 2);
        attach(&mut specs, 2, &containers[1], 3);
        Self {
            lab,
            hosts,
            containers,
            specs,
        }
    }

    pub(crate) fn spec(&self, host: usize) -> Spec {
        [(NETWORK.to_owned(), self.specs[host].clone())].into()
    }

    pub(crate) async fn settle(&self) {
        for host in 0..2 {
            self.hosts[host].settle(&self.spec(host)).await;
        }
    }
}

const ETH_P_ALL: u16 = 0x0003;

/// Sees every frame in a namespace, in and out.
pub(crate) struct Capture {
    socket: Socket,
}

/// A frame that was captured.
pub(crate) struct Frame(pub(crate) Vec<u8>);

impl Capture {
    pub(crate) fn start(netns: &Path) -> Self {
        let all = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let netns = Netns::open(netns).unwrap();
        let socket = netns.socket(Domain::PACKET, Type::RAW, Some(all)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.set_recv_buffer_size(8 << 20).unwrap();
        Self { socket }
    }

    pub(crate) fn take(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        // Packets of many segments, too.
        let mut buffer = vec![0; 1 << 16];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => frames.push(Frame(buffer[..length].to_vec())),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return frames,
                Err(e) => panic!("{e}"),
            }
        }
    }
}

impl Frame {
    /// The Ethernet frame inside a VXLAN packet, with its VNI, over either IP version.
    pub(crate) fn inner(&self) -> Option<(u32, &[u8])> {
        let (port, vni, frame) = self.tunnelled()?;
        (port == VXLAN_PORT).then_some((vni, frame))
    }

    /// The same at the next port too, with the port.
    pub(crate) fn tunnelled(&self) -> Option<(u16, u32, &[u8])> {
        let ether_type = u16::from_be_bytes(self.0.get(12..14)?.try_into().ok()?);
        let (protocol, udp) = match ether_type {
            0x0800 => (self.0.get(23)?, 34),
            0x86dd => (self.0.get(20)?, 54),
            _ => return None,
        };
        let port = u16::from_be_bytes(self.0.get(udp + 2..udp + 4)?.try_into().ok()?);
        if *protocol != 17 || !(VXLAN_PORT..=VXLAN_PORT + 1).contains(&port) {
            return None;
        }
        let vni = u32::from_be_bytes(self.0.get(udp + 12..udp + 16)?.try_into().ok()?) >> 8;
        Some((port, vni, self.0.get(udp + 16..)?))
    }
}

/// Pings from a namespace; returns how many of `count` were answered within `patience`.
pub(crate) fn ping(netns: &Path, to: impl Into<IpAddr>, count: u16, patience: Duration) -> u16 {
    let pinger = Pinger::new(netns, to.into(), patience);
    (0..count).filter(|n| pinger.once(*n)).count() as u16
}

pub(crate) fn pings(netns: &Path, to: impl Into<IpAddr>) -> bool {
    let to = to.into();
    // The first may meet a link that is still coming up, and a busy machine.
    (0..300).any(|_| ping(netns, to, 1, Duration::from_millis(100)) == 1)
}

struct Pinger {
    socket: Socket,
    to: SockAddr,
    wire: Echo,
    patience: Duration,
}

/// How an echo looks in one IP version (RFC 792, RFC 4443 section 4).
struct Echo {
    request: u8,
    reply: u8,
    /// Where the ICMP header begins in what a raw socket receives.
    offset: usize,
}

impl Pinger {
    fn new(netns: &Path, to: IpAddr, patience: Duration) -> Self {
        let netns = Netns::open(netns).unwrap();
        let (domain, protocol, wire) = match to {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, Echo::new(8, 0, 20)),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, Echo::new(128, 129, 0)),
        };
        Self {
            socket: netns.socket(domain, Type::RAW, Some(protocol)).unwrap(),
            to: SockAddr::from(SocketAddr::new(to, 0)),
            wire,
            patience,
        }
    }

    fn once(&self, sequence: u16) -> bool {
        const IDENTIFIER: [u8; 2] = *b"wf";
        let [s0, s1] = sequence.to_be_bytes();
        let mut echo = [
            self.wire.request,
            0,
            0,
            0,
            IDENTIFIER[0],
            IDENTIFIER[1],
            s0,
            s1,
        ];
        // The kernel fills in ICMPv6's.
        let sum = echo.chunks(2).fold(0u32, |sum, pair| {
            sum + (u32::from(pair[0]) << 8 | u32::from(pair[1]))
        });
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        if self.socket.send_to(&echo, &self.to).is_err() {
            return false;
        }
        let deadline = Instant::now() + self.patience;
        let mut buffer = [0; 256];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.socket.set_read_timeout(Some(left)).unwrap();
            let Ok(length) = (&self.socket).read(&mut buffer) else {
                continue;
            };
            let icmp = buffer[..length].get(self.wire.offset..).unwrap_or_default();
            let wanted = [&IDENTIFIER[..], &[s0, s1]].concat();
            if icmp.len() >= 8 && icmp[..2] == [self.wire.reply, 0] && icmp[4..8] == wanted {
                return true;
            }
        }
    }
}

impl Echo {
    fn new(request: u8, reply: u8, offset: usize) -> Self {
        Self {
            request,
            reply,
            offset,
        }
    }
}

/// Pings all the time until it is stopped.
/// What a running ping sends at least, however soon it is stopped.
const MANY: u32 = 30;

pub(crate) struct RunningPing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u32, u32)>,
}

impl RunningPing {
    pub(crate) fn start(netns: &Path, to: impl Into<IpAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let pinger = Pinger::new(netns, to.into(), crate::wire::LONG);
        let thread = std::thread::spawn(move || {
            let (mut sent, mut lost) = (0u32, 0u32);
            while sent < MANY || !stopped.load(Ordering::Relaxed) {
                sent += 1;
                lost += u32::from(!pinger.once(sent as u16));
                std::thread::sleep(Duration::from_micros(200));
            }
            (sent, lost)
        });
        Self { stop, thread }
    }

    /// How many were sent, and how many of them were lost.
    pub(crate) fn stop(self) -> (u32, u32) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
