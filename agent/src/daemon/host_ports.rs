//! What on this host may come into the way of a published port: programs that listen on it, and
//! the kernel, which hands it out to connections that programs open.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use crate::api::types::{Port, Protocol, SourceMode};

/// Lines of one table that are looked at. Those of listeners come first.
const MAX_LINES: usize = 100_000;
/// Ports, or ranges of them, that one warning names.
const MAX_NAMED: usize = 8;

/// What is so on a host at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostPorts {
    /// Where programs receive.
    listening: BTreeSet<(Protocol, u16, IpAddr)>,
    /// What the kernel hands out.
    ephemeral: Option<RangeInclusive<u16>>,
    /// What of that it does not.
    reserved: BTreeSet<u16>,
}

impl HostPorts {
    /// Those of the network namespace that the agent is in. What cannot be read is left out: a
    /// warning is no promise.
    pub(super) fn read() -> Self {
        let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        let mut ports = Self {
            ephemeral: setting("ip_local_port_range")
                .ok()
                .and_then(|text| ephemeral(&text)),
            reserved: setting("ip_local_reserved_ports")
                .map(|text| reserved(&text))
                .unwrap_or_default(),
            ..Self::default()
        };
        for (table, protocol) in [
            ("tcp", Protocol::Tcp),
            ("tcp6", Protocol::Tcp),
            ("udp", Protocol::Udp),
            ("udp6", Protocol::Udp),
        ] {
            if let Ok(file) = File::open(format!("/proc/net/{table}")) {
                let _ = ports.add(protocol, BufReader::new(file));
            }
        }
        ports
    }

    /// Takes in `/proc/net/tcp` or one of its like (proc_net_tcp.txt of the kernel's documents).
    fn add(&mut self, protocol: Protocol, table: impl BufRead) -> io::Result<()> {
        for line in table.lines().skip(1).take(MAX_LINES) {
            if let Some((address, port)) = listener(protocol, &line?) {
                self.listening.insert((protocol, port, address));
            }
        }
        Ok(())
    }

    /// One line for each kind of trouble that these ports of a service may meet.
    pub(super) fn warnings(&self, ports: &[Port]) -> Vec<String> {
        let taken = named(ports.iter().filter(|port| self.is_taken(port)));
        let handed_out = named(ports.iter().filter(|port| self.is_ephemeral(port)));
        let taken = taken.map(|ports| {
            format!(
                "a program of this host listens on {ports} already and will not get what clients \
                 send there; end it, or publish another port"
            )
        });
        let range = self.ephemeral.clone().unwrap_or(0..=0);
        let handed_out = handed_out.map(|ports| {
            format!(
                "published {ports} is within the range that this host's kernel hands out to \
                 connections of its programs, {}-{}; publish one outside, or add it to \
                 net.ipv4.ip_local_reserved_ports on every host",
                range.start(),
                range.end()
            )
        });
        taken.into_iter().chain(handed_out).collect()
    }

    fn is_taken(&self, port: &Port) -> bool {
        let of_port = |ip| (port.protocol, port.published, ip);
        let least = of_port(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let greatest = of_port(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));
        // The data-plane process listens for such a port itself, at single addresses.
        let relayed = port.source == SourceMode::ProxyV2;
        let is_meant = |at: &IpAddr| !relayed && port.ip.is_none_or(|ip| ip == *at);
        self.listening
            .range(least..=greatest)
            .any(|(_, _, at)| at.is_unspecified() || is_meant(at))
    }

    fn is_ephemeral(&self, port: &Port) -> bool {
        let range = self.ephemeral.as_ref();
        range.is_some_and(|range| range.contains(&port.published))
            && !self.reserved.contains(&port.published)
    }
}

/// Two numbers with white space between.
fn ephemeral(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Some(first..=last),
        _ => None,
    }
}

/// `8080,9148-9150`
fn reserved(text: &str) -> BTreeSet<u16> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    });
    ranges.flatten().collect()
}

/// `  0: 0100007F:1F90 00000000:0000 0A ...` Address words and port are in hexadecimal, each
/// 32-bit word of the address in the host's byte order.
fn listener(protocol: Protocol, line: &str) -> Option<(IpAddr, u16)> {
    /// `TCP_LISTEN`, and `TCP_CLOSE` of a UDP socket without a peer (net/tcp_states.h).
    const LISTEN: &str = "0A";
    const UNCONNECTED: &str = "07";
    let mut fields = line.split_whitespace().skip(1);
    let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
    let wanted = match protocol {
        Protocol::Tcp => LISTEN,
        Protocol::Udp => UNCONNECTED,
    };
    if state != wanted {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((hex_address(address)?.to_canonical(), port))
}

fn hex_address(text: &str) -> Option<IpAddr> {
    let hex = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = |digits| u32::from_str_radix(digits, 16).ok();
    if !hex(text) {
        return None;
    }
    match text.len() {
        8 => Some(Ipv4Addr::from(number(text)?.to_ne_bytes()).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, word) in bytes.chunks_mut(4).enumerate() {
                word.copy_from_slice(&number(text.get(8 * index..8 * index + 8)?)?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// `port 8080/tcp`, `ports 80-81/tcp, 53/udp`; `None` of none.
fn named<'a>(ports: impl Iterator<Item = &'a Port>) -> Option<String> {
    let sorted: BTreeSet<(Protocol, u16)> =
        ports.map(|port| (port.protocol, port.published)).collect();
    let mut ranges: Vec<(Protocol, u16, u16)> = Vec::new();
    for &(protocol, port) in &sorted {
        match ranges.last_mut() {
            Some((same, _, last)) if *same == protocol && *last + 1 == port => *last = port,
            _ => ranges.push((protocol, port, port)),
        }
    }
    let mut words: Vec<String> = ranges
        .iter()
        .take(MAX_NAMED)
        .map(|(protocol, first, last)| match first == last {
            true => format!("{first}/{protocol}"),
            false => format!("{first}-{last}/{protocol}"),
        })
        .collect();
    if ranges.len() > MAX_NAMED {
        words.push("and others".to_owned());
    }
    match sorted.len() {
        0 => None,
        1 => Some(format!("port {}", words.join(", "))),
        _ => Some(format!("ports {}", words.join(", "))),
    }
}

#[cfg(test)]
mod tests;
