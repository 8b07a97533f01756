//! Frames that no weft made: tunnel packets of members and strangers in clear, and captured packets
//! sent again or changed.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::kernel;
use crate::weft::probe_exe;
use crate::wiretap::packet_socket;

/// The flag that says that a VNI is there (RFC 7348 section 5).
const VNI_VALID: u8 = 0x08;

/// A host's end on the underlay.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// Link address.
    pub mac: [u8; 6],
    /// Address.
    pub ip: Ipv4Addr,
}

impl End {
    /// That of a host's interface.
    pub fn of(cluster: &Cluster, host: usize, interface: &str) -> Result<Self> {
        let argv = ["ip", "-j", "address", "show", "dev", interface];
        let found = kernel::ip(cluster, host, None, &argv)?;
        let mac = found[0]["address"].as_str().context("no link address")?;
        let mac: Vec<u8> = mac
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16))
            .collect::<Result<_, _>>()?;
        let mac = mac.try_into().ok().context("no link address of Ethernet")?;
        let ip = found[0]["addr_info"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|address| address["family"] == "inet")
            .find_map(|address| address["local"].as_str())
            .context("no address")?;
        let ip = ip.parse()?;
        Ok(Self { mac, ip })
    }

    /// The same, by another address.
    #[must_use]
    pub fn called(self, ip: Ipv4Addr) -> Self {
        Self { ip, ..self }
    }

    /// That of a container with this address: weft derives the link address from it.
    pub fn of_container(ip: Ipv4Addr) -> Self {
        let [a, b, c, d] = ip.octets();
        let mac = [0x02, 0x42, a, b, c, d];
        Self { mac, ip }
    }
}

/// A frame with a UDP datagram.
pub fn datagram(from: End, to: End, ports: (u16, u16), payload: &[u8]) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv4(from.ip.octets(), to.ip.octets(), 64)
        .udp(ports.0, ports.1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload)?;
    Ok(frame)
}

/// A tunnel packet in clear: VXLAN to `port` with an inner frame.
pub fn vxlan(from: End, to: End, port: u16, vni: u32, inner: &[u8]) -> Result<Vec<u8>> {
    let [_, v0, v1, v2] = vni.to_be_bytes();
    let header = [VNI_VALID, 0, 0, 0, v0, v1, v2, 0];
    datagram(from, to, (50_000, port), &[&header, inner].concat())
}

/// The same frame with one bit of its `at`th byte changed.
pub fn flipped(frame: &[u8], at: usize) -> Vec<u8> {
    let mut changed = frame.to_vec();
    if let Some(byte) = changed.get_mut(at) {
        *byte ^= 1;
    }
    changed
}

/// Sends frames from an interface of a host, by no filter of it (packet(7)).
pub fn send(cluster: &Cluster, host: usize, interface: &str, frames: &[Vec<u8>]) -> Result<()> {
    let mut command = cluster.host(host)?.command(probe_exe()?);
    let mut child = command
        .args(["send-frames", interface])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let lines: String = frames.iter().map(|frame| hex(frame) + "\n").collect();
    let written = stdin.write_all(lines.as_bytes());
    drop(stdin);
    let ended = child.wait()?;
    ensure!(ended.success(), "frames were not sent: {ended}");
    Ok(written?)
}

/// The probe's side: frames in hex, one per line of standard input.
pub fn main(interface: &str) -> Result<()> {
    let socket = packet_socket(interface)?;
    for line in std::io::stdin().lock().lines() {
        let frame = unhex(line?.trim());
        let sent = socket.send(&frame)?;
        ensure!(sent == frame.len(), "a frame was cut");
    }
    Ok(())
}

/// The probe's side: prints the text of each datagram to a port, until it is killed.
pub fn hear(port: u16) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let mut stdout = std::io::stdout().lock();
    let mut buffer = [0; 2048];
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    loop {
        let length = socket.recv(&mut buffer)?;
        writeln!(stdout, "{}", String::from_utf8_lossy(&buffer[..length]))?;
        stdout.flush()?;
    }
}

/// The probe's side: says a text to a port.
pub fn say(to: &str, port: u16, text: &str) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.send_to(text.as_bytes(), (to, port))?;
    Ok(())
}

/// Packets that the guard of encrypted networks dropped in a chain of that name, read by `nft`.
pub fn guarded(cluster: &Cluster, host: usize, chain: &str) -> Result<u64> {
    let text = cluster.sh(
        host,
        &["nft", "-j", "list", "chain", "inet", "weft-esp", chain],
    )?;
    let listed: Value = serde_json::from_str(&text)?;
    let rules = listed["nftables"].as_array().into_iter().flatten();
    let expressions = rules.filter_map(|item| item["rule"]["expr"].as_array());
    let packets = expressions
        .flatten()
        .filter_map(|expression| expression["counter"]["packets"].as_u64());
    Ok(packets.sum())
}

/// Bytes as two digits each.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 0x0f].map(|d| char::from(DIGITS[usize::from(d)]));
    bytes.iter().flat_map(digits).collect()
}

/// What [`hex`] made; what is no digit counts as zero.
pub fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| pair.iter().fold(0, |byte, next| byte << 4 | digit(*next)))
        .collect()
}
