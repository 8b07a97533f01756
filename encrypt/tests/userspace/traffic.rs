//! What goes through.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use weft_encrypt::path::ESP_PORT;

use crate::capture::{Capture, datagrams};
use crate::lab::{Host, V4, V6, WIDE, peers, run, until};

/// What streams consist of.
const PATTERN: &[u8; 29] = b"this must be seen by no one. ";

pub(crate) const CASES: &[(&str, fn())] = &[
    (
        "nothing_but_esp_is_on_the_underlay",
        nothing_but_esp_is_on_the_underlay,
    ),
    ("a_stream_goes_through_ipv6", a_stream_goes_through_ipv6),
    (
        "a_stream_goes_through_a_wide_underlay",
        a_stream_goes_through_a_wide_underlay,
    ),
];

/// Pings from one to the other; how many came back.
pub(crate) fn ping(from: &Host, to: &Host, count: u32, options: &str) -> u32 {
    let command = format!("ping -n -q -c {count} {options} {}", to.address);
    let output = run(&from.inside, &command);
    let text = String::from_utf8(output.stdout).unwrap();
    let received = text
        .split(" received")
        .next()
        .and_then(|text| text.split(' ').next_back());
    received
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

/// Pings until one comes back: address resolution, which is the kernels' own, may take a try.
pub(crate) fn meet(left: &Host, right: &Host) {
    until("they reach one another", || {
        ping(left, right, 1, "-W 1") == 1
    });
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

fn nothing_but_esp_is_on_the_underlay() {
    let (left, right) = peers(&V4);
    let capture = Capture::start(&left.ns, "under");
    meet(&left, &right);
    assert_eq!(ping(&left, &right, 5, "-i 0.05"), 5);
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

fn a_stream_goes_through_ipv6() {
    let (left, right) = peers(&V6);
    meet(&left, &right);
    assert_eq!(ping(&left, &right, 2, "-i 0.05 -M do -s 1360"), 2);
    stream(&left, &right, 5_000_000);
}

fn a_stream_goes_through_a_wide_underlay() {
    let (left, right) = peers(&WIDE);
    meet(&left, &right);
    assert_eq!(ping(&left, &right, 2, "-i 0.05 -M do -s 8880"), 2);
    stream(&left, &right, 20_000_000);
}
