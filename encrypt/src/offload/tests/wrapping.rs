//! Outer headers.

use proptest::prelude::*;

use super::*;
use crate::offload::outer::{LONGEST, Wrapper};

fn packet(v6: bool) -> Vec<u8> {
    in_tunnel(Vnet::default(), &[0x5a; 60], v6).1
}

#[test]
fn headers_are_laid_out_as_the_rfcs_have_them() {
    let mut out = [0xee; LONGEST];
    assert_eq!(wrapper(false).write(PEER4, 0x01, 80, &mut out), Ok(34));
    let expected = [
        2, 0, 0, 0, 8, 8, 2, 0, 0, 0, 9, 9, 0x08, 0x00, 0x45, 0x01, 0, 100, 0, 0, 0x40, 0, 64, 17,
        0xb6, 0x84, 192, 0, 2, 2, 192, 0, 2, 1,
    ];
    assert_eq!(out[..34], expected);
    assert_eq!(wrapper(true).write(PEER6, 0xb3, 80, &mut out), Ok(54));
    assert_eq!(out[12..22], [0x86, 0xdd, 0x6b, 0x30, 0, 0, 0, 80, 17, 64]);
    for (v6, tos) in [(false, 0x01), (true, 0xb3)] {
        let length = wrapper(v6).write(peer(v6), tos, 80, &mut out).unwrap();
        let bytes = [&out[..length], &[0; 80]].concat();
        let parsed = etherparse::PacketHeaders::from_ethernet_slice(&bytes).unwrap();
        match parsed.net.unwrap() {
            etherparse::NetHeaders::Ipv4(ip, _) => {
                assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            }
            etherparse::NetHeaders::Ipv6(ip, _) => assert_eq!(ip.traffic_class, tos),
            etherparse::NetHeaders::Arp(_) => panic!("ARP"),
        }
    }
}

#[test]
fn what_is_written_is_read_back() {
    for v6 in [false, true] {
        let packet = packet(v6);
        let outer = Outer::parse(&packet, PORT).unwrap();
        assert_eq!(
            (outer.source, outer.destination),
            (peer(v6), wrapper(v6).local)
        );
        assert_eq!((outer.tos, outer.inner), (3, inner()));
        assert_eq!(packet[outer.frame.clone()], [0x5a; 60]);
        // Padding is left out.
        let padded = [packet.as_slice(), &[0; 9]].concat();
        assert_eq!(Outer::parse(&padded, PORT), Ok(outer));
    }
}

#[test]
fn tunnel_ends_of_two_ip_versions_and_datagrams_too_long_are_refused() {
    let mut out = [0; LONGEST];
    assert_eq!(
        wrapper(false).write(PEER6, 0, 80, &mut out),
        Err(Rejection::Family)
    );
    assert_eq!(
        wrapper(true).write(PEER4, 0, 80, &mut out),
        Err(Rejection::Family)
    );
    assert!(!wrapper(true).takes(PEER4) && wrapper(true).takes(PEER6));
    for (v6, most) in [(false, 65_515), (true, 65_535)] {
        let wrapper: Wrapper = wrapper(v6);
        assert_eq!(wrapper.longest_datagram(), most);
        assert!(wrapper.write(peer(v6), 0, most, &mut out).is_ok());
        assert_eq!(
            wrapper.write(peer(v6), 0, most + 1, &mut out),
            Err(Rejection::TooLong)
        );
    }
}

#[test]
fn everything_else_on_the_device_is_refused_by_name() {
    for v6 in [false, true] {
        let good = packet(v6);
        let ip = 14;
        let udp = if v6 { 54 } else { 34 };
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Outer::parse(&bytes, PORT).unwrap_err()
        };
        assert_eq!(changed(13, 0x06), Rejection::NotIp);
        assert_eq!(changed(ip, 0x75), Rejection::OuterHeader);
        assert_eq!(
            changed(ip + if v6 { 6 } else { 9 }, 6),
            Rejection::NotTunnel
        );
        assert_eq!(changed(udp + 3, 0), Rejection::NotTunnel);
        assert_eq!(changed(udp + 5, 0), Rejection::BadLength);
        assert_eq!(changed(udp + 8, 0), Rejection::NotTunnel);
        if !v6 {
            assert_eq!(changed(ip, 0x46), Rejection::OuterHeader);
            assert_eq!(changed(ip + 6, 0x20), Rejection::OuterHeader);
            assert_eq!(changed(ip + 7, 1), Rejection::OuterHeader);
        }
        assert_eq!(Outer::parse(&good, 4789), Err(Rejection::NotTunnel));
        for length in 0..good.len() {
            assert!(Outer::parse(&good[..length], PORT).is_err(), "{length}");
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Outer::parse(&bytes, PORT);
    }
}
