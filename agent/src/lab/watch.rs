//! A look at what goes over a host's wire, so that no other program is needed to see that nothing goes
//! in clear.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    os::fd::AsRawFd,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{LinkAddr, recvfrom},
};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use weft_encrypt::path::ESP_PORT;

use super::{PATTERN, ping::End, underlay::HOST_IFNAME};

/// Longest frame that is read: what a device hands on at once (GSO).
const FRAME_MAX: usize = 1 << 17;
/// Bytes of frames that wait to be read.
const BUFFER: usize = 64 << 20;
/// Most frames that are looked at after the end: more than can wait.
const WAITING_MAX: usize = 1 << 20;
/// How long nothing may come until it is looked whether that was enough.
const WAIT: Duration = Duration::from_millis(10);
/// So many bytes of [`PATTERN`] in a row are no accident.
const RUN: usize = 24;
/// Where a run is looked for in the kernel: whatever headers there are, content begins before the last.
const PLACES: std::ops::Range<u32> = 32..512;
/// As far apart, so that two words at one of them are within any [`RUN`].
const STEP: usize = RUN - 8;
/// IEEE 802 numbers, and IP protocol numbers.
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const UDP: u8 = 17;

/// What was seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchReport {
    /// Frames, both ways.
    pub frames: u64,
    /// Those of UDP, by destination port.
    pub udp: BTreeMap<u16, u64>,
    /// Frames with what transfers and pings carry, in clear.
    pub clear: u64,
}

/// Says that it has begun, looks until standard input ends, and prints what was seen as a line of
/// JSON.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let socket = packet_socket()?;
    socket.set_read_timeout(Some(WAIT))?;
    let in_clear = packet_socket()?;
    in_clear
        .attach_filter(&content())
        .context("cannot filter packets")?;
    in_clear.set_nonblocking(true)?;
    // What came before the filter was there.
    while recvfrom::<LinkAddr>(in_clear.as_raw_fd(), &mut [0]).is_ok() {}
    let wire = if_nametoindex(HOST_IFNAME).context("the host has no wire")? as usize;
    let mut end = End::new(None)?;
    let mut report = WatchReport::default();
    let mut frame = vec![0; FRAME_MAX];
    writeln!(io::stdout(), "ready")?;
    // After the end what waits is still looked at: all of it was on the wire before.
    let (mut ended, mut left) = (false, WAITING_MAX);
    while left > 0 {
        if !ended && end.reached(0) {
            ended = true;
            socket.set_nonblocking(true)?;
        }
        left -= usize::from(ended);
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
            Ok((length, Some(from))) if from.ifindex() == wire => {
                report.take(frame.get(..length).unwrap_or_default());
            }
            Err(Errno::EAGAIN) if ended => break,
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot look at the wire"),
        }
    }
    while let Ok((length, from)) = recvfrom::<LinkAddr>(in_clear.as_raw_fd(), &mut frame) {
        let is_esp = udp_port(frame.get(..length).unwrap_or_default()) == Some(ESP_PORT);
        let here = from.is_some_and(|from| from.ifindex() == wire);
        report.clear += u64::from(is_esp && here);
    }
    writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(ExitCode::SUCCESS)
}

fn packet_socket() -> anyhow::Result<Socket> {
    let every = i32::from(u16::to_be(libc::ETH_P_ALL as u16));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(every)));
    let socket = socket.context("cannot open a packet socket")?;
    // What it may be at most is the host's to say.
    let _ = socket.set_recv_buffer_size(BUFFER);
    Ok(socket)
}

/// Lets pass what has content in clear when it is captured. Hosts of a lab hand memory to one another, and a
/// kernel that decrypts in place (`esp_input` of packets that another host sent as one) does so
/// in what was captured before and is read later.
fn content() -> Vec<SockFilter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let word = u32::from_be_bytes([PATTERN; 4]);
    let mut filter = Vec::new();
    for place in PLACES.step_by(STEP) {
        filter.extend([
            // A frame that ends before does not pass.
            SockFilter::new(LOAD, 0, 0, place),
            SockFilter::new(EQUAL, 0, 3, word),
            SockFilter::new(LOAD, 0, 0, place + 4),
            SockFilter::new(EQUAL, 0, 1, word),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
        ]);
    }
    filter.push(SockFilter::new(RETURN, 0, 0, 0));
    filter
}

impl WatchReport {
    fn take(&mut self, frame: &[u8]) {
        self.frames += 1;
        let port = udp_port(frame);
        if let Some(port) = port {
            *self.udp.entry(port).or_default() += 1;
        }
        // That was looked at when it was captured.
        if port == Some(ESP_PORT) {
            return;
        }
        let mut run = 0;
        let is_clear = frame.iter().any(|byte| {
            run = if *byte == PATTERN { run + 1 } else { 0 };
            run >= RUN
        });
        self.clear += u64::from(is_clear);
    }
}

/// Destination port of a UDP datagram (RFC 768) over IPv4 or IPv6 without extension headers.
fn udp_port(frame: &[u8]) -> Option<u16> {
    let packet = frame.get(14..)?;
    let datagram = match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        ETHERTYPE_IPV4 if *packet.get(9)? == UDP => {
            packet.get(usize::from(packet.first()? & 0x0f) * 4..)?
        }
        ETHERTYPE_IPV6 if *packet.get(6)? == UDP => packet.get(40..)?,
        _ => return None,
    };
    Some(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_by_port_and_content() {
        let mut report = WatchReport::default();
        let mut frame = vec![0; 14 + 20];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[14 + 9] = UDP;
        frame.extend([0x12, 0xb6, 0x12, 0xb6, 0, 0, 0, 0]);
        report.take(&frame);
        frame.extend([PATTERN; RUN - 1]);
        report.take(&frame);
        assert_eq!((report.frames, report.clear), (2, 0));
        frame.push(PATTERN);
        report.take(&frame);
        assert_eq!((report.clear, report.udp), (1, [(4790, 3)].into()));
        for length in 0..frame.len() {
            WatchReport::default().take(&frame[..length]);
        }
    }

    #[test]
    fn the_kernel_passes_runs_wherever_they_begin_and_nothing_else() {
        let heard = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let anywhere = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        heard.bind(&anywhere.into()).unwrap();
        // On such a socket it sees the header of UDP, 8 bytes, and what is behind it.
        heard.attach_filter(&content()).unwrap();
        let heard = std::net::UdpSocket::from(heard);
        let said = std::net::UdpSocket::bind(anywhere).unwrap();
        said.connect(heard.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 2048];
        for before in 24..440 {
            let noise: Vec<u8> = (0..before).map(|byte| byte as u8 & 0x3f).collect();
            let short = [noise.as_slice(), &[PATTERN; 7], &noise].concat();
            let run = [noise.as_slice(), &[PATTERN; RUN]].concat();
            for datagram in [&noise, &short, &run] {
                said.send(datagram).unwrap();
            }
            let length = heard.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], run, "behind {before} bytes");
        }
    }
}
