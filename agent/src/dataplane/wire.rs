//! What is said over the process's socket: a request, then its answer, each a length of four bytes
//! (big endian) and that many bytes of JSON. The client speaks first.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use weft_encrypt::esp::Spi;
use weft_encrypt::keys::SaKey;
use weft_encrypt::path::{PathSpec, PathState, SaName};
use weft_lb::relay::RelaySpec;
use zeroize::Zeroizing;

use super::dns::{DnsHandedOver, DnsState, DnsUpdate};

/// Version of everything but [`Request::Hello`] and its answer, which stay as they are.
pub(crate) const PROTOCOL: u32 = 3;
/// Longest message: about 10,000 listeners with some backends each.
const MESSAGE_MAX: usize = 16 << 20;
/// Room that a message is given at first: more than one with a key takes.
const ROOM: usize = 4 << 10;

/// What a process is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Who it is. The first one.
    Hello {
        /// Of the client.
        protocol: u32,
    },
    /// To do exactly this from now on; of what is not said, to go on as it does. Answered by
    /// [`Response::State`], when it is done.
    Want {
        /// Connections to pass on.
        relay: Option<RelaySpec>,
        /// Whether it is needed for encrypted networks. If not, it stops carrying them.
        esp: Option<bool>,
        /// Whether it is needed for names inside containers. If not, it stops answering them.
        dns: Option<bool>,
    },
    /// To answer names inside containers like this from now on. Answered by [`Response::Dns`].
    Dns(DnsUpdate),
    /// To give another process what it needs to answer names, which is no end of its own answering yet.
    /// Answered by [`Response::DnsHandedOver`], and the descriptors after it.
    HandOverDns,
    /// To give its listening sockets to another process, which is no end of its own listening yet.
    /// Answered by [`Response::HandOver`], and the descriptors after it.
    HandOver,
    /// That the other process listens, so that this one need not any more. Answered by
    /// [`Response::State`].
    Succeeded,
    /// To carry encrypted networks like this from now on. The keys of peers that are no more are
    /// erased. Answered by [`Response::Esp`].
    Esp {
        /// What is to be carried.
        spec: PathSpec,
        /// By what.
        path: EspPath,
    },
    /// To accept this key's packets. Answered by [`Response::Done`], as the two that follow: with
    /// many peers there are many keys, and to say each time what all of them are at takes long.
    InstallInbound(SaName, KeyBytes),
    /// To seal with this key from now on and erase the one before.
    SwitchOutbound(SaName, KeyBytes),
    /// To accept these packets no longer and erase the key.
    RemoveInbound(Spi),
    /// To stop carrying encrypted networks and give all that another process needs to go on.
    /// Answered by [`Response::EspHandedOver`], and the descriptors after it.
    HandOverEsp,
}

/// What carries encrypted networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EspPath {
    /// The process.
    Userspace,
    /// The kernel; the process has the socket.
    Kernel,
}

/// What a key is made of: key and salt. Erased when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct KeyBytes(Zeroizing<Vec<u8>>);

impl KeyBytes {
    /// Takes a key along.
    pub(crate) fn of(key: &SaKey) -> Self {
        Self(Zeroizing::new(key.expose().to_vec()))
    }

    /// The key, if it has the length of one.
    pub(crate) fn to_key(&self) -> Option<SaKey> {
        Some(SaKey::from_bytes(self.0.as_slice().try_into().ok()?))
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes")
    }
}

/// All that a data path needs to go on in another process, keys included. Erased when dropped,
/// never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Sealed(pub(crate) Zeroizing<String>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// Who it is.
    Hello(Hello),
    /// What it does.
    State(State),
    /// What it has listened for.
    HandOver {
        /// What it was last told to do, if it was.
        wanted: Option<RelaySpec>,
        /// Addresses of the sockets that follow, in this order.
        listeners: Vec<SocketAddr>,
    },
    /// It does not, and why.
    Refused(String),
    /// What it carries of encrypted networks.
    Esp(Box<PathState>),
    /// Which names it answers.
    Dns(DnsState),
    /// What it answers, if it does.
    DnsHandedOver(Option<DnsHandedOver>),
    /// It is done.
    Done,
    /// What it has carried, if it has, and how many descriptors follow.
    EspHandedOver {
        /// The state.
        state: Option<Sealed>,
        /// How many descriptors.
        descriptors: usize,
    },
}

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// What it understands.
    pub(crate) protocol: u32,
    /// Names the program that it runs; see [`build`](super::build).
    pub(crate) build: String,
    /// Version of that.
    pub(crate) version: String,
    /// Its process id.
    pub(crate) pid: u32,
}

