//! Two hosts, each with an encrypted network's end.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use rtnetlink::LinkUnspec;
use weft_encrypt::esp::Spi;
use weft_encrypt::host::TAP_QUEUE;
use weft_encrypt::keys::{Epoch, SaKey};
use weft_encrypt::path::{ESP_PORT, Form, PathSpec, PeerSpec, PortSpec, RemoteSpec, SaName};
use weft_encrypt::rotation::{KeyId, SessionId};
use weft_encrypt::userspace::{IFNAME, PORT_IFNAME, Userspace};
use weft_test_netns::{DEADLINE, Ns, ip, join};

pub(crate) const INNER_PORT: u16 = 4790;
pub(crate) const VNI: u32 = 5000;
/// Addresses in the encrypted network.
const LEFT: &str = "10.9.0.1";
const RIGHT: &str = "10.9.0.2";

/// How the hosts are.
pub(crate) struct Shape {
    pub(crate) left: &'static str,
    pub(crate) right: &'static str,
    pub(crate) underlay_mtu: u32,
    pub(crate) mtu: u32,
    pub(crate) threads: usize,
    /// Frames that wait in the device while nobody reads them.
    pub(crate) queue: u32,
    /// How each host gets the frames of its containers.
    pub(crate) forms: [Form; 2],
}

pub(crate) const V4: Shape = Shape {
    left: "192.0.2.1",
    right: "192.0.2.2",
    underlay_mtu: 1500,
    mtu: 1408,
    threads: 1,
    queue: TAP_QUEUE,
    forms: [Form::Vxlan; 2],
};

pub(crate) const V6: Shape = Shape {
    left: "2001:db8::1",
    right: "2001:db8::2",
    underlay_mtu: 1500,
    mtu: 1388,
    threads: 1,
    queue: TAP_QUEUE,
    forms: [Form::Vxlan; 2],
};

/// As on a machine with more cores than most that tests run on.
pub(crate) const MANY: Shape = Shape { threads: 3, ..V4 };

/// The same, with time for a hand-over however slow the machine is.
pub(crate) const PATIENT: Shape = Shape {
    queue: 2000,
    ..MANY
};

/// Both with ports.
pub(crate) const PORTS: Shape = Shape {
    forms: [Form::Port; 2],
    ..V4
};

/// One of each form.
pub(crate) const MIXED: Shape = Shape {
    forms: [Form::Port, Form::Vxlan],
    ..V4
};

pub(crate) const PORTS_V6: Shape = Shape {
    forms: [Form::Port; 2],
    ..V6
};

pub(crate) const MANY_PORTS: Shape = Shape {
    forms: [Form::Port; 2],
    ..MANY
};

/// As [`PATIENT`].
pub(crate) const PATIENT_PORTS: Shape = Shape {
    forms: [Form::Port; 2],
    ..PATIENT
};

pub(crate) const WIDE: Shape = Shape {
    underlay_mtu: 9000,
    mtu: 8908,
    ..V4
};

/// A host, its data path and what stands for its containers.
pub(crate) struct Host {
    pub(crate) ns: Ns,
    pub(crate) inside: Ns,
    pub(crate) end: IpAddr,
    pub(crate) address: IpAddr,
    pub(crate) path: Option<Userspace>,
    pub(crate) spec: PathSpec,
}

impl Host {
    pub(crate) fn path(&self) -> &Userspace {
        self.path.as_ref().unwrap()
    }

    /// Runs a program in the host's namespace, and expects it to succeed.
    pub(crate) fn host(&self, command: &str) -> Output {
        succeed(&self.ns, command)
    }
}

pub(crate) fn run(ns: &Ns, command: &str) -> Output {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    ns.run(|| Command::new(program).args(words).output().unwrap())
}

