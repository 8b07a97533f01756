//! Packets that Linux 6.18 gave to a TAP behind its VXLAN device: with offloads, and the same
//! datagrams without.

use super::*;
use crate::test_util::hex;

/// A `sendto` of 13 bytes with `UDP_SEGMENT` 5, IPv4. (Identification of the other run.)
const SUPER4: &str = "09255c00050054000600000000000000000000002200400002000000090902000000080808004500005b \
     d4a10000401121edc0000201c00002028c4d12b60047845c080000000012670002000000000102000000 \
     0002080045000029b6ac400040116f680a0000c80a0000071e610035001514f56162636465666768696a \
     6b6c6d";
/// The same in IPv6.
const SUPER6: &str = "09257000050068000600000000000000000000002200400002000000090902000000080808004500006f \
     d4aa0000401121d0c0000201c0000202842212b6005b8470080000000012670002000000000102000000 \
     000286dd600752ee00151140fd000000000000000000000000000001fd00000000000000000000000000 \
     00071e6100350015fa2f6162636465666768696a6b6c6d";
/// The inner frames that Linux made of it where the TAP had no offload.
const FRAMES4: [&str; 3] = [
    "020000000001020000000002080045000021b6ac400040116f510a0000c80a0000071e610035000da2a8 \
     6162636465",
    "020000000001020000000002080045000021b6ad400040116f500a0000c80a0000071e610035000d939e \
     666768696a",
    "02000000000102000000000208004500001fb6ae400040116f510a0000c80a0000071e610035000bf406 \
     6b6c6d",
];
/// The same in IPv6.
const FRAMES6: [&str; 3] = [
    "02000000000102000000000286dd600752ee000d1140fd000000000000000000000000000001fd000000 \
     0000000000000000000000071e610035000dbd6d6162636465",
    "02000000000102000000000286dd600752ee000d1140fd000000000000000000000000000001fd000000 \
     0000000000000000000000071e610035000dae63666768696a",
    "02000000000102000000000286dd600752ee000b1140fd000000000000000000000000000001fd000000 \
     0000000000000000000000071e610035000b0ecc6b6c6d",
];
/// A SYN whose checksum is open.
const SYN: &str = "01000000000054001000000000000000000000000000000002000000090902000000080808004500006e \
     d4ca0000401121b1c0000201c000020291c912b6005a709e080000000012670002000000000102000000 \
     000208004500003c5d1740004006c8d60a0000c80a0000071e62005082b0923800000000a002fb2814fd \
     0000020405580402080a065f7da8000000000103030a";

fn sent(packet: &str) -> Vec<Vec<u8>> {
    let bytes = hex(packet);
    let (vnet, packet) = Vnet::parse(&bytes, Layout::Tunnel).unwrap();
    let outer = Outer::parse(packet, PORT).unwrap();
    let segments = Segments::new(&vnet, outer.inner, packet, outer.frame.clone()).unwrap();
    assert_eq!(outer.destination, PEER4);
    assert_eq!(outer.inner.vni.get(), 4711);
    frames(&segments, outer.inner)
}

#[test]
fn segments_are_what_linux_itself_would_have_made() {
    for (packet, frames) in [(SUPER4, FRAMES4), (SUPER6, FRAMES6)] {
        let expected: Vec<_> = frames.iter().map(|frame| hex(frame)).collect();
        assert_eq!(sent(packet), expected);
        // And of them, Linux's own super-packet; but for the wrapper, which is ours.
        let written = coalesce(&mut Coalescer::new(tunnel(false)), &expected);
        let [(3, bytes)] = written.as_slice() else {
            panic!("{} packets", written.len());
        };
        let packet = hex(packet);
        // Linux wants the outer UDP checksums written (8), we have none.
        assert_eq!((packet[0], bytes[0]), (9, 1));
        assert_eq!(bytes[1..24], packet[1..24]);
        // The IPv4 header checksum is of the identification before it was changed above.
        let (inner, theirs) = (&bytes[24 + 50..], &packet[24 + 50..]);
        assert_eq!(inner[..24], theirs[..24]);
        assert_eq!(inner[26..], theirs[26..], "{bytes:x?}");
    }
}

#[test]
fn an_open_checksum_is_finished() {
    let frame = sent(SYN).remove(0);
    let parsed = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
    let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(etherparse::TransportHeader::Tcp(tcp))) =
        (parsed.net, parsed.transport)
    else {
        panic!("no TCP");
    };
    assert_eq!(tcp.calc_checksum_ipv4(&ip, &[]), Ok(tcp.checksum));
    assert!(tcp.syn);
}
