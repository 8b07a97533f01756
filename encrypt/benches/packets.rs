//! `cargo bench -p weft-encrypt --bench packets`: nanoseconds per packet of what is done in user space,
//! without system calls, of one super-packet of a TCP flow at MTU 1500 and at 9000. Figures are
//! printed and never asserted; each is the least of many runs, since all that disturbs adds.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark in which everything is its own"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use weft_encrypt::esp::{HEADROOM, ICV, Spi, TRAILER, sealed_length};
use weft_encrypt::inner::{self, Inner};
use weft_encrypt::keys::SaKey;
use weft_encrypt::offload::outer::{ETHERNET, Outer, Wrapper};
use weft_encrypt::offload::vnet::{GSO_TCPV4, GSO_UDP_TUNNEL_IPV4, Layout, NEEDS_CSUM, Vnet};
use weft_encrypt::offload::{Arrival, Coalescer, Config, Form, Segments, checksum};
use weft_encrypt::sa::{InboundSa, InboundTable, Limits, OutboundSa};

const PORT: u16 = 4790;
const LOCAL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Ethernet, IPv4, and TCP with time stamps.
const HEADERS: usize = ETHERNET + 20 + 32;
/// Bytes of headers of the IP packet that carries ESP, and of ESP itself.
const AROUND: u32 = 92;
const RUNS: usize = 2000;

fn main() {
    println!("| MTU | what | ns per packet |");
    println!("|---|---|---|");
    for mtu in [1500, 9000] {
        measure(mtu);
    }
}

fn measure(mtu: u32) {
    let payload = (mtu - AROUND) as usize - (HEADERS - ETHERNET);
    let count = 65_000 / payload;
    let show = |what, ns: f64| println!("| {mtu} | {what} | {:.0} |", ns / count as f64);
    let read = super_packet(payload, count);
    let (mut packets, mut sealed) = (vec![0; 1 << 17], vec![0; 1 << 17]);

    let summed = least(
        &mut (),
        |()| (),
        |()| {
            for part in read.chunks(payload).take(count) {
                black_box(checksum::sum(black_box(part)));
            }
        },
    );
    show("checksum", summed);
    let mut stride = 0;
    let taken_apart = least(&mut packets, |_| (), |to| stride = write(&read, None, to));
    show("taking apart", taken_apart);
    let transmitted = least(
        &mut outbound(),
        |out| *out = outbound(),
        |out| stride = write(&read, Some(out), &mut sealed),
    );
    show("sealing", transmitted - taken_apart);

    let length = stride * count;
    let received = least(
        &mut (&mut packets, inbound()),
        |(packets, table)| {
            packets.copy_from_slice(&sealed);
            *table = inbound();
        },
        |(packets, table)| open(table, &mut packets[..length], stride),
    );
    show("opening", received);
    let mut coalescer = Coalescer::new(Config {
        form: Form::Tunnel(Wrapper {
            source_mac: [2; 6],
            mac: [4; 6],
            local: LOCAL.into(),
        }),
        tcp: true,
        udp: true,
    });
    let merged = least(
        &mut coalescer,
        |_| (),
        |coalescer| merge(coalescer, &packets[..length], stride),
    );
    show("putting together", merged);
}

/// Least time of many runs, in nanoseconds, without what is done before each.
fn least<T>(state: &mut T, mut before: impl FnMut(&mut T), mut run: impl FnMut(&mut T)) -> f64 {
    let times = (0..RUNS).map(|_| {
        before(state);
        let start = Instant::now();
        run(state);
        start.elapsed().as_secs_f64() * 1e9
    });
    times.fold(f64::INFINITY, f64::min)
}

