//! Frames through the kernel's ESP.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use weft_encrypt::esp::{HEADROOM, TAILROOM};
use weft_encrypt::inner::{Inner, Vni};
use weft_encrypt::kernel::Kernel;
use weft_encrypt::path::{ESP_PORT, PeerSpec};
use weft_encrypt::sa::{Limits, OutboundSa};

use super::hosts::{
    ECHO, Host, INNER, V4, V6, VNI, Wire, contains, hosts, key, name, ports, rekey, succeed,
};
use super::ns::{DEADLINE, ip};

crate::cases!(
    esp_frames_pass_and_only_esp_is_on_the_wire,
    esp_clear_frames_are_dropped,
    esp_without_keys_nothing_passes,
    esp_keys_change_without_a_loss,
    esp_is_adopted_by_the_next_process,
    esp_damage_is_repaired,
    esp_a_peer_cannot_send_in_anothers_name,
    esp_forged_and_repeated_packets_are_counted,
    esp_a_network_that_is_not_shared_is_dropped_and_counted,
);

fn esp_frames_pass_and_only_esp_is_on_the_wire() {
    for underlay in [V4, V6] {
        let hosts = hosts(underlay);
        let [a, b] = &hosts;
        let _guards = [a.guard(), b.guard()];
        rekey(&hosts, 1);
        b.serve();
        let wire = Wire::open(&b.ns);
        for length in [1, 2, 3, 4, 100, 1380, 1381, 4000] {
            a.ping(b, &vec![b'p'; length]);
        }
        a.stream(b, 300_000);
        let frames = wire.frames();
        // The socket sees the encrypted network's own device, too.
        let outside = frames
            .iter()
            .filter_map(|frame| ports(frame).map(|ports| (ports, frame)));
        let esp = outside
            .clone()
            .filter(|(ports, _)| *ports == (17, ESP_PORT, ESP_PORT));
        assert!(esp.clone().count() > 50);
        assert!(esp.clone().all(|(_, frame)| !contains(frame, b"ppppppppp")));
        let on_the_wire = esp.map(|(_, frame)| frame.len()).max().unwrap();
        assert!(
            on_the_wire > 1480 && on_the_wire <= 14 + 1500,
            "{on_the_wire}"
        );
        let state = a.path().state();
        let [outbound] = &state.outbound[..] else {
            panic!("{state:?}");
        };
        assert_eq!(outbound.name, name(b.local(), 1));
        assert!(outbound.counters.packets > 20 && !outbound.rekey_due);
        let [inbound] = &state.inbound[..] else {
            panic!("{state:?}");
        };
        assert_eq!(inbound.name, name(b.local(), 1));
        let counted = inbound.counters;
        assert!(
            counted.bytes > 300_000 && counted.packets > 20,
            "{counted:?}"
        );
        assert_eq!(counted.all_refused(), 0);
        let peer = &state.peers[&b.local()];
        assert!(
            peer.last_received_ms.is_some_and(|age| age < 60_000),
            "{peer:?}"
        );
        assert_eq!(b.path().state().strays.all_refused(), 0);
    }
}

/// A VXLAN datagram with a datagram for the echo port of the second host in it.
fn datagram(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0xff; 6])
        .ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64)
        .udp(40_000, ECHO)
        .write(&mut frame, text)
        .unwrap();
    frame
}

