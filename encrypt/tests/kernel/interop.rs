//! The kernel's ESP and this crate's own, on one wire.

use std::net::UdpSocket;
use std::thread;

use weft_encrypt::esp::{HEADROOM, TAILROOM};
use weft_encrypt::inner::Inner;
use weft_encrypt::path::ESP_PORT;
use weft_encrypt::sa::{InboundSa, Limits, OutboundSa};

use super::hosts::{Host, INNER, V4, V6, VNI, bare, key, name, succeed};
use super::ns::DEADLINE;

crate::cases!(esp_of_the_kernel_and_our_own_open_each_other);

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Opens what comes by ESP, and sends the datagrams in it back to where they came from.
fn reflect(host: &Host, peer: &Host) {
    let (local, remote) = (host.local(), peer.local());
    let socket = host.ns.run(|| UdpSocket::bind((local, ESP_PORT))).unwrap();
    let mut inbound = InboundSa::new(name(remote, 1).spi, key(local, 1));
    let outbound = OutboundSa::new(name(local, 1).spi, key(remote, 1), Limits::default());
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let packet = &mut buffer[..length];
            let payload = inbound.open(packet).expect("the kernel's packet").payload;
            let (inner, frame) = Inner::parse(&packet[payload.clone()], INNER).expect("a frame");
            assert_eq!(inner.vni.get(), VNI);
            let frame = packet[payload][frame].to_vec();
            if frame[12..14] != [8, 0] {
                continue;
            }
            let answer = answer(frame);
            let headers = inner.to_bytes(answer.len()).unwrap();
            let payload = [&headers[..], &answer].concat();
            let mut buffer = vec![0; HEADROOM];
            buffer.extend(&payload);
            buffer.resize(buffer.len() + TAILROOM, 0);
            let sealed = outbound.seal(&mut buffer, HEADROOM..HEADROOM + payload.len());
            let packet = &buffer[sealed.unwrap().packet];
            socket.send_to(packet, from).unwrap();
        }
    });
}

/// Addresses and ports the other way round; no sum changes by that.
fn answer(mut frame: Vec<u8>) -> Vec<u8> {
    let (destination, source) = frame[..12].split_at_mut(6);
    destination.swap_with_slice(source);
    let (source, destination) = frame[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = frame[34..38].split_at_mut(2);
    source.swap_with_slice(destination);
    frame
}

fn esp_of_the_kernel_and_our_own_open_each_other() {
    for underlay in [V4, V6] {
        let [mut kernel, ours] = bare(underlay);
        reflect(&ours, &kernel);
        kernel.start();
        let _guard = kernel.guard();
        let (from, to) = (kernel.local(), ours.local());
        let path = kernel.path();
        path.install_inbound(name(to, 1), key(from, 1)).unwrap();
        path.switch_outbound(name(to, 1), key(to, 1)).unwrap();
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        let address = ours.address;
        succeed(
            &kernel.ns,
            &format!("ip neigh add {address} lladdr {mac} dev vx0"),
        );
        let socket = kernel.socket();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut buffer = [0; 2048];
        for length in (1..=65)
            .chain([1379, 1380])
            .filter(|length| length + 28 <= 1388)
        {
            let payload = vec![length as u8; length];
            socket.send_to(&payload, (address, 7)).unwrap();
            let (got, sender) = socket.recv_from(&mut buffer).unwrap_or_else(|error| {
                let counted = succeed(&kernel.ns, "cat /proc/net/xfrm_stat");
                let udp = succeed(&kernel.ns, "cat /proc/net/snmp6 /proc/net/snmp");
                panic!("{length} bytes from {to}: {error}\n{counted}\n{udp}")
            });
            assert_eq!(sender, (address, 7).into());
            assert_eq!(buffer[..got], payload);
        }
        let state = kernel.path().state();
        assert!(state.inbound[0].counters.packets >= 65, "{state:?}");
        assert_eq!(state.inbound[0].counters.all_refused(), 0, "{state:?}");
        assert_eq!(state.strays.all_refused(), 0, "{state:?}");
    }
}
