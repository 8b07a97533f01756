//! System calls and instructions that no safe interface is there for. The one file of the crate with `unsafe`.

#![expect(
    unsafe_code,
    reason = "ioctl, poll, epoll, and code for one processor have no safe interface here"
)]

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::offload::checksum;

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

/// [`checksum::words`], with vectors of 32 bytes where the processor has them: a third less time.
pub(crate) fn sum_words(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn wide(bytes: &[u8]) -> u64 {
            checksum::words(bytes)
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions that the function is compiled to.
            return unsafe { wide(bytes) };
        }
    }
    checksum::words(bytes)
}

/// Many descriptors, each with a number, of which some have something to read (epoll(7)). One that
/// is closed is no longer among them.
#[derive(Debug)]
pub(super) struct Epoll(OwnedFd);

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes its argument by value.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        result(fd)?;
        // SAFETY: the descriptor was just made and is nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(super) fn add(&self, fd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: number.into(),
        };
        let (epoll, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: epoll_ctl reads an event, which lives until the call returns.
        result(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) })
    }

    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let (epoll, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        let none = std::ptr::null_mut();
        // SAFETY: of what is removed no event is read (Linux 2.6.9 and later).
        result(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, fd, none) })
    }

    /// Numbers of those that have something to read at that moment, or are broken; if there are
    /// more than fit, the others come first the next time.
    pub(super) fn ready<'n, const N: usize>(&self, numbers: &'n mut [u32; N]) -> &'n [u32] {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; N];
        let (room, epoll) = (N as c_int, self.0.as_raw_fd());
        // SAFETY: the array has that many entries and lives until the call returns.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), room, 0) };
        // An error is one of a wrong call only.
        let count = usize::try_from(count).unwrap_or(0);
        for (number, event) in numbers.iter_mut().zip(&events) {
            *number = event.u64 as u32;
        }
        numbers.get(..count).unwrap_or_default()
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
