use std::num::NonZeroU16;

use weft_netns::nft::Table;

use super::*;
use crate::spec::Protocol;
use crate::stats::spec::{Counts, StatsSpec};

const OWNED: TableFlags = TableFlags::OWNED_AND_PERSISTENT;
const COUNTED: Counter = Counter {
    packets: 5,
    bytes: 500,
};

fn layout(addresses: &[&str]) -> Layout {
    Layout {
        table: "weft-stats".to_owned(),
        spec: StatsSpec {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            leg: "wfgw".to_owned(),
            ports: [(Protocol::Tcp, NonZeroU16::new(80).unwrap())].into(),
        },
    }
}

/// What reading back would give after the layout was put in place and each counter counted.
fn in_place(layout: &Layout, flags: TableFlags) -> Observed {
    let counters = SETS.map(|set| {
        let keys = layout.keys(set).into_iter();
        (set, keys.map(|key| (key, COUNTED)).collect())
    });
    Observed {
        table: Some(Table {
            owner: (flags == OWNED).then_some(7),
            ..layout.table(flags)
        }),
        chains: layout.chains(),
        maps: layout.maps(),
        rules: layout.rules(),
        counters: counters.into(),
    }
}

#[test]
fn a_table_in_place_needs_nothing_whatever_it_counted() {
    let layout = layout(&["10.0.1.2"]);
    for flags in [OWNED, TableFlags::NONE] {
        let observed = in_place(&layout, flags);
        assert_eq!(Plan::new(&layout, &observed, flags), Plan::Nothing);
        let totals = observed.totals();
        let counts = Counts {
            connections: 5,
            packets_in: 5,
            bytes_in: 500,
            packets_out: 5,
            bytes_out: 500,
        };
        assert_eq!(
            totals.addresses,
            [("10.0.1.2".parse().unwrap(), counts)].into()
        );
        assert_eq!(totals.ports.into_values().collect::<Vec<_>>(), [counts]);
    }
}

#[test]
fn a_backend_more_is_three_counters_more_and_nobody_elses_start_again() {
    let observed = in_place(&layout(&["10.0.1.2", "10.0.1.3"]), OWNED);
    let plan = Plan::new(&layout(&["10.0.1.3", "10.0.1.4"]), &observed, OWNED);
    let Plan::Change { claim, sets } = &plan else {
        panic!("{plan:?}");
    };
    assert!(!claim);
    let difference = Difference {
        remove: vec![vec![10, 0, 1, 2]],
        add: vec![vec![10, 0, 1, 4]],
    };
    assert!(sets.values().all(|set| *set == difference));
    assert_eq!((sets.len(), plan.ops()), (3, 6));
}

#[test]
fn a_table_of_another_shape_is_made_anew_and_goes_on_counting() {
    let layout = layout(&["10.0.1.2"]);
    let mut observed = in_place(&layout, OWNED);
    observed.rules.pop();
    let Plan::Replace { exists, counters } = Plan::new(&layout, &observed, OWNED) else {
        panic!("of another shape");
    };
    assert!(exists);
    assert!(
        counters
            .values()
            .flat_map(Counters::values)
            .all(|counter| *counter == COUNTED)
    );
    let plan = Plan::new(&layout, &Observed::default(), OWNED);
    assert!(matches!(plan, Plan::Replace { exists: false, .. }));
    assert_eq!(plan.ops(), 7);
}

#[test]
fn a_table_that_lost_its_owner_is_claimed() {
    let layout = layout(&["10.0.1.2"]);
    let mut observed = in_place(&layout, OWNED);
    observed.table = Some(layout.table(TableFlags::PERSISTENT));
    let plan = Plan::new(&layout, &observed, OWNED);
    let sets = BTreeMap::new();
    assert_eq!(plan, Plan::Change { claim: true, sets });
    assert_eq!(plan.ops(), 0);
}
