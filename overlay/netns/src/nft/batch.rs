//! Changes collected into one transaction.

use super::map::{Map, MapElement, MapElements};
use super::object::{Chain, Elements, Object, Rule, Set, Table};
use super::timeout::{TYPE_TIMEOUT, Timeout};
use crate::nfnetlink::NftError;
use crate::nfnetlink::attr::AttrWriter;
use crate::nfnetlink::message::{ACK, NFGENMSG_LEN, REQUEST, request};

/// `NFPROTO_INET`: both IPv4 and IPv6.
pub(super) const FAMILY_INET: u8 = 1;
/// `nfgenmsg` of a request about objects of that family.
const INET: [u8; NFGENMSG_LEN] = [FAMILY_INET, 0, 0, 0];
/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `enum nf_tables_msg_types`.
pub(super) mod kind {
    pub(in super::super) const NEW_TABLE: u16 = 0;
    pub(in super::super) const GET_TABLE: u16 = 1;
    pub(in super::super) const DEL_TABLE: u16 = 2;
    pub(in super::super) const NEW_CHAIN: u16 = 3;
    pub(in super::super) const GET_CHAIN: u16 = 4;
    pub(in super::super) const DEL_CHAIN: u16 = 5;
    pub(in super::super) const NEW_RULE: u16 = 6;
    pub(in super::super) const GET_RULE: u16 = 7;
    pub(in super::super) const DEL_RULE: u16 = 8;
    pub(in super::super) const NEW_SET: u16 = 9;
    pub(in super::super) const GET_SET: u16 = 10;
    pub(in super::super) const NEW_ELEMENTS: u16 = 12;
    pub(in super::super) const GET_ELEMENTS: u16 = 13;
    pub(in super::super) const DEL_ELEMENTS: u16 = 14;
    pub(in super::super) const NEW_GENERATION: u16 = 15;
    pub(in super::super) const GET_GENERATION: u16 = 16;
    pub(in super::super) const NEW_OBJECT: u16 = 18;
    pub(in super::super) const GET_OBJECT: u16 = 19;
    pub(in super::super) const DEL_OBJECT: u16 = 20;
}
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// Offset of `nlmsg_flags` in a message.
const FLAGS_OFFSET: usize = 6;
/// How the request for a time-out is called, first of all.
const ADD_TIMEOUT: &str = "add a flow time-out";
/// Offset of `nlmsg_seq` in a message.
const SEQUENCE_OFFSET: usize = 8;
/// Elements of one message. Their list has a 16-bit length, and an element with a key of 16 bytes
/// takes 28.
const ELEMENTS_PER_MESSAGE: usize = 1000;
/// Elements of a map in one message: with a key of 28 bytes and data of 20 one takes 68.
const MAP_ELEMENTS_PER_MESSAGE: usize = 500;

/// Changes that the kernel carries out together or not at all, in this order.
#[derive(Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where each message starts, with what it is about.
    messages: Vec<(usize, String)>,
    overlong: bool,
}

