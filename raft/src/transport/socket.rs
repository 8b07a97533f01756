//! The UDP socket below QUIC: opened with our options, counted, and closed when we say so.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, UdpPoller};
use socket2::{Domain, Protocol, Type};

use super::BindError;
use super::counters::Counters;

/// Opens `listen`. An unspecified IPv6 address takes IPv4 as well. `buffer` is the wanted size of
/// both buffers in bytes; the kernel grants up to `net.core.rmem_max` and `wmem_max`.
pub(super) fn open(listen: SocketAddr, buffer: usize) -> Result<UdpSocket, BindError> {
    try_open(listen, buffer).map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => BindError::InUse { addr: listen },
        ErrorKind::AddrNotAvailable => BindError::NotLocal { addr: listen },
        _ => BindError::Io {
            addr: listen,
            source,
        },
    })
}

fn try_open(listen: SocketAddr, buffer: usize) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(listen);
    let socket = socket2::Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if let IpAddr::V6(ip) = listen.ip() {
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    socket.set_recv_buffer_size(buffer)?;
    socket.set_send_buffer_size(buffer)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// The socket as QUIC sees it. [`Self::shut`] frees the port even while connections that were
/// closed are still referred to somewhere.
#[derive(Debug)]
pub(super) struct CountedSocket {
    inner: RwLock<Option<Arc<dyn AsyncUdpSocket>>>,
    counters: Arc<Counters>,
    local_addr: SocketAddr,
    may_fragment: bool,
}

impl CountedSocket {
    pub(super) fn new(
        socket: UdpSocket,
        runtime: &dyn Runtime,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        let inner = runtime.wrap_udp_socket(socket)?;
        Ok(Self {
            local_addr: inner.local_addr()?,
            may_fragment: inner.may_fragment(),
            inner: RwLock::new(Some(inner)),
            counters: counters.clone(),
        })
    }

    /// Closes the socket; from here on nothing arrives and what is sent goes nowhere.
    pub(super) fn shut(&self) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        *inner = None;
    }

    fn with<R>(&self, otherwise: R, act: impl FnOnce(&Arc<dyn AsyncUdpSocket>) -> R) -> R {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.as_ref().map_or(otherwise, act)
    }

    fn count_received(&self, buffer: &[u8], meta: &RecvMeta) {
        let datagrams = buffer.get(..meta.len).unwrap_or_default();
        self.counters.bytes_received.add(datagrams.len() as u64);
        for datagram in datagrams.chunks(meta.stride.max(1)) {
            self.counters.datagrams_received.one();
            if !may_be_quic(datagram) {
                self.counters.not_quic.one();
            }
        }
    }
}

/// Whether the first bytes could be those of a QUIC packet (RFC 9000 sections 17.2 and 17.3): the
/// fixed bit is set, except in version negotiation, which has version 0. We do not negotiate to
/// leave the bit unset (RFC 9287).
fn may_be_quic(datagram: &[u8]) -> bool {
    const LONG_HEADER: u8 = 0x80;
    const FIXED_BIT: u8 = 0x40;
    match datagram {
        [first, ..] if first & FIXED_BIT != 0 => true,
        [first, 0, 0, 0, 0, ..] => first & LONG_HEADER != 0,
        _ => false,
    }
}

impl AsyncUdpSocket for CountedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.with(Ok(()), |socket| socket.try_send(transmit))?;
        let len = transmit.contents.len();
        self.counters.bytes_sent.add(len as u64);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.with(Poll::Pending, |s| s.poll_recv(cx, buffers, meta));
        let count = ready!(received)?;
        for (buffer, meta) in buffers.iter().zip(meta.iter()).take(count) {
            self.count_received(buffer, meta);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local_addr)
    }

    fn max_transmit_segments(&self) -> usize {
        self.with(1, |socket| socket.max_transmit_segments())
    }

    fn max_receive_segments(&self) -> usize {
        self.with(1, |socket| socket.max_receive_segments())
    }

    fn may_fragment(&self) -> bool {
        self.may_fragment
    }
}

/// Waits for room in the send buffer, holding the real socket only while it waits.
#[derive(Debug)]
struct Poller {
    socket: Arc<CountedSocket>,
    waiting: Option<Pin<Box<dyn UdpPoller>>>,
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.waiting.is_none() {
            let fresh = |socket: &Arc<dyn AsyncUdpSocket>| Some(socket.clone().create_io_poller());
            this.waiting = this.socket.with(None, fresh);
        }
        let Some(waiting) = &mut this.waiting else {
            return Poll::Ready(Ok(()));
        };
        let writable = ready!(waiting.as_mut().poll_writable(cx));
        this.waiting = None;
        Poll::Ready(writable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_without_the_fixed_bit_are_not_quic() {
        assert!(may_be_quic(&[0x40, 1, 2]));
        assert!(may_be_quic(&[0xc0, 0, 0, 0, 1]));
        assert!(may_be_quic(&[0x80, 0, 0, 0, 0, 8]));
        for other in [
            &[][..],
            &[0; 30],
            &[0x80, 0, 0, 0, 1],
            &[0x80],
            b"\x16\x03\x01",
        ] {
            assert!(!may_be_quic(other), "{other:?}");
        }
    }

    #[test]
    fn an_address_in_use_is_named() {
        let held = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = held.local_addr().unwrap();
        let error = open(addr, 1 << 16).unwrap_err().to_string();
        assert!(error.contains(&addr.to_string()), "{error}");
        assert!(error.contains("another program holds it"), "{error}");
        let error = open("192.0.2.1:0".parse().unwrap(), 1 << 16).unwrap_err();
        assert!(matches!(error, BindError::NotLocal { .. }), "{error}");
    }
}
