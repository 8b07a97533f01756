//! Ports of bridges: how they come and go, and what they do that VXLAN devices do otherwise.

use std::fs;
use std::mem;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use socket2::Socket;
use weft_encrypt::forwarding::DropCounters;
use weft_encrypt::host::TAP_QUEUE;
use weft_encrypt::path::{Form, PathSpec, PortState};
use weft_encrypt::userspace::{PORT_IFNAME, probe_form};
use weft_test_netns::{DEADLINE, Ns};

use crate::lab::{
    Host, MANY_PORTS, PORTS, VNI, bridge, enter, frames, peers, port, run, set_up_port, succeed,
    until,
};
use crate::life::hand_over;
use crate::traffic::{PAUSE, exchange, shout, stream};

pub(crate) const PORT_CASES: &[(&str, fn())] = &[
    ("this_kernel_takes_one_form", this_kernel_takes_one_form),
    (
        "a_port_comes_and_goes_while_others_go_on",
        a_port_comes_and_goes,
    ),
    (
        "a_port_that_is_removed_is_made_again",
        a_removed_port_is_made_again,
    ),
    ("a_port_moves_with_its_sandbox", a_port_moves),
    ("networks_do_not_mix", networks_do_not_mix),
    (
        "a_hand_over_goes_on_without_a_port_that_is_lost",
        a_hand_over_without_a_port,
    ),
    ("ports_answer_for_endpoints", ports_answer_for_endpoints),
    ("broadcasts_are_copied_if_wanted", broadcasts_are_copied),
    (
        "congested_packets_without_marks_are_dropped",
        congested_packets_are_dropped,
    ),
];

/// Changes what the port of that network is to be, or takes it away.
fn want(host: &Host, change: impl FnOnce(&mut PathSpec)) -> PathSpec {
    let mut spec = host.spec.clone();
    change(&mut spec);
    host.path().want(&spec).unwrap();
    spec
}

fn state(host: &Host) -> PortState {
    host.path().state().ports[&VNI].clone()
}

fn dropped(host: &Host) -> DropCounters {
    state(host).dropped
}

/// What `ip` says of the device, if it is there.
fn device(inside: &Ns) -> Option<String> {
    let output = run(inside, &format!("ip -o link show {PORT_IFNAME}"));
    { output.status.success() }.then(|| String::from_utf8(output.stdout).unwrap())
}

fn this_kernel_takes_one_form() {
    let ns = Ns::new();
    let form = ns.run(probe_form).unwrap();
    let said = format!("{form} {form:>6}");
    let expected = match form {
        Form::Vxlan => "vxlan  vxlan",
        Form::Port => "port   port",
    };
    assert_eq!(said, expected);
    assert!(device(&ns).is_none(), "the attempt was elsewhere");
}

fn a_port_comes_and_goes() {
    const OTHER: u32 = VNI + 1;
    let (left, right) = peers(&PORTS);
    assert_eq!(left.path().state().form, Some(Form::Port));
    exchange(&left, &right, 2, PAUSE, 100);
    let shown = device(&right.inside).unwrap();
    assert!(shown.contains(&format!("qlen {TAP_QUEUE}")), "{shown}");

    // Another one, whose sandbox is not there yet.
    let other = Ns::new();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("sandbox");
    let both = want(&right, |spec| {
        let mut port = spec.ports[&VNI].clone();
        port.netns.clone_from(&path);
        spec.ports.insert(OTHER, port);
    });
    let error = |vni| right.path().state().ports[&vni].error.clone();
    let why = error(OTHER).unwrap();
    assert!(why.contains("cannot open network namespace"), "{why}");
    assert_eq!(error(VNI), None);
    point(&path, &other);
    right.path().want(&both).unwrap();
    assert_eq!(error(OTHER), None);
    assert!(device(&other).is_some());
    exchange(&left, &right, 2, PAUSE, 100);

    // The first one goes; what comes for it is counted.
    let alone = want(&right, |spec| {
        spec.ports = both.ports.clone();
        spec.ports.remove(&VNI);
    });
    assert!(device(&right.inside).is_none());
    until("frames without a port are counted", || {
        shout(&left, &right);
        right.path().state().no_port > 2
    });
    assert!(device(&other).is_some());
    assert_eq!(right.path().state().ports.len(), alone.ports.len());

    // And comes again, without the other one.
    right.path().want(&right.spec).unwrap();
    set_up_port(&right, &PORTS);
    assert!(device(&other).is_none());
    exchange(&left, &right, 2, PAUSE, 100);
    stream(&left, &right, 2_000_000);

    let refused = right.path().want(&PathSpec {
        form: Form::Vxlan,
        ..right.spec.clone()
    });
    assert!(refused.unwrap_err().to_string().contains("form port"));
}

/// Has a path lead to a namespace.
fn point(path: &Path, ns: &Ns) {
    let fd = ns.0.as_fd().as_raw_fd();
    let _ = fs::remove_file(path);
    symlink(format!("/proc/self/fd/{fd}"), path).unwrap();
}

