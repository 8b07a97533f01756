//! What goes through.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::Socket;
use weft_encrypt::path::ESP_PORT;
use weft_test_netns::DEADLINE;

use crate::capture::{Capture, datagrams};
use crate::lab::{
    Host, MANY, MANY_PORTS, MIXED, PORTS, PORTS_V6, Shape, V4, V6, WIDE, peers, until,
};

/// Between one datagram and the next.
pub(crate) const PAUSE: Duration = Duration::from_millis(4);
/// Nobody listens there.
const DISCARD: u16 = 9;
/// What streams consist of.
const PATTERN: &[u8; 29] = b"this must be seen by no one. ";

/// Of the kernel's VXLAN devices.
pub(crate) const TUNNELS: &[(&str, fn())] = &[
    ("marks_of_congestion_are_carried", || {
        marks_of_congestion_are_carried(&V4);
    }),
    ("what_is_too_long_for_the_path_is_counted", || {
        what_is_too_long_is_counted(&V4);
    }),
    ("nothing_but_esp_is_on_the_underlay", || {
        nothing_but_esp_is_on_the_underlay(&V4);
    }),
    ("a_port_speaks_with_a_vxlan_device", || {
        nothing_but_esp_is_on_the_underlay(&MIXED);
    }),
    ("streams_go_through_many_threads", || {
        streams_go_through_many_threads(&MANY);
    }),
    ("a_stream_goes_through_ipv6", || {
        a_stream_goes_through_ipv6(&V6);
    }),
    (
        "a_stream_goes_through_a_wide_underlay",
        a_stream_goes_through_a_wide_underlay,
    ),
];

/// Of ports, on every kernel.
pub(crate) const PORT_CASES: &[(&str, fn())] = &[
    ("marks_of_congestion_are_carried_by_ports", || {
        marks_of_congestion_are_carried(&PORTS);
    }),
    ("what_is_too_long_and_from_a_port_is_counted", || {
        what_is_too_long_is_counted(&PORTS);
    }),
    ("nothing_but_esp_comes_from_ports", || {
        nothing_but_esp_is_on_the_underlay(&PORTS);
    }),
    ("streams_go_through_many_queues_of_ports", || {
        streams_go_through_many_threads(&MANY_PORTS);
    }),
    ("a_stream_of_ports_goes_through_ipv6", || {
        a_stream_goes_through_ipv6(&PORTS_V6);
    }),
];

/// Who answers: sends back what it is sent, until it is dropped.
struct Echo {
    address: SocketAddr,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(host: &Host) -> Self {
        let socket = host
            .inside
            .run(|| UdpSocket::bind((host.address, 0)).unwrap());
        let address = socket.local_addr().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 1 << 16];
            while !is_done.load(Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..length], from).unwrap();
                }
            }
        });
        Self {
            address,
            done,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.done.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Sends so many datagrams of so many bytes from one to the other, with pauses, and expects every
/// one of them back.
pub(crate) fn exchange(from: &Host, to: &Host, count: u32, pause: Duration, length: usize) {
    let echo = Echo::start(to);
    let socket = from
        .inside
        .run(|| UdpSocket::bind((from.address, 0)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let answers = thread::scope(|scope| {
        let answers = scope.spawn(|| collect(&socket, count as usize));
        for number in 0..count {
            let mut datagram = number.to_be_bytes().to_vec();
            datagram.resize(length, 0);
            socket.send_to(&datagram, echo.address).unwrap();
            thread::sleep(pause);
        }
        answers.join().unwrap()
    });
    let lost: Vec<_> = (0..count)
        .filter(|number| !answers.contains(number))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}

/// Numbers of the answers, until there are as many or for long there was none.
fn collect(socket: &UdpSocket, count: usize) -> BTreeSet<u32> {
    let (mut answers, mut last) = (BTreeSet::new(), Instant::now());
    let mut buffer = [0; 1 << 16];
    while answers.len() < count && last.elapsed() < DEADLINE {
        if socket.recv(&mut buffer).is_ok() {
            let [a, b, c, d, ..] = buffer;
            answers.insert(u32::from_be_bytes([a, b, c, d]));
            last = Instant::now();
        }
    }
    answers
}

/// Sends a datagram that is not to arrive.
pub(crate) fn shout(from: &Host, to: &Host) {
    let socket = from
        .inside
        .run(|| UdpSocket::bind((from.address, 0)).unwrap());
    socket.send_to(PATTERN, (to.address, DISCARD)).unwrap();
}

/// Sends so many bytes over one connection and expects them to arrive as they were.
pub(crate) fn stream(from: &Host, to: &Host, bytes: usize) {
    let listener = to
        .inside
        .run(|| TcpListener::bind(SocketAddr::new(to.address, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        connection.read_to_end(&mut received).unwrap();
        received
    });
    let data: Vec<u8> = PATTERN.iter().copied().cycle().take(bytes).collect();
    let mut connection = from.inside.run(|| TcpStream::connect(address).unwrap());
    connection.write_all(&data).unwrap();
    drop(connection);
    assert!(
        receiver.join().unwrap() == data,
        "the bytes are not those that were sent"
    );
}

fn nothing_but_esp_is_on_the_underlay(shape: &Shape) {
    let (left, right) = peers(shape);
    let capture = Capture::start(&left.ns, "under");
    exchange(&left, &right, 5, PAUSE, 100);
    stream(&left, &right, 5_000_000);
    stream(&right, &left, 5_000_000);
    let frames = capture.finish();
    let (esp, others) = datagrams(&frames, ESP_PORT);
    assert!(esp.iter().map(|esp| esp.len()).sum::<usize>() > 10_000_000);
    let is_arp = |frame: &&[u8]| frame.get(12..14) == Some(&[0x08, 0x06]);
    assert!(others.iter().all(is_arp), "{others:?}");
    let clear = PATTERN.as_slice();
    assert!(
        esp.iter()
            .all(|esp| !esp.windows(clear.len()).any(|bytes| bytes == clear))
    );
    for host in [&left, &right] {
        let state = host.path().state();
        assert_eq!((state.error, state.strays.all_refused()), (None, 0));
        assert!(state.inbound[0].counters.packets > 1000);
        assert!(state.outbound[0].counters.packets > 1000);
    }
}

fn streams_go_through_many_threads(shape: &Shape) {
    let (left, right) = peers(shape);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| stream(&left, &right, 3_000_000));
            scope.spawn(|| stream(&right, &left, 3_000_000));
        }
    });
    for host in [&left, &right] {
        let state = host.path().state();
        assert_eq!(
            state.inbound[0].counters.replayed, 0,
            "a number was used twice"
        );
        assert_eq!(state.inbound[0].counters.auth_failed, 0);
    }
}

