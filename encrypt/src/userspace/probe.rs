//! Whether super-packets of UDP tunnels really pass a TAP of this kernel, in both directions.
//!
//! The calls that ask for them succeed on kernels that know nothing of them. So one is written to a
//! TAP in a network namespace of its own, and has to come out of another one behind the same bridge
//! as it went in.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use weft_netns::Netns;
use weft_netns::rtnl::{Request, Rtnl};

use crate::inner::{self, Inner, Vni};
use crate::offload::outer::{Outer, Wrapper};
use crate::offload::vnet::{Layout, Vnet};
use crate::offload::{self, Arrival, Coalescer, Config, Segments, checksum};
use crate::path::Form;

use super::port;
use super::sys;
use super::tap::{LONGEST_READ, Tap};

const PORTS: [&str; 2] = ["probe0", "probe1"];
const BRIDGE: &str = "probe";
/// How long a packet may take from one TAP to the other.
const PATIENCE: Duration = Duration::from_secs(3);
/// After so long it is sent once more.
const AGAIN: Duration = Duration::from_millis(100);

const INNER: Inner = Inner {
    source: 50_000,
    destination: 4790,
    vni: match Vni::new(1) {
        Some(vni) => vni,
        None => panic!("1 has less than 24 bits"),
    },
};
const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Bytes of TCP payload in a segment.
const SEGMENT: usize = 100;
/// Ethernet, IPv4 and TCP headers.
const HEADERS: usize = 14 + 20 + 20;

/// The form of the user-space path that this kernel takes: [`Form::Vxlan`] where super-packets of
/// UDP tunnels pass a TAP, else [`Form::Port`]. Blocks for some milliseconds, and for some seconds
/// where nothing passes.
///
/// # Errors
/// Why it takes none, in words.
pub fn probe_form() -> Result<Form, String> {
    let Err(tunnels) = probe() else {
        return Ok(Form::Vxlan);
    };
    match probe_port() {
        Ok(_) => Ok(Form::Port),
        Err(ports) => Err(format!(
            "packets of vxlan devices cannot be taken from a tap: {tunnels}; nor frames of bridges: {ports}"
        )),
    }
}

/// Makes a device as ports of bridges have to be. Says whether super-packets of UDP pass it (Linux
/// 6.2 and later).
pub(super) fn probe_port() -> Result<bool, String> {
    let netns = Netns::anonymous().map_err(|e| format!("no network namespace for it: {e}"))?;
    port::open(&netns, 1).map(|(_, udp)| udp)
}

/// Tries it out.
///
/// # Errors
/// What does not work, in words.
pub(super) fn probe() -> Result<(), String> {
    let netns = Netns::anonymous().map_err(|e| format!("no network namespace for it: {e}"))?;
    let taps = netns.run(|| PORTS.map(|ifname| Tap::open_queue(ifname, true)));
    let taps = taps.map_err(|e| e.to_string())?;
    let [from, to] = taps.map(|tap| tap.map_err(|(what, e)| format!("{what}: {e}")));
    let (from, to) = (from?, to?);
    bridge(&netns)?;
    let frames = [0u8, 1].map(frame);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        write(&from, &frames).map_err(|e| format!("a tap does not take one: {e}"))?;
        let again = Instant::now() + AGAIN;
        while let Some(left) = again.checked_duration_since(Instant::now()) {
            let mut buffer = vec![0; LONGEST_READ];
            match to.read(&mut buffer) {
                Ok(length) => {
                    if arrived(&buffer[..length], &frames)? {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let ready = sys::poll([(to.as_fd(), libc::POLLIN)], left);
                    ready.map_err(|e| e.to_string())?;
                }
                Err(e) => return Err(format!("a tap gives none: {e}")),
            }
        }
    }
    Err(format!(
        "no super-packet of a udp tunnel passed one within {PATIENCE:?}, as they do from Linux \
         6.17 on; form port needs none"
    ))
}