/// What a TAP gives of a flow in the kernel's VXLAN, as that writes it.
fn super_packet(payload: usize, count: usize) -> Vec<u8> {
    let frame = HEADERS + payload * count;
    let vnet = Vnet {
        flags: NEEDS_CSUM,
        gso_type: GSO_TCPV4 | GSO_UDP_TUNNEL_IPV4,
        gso_size: payload as u16,
        csum_start: 84,
        csum_offset: 16,
        ..Vnet::default()
    };
    let mut read = vnet.to_bytes()[..Layout::Tunnel.length()].to_vec();
    let wrapper = Wrapper {
        source_mac: [1; 6],
        mac: [2; 6],
        local: PEER.into(),
    };
    let mut outer = [0; weft_encrypt::offload::outer::LONGEST];
    let datagram = frame + inner::HEADERS;
    let written = wrapper.write(LOCAL.into(), 0, datagram, &mut outer);
    read.extend_from_slice(&outer[..written.unwrap()]);
    let vni = inner::Vni::new(5000).unwrap();
    let headers = Inner {
        source: 50_000,
        destination: PORT,
        vni,
    };
    read.extend_from_slice(&headers.to_bytes(frame).unwrap());
    read.extend_from_slice(&[2; 12]);
    read.extend_from_slice(&[8, 0]);
    let [l0, l1] = ((frame - ETHERNET) as u16).to_be_bytes();
    read.extend_from_slice(&[0x45, 0, l0, l1, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    read.extend_from_slice(&[10, 5, 0, 1, 10, 5, 0, 2]);
    // Ports, numbers, eight words of header and ACK, window; then time stamps (RFC 7323).
    read.extend_from_slice(&[0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1]);
    read.extend_from_slice(&[0x80, 0x10, 1, 0, 0, 0, 0, 0]);
    read.extend_from_slice(&[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8]);
    read.extend((0..payload * count).map(|at| at as u8));
    read
}

fn outbound() -> OutboundSa {
    OutboundSa::new(spi(), key(), Limits::default())
}

fn inbound() -> InboundTable {
    let mut table = InboundTable::new();
    table.insert(InboundSa::new(spi(), key())).unwrap();
    table
}

fn spi() -> Spi {
    Spi::new(0x1000).unwrap()
}

/// Of this run alone.
fn key() -> SaKey {
    SaKey::from_bytes([7; 36])
}

/// As what is read from the TAP is sent. Returns how far one packet is from the next.
fn write(read: &[u8], out: Option<&OutboundSa>, packets: &mut [u8]) -> usize {
    let (vnet, packet) = Vnet::parse(read, Layout::Tunnel).unwrap();
    let outer = Outer::parse(packet, PORT).unwrap();
    let segments = Segments::new(&vnet, outer.inner, packet, outer.frame).unwrap();
    let count = segments.count();
    let mut reserved = out.map(|out| out.reserve(count as u64, read.len() as u64).unwrap());
    let stride = sealed_length(segments.length(0));
    for index in 0..count {
        let room = &mut packets[index * stride..];
        let payload = HEADROOM..HEADROOM + segments.length(index);
        segments.write(index, &mut room[payload.clone()]).unwrap();
        if let Some(reserved) = &mut reserved {
            reserved.seal(room, payload).unwrap();
        }
    }
    stride
}

/// As what was received is opened.
fn open(table: &InboundTable, packets: &mut [u8], stride: usize) {
    let mut entry = table.lock(spi()).unwrap();
    for packet in packets.chunks_mut(stride) {
        entry.open(packet).unwrap();
    }
}

/// As what was opened is written to the TAP.
fn merge(coalescer: &mut Coalescer, packets: &[u8], stride: usize) {
    for at in (0..packets.len()).step_by(stride) {
        let end = at + stride - TRAILER - ICV;
        let payload = &packets[at + HEADROOM..end];
        let (inner, frame) = Inner::parse(payload, PORT).unwrap();
        let start = at + HEADROOM;
        let arrival = Arrival {
            peer: IpAddr::V4(PEER),
            tos: 0,
            inner,
            buffer: 0,
            frame: start + frame.start..start + frame.end,
        };
        coalescer.push(arrival, packets).unwrap();
    }
    let mut writes = 0;
    coalescer.flush(|_| packets, |_| writes += 1);
    assert_eq!(writes, 1, "all are of one flow");
}