fn a_removed_port_is_made_again() {
    let (left, right) = peers(&PORTS);
    exchange(&left, &right, 2, PAUSE, 100);
    succeed(&right.inside, &format!("ip link del {PORT_IFNAME}"));
    until("it is seen", || state(&right).error.is_some());
    let why = state(&right).error.unwrap();
    assert!(why.contains("esp0 is gone"), "{why}");
    right.path().want(&right.spec).unwrap();
    assert_eq!(state(&right).error, None);
    set_up_port(&right, &PORTS);
    exchange(&left, &right, 2, PAUSE, 100);

    // Somebody else's is left alone.
    succeed(&right.inside, &format!("ip link del {PORT_IFNAME}"));
    until("it is seen", || state(&right).error.is_some());
    let foreign = format!("ip link add {PORT_IFNAME} type bridge");
    succeed(&right.inside, &foreign);
    right.path().want(&right.spec).unwrap();
    let why = state(&right).error.unwrap();
    assert!(why.contains("tap esp0 cannot be used"), "{why}");
    succeed(&right.inside, &format!("ip link del {PORT_IFNAME}"));
    right.path().want(&right.spec).unwrap();
    set_up_port(&right, &PORTS);
    stream(&right, &left, 2_000_000);
}

fn a_port_moves() {
    let (left, mut right) = peers(&PORTS);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("sandbox");
    let (first, second) = (Ns::new(), Ns::new());
    point(&path, &first);
    let spec = want(&right, |spec| {
        spec.ports.get_mut(&VNI).unwrap().netns.clone_from(&path);
    });
    assert!(device(&first).is_some() && device(&right.inside).is_none());
    point(&path, &second);
    right.path().want(&spec).unwrap();
    assert!(device(&second).is_some() && device(&first).is_none());
    // The specification is as it was: that is looked at, too.
    point(&path, &right.inside);
    right.path().want(&spec).unwrap();
    right.spec = spec;
    set_up_port(&right, &PORTS);
    exchange(&left, &right, 2, PAUSE, 100);

    // A table that cannot be closes it.
    let addresses = right.spec.ports[&VNI]
        .remotes
        .values()
        .next()
        .unwrap()
        .clone();
    let wrong = want(&right, |spec| {
        let remotes = &mut spec.ports.get_mut(&VNI).unwrap().remotes;
        remotes.insert([2, 0, 0, 0, 0, 9], addresses);
    });
    assert_eq!(wrong.ports.len(), 1);
    let why = state(&right).error.unwrap();
    assert!(why.contains("is of two endpoints"), "{why}");
    assert!(device(&right.inside).is_none());
    right.path().want(&right.spec).unwrap();
    set_up_port(&right, &PORTS);
    exchange(&left, &right, 2, PAUSE, 100);
}

/// Gives a host a second network, with the addresses of the first, and has it be the one that is
/// looked at. Returns where the first one is.
fn add_network(host: &mut Host, vni: u32) -> Ns {
    let first = mem::take(&mut host.inside);
    let (peer, known) = host.spec.peers.iter_mut().next().unwrap();
    known.networks.insert(vni);
    let port = port(&host.inside, host.address, *peer);
    host.spec.ports.insert(vni, port);
    host.path().want(&host.spec).unwrap();
    bridge(host);
    enter(host, PORTS.mtu);
    set_up_port(host, &PORTS);
    first
}

fn networks_do_not_mix() {
    const OTHER: u32 = VNI + 1;
    let (mut left, mut right) = peers(&PORTS);
    exchange(&left, &right, 2, PAUSE, 100);
    let first = [&mut left, &mut right].map(|host| add_network(host, OTHER));
    let of_first = || { first.iter() }.map(|inside| frames(inside, "vx0").0);
    let before: Vec<u64> = of_first().collect();
    exchange(&left, &right, 5, PAUSE, 100);
    stream(&left, &right, 2_000_000);
    stream(&right, &left, 2_000_000);
    assert_eq!(of_first().collect::<Vec<u64>>(), before);

    // What the peer takes no part in is not taken from it, whatever port there is.
    let spec = want(&right, |spec| {
        let known = spec.peers.get_mut(&left.end).unwrap();
        known.networks.remove(&OTHER);
    });
    assert!(spec.ports.contains_key(&OTHER));
    let before = frames(&right.inside, "vx0").0;
    until("it is counted", || {
        shout(&left, &right);
        right.path().state().peers[&left.end].foreign_network > 2
    });
    assert_eq!(frames(&right.inside, "vx0").0, before);
}