/// A transaction ready to be sent.
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    /// What each message is about, by its sequence number's distance from the first. The last but
    /// one is acknowledged: the end follows it.
    pub(super) labels: Vec<String>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty transaction.
    pub fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            messages: Vec::new(),
            overlong: false,
        };
        batch.bound(BATCH_BEGIN, REQUEST, "begin a transaction");
        batch
    }

    /// Creates a table, or claims it if it is there with the same flags.
    pub fn add_table(&mut self, table: &Table) {
        let label = format!("add table {}", table.name);
        self.object(label, kind::NEW_TABLE, CREATE, table);
    }

    /// Deletes a table with all that is in it.
    pub fn delete_table(&mut self, name: &str) {
        let label = format!("delete table {name}");
        self.push(label, kind::DEL_TABLE, 0, |attrs| attrs.string(1, name));
    }

    /// Creates a chain.
    pub fn add_chain(&mut self, chain: &Chain) {
        let label = format!("add chain {} to table {}", chain.name, chain.table);
        self.object(label, kind::NEW_CHAIN, CREATE, chain);
    }

    /// Deletes a chain with its rules. The transaction fails when something still leads there.
    pub fn delete_chain(&mut self, table: &str, chain: &str) {
        let label = format!("delete the rules of chain {chain} of table {table}");
        self.push(label, kind::DEL_RULE, 0, |attrs| {
            attrs.string(1, table);
            attrs.string(2, chain);
        });
        let label = format!("delete chain {chain} of table {table}");
        self.push(label, kind::DEL_CHAIN, 0, |attrs| {
            attrs.string(1, table);
            attrs.string(3, chain);
        });
    }

    /// Creates a set.
    pub fn add_set(&mut self, set: &Set) {
        let label = format!("add set {} to table {}", set.name, set.table);
        self.object(label, kind::NEW_SET, CREATE, set);
    }

    /// Appends a rule to its chain. Chain and sets may come from the same transaction.
    pub fn add_rule(&mut self, rule: &Rule) {
        let label = format!("add a rule to chain {} of table {}", rule.chain, rule.table);
        self.object(label, kind::NEW_RULE, CREATE | APPEND, rule);
    }

    /// Adds keys to a set; those that are there already stay.
    pub fn add_elements(&mut self, table: &str, set: &str, keys: &[Vec<u8>]) {
        let label = format!("add elements to set {set} of table {table}");
        for elements in spread(table, set, keys) {
            self.object(label.clone(), kind::NEW_ELEMENTS, CREATE, &elements);
        }
    }

    /// Deletes keys from a set. One that is not there fails the transaction.
    pub fn delete_elements(&mut self, table: &str, set: &str, keys: &[Vec<u8>]) {
        let label = format!("delete elements from set {set} of table {table}");
        for elements in spread(table, set, keys) {
            self.object(label.clone(), kind::DEL_ELEMENTS, 0, &elements);
        }
    }

    /// Creates an object with a flow time-out.
    pub fn add_timeout(&mut self, timeout: &Timeout) {
        let label = format!("{ADD_TIMEOUT} {} to table {}", timeout.name, timeout.table);
        self.object(label, kind::NEW_OBJECT, CREATE, timeout);
    }

    /// Whether it was a time-out that a transaction failed over as unknown to the kernel.
    pub fn lacks_timeouts(error: &NftError) -> bool {
        let NftError::Refused { what, refusal, .. } = error else {
            return false;
        };
        what.starts_with(ADD_TIMEOUT) && matches!(refusal.errno, libc::ENOENT | libc::EOPNOTSUPP)
    }

    /// Deletes such an object; flows that have it go by the sysctls then. The transaction fails when
    /// a map still leads there.
    pub fn delete_timeout(&mut self, table: &str, name: &str) {
        let label = format!("delete flow time-out {name} of table {table}");
        self.push(label, kind::DEL_OBJECT, 0, |attrs| {
            attrs.string(1, table);
            attrs.string(2, name);
            attrs.u32(3, TYPE_TIMEOUT);
        });
    }

    /// Creates a map.
    pub fn add_map(&mut self, map: &Map) {
        let label = format!("add map {} to table {}", map.name, map.table);
        self.object(label, kind::NEW_SET, CREATE, map);
    }

    /// Adds elements to a map. One whose key is there already with other data fails the
    /// transaction, unless that was deleted earlier in it.
    pub fn add_map_elements(&mut self, table: &str, map: &str, elements: &[MapElement]) {
        let label = format!("add elements to map {map} of table {table}");
        for elements in elements.chunks(MAP_ELEMENTS_PER_MESSAGE) {
            let elements = MapElements {
                table: table.to_owned(),
                map: map.to_owned(),
                elements: elements.to_vec(),
            };
            self.object(label.clone(), kind::NEW_ELEMENTS, CREATE, &elements);
        }
    }

    /// Deletes elements from a map by their keys and, in a set of ranges, ends. One that is not
    /// there fails the transaction.
    pub fn delete_map_elements(&mut self, table: &str, map: &str, elements: &[MapElement]) {
        let label = format!("delete elements from map {map} of table {table}");
        for elements in elements.chunks(MAP_ELEMENTS_PER_MESSAGE) {
            let elements = MapElements {
                table: table.to_owned(),
                map: map.to_owned(),
                elements: elements.iter().map(MapElement::without_value).collect(),
            };
            self.object(label.clone(), kind::DEL_ELEMENTS, 0, &elements);
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }

    /// The bytes of one datagram, with sequence numbers from `first` on. Only the last change asks
    /// for an acknowledgement, which then speaks for all: the kernel answers once it has committed
    /// or aborted. (The end of a transaction is acknowledged from Linux 6.10 on only.)
    pub(super) fn encode(mut self, first: u32) -> Result<Encoded, NftError> {
        if self.overlong {
            return Err(NftError::Overlong);
        }
        if let Some((start, _)) = self.messages.last() {
            let field = start + FLAGS_OFFSET;
            self.bytes[field] |= ACK.to_ne_bytes()[0];
            self.bytes[field + 1] |= ACK.to_ne_bytes()[1];
        }
        self.bound(BATCH_END, REQUEST, "commit the transaction");
        let mut sequence = first;
        for (start, _) in &self.messages {
            let field = start + SEQUENCE_OFFSET;
            self.bytes[field..field + 4].copy_from_slice(&sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
        }
        let labels = self.messages.into_iter().map(|(_, label)| label).collect();
        Ok(Encoded {
            bytes: self.bytes,
            labels,
        })
    }

    fn object(&mut self, label: String, kind: u16, flags: u16, object: &impl Object) {
        self.push(label, kind, flags, |attrs| object.write(attrs));
    }

    fn push(
        &mut self,
        label: String,
        kind: u16,
        flags: u16,
        content: impl FnOnce(&mut AttrWriter),
    ) {
        let kind = SUBSYSTEM << 8 | kind;
        match request(kind, REQUEST | flags, 0, INET, content) {
            Some(message) => {
                self.messages.push((self.bytes.len(), label));
                self.bytes.extend(message);
            }
            None => self.overlong = true,
        }
    }

    /// Begin or end: no family, and the subsystem in place of the resource id.
    fn bound(&mut self, kind: u16, flags: u16, label: &str) {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        let message = request(kind, flags, 0, [0, 0, high, low], |_| {});
        self.messages.push((self.bytes.len(), label.to_owned()));
        self.bytes.extend(message.unwrap_or_default());
    }
}

/// The keys in as many messages as they need.
fn spread(table: &str, set: &str, keys: &[Vec<u8>]) -> impl Iterator<Item = Elements> {
    keys.chunks(ELEMENTS_PER_MESSAGE).map(move |keys| Elements {
        table: table.to_owned(),
        set: set.to_owned(),
        keys: keys.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfnetlink::message::Messages;

    fn sequences(bytes: &[u8]) -> Vec<u32> {
        Messages::new(bytes)
            .map(|message| message.unwrap().sequence)
            .collect()
    }

    #[test]
    fn messages_are_numbered_in_order_and_labelled() {
        let mut batch = Batch::new();
        assert!(batch.is_empty());
        batch.delete_table("weft");
        assert!(!batch.is_empty());
        let encoded = batch.encode(40).unwrap();
        assert_eq!(sequences(&encoded.bytes), [40, 41, 42]);
        assert_eq!(encoded.labels[1], "delete table weft");
    }

    #[test]
    fn the_last_change_asks_for_the_answer() {
        let mut batch = Batch::new();
        batch.delete_table("one");
        batch.delete_table("two");
        let starts: Vec<usize> = batch.messages.iter().map(|(start, _)| *start).collect();
        let bytes = batch.encode(1).unwrap().bytes;
        let asks = |start: &usize| bytes[start + FLAGS_OFFSET] & 4 != 0;
        let asking: Vec<bool> = starts.iter().map(asks).collect();
        assert_eq!(asking, [false, false, true]);
        let end = bytes.len() - 20;
        assert!(!asks(&end), "the end of a transaction");
    }

    #[test]
    fn many_elements_are_spread_over_messages() {
        let keys: Vec<Vec<u8>> = (0..2500u32).map(|i| i.to_be_bytes().repeat(4)).collect();
        let mut batch = Batch::new();
        batch.add_elements("weft", "members6", &keys);
        let encoded = batch.encode(1).unwrap();
        assert_eq!(encoded.labels.len(), 2 + 3);
    }

    #[test]
    fn what_does_not_fit_is_an_error_instead_of_a_cut() {
        let mut batch = Batch::new();
        batch.delete_table(&"x".repeat(70_000));
        assert!(matches!(batch.encode(1), Err(NftError::Overlong)));
    }
}
