//! The device that the kernel's VXLAN datagrams are routed into, and come out of.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::sys::{self, flags};

/// Name of the device.
pub const IFNAME: &str = "wf-esp";
/// Name of the device of [`Form::Port`](crate::path::Form::Port) in a network's sandbox.
pub const PORT_IFNAME: &str = "esp0";
/// Bytes of the header before every frame: `virtio_net_hdr_v1_hash_tunnel` (linux/virtio_net.h).
pub(super) const VNET_HEADER: usize = 24;
/// Longest frame, that header included: Ethernet and an IP packet of 65,535 bytes.
pub(super) const LONGEST_READ: usize = VNET_HEADER + 14 + 65_535;

/// `TUN_F_*` (linux/if_tun.h): checksums, segmentation of TCP, ECN and UDP inside and outside of
/// UDP tunnels, with and without checksum of the outer UDP header. Not `TUN_F_UFO`.
const OFFLOAD: libc::c_ulong = 0x1ef;

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
        sys::set_vnet_header(&tun, VNET_HEADER as libc::c_int)
            .map_err(|error| ("header of 24 bytes", error))?;
        sys::set_offload(&tun, OFFLOAD)
            .map_err(|error| ("segmentation of udp tunnels (Linux 6.17 and later)", error))?;
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
