//! What is seen between two hosts.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::SockRef;
use weft_netns::Netns;
use weft_overlay::Mac;

use crate::lab::*;

pub(crate) const CASES: &[(&str, fn())] = &[
    (
        "containers_on_two_hosts_reach_each_other_and_nothing_floods",
        nothing_floods,
    ),
    (
        "an_address_that_nobody_has_sends_nothing_to_the_underlay",
        unknown_address,
    ),
    ("networks_with_the_same_subnet_are_isolated", same_subnet),
    ("endpoints_on_one_host_reach_each_other", one_host),
    ("over_ipv6_it_works_too_and_without_checksum", over_ipv6),
    ("multicast_reaches_the_members_when_wanted", multicast),
    ("an_endpoint_moves_to_the_other_host", moves),
];

/// Long enough to hear an answer that should not come.
const SHORT: Duration = Duration::from_millis(150);
/// On a busy machine an answer may take its time.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// The frames inside VXLAN that were captured.
pub(crate) fn inner(capture: &Capture) -> Vec<(u32, Vec<u8>)> {
    capture
        .take()
        .iter()
        .filter_map(|frame| frame.inner().map(|(vni, bytes)| (vni, bytes.to_vec())))
        .collect()
}

pub(crate) fn assert_unicast(frames: &[(u32, Vec<u8>)]) {
    for (vni, frame) in frames {
        assert!(
            frame[0] & 1 == 0,
            "a broadcast or multicast on VNI {vni}: {frame:02x?}"
        );
        assert_ne!(
            frame[12..14],
            [0x08, 0x06],
            "ARP on VNI {vni}: {frame:02x?}"
        );
    }
}

/// Sends one datagram from an address of a container, by the interface that has it.
fn say(container: &Path, from: IpAddr, to: (IpAddr, u16), words: &[u8]) {
    let netns = Netns::open(container).unwrap();
    let socket = netns.udp(SocketAddr::new(from, 0)).unwrap();
    socket.set_broadcast(true).unwrap();
    if let IpAddr::V4(from) = from {
        SockRef::from(&socket).set_multicast_if_v4(&from).unwrap();
    }
    socket.send_to(words, to).unwrap();
}

fn nothing_floods() {
    run(async {
        let pair = Pair::new();
        let capture = Capture::start(&pair.hosts[0].netns);
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        assert_eq!(ping(&pair.containers[0], address(3), 20, LONG), 20);
        assert_eq!(ping(&pair.containers[1], address(2), 20, LONG), 20);
        // Over IPv6, neighbour discovery is answered by the host too.
        say(&pair.containers[0], address6(2), (address6(3), 9), b"x");
        // Everything that a container says to everybody stays on its host.
        sh(&pair.containers[0], "ip addr add 10.0.1.77/24 dev eth0");
        for to in ["10.0.1.255:9", "224.0.0.251:5353", "239.1.2.3:4000"] {
            let to: SocketAddr = to.parse().unwrap();
            say(
                &pair.containers[0],
                address(2).into(),
                (to.ip(), to.port()),
                b"x",
            );
        }
        // Time for reports and solicitations that are sent with a delay.
        std::thread::sleep(Duration::from_millis(1500));
        assert!(ping(&pair.containers[0], address(3), 1, LONG) == 1);
        let frames = inner(&capture);
        let pings = frames
            .iter()
            .filter(|(_, f)| f[12..14] == [8, 0] && f[23] == 1)
            .count();
        assert!(pings >= 80, "{pings}");
        let udp6 = frames
            .iter()
            .filter(|(_, f)| f[12..14] == [0x86, 0xdd] && f[20] == 17);
        assert_eq!(udp6.count(), 1, "the IPv6 datagram");
        assert_unicast(&frames);
        for (vni, frame) in &frames {
            assert_eq!(*vni, 4097);
            let ends = [mac(2), mac(3)];
            let [to, from] = [0, 6].map(|at| Mac(frame[at..at + 6].try_into().unwrap()));
            assert!(ends.contains(&to) && ends.contains(&from), "{frame:02x?}");
        }
        let known = sh(&pair.containers[0], "ip neigh show 10.0.1.3 dev eth0");
        assert!(known.contains(&mac(3).to_string()), "{known}");
    });
}

fn unknown_address() {
    run(async {
        let pair = Pair::new();
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        let capture = Capture::start(&pair.hosts[0].netns);
        assert_eq!(ping(&pair.containers[0], address(200), 5, SHORT), 0);
        // A MAC address that nobody has, either.
        let entry = "ip neigh replace 10.0.1.201 lladdr 02:42:0a:00:01:c9 dev eth0 nud permanent";
        sh(&pair.containers[0], entry);
        assert_eq!(ping(&pair.containers[0], address(201), 5, SHORT), 0);
        assert_eq!(inner(&capture), vec![]);
    });
}

