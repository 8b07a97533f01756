//! Maps from keys to values or verdicts.

use super::expr::{Counter, DATA_VALUE, Expr, LIST_ELEM, Verdict, read_verdict, write_verdict};
use super::object::{KeyType, Object};
use super::timeout::TYPE_TIMEOUT;
use crate::nfnetlink::attr::{Attr, AttrWriter, Attrs, Malformed};

/// `NFT_SET_INTERVAL`.
const FLAG_INTERVAL: u32 = 0x4;
/// `NFT_SET_MAP`.
const FLAG_MAP: u32 = 0x8;
/// `NFT_SET_TIMEOUT`, `NFT_SET_EVAL`.
const FLAGS_LEARNED: u32 = 0x10 | 0x20;
/// `NFT_SET_OBJECT`.
const FLAG_OBJECT: u32 = 0x40;
/// `NFT_SET_CONCAT`.
const FLAG_CONCAT: u32 = 0x80;
/// `NFT_DATA_VERDICT`.
const TYPE_VERDICT: u32 = 0xffff_ff00;
/// `NFTA_SET_EXPR`.
const SET_EXPR: u16 = 17;
/// `NFTA_SET_ELEM_EXPR`.
const ELEM_EXPR: u16 = 7;
/// `NFTA_SET_OBJ_TYPE`.
const OBJECT_TYPE: u16 = 15;
/// `NFTA_SET_ELEM_OBJREF`.
const OBJECT: u16 = 9;
/// `NFTA_SET_ELEM_KEY_END`.
const KEY_END: u16 = 10;
/// Bytes of a register slot.
const SLOT_LEN: u32 = 4;

/// A map. Only one with learned elements has a limit on its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// What its keys are called by `nft list`.
    pub key_type: KeyType,
    /// Bytes of a key. One of more than a value side by side has each padded to four bytes.
    pub key_len: u32,
    /// Whether the key is values side by side.
    pub concatenated: bool,
    /// What keys map to.
    pub target: MapTarget,
}

/// What keys map to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapTarget {
    /// Nothing: it is a set.
    Nothing,
    /// Nothing: it is a set, each key of which counts the packets that find it. Linux 5.7 and later.
    Counted,
    /// The end of a range that starts with the key: it is a set of ranges, of values side by side
    /// each of which has to be in its own part. No two overlap. Linux 5.6 and later.
    RangeEnd,
    /// Bytes for registers.
    Value {
        /// What they are called by `nft list`.
        kind: KeyType,
        /// How many.
        len: u32,
    },
    /// Bytes for registers. The elements are added by rules, and expire.
    Learned {
        /// What they are called by `nft list`.
        kind: KeyType,
        /// How many bytes.
        len: u32,
        /// Most elements.
        size: u32,
    },
    /// What to do with the packet.
    Verdict,
    /// Names of flow time-outs ([`Timeout`](super::Timeout)).
    Timeout,
}

/// A key of a map with what it maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapElement {
    /// The key.
    pub key: Vec<u8>,
    /// What it maps to.
    pub data: MapData,
}

impl MapElement {
    /// What tells it from others.
    pub(super) fn without_value(&self) -> Self {
        let data = match &self.data {
            MapData::RangeEnd(end) => MapData::RangeEnd(end.clone()),
            _ => MapData::Other,
        };
        let key = self.key.clone();
        Self { key, data }
    }
}

/// What a key maps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapData {
    /// Bytes.
    Value(Vec<u8>),
    /// What to do with the packet.
    Verdict(Verdict),
    /// The last key of the range that starts with the key.
    RangeEnd(Vec<u8>),
    /// Nothing, and so many packets have found the key.
    Counter(Counter),
    /// The object of that name.
    Object(String),
    /// Nothing, or what this module does not speak of.
    Other,
}

