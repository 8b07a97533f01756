//! The netlink socket that commits transactions and reads objects back.

use super::batch::{Batch, FAMILY_INET, SUBSYSTEM, kind};
use super::map::{Map, MapElement, MapElements};
use super::object::{Chain, Elements, Object, Rule, Set, Table};
use super::timeout::{TYPE_TIMEOUT, Timeout};
use crate::Netns;
use crate::nfnetlink::attr::{AttrWriter, Attrs, Malformed};
use crate::nfnetlink::message::{Body, Messages};
use crate::nfnetlink::{Link, NftError, Query};

/// How often a dump is repeated when the ruleset changed meanwhile.
const DUMP_ATTEMPTS: usize = 4;

/// A netfilter netlink socket. It belongs to the network namespace in which it was opened, and
/// tables that it owns belong to it.
#[derive(Debug)]
pub struct NftSocket {
    link: Link,
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
        Ok(Self {
            link: Link::open()?,
        })
    }

    /// Opens a socket in another network namespace.
    ///
    /// # Errors
    /// As [`open`](Self::open), and when the namespace cannot be entered.
    pub fn open_in(netns: &Netns) -> Result<Self, NftError> {
        let link = Link::open_in(netns)?;
        Ok(Self { link })
    }

    /// The socket's netlink port, by which the kernel names the owner of a table.
    pub fn port(&self) -> u32 {
        self.link.port()
    }

    /// Carries out a transaction; one that changes nothing is not sent.
    ///
    /// # Errors
    /// [`NftError::Refused`] names the first request that failed; nothing was changed then.
    /// [`NftError::TooLarge`] when it is longer than the socket may send.
    pub fn commit(&mut self, batch: Batch) -> Result<(), NftError> {
        let what = "commit a transaction";
        if batch.is_empty() {
            return Ok(());
        }
        let first = self.link.next_sequence();
        let encoded = batch.encode(first)?;
        let count = u32::try_from(encoded.labels.len()).map_err(|_| NftError::Overlong)?;
        self.link.reserve(count);
        self.link.send(what, &encoded.bytes)?;
        // The kernel has committed or aborted; the answers are queued.
        loop {
            let len = self.link.receive(what)?;
            for message in Messages::new(self.link.datagram(len)) {
                let message = message.map_err(NftError::malformed(what))?;
                let index = message.sequence.wrapping_sub(first);
                // Others answer an earlier transaction, which was given up.
                let label = usize::try_from(index)
                    .ok()
                    .and_then(|i| encoded.labels.get(i));
                match (label, message.body) {
                    (Some(label), Body::Refused(refusal)) => {
                        self.link.drain();
                        return Err(NftError::refused(label, refusal));
                    }
                    (Some(_), Body::Ack) if index == count - 2 => return Ok(()),
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
            false,
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
        let found = self.objects(
            "read a table",
            kind::NEW_TABLE,
            kind::GET_TABLE,
            false,
            named,
        );
        Ok(absent_is_empty(found)?.pop())
    }

    /// The chains of a table.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn chains(&mut self, table: &str) -> Result<Vec<Chain>, NftError> {
        let named = |attrs: &mut AttrWriter| attrs.string(1, table);
        let found = self.objects("read chains", kind::NEW_CHAIN, kind::GET_CHAIN, true, named);
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
        let found = self.objects("read sets", kind::NEW_SET, kind::GET_SET, true, named);
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
        let found = self.objects("read rules", kind::NEW_RULE, kind::GET_RULE, true, named);
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
        let found = self.objects("read maps", kind::NEW_SET, kind::GET_SET, true, named);
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

    /// The flow time-outs of a table.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn timeouts(&mut self, table: &str) -> Result<Vec<Timeout>, NftError> {
        let named = |attrs: &mut AttrWriter| {
            attrs.string(1, table);
            attrs.u32(3, TYPE_TIMEOUT);
        };
        let (new, get) = (kind::NEW_OBJECT, kind::GET_OBJECT);
        absent_is_empty(self.objects("read flow time-outs", new, get, true, named))
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
            self.link.interrupted = false;
            let value = read(self)?;
            let after = self.generation()?;
            let stable = before == after && !self.link.interrupted;
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
        absent_is_empty(self.objects("read elements", new, get, true, named))
    }

    fn objects<T: Object>(
        &mut self,
        what: &str,
        new: u16,
        get: u16,
        dump: bool,
        content: impl FnOnce(&mut AttrWriter),
    ) -> Result<Vec<T>, NftError> {
        let mut found = Vec::new();
        self.query(what, get, dump, content, |kind, attrs| {
            if kind == new {
                found.push(T::read(attrs)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn query(
        &mut self,
        what: &str,
        kind: u16,
        dump: bool,
        content: impl FnOnce(&mut AttrWriter),
        answer: impl FnMut(u16, Attrs<'_>) -> Result<(), Malformed>,
    ) -> Result<(), NftError> {
        let query = Query {
            subsystem: SUBSYSTEM,
            kind,
            family: FAMILY_INET,
            dump,
        };
        self.ask(what, query, content, answer)
    }

    pub(super) fn ask(
        &mut self,
        what: &str,
        query: Query,
        content: impl FnOnce(&mut AttrWriter),
        answer: impl FnMut(u16, Attrs<'_>) -> Result<(), Malformed>,
    ) -> Result<(), NftError> {
        self.link.query(what, query, content, answer)
    }
}

/// What does not exist has no objects.
pub(super) fn absent_is_empty<T>(found: Result<Vec<T>, NftError>) -> Result<Vec<T>, NftError> {
    match found {
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Vec::new()),
        other => other,
    }
}