pub(crate) fn succeed(ns: &Ns, command: &str) -> Output {
    let output = run(ns, command);
    assert!(output.status.success(), "{command}: {output:?}");
    output
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// Two hosts side by side on one network, with everything but keys.
pub(crate) fn hosts(shape: &Shape) -> (Host, Host) {
    let (left, right) = wired(shape);
    (
        host(left, shape, Side::Left),
        host(right, shape, Side::Right),
    )
}

fn wired(shape: &Shape) -> (Ns, Ns) {
    let (left, right) = (Ns::new(), Ns::new());
    let length = if ip(shape.left).is_ipv4() { 24 } else { 64 };
    let (a, b) = (
        format!("{}/{length}", shape.left),
        format!("{}/{length}", shape.right),
    );
    join("under", (&left, &[&a]), (&right, &[&b]));
    for ns in [&left, &right] {
        succeed(ns, &format!("ip link set under mtu {}", shape.underlay_mtu));
    }
    (left, right)
}

/// Two hosts of which the left one is behind an address translator, that gives it another port.
pub(crate) fn translated() -> (Host, Host, Ns) {
    const INSIDE: Shape = Shape {
        left: "10.1.1.1",
        ..V4
    };
    let (left, right, translator) = (Ns::new(), Ns::new(), Ns::new());
    join(
        "under",
        (&left, &["10.1.1.1/24"]),
        (&translator, &["10.1.1.254/24"]),
    );
    join(
        "out",
        (&translator, &["192.0.2.254/24"]),
        (&right, &["192.0.2.2/24"]),
    );
    succeed(&left, "ip route add default via 10.1.1.254");
    // The check of source addresses wants a route to them, any.
    succeed(&right, "ip route add default via 192.0.2.254");
    translator.0.set_sysctl("ipv4/ip_forward", "1").unwrap();
    for command in [
        "nft add table ip nat",
        "nft add chain ip nat post { type nat hook postrouting priority 100 ; }",
        "nft add rule ip nat post oifname out udp sport 4500 masquerade to :20000-20010",
    ] {
        succeed(&translator, command);
    }
    (
        host(left, &INSIDE, Side::Left),
        host(right, &INSIDE, Side::Right),
        translator,
    )
}

fn host(ns: Ns, shape: &Shape, side: Side) -> Host {
    let inside = Ns::new();
    let (local, peer, address, form) = match side {
        Side::Left => (shape.left, shape.right, LEFT, shape.forms[0]),
        Side::Right => (shape.right, shape.left, RIGHT, shape.forms[1]),
    };
    let networks = [VNI].into();
    let mut spec = PathSpec {
        local: ip(local),
        esp_port: ESP_PORT,
        inner_port: INNER_PORT,
        underlay_mtu: shape.underlay_mtu,
        peers: BTreeMap::from([(ip(peer), PeerSpec { networks })]),
        form,
        ports: BTreeMap::new(),
    };
    if form == Form::Port {
        spec.ports.insert(VNI, port(&inside, ip(address), ip(peer)));
    }
    let path = ns.run(|| Userspace::start_with(spec.clone(), None, shape.threads).unwrap());
    let host = Host {
        ns,
        inside,
        end: ip(local),
        address: ip(address),
        path: Some(path),
        spec,
    };
    match form {
        Form::Vxlan => {
            steer(&host, shape);
            attach(&host, peer);
        }
        Form::Port => bridge(&host),
    }
    enter(&host, shape.mtu);
    if form == Form::Port {
        set_up_port(&host, shape);
    }
    host
}

/// The port of a network whose other endpoint is on that peer.
pub(crate) fn port(inside: &Ns, here: IpAddr, vtep: IpAddr) -> PortSpec {
    let there = other(here);
    let remote = RemoteSpec {
        addresses: vec![there],
        vtep,
    };
    let inside = inside.0.as_fd().as_raw_fd();
    PortSpec {
        netns: format!("/proc/self/fd/{inside}").into(),
        multicast: false,
        remotes: [(mac_of(there), remote)].into(),
        flood: [vtep].into(),
    }
}

/// What the agent does for the data path: the way into its device, and nowhere without it.
fn steer(host: &Host, shape: &Shape) {
    let family = family(host);
    for command in [
        format!("ip {family} rule add pref 50 iif lo ipproto udp dport {INNER_PORT} lookup 4790"),
        format!("ip {family} route add blackhole default table 4790 metric 1000"),
    ] {
        host.host(&command);
    }
    set_up(host, shape);
}

/// The part of it that goes with the device.
pub(crate) fn set_up(host: &Host, shape: &Shape) {
    let (family, around) = (family(host), if host.end.is_ipv4() { 50 } else { 70 });
    let (mtu, queue) = (shape.mtu + around, shape.queue);
    host.host(&format!(
        "ip link set {IFNAME} up mtu {mtu} arp off txqueuelen {queue}"
    ));
    let check = format!("ipv4/conf/{IFNAME}/rp_filter");
    host.ns.0.set_sysctl(&check, "2").unwrap();
    if host.end.is_ipv4() {
        // Without any address the kernel's check of source addresses drops all.
        host.host(&format!("ip addr add 127.119.102.1/32 dev {IFNAME}"));
    }
    host.host(&format!(
        "ip {family} route add default dev {IFNAME} table 4790 metric 1"
    ));
}

fn family(host: &Host) -> &'static str {
    if host.end.is_ipv4() { "-4" } else { "-6" }
}

