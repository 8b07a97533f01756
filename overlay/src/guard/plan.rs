use std::collections::BTreeSet;

use weft_netns::nft::{Batch, Counter, TableFlags};

use super::layout::{FAMILIES, Layout};
use super::observe::Observed;

/// What makes the observed table the wanted one, in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is already.
    Nothing,
    /// Make it anew.
    Replace {
        /// Whether there is one to delete first.
        exists: bool,
        /// What the rules counted so far, to go on from.
        counters: [Counter; 2],
    },
    /// Change members.
    Change {
        /// Whether it has no owner yet, and should.
        claim: bool,
        /// By family.
        members: [Difference; 2],
    },
}

/// How one set differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) add: Vec<Vec<u8>>,
    pub(super) remove: Vec<Vec<u8>>,
}

impl Plan {
    /// `flags` are those that the table should have.
    pub(super) fn new(layout: &Layout, observed: &Observed, flags: TableFlags) -> Self {
        let Some(table) = &observed.table else {
            return Self::Replace {
                exists: false,
                counters: Default::default(),
            };
        };
        // Between two agents the table has lost its owner and keeps the rest.
        let orphan =
            flags == TableFlags::OWNED_AND_PERSISTENT && table.flags == TableFlags::PERSISTENT;
        if !(orphan || table.flags == flags) || !observed.has_shape_of(layout) {
            let counters = FAMILIES.map(|family| observed.counter(family));
            return Self::Replace {
                exists: true,
                counters,
            };
        }
        let members = FAMILIES.map(|f| Difference::new(layout.keys(f), observed.keys(f)));
        if !orphan && members == <[Difference; 2]>::default() {
            Self::Nothing
        } else {
            Self::Change {
                claim: orphan,
                members,
            }
        }
    }

    /// How many changes it makes. Claiming is none: it changes no packet's way.
    pub(super) fn ops(&self, layout: &Layout) -> usize {
        match self {
            Self::Nothing => 0,
            // Table, chain, sets and rules.
            Self::Replace { .. } => 2 + 2 * FAMILIES.len() + layout.members(),
            Self::Change { members, .. } => members
                .iter()
                .map(|set| set.add.len() + set.remove.len())
                .sum(),
        }
    }

    /// The same in two parts, additions first, so that no member is missing between. A replacement
    /// has no parts: half a table would drop members' datagrams or none at all.
    pub(super) fn split(self) -> Option<(Self, Self)> {
        let Self::Change { claim, members } = self else {
            return None;
        };
        let add = members.clone().map(|set| Difference {
            remove: Vec::new(),
            ..set
        });
        let remove = members.map(|set| Difference {
            add: Vec::new(),
            ..set
        });
        let first = Self::Change {
            claim,
            members: add,
        };
        Some((
            first,
            Self::Change {
                claim: false,
                members: remove,
            },
        ))
    }