fn listener(host: &Host) -> UdpSocket {
    let at = (host.address, ECHO);
    let socket = host.ns.run(|| UdpSocket::bind(at)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn assert_silent(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let got = socket.recv(&mut [0; 64]).map_err(|error| error.kind());
    assert_eq!(got, Err(ErrorKind::WouldBlock));
    socket.set_nonblocking(false).unwrap();
}

/// With the policies alone.
fn esp_clear_frames_are_dropped() {
    let hosts = hosts(V4);
    let [a, b] = &hosts;
    rekey(&hosts, 1);
    let socket = listener(b);
    // From a port of VXLAN's, past the policies, of which this socket has its own.
    let outside = a.ns.run(|| UdpSocket::bind((a.local(), 0))).unwrap();
    succeed(&a.ns, "ip xfrm policy flush");
    let inner = Inner {
        source: 0,
        destination: INNER,
        vni: Vni::new(VNI).unwrap(),
    };
    let frame = datagram(b"clear");
    let headers = inner.to_bytes(frame.len()).unwrap();
    let vxlan = [&headers[8..], &frame].concat();
    for _ in 0..3 {
        outside.send_to(&vxlan, (b.local(), INNER)).unwrap();
    }
    a.path().want(&a.spec).unwrap();
    // What comes after it by ESP is taken.
    a.socket().send_to(b"sealed", (b.address, ECHO)).unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("a datagram in time");
    assert_eq!(&buffer[..length], b"sealed");
    assert_silent(&socket);
    let counted = succeed(&b.ns, "cat /proc/net/xfrm_stat");
    let line = counted
        .lines()
        .find(|line| line.starts_with("XfrmInTmplMismatch"));
    assert!(line.is_some_and(|line| line.ends_with('3')), "{counted}");
}

fn esp_without_keys_nothing_passes() {
    let hosts = hosts(V4);
    let [a, b] = &hosts;
    let wire = Wire::open(&b.ns);
    let quiet = |when: &str| {
        let _ = a.socket().send_to(b"secret", (b.address, ECHO));
        let marker = a.ns.run(|| UdpSocket::bind((a.local(), 0))).unwrap();
        marker.send_to(b"marker", (b.local(), 9)).unwrap();
        let start = Instant::now();
        let mut frames = wire.frames();
        while !frames.iter().any(|frame| contains(frame, b"marker")) {
            assert!(start.elapsed() < DEADLINE);
            frames.extend(wire.frames());
        }
        for frame in &frames {
            assert!(!contains(frame, b"secret"), "{when}");
            let to = ports(frame).map(|ports| ports.2);
            assert!(
                to != Some(INNER) && to != Some(ESP_PORT),
                "{when}: {frame:02x?}"
            );
        }
    };
    quiet("before there is a key");
    rekey(&hosts, 1);
    b.serve();
    a.ping(b, b"secret");
    wire.frames();
    a.path().remove_peer(b.local());
    quiet("after the peer was removed");
    assert_eq!(succeed(&a.ns, "ip xfrm state"), "");
    rekey(&hosts, 2);
    a.ping(b, b"again");
    wire.frames();
    succeed(&a.ns, "ip xfrm state flush");
    quiet("after the associations were flushed");
    assert_eq!(a.path().state().outbound, []);
    quiet("after that was seen");
}

fn esp_keys_change_without_a_loss() {
    let hosts = hosts(V4);
    rekey(&hosts, 1);
    let [a, b] = &hosts;
    b.serve();
    let done = Arc::new(AtomicBool::new(false));
    let stop = done.clone();
    let socket = a.socket();
    let to = (b.address, ECHO);
    let pings = thread::spawn(move || {
        let mut count = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            socket.send_to(&count.to_be_bytes(), to).unwrap();
            let mut buffer = [0; 16];
            let length = socket.recv(&mut buffer).expect("no datagram is lost");
            assert_eq!(buffer[..length], count.to_be_bytes());
            count += 1;
        }
        count
    });
    for number in 2..22 {
        rekey(&hosts, number);
        for (host, peer) in [(a, b), (b, a)] {
            assert_eq!(host.path().state().outbound.len(), 1);
            host.path()
                .remove_inbound(name(peer.local(), number - 1).spi);
            assert_eq!(host.path().state().inbound.len(), 1);
        }
    }
    done.store(true, Ordering::Relaxed);
    assert!(pings.join().unwrap() > 20);
    let counted = a.path().state().peers[&b.local()].outbound;
    assert!(counted.packets > 20, "{counted:?}");
    let states = succeed(&a.ns, "ip xfrm state");
    assert_eq!(states.matches("proto esp").count(), 2, "{states}");
}

fn esp_is_adopted_by_the_next_process() {
    let mut hosts = hosts(V4);
    rekey(&hosts, 1);
    hosts[1].serve();
    hosts[0].ping(&hosts[1], b"first");
    let before = hosts[0].path().state();
    let socket = hosts[0].path.take().unwrap().hand_over();
    hosts[0].ping(&hosts[1], b"between");
    let [a, b] = &mut hosts;
    let (spec, dir) = (a.spec.clone(), a.run_dir.path());
    a.path = Some(a.ns.run(|| Kernel::start(spec, dir, Some(socket))).unwrap());
    let after = a.path().state();
    let names = |state: &weft_encrypt::path::PathState| {
        let inbound = state.inbound.iter().map(|sa| sa.name);
        inbound
            .chain(state.outbound.iter().map(|sa| sa.name))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&after), names(&before));
    assert!(after.outbound[0].counters.packets > before.outbound[0].counters.packets);
    a.ping(b, b"after");
    // No key is on disk.
    let text = std::fs::read_to_string(a.run_dir.path().join("esp-kernel.json")).unwrap();
    assert!(!text.contains("5a5a") && !text.contains("90,90"), "{text}");
    // What is not known is removed.
    drop(a.path.take());
    std::fs::remove_file(a.run_dir.path().join("esp-kernel.json")).unwrap();
    a.start();
    assert_eq!(succeed(&a.ns, "ip xfrm state"), "");
    assert_eq!(a.path().state().outbound, []);
    rekey(&hosts, 2);
    hosts[0].ping(&hosts[1], b"with new keys");
}

