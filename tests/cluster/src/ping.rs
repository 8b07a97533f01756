//! `ping -c COUNT ADDRESS` for machines that have none.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, SlicedPacket, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};

/// How long one reply may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes after the ICMP header, as ping(8) sends them.
const PAYLOAD: [u8; 56] = [0; 56];

/// Fails unless every request is answered.
pub fn main(count: u16, address: Ipv4Addr) -> Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
        .context("a raw socket takes CAP_NET_RAW")?;
    let id = std::process::id() as u16;
    let mut received = 0;
    for seq in 0..count {
        let echo = IcmpEchoHeader { id, seq };
        let header = Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(echo), &PAYLOAD);
        let mut request = header.to_bytes().to_vec();
        request.extend(PAYLOAD);
        let sent = Instant::now();
        socket.send_to(&request, &SocketAddr::new(IpAddr::V4(address), 0).into())?;
        if answered(&socket, echo, sent + PATIENCE)? {
            let ms = sent.elapsed().as_secs_f64() * 1000.0;
            println!("reply from {address}: icmp_seq={seq} time={ms:.3} ms");
            received += 1;
        }
    }
    println!("{count} packets transmitted, {received} received");
    ensure!(received == count, "{} packets lost", count - received);
    Ok(())
}

/// Whether the reply to `echo` comes in time.
fn answered(mut socket: &Socket, echo: IcmpEchoHeader, until: Instant) -> Result<bool> {
    let mut packet = [0; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        let Ok(len) = socket.read(&mut packet) else {
            continue;
        };
        let Ok(found) = SlicedPacket::from_ip(&packet[..len]) else {
            continue;
        };
        if let Some(TransportSlice::Icmpv4(icmp)) = found.transport
            && icmp.icmp_type() == Icmpv4Type::EchoReply(echo)
        {
            return Ok(true);
        }
    }
}