impl Object for Map {
    fn write(&self, attrs: &mut AttrWriter) {
        attrs.string(1, &self.table);
        attrs.string(2, &self.name);
        let (target_flag, target, size) = match self.target {
            MapTarget::Nothing | MapTarget::Counted => (0, None, None),
            MapTarget::RangeEnd => (FLAG_INTERVAL, None, None),
            MapTarget::Value { kind, len } => (FLAG_MAP, Some((kind.0, len)), None),
            MapTarget::Learned { kind, len, size } => {
                (FLAG_MAP | FLAGS_LEARNED, Some((kind.0, len)), Some(size))
            }
            MapTarget::Verdict => (FLAG_MAP, Some((TYPE_VERDICT, 0)), None),
            MapTarget::Timeout => (FLAG_OBJECT, None, None),
        };
        let concat_flag = if self.concatenated { FLAG_CONCAT } else { 0 };
        attrs.u32(3, target_flag | concat_flag);
        attrs.u32(4, self.key_type.0);
        attrs.u32(5, self.key_len);
        if let Some((kind, len)) = target {
            attrs.u32(6, kind);
            attrs.u32(7, len);
        }
        if self.target == MapTarget::Timeout {
            attrs.u32(OBJECT_TYPE, TYPE_TIMEOUT);
        }
        let fields = match self.target {
            _ if !self.concatenated => Vec::new(),
            MapTarget::RangeEnd => self.key_type.field_lens(),
            // Every slot as a field of its own: what the kernel needs to know is their sum.
            _ => vec![SLOT_LEN; (self.key_len / SLOT_LEN) as usize],
        };
        if size.is_some() || !fields.is_empty() {
            attrs.nested(9, |description| describe(description, size, &fields));
        }
        // An id within the transaction; required, though rules find the map by name.
        attrs.u32(10, 1);
        if self.target == MapTarget::Counted {
            Expr::Counter(Counter::default()).write_as(SET_EXPR, attrs);
        }
    }

    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let (mut table, mut name) = (String::new(), String::new());
        let (mut flags, mut key_type, mut key_len) = (0, 0, 0);
        let (mut data_type, mut data_len, mut size) = (0, 0, None);
        let mut counted = false;
        let mut object_type = 0;
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => table = attr.string(),
                2 => name = attr.string(),
                3 => flags = attr.u32()?,
                4 => key_type = attr.u32()?,
                5 => key_len = attr.u32()?,
                6 => data_type = attr.u32()?,
                7 => data_len = attr.u32()?,
                9 => size = attr.nested().find(1)?.map(|size| size.u32()).transpose()?,
                SET_EXPR => counted = matches!(Expr::read(attr)?, Expr::Counter(_)),
                OBJECT_TYPE => object_type = attr.u32()?,
                _ => {}
            }
        }
        let target = match (flags & FLAG_MAP, data_type) {
            (0, _) if counted => MapTarget::Counted,
            (0, _) if flags & FLAG_INTERVAL != 0 => MapTarget::RangeEnd,
            (0, _) if object_type == TYPE_TIMEOUT => MapTarget::Timeout,
            (0, _) => MapTarget::Nothing,
            (_, TYPE_VERDICT) => MapTarget::Verdict,
            _ if flags & FLAGS_LEARNED != 0 => MapTarget::Learned {
                kind: KeyType(data_type),
                len: data_len,
                size: size.unwrap_or(0),
            },
            _ => MapTarget::Value {
                kind: KeyType(data_type),
                len: data_len,
            },
        };
        Ok(Self {
            table,
            name,
            key_type: KeyType(key_type),
            key_len,
            concatenated: flags & FLAG_CONCAT != 0,
            target,
        })
    }
}

/// `NFTA_SET_DESC`: most elements, and lengths of the fields of a key.
fn describe(description: &mut AttrWriter, size: Option<u32>, fields: &[u32]) {
    if let Some(size) = size {
        description.u32(1, size);
    }
    if !fields.is_empty() {
        description.nested(2, |list| {
            for len in fields {
                list.nested(LIST_ELEM, |field| field.u32(1, *len));
            }
        });
    }
}

/// Elements of a map, as they travel in messages of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MapElements {
    pub(super) table: String,
    pub(super) map: String,
    pub(super) elements: Vec<MapElement>,
}

impl Object for MapElements {
    fn write(&self, attrs: &mut AttrWriter) {
        attrs.string(1, &self.table);
        attrs.string(2, &self.map);
        attrs.nested(3, |list| {
            for element in &self.elements {
                list.nested(LIST_ELEM, |elem| {
                    elem.nested(1, |key| key.bytes(DATA_VALUE, &element.key));
                    match &element.data {
                        MapData::Value(value) => {
                            elem.nested(2, |data| data.bytes(DATA_VALUE, value));
                        }
                        MapData::Verdict(verdict) => {
                            elem.nested(2, |data| write_verdict(data, verdict));
                        }
                        MapData::RangeEnd(end) => {
                            elem.nested(KEY_END, |data| data.bytes(DATA_VALUE, end));
                        }
                        MapData::Counter(counter) => {
                            Expr::Counter(*counter).write_as(ELEM_EXPR, elem);
                        }
                        MapData::Object(name) => elem.string(OBJECT, name),
                        MapData::Other => {}
                    }
                });
            }
        });
    }

