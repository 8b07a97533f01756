//! The gateway of a host and its legs.

mod drift;
mod egress;
mod life;
mod scale;
mod switches;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use weft_netns::Netns;
use weft_overlay::gateway::{Gateway, GatewayReport, GatewaySpec, MeshSpec, SUBNET6};

use crate::lab::*;

/// A case and its name.
type Case = (&'static str, fn());

pub(crate) const CASES: [&[Case]; 6] = [
    drift::CASES,
    egress::CASES,
    life::CASES,
    scale::CASES,
    switches::CASES,
    ways::CASES,
];

const HOST_END: &str = "weft-gw";
const LEG: &str = "wfgw";
const MESH: &str = "wf-ingress";

/// On a busy machine an answer may take its time.
const LONG: Duration = Duration::from_secs(10);
/// Long enough to hear an answer that should not come.
const SHORT: Duration = Duration::from_millis(300);

fn spec(legs: &[(&str, &PathBuf)]) -> GatewaySpec {
    let legs = legs
        .iter()
        .map(|(key, path)| ((*key).to_owned(), netns_ref(path)));
    GatewaySpec {
        subnet4: "192.168.240.0/20".parse().unwrap(),
        subnet6: SUBNET6,
        mtu: 1450,
        published: legs.clone().map(|(key, _)| key).collect(),
        egress: BTreeSet::new(),
        legs: legs.collect(),
        udp_ports: BTreeMap::new(),
        mesh: None,
    }
}

fn mesh(entries: &[(u16, &str, &str)]) -> Option<MeshSpec> {
    let entry = |(node, via4, via6): &(u16, &str, &str)| {
        let (via4, via6) = (via4.parse().ok(), via6.parse().ok());
        (*node, weft_overlay::gateway::MeshEntry { via4, via6 })
    };
    Some(MeshSpec {
        ifname: MESH.to_owned(),
        entries: entries.iter().map(entry).collect::<BTreeMap<_, _>>(),
    })
}

fn gateway(host: &Host) -> Gateway {
    Gateway::open_in(Netns::open(&host.netns).unwrap(), hub(host))
}

/// Where the hub's namespace is.
fn hub(host: &Host) -> PathBuf {
    host.netns.with_extension("hub")
}

async fn apply(host: &Host, spec: Option<&GatewaySpec>) -> GatewayReport {
    gateway(host).reconcile(spec).await
}

/// Applies and insists that it went well and that nothing is left to do.
async fn settle(host: &Host, spec: Option<&GatewaySpec>) -> GatewayReport {
    let report = apply(host, spec).await;
    assert!(report.is_clean(), "{report:?}");
    let again = apply(host, spec).await;
    assert_eq!((again.ops, &again.legs), (0, &report.legs), "{again:?}");
    report
}

fn v4(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A server that somebody can connect to, on every address of a namespace.
struct Server {
    listener: TcpListener,
}

impl Server {
    fn start(netns: &Path) -> Self {
        let netns = Netns::open(netns).unwrap();
        let listener = netns.run(|| TcpListener::bind("[::]:0")).unwrap().unwrap();
        Self { listener }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Whom the next connection is from.
    fn client(&self) -> IpAddr {
        let (_, client) = self.listener.accept().unwrap();
        client.ip().to_canonical()
    }
}

/// Says back what it is told by UDP, on all addresses of one IP version.
struct UdpServer {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    fn start(netns: &Path, any: IpAddr) -> Self {
        let netns = Netns::open(netns).unwrap();
        let socket = netns.udp(SocketAddr::new(any, 0)).unwrap();
        let port = socket.local_addr().unwrap().port();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    // There may be no way back.
                    let _sent = socket.send_to(&buffer[..length], client);
                }
            }
        });
        Self {
            port,
            stop,
            thread: Some(thread),
        }
    }

    fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Whether what is said by UDP is answered from there within `patience`.
fn is_answered(netns: &Path, to: (IpAddr, u16), patience: Duration) -> bool {
    let netns = Netns::open(netns).unwrap();
    let any: IpAddr = if to.0.is_ipv4() {
        v4("0.0.0.0")
    } else {
        v4("::")
    };
    let socket = netns.udp(SocketAddr::new(any, 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    netns.run(|| socket.connect(to)).unwrap().unwrap();
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 64];
    while Instant::now() < deadline {
        // Refused where an earlier one met nobody.
        let _sent = socket.send(b"hello");
        if socket.recv(&mut buffer).is_ok() {
            return true;
        }
    }
    false
}

/// Whether a connection comes about, from this address if one is given.
fn connects(netns: &Path, from: Option<IpAddr>, to: (IpAddr, u16), patience: Duration) -> bool {
    let netns = Netns::open(netns).unwrap();
    let to = SocketAddr::from(to);
    let domain = if to.is_ipv4() {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket: Socket = netns.socket(domain, Type::STREAM, None).unwrap();
    if let Some(from) = from {
        socket
            .bind(&SockAddr::from(SocketAddr::new(from, 0)))
            .unwrap();
    }
    socket
        .connect_timeout(&SockAddr::from(to), patience)
        .is_ok()
}

fn switch(netns: &Path, name: &str) -> String {
    sh(netns, &format!("cat /proc/sys/net/{name}"))
        .trim()
        .to_owned()
}

fn set_switch(netns: &Path, name: &str, value: &str) {
    sh(netns, &format!("echo {value} > /proc/sys/net/{name}"));
}
