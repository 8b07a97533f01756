use std::collections::BTreeMap;

use weft_netns::nft::{
    Chain, Counter, Map, MapData, NftError, NftSocket, OwnedTable, Rule, Table, TableError,
};

use super::layout::{By, Layout, SETS, Set, What, address_of, port_of, set_name};
use super::spec::{Counts, Totals};

/// Keys with what was counted of them.
pub(super) type Counters = BTreeMap<Vec<u8>, Counter>;

/// The table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// None when it does not exist; then all else is empty.
    pub(super) table: Option<Table>,
    pub(super) chains: Vec<Chain>,
    pub(super) maps: Vec<Map>,
    pub(super) rules: Vec<Rule>,
    pub(super) counters: BTreeMap<Set, Counters>,
}

impl Observed {
    pub(super) fn read(table: &mut OwnedTable) -> Result<Self, TableError> {
        let found = table.read(Self::dump)?;
        let observed = found.map(|(table, observed)| Self {
            table: Some(table),
            ..observed
        });
        Ok(observed.unwrap_or_default())
    }

    fn dump(socket: &mut NftSocket, name: &str) -> Result<Self, NftError> {
        let mut counters = BTreeMap::new();
        for set in SETS {
            let found = socket.map_elements(name, set_name(set))?.into_iter();
            let found = found.map(|element| {
                let counter = match element.data {
                    MapData::Counter(counter) => counter,
                    _ => Counter::default(),
                };
                (element.key, counter)
            });
            counters.insert(set, found.collect());
        }
        Ok(Self {
            table: None,
            chains: socket.chains(name)?,
            maps: socket.maps(name)?,
            rules: socket.rules(name)?,
            counters,
        })
    }

    /// Whether chains, sets and rules are the wanted ones, whatever the elements.
    pub(super) fn has_shape_of(&self, layout: &Layout) -> bool {
        sorted(&self.chains, |chain| &chain.name) == sorted(&layout.chains(), |chain| &chain.name)
            && sorted(&self.maps, |map| &map.name) == sorted(&layout.maps(), |map| &map.name)
            // Within a chain the order counts, and sorting keeps it.
            && sorted(&self.rules, |rule| &rule.chain)
                == sorted(&layout.rules(), |rule| &rule.chain)
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for ((by, what), counters) in &self.counters {
            for (key, counter) in counters {
                let counts = match by {
                    By::Address => {
                        address_of(key).map(|key| totals.addresses.entry(key).or_default())
                    }
                    By::Port => port_of(key).map(|key| totals.ports.entry(key).or_default()),
                };
                note(counts, *what, *counter);
            }
        }
        totals
    }
}

fn note(counts: Option<&mut Counts>, what: What, counter: Counter) {
    let Some(counts) = counts else { return };
    match what {
        What::Connections => counts.connections = counter.packets,
        What::Received => {
            (counts.packets_in, counts.bytes_in) = (counter.packets, counter.bytes);
        }
        What::Sent => (counts.packets_out, counts.bytes_out) = (counter.packets, counter.bytes),
    }
}

fn sorted<T>(items: &[T], name: impl Fn(&T) -> &str) -> Vec<&T> {
    let mut items: Vec<&T> = items.iter().collect();
    items.sort_by(|a, b| name(a).cmp(name(b)));
    items
}