    fn read(attrs: Attrs<'_>) -> Result<Self, Malformed> {
        let (mut table, mut map) = (String::new(), String::new());
        let mut elements = Vec::new();
        for attr in attrs {
            let attr = attr?;
            match attr.kind {
                1 => table = attr.string(),
                2 => map = attr.string(),
                3 => {
                    for elem in attr.nested() {
                        elements.extend(read_element(elem?)?);
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            table,
            map,
            elements,
        })
    }
}

/// None for a map's catch-all, which has no key.
fn read_element(elem: Attr<'_>) -> Result<Option<MapElement>, Malformed> {
    let Some(key) = elem.nested().find(1)? else {
        return Ok(None);
    };
    let key = key.nested().find(DATA_VALUE)?.ok_or(Malformed)?;
    let data = match (elem.nested().find(2)?, elem.nested().find(KEY_END)?) {
        (None, None) => match elem.nested().find(OBJECT)? {
            Some(name) => MapData::Object(name.string()),
            None => read_counter(elem)?.map_or(MapData::Other, MapData::Counter),
        },
        (None, Some(end)) => {
            let end = end.nested().find(DATA_VALUE)?.ok_or(Malformed)?;
            MapData::RangeEnd(end.value.to_vec())
        }
        (Some(data), _) => match data.nested().find(DATA_VALUE)? {
            Some(value) => MapData::Value(value.value.to_vec()),
            None => read_verdict(data)?.map_or(MapData::Other, MapData::Verdict),
        },
    };
    Ok(Some(MapElement {
        key: key.value.to_vec(),
        data,
    }))
}

fn read_counter(elem: Attr<'_>) -> Result<Option<Counter>, Malformed> {
    let expr = elem.nested().find(ELEM_EXPR)?;
    Ok(match expr.map(Expr::read).transpose()? {
        Some(Expr::Counter(counter)) => Some(counter),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Object>(object: &T) -> T {
        let mut writer = AttrWriter::default();
        object.write(&mut writer);
        let bytes = writer.finish().unwrap();
        T::read(Attrs::new(&bytes)).unwrap()
    }

    #[test]
    fn maps_and_their_elements_read_as_they_were_written() {
        let value = MapTarget::Value {
            kind: KeyType::CLASS_ID,
            len: 4,
        };
        for target in [
            MapTarget::Nothing,
            MapTarget::Counted,
            MapTarget::RangeEnd,
            value,
            MapTarget::Verdict,
            MapTarget::Timeout,
        ] {
            let map = Map {
                table: "weft".into(),
                name: "m".into(),
                key_type: KeyType::concat(&[KeyType::PROTOCOL, KeyType::PORT]),
                key_len: 8,
                concatenated: target != MapTarget::Verdict,
                target,
            };
            assert_eq!(round_trip(&map), map);
        }
        let datas = [
            MapData::Value(vec![1; 8]),
            MapData::Verdict(Verdict::Goto("c".into())),
            MapData::RangeEnd(vec![9; 4]),
            MapData::Counter(Counter {
                packets: 3,
                bytes: 1 << 40,
            }),
            MapData::Object("udp-300s".into()),
            MapData::Other,
        ];
        let elements = MapElements {
            table: "weft".into(),
            map: "m".into(),
            elements: (0..)
                .zip(datas)
                .map(|(i, data)| MapElement {
                    key: vec![i; 4],
                    data,
                })
                .collect(),
        };
        assert_eq!(round_trip(&elements), elements);
    }

    #[test]
    fn a_concatenated_type_has_six_bits_for_each_field() {
        let port = KeyType::concat(&[KeyType::IPV4_ADDR, KeyType::PROTOCOL, KeyType::PORT]);
        assert_eq!(port.0, 7 << 12 | 12 << 6 | 13);
        assert_eq!(port.field_lens(), [4, 1, 2]);
        let single = KeyType::concat(&[KeyType::IPV6_ADDR]);
        assert_eq!(single.field_lens(), [16]);
    }
}
