//! What is on a wire of encrypted networks: a search for clear text in every frame, and packets to
//! send again.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memchr::memmem;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{LinkAddr, SockaddrLike, bind, recvfrom, setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::Cluster;
use crate::forge::{hex, unhex};
use crate::weft::probe_exe;

/// `ETH_P_ALL` in network byte order: every frame, outgoing ones too (packet(7)).
pub(crate) const ETH_P_ALL: i32 = 0x0300;
/// Largest frame: a super-packet and its headers.
const FRAME_MAX: usize = 1 << 17;
/// A transfer at full speed must not outrun the search.
const BUFFER: usize = 64 << 20;
/// Packets that are kept, and how long they may be to be sent again.
const KEPT: usize = 64;
const KEPT_LENGTH: usize = 1514;
/// How often it is looked whether to end, while nothing is heard.
const QUIET: Duration = Duration::from_millis(50);
/// How long what was queued may take in the end.
const LAST: Duration = Duration::from_secs(5);
/// Frames in clear that are shown.
const SHOWN: usize = 4;

/// UDP ports of ESP and of VXLAN, in clear and inside ESP.
pub const ESP: u16 = 4500;
/// The port of networks that are not encrypted.
pub const CLEAR: u16 = 4789;
/// The port of encrypted networks inside ESP, which is never on a wire.
pub const INNER: u16 = 4790;

/// What was seen.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// Frames.
    pub frames: u64,
    /// Of them, those to the port of ESP.
    pub esp: u64,
    /// Datagrams to [`CLEAR`], of any network.
    pub clear: u64,
    /// Datagrams to [`INNER`].
    pub inner: u64,
    /// Frames that contained one of the patterns, wherever in them.
    pub patterns: u64,
    /// The first of those, and of those to [`INNER`], in hex.
    pub shown: Vec<String>,
    /// The last frames to the port of ESP that fit into an MTU of 1500, in hex.
    kept: Vec<String>,
}

impl Seen {
    /// Frames with ESP in UDP, as they were, the oldest first.
    pub fn esp_frames(&self) -> Vec<Vec<u8>> {
        self.kept.iter().map(|frame| unhex(frame)).collect()
    }

    /// Nothing of an encrypted network was in clear; and the search was no blind one.
    pub fn is_sealed(&self) -> Result<()> {
        let Self {
            esp,
            inner,
            patterns,
            shown,
            ..
        } = self;
        ensure!(
            *patterns == 0 && *inner == 0,
            "{patterns} frames with clear text, {inner} to port {INNER}: {shown:?}"
        );
        ensure!(*esp > 0, "nothing of ESP was seen: {self:?}");
        Ok(())
    }
}

/// A search on one interface of a host, until it is stopped.
pub struct Wiretap {
    child: Child,
}

impl Wiretap {
    /// Starts to look for these bytes; returns when it does.
    pub fn start(
        cluster: &Cluster,
        host: usize,
        interface: &str,
        patterns: &[&[u8]],
    ) -> Result<Self> {
        let mut command = cluster.host(host)?.command(probe_exe()?);
        command.args(["wiretap", interface]);
        command.args(patterns.iter().map(|pattern| hex(pattern)));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.as_mut().context("no stdout")?;
        let mut ready = [0; 6];
        stdout
            .read_exact(&mut ready)
            .context("the search did not start")?;
        Ok(Self { child })
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<Seen> {
        drop(self.child.stdin.take());
        let mut told = String::new();
        let stdout = self.child.stdout.as_mut().context("no stdout")?;
        stdout.read_to_string(&mut told)?;
        self.child.wait()?;
        serde_json::from_str(&told).with_context(|| format!("it said {told:?}"))
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A packet socket on an interface of this namespace.
pub(crate) fn packet_socket(interface: &str) -> Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ETH_P_ALL)))?;
    let address = getifaddrs()?
        .filter(|found| found.interface_name == interface)
        .filter_map(|found| found.address)
        .find(|address| address.as_link_addr().is_some())
        .with_context(|| format!("no interface {interface}"))?;
    let link = address.as_link_addr().context("not a link address")?;
    ensure!(link.len() > 0, "no address of {interface}");
    bind(socket.as_raw_fd(), link)?;
    Ok(socket)
}

/// The probe's side: prints what was seen when standard input ends.
pub fn main(interface: &str, patterns: &[&str]) -> Result<()> {
    let socket = packet_socket(interface)?;
    let index = if_nametoindex(interface)? as usize;
    // Beyond the host's limit for those who may.
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER))?;
    socket.set_read_timeout(Some(QUIET))?;
    let patterns: Vec<Vec<u8>> = patterns.iter().map(|pattern| unhex(pattern)).collect();
    let finders: Vec<_> = patterns.iter().map(memmem::Finder::new).collect();
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(b"ready\n")?;
    stdout.flush()?;
    let ended = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let (mut seen, mut frame) = (Seen::default(), vec![0; FRAME_MAX]);
    let mut last = None;
    loop {
        // Where there is traffic all the time, what was queued in the end is told, and no more.
        if last.is_none() && ended.is_finished() {
            last = Some(Instant::now() + LAST);
            socket.set_nonblocking(true)?;
        }
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
            // Until it was bound, the socket heard every interface.
            Ok((length, Some(from))) if from.ifindex() == index => {
                look(&mut seen, &frame[..length], &finders);
            }
            Ok(_) => {}
            Err(_) if last.is_some() => break,
            Err(_) => {}
        }
        let outrun = last.is_some_and(|last| Instant::now() > last);
        ensure!(!outrun, "more came than can be searched");
    }
    Ok(writeln!(stdout, "{}", serde_json::to_string(&seen)?)?)
}

fn look(seen: &mut Seen, frame: &[u8], patterns: &[memmem::Finder<'_>]) {
    seen.frames += 1;
    let port = udp_port(frame);
    match port {
        Some(ESP) => {
            seen.esp += 1;
            if frame.len() <= KEPT_LENGTH {
                if seen.kept.len() == KEPT {
                    seen.kept.remove(0);
                }
                seen.kept.push(hex(frame));
            }
        }
        Some(CLEAR) => seen.clear += 1,
        Some(INNER) => seen.inner += 1,
        _ => {}
    }
    let found = patterns.iter().any(|finder| finder.find(frame).is_some());
    seen.patterns += u64::from(found);
    if (found || port == Some(INNER)) && seen.shown.len() < SHOWN {
        seen.shown.push(hex(&frame[..frame.len().min(200)]));
    }
}

/// Where a frame goes to, if it is UDP over IPv4 or IPv6.
fn udp_port(frame: &[u8]) -> Option<u16> {
    /// `IPPROTO_UDP`.
    const UDP: u8 = 17;
    let at = match frame.get(12..14)? {
        [0x08, 0x00] if *frame.get(23)? == UDP => 14 + usize::from(frame[14] & 0x0f) * 4,
        [0x86, 0xdd] if *frame.get(20)? == UDP => 14 + 40,
        _ => return None,
    };
    let port = frame.get(at + 2..at + 4)?;
    Some(u16::from_be_bytes([port[0], port[1]]))
}
