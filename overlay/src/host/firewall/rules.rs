use std::collections::BTreeMap;
use std::sync::Arc;

use weft_netns::nft::{ForeignSet, NftError, NftSocket, Step, TableFamily};

use super::judge::Rules;

/// Rules of one chain that are read.
const RULES_MAX: usize = 10_000;
/// Elements of one set that are read.
const ELEMENTS_MAX: usize = 4096;

/// The rules of a table, read as they are asked for.
pub(super) struct TableRules<'a> {
    netlink: &'a mut NftSocket,
    family: TableFamily,
    table: &'a str,
    chains: BTreeMap<String, Arc<[Vec<Step>]>>,
    sets: BTreeMap<String, Arc<ForeignSet>>,
}

impl<'a> TableRules<'a> {
    pub(super) fn new(netlink: &'a mut NftSocket, family: TableFamily, table: &'a str) -> Self {
        Self {
            netlink,
            family,
            table,
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }
}

impl Rules for TableRules<'_> {
    fn chain(&mut self, name: &str) -> Result<Arc<[Vec<Step>]>, NftError> {
        if let Some(known) = self.chains.get(name) {
            return Ok(known.clone());
        }
        let steps: Arc<[Vec<Step>]> = self
            .netlink
            .steps_of(self.family, self.table, name, RULES_MAX)?
            .into();
        self.chains.insert(name.to_owned(), steps.clone());
        Ok(steps)
    }

    fn set(&mut self, name: &str) -> Result<Arc<ForeignSet>, NftError> {
        if let Some(known) = self.sets.get(name) {
            return Ok(known.clone());
        }
        let set = self
            .netlink
            .set_of(self.family, self.table, name, ELEMENTS_MAX)?;
        let set = Arc::new(set);
        self.sets.insert(name.to_owned(), set.clone());
        Ok(set)
    }
}