/// What a process does, as it is at that moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Whether another one listens in its place.
    pub(crate) succeeded: bool,
    /// Addresses that it does not listen on although it should, and why.
    pub(crate) failed: BTreeMap<SocketAddr, String>,
    /// Each backend that connections are for, or were since it came.
    pub(crate) backends: Vec<Backend>,
    /// Connections that there are.
    pub(crate) connections: u64,
    /// Connections refused so far because there were too many.
    pub(crate) refused: u64,
    /// Connections reset so far because no backend took them.
    pub(crate) unreachable: u64,
}

/// A backend of one listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Backend {
    /// The listener's address.
    pub(crate) listener: SocketAddr,
    /// The backend's.
    pub(crate) backend: SocketAddr,
    /// Which of those that have had this address.
    pub(crate) tag: u64,
    /// Connections that it has.
    pub(crate) active: u64,
    /// Connections that it has had, these included.
    pub(crate) total: u64,
    /// Bytes from clients to it.
    pub(crate) bytes_in: u64,
    /// Bytes from it to clients.
    pub(crate) bytes_out: u64,
}

/// Reads one message.
///
/// # Errors
/// When the other side has gone or speaks something else.
pub(super) async fn read<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > MESSAGE_MAX {
        let what = format!("a message of {length} bytes; {MESSAGE_MAX} at most");
        return Err(io::Error::new(ErrorKind::InvalidData, what));
    }
    // It may have keys in it.
    let mut message = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut message).await?;
    Ok(serde_json::from_slice(&message)?)
}

/// JSON that may have keys in it. What it outgrows is erased, as it is itself when dropped.
pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut erasing = Erasing(Zeroizing::new(Vec::with_capacity(ROOM)));
    serde_json::to_writer(&mut erasing, value)?;
    Ok(erasing.0)
}

struct Erasing(Zeroizing<Vec<u8>>);

impl io::Write for Erasing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(2 * self.0.capacity())));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one message.
///
/// # Errors
/// When the other side has gone, or the message is too long.
pub(super) async fn write<T: Serialize>(stream: &mut UnixStream, message: &T) -> io::Result<()> {
    // As above.
    let body = encode(message)?;
    let length = u32::try_from(body.len()).ok();
    let Some(length) = length.filter(|_| body.len() <= MESSAGE_MAX) else {
        let what = format!("a message of {} bytes; {MESSAGE_MAX} at most", body.len());
        return Err(io::Error::new(ErrorKind::InvalidData, what));
    };
    stream.write_u32(length).await?;
    stream.write_all(&body).await
}

#[cfg(test)]
mod tests {
    use weft_lb::relay::{Listener, Member, Scheduler};

    use super::*;

    fn spec() -> RelaySpec {
        let backends = [("192.0.2.2:80", 3), ("[2001:db8::2]:80", 0)];
        let listener = Listener {
            scheduler: Scheduler::LeastConnections,
            affinity_s: Some(60),
            mss: Some(1410),
            backends: backends
                .map(|(at, weight)| (at.parse().unwrap(), Member { weight, tag: 7 }))
                .into(),
        };
        [("[2001:db8::1]:8080".parse().unwrap(), listener)].into()
    }

    #[tokio::test]
    async fn messages_arrive_as_they_were_sent() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        for request in [
            Request::Hello { protocol: 1 },
            Request::Want {
                relay: Some(spec()),
                esp: Some(true),
                dns: None,
            },
            Request::HandOver,
            Request::Succeeded,
        ] {
            write(&mut here, &request).await.unwrap();
            assert_eq!(read::<Request>(&mut there).await.unwrap(), request);
        }
    }

    #[test]
    fn what_takes_more_room_than_there_is_at_first_is_encoded_whole() {
        let text = "0123456789".repeat(ROOM);
        let encoded = encode(&(&text, 7)).unwrap();
        assert_eq!(*encoded, serde_json::to_vec(&(&text, 7)).unwrap());
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        for bytes in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\x02{}",
            b"\0\0\0\x09\"Hello",
        ] {
            let (mut here, mut there) = UnixStream::pair().unwrap();
            here.write_all(bytes).await.unwrap();
            drop(here);
            assert!(read::<Request>(&mut there).await.is_err(), "{bytes:?}");
        }
    }
}
