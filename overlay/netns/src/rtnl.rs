//! A blocking rtnetlink socket, for links, addresses, routes, rules and neighbours.

use std::io;
use std::time::Duration;

use crate::Netns;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;
use thiserror::Error;

/// Requests sent in one go before their acknowledgements are read. An acknowledgement takes up to
/// about 1 kB of a receive buffer that is 208 KiB unless the administrator said otherwise.
const BATCH_MAX: usize = 96;

/// The kernel answers before `send` returns; waiting longer means that an answer was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A dump during which something changed is taken again this often at most.
const DUMP_ATTEMPTS: usize = 4;

/// Room for what the kernel sends in one datagram of a dump (`NLMSG_GOODSIZE` and
/// `max_recvmsg_len` never go above 32 KiB).
const DATAGRAM_MAX: usize = 64 * 1024;

/// Size of `struct nlmsghdr`.
const HEADER_LENGTH: usize = 16;

/// `NLMSGERR_ATTR_MSG`: the kernel's own words about a refusal.
const ATTRIBUTE_TEXT: u16 = 1;

/// A rtnetlink socket in one network namespace, used by one thread at a time.
///
/// Blocking: the kernel performs a request while it is being sent, so there is nothing to wait for,
/// and many requests go into one system call, which an async connection cannot do.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
    sequence: u32,
}

/// One change to be acknowledged.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is asked for.
    pub message: RouteNetlinkMessage,
    /// Besides `NLM_F_REQUEST | NLM_F_ACK`.
    pub flags: u16,
    /// Error numbers that mean that the end state is there already.
    pub tolerate: &'static [i32],
}

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RtnlError {
    /// The kernel refused it.
    #[error("{}", refusal(*errno, text))]
    Refused {
        /// Its error number.
        errno: i32,
        /// Its words; empty when it has none.
        text: String,
    },
    /// The socket failed.
    #[error("netlink: {0}")]
    Socket(String),
}

impl RtnlError {
    /// The kernel's error number, where it refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Socket(_) => None,
        }
    }
}

impl From<io::Error> for RtnlError {
    fn from(error: io::Error) -> Self {
        Self::Socket(error.to_string())
    }
}

fn refusal(errno: i32, text: &str) -> String {
    let errno = io::Error::from_raw_os_error(errno);
    if text.is_empty() {
        errno.to_string()
    } else {
        format!("{text}: {errno}")
    }
}

impl Rtnl {
    /// Opens a socket in a namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be made; in words.
    pub fn open(netns: &Netns) -> Result<Self, String> {
        let socket = netns.netlink(NETLINK_ROUTE).map_err(|e| e.to_string())?;
        Self::new(socket).map_err(|e| e.to_string())
    }

    /// Takes a bound socket.
    ///
    /// # Errors
    /// When an option cannot be set, on kernels before 4.12.
    pub fn new(socket: Socket) -> io::Result<Self> {
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        // Without it the acknowledgement of a refusal repeats the whole request.
        socket.set_cap_ack(true)?;
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Lets the kernel take a dump's filters for what they are instead of ignoring them
    /// (`NETLINK_GET_STRICT_CHK`, Linux 4.20).
    ///
    /// # Errors
    /// When the kernel does not know the option.
    pub fn strict(&self) -> io::Result<()> {
        self.socket.set_netlink_get_strict_chk(true)
    }

    /// Performs one change.
    ///
    /// # Errors
    /// When it is refused for another reason than those that the request tolerates.
    pub fn change(&mut self, request: &Request) -> Result<(), RtnlError> {
        match self.change_all(std::slice::from_ref(request)).pop() {
            Some(result) => result,
            None => Err(RtnlError::Socket("no answer".to_owned())),
        }
    }

    /// Performs changes in order, whether or not earlier ones are refused; one result each.
    pub fn change_all(&mut self, requests: &[Request]) -> Vec<Result<(), RtnlError>> {
        let mut results = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH_MAX) {
            results.extend(self.change_batch(batch));
        }
        results
    }

