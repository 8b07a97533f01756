use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;

/// Header of IPv4 without options (RFC 791), which a raw socket gives with what it received.
const IPV4_HEADER: usize = 20;
/// Header of IPv6 (RFC 8200), which it does not.
const IPV6_HEADER: usize = 40;
/// Type, code, checksum, identifier, sequence number (RFC 792, RFC 4443 section 4.1).
const ECHO_HEADER: usize = 8;
/// What says that an answer is one to us.
const COOKIE: usize = 8;
const LONGEST: usize = 65_535;

/// Echo requests of chosen sizes that are never fragmented, and what answers them.
///
/// Needs `CAP_NET_RAW` in the namespace where it is opened.
#[derive(Debug)]
pub struct EchoSocket {
    /// A raw socket, which is sent to and received from as one of UDP is.
    socket: UdpSocket,
    v6: bool,
    cookie: [u8; COOKIE],
    identifier: u16,
    buffer: Vec<u8>,
}

impl EchoSocket {
    /// Opens one in the network namespace of this thread, that sends from `local`. Only answers that
    /// bear `cookie`, which is to be random, are taken. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// The kernel's: no permission, or `local` is no address of this host.
    pub fn open(local: IpAddr, cookie: u64) -> io::Result<Self> {
        let (domain, protocol) = match local {
            IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
            IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        match local {
            IpAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?,
            IpAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?,
        }
        socket.bind(&SockAddr::from(SocketAddr::new(local, 0)))?;
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            v6: local.is_ipv6(),
            cookie: cookie.to_be_bytes(),
            identifier: cookie as u16,
            buffer: vec![0; LONGEST],
        })
    }

    /// Sends a request that makes an IP packet of `size` bytes, at least 64. What cannot be sent is
    /// lost, as it may be on the way: too long for the device, no route, no room.
    pub fn ask(&self, peer: IpAddr, size: u32) {
        let header = if self.v6 { IPV6_HEADER } else { IPV4_HEADER };
        let length = (size as usize).clamp(64, LONGEST) - header;
        let mut packet = vec![0; length];
        let kind = if self.v6 { 128 } else { 8 };
        let [high, low] = self.identifier.to_be_bytes();
        packet[..ECHO_HEADER].copy_from_slice(&[kind, 0, 0, 0, high, low, 0, 0]);
        packet[ECHO_HEADER..ECHO_HEADER + COOKIE].copy_from_slice(&self.cookie);
        if !self.v6 {
            // The kernel makes that of ICMPv6 (RFC 3542 section 3.1).
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        let _ = self.socket.try_send_to(&packet, SocketAddr::new(peer, 0));
    }

    /// Waits for the next answer to one of ours: from where, and the size of its IP packet.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn answer(&mut self) -> io::Result<(IpAddr, u32)> {
        loop {
            let (length, from) = self.socket.recv_from(&mut self.buffer).await?;
            let packet = self.buffer.get(..length).unwrap_or_default();
            if let Some(size) = self.size_of(packet) {
                return Ok((from.ip().to_canonical(), size));
            }
        }
    }

    /// The size of the IP packet, if it is an answer to one of ours.
    fn size_of(&self, packet: &[u8]) -> Option<u32> {
        let (message, header) = match self.v6 {
            true => (packet, IPV6_HEADER),
            false => {
                let header = usize::from(packet.first()? & 15) * 4;
                (packet.get(header..)?, header)
            }
        };
        let answer = if self.v6 { 129 } else { 0 };
        let ours = *message.first()? == answer
            && message.get(4..6)? == self.identifier.to_be_bytes()
            && message.get(ECHO_HEADER..ECHO_HEADER + COOKIE)? == self.cookie;
        ours.then(|| u32::try_from(header + message.len()).ok())?
    }
}

/// The internet checksum (RFC 1071).
fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in packet.chunks(2) {
        let word = [pair[0], pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_be_bytes(word));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