fn a_hand_over_without_a_port() {
    let (mut left, mut right) = peers(&MANY_PORTS);
    let first = [&mut left, &mut right].map(|host| add_network(host, VNI + 1));
    exchange(&left, &right, 2, PAUSE, 100);
    // Whether that is noticed before or not.
    succeed(&first[0], &format!("ip link del {PORT_IFNAME}"));
    let path = left.path.take().unwrap();
    left.path = Some(hand_over(&left, path));
    assert!(device(&first[0]).is_some(), "it is made again");
    assert!(
        left.path()
            .state()
            .ports
            .values()
            .all(|port| port.error.is_none())
    );
    exchange(&left, &right, 2, PAUSE, 100);
    left.inside = first.into_iter().next().unwrap();
    set_up_port(&left, &PORTS);
}

fn ports_answer_for_endpoints() {
    let (mut left, mut right) = peers(&PORTS);
    for host in [&mut left, &mut right] {
        let of_other = host.spec.ports.get_mut(&VNI).unwrap();
        let of_other = of_other.remotes.values_mut().next().unwrap();
        let (here, there) = (host.address, of_other.addresses[0]);
        let known = format!("ip neigh del {there} dev vx0");
        succeed(&host.inside, &known);
        let [here, there] = [here, there].map(|address| match address {
            IpAddr::V4(v4) => format!("fd00::{}", v4.octets()[3]),
            IpAddr::V6(v6) => v6.to_string(),
        });
        of_other.addresses.push(there.parse().unwrap());
        host.path().want(&host.spec).unwrap();
        let added = format!("ip addr add {here}/64 dev vx0 nodad");
        succeed(&host.inside, &added);
    }
    exchange(&left, &right, 2, PAUSE, 100);
    let asked = format!("ip neigh show {} dev vx0", right.address);
    let shown = String::from_utf8(succeed(&left.inside, &asked).stdout).unwrap();
    assert!(shown.contains("lladdr 02:00:00:00:00:02"), "{shown}");

    // Nobody is asked on the other hosts.
    let sealed = sealed_bytes(&left);
    let nobody = ["10.9.0.77:9", "10.9.0.78:9"];
    until("questions are dropped", || {
        for somebody in nobody {
            let bind = || UdpSocket::bind((left.address, 0)).unwrap();
            let _ = left.inside.run(bind).send_to(b"?", somebody);
        }
        dropped(&left).unknown_neighbour > 1
    });
    assert_eq!(sealed_bytes(&left), sealed);

    // The same by neighbour discovery.
    left.address = "fd00::1".parse().unwrap();
    right.address = "fd00::2".parse().unwrap();
    exchange(&left, &right, 2, PAUSE, 100);
    stream(&left, &right, 1_000_000);
}

/// Signs of life have none.
fn sealed_bytes(host: &Host) -> u64 {
    host.path().state().outbound[0].counters.bytes
}

fn broadcasts_are_copied() {
    let (left, right) = peers(&PORTS);
    let listener = right
        .inside
        .run(|| UdpSocket::bind("0.0.0.0:7777").unwrap());
    listener.set_read_timeout(Some(DEADLINE)).unwrap();
    let socket = left
        .inside
        .run(|| UdpSocket::bind((left.address, 0)).unwrap());
    socket.set_broadcast(true).unwrap();
    let shout = || socket.send_to(b"all", "10.9.0.255:7777").unwrap();
    let before = sealed_bytes(&left);
    until("they are dropped", || {
        shout();
        dropped(&left).not_flooded > 2
    });
    assert_eq!(sealed_bytes(&left), before);
    want(&left, |spec| {
        spec.ports.get_mut(&VNI).unwrap().multicast = true;
    });
    shout();
    assert_eq!(listener.recv(&mut [0; 10]).unwrap(), 3);

    // To a node that is no peer of the network, nothing goes.
    want(&left, |spec| {
        let port = spec.ports.get_mut(&VNI).unwrap();
        port.multicast = true;
        port.flood = ["192.0.2.9".parse().unwrap()].into();
    });
    until("they are dropped", || {
        shout();
        dropped(&left).no_peer > 2
    });
}

fn congested_packets_are_dropped() {
    let (left, right) = peers(&PORTS);
    for command in [
        "nft add table ip squeeze",
        "nft add chain ip squeeze pre { type filter hook prerouting priority 0 ; }",
        "nft add rule ip squeeze pre udp dport 4500 ip ecn set ce",
    ] {
        right.host(command);
    }
    let socket = left
        .inside
        .run(|| UdpSocket::bind((left.address, 0)).unwrap());
    until("they are counted", || {
        socket.send_to(b"x", (right.address, 9)).unwrap();
        dropped(&right).congested > 2
    });
    // Whoever knows marks gets them.
    let listener = right
        .inside
        .run(|| UdpSocket::bind((right.address, 0)).unwrap());
    listener.set_read_timeout(Some(DEADLINE)).unwrap();
    let socket = Socket::from(socket);
    socket.set_tos_v4(2).unwrap();
    let to = listener.local_addr().unwrap();
    socket.send_to(b"marked", &to.into()).unwrap();
    assert_eq!(listener.recv(&mut [0; 10]).unwrap(), 6);
}