    fn change_batch(&mut self, batch: &[Request]) -> Vec<Result<(), RtnlError>> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in batch {
            let flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
            self.append(&mut bytes, request.message.clone(), flags);
        }
        let mut results: Vec<Option<Result<(), RtnlError>>> = vec![None; batch.len()];
        if let Err(e) = self.exchange(&bytes, first, &mut results) {
            return batch.iter().map(|_| Err(e.clone())).collect();
        }
        let tolerated = |(result, request): (Option<Result<(), RtnlError>>, &Request)| match result
            .unwrap_or_else(|| Err(RtnlError::Socket("no answer".to_owned())))
        {
            Err(RtnlError::Refused { errno, .. }) if request.tolerate.contains(&errno) => Ok(()),
            result => result,
        };
        results.into_iter().zip(batch).map(tolerated).collect()
    }

    /// Sends requests numbered from `first` on and collects one answer for each.
    fn exchange(
        &mut self,
        bytes: &[u8],
        first: u32,
        results: &mut [Option<Result<(), RtnlError>>],
    ) -> Result<(), RtnlError> {
        self.socket.send(bytes, 0)?;
        let mut missing = results.len();
        while missing > 0 {
            for message in self.receive()? {
                let place = message.header.sequence_number.wrapping_sub(first) as usize;
                let Some(result) = results.get_mut(place) else {
                    // An answer to an earlier request that was given up.
                    continue;
                };
                if let Answer::Acknowledged(answer) = message.answer
                    && result.replace(answer).is_none()
                {
                    missing -= 1;
                }
            }
        }
        Ok(())
    }

    /// Asks for one object; `None` if there is no such object, which the kernel says by one of the
    /// error numbers `absent`.
    ///
    /// # Errors
    /// [`RtnlError`].
    pub fn get(
        &mut self,
        message: RouteNetlinkMessage,
        absent: &[i32],
    ) -> Result<Option<RouteNetlinkMessage>, RtnlError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, message, NLM_F_REQUEST);
        self.socket.send(&bytes, 0)?;
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.answer {
                    Answer::Object(object) => return Ok(Some(*object)),
                    Answer::Acknowledged(Err(RtnlError::Refused { errno, .. }))
                        if absent.contains(&errno) =>
                    {
                        return Ok(None);
                    }
                    Answer::Acknowledged(Err(e)) => return Err(e),
                    Answer::Acknowledged(Ok(())) | Answer::Done => return Ok(None),
                    Answer::Unreadable(why) => return Err(RtnlError::Socket(why)),
                }
            }
        }
    }

    /// Asks for all objects of a kind.
    ///
    /// # Errors
    /// [`RtnlError`], also when they never stand still.
    pub fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(objects) = self.dump_once(message.clone())? {
                return Ok(objects);
            }
        }
        Err(RtnlError::Socket(
            "the kernel's tables change too fast to be read".to_owned(),
        ))
    }

    /// `None` if something changed meanwhile and the answer may be incomplete.
    fn dump_once(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, RtnlError> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, message, NLM_F_REQUEST | NLM_F_DUMP);
        self.socket.send(&bytes, 0)?;
        let mut objects = Vec::new();
        let mut whole = true;
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.answer {
                    Answer::Object(object) => objects.push(*object),
                    Answer::Done | Answer::Acknowledged(Ok(())) => {
                        return Ok(whole.then_some(objects));
                    }
                    Answer::Acknowledged(Err(e)) => return Err(e),
                    // One foreign object with an attribute that we cannot read hides no other.
                    Answer::Unreadable(why) => tracing::warn!(why, "netlink object not understood"),
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let start = bytes.len();
        bytes.resize(start + aligned(packet.buffer_len()), 0);
        packet.serialize(&mut bytes[start..start + packet.buffer_len()]);
    }

    /// One datagram's messages.
    fn receive(&self) -> Result<Vec<Received>, RtnlError> {
        let mut buffer = Vec::with_capacity(DATAGRAM_MAX);
        loop {
            match self.socket.recv(&mut buffer, libc::MSG_TRUNC) {
                Ok(length) if length > DATAGRAM_MAX => {
                    return Err(RtnlError::Socket(format!(
                        "an answer of {length} bytes is longer than any should be"
                    )));
                }
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(parse(&buffer))
    }
}

struct Received {
    header: NetlinkHeader,
    answer: Answer,
}

enum Answer {
    Object(Box<RouteNetlinkMessage>),
    Acknowledged(Result<(), RtnlError>),
    Done,
    Unreadable(String),
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn parse(mut bytes: &[u8]) -> Vec<Received> {
    let mut messages = Vec::new();
    while let Some(length) = bytes.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        let Some(message) = bytes.get(..length).filter(|_| length >= HEADER_LENGTH) else {
            break;
        };
        messages.push(parse_one(message));
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
    }
    messages
}

fn parse_one(bytes: &[u8]) -> Received {
    let field = |at: usize| {
        bytes
            .get(at..at + 4)
            .and_then(|b| <[u8; 4]>::try_from(b).ok())
    };
    let sequence = field(8).map_or(0, u32::from_ne_bytes);
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
        Ok(message) => Received {
            header: message.header,
            answer: match message.payload {
                NetlinkPayload::InnerMessage(object) => Answer::Object(Box::new(object)),
                NetlinkPayload::Error(error) => {
                    let errno = error.raw_code().saturating_neg();
                    Answer::Acknowledged(if errno == 0 {
                        Ok(())
                    } else {
                        let text = kernels_words(&error.header);
                        Err(RtnlError::Refused { errno, text })
                    })
                }
                NetlinkPayload::Done(done) if done.code < 0 => {
                    Answer::Acknowledged(Err(RtnlError::Refused {
                        errno: done.code.saturating_neg(),
                        text: String::new(),
                    }))
                }
                NetlinkPayload::Done(_) => Answer::Done,
                other => Answer::Unreadable(format!("unexpected {other:?}")),
            },
        },
        Err(e) => {
            let mut header = NetlinkHeader::default();
            header.sequence_number = sequence;
            Received {
                header,
                answer: Answer::Unreadable(e.to_string()),
            }
        }
    }
}

/// What an acknowledgement says besides the number: behind the request's header come attributes
/// (`NETLINK_EXT_ACK`).
fn kernels_words(rest: &[u8]) -> String {
    let attributes = rest.get(HEADER_LENGTH..).unwrap_or_default();
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|attribute: &NlaBuffer<_>| attribute.kind() == ATTRIBUTE_TEXT)
        .map(|attribute| {
            let text = String::from_utf8_lossy(attribute.value());
            text.trim_end_matches('\0').to_owned()
        })
        .unwrap_or_default()
}
