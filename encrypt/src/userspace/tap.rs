//! The devices: the one that the kernel's VXLAN datagrams are routed into and come out of, or a port
//! of each network's bridge.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::offload::vnet::Layout;

use super::sys::{self, flags};

/// Name of the device.
pub const IFNAME: &str = "wf-esp";
/// Name of the device of [`Form::Port`](crate::path::Form::Port) in a network's sandbox.
pub const PORT_IFNAME: &str = "esp0";
/// Longest frame, with the header before it: Ethernet and an IP packet of 65,535 bytes.
pub(super) const LONGEST_READ: usize = Layout::LONGEST + 14 + 65_535;
/// The header before frames of ports: a TAP's own.
pub(super) const PORT_LAYOUT: Layout = Layout::Basic;

/// `TUN_F_*` (linux/if_tun.h): checksums, segmentation of TCP, ECN and UDP inside and outside of
/// UDP tunnels, with and without checksum of the outer UDP header. Not `TUN_F_UFO`.
const TUNNEL: libc::c_ulong = 0x1ef;
/// Checksums, segmentation of TCP, ECN.
const TCP: libc::c_ulong = 0x0f;
/// The same, and of UDP (Linux 6.2 and later).
const TCP_AND_UDP: libc::c_ulong = 0x6f;

/// One queue of the device. The device is gone with the last of them.
#[derive(Debug)]
pub(super) struct Tap(File);

impl Tap {
    /// Makes the device in the network namespace of this thread and opens its queues.
    pub(super) fn open(queues: usize) -> Result<Vec<Self>, (&'static str, io::Error)> {
        (0..queues)
            .map(|queue| Self::open_queue(IFNAME, queue == 0))
            .collect()
    }

    /// One queue of the device of that name; the first makes it.
    pub(super) fn open_queue(ifname: &str, first: bool) -> Result<Self, (&'static str, io::Error)> {
        let tap = Self::attach(ifname, first, Layout::Tunnel)?;
        sys::set_offload(&tap.0, TUNNEL)
            .map_err(|error| ("segmentation of udp tunnels (Linux 6.17 and later)", error))?;
        Ok(tap)
    }

    /// Makes the port in the network namespace of this thread and opens its queues. Says also
    /// whether super-packets of UDP pass it.
    pub(super) fn open_port(queues: usize) -> Result<(Vec<Self>, bool), (&'static str, io::Error)> {
        let mut taps = Vec::new();
        let mut udp = true;
        for queue in 0..queues {
            let tap = Self::attach(PORT_IFNAME, queue == 0, PORT_LAYOUT)?;
            udp = udp && sys::set_offload(&tap.0, TCP_AND_UDP).is_ok();
            if !udp {
                sys::set_offload(&tap.0, TCP).map_err(|error| ("segmentation of tcp", error))?;
            }
            taps.push(tap);
        }
        Ok((taps, udp))
    }

    fn attach(
        ifname: &str,
        first: bool,
        layout: Layout,
    ) -> Result<Self, (&'static str, io::Error)> {
        let tun = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(|error| ("open /dev/net/tun", error))?;
        let exclusive = if first { flags::EXCLUSIVE } else { 0 };
        let kind = flags::TAP | flags::NO_PI | flags::VNET_HDR | flags::MULTI_QUEUE;
        sys::attach(&tun, ifname, kind | exclusive)
            .map_err(|error| ("make the device, or it is there already", error))?;
        sys::set_vnet_header(&tun, layout.length() as libc::c_int)
            .map_err(|error| ("virtio header of the length that is needed", error))?;
        Ok(Self(tun))
    }

    /// The queue that another process had.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let file = File::from(fd);
        sys::ifname(&file)?;
        Ok(Self(file))
    }

    /// Reads a frame with its header; `WouldBlock` when there is none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }

    /// Writes a frame with its header, whose parts these are.
    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.0).write_vectored(parts).map(|_| ())
    }

    /// The device's own address, which frames to the kernel are sent to.
    pub(super) fn hardware_address(&self) -> io::Result<[u8; 6]> {
        sys::hardware_address(&self.0)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.0.into()
    }
}
