use std::collections::BTreeMap;

use weft_netns::nft::{Batch, Counter, MapElement, TableFlags};

use super::layout::{Elements, Layout, Set, map_element};
use super::observe::Observed;
use super::rules::DropReason;

/// What makes the observed table the wanted one, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is already.
    Nothing,
    /// Make it anew.
    Replace {
        /// Whether there is one to delete first.
        exists: bool,
        /// What was counted so far, to go on from.
        counters: BTreeMap<DropReason, Counter>,
    },
    /// Change elements.
    Change {
        /// Whether it has no owner yet, and should.
        claim: bool,
        /// Those that differ.
        sets: BTreeMap<Set, Difference>,
    },
}

/// How a set differs. An element that says something else now goes and comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) remove: Vec<MapElement>,
    pub(super) add: Vec<MapElement>,
}

impl Plan {
    /// `flags` are those that the table should have.
    pub(super) fn new(layout: &Layout, observed: &Observed, flags: TableFlags) -> Self {
        let counters = || DropReason::ALL.map(|reason| (reason, observed.counter(reason)));
        let Some(table) = &observed.table else {
            return Self::Replace {
                exists: false,
                counters: counters().into(),
            };
        };
        // Between two agents the table has lost its owner and keeps the rest.
        let orphan =
            flags == TableFlags::OWNED_AND_PERSISTENT && table.flags == TableFlags::PERSISTENT;
        if !(orphan || table.flags == flags) || !observed.has_shape_of(layout) {
            return Self::Replace {
                exists: true,
                counters: counters().into(),
            };
        }
        let absent = Elements::new();
        let differences = Set::ALL.map(|set| {
            let present = observed.elements.get(&set).unwrap_or(&absent);
            (set, Difference::new(&layout.elements(set), present))
        });
        let differ = |(_, set): &(Set, Difference)| *set != Difference::default();
        let sets: BTreeMap<Set, Difference> = differences.into_iter().filter(differ).collect();
        if !orphan && sets.is_empty() {
            return Self::Nothing;
        }
        Self::Change {
            claim: orphan,
            sets,
        }
    }

    /// How many changes it makes. Claiming is none: it changes no packet's way.
    pub(super) fn ops(&self, layout: &Layout) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Replace { .. } => {
                let elements: usize = Set::ALL.map(|set| layout.elements(set).len()).iter().sum();
                let rules = layout.rules(|_| Counter::default()).len();
                // With the table itself.
                1 + layout.chains().len() + layout.maps().len() + rules + elements
            }
            Self::Change { sets, .. } => sets
                .values()
                .map(|set| set.remove.len() + set.add.len())
                .sum(),
        }
    }

    /// The transaction.
    pub(super) fn batch(&self, layout: &Layout, flags: TableFlags) -> Batch {
        let mut batch = Batch::new();
        match self {
            Self::Nothing => {}
            Self::Replace { exists, counters } => {
                if *exists {
                    batch.delete_table(&layout.table);
                }
                replace(&mut batch, layout, flags, counters);
            }
            Self::Change { claim, sets } => {
                if *claim {
                    batch.add_table(&layout.table(flags));
                }
                for (set, difference) in sets {
                    batch.delete_map_elements(&layout.table, set.name(), &difference.remove);
                    batch.add_map_elements(&layout.table, set.name(), &difference.add);
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
    counters: &BTreeMap<DropReason, Counter>,
) {
    batch.add_table(&layout.table(flags));
    for map in layout.maps() {
        batch.add_map(&map);
    }
    for set in Set::ALL {
        let elements: Vec<MapElement> = layout.elements(set).iter().map(map_element).collect();
        batch.add_map_elements(&layout.table, set.name(), &elements);
    }
    for chain in layout.chains() {
        batch.add_chain(&chain);
    }
    let counted = |reason| counters.get(&reason).copied().unwrap_or_default();
    for rule in layout.rules(counted) {
        batch.add_rule(&rule);
    }
}

impl Difference {
    fn new(wanted: &Elements, observed: &Elements) -> Self {
        let less = |these: &Elements, those: &Elements| {
            let missing = these
                .iter()
                .filter(|(key, data)| those.get(*key) != Some(*data));
            missing.map(map_element).collect()
        };
        Self {
            remove: less(observed, wanted),
            add: less(wanted, observed),
        }
    }
}

#[cfg(test)]
mod tests;
