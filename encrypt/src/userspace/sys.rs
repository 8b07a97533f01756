//! System calls that no safe interface is there for. The one file of the crate with `unsafe`.

#![expect(unsafe_code, reason = "ioctl and poll have no safe interface here")]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Flags of `TUNSETIFF` (linux/if_tun.h).
pub(super) mod flags {
    pub(crate) const TAP: u16 = 0x0002;
    pub(crate) const MULTI_QUEUE: u16 = 0x0100;
    pub(crate) const NO_PI: u16 = 0x1000;
    pub(crate) const VNET_HDR: u16 = 0x4000;
    /// The device must not be there yet.
    pub(crate) const EXCLUSIVE: u16 = 0x8000;
}

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUNSETVNETLE: libc::Ioctl = 0x4004_54dc;

fn result(returned: c_int) -> io::Result<()> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn request() -> libc::ifreq {
    // SAFETY: ifreq is plain old data, for which zeros are a value.
    unsafe { std::mem::zeroed() }
}

/// Makes `/dev/net/tun`, just opened, a queue of the device of this name.
pub(super) fn attach(tun: &File, ifname: &str, flags: u16) -> io::Result<()> {
    let mut ifr = request();
    // The last byte stays zero.
    let room = ifr.ifr_name.len() - 1;
    if ifname.is_empty() || ifname.len() > room {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in ifr.ifr_name.iter_mut().zip(ifname.bytes()) {
        *to = from as libc::c_char;
    }
    ifr.ifr_ifru.ifru_flags = flags.cast_signed();
    // SAFETY: TUNSETIFF reads and writes an ifreq, which lives until the call returns.
    result(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &raw mut ifr) })
}

/// The name of the device that this is a queue of. `EBADFD` when the device is gone.
pub(super) fn ifname(tap: &File) -> io::Result<String> {
    let mut ifr = request();
    // SAFETY: TUNGETIFF writes an ifreq, which lives until the call returns.
    result(unsafe { libc::ioctl(tap.as_raw_fd(), TUNGETIFF, &raw mut ifr) })?;
    let name = ifr.ifr_name.iter().take_while(|byte| **byte != 0);
    Ok(name.map(|byte| char::from(*byte as u8)).collect())
}

/// Hardware address of the device that this is a queue of.
pub(super) fn hardware_address(tap: &File) -> io::Result<[u8; 6]> {
    let mut ifr = request();
    // SAFETY: SIOCGIFHWADDR writes an ifreq, which lives until the call returns.
    result(unsafe { libc::ioctl(tap.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut ifr) })?;
    // SAFETY: that is the member which SIOCGIFHWADDR has written; every bit pattern is a value.
    let address = unsafe { ifr.ifr_ifru.ifru_hwaddr.sa_data };
    let [a, b, c, d, e, f, ..] = address.map(|byte| byte as u8);
    Ok([a, b, c, d, e, f])
}

/// Bytes of the header before every frame, and its byte order: little-endian.
pub(super) fn set_vnet_header(tap: &File, length: c_int) -> io::Result<()> {
    let little: c_int = 1;
    // SAFETY: both read an int, which lives until the call returns.
    result(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETVNETHDRSZ, &raw const length) })?;
    // SAFETY: as above.
    result(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETVNETLE, &raw const little) })
}

/// What the kernel may leave undone in the frames that it gives us: `TUN_F_*`.
pub(super) fn set_offload(tap: &File, offload: libc::c_ulong) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    result(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD, offload) })
}

/// Size of a socket's buffers: `SO_RCVBUFFORCE` or `SO_SNDBUFFORCE`, which no sysctl limits.
pub(super) fn force_buffer(socket: BorrowedFd<'_>, option: c_int, bytes: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: the option is an int of that length, which lives until the call returns.
    result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const bytes).cast(),
            length,
        )
    })
}

/// Waits until one of the descriptors is ready for what is asked (`POLLIN`, `POLLOUT`), or the
/// time is over; says what each is ready for. A signal ends the wait.
pub(super) fn poll<const N: usize>(
    wanted: [(BorrowedFd<'_>, i16); N],
    timeout: Duration,
) -> io::Result<[i16; N]> {
    let mut fds = wanted.map(|(fd, events)| libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    });
    let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: the array has that many entries and lives until the call returns; the borrowed
    // descriptors are open until then.
    match result(unsafe { libc::poll(fds.as_mut_ptr(), N as libc::nfds_t, timeout) }) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([0; N]),
        Err(error) => Err(error),
        Ok(()) => Ok(fds.map(|fd| fd.revents)),
    }
}

/// Lets the kernel take what comes to a UDP socket for ESP (RFC 3948), and give the socket only what is none.
pub(crate) fn take_esp_in_udp(socket: &std::net::UdpSocket) -> io::Result<()> {
    /// `UDP_ENCAP` and `UDP_ENCAP_ESPINUDP` (linux/udp.h).
    const ENCAPSULATION: c_int = 100;
    const ESP_IN_UDP: c_int = 2;
    let value = ESP_IN_UDP;
    let length = size_of::<c_int>() as libc::socklen_t;
    let pointer = (&raw const value).cast();
    // SAFETY: setsockopt reads an int, which lives until the call returns.
    result(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            ENCAPSULATION,
            pointer,
            length,
        )
    })
}
