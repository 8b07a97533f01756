//! Packets as they are on a wire: an AF_PACKET socket and a decoder that are not weft's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdout, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use etherparse::{EtherType, NetSlice, SlicedPacket, TransportSlice};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{SockaddrLike, bind};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::PATIENCE;
use crate::cluster::Cluster;
use crate::weft::probe_exe;

/// `ETH_P_ALL` in network byte order: every frame, outgoing ones too (packet(7)).
const ETH_P_ALL: i32 = 0x0300;
/// Largest frame: a segmentation offload super-packet and its headers.
const FRAME_MAX: usize = 1 << 17;
/// Bytes of the VXLAN header (RFC 7348 section 5).
const VXLAN_HEADER: usize = 8;

/// Frames seen on one interface of a host, until it is stopped.
pub struct Capture {
    child: Child,
    lines: BufReader<ChildStdout>,
    seen: Vec<Value>,
}

impl Capture {
    /// Starts to listen; returns when it does.
    pub fn start(cluster: &Cluster, host: usize, interface: &str, port: u16) -> Result<Self> {
        let mut command = cluster.host(host)?.command(probe_exe()?);
        let port = port.to_string();
        command.args(["capture", interface, &port]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut ready = [0; 6];
        lines
            .read_exact(&mut ready)
            .context("the capture did not start")?;
        Ok(Self {
            child,
            lines,
            seen: Vec::new(),
        })
    }

    /// Waits until a frame that is `wanted` has been seen. Agents talk all the time, so there is
    /// always a next frame.
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line)?;
            let frame: Value = serde_json::from_str(&line)?;
            let found = wanted(&frame);
            self.seen.push(frame);
            if found {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "not seen: {:?}", self.seen);
        }
    }

    /// Ends it; what was seen, in order. VXLAN frames have `vni` and `inner`.
    pub fn stop(mut self) -> Result<Vec<Value>> {
        drop(self.child.stdin.take());
        let mut frames = std::mem::take(&mut self.seen);
        for line in self.lines.by_ref().lines() {
            frames.push(serde_json::from_str(&line?)?);
        }
        self.child.wait()?;
        Ok(frames)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The probe's side: one JSON line per frame until standard input ends.
pub fn main(interface: &str, port: u16) -> Result<()> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL)))?;
    let address = getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .filter_map(|found| found.address)
        .find(|address| address.as_link_addr().is_some())
        .with_context(|| format!("no interface {interface}"))?;
    let link = address.as_link_addr().context("not a link address")?;
    debug_assert!(link.len() > 0);
    bind(socket.as_raw_fd(), link)?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket.set_read_timeout(Some(std::time::Duration::from_millis(50)))?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    let ended = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut frame = vec![0; FRAME_MAX];
    loop {
        match (&socket).read(&mut frame) {
            Ok(len) => writeln!(stdout, "{}", describe(&frame[..len], port))?,
            // Nothing for a while: only now may it end, so that what was queued is told.
            Err(_) if ended.is_finished() => return Ok(()),
            Err(_) => {}
        }
    }
}

/// What a frame is; UDP to `port` is taken for VXLAN.
fn describe(frame: &[u8], port: u16) -> Value {
    let mut told = json!({ "len": frame.len() });
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        told["kind"] = json!("undecodable");
        return told;
    };
    if let Some(link) = packet
        .link
        .as_ref()
        .and_then(|l| l.to_header())
        .and_then(|l| l.ethernet2())
    {
        told["src_mac"] = json!(mac(link.source));
        told["dst_mac"] = json!(mac(link.destination));
        told["kind"] = json!(match link.ether_type {
            EtherType::IPV4 => "ipv4",
            EtherType::IPV6 => "ipv6",
            EtherType::ARP => "arp",
            _ => "other",
        });
    }
    let addresses: Option<(IpAddr, IpAddr)> = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        )),
        Some(NetSlice::Ipv6(ip)) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        )),
        _ => None,
    };
    if let Some((src, dst)) = addresses {
        told["src"] = json!(src);
        told["dst"] = json!(dst);
    }
    if let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport {
        told["icmp6"] = json!(icmp.type_u8());
    }
    if let Some(TransportSlice::Udp(udp)) = &packet.transport {
        told["dport"] = json!(udp.destination_port());
        let payload = udp.payload();
        if udp.destination_port() == port && payload.len() > VXLAN_HEADER {
            told["vni"] = json!(u32::from_be_bytes([0, payload[4], payload[5], payload[6]]));
            told["inner"] = describe(&payload[VXLAN_HEADER..], 0);
        }
    }
    told
}

fn mac(bytes: [u8; 6]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}
