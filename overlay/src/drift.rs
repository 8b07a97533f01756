//! Word that somebody changed something where weft's own things are.
//!
//! The kernel tells of changes of links, forwarding entries, addresses, routes and rules, whoever
//! made them; it does not say who. So what is told is where to look, and whoever changes something
//! itself says so afterwards ([`DriftMonitor::forget`]). What is not told of (sysctls, what was lost
//! for want of room) is for a regular look to find.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd as _;
use std::task::{Context, Poll};
use std::time::Duration;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::time::{Instant, sleep_until};
use weft_netns::{Identity, Netns};

use crate::NetnsRef;

/// `RTNLGRP_LINK`, `RTNLGRP_NEIGH` (linux/rtnetlink.h): what a sandbox has.
const SANDBOX: &[u32] = &[1, 3];
/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_IFADDR`,
/// `RTNLGRP_IPV6_ROUTE`: what a container has. Its neighbours come and go by themselves.
const CONTAINER: &[u32] = &[1, 5, 7, 9, 11];
/// Namespaces that are listened to; further ones are looked at regularly only. Each costs a descriptor.
const PLACES_MAX: usize = 1024;
/// Receive buffer of each, bytes. When it is full, that is told as a change.
const RECEIVE_BUFFER: usize = 64 << 10;
/// Bytes of one read.
const READ_LEN: usize = 16 << 10;
/// Reads of one namespace at a time: an endless stream of changes is one change.
const READS_MAX: usize = 64;
/// Changes come in bursts; word of them is held back so long.
const DELAY: Duration = Duration::from_millis(100);

/// Where something of weft's is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The sandbox of a network, by its id.
    Sandbox(String),
    /// The namespace of an endpoint's container, by the endpoint's id.
    Container(String),
}

/// Hears of changes in namespaces where weft has something.
#[derive(Default)]
pub struct DriftMonitor {
    sockets: BTreeMap<Place, Listener>,
    found: BTreeSet<Place>,
    since: Option<Instant>,
}

struct Listener {
    netns: NetnsRef,
    socket: TokioSocket,
}

impl DriftMonitor {
    /// Listens in these namespaces from now on, and in no other. One that cannot be opened is left
    /// out: whoever needs it finds out why. To be called inside a tokio runtime.
    ///
    /// A namespace lives as long as it is listened to, even when all else of it is gone.
    pub fn watch(&mut self, wanted: &BTreeMap<Place, NetnsRef>) {
        self.sockets
            .retain(|place, listener| wanted.get(place) == Some(&listener.netns));
        self.found.retain(|place| wanted.contains_key(place));
        for (place, netns) in wanted {
            if self.sockets.len() >= PLACES_MAX {
                break;
            }
            if self.sockets.contains_key(place) {
                continue;
            }
            match listen(place, netns) {
                Ok(socket) => {
                    let netns = netns.clone();
                    self.sockets
                        .insert(place.clone(), Listener { netns, socket });
                }
                Err(error) => tracing::debug!(?place, %error, "changes are not heard there"),
            }
        }
    }

    /// Waits until something changed, and a moment longer, as changes come in bursts. Safe to cancel:
    /// what was heard is told by the next call.
    pub async fn next(&mut self) -> BTreeSet<Place> {
        if self.found.is_empty() {
            let place = poll_fn(|context| self.poll(context)).await;
            self.found.insert(place);
            self.since = Some(Instant::now());
        }
        if let Some(since) = self.since {
            sleep_until(since + DELAY).await;
        }
        for (place, listener) in &mut self.sockets {
            if drain(&listener.socket) {
                self.found.insert(place.clone());
            }
        }
        self.since = None;
        std::mem::take(&mut self.found)
    }

    /// All that was heard until now is known already: the caller has looked, or did it itself.
    pub fn forget(&mut self) {
        for listener in self.sockets.values() {
            drain(&listener.socket);
        }
        self.found.clear();
        self.since = None;
    }

    /// The first place with news.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Place> {
        let mut buffer = Vec::with_capacity(READ_LEN);
        for (place, listener) in &mut self.sockets {
            for _ in 0..READS_MAX {
                buffer.clear();
                let Poll::Ready(received) = listener.socket.poll_recv(context, &mut buffer) else {
                    break;
                };
                if is_news(received.map(|()| buffer.as_slice())) {
                    return Poll::Ready(place.clone());
                }
            }
        }
        Poll::Pending
    }
}

impl fmt::Debug for DriftMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<&Place> = self.sockets.keys().collect();
        f.debug_tuple("DriftMonitor").field(&places).finish()
    }
}

fn listen(place: &Place, reference: &NetnsRef) -> Result<TokioSocket, String> {
    let netns = Netns::open(&reference.path).map_err(|e| e.to_string())?;
    let meant = Identity {
        device: reference.device,
        inode: reference.inode,
    };
    if netns.identity() != meant {
        return Err("the namespace is another one by now".to_owned());
    }
    let mut socket = netns
        .async_netlink(NETLINK_ROUTE)
        .map_err(|e| e.to_string())?;
    let groups = match place {
        Place::Sandbox(_) => SANDBOX,
        Place::Container(_) => CONTAINER,
    };
    for group in groups {
        let joined = socket.socket_mut().add_membership(*group);
        joined.map_err(|e| e.to_string())?;
    }
    let fd = socket.socket_ref().as_fd();
    setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(|e| e.to_string())?;
    Ok(socket)
}

/// Takes in all that waits; whether there was news in it.
fn drain(socket: &TokioSocket) -> bool {
    let mut news = false;
    let mut buffer = Vec::with_capacity(READ_LEN);
    for _ in 0..READS_MAX {
        buffer.clear();
        match socket.socket_ref().recv(&mut buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return news,
            received => news |= is_news(received.map(|_| buffer.as_slice())),
        }
    }
    news
}

/// Whether what was received tells of anything that may be weft's.
fn is_news(received: io::Result<&[u8]>) -> bool {
    let mut rest = match received {
        Ok(datagram) => datagram,
        // Some changes were dropped for want of room; which, nobody knows.
        Err(error) => return error.raw_os_error() == Some(libc::ENOBUFS),
    };
    while !rest.is_empty() {
        // What cannot be read may be anything.
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else {
            return true;
        };
        let learnt = match &message.payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry),
            ) => is_learnt(entry),
            _ => false,
        };
        let len = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        if !learnt || len == 0 {
            return true;
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

/// Whether the kernel found the entry by itself, and may forget it again: weft's stay.
fn is_learnt(entry: &NeighbourMessage) -> bool {
    !matches!(
        entry.header.state,
        NeighbourState::Permanent | NeighbourState::Noarp
    )
}
