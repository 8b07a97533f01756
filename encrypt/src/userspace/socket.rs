//! The UDP socket that ESP comes and goes by.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::sys;

/// Receive buffer, bytes: about 1 ms of 10 Gbit/s in packets of 1,500 bytes, as the kernel counts them (and
/// it doubles what it is told). What waits in it is sealed already and makes others wait, so what is too
/// much had better be dropped before the device of whoever sends it.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Send buffer, bytes.
const SEND_BUFFER: usize = 2 << 20;
/// How long a full send buffer is waited for. What cannot go then is dropped, as a full queue of a
/// device would drop it.
const LONGEST_WAIT: Duration = Duration::from_millis(5);
/// Largest payload of the datagrams of one send together: an IPv6 packet of 65,535 bytes with both
/// headers counted in, as the kernel does.
pub(super) const LONGEST_SEND: usize = 65_535 - 40 - 8;

/// A UDP socket bound to the tunnel end.
#[derive(Debug)]
pub(super) struct EspSocket {
    socket: Socket,
    state: UdpSocketState,
}

impl EspSocket {
    /// So many sockets in the network namespace of this thread, among which the kernel shares out
    /// what is received, by flow.
    pub(super) fn open(local: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        (0..count)
            .map(|_| {
                let socket =
                    Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
                if local.is_ipv6() {
                    socket.set_only_v6(true)?;
                }
                socket.set_reuse_port(count > 1)?;
                socket.bind(&local.into())?;
                Self::with(socket)
            })
            .collect()
    }

    /// The socket that another process had.
    pub(super) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        Self::with(Socket::from(fd))
    }

    fn with(socket: Socket) -> io::Result<Self> {
        let bytes = |bytes: usize| libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let fd = socket.as_fd();
        // Without the privilege in the first user namespace the limits of the sysctls hold.
        if sys::force_buffer(fd, libc::SO_RCVBUFFORCE, bytes(RECEIVE_BUFFER)).is_err() {
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        if sys::force_buffer(fd, libc::SO_SNDBUFFORCE, bytes(SEND_BUFFER)).is_err() {
            socket.set_send_buffer_size(SEND_BUFFER)?;
        }
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    /// Most datagrams in one send: 1 where segmentation is not to be had.
    pub(super) fn most_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Sends a datagram, or several of `segment` bytes of which the last may be shorter. Returns
    /// how many could not be sent.
    pub(super) fn send(&self, to: SocketAddr, ecn: u8, contents: &[u8], segment: usize) -> u64 {
        let ecn = EcnCodepoint::from_bits(ecn);
        let single = contents.len() <= segment;
        let mut transmit = Transmit {
            destination: to,
            ecn,
            contents,
            segment_size: (!single).then_some(segment),
            src_ip: None,
        };
        let Err(error) = self.send_in_time(&transmit) else {
            return 0;
        };
        // A device without checksum offload refuses segmentation: EIO, or EINVAL (Linux before
        // 6.11). From then on `most_segments` is 1. One that is too long for the path is refused
        // for all: the others are sent by themselves.
        let retry = [Some(libc::EIO), Some(libc::EINVAL), Some(libc::EMSGSIZE)];
        if single || !retry.contains(&error.raw_os_error()) {
            return contents.len().div_ceil(segment) as u64;
        }
        let mut failed = 0;
        for datagram in contents.chunks(segment) {
            transmit.contents = datagram;
            transmit.segment_size = None;
            failed += u64::from(self.send_in_time(&transmit).is_err());
        }
        failed
    }

    fn send_in_time(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let mut start = None;
        loop {
            match self.state.try_send((&self.socket).into(), transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let start = *start.get_or_insert_with(Instant::now);
                    let left = LONGEST_WAIT.saturating_sub(start.elapsed());
                    if left < Duration::from_millis(1) {
                        return Err(error);
                    }
                    sys::poll([(self.as_fd(), libc::POLLOUT)], left)?;
                }
                other => return other,
            }
        }
    }

    /// Receives datagrams, several of one sender in each buffer; `WouldBlock` when there are none.
    /// The buffers must be of 65,535 bytes: what does not fit in one is lost.
    pub(super) fn receive(
        &self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> io::Result<usize> {
        self.state.recv((&self.socket).into(), buffers, meta)
    }
}

impl AsFd for EspSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<EspSocket> for OwnedFd {
    fn from(socket: EspSocket) -> Self {
        socket.socket.into()
    }
}
