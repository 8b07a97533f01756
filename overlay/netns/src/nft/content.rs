//! A table's content as one value, which a table is brought to.

use std::collections::BTreeMap;

use super::batch::Batch;
use super::expr::{Counter, Expr, Verdict};
use super::map::{Map, MapData, MapElement};
use super::object::{Chain, Rule};
use super::owned::{OwnedTable, Standing, TableError};
use super::socket::NftSocket;
use crate::nfnetlink::NftError;

/// What a set or map has: keys with what they map to.
pub type Elements = BTreeMap<Vec<u8>, MapData>;

/// Everything that is in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Chains.
    pub chains: Vec<Chain>,
    /// Sets and maps.
    pub maps: Vec<Map>,
    /// Rules, in order within each chain.
    pub rules: Vec<Rule>,
    /// Elements by the name of their set or map.
    pub elements: BTreeMap<String, Elements>,
}

/// What a reconciliation did and found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// How many changes were made: elements added and removed, or all objects of a new table.
    pub ops: usize,
    /// What was there before, with what its counters said; they go on from there.
    pub before: Content,
}

impl Content {
    /// What the rule `counter drop` that is alone in a chain has counted.
    pub fn dropped(&self, chain: &str) -> Counter {
        let counted = self.rules.iter().find_map(|rule| match rule.exprs[..] {
            [Expr::Counter(counter), Expr::Verdict(Verdict::Drop)] if rule.chain == chain => {
                Some(counter)
            }
            _ => None,
        });
        counted.unwrap_or_default()
    }

    fn read(socket: &mut NftSocket, table: &str) -> Result<Self, NftError> {
        let maps = socket.maps(table)?;
        let mut elements = BTreeMap::new();
        for map in &maps {
            let found = socket.map_elements(table, &map.name)?;
            let found = found.into_iter().map(|element| (element.key, element.data));
            elements.insert(map.name.clone(), found.collect());
        }
        Ok(Self {
            chains: socket.chains(table)?,
            rules: socket.rules(table)?,
            maps,
            elements,
        })
    }

    /// Whether chains, sets and rules are the same, whatever the elements and counters.
    fn has_shape_of(&self, other: &Self) -> bool {
        let (these, those) = (self.uncounted(), other.uncounted());
        sorted(&self.chains, |chain| &chain.name) == sorted(&other.chains, |chain| &chain.name)
            && sorted(&self.maps, |map| &map.name) == sorted(&other.maps, |map| &map.name)
            // Within a chain the order counts, and sorting keeps it.
            && sorted(&these, |rule| &rule.chain) == sorted(&those, |rule| &rule.chain)
    }

    fn uncounted(&self) -> Vec<Rule> {
        let mut rules = self.rules.clone();
        for expr in rules.iter_mut().flat_map(|rule| &mut rule.exprs) {
            if let Expr::Counter(counter) = expr {
                *counter = Counter::default();
            }
        }
        rules
    }

    fn elements(&self, map: &str) -> &Elements {
        static NONE: Elements = Elements::new();
        self.elements.get(map).unwrap_or(&NONE)
    }

    /// How many objects a table with that content has, itself included.
    fn objects(&self) -> usize {
        let elements: usize = self.elements.values().map(BTreeMap::len).sum();
        1 + self.chains.len() + self.maps.len() + self.rules.len() + elements
    }

    fn add_to(&self, batch: &mut Batch, table: &str, before: &Self) {
        for map in &self.maps {
            batch.add_map(map);
            let elements = self.elements(&map.name).iter().map(map_element);
            batch.add_map_elements(table, &map.name, &elements.collect::<Vec<_>>());
        }
        for chain in &self.chains {
            batch.add_chain(chain);
        }
        for rule in &self.rules {
            let mut rule = rule.clone();
            if let [Expr::Counter(counter), Expr::Verdict(Verdict::Drop)] = &mut rule.exprs[..] {
                *counter = before.dropped(&rule.chain);
            }
            batch.add_rule(&rule);
        }
    }
}

impl OwnedTable {
    /// Makes the table's content `wanted`: reads it back, and changes in one transaction what
    /// differs. A table that is missing or of another shape is replaced as a whole; what the chains
    /// of [`Content::dropped`] counted goes on.
    ///
    /// # Errors
    /// [`TableError`]; nothing was changed then.
    pub fn reconcile(&mut self, wanted: &Content) -> Result<Reconciled, TableError> {
        self.attempt(|table| table.apply(wanted))
    }

    /// Reads the content; none when there is no table.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn content(&mut self) -> Result<Option<Content>, TableError> {
        Ok(self.read(Content::read)?.map(|(_, content)| content))
    }

    fn apply(&mut self, wanted: &Content) -> Result<Reconciled, TableError> {
        let (table, before) = self.read(Content::read)?.unzip();
        let standing = self.standing(table.as_ref())?;
        let before = before.unwrap_or_default();
        let mut batch = Batch::new();
        let ops = match standing {
            Standing::Kept | Standing::Orphaned if before.has_shape_of(wanted) => {
                if standing == Standing::Orphaned {
                    batch.add_table(&self.table());
                }
                change(&mut batch, self.name(), wanted, &before)
            }
            _ => {
                if standing != Standing::Absent {
                    batch.delete_table(self.name());
                }
                batch.add_table(&self.table());
                wanted.add_to(&mut batch, self.name(), &before);
                wanted.objects()
            }
        };
        self.commit(batch)?;
        if ops > 0 {
            tracing::debug!(table = self.name(), ops, "table changed");
        }
        Ok(Reconciled { ops, before })
    }
}

/// What differs in the elements. One that says something else now goes and comes.
fn change(batch: &mut Batch, table: &str, wanted: &Content, before: &Content) -> usize {
    let less = |these: &Elements, those: &Elements| -> Vec<MapElement> {
        let missing = these.iter();
        let missing = missing.filter(|(key, data)| those.get(*key) != Some(*data));
        missing.map(map_element).collect()
    };
    let mut ops = 0;
    for map in &wanted.maps {
        let (wanted, present) = (wanted.elements(&map.name), before.elements(&map.name));
        let (remove, add) = (less(present, wanted), less(wanted, present));
        ops += remove.len() + add.len();
        batch.delete_map_elements(table, &map.name, &remove);
        batch.add_map_elements(table, &map.name, &add);
    }
    ops
}

fn map_element((key, data): (&Vec<u8>, &MapData)) -> MapElement {
    MapElement {
        key: key.clone(),
        data: data.clone(),
    }
}

fn sorted<T>(items: &[T], name: impl Fn(&T) -> &str) -> Vec<&T> {
    let mut items: Vec<&T> = items.iter().collect();
    items.sort_by(|a, b| name(a).cmp(name(b)));
    items
}
