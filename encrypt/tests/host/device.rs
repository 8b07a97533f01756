//! The device, held by a process as the data-plane process holds it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use etherparse::PacketBuilder;
use weft_encrypt::host::Mode;

use super::node::{
    INNER, NODE4, NODE6, PEER4, PEER6, Pair, ip_json, reconciled, run, spec, userspace,
};
use super::ns::{DEADLINE, ip};
use super::tap::Tap;

crate::cases!(
    the_device_is_set_up_and_is_the_way_of_what_goes_to_the_port,
    what_the_process_gives_is_taken_whatever_the_reverse_path_filter,
    over_ipv6_the_device_works_as_well,
    when_the_device_vanishes_it_is_closed_and_when_it_comes_back_it_works,
    damage_to_the_device_is_repaired,
    the_device_goes_unused_where_the_kernel_does_it,
);

/// What a peer's VXLAN device sends, as it comes out of the process.
fn frame(tap: &Tap, from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], tap.mac);
    let builder = match (ip(from), ip(to)) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!(),
    };
    let mut bytes = Vec::new();
    builder
        .udp(40_000, INNER)
        .write(&mut bytes, payload)
        .unwrap();
    bytes
}

/// The next frame from the device that has the text.
fn await_frame(tap: &Tap, text: &str) -> Vec<u8> {
    loop {
        let frame = tap.frame();
        if frame
            .windows(text.len())
            .any(|part| part == text.as_bytes())
        {
            return frame;
        }
    }
}

fn the_device_is_set_up_and_is_the_way_of_what_goes_to_the_port() {
    let pair = Pair::new();
    let mut host = pair.host();
    assert!(!reconciled(&mut host, &userspace()).tap);
    let tap = Tap::open(&pair.node);
    let report = reconciled(&mut host, &userspace());
    assert!(report.tap && report.ops == 4, "{report:?}");
    assert_eq!(reconciled(&mut host, &userspace()).ops, 0);
    let link = &ip_json(&pair.node, &["link", "show", "wf-esp"])[0];
    assert_eq!(link["mtu"], 1458);
    assert_eq!(link["txqlen"], weft_encrypt::host::TAP_QUEUE);
    let flags = link["flags"].to_string();
    assert!(
        flags.contains("NOARP") && flags.contains("\"UP\""),
        "{flags}"
    );
    let addresses = run(&pair.node, "ip", &["-6", "addr", "show", "wf-esp"]);
    assert_eq!(addresses, "", "no address of its own");
    let to = SocketAddr::new(ip(PEER4), INNER);
    pair.send(&pair.node, NODE4, to, "to the peer");
    let frame = await_frame(&tap, "to the peer");
    assert_eq!(frame[..6], tap.mac);
    assert_eq!(frame[26..30], [198, 18, 0, 1]);
    assert_eq!(frame[30..34], [198, 18, 0, 2]);
    pair.assert_closed("with the device");
}

fn what_the_process_gives_is_taken_whatever_the_reverse_path_filter() {
    let pair = Pair::new();
    let mut tap = Tap::open(&pair.node);
    let mut host = pair.host();
    let socket = pair.node.run(|| UdpSocket::bind((NODE4, INNER))).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    for all in ["0", "1", "2"] {
        for own in ["0", "1", "2"] {
            let set = |switch, value| pair.node.0.set_sysctl(switch, value).unwrap();
            set("ipv4/conf/all/rp_filter", all);
            set("ipv4/conf/wf-esp/rp_filter", own);
            assert!(reconciled(&mut host, &userspace()).tap);
            tap.give(&frame(&tap, PEER4, NODE4, format!("{all}{own}").as_bytes()));
            let mut buffer = [0; 16];
            let (length, from) = socket.recv_from(&mut buffer).expect(all);
            assert_eq!(&buffer[..length], format!("{all}{own}").as_bytes());
            assert_eq!(from, SocketAddr::new(ip(PEER4), 40_000));
        }
    }
    assert_eq!(reconciled(&mut host, &userspace()).dropped_in, 0);
}

fn over_ipv6_the_device_works_as_well() {
    let pair = Pair::new();
    let mut tap = Tap::open(&pair.node);
    let mut host = pair.host();
    let spec = spec(Mode::Userspace, NODE6);
    reconciled(&mut host, &spec);
    assert_eq!(reconciled(&mut host, &spec).ops, 0);
    let to = SocketAddr::new(ip(PEER6), INNER);
    pair.send(&pair.node, NODE6, to, "to the peer");
    assert_eq!(await_frame(&tap, "to the peer")[..6], tap.mac);
    let socket = pair.node.run(|| UdpSocket::bind((NODE6, INNER))).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    tap.give(&frame(&tap, PEER6, NODE6, b"from the peer"));
    let mut buffer = [0; 16];
    let length = socket.recv(&mut buffer).expect("a datagram in time");
    assert_eq!(&buffer[..length], b"from the peer");
    drop(socket);
    pair.assert_closed("over IPv6");
}

fn when_the_device_vanishes_it_is_closed_and_when_it_comes_back_it_works() {
    let pair = Pair::new();
    let mut host = pair.host();
    for round in ["first", "second"] {
        let tap = Tap::open(&pair.node);
        assert!(reconciled(&mut host, &userspace()).tap);
        let to = SocketAddr::new(ip(PEER4), INNER);
        pair.send(&pair.node, NODE4, to, round);
        await_frame(&tap, round);
        tap.vanish(&pair.node);
        pair.assert_closed("after the device vanished");
        let report = reconciled(&mut host, &userspace());
        assert!(!report.tap && report.ops == 0, "{report:?}");
    }
}

fn damage_to_the_device_is_repaired() {
    let pair = Pair::new();
    let tap = Tap::open(&pair.node);
    let mut host = pair.host();
    reconciled(&mut host, &userspace());
    for damage in [
        "link set wf-esp mtu 1000",
        "link set wf-esp arp on",
        "link set wf-esp txqueuelen 1000",
        "link set wf-esp down",
        "link set wf-esp addrgenmode eui64",
        "addr flush dev wf-esp",
        "route flush table 2003304448",
        "rule del pref 110",
    ] {
        let arguments: Vec<&str> = damage.split(' ').collect();
        run(&pair.node, "ip", &arguments);
        pair.assert_closed(damage);
        assert!(reconciled(&mut host, &userspace()).ops > 0, "{damage}");
        assert_eq!(reconciled(&mut host, &userspace()).ops, 0, "{damage}");
        let to = SocketAddr::new(ip(PEER4), INNER);
        pair.send(&pair.node, NODE4, to, "again");
        await_frame(&tap, "again");
    }
}

fn the_device_goes_unused_where_the_kernel_does_it() {
    let pair = Pair::new();
    let mut tap = Tap::open(&pair.node);
    let mut host = pair.host();
    reconciled(&mut host, &userspace());
    let spec = spec(Mode::Kernel, NODE4);
    let report = reconciled(&mut host, &spec);
    assert!(!report.tap && report.ops > 0);
    assert!(!run(&pair.node, "ip", &["rule"]).contains("2003304448"));
    let socket = pair.node.run(|| UdpSocket::bind((NODE4, INNER))).unwrap();
    tap.give(&frame(&tap, PEER4, NODE4, b"past the kernel"));
    while reconciled(&mut host, &spec).dropped_in == 0 {
        std::thread::yield_now();
    }
    socket.set_nonblocking(true).unwrap();
    let got = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(got, Err(ErrorKind::WouldBlock));
}
