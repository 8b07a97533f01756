//! Two hosts with an encrypted network between them.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Output};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;
use weft_encrypt::esp::Spi;
use weft_encrypt::host::{Host as Guard, HostSpec, Mode};
use weft_encrypt::kernel::Kernel;
use weft_encrypt::keys::{Epoch, SaKey};
use weft_encrypt::path::{ESP_PORT, Form, PathSpec, PeerSpec, SaName};
use weft_encrypt::rotation::{KeyId, SessionId};

use super::ns::{DEADLINE, Ns, ip, join};

pub(super) const INNER: u16 = 4790;
pub(super) const VNI: u32 = 4097;
/// Where answers are given.
pub(super) const ECHO: u16 = 7;
/// `ETH_P_ALL`.
const EVERYTHING: u16 = 3;

/// The addresses of an underlay.
#[derive(Clone, Copy)]
pub(super) struct Underlay {
    pub(super) ends: [&'static str; 2],
    length: u8,
    mtu: u32,
}

pub(super) const V4: Underlay = Underlay {
    ends: ["198.18.0.1", "198.18.0.2"],
    length: 24,
    mtu: 1408,
};

pub(super) const V6: Underlay = Underlay {
    ends: ["2001:db8::1", "2001:db8::2"],
    length: 64,
    mtu: 1388,
};

/// A host: its namespace, run directory and data path.
pub(super) struct Host {
    pub(super) ns: Ns,
    pub(super) run_dir: TempDir,
    pub(super) spec: PathSpec,
    pub(super) path: Option<Kernel>,
    /// On the encrypted network.
    pub(super) address: IpAddr,
}

impl Host {
    pub(super) fn path(&self) -> &Kernel {
        self.path.as_ref().unwrap()
    }

    pub(super) fn local(&self) -> IpAddr {
        self.spec.local
    }

    pub(super) fn start(&mut self) {
        let (spec, dir) = (self.spec.clone(), self.run_dir.path());
        let path = self.ns.run(|| Kernel::start(spec, dir, None));
        self.path = Some(path.unwrap());
    }

    /// What the agent has around the data path.
    pub(super) fn guard(&self) -> Guard {
        let mut guard = self.ns.run(Guard::open).unwrap();
        guard.reconcile(Some(&self.host_spec())).unwrap();
        guard
    }

    pub(super) fn host_spec(&self) -> HostSpec {
        let peers = self.spec.peers.iter();
        HostSpec {
            mode: Mode::Kernel,
            inner_port: INNER,
            local: self.spec.local,
            tap_mtu: 1458,
            allowed: peers
                .map(|(peer, spec)| (*peer, spec.networks.clone()))
                .collect(),
        }
    }

