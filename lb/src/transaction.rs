//! Changes as elements and chains of one transaction.

use std::collections::BTreeMap;

use weft_netns::nft::{Batch, MapElement, Table, TableFlags};

use crate::chains::{self, Part};
use crate::classes::{Classes, Turnover};
use crate::idle::Idle;
use crate::layout::{self, Map};
use crate::plan::Op;

/// What the kernel carries out together, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) add_idles: Vec<Idle>,
    pub(crate) add_chains: Vec<Part>,
    pub(crate) delete: BTreeMap<Map, Vec<Vec<u8>>>,
    pub(crate) add: BTreeMap<Map, Vec<MapElement>>,
    pub(crate) delete_chains: Vec<Part>,
    pub(crate) delete_idles: Vec<Idle>,
}

/// What comes before the changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preface {
    /// Nothing.
    None,
    /// The table is claimed.
    Claim,
    /// The table is made anew, without services.
    Create {
        /// Whether there is one to delete first.
        exists: bool,
    },
}

impl Transaction {
    pub(crate) fn new<'a>(ops: impl IntoIterator<Item = &'a Op>) -> Self {
        let mut transaction = Self::default();
        for op in ops {
            transaction.push(op);
        }
        transaction
    }

    fn push(&mut self, op: &Op) {
        match *op {
            Op::AddClass(Turnover { class, affinity }) => {
                self.add_chains.extend(affinity.map(Part::Affinity));
                self.add_chains.push(Part::Class(class.class));
                self.add(Map::Classes, layout::class_element(class));
            }
            Op::RemoveClass(Turnover { class, affinity }) => {
                self.delete(Map::Classes, layout::class_element(class).key);
                self.delete_chains.push(Part::Class(class.class));
                self.delete_chains.extend(affinity.map(Part::Affinity));
            }
            Op::SetBackend {
                key,
                slot,
                old,
                new,
            } => {
                let map = Map::Backends(key.family());
                if old.is_some() {
                    self.delete(map, layout::slot_key(&key, slot));
                }
                if let Some(backend) = new {
                    self.add(map, layout::slot_element(&key, slot, &backend));
                }
            }
            Op::SetPick {
                key,
                slot,
                old,
                new,
            } => {
                let map = Map::Picks(key.family());
                if old.is_some() {
                    self.delete(map, layout::slot_key(&key, slot));
                }
                if let Some(number) = new {
                    self.add(map, layout::pick_element(&key, slot, number));
                }
            }
            Op::SetClass { key, old, new } => {
                let map = Map::Services(key.family());
                if old.is_some() {
                    self.delete(map, layout::service_key(&key));
                }
                if let Some(class) = new {
                    self.add(map, layout::service_element(&key, class.number));
                }
            }
            Op::AddIdle(idle) => self.add_idles.push(idle),
            Op::RemoveIdle(idle) => self.delete_idles.push(idle),
            Op::SetIdle {
                key,
                protocol,
                old,
                new,
            } => {
                let map = Map::Idles(key.family());
                if old.is_some() {
                    self.delete(map, layout::idle_key(&key, protocol));
                }
                if let Some(seconds) = new {
                    self.add(map, layout::idle_element(&key, Idle { protocol, seconds }));
                }
            }
        }
    }

    fn delete(&mut self, map: Map, key: Vec<u8>) {
        self.delete.entry(map).or_default().push(key);
    }

    fn add(&mut self, map: Map, element: MapElement) {
        self.add.entry(map).or_default().push(element);
    }

    /// The messages. `flags` are those with which the table is made or claimed.
    pub(crate) fn batch(&self, table: &str, flags: TableFlags, preface: Preface) -> Batch {
        let mut batch = Batch::new();
        let object = Table {
            name: table.to_owned(),
            flags,
            owner: None,
        };
        match preface {
            Preface::None => {}
            Preface::Claim => batch.add_table(&object),
            Preface::Create { exists } => create(&mut batch, &object, exists),
        }
        for idle in &self.add_idles {
            batch.add_timeout(&idle.object(table));
        }
        for part in &self.add_chains {
            for chain in part.chains(table) {
                batch.add_chain(&chain);
            }
            for rule in part.rules(table) {
                batch.add_rule(&rule);
            }
        }
        for (map, keys) in &self.delete {
            batch.delete_elements(table, map.name(), keys);
        }
        for (map, elements) in &self.add {
            batch.add_map_elements(table, map.name(), elements);
        }
        for part in &self.delete_chains {
            for chain in part.chains(table).iter().rev() {
                batch.delete_chain(table, &chain.name);
            }
        }
        for idle in &self.delete_idles {
            batch.delete_timeout(table, &idle.to_string());
        }
        batch
    }
}

fn create(batch: &mut Batch, table: &Table, exists: bool) {
    let name = &table.name;
    if exists {
        batch.delete_table(name);
    }
    batch.add_table(table);
    for chain in chains::chains(name) {
        batch.add_chain(&chain);
    }
    for map in Map::ALL {
        batch.add_map(&map.object(name));
    }
    for rule in chains::rules(name) {
        batch.add_rule(&rule);
    }
    let permanent: Vec<MapElement> = Classes::default()
        .numbered()
        .map(layout::class_element)
        .collect();
    batch.add_map_elements(name, Map::Classes.name(), &permanent);
}
