use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::time::{Instant, timeout_at};

use super::facts::{HostError, is_own_link};
use crate::gateway::layout::PROTOCOL;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR` and
/// `RTMGRP_IPV6_ROUTE` (linux/rtnetlink.h).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Receive buffer in bytes: room for some thousand changes at once, as when a routing daemon
/// starts.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Bytes of one read; the kernel sends changes in pages.
const READ_LEN: usize = 64 << 10;
/// Changes come in bursts (a link, its addresses, its routes): how long it must be quiet.
const QUIET: Duration = Duration::from_millis(50);
/// How long word of a change is held back when it does not get quiet.
const DELAY_MAX: Duration = Duration::from_millis(500);

/// Word that something in the host's network changed.
pub struct HostMonitor {
    socket: TokioSocket,
    buffer: Vec<u8>,
    /// When the first change was seen that was not told yet.
    since: Option<Instant>,
}

/// Starts to follow changes of links, addresses and routes in the calling thread's network
/// namespace; those of weft's own links and routes are no news. To be called inside a tokio runtime, before
/// the first [`facts`](super::facts), so that nothing is missed between.
///
/// # Errors
/// When the netlink socket cannot be opened or subscribed.
pub fn monitor() -> Result<HostMonitor, HostError> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(HostError::Open)?;
    socket
        .socket_mut()
        .bind(&SocketAddr::new(0, GROUPS))
        .map_err(HostError::Open)?;
    let fd = socket.socket_ref().as_fd();
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER))
        .map_err(|error| HostError::Open(error.into()))?;
    Ok(HostMonitor {
        socket,
        buffer: Vec::with_capacity(READ_LEN),
        since: None,
    })
}

impl HostMonitor {
    /// Waits until something changed and a burst of changes is over, or half a second after its
    /// begin. Changes that the kernel had no room to tell count as one. Safe to cancel: what was
    /// seen is told by the next call.
    ///
    /// # Errors
    /// When the socket breaks; the monitor is of no more use then.
    pub async fn next(&mut self) -> Result<(), HostError> {
        let since = match self.since {
            Some(since) => since,
            None => {
                self.change().await?;
                *self.since.insert(Instant::now())
            }
        };
        let latest = since + DELAY_MAX;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            match timeout_at(quiet, self.change()).await {
                Ok(seen) => seen?,
                Err(_) => break,
            }
        }
        self.since = None;
        Ok(())
    }

    /// Waits for a datagram with news in it.
    async fn change(&mut self) -> Result<(), HostError> {
        loop {
            self.buffer.clear();
            let received = self.socket.recv(&mut self.buffer).await;
            if is_news(received.map(|()| self.buffer.as_slice())).map_err(HostError::Monitor)? {
                return Ok(());
            }
        }
    }
}

impl fmt::Debug for HostMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMonitor")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

/// Whether what was received tells of anything but weft's own links and routes.
fn is_news(received: io::Result<&[u8]>) -> io::Result<bool> {
    let mut rest = match received {
        Ok(datagram) => datagram,
        // Some changes were dropped for want of room; which, nobody knows.
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
        Err(error) => return Err(error),
    };
    while !rest.is_empty() {
        // What cannot be read may be anything.
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            return Ok(true);
        };
        let own = match &message.payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
            ) => name(link).is_some_and(is_own_link),
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
            ) => route.header.protocol == PROTOCOL.into(),
            _ => false,
        };
        let len = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        if !own || len == 0 {
            return Ok(true);
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::address::AddressMessage;
    use netlink_packet_route::route::RouteMessage;
    use proptest::prelude::*;

    use super::*;

    fn datagram(messages: Vec<RouteNetlinkMessage>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for payload in messages {
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload.into());
            message.finalize();
            let start = bytes.len();
            bytes.resize(start + message.buffer_len(), 0);
            message.serialize(&mut bytes[start..]);
        }
        bytes
    }

    fn link(name: &str) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        RouteNetlinkMessage::NewLink(message)
    }

    fn route(protocol: u8) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.protocol = protocol.into();
        RouteNetlinkMessage::NewRoute(message)
    }

    #[test]
    fn own_links_and_routes_are_no_news_and_all_else_is() {
        let news = |messages| is_news(Ok(&datagram(messages))).unwrap();
        assert!(!news(vec![link("wf12ab"), link("weft-gw")]));
        assert!(news(vec![link("wf12ab"), link("eth0")]));
        assert!(!news(vec![route(PROTOCOL)]));
        assert!(news(vec![route(4)]));
        assert!(news(vec![RouteNetlinkMessage::NewAddress(
            AddressMessage::default()
        )]));
    }

    #[test]
    fn changes_that_were_lost_are_news() {
        assert!(is_news(Err(io::Error::from_raw_os_error(libc::ENOBUFS))).unwrap());
        assert!(is_news(Err(io::Error::from_raw_os_error(libc::EBADF))).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_are_news_or_none_but_no_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert!(is_news(Ok(&bytes)).is_ok());
        }
    }
}