fn esp_damage_is_repaired() {
    let hosts = hosts(V4);
    let [a, b] = &hosts;
    let _guards = [a.guard(), b.guard()];
    rekey(&hosts, 1);
    b.serve();
    a.ping(b, b"before");
    let wire = Wire::open(&b.ns);
    succeed(&a.ns, "ip xfrm policy flush");
    let _ = a.socket().send_to(b"secret", (b.address, ECHO));
    a.path().want(&a.spec).unwrap();
    a.ping(b, b"after");
    for frame in wire.frames() {
        let to = ports(&frame).map(|ports| ports.2);
        assert!(to != Some(INNER), "{frame:02x?}");
    }
    let mut guard = a.guard();
    assert!(guard.reconcile(Some(&a.host_spec())).unwrap().dropped_out >= 1);
}

/// A packet of this host's key as if from anybody.
fn sealed(sa: &OutboundSa, text: &[u8]) -> Vec<u8> {
    sealed_of(VNI, sa, text)
}

/// The same, of a network.
fn sealed_of(vni: u32, sa: &OutboundSa, text: &[u8]) -> Vec<u8> {
    let frame = datagram(text);
    let inner = Inner {
        source: 40_000,
        destination: INNER,
        vni: Vni::new(vni).unwrap(),
    };
    let payload = [&inner.to_bytes(frame.len()).unwrap()[..], &frame].concat();
    let mut buffer = vec![0; HEADROOM];
    buffer.extend(&payload);
    buffer.resize(buffer.len() + TAILROOM, 0);
    let sealed = sa
        .seal(&mut buffer, HEADROOM..HEADROOM + payload.len())
        .unwrap();
    buffer[sealed.packet].to_vec()
}