fn same_subnet() {
    run(async {
        let mut pair = Pair::new();
        let others = [pair.lab.namespace("d1"), pair.lab.namespace("d2")];
        // The same addresses and MACs, another VNI; and one address that only one network has.
        let mut other_specs = [sandbox_spec(1), sandbox_spec(2)];
        attach(&mut other_specs, 1, &others[0], 2);
        attach(&mut other_specs, 2, &others[1], 4);
        other_specs.iter_mut().for_each(|spec| spec.vni = 4098);
        let rename = |spec: &mut weft_overlay::SandboxSpec| {
            let locals = std::mem::take(&mut spec.locals);
            spec.locals = locals
                .into_iter()
                .map(|(id, l)| (id.replace('e', "x"), l))
                .collect();
        };
        other_specs.iter_mut().for_each(rename);
        for (host, other) in other_specs.iter().enumerate() {
            let mut spec = pair.spec(host);
            spec.insert(OTHER.to_owned(), other.clone());
            pair.hosts[host].settle(&spec).await;
        }
        assert!(pings(&pair.containers[0], address(3)) && pings(&others[0], address(4)));
        assert_eq!(ping(&pair.containers[0], address(4), 3, SHORT), 0);
        assert_eq!(ping(&others[0], address(3), 3, SHORT), 0);
        // One goes, the other stays.
        let running = RunningPing::start(&others[0], address(4));
        pair.specs[0].locals.clear();
        let only = [(OTHER.to_owned(), other_specs[0].clone())].into();
        pair.hosts[0].settle(&only).await;
        let (sent, lost) = running.stop();
        assert!(sent > 5 && lost == 0, "{lost} of {sent} lost");
    });
}

fn one_host() {
    run(async {
        let mut pair = Pair::new();
        let third = pair.lab.namespace("c3");
        attach(&mut pair.specs, 1, &third, 4);
        pair.settle().await;
        let capture = Capture::start(&pair.hosts[0].netns);
        assert!(pings(&pair.containers[0], address(4)));
        assert_eq!(ping(&third, address(2), 20, LONG), 20);
        assert_eq!(inner(&capture), vec![]);
        // A third container hears nothing of what two others say to each other.
        let fourth = pair.lab.namespace("c4");
        attach(&mut pair.specs, 1, &fourth, 5);
        pair.settle().await;
        let eavesdropper = Capture::start(&fourth);
        assert_eq!(ping(&third, address(2), 20, LONG), 20);
        assert_eq!(ping(&third, address(3), 20, LONG), 20);
        let heard = eavesdropper.take();
        let icmp = heard
            .iter()
            .filter(|f| f.0[12..14] == [8, 0] && f.0[23] == 1);
        assert_eq!(icmp.count(), 0);
    });
}

fn over_ipv6() {
    run(async {
        let mut pair = Pair::new();
        for (host, spec) in pair.specs.iter_mut().enumerate() {
            spec.mtu = 1430;
            spec.vtep.local = format!("fd00::{}", host + 1).parse().unwrap();
            for remote in spec.remotes.values_mut() {
                remote.vtep = format!("fd00::{}", 2 - host).parse().unwrap();
            }
        }
        let capture = Capture::start(&pair.hosts[0].netns);
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        assert_eq!(ping(&pair.containers[0], address(3), 20, LONG), 20);
        let frames = capture.take();
        let tunnelled: Vec<&Frame> = frames.iter().filter(|f| f.inner().is_some()).collect();
        assert!(tunnelled.len() >= 40);
        for frame in tunnelled {
            assert_eq!(frame.0[12..14], [0x86, 0xdd]);
            assert_eq!(frame.0[60..62], [0, 0], "outer UDP checksum");
        }
    });
}

fn multicast() {
    run(async {
        let mut pair = Pair::new();
        for (host, spec) in pair.specs.iter_mut().enumerate() {
            spec.multicast = true;
            spec.flood = [vtep(2 - host as u8), vtep(40)].into();
        }
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        let sandbox = pair.hosts[0].sandbox();
        let fdb = sh(&sandbox, "bridge fdb show dev vxlan0");
        for member in ["198.18.0.2", "198.18.0.40"] {
            assert!(
                fdb.contains(&format!("00:00:00:00:00:00 dst {member} ")),
                "{fdb}"
            );
        }
        let capture = Capture::start(&pair.containers[1]);
        let group = "239.1.2.3".parse().unwrap();
        say(
            &pair.containers[0],
            address(2).into(),
            (group, 4000),
            b"hello all",
        );
        assert!(ping(&pair.containers[0], address(3), 1, LONG) == 1);
        let deadline = Instant::now() + LONG;
        let heard = || capture.take().iter().any(|f| f.0.ends_with(b"hello all"));
        while !heard() {
            assert!(Instant::now() < deadline, "the member hears nothing");
        }
        // A member leaves, then the option goes.
        pair.specs[0].flood = [vtep(2)].into();
        assert_eq!(pair.hosts[0].settle(&pair.spec(0)).await, 1);
        pair.specs[0].multicast = false;
        assert_eq!(pair.hosts[0].settle(&pair.spec(0)).await, 1);
        let fdb = sh(&sandbox, "bridge fdb show dev vxlan0");
        assert!(!fdb.contains("00:00:00:00:00:00"), "{fdb}");
    });
}

fn moves() {
    run(async {
        let mut pair = Pair::new();
        let third = pair.lab.namespace("c3");
        attach(&mut pair.specs, 1, &third, 4);
        pair.settle().await;
        assert!(pings(&pair.containers[1], address(4)));
        let moved = pair.lab.namespace("c3b");
        pair.specs[0].locals.remove(&endpoint_id(4));
        pair.specs[1].remotes.remove(&mac(4));
        attach(&mut pair.specs, 2, &moved, 4);
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(4)));
        assert!(pings(&pair.containers[1], address(4)));
    });
}
