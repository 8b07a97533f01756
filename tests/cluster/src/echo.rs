//! ICMP echo (RFC 792) with times that can be told to another process, for benchmarks.

use std::io::{BufRead, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

/// Types of RFC 792.
const REQUEST: u8 = 8;
const REPLY: u8 = 0;
/// As much as ping(8) sends behind the header.
const PAYLOAD: usize = 56;
/// A header, and what is behind it.
const PACKET: usize = 8 + PAYLOAD;
/// Between two requests to one that does not answer yet.
const RETRY: Duration = Duration::from_millis(1);
/// Longest that the first reply is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// One destination.
struct Echo {
    socket: Socket,
    to: SocketAddr,
    identifier: u16,
    sequence: u16,
}

impl Echo {
    fn new(to: Ipv4Addr) -> Result<Self> {
        Ok(Self {
            socket: Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?,
            to: SocketAddrV4::new(to, 0).into(),
            identifier: std::process::id() as u16,
            sequence: 0,
        })
    }

    /// Whether a reply to a new request came within `wait`.
    fn answered(&mut self, wait: Duration) -> Result<bool> {
        self.sequence = self.sequence.wrapping_add(1);
        let sent = self.socket.send_to(&self.request(), &self.to.into());
        let deadline = Instant::now() + wait;
        if sent.is_err() {
            // No address or route yet.
            std::thread::sleep(wait);
            return Ok(false);
        }
        let mut packet = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            if let Ok(length) = (&self.socket).read(&mut packet)
                && self.is_reply(&packet[..length])
            {
                return Ok(true);
            }
        }
    }

    fn request(&self) -> [u8; PACKET] {
        let mut packet = [0; PACKET];
        packet[0] = REQUEST;
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    /// A raw socket sees the IP header too (raw(7)), and every reply of its namespace.
    fn is_reply(&self, packet: &[u8]) -> bool {
        let header = packet
            .first()
            .map_or(0, |first| usize::from(first & 0xf) * 4);
        packet.get(header..header + 8).is_some_and(|icmp| {
            icmp[0] == REPLY
                && icmp[4..6] == self.identifier.to_be_bytes()
                && icmp[6..8] == self.sequence.to_be_bytes()
        })
    }
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Nanoseconds since the Unix epoch: the clock that all processes of a machine share.
pub fn now_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits to be told by a line, pings until there is a reply, and prints when that was.
pub fn when_told(to: &str) -> Result<()> {
    let mut echo = Echo::new(to.parse()?)?;
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new())?;
    let started = Instant::now();
    while !echo.answered(RETRY)? {
        ensure!(
            started.elapsed() < PATIENCE,
            "{to} did not answer within {PATIENCE:?}"
        );
    }
    println!("{}", now_ns());
    Ok(())
}

/// Pings one after another and prints the median and the 99th percentile in nanoseconds.
pub fn round_trips(to: &str, count: usize) -> Result<()> {
    let mut echo = Echo::new(to.parse()?)?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        if echo.answered(Duration::from_secs(1))? {
            times.push(started.elapsed().as_nanos());
        }
    }
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).context("no reply");
    println!("{} {}", at(50)?, at(99)?);
    Ok(())
}
