use std::collections::BTreeMap;

use weft_netns::nft::{
    Chain, Counter, Expr, Map, NftError, NftSocket, OwnedTable, Rule, Table, TableError,
    TableFlags, Verdict,
};

use super::IngressReport;
use super::layout::{Elements, Layout, Set};
use super::rules::DropReason;

/// The table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// None when it does not exist; then all else is empty.
    pub(super) table: Option<Table>,
    pub(super) chains: Vec<Chain>,
    pub(super) maps: Vec<Map>,
    pub(super) rules: Vec<Rule>,
    pub(super) elements: BTreeMap<Set, Elements>,
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
        let mut elements = BTreeMap::new();
        for set in Set::ALL {
            let found = socket.map_elements(name, set.name())?;
            let found = found.into_iter().map(|element| (element.key, element.data));
            elements.insert(set, found.collect());
        }
        Ok(Self {
            table: None,
            chains: socket.chains(name)?,
            maps: socket.maps(name)?,
            rules: socket.rules(name)?,
            elements,
        })
    }

    /// Whether chains, sets and rules are the wanted ones, whatever the elements.
    pub(super) fn has_shape_of(&self, layout: &Layout) -> bool {
        let chains = layout.chains();
        let maps = layout.maps();
        let rules = layout.rules(|reason| self.counter(reason));
        sorted(&self.chains, |chain| &chain.name) == sorted(&chains, |chain| &chain.name)
            && sorted(&self.maps, |map| &map.name) == sorted(&maps, |map| &map.name)
            // Within a chain the order counts, and sorting keeps it.
            && sorted(&self.rules, |rule| &rule.chain) == sorted(&rules, |rule| &rule.chain)
    }

    /// How many were dropped for that reason; of any shape of table that has such a chain.
    pub(super) fn counter(&self, reason: DropReason) -> Counter {
        let counted = self.rules.iter().find_map(|rule| match rule.exprs[..] {
            [Expr::Counter(counter), Expr::Verdict(Verdict::Drop)]
                if rule.chain == reason.chain() =>
            {
                Some(counter)
            }
            _ => None,
        });
        counted.unwrap_or_default()
    }

    pub(super) fn report(&self) -> IngressReport {
        let dropped = |reason| self.counter(reason).packets;
        IngressReport {
            ops: 0,
            no_entry: dropped(DropReason::NoEntry),
            not_allowed: dropped(DropReason::NotAllowed),
            not_published: dropped(DropReason::NotPublished),
            foreign: dropped(DropReason::Foreign),
            loopback: dropped(DropReason::Loopback),
            exclusive: self
                .table
                .as_ref()
                .is_some_and(|table| table.flags == TableFlags::OWNED_AND_PERSISTENT),
        }
    }
}

fn sorted<T>(items: &[T], name: impl Fn(&T) -> &str) -> Vec<&T> {
    let mut items: Vec<&T> = items.iter().collect();
    items.sort_by(|a, b| name(a).cmp(name(b)));
    items
}
