//! The netlink socket that commits transactions and reads objects back.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::attr::{AttrWriter, Attrs, Malformed};
use super::batch::{ACK, Batch, DUMP, INET, REQUEST, SUBSYSTEM, kind, request};
use super::error::NftError;
use super::map::{Map, MapElement, MapElements};
use super::message::{Body, Messages};
use super::object::{Chain, Elements, Object, Rule, Set, Table};
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
/// How often a dump is repeated when the ruleset changed meanwhile.
const DUMP_ATTEMPTS: usize = 4;

/// A netfilter netlink socket. It belongs to the network namespace in which it was opened, and
/// tables that it owns belong to it.
#[derive(Debug)]
pub struct NftSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    /// Whether a dump since this was last cleared met a change.
    interrupted: bool,
}

/// What was read, and whether it is of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// What was read.
    pub value: T,
    /// Whether no transaction of anybody's in the namespace came between. Otherwise objects that
    /// did not change are still right, and those that changed may be missing.
    pub stable: bool,
}

impl NftSocket {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NftError::Open`], when the kernel has no netfilter netlink among others.
    pub fn open() -> Result<Self, NftError> {
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
    pub fn open_in(netns: &Netns) -> Result<Self, NftError> {
        netns
            .run(Self::open)
            .map_err(|error| NftError::Open(io::Error::other(error)))?
    }

    /// The socket's netlink port, by which the kernel names the owner of a table.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Carries out a transaction.
    ///
    /// # Errors
    /// [`NftError::Refused`] names the first request that failed; nothing was changed then.
    /// [`NftError::TooLarge`] when it is longer than the socket may send.
    pub fn commit(&mut self, batch: Batch) -> Result<(), NftError> {
        let what = "commit a transaction";
        let first = self.sequence.wrapping_add(1);
        let encoded = batch.encode(first)?;
        let count = u32::try_from(encoded.labels.len()).map_err(|_| NftError::Overlong)?;
        self.sequence = self.sequence.wrapping_add(count);
        self.send(what, &encoded.bytes)?;
        // The kernel has committed or aborted; the answers are queued.
        loop {
            let len = self.receive(what)?;
            for message in Messages::new(&self.buffer[..len]) {
                let message = message.map_err(NftError::malformed(what))?;
                let index = message.sequence.wrapping_sub(first);
                // Others answer an earlier transaction, which was given up.
                let label = usize::try_from(index)
                    .ok()
                    .and_then(|i| encoded.labels.get(i));
                match (label, message.body) {
                    (Some(label), Body::Refused(refusal)) => {
                        self.drain();
                        return Err(NftError::refused(label, refusal));
                    }
                    (Some(_), Body::Ack) if index == count - 1 => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// The ruleset's generation: every transaction in the namespace, of whoever, advances it.
    ///
    /// # Errors
    /// [`NftError`]; refused without the privilege or without nf_tables.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let what = "read the ruleset's generation";
        let mut generation = None;
        self.query(
            what,
            kind::GET_GENERATION,
            0,
            |_| {},
            |kind, attrs| {
                if kind == kind::NEW_GENERATION {
                    generation = attrs.find(1)?.map(|attr| attr.u32()).transpose()?;
                }
                Ok(())
            },
        )?;
        generation.ok_or_else(|| NftError::NoAnswer {
            what: what.to_owned(),
        })
    }

    /// A table by its name.
    ///
    /// # Errors
    /// [`NftError`], but not for a table that does not exist.
    pub fn table(&mut self, name: &str) -> Result<Option<Table>, NftError> {
        let named = |attrs: &mut AttrWriter| attrs.string(1, name);
        let found = self.objects("read a table", kind::NEW_TABLE, kind::GET_TABLE, 0, named);
        Ok(absent_is_empty(found)?.pop())
    }

    /// The chains of a table.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn chains(&mut self, table: &str) -> Result<Vec<Chain>, NftError> {
        let named = |attrs: &mut AttrWriter| attrs.string(1, table);
        let found = self.objects("read chains", kind::NEW_CHAIN, kind::GET_CHAIN, DUMP, named);
        // This dump knows no filter.
        Ok(absent_is_empty::<Chain>(found)?
            .into_iter()
            .filter(|c| c.table == table)
            .collect())
    }

    /// The sets of a table.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn sets(&mut self, table: &str) -> Result<Vec<Set>, NftError> {
        let named = |attrs: &mut AttrWriter| attrs.string(1, table);
        let found = self.objects("read sets", kind::NEW_SET, kind::GET_SET, DUMP, named);
        Ok(absent_is_empty::<Set>(found)?
            .into_iter()
            .filter(|set| set.table == table)
            .collect())
    }

    /// The rules of a table, in order within each chain.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn rules(&mut self, table: &str) -> Result<Vec<Rule>, NftError> {
        let named = |attrs: &mut AttrWriter| attrs.string(1, table);
        let found = self.objects("read rules", kind::NEW_RULE, kind::GET_RULE, DUMP, named);
        Ok(absent_is_empty::<Rule>(found)?
            .into_iter()
            .filter(|r| r.table == table)
            .collect())
    }

    /// The keys of a set.
    ///
    /// # Errors
    /// [`NftError`], but not for a set that does not exist.
    pub fn elements(&mut self, table: &str, set: &str) -> Result<Vec<Vec<u8>>, NftError> {
        let found = self.element_messages::<Elements>(table, set)?;
        Ok(found.into_iter().flat_map(|e| e.keys).collect())
    }

    /// The maps of a table, and its sets as maps to nothing.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn maps(&mut self, table: &str) -> Result<Vec<Map>, NftError> {
        let named = |attrs: &mut AttrWriter| attrs.string(1, table);
        let found = self.objects("read maps", kind::NEW_SET, kind::GET_SET, DUMP, named);
        Ok(absent_is_empty::<Map>(found)?
            .into_iter()
            .filter(|map| map.table == table)
            .collect())
    }

    /// The elements of a map.
    ///
    /// # Errors
    /// [`NftError`], but not for a map that does not exist.
    pub fn map_elements(&mut self, table: &str, map: &str) -> Result<Vec<MapElement>, NftError> {
        let found = self.element_messages::<MapElements>(table, map)?;
        Ok(found.into_iter().flat_map(|e| e.elements).collect())
    }

    /// Reads several things as of one moment: again, a few times, when the ruleset changed
    /// meanwhile.
    ///
    /// # Errors
    /// The reader's.
    pub fn consistent<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, NftError>,
    ) -> Result<Reading<T>, NftError> {
        let mut before = self.generation()?;
        let mut attempt = 1;
        loop {
            self.interrupted = false;
            let value = read(self)?;
            let after = self.generation()?;
            let stable = before == after && !self.interrupted;
            if stable || attempt == DUMP_ATTEMPTS {
                return Ok(Reading { value, stable });
            }
            before = after;
            attempt += 1;
        }
    }

    fn element_messages<T: Object>(&mut self, table: &str, set: &str) -> Result<Vec<T>, NftError> {
        let named = |attrs: &mut AttrWriter| {
            attrs.string(1, table);
            attrs.string(2, set);
        };
        let (new, get) = (kind::NEW_ELEMENTS, kind::GET_ELEMENTS);
        absent_is_empty(self.objects("read elements", new, get, DUMP, named))
    }

    fn objects<T: Object>(
        &mut self,
        what: &str,
        new: u16,
        get: u16,
        flags: u16,
        content: impl FnOnce(&mut AttrWriter),
    ) -> Result<Vec<T>, NftError> {
        let mut found = Vec::new();
        self.query(what, get, flags, content, |kind, attrs| {
            if kind == new {
                found.push(T::read(attrs)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// One request and all its answers: up to the end of a dump, or else up to the acknowledgement.
    fn query(
        &mut self,
        what: &str,
        get: u16,
        flags: u16,
        content: impl FnOnce(&mut AttrWriter),
        mut answer: impl FnMut(u16, Attrs<'_>) -> Result<(), Malformed>,
    ) -> Result<(), NftError> {
        self.sequence = self.sequence.wrapping_add(1);
        let flags = if flags == DUMP {
            REQUEST | DUMP
        } else {
            REQUEST | ACK
        };
        let bytes = request(SUBSYSTEM << 8 | get, flags, self.sequence, INET, content)
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
                        if kind >> 8 == SUBSYSTEM && count < OBJECTS_MAX =>
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

    fn send(&self, what: &str, bytes: &[u8]) -> Result<(), NftError> {
        match self.socket.send(bytes, 0) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                Err(NftError::TooLarge { bytes: bytes.len() })
            }
            Err(error) => Err(NftError::io(what)(error)),
        }
    }

    /// Reads one datagram into the buffer. Only the kernel can send to a connected netlink socket.
    fn receive(&mut self, what: &str) -> Result<usize, NftError> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(len) if len <= self.buffer.len() => return Ok(len),
                Ok(_) => return Err(NftError::malformed(what)(Malformed)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
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
    fn drain(&mut self) {
        while self
            .socket
            .recv(&mut &mut self.buffer[..], libc::MSG_DONTWAIT)
            .is_ok()
        {}
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

/// What does not exist has no objects.
fn absent_is_empty<T>(found: Result<Vec<T>, NftError>) -> Result<Vec<T>, NftError> {
    match found {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}