fn a_stream_goes_through_ipv6(shape: &Shape) {
    let (left, right) = peers(shape);
    exchange(&left, &right, 2, PAUSE, 1388 - 28);
    stream(&left, &right, 5_000_000);
}

fn a_stream_goes_through_a_wide_underlay() {
    let (left, right) = peers(&WIDE);
    exchange(&left, &right, 2, PAUSE, 8908 - 28);
    stream(&left, &right, 20_000_000);
}

/// The two bits of congestion notification of what was sent to that port, in frames of IPv4.
fn marks(frames: &[Vec<u8>], port: u16) -> BTreeSet<u8> {
    let to = |frame: &&Vec<u8>| frame.get(36..38) == Some(&port.to_be_bytes());
    frames
        .iter()
        .filter(to)
        .map(|frame| frame[15] & 3)
        .collect()
}

fn marks_of_congestion_are_carried(shape: &Shape) {
    const CAPABLE: u8 = 2;
    const CONGESTED: u8 = 3;
    let (left, right) = peers(shape);
    for command in [
        "nft add table ip squeeze",
        "nft add chain ip squeeze pre { type filter hook prerouting priority 0 ; }",
        "nft add rule ip squeeze pre udp dport 4500 ip ecn ect0 ip ecn set ce",
    ] {
        right.host(command);
    }
    let on_the_way = Capture::start(&left.ns, "under");
    let arrived = Capture::start(&right.inside, "vx0");
    let socket = Socket::from(
        left.inside
            .run(|| UdpSocket::bind((left.address, 0)).unwrap()),
    );
    socket.set_tos_v4(CAPABLE.into()).unwrap();
    let listener = right
        .inside
        .run(|| UdpSocket::bind((right.address, 0)).unwrap());
    listener.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = listener.local_addr().unwrap();
    socket.send_to(PATTERN, &to.into()).unwrap();
    // By then it has been everywhere.
    assert_eq!(listener.recv(&mut [0; 100]).unwrap(), PATTERN.len());
    let (sent, got) = (on_the_way.finish(), arrived.finish());
    assert!(
        marks(&sent, ESP_PORT).contains(&CAPABLE),
        "copied to the outer header"
    );
    assert_eq!(
        marks(&got, to.port()),
        [CONGESTED].into(),
        "and back from it"
    );
}

fn what_is_too_long_is_counted(shape: &Shape) {
    let (left, right) = peers(shape);
    exchange(&left, &right, 2, PAUSE, 1000);
    let failed = || left.path().state().peers[&right.end].send_failed;
    assert_eq!(failed(), 0);
    left.host("ip link set under mtu 1400");
    let socket = left
        .inside
        .run(|| UdpSocket::bind((left.address, 0)).unwrap());
    let long = [0; 1380];
    until("it is not sent", || {
        socket.send_to(&long, (right.address, DISCARD)).unwrap();
        failed() > 0
    });
    exchange(&left, &right, 2, PAUSE, 1000);
    left.host("ip link set under mtu 1500");
    stream(&left, &right, 2_000_000);
}