/// A VXLAN device whose socket is the host's, in the namespace that stands for the containers.
fn attach(host: &Host, peer: &str) {
    let local = host.end;
    let zero = if local.is_ipv4() {
        ""
    } else {
        " udp6zerocsumtx udp6zerocsumrx"
    };
    host.host(&format!(
        "ip link add vx0 address {} type vxlan id {VNI} local {local} remote {peer} \
         dstport {INNER_PORT}{zero}",
        mac(host.address)
    ));
    let inside = host.inside.0.as_fd().as_raw_fd();
    host.ns.link(|handle| async move {
        let moved = LinkUnspec::new_with_name("vx0").setns_by_fd(inside).build();
        handle.link().change(moved).execute().await.unwrap();
    });
}

/// A bridge in its place, of which the data path's device is to be a port.
pub(crate) fn bridge(host: &Host) {
    let address = mac(host.address);
    let made = format!("ip link add vx0 address {address} type bridge mcast_snooping 0");
    succeed(&host.inside, &made);
}

/// What whoever has the sandbox does with the device in it.
pub(crate) fn set_up_port(host: &Host, shape: &Shape) {
    let Shape { mtu, queue, .. } = shape;
    if *queue != TAP_QUEUE {
        let longer = format!("ip link set {PORT_IFNAME} txqueuelen {queue}");
        succeed(&host.inside, &longer);
    }
    let joined = format!("ip link set {PORT_IFNAME} up mtu {mtu} master vx0");
    succeed(&host.inside, &joined);
    // With its first port the bridge has a carrier, and sends when the kernel has seen to that.
    let socket = host
        .inside
        .run(|| UdpSocket::bind((host.address, 0)).unwrap());
    let sent = || ["vx0", PORT_IFNAME].map(|link| frames(&host.inside, link).1);
    let before = sent();
    until("the bridge sends", || {
        // Where nobody listens.
        socket.send_to(b"now?", (other(host.address), 9)).unwrap();
        sent().iter().zip(before).all(|(now, before)| *now > before)
    });
}

/// How many frames a link has received, and sent.
pub(crate) fn frames(inside: &Ns, link: &str) -> (u64, u64) {
    let text = String::from_utf8(run(inside, "cat /proc/net/dev").stdout).unwrap();
    let start = format!("{link}:");
    let mut lines = text.lines();
    let line = lines.find(|line| line.trim_start().starts_with(&start));
    let mut words = line.unwrap().split_whitespace();
    let mut number = |skipped| words.nth(skipped).unwrap().parse().unwrap();
    (number(2), number(7))
}

/// An address in the encrypted network, and where the other one is.
pub(crate) fn enter(host: &Host, mtu: u32) {
    succeed(
        &host.inside,
        &format!("ip addr add {}/24 dev vx0", host.address),
    );
    succeed(&host.inside, &format!("ip link set vx0 up mtu {mtu}"));
    // Nothing is resolved, so nothing is sent but what the cases send.
    let (address, mac) = (other(host.address), mac(other(host.address)));
    let neighbour = format!("ip neigh add {address} lladdr {mac} dev vx0 nud permanent");
    succeed(&host.inside, &neighbour);
}

/// The other of the two addresses.
fn other(address: IpAddr) -> IpAddr {
    ip(if address == ip(LEFT) { RIGHT } else { LEFT })
}

/// The name of the association of that number between the peers.
pub(crate) fn name(peer: IpAddr, number: u32) -> SaName {
    SaName {
        peer,
        key: KeyId {
            session: SessionId(1),
            epoch: Epoch(number.into()),
        },
        spi: Spi::new(0x1000 + number).unwrap(),
    }
}

pub(crate) fn key(number: u32) -> SaKey {
    SaKey::from_bytes([number.to_le_bytes()[0]; 36])
}

/// Keys of that number from one to the other: made there before it is used here.
pub(crate) fn give_key(from: &Host, to: &Host, number: u32) {
    to.path()
        .install_inbound(name(from.end, number), key(number))
        .unwrap();
    from.path()
        .switch_outbound(name(to.end, number), key(number))
        .unwrap();
}

/// Waits until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "not so in time: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Two hosts that have keys for one another: 1 from left to right, 2 back.
pub(crate) fn peers(shape: &Shape) -> (Host, Host) {
    let (left, right) = hosts(shape);
    give_key(&left, &right, 1);
    give_key(&right, &left, 2);
    (left, right)
}

/// MAC address of who has that address.
fn mac(address: IpAddr) -> String {
    let [.., last] = mac_of(address);
    format!("02:00:00:00:00:0{last}")
}

fn mac_of(address: IpAddr) -> [u8; 6] {
    [2, 0, 0, 0, 0, if address == ip(LEFT) { 1 } else { 2 }]
}
