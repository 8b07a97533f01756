//! A node and its neighbour on the underlay, and what is seen on the wire between them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use weft_encrypt::host::{Host, HostReport, HostSpec, Mode};

use super::ns::{DEADLINE, Ns, ip, join};

pub(super) const NODE4: &str = "198.18.0.1";
pub(super) const PEER4: &str = "198.18.0.2";
pub(super) const NODE6: &str = "2001:db8::1";
pub(super) const PEER6: &str = "2001:db8::2";
pub(super) const INNER: u16 = 4790;
/// Nobody minds datagrams to this one.
const OTHER: u16 = 4791;
/// `ETH_P_ALL`.
const EVERYTHING: u16 = 3;

pub(super) struct Pair {
    pub(super) node: Ns,
    pub(super) peer: Ns,
}

impl Pair {
    pub(super) fn new() -> Self {
        let (node, peer) = (Ns::new(), Ns::new());
        join(
            "eth0",
            (&node, &["198.18.0.1/24", "2001:db8::1/64"]),
            (&peer, &["198.18.0.2/24", "2001:db8::2/64"]),
        );
        Self { node, peer }
    }

    pub(super) fn host(&self) -> Host {
        self.node.run(Host::open).unwrap()
    }

    /// That neither a datagram to the inner port leaves the node in clear, nor one that comes in
    /// clear is given to anybody.
    pub(super) fn assert_closed(&self, when: &str) {
        for (node, peer) in [(NODE4, PEER4), (NODE6, PEER6)] {
            let wire = Wire::open(&self.peer);
            self.send(&self.node, node, SocketAddr::new(ip(peer), INNER), "clear");
            // What was sent before it would have been seen before it.
            self.send(&self.node, node, SocketAddr::new(ip(peer), OTHER), "marker");
            wire.assert_only("marker", "clear", when);

            let [socket, other] = [INNER, OTHER].map(|port| {
                let socket = self.node.run(|| UdpSocket::bind((ip(node), port))).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket
            });
            self.send(&self.peer, peer, SocketAddr::new(ip(node), INNER), "clear");
            self.send(&self.peer, peer, SocketAddr::new(ip(node), OTHER), "marker");
            other.recv(&mut [0; 16]).expect("the marker in time");
            socket.set_nonblocking(true).unwrap();
            let got = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
            assert_eq!(got, Err(ErrorKind::WouldBlock), "{when}");
        }
    }

    /// Sends a datagram, if it may.
    pub(super) fn send(&self, ns: &Ns, from: &'static str, to: SocketAddr, payload: &str) {
        let payload = payload.to_owned();
        ns.run(move || {
            let socket = UdpSocket::bind((ip(from), 0)).unwrap();
            let _ = socket.send_to(payload.as_bytes(), to);
        });
    }
}

/// All that comes over a namespace's links.
struct Wire(Socket);

impl Wire {
    fn open(ns: &Ns) -> Self {
        let protocol = Protocol::from(i32::from(EVERYTHING.to_be()));
        let socket = ns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)));
        let socket = socket.unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    /// That one text comes, and before it no other.
    fn assert_only(&self, wanted: &str, other: &str, when: &str) {
        let mut buffer = [0; 2048];
        loop {
            let length =
                std::io::Read::read(&mut &self.0, &mut buffer).expect("the marker in time");
            let frame = &buffer[..length];
            let has = |text: &str| {
                frame
                    .windows(text.len())
                    .any(|part| part == text.as_bytes())
            };
            assert!(!has(other), "{when}: left in clear: {frame:02x?}");
            if has(wanted) {
                return;
            }
        }
    }
}

pub(super) fn spec(mode: Mode, local: &str) -> HostSpec {
    HostSpec {
        mode,
        inner_port: INNER,
        local: ip(local),
        tap_mtu: 1458,
        allowed: BTreeMap::from([
            (ip(PEER4), [4097, 70_000].into()),
            (ip(PEER6), [4097].into()),
        ]),
    }
}

pub(super) fn userspace() -> HostSpec {
    spec(Mode::Userspace, NODE4)
}

pub(super) fn reconciled(host: &mut Host, spec: &HostSpec) -> HostReport {
    host.reconcile(Some(spec)).unwrap()
}

/// What `ip -j` says in a namespace.
pub(super) fn ip_json(ns: &Ns, arguments: &[&str]) -> Value {
    let mut all = vec!["-j"];
    all.extend(arguments);
    let output = run(ns, "ip", &all);
    let text = output.trim();
    let text = if text.is_empty() { "[]" } else { text };
    serde_json::from_str(text).unwrap_or_else(|error| panic!("ip {all:?}: {error}: {text}"))
}

/// What a program of the system's says in a namespace.
pub(super) fn run(ns: &Ns, program: &str, arguments: &[&str]) -> String {
    // Such tools live where an ordinary user's PATH does not reach.
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{path}:/usr/sbin:/sbin");
    let output = ns.run(|| {
        Command::new(program)
            .args(arguments)
            .env("PATH", path)
            .output()
    });
    let output = output.unwrap_or_else(|error| {
        panic!(
            "this case reads the kernel through `{program}` (Debian: iproute2, nftables): {error}"
        )
    });
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}