/// Joins the TAPs.
fn bridge(netns: &Netns) -> Result<(), String> {
    let mut rtnl = Rtnl::open(netns)?;
    let mut new = LinkMessage::default();
    new.attributes = vec![
        LinkAttribute::IfName(BRIDGE.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    let new = Request {
        message: RouteNetlinkMessage::NewLink(new),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        tolerate: &[],
    };
    let mut change = |request| rtnl.change(request).map_err(|e| format!("no bridge: {e}"));
    change(&new)?;
    change(&up(BRIDGE, None))?;
    let mut query = LinkMessage::default();
    query.attributes = vec![LinkAttribute::IfName(BRIDGE.to_owned())];
    let found = rtnl.get(RouteNetlinkMessage::GetLink(query), &[]);
    let Ok(Some(RouteNetlinkMessage::NewLink(found))) = found else {
        return Err("no bridge: the kernel does not show it".to_owned());
    };
    for port in PORTS {
        let joined = rtnl.change(&up(port, Some(found.header.index)));
        joined.map_err(|e| format!("no port of the bridge: {e}"))?;
    }
    Ok(())
}

fn up(ifname: &str, controller: Option<u32>) -> Request {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![LinkAttribute::IfName(ifname.to_owned())];
    message
        .attributes
        .extend(controller.map(LinkAttribute::Controller));
    Request {
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        tolerate: &[],
    }
}

/// A frame of TCP: the one of that number of a stream.
fn frame(number: u8) -> Vec<u8> {
    let mut frame = vec![number; HEADERS + SEGMENT];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
    let total = (20 + 20 + SEGMENT) as u16;
    let [t0, t1] = total.to_be_bytes();
    let ip = [
        0x45, 0, t0, t1, 0, number, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    frame[14..34].copy_from_slice(&ip);
    let sum = checksum::finish(checksum::sum(&ip));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let sequence = u32::from(number) * SEGMENT as u32 + 1;
    let [s0, s1, s2, s3] = sequence.to_be_bytes();
    let tcp = [
        0, 1, 0, 2, s0, s1, s2, s3, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0,
    ];
    frame[34..54].copy_from_slice(&tcp);
    let pseudo = checksum::pseudo(&frame[26..34], 6, 20 + SEGMENT);
    let sum = checksum::finish(checksum::add(pseudo, checksum::sum(&frame[34..])));
    frame[50..52].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Writes both frames as the data path would, had it received them.
fn write(tap: &Tap, frames: &[Vec<u8>; 2]) -> io::Result<()> {
    let wrapper = Wrapper {
        source_mac: [2, 0, 0, 0, 1, 1],
        mac: [2, 0, 0, 0, 1, 2],
        local: LOCAL.into(),
    };
    let mut coalescer = Coalescer::new(Config {
        form: offload::Form::Tunnel(wrapper),
        tcp: true,
        udp: true,
    });
    for (buffer, frame) in frames.iter().enumerate() {
        let arrival = Arrival {
            peer: PEER.into(),
            tos: 0,
            inner: INNER,
            buffer,
            frame: 0..frame.len(),
        };
        coalescer.push(arrival, frame).map_err(io::Error::other)?;
    }
    let mut written = Ok(());
    coalescer.flush(
        |buffer| frames.get(buffer).map_or(&[], |frame| frame),
        |merged| {
            if merged.segments != frames.len() {
                written = Err(io::Error::other("frames were not put together"));
            } else if let Err(error) = tap.write(merged.slices) {
                written = Err(error);
            }
        },
    );
    written
}

/// Whether that is what was written, and came as one. What the kernel says by itself is not.
fn arrived(read: &[u8], frames: &[Vec<u8>; 2]) -> Result<bool, String> {
    let Ok((vnet, packet)) = Vnet::parse(read, Layout::Tunnel) else {
        return Ok(false);
    };
    let Ok(outer) = Outer::parse(packet, INNER.destination) else {
        return Ok(false);
    };
    let segments = Segments::new(&vnet, outer.inner, packet, outer.frame);
    let segments = segments.map_err(|e| format!("a tap gives another one: {e}"))?;
    if segments.count() != frames.len() {
        return Err("a tap gives the segments one by one".to_owned());
    }
    let mut out = vec![0; inner::HEADERS + HEADERS + SEGMENT];
    for (index, frame) in frames.iter().enumerate() {
        let length = segments.write(index, &mut out);
        let got = length.and_then(|length| out.get(inner::HEADERS..length));
        if got != Some(frame) {
            return Err("a tap gives another one than was written".to_owned());
        }
    }
    Ok(true)
}