    /// Answers what comes to the echo port, for as long as the test lasts.
    pub(super) fn serve(&self) {
        let at = (self.address, ECHO);
        let socket = self.ns.run(|| UdpSocket::bind(at)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
        let listener = self.ns.run(|| TcpListener::bind(at)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream);
                    let _ = std::io::copy(&mut reader, &mut writer);
                });
            }
        });
    }

    /// A socket on the encrypted network.
    pub(super) fn socket(&self) -> UdpSocket {
        let at = (self.address, 0);
        let socket = self.ns.run(|| UdpSocket::bind(at)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    }

    /// Sends a datagram to a host's echo port and waits for it to come back.
    pub(super) fn ping(&self, to: &Self, payload: &[u8]) {
        let socket = self.socket();
        socket.send_to(payload, (to.address, ECHO)).unwrap();
        let mut buffer = vec![0; 65_536];
        let (length, from) = socket.recv_from(&mut buffer).expect("the echo in time");
        assert_eq!(from, SocketAddr::new(to.address, ECHO));
        assert_eq!(&buffer[..length], payload);
    }

    /// Sends so many bytes over TCP and reads them back.
    pub(super) fn stream(&self, to: &Self, length: usize) {
        let at = (to.address, ECHO);
        let mut stream = self.ns.run(|| TcpStream::connect(at)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let sent: Vec<u8> = (0..length).map(|at| ((at * 31) >> 3) as u8).collect();
        let (mut writer, bytes) = (stream.try_clone().unwrap(), sent.clone());
        let writer = thread::spawn(move || writer.write_all(&bytes).unwrap());
        let mut got = vec![0; length];
        stream.read_exact(&mut got).expect("the bytes in time");
        writer.join().unwrap();
        assert!(got == sent, "other bytes came back");
    }
}

/// Two hosts on one wire, with data paths and without keys.
pub(super) fn hosts(underlay: Underlay) -> [Host; 2] {
    let mut hosts = bare(underlay);
    for host in &mut hosts {
        host.start();
    }
    hosts
}

/// The same without data paths.
pub(super) fn bare(underlay: Underlay) -> [Host; 2] {
    let namespaces = [Ns::new(), Ns::new()];
    let nets = underlay
        .ends
        .map(|end| format!("{end}/{}", underlay.length));
    join(
        "under",
        (&namespaces[0], &[&nets[0]]),
        (&namespaces[1], &[&nets[1]]),
    );
    let mut index = 0;
    namespaces.map(|ns| {
        let host = host(ns, underlay, index);
        index += 1;
        host
    })
}

fn host(ns: Ns, underlay: Underlay, index: usize) -> Host {
    let (local, peer) = (underlay.ends[index], underlay.ends[1 - index]);
    let address = format!("10.9.0.{}", index + 1);
    let networks = [VNI].into();
    let spec = PathSpec {
        local: ip(local),
        esp_port: ESP_PORT,
        inner_port: INNER,
        underlay_mtu: 1500,
        peers: BTreeMap::from([(ip(peer), PeerSpec { networks })]),
        form: Form::Vxlan,
        ports: BTreeMap::new(),
    };
    for command in [
        // What user space wraps has no inner checksum over IPv6 either.
        format!(
            "ip link add vx0 type vxlan id {VNI} local {local} remote {peer} dstport {INNER} \
             udp6zerocsumrx"
        ),
        format!("ip link set vx0 up mtu {}", underlay.mtu),
        format!("ip addr add {address}/24 dev vx0"),
    ] {
        succeed(&ns, &command);
    }
    Host {
        ns,
        run_dir: TempDir::new().unwrap(),
        spec,
        path: None,
        address: ip(&address),
    }
}

/// The name of the key of that number from one host to another.
pub(super) fn name(peer: IpAddr, number: u32) -> SaName {
    SaName {
        peer,
        key: KeyId {
            session: SessionId(77),
            epoch: Epoch(number.into()),
        },
        spi: Spi::new(0x1000 + number).unwrap(),
    }
}

/// Its bytes.
pub(super) fn key(to: IpAddr, number: u32) -> SaKey {
    let mut bytes = [0x5a; 36];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    match to {
        IpAddr::V4(v4) => bytes[4..8].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes[4..20].copy_from_slice(&v6.octets()),
    }
    SaKey::from_bytes(bytes)
}

/// Gives both the keys of that number, the receiver first.
pub(super) fn rekey([a, b]: &[Host; 2], number: u32) {
    for (from, to) in [(a, b), (b, a)] {
        let inbound = name(from.local(), number);
        to.path()
            .install_inbound(inbound, key(to.local(), number))
            .unwrap();
    }
    for (from, to) in [(a, b), (b, a)] {
        let outbound = name(to.local(), number);
        from.path()
            .switch_outbound(outbound, key(to.local(), number))
            .unwrap();
    }
}

/// Runs a program in a namespace.
pub(super) fn run(ns: &Ns, command: &str) -> Output {
    let words: Vec<&str> = command.split_whitespace().collect();
    // Such tools live where an ordinary user's PATH does not reach.
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{path}:/usr/sbin:/sbin");
    let output = ns.run(|| {
        Command::new(words[0])
            .args(&words[1..])
            .env("PATH", path)
            .output()
    });
    output.unwrap_or_else(|error| panic!("{command}: {error} (Debian: iproute2)"))
}

pub(super) fn succeed(ns: &Ns, command: &str) -> String {
    let output = run(ns, command);
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What comes over a namespace's underlay.
pub(super) struct Wire(Socket);

impl Wire {
    pub(super) fn open(ns: &Ns) -> Self {
        let protocol = Protocol::from(i32::from(EVERYTHING.to_be()));
        let socket = ns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)));
        let socket = socket.unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// The frames so far.
    pub(super) fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let mut frame = vec![0; 65_536];
            match (&self.0).read(&mut frame) {
                Ok(length) => frames.push(frame[..length].to_vec()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return frames,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Protocol and ports of a frame over IPv4 or IPv6, none of what has none.
pub(super) fn ports(frame: &[u8]) -> Option<(u8, u16, u16)> {
    let (protocol, at) = match frame.get(12..14)? {
        [8, 0] => (*frame.get(23)?, 34),
        [0x86, 0xdd] => (*frame.get(20)?, 54),
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    Some((protocol, port(at)?, port(at + 2)?))
}

pub(super) fn contains(frame: &[u8], text: &[u8]) -> bool {
    frame.windows(text.len()).any(|part| part == text)
}
