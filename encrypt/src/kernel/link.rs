//! The netlink socket of XFRM. Blocking: the kernel performs a request while it is being sent.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_XFRM;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;
use weft_netns::Netns;
/// A request that failed: netlink says so in one way, whatever the request is about.
pub use weft_netns::rtnl::RtnlError as XfrmError;
use zeroize::Zeroizing;

use super::message::Message;

const HEADER: usize = 16;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`.
const INTERRUPTED: u16 = 0x10;
/// `NLM_F_CAPPED`: the refused request is not repeated.
const CAPPED: u16 = 0x100;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLMSGERR_ATTR_MSG`.
const ATTRIBUTE_TEXT: u16 = 1;
/// The kernel answers before `send` returns; waiting longer means that an answer was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest datagram of a dump.
const DATAGRAM_MAX: usize = 64 * 1024;
/// A dump during which something changed is taken again this often at most.
const DUMP_ATTEMPTS: usize = 4;

/// An XFRM socket in one network namespace.
#[derive(Debug)]
pub(super) struct Link {
    socket: Socket,
    sequence: u32,
}

/// What the kernel says in one message.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Link {
    pub(super) fn open(netns: &Netns) -> Result<Self, XfrmError> {
        let socket = netns.netlink(NETLINK_XFRM);
        let socket = socket.map_err(|e| XfrmError::Socket(e.to_string()))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        // Without it the acknowledgement of a refusal repeats the whole request, with its key.
        socket.set_cap_ack(true)?;
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Performs a change.
    pub(super) fn change(&mut self, message: &Message) -> Result<(), XfrmError> {
        self.send(message, REQUEST | ACK)?;
        let sequence = self.sequence;
        loop {
            let buffer = self.receive()?;
            for answer in answers(&buffer).filter(|answer| answer.sequence == sequence) {
                if answer.kind == ERROR {
                    return result(&answer);
                }
            }
        }
    }

    /// Performs a change; error numbers that mean that it is so already are none.
    pub(super) fn settle(&mut self, message: &Message, settled: &[i32]) -> Result<(), XfrmError> {
        match self.change(message) {
            Err(error) if error.errno().is_some_and(|errno| settled.contains(&errno)) => Ok(()),
            other => other,
        }
    }

    /// Asks for one object.
    pub(super) fn get<T>(
        &mut self,
        message: &Message,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, XfrmError> {
        self.send(message, REQUEST)?;
        let sequence = self.sequence;
        loop {
            let buffer = self.receive()?;
            for answer in answers(&buffer).filter(|answer| answer.sequence == sequence) {
                if answer.kind != ERROR {
                    return Ok(read(answer.body));
                }
                match result(&answer) {
                    Err(error) if error.errno() == Some(libc::ESRCH) => return Ok(None),
                    other => other?,
                }
            }
        }
    }

    /// Asks for all objects of a kind.
    pub(super) fn dump<T>(
        &mut self,
        kind: u16,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, XfrmError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(kind, &read)? {
                return Ok(found);
            }
        }
        let why = "the kernel's associations and policies change too fast to be read";
        Err(XfrmError::Socket(why.to_owned()))
    }

    /// None if something changed meanwhile.
    fn dump_once<T>(
        &mut self,
        kind: u16,
        read: &impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<Vec<T>>, XfrmError> {
        self.send(&Message::dump(kind), REQUEST | DUMP)?;
        let sequence = self.sequence;
        let (mut found, mut whole) = (Vec::new(), true);
        loop {
            let buffer = self.receive()?;
            for answer in answers(&buffer).filter(|answer| answer.sequence == sequence) {
                whole &= answer.flags & INTERRUPTED == 0;
                match answer.kind {
                    DONE => return Ok(whole.then_some(found)),
                    ERROR => result(&answer)?,
                    _ => found.extend(read(answer.body)),
                }
            }
        }
    }

    fn send(&mut self, message: &Message, flags: u16) -> Result<(), XfrmError> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = HEADER + message.body.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.extend((length as u32).to_ne_bytes());
        bytes.extend(message.kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend_from_slice(&message.body);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// One datagram. A dump of states has their keys, so it is erased.
    fn receive(&self) -> Result<Zeroizing<Vec<u8>>, XfrmError> {
        let mut buffer = Zeroizing::new(Vec::with_capacity(DATAGRAM_MAX));
        loop {
            match self.socket.recv(&mut *buffer, libc::MSG_TRUNC) {
                Ok(length) if length > DATAGRAM_MAX => {
                    let why = format!("an answer of {length} bytes is longer than any should be");
                    return Err(XfrmError::Socket(why));
                }
                Ok(_) => return Ok(buffer),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let word = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = word(0) as usize;
        let answer = Answer {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    })
}

/// What an acknowledgement says.
fn result(answer: &Answer<'_>) -> Result<(), XfrmError> {
    let code = answer
        .body
        .first_chunk()
        .map(|code| i32::from_ne_bytes(*code));
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(XfrmError::Refused {
            errno: code.saturating_neg(),
            text: kernels_words(answer),
        }),
        None => Err(XfrmError::Socket("an answer is cut short".to_owned())),
    }
}

/// Behind the code and the request's header come attributes (`NETLINK_EXT_ACK`).
fn kernels_words(answer: &Answer<'_>) -> String {
    if answer.flags & CAPPED == 0 {
        return String::new();
    }
    let mut rest = answer.body.get(4 + HEADER..).unwrap_or_default();
    while let Some([l0, l1, k0, k1]) = rest.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let Some(value) = rest.get(4..length) else {
            break;
        };
        if u16::from_ne_bytes([*k0, *k1]) == ATTRIBUTE_TEXT {
            let text = String::from_utf8_lossy(value);
            return text.trim_end_matches('\0').to_owned();
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    String::new()
}