    /// The transaction.
    pub(super) fn batch(&self, layout: &Layout, flags: TableFlags) -> Batch {
        let mut batch = Batch::new();
        match self {
            Self::Nothing => {}
            Self::Replace { exists, counters } => {
                replace(&mut batch, layout, flags, *exists, *counters);
            }
            Self::Change { claim, members } => {
                if *claim {
                    batch.add_table(&layout.table(flags));
                }
                for (family, set) in FAMILIES.into_iter().zip(members) {
                    batch.add_elements(layout.name(), family.set(), &set.add);
                    batch.delete_elements(layout.name(), family.set(), &set.remove);
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
    exists: bool,
    counters: [Counter; 2],
) {
    if exists {
        batch.delete_table(layout.name());
    }
    batch.add_table(&layout.table(flags));
    batch.add_chain(&layout.chain());
    for (family, counter) in FAMILIES.into_iter().zip(counters) {
        batch.add_set(&layout.set(family));
        let keys: Vec<Vec<u8>> = layout.keys(family).iter().cloned().collect();
        batch.add_elements(layout.name(), family.set(), &keys);
        batch.add_rule(&layout.rule(family, counter));
    }
}

impl Difference {
    fn new(wanted: &BTreeSet<Vec<u8>>, observed: &BTreeSet<Vec<u8>>) -> Self {
        Self {
            add: wanted.difference(observed).cloned().collect(),
            remove: observed.difference(wanted).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use weft_netns::nft::{Expr, Table};

    use super::*;
    use crate::guard::layout::Family;

    const OWNED: TableFlags = TableFlags::OWNED_AND_PERSISTENT;

    fn layout(port: u16, members: &[&str]) -> Layout {
        let members = members.iter().map(|m| m.parse().unwrap()).collect();
        Layout::new("weft", port, &members).unwrap()
    }

    /// What reading back would give after the layout was put in place.
    fn in_place(layout: &Layout, flags: TableFlags) -> Observed {
        let owner = (flags == OWNED).then_some(7);
        Observed {
            table: Some(Table {
                owner,
                ..layout.table(flags)
            }),
            chains: vec![layout.chain()],
            sets: FAMILIES.map(|f| layout.set(f)).to_vec(),
            rules: FAMILIES
                .map(|f| {
                    layout.rule(
                        f,
                        Counter {
                            packets: 5,
                            bytes: 500,
                        },
                    )
                })
                .to_vec(),
            members4: layout.keys(Family::V4).clone(),
            members6: layout.keys(Family::V6).clone(),
        }
    }

    #[test]
    fn a_table_in_place_needs_nothing_whatever_it_counted() {
        let layout = layout(4789, &["192.0.2.1", "2001:db8::1"]);
        for flags in [OWNED, TableFlags::NONE] {
            assert_eq!(
                Plan::new(&layout, &in_place(&layout, flags), flags),
                Plan::Nothing
            );
        }
    }

    #[test]
    fn a_member_more_and_one_less_are_two_changes() {
        let old = layout(4789, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
        let new = layout(4789, &["192.0.2.2", "2001:db8::1", "2001:db8::2"]);
        let plan = Plan::new(&new, &in_place(&old, OWNED), OWNED);
        assert_eq!(plan.ops(&new), 2);
        let Plan::Change {
            claim: false,
            members: [v4, v6],
        } = plan
        else {
            panic!("not a change of members: {plan:?}");
        };
        assert_eq!(
            v4,
            Difference {
                add: vec![],
                remove: vec![vec![192, 0, 2, 1]]
            }
        );
        assert_eq!((v6.add.len(), v6.remove.len()), (1, 0));
    }

    #[test]
    fn a_table_whose_owner_is_gone_is_claimed_without_a_change() {
        let layout = layout(4789, &["192.0.2.1"]);
        let plan = Plan::new(&layout, &in_place(&layout, TableFlags::PERSISTENT), OWNED);
        assert!(matches!(plan, Plan::Change { claim: true, .. }));
        assert_eq!(plan.ops(&layout), 0);
    }

    #[test]
    fn another_port_or_shape_replaces_the_table_and_keeps_what_was_counted() {
        let layout = layout(4789, &["192.0.2.1"]);
        let good = in_place(&layout, OWNED);
        let mut ruleless = good.clone();
        ruleless.rules.pop();
        let mut extra_set = good.clone();
        extra_set.sets.push(extra_set.sets[0].clone());
        let mut toothless = good.clone();
        toothless.rules[0]
            .exprs
            .retain(|expr| !matches!(expr, Expr::Verdict(_)));
        let mut unhooked = good.clone();
        unhooked.chains[0].base = None;
        let other_port = in_place(&Layout::new("weft", 4790, &[].into()).unwrap(), OWNED);
        let unowned = in_place(&layout, TableFlags::NONE);
        for observed in [
            ruleless, extra_set, toothless, unhooked, other_port, unowned,
        ] {
            let plan = Plan::new(&layout, &observed, OWNED);
            let Plan::Replace {
                exists: true,
                counters,
            } = plan
            else {
                panic!("not a replacement: {plan:?}");
            };
            assert_eq!(counters[0].packets, 5);
        }
    }

    #[test]
    fn a_change_splits_into_what_comes_and_what_goes() {
        let old = layout(4789, &["192.0.2.1", "2001:db8::1"]);
        let new = layout(4789, &["192.0.2.2", "2001:db8::2"]);
        let plan = Plan::new(&new, &in_place(&old, OWNED), OWNED);
        let (first, second) = plan.clone().split().unwrap();
        assert_eq!(
            (plan.ops(&new), first.ops(&new), second.ops(&new)),
            (4, 2, 2)
        );
        let Plan::Change { members, .. } = first else {
            panic!("not a change of members");
        };
        assert!(
            members
                .iter()
                .all(|set| set.remove.is_empty() && set.add.len() == 1)
        );
        assert_eq!(Plan::new(&new, &Observed::default(), OWNED).split(), None);
    }

    #[test]
    fn a_missing_table_is_made_whole() {
        let layout = layout(4789, &["192.0.2.1", "192.0.2.2"]);
        let plan = Plan::new(&layout, &Observed::default(), OWNED);
        assert!(matches!(plan, Plan::Replace { exists: false, .. }));
        assert_eq!(plan.ops(&layout), 8);
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_wanted_members(
            old in prop::collection::btree_set(any::<IpAddr>(), 0..30),
            new in prop::collection::btree_set(any::<IpAddr>(), 0..30),
        ) {
            let old = Layout::new("weft", 4789, &old).unwrap();
            let new = Layout::new("weft", 4789, &new).unwrap();
            for family in FAMILIES {
                let difference = Difference::new(new.keys(family), old.keys(family));
                let mut members = old.keys(family).clone();
                for key in &difference.remove {
                    prop_assert!(members.remove(key));
                }
                members.extend(difference.add);
                prop_assert_eq!(&members, new.keys(family));
            }
        }
    }
}
