use std::collections::BTreeMap;

use weft_netns::nft::{Batch, Counter, MapData, MapElement, TableFlags};

use super::layout::{Layout, SETS, Set, set_name};
use super::observe::{Counters, Observed};

/// What makes the observed table the wanted one, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is already.
    Nothing,
    /// Make it anew.
    Replace {
        /// Whether there is one to delete first.
        exists: bool,
        /// Its elements, with what was counted so far.
        counters: BTreeMap<Set, Counters>,
    },
    /// Change elements.
    Change {
        /// Whether it has no owner yet, and should.
        claim: bool,
        /// Those that differ.
        sets: BTreeMap<Set, Difference>,
    },
}

/// Keys of a set that go and that come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) remove: Vec<Vec<u8>>,
    pub(super) add: Vec<Vec<u8>>,
}

impl Plan {
    /// `flags` are those that the table should have.
    pub(super) fn new(layout: &Layout, observed: &Observed, flags: TableFlags) -> Self {
        let Some(table) = &observed.table else {
            return Self::replace(layout, observed, false);
        };
        // Between two agents the table has lost its owner and keeps the rest.
        let orphan =
            flags == TableFlags::OWNED_AND_PERSISTENT && table.flags == TableFlags::PERSISTENT;
        if !(orphan || table.flags == flags) || !observed.has_shape_of(layout) {
            return Self::replace(layout, observed, true);
        }
        let none = Counters::new();
        let mut sets = BTreeMap::new();
        for set in SETS {
            let (wanted, present) = (layout.keys(set), observed.counters.get(&set));
            let present = present.unwrap_or(&none);
            let gone = present.keys().filter(|key| !wanted.contains(*key));
            let new = wanted.iter().filter(|key| !present.contains_key(*key));
            let difference = Difference {
                remove: gone.cloned().collect(),
                add: new.cloned().collect(),
            };
            if difference != Difference::default() {
                sets.insert(set, difference);
            }
        }
        match !orphan && sets.is_empty() {
            true => Self::Nothing,
            false => Self::Change {
                claim: orphan,
                sets,
            },
        }
    }

    fn replace(layout: &Layout, observed: &Observed, exists: bool) -> Self {
        let counted = |set: Set, key: &Vec<u8>| {
            let counter = observed.counters.get(&set).and_then(|keys| keys.get(key));
            counter.copied().unwrap_or_default()
        };
        let counters = SETS.map(|set| {
            let keys = layout.keys(set).into_iter();
            let counters = keys.map(|key| {
                let counter = counted(set, &key);
                (key, counter)
            });
            (set, counters.collect())
        });
        let counters = counters.into();
        Self::Replace { exists, counters }
    }

    /// How many changes it makes: elements, and a new table. Claiming is none.
    pub(super) fn ops(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Replace { counters, .. } => {
                1 + counters.values().map(Counters::len).sum::<usize>()
            }
            Self::Change { sets, .. } => (sets.values())
                .map(|set| set.remove.len() + set.add.len())
                .sum(),
        }
    }

    /// The transaction.
    pub(super) fn batch(&self, layout: &Layout, flags: TableFlags) -> Batch {
        let mut batch = Batch::new();
        let table = &layout.table;
        match self {
            Self::Nothing => {}
            Self::Replace { exists, counters } => {
                if *exists {
                    batch.delete_table(table);
                }
                replace(&mut batch, layout, flags, counters);
            }
            Self::Change { claim, sets } => {
                if *claim {
                    batch.add_table(&layout.table(flags));
                }
                for (set, difference) in sets {
                    batch.delete_elements(table, set_name(*set), &difference.remove);
                    let new: Vec<MapElement> = difference.add.iter().map(fresh).collect();
                    batch.add_map_elements(table, set_name(*set), &new);
                }
            }
        }
        batch
    }
}

fn replace(
    batch: &mut Batch,
    layout: &Layout,
    flags: TableFlags,
    counters: &BTreeMap<Set, Counters>,
) {
    batch.add_table(&layout.table(flags));
    for map in layout.maps() {
        batch.add_map(&map);
    }
    for (set, counters) in counters {
        let elements: Vec<MapElement> = counters.iter().map(element).collect();
        batch.add_map_elements(&layout.table, set_name(*set), &elements);
    }
    for chain in layout.chains() {
        batch.add_chain(&chain);
    }
    for rule in layout.rules() {
        batch.add_rule(&rule);
    }
}

fn fresh(key: &Vec<u8>) -> MapElement {
    element((key, &Counter::default()))
}

fn element((key, counter): (&Vec<u8>, &Counter)) -> MapElement {
    MapElement {
        key: key.clone(),
        data: MapData::Counter(*counter),
    }
}

#[cfg(test)]
mod tests;