fn esp_a_peer_cannot_send_in_anothers_name() {
    let [a, mut b] = hosts(V4);
    // A third one's key, held by the first one.
    let third = ip("198.18.0.3");
    b.spec.peers.insert(third, PeerSpec::default());
    b.path().want(&b.spec).unwrap();
    b.path()
        .install_inbound(name(third, 9), key(b.local(), 9))
        .unwrap();
    drop(a.path);
    let socket = listener(&b);
    let sa = OutboundSa::new(name(third, 9).spi, key(b.local(), 9), Limits::default());
    let outside =
        a.ns.run(|| UdpSocket::bind((a.spec.local, ESP_PORT)))
            .unwrap();
    outside
        .send_to(&sealed(&sa, b"as somebody else"), (b.local(), ESP_PORT))
        .unwrap();
    let start = Instant::now();
    while b.path().state().inbound[0].counters.packets == 0 {
        assert!(start.elapsed() < DEADLINE);
        thread::yield_now();
    }
    assert_silent(&socket);
    succeed(&a.ns, "ip addr add 198.18.0.3/24 dev under");
    let outside = a.ns.run(|| UdpSocket::bind((third, ESP_PORT))).unwrap();
    outside
        .send_to(&sealed(&sa, b"as itself"), (b.local(), ESP_PORT))
        .unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("a datagram in time");
    assert_eq!(&buffer[..length], b"as itself");
    assert_eq!(b.path().state().strays.bad_inner, 1);
}

fn esp_forged_and_repeated_packets_are_counted() {
    let [a, b] = hosts(V4);
    b.path()
        .install_inbound(name(a.local(), 1), key(b.local(), 1))
        .unwrap();
    let local = a.local();
    drop(a.path);
    let socket = listener(&b);
    let sa = OutboundSa::new(name(local, 1).spi, key(b.local(), 1), Limits::default());
    let outside = a.ns.run(|| UdpSocket::bind((local, ESP_PORT))).unwrap();
    let send = |packet: &[u8]| outside.send_to(packet, (b.local(), ESP_PORT)).unwrap();
    let good = sealed(&sa, b"good");
    let mut forged = sealed(&sa, b"forged");
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let mut unknown = sealed(&sa, b"unknown");
    unknown[0] ^= 1;
    send(&good);
    send(&good);
    send(&forged);
    send(&unknown);
    send(&sealed(&sa, b"end"));
    let mut buffer = [0; 64];
    for expected in [&b"good"[..], b"end"] {
        let length = socket.recv(&mut buffer).expect("a datagram in time");
        assert_eq!(&buffer[..length], expected);
    }
    let state = b.path().state();
    let counted = state.inbound[0].counters;
    assert_eq!(
        (counted.packets, counted.replayed, counted.auth_failed),
        (2, 1, 1)
    );
    assert_eq!(state.strays.unknown_spi, 1);
}

/// The receiver is in that network, with others: the guard knows with whom.
fn esp_a_network_that_is_not_shared_is_dropped_and_counted() {
    let [a, mut b] = hosts(V4);
    b.path()
        .install_inbound(name(a.local(), 1), key(b.local(), 1))
        .unwrap();
    let (local, to, socket) = (a.local(), b.local(), listener(&b));
    drop(a.path);
    let sa = OutboundSa::new(name(local, 1).spi, key(b.local(), 1), Limits::default());
    let outside = a.ns.run(|| UdpSocket::bind((local, ESP_PORT))).unwrap();
    let send = |packet: &[u8]| outside.send_to(packet, (to, ESP_PORT)).unwrap();
    let mut guard = b.guard();
    send(&sealed(&sa, b"shared"));
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).expect("a datagram in time");
    assert_eq!(&buffer[..length], b"shared");
    b.spec.peers.insert(
        local,
        PeerSpec {
            networks: [VNI + 1].into(),
        },
    );
    guard.reconcile(Some(&b.host_spec())).unwrap();
    send(&sealed(&sa, b"not shared any more"));
    let start = Instant::now();
    while guard
        .reconcile(Some(&b.host_spec()))
        .unwrap()
        .dropped_foreign
        == 0
    {
        assert!(start.elapsed() < DEADLINE);
        thread::yield_now();
    }
    assert_silent(&socket);
}
