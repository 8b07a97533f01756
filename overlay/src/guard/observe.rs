use std::collections::BTreeSet;

use weft_netns::nft::{
    Chain, Counter, Expr, NftError, NftSocket, OwnedTable, Rule, Set, Table, TableError, TableFlags,
};

use super::GuardReport;
use super::layout::{FAMILIES, Family, Layout};

/// The table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// None when it does not exist; then all else is empty.
    pub(super) table: Option<Table>,
    pub(super) chains: Vec<Chain>,
    pub(super) sets: Vec<Set>,
    pub(super) rules: Vec<Rule>,
    pub(super) members4: BTreeSet<Vec<u8>>,
    pub(super) members6: BTreeSet<Vec<u8>>,
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
        let mut members = |family: Family| -> Result<BTreeSet<Vec<u8>>, NftError> {
            Ok(socket.elements(name, family.set())?.into_iter().collect())
        };
        let (members4, members6) = (members(Family::V4)?, members(Family::V6)?);
        let mut sets = socket.sets(name)?;
        sets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            table: None,
            chains: socket.chains(name)?,
            sets,
            rules: socket.rules(name)?,
            members4,
            members6,
        })
    }

    pub(super) fn keys(&self, family: Family) -> &BTreeSet<Vec<u8>> {
        match family {
            Family::V4 => &self.members4,
            Family::V6 => &self.members6,
        }
    }

    /// Whether chain, sets and rules are the wanted ones, whatever the members.
    pub(super) fn has_shape_of(&self, layout: &Layout) -> bool {
        // A set's size is its maker's affair, and kernels need not tell it back as it was given.
        let sizeless = |set: &Set| Set {
            size: None,
            ..set.clone()
        };
        let uncounted = |rule: &Rule| {
            let mut rule = rule.clone();
            for expr in &mut rule.exprs {
                if let Expr::Counter(counter) = expr {
                    *counter = Counter::default();
                }
            }
            rule
        };
        self.chains == [layout.chain()]
            && self
                .sets
                .iter()
                .map(sizeless)
                .eq(FAMILIES.map(|f| sizeless(&layout.set(f))))
            && self
                .rules
                .iter()
                .map(uncounted)
                .eq(FAMILIES.map(|f| layout.rule(f, Counter::default())))
    }

    /// What the family's rule counted; of any shape of table that has such a set.
    pub(super) fn counter(&self, family: Family) -> Counter {
        let judges = |expr: &Expr| matches!(expr, Expr::Lookup { set, .. } if set == family.set());
        let rule = self.rules.iter().find(|rule| rule.exprs.iter().any(judges));
        let counted = rule
            .into_iter()
            .flat_map(|rule| &rule.exprs)
            .find_map(|expr| match expr {
                Expr::Counter(counter) => Some(*counter),
                _ => None,
            });
        counted.unwrap_or_default()
    }

    pub(super) fn report(&self) -> GuardReport {
        GuardReport {
            ops: 0,
            members: self.members4.len() + self.members6.len(),
            dropped4: self.counter(Family::V4).packets,
            dropped6: self.counter(Family::V6).packets,
            exclusive: self
                .table
                .as_ref()
                .is_some_and(|table| table.flags == TableFlags::OWNED_AND_PERSISTENT),
        }
    }
}
