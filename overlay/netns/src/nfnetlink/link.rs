//! A socket that speaks to the subsystems of netfilter.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::attr::{AttrWriter, Attrs, Malformed};
use super::error::NftError;
use super::message::{ACK, Body, DUMP, Messages, REQUEST, request};
use crate::Netns;

/// Send buffer in bytes: a transaction is one datagram and must fit. 300,000 elements take 12 MB.
const SEND_BUFFER: usize = 64 << 20;
/// Receive buffer in bytes: all refusals of a failed transaction are queued at once.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Bytes of one read; the kernel sends dumps in pieces of at most 32 KiB.
const READ_LEN: usize = 64 << 10;
/// Seconds to wait for an answer. Answers are there when the request returns; this is for a kernel
/// that drops one for want of memory.
const ANSWER_TIMEOUT_S: i64 = 5;
/// Most objects of one dump.
const OBJECTS_MAX: usize = 4_000_000;

/// A netfilter netlink socket. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// Whether a dump since this was last cleared met a change.
    pub(crate) interrupted: bool,
}

/// What is asked of which subsystem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub(crate) subsystem: u16,
    pub(crate) kind: u16,
    /// `AF_*`, or `NFPROTO_INET`.
    pub(crate) family: u8,
    /// Whether the answer is many objects.
    pub(crate) dump: bool,
}

impl Link {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NftError::Open`], when the kernel has no netfilter netlink among others.
    pub(crate) fn open() -> Result<Self, NftError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Open)?;
        let address = socket.bind_auto().map_err(NftError::Open)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(NftError::Open)?;
        // Both make answers shorter or clearer and may be missing.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        enlarge(&socket).map_err(NftError::Open)?;
        let buffer = vec![0; READ_LEN];
        Ok(Self {
            socket,
            port: address.port_number(),
            sequence: 0,
            buffer,
            interrupted: false,
        })
    }

    /// Opens a socket in another network namespace.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the namespace cannot be entered.
    pub(crate) fn open_in(netns: &Netns) -> Result<Self, NftError> {
        netns
            .run(Self::open)
            .map_err(|error| NftError::Open(io::Error::other(error)))?
    }

    /// The socket's netlink port, by which the kernel names the owner of a table.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// The next request's sequence number.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.sequence.wrapping_add(1)
    }

    /// Takes so many sequence numbers.
    pub(crate) fn reserve(&mut self, count: u32) {
        self.sequence = self.sequence.wrapping_add(count);
    }

    /// The beginning of the buffer, which the last datagram was read into.
    pub(crate) fn datagram(&self, len: usize) -> &[u8] {
        &self.buffer[..len]
    }

    /// One request and all its answers: up to the end of a dump, or else up to the acknowledgement.
    ///
    /// # Errors
    /// [`NftError`].
    pub(crate) fn query(
        &mut self,
        what: &str,
        query: Query,
        content: impl FnOnce(&mut AttrWriter),
        mut answer: impl FnMut(u16, Attrs<'_>) -> Result<(), Malformed>,
    ) -> Result<(), NftError> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = if query.dump { DUMP } else { ACK };
        let kind = query.subsystem << 8 | query.kind;
        let nfgenmsg = [query.family, 0, 0, 0];
        let bytes = request(kind, REQUEST | flags, self.sequence, nfgenmsg, content)
            .ok_or(NftError::Overlong)?;
        self.send(what, &bytes)?;
        let mut count = 0;
        loop {
            let len = self.receive(what)?;
            for message in Messages::new(&self.buffer[..len]) {
                let message = message.map_err(NftError::malformed(what))?;
                if message.sequence != self.sequence {
                    continue;
                }
                self.interrupted |= message.interrupted;
                match message.body {
                    Body::Ack | Body::Done => return Ok(()),
                    Body::Refused(refusal) => return Err(NftError::refused(what, refusal)),
                    Body::Object { kind, attrs }
                        if kind >> 8 == query.subsystem && count < OBJECTS_MAX =>
                    {
                        answer(kind & 0xff, Attrs::new(attrs))
                            .map_err(NftError::malformed(what))?;
                        count += 1;
                    }
                    Body::Object { .. } => return Err(NftError::malformed(what)(Malformed)),
                    Body::Other => {}
                }
            }
        }
    }

    pub(crate) fn send(&self, what: &str, bytes: &[u8]) -> Result<(), NftError> {
        match self.socket.send(bytes, 0) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                Err(NftError::TooLarge { bytes: bytes.len() })
            }
            Err(error) => Err(NftError::io(what)(error)),
        }
    }

    /// Reads one datagram into the buffer. Only the kernel can send to a connected netlink socket.
    pub(crate) fn receive(&mut self, what: &str) -> Result<usize, NftError> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(len) if len <= self.buffer.len() => return Ok(len),
                Ok(_) => return Err(NftError::malformed(what)(Malformed)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // There was no room for all answers. The first ones are still queued.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(NftError::NoAnswer {
                        what: what.to_owned(),
                    });
                }
                Err(error) => return Err(NftError::io(what)(error)),
            }
        }
    }

    /// Throws away what is queued, so that it does not take up room.
    pub(crate) fn drain(&mut self) {
        loop {
            let read = self
                .socket
                .recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT);
            // It says once that there was no room for more.
            let overflow = |error: &io::Error| error.raw_os_error() == Some(libc::ENOBUFS);
            if read.is_err_and(|error| !overflow(&error)) {
                return;
            }
        }
    }
}

/// Past the limits of the system where the process may; as far as they go where not, as in a user
/// namespace.
fn enlarge(socket: &Socket) -> io::Result<()> {
    let fd = socket.as_fd();
    setsockopt(&fd, sockopt::SndBufForce, &SEND_BUFFER)
        .or_else(|_| setsockopt(&fd, sockopt::SndBuf, &SEND_BUFFER))?;
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))?;
    setsockopt(
        &fd,
        sockopt::ReceiveTimeout,
        &TimeVal::new(ANSWER_TIMEOUT_S, 0),
    )?;
    Ok(())
}
