//! Tells when the kernel's forwarding and neighbour tables change (rtnetlink(7)), for benchmarks:
//! what is heard costs no one a look.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use nix::sys::socket::{NetlinkAddr, bind};
use socket2::{Domain, Socket, Type};

use crate::echo::now_ns;

/// `AF_NETLINK`.
const NETLINK: i32 = 16;
/// `RTMGRP_NEIGH`: neighbours and bridge forwarding entries.
const GROUP: u32 = 4;
/// `RTM_NEWNEIGH` and `RTM_DELNEIGH`.
const NEW: u16 = 28;
const DELETE: u16 = 29;
/// `AF_BRIDGE`.
const BRIDGE: u8 = 7;
/// `NDA_DST` and `NDA_LLADDR`.
const DESTINATION: u16 = 1;
const ADDRESS: u16 = 2;
/// Lengths of `nlmsghdr`, `ndmsg` and `rtattr`.
const HEADER: usize = 16;
const NEIGHBOUR: usize = 12;
const ATTRIBUTE: usize = 4;

/// Prints a line for every change until standard input ends: when (nanoseconds since the Unix
/// epoch), `new` or `gone`, `neighbour`, `tunnel` or `station`, and the IP or MAC address.
pub fn main() -> Result<()> {
    let socket = Socket::new(Domain::from(NETLINK), Type::RAW, None)?;
    socket.set_recv_buffer_size(8 << 20)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).context("cannot listen")?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = (&socket).read(&mut buffer)?;
        let now = now_ns();
        for line in messages(&buffer[..length]).filter_map(describe) {
            writeln!(stdout, "{now} {line}")?;
        }
        stdout.flush()?;
    }
}

/// Splits what was received; a message is padded to four bytes.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes
            .get(..length)
            .filter(|message| message.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn describe(message: &[u8]) -> Option<String> {
    let what = match u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?) {
        NEW => "new",
        DELETE => "gone",
        _ => return None,
    };
    let family = *message.get(HEADER)?;
    let mut rest = message.get(HEADER + NEIGHBOUR..)?;
    let (mut destination, mut address) = (None, None);
    while let Some(head) = rest.get(..ATTRIBUTE) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = rest.get(ATTRIBUTE..length)?;
        match u16::from_ne_bytes([head[2], head[3]]) {
            DESTINATION => destination = Some(value),
            ADDRESS => address = Some(value),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    let text = |bytes: &[u8]| match bytes {
        [a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
        _ => {
            let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            parts.join(":")
        }
    };
    match (family, destination, address) {
        (BRIDGE, Some(_), Some(mac)) => Some(format!("{what} tunnel {}", text(mac))),
        (BRIDGE, None, Some(mac)) => Some(format!("{what} station {}", text(mac))),
        (_, Some(ip), _) => Some(format!("{what} neighbour {}", text(ip))),
        _ => None,
    }
}
