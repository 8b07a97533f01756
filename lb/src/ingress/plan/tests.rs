use std::num::NonZeroU16;

use weft_netns::nft::{Expr, Table, Verdict};

use super::*;
use crate::ingress::IngressSpec;
use crate::spec::{Family, Protocol};

const OWNED: TableFlags = TableFlags::OWNED_AND_PERSISTENT;
const COUNTED: Counter = Counter {
    packets: 5,
    bytes: 500,
};

fn spec() -> IngressSpec {
    IngressSpec {
        mesh_if: "wf-ingress".into(),
        gateway_if: "weft-gw".into(),
        entries: [([2, 0x42, 10, 0, 0, 1], 1)].into(),
        mesh4: Some("10.0.0.2".parse().unwrap()),
        mesh6: Some("fd00::2".parse().unwrap()),
        gateway4: Some("192.0.2.0/24".parse().unwrap()),
        gateway6: Some("fd01::/64".parse().unwrap()),
        ..IngressSpec::default()
    }
}

fn layout(spec: IngressSpec) -> Layout {
    let table = "weft-ingress".to_owned();
    Layout { table, spec }
}

/// What reading back would give after the layout was put in place.
fn in_place(layout: &Layout, flags: TableFlags) -> Observed {
    let owner = (flags == OWNED).then_some(7);
    let table = Table {
        owner,
        ..layout.table(flags)
    };
    Observed {
        table: Some(table),
        chains: layout.chains(),
        maps: layout.maps(),
        rules: layout.rules(|_| COUNTED),
        elements: Set::ALL.map(|set| (set, layout.elements(set))).into(),
    }
}

#[test]
fn a_table_in_place_needs_nothing_whatever_it_counted() {
    for flags in [OWNED, TableFlags::NONE] {
        let observed = in_place(&layout(spec()), flags);
        let plan = Plan::new(&layout(spec()), &observed, flags);
        assert_eq!(plan, Plan::Nothing);
        assert_eq!(observed.report().not_allowed, 5);
    }
}

#[test]
fn a_missing_table_is_made_whole() {
    let layout = layout(spec());
    let plan = Plan::new(&layout, &Observed::default(), OWNED);
    assert!(matches!(plan, Plan::Replace { exists: false, .. }));
    assert!(plan.ops(&layout) > 30);
}

#[test]
fn what_differs_in_elements_is_all_that_changes() {
    let old = in_place(&layout(spec()), OWNED);
    let port = (Protocol::Tcp, NonZeroU16::new(80).unwrap());
    let mut wanted = spec();
    // Another number for the same node, and a port for one prefix.
    wanted.entries.insert([2, 0x42, 10, 0, 0, 1], 9);
    let prefix = "10.0.0.0/8".parse().unwrap();
    wanted.allowed.insert(port, [prefix].into());
    let wanted = layout(wanted);
    let plan = Plan::new(&wanted, &old, OWNED);
    assert_eq!(plan.ops(&wanted), 6);
    let Plan::Change { claim: false, sets } = plan else {
        panic!("not a change of elements: {plan:?}");
    };
    let entries = &sets[&Set::Entries];
    assert_eq!((entries.remove.len(), entries.add.len()), (1, 1));
    let changed: Vec<Set> = sets.into_keys().collect();
    let allowed = Set::Allowed(Family::V4);
    let expected = [Set::Entries, Set::Restricted, allowed, Set::Zones];
    assert_eq!(changed, expected);
}

#[test]
fn a_table_whose_owner_is_gone_is_claimed_without_a_change() {
    let layout = layout(spec());
    let plan = Plan::new(&layout, &in_place(&layout, TableFlags::PERSISTENT), OWNED);
    assert!(matches!(plan, Plan::Change { claim: true, .. }));
    assert_eq!(plan.ops(&layout), 0);
}

#[test]
fn another_shape_or_address_replaces_the_table_and_keeps_what_was_counted() {
    let good = in_place(&layout(spec()), OWNED);
    let mut ruleless = good.clone();
    ruleless.rules.pop();
    let mut unhooked = good.clone();
    unhooked.chains.last_mut().unwrap().base = None;
    let mut extra = good.clone();
    extra.maps.push(extra.maps[0].clone());
    let mut toothless = good.clone();
    for rule in &mut toothless.rules {
        if let Some(last @ Expr::Verdict(Verdict::Goto(_))) = rule.exprs.last_mut() {
            *last = Expr::Verdict(Verdict::Accept);
        }
    }
    let moved = IngressSpec {
        mesh4: Some("10.0.0.3".parse().unwrap()),
        ..spec()
    };
    let moved = in_place(&layout(moved), OWNED);
    let unowned = in_place(&layout(spec()), TableFlags::NONE);
    for observed in [ruleless, unhooked, extra, toothless, moved, unowned] {
        let plan = Plan::new(&layout(spec()), &observed, OWNED);
        let Plan::Replace {
            exists: true,
            counters,
        } = plan
        else {
            panic!("not a replacement: {plan:?}");
        };
        assert_eq!(counters[&DropReason::NotAllowed], COUNTED);
    }
}

#[test]
fn a_host_without_addresses_rewrites_nothing_on_the_mesh() {
    let bare = IngressSpec {
        mesh4: None,
        mesh6: None,
        ..spec()
    };
    let rules = layout(bare).rules(|_| Counter::default());
    let rewrites = |expr: &Expr| matches!(expr, Expr::SourceNat { .. });
    assert!(!rules.iter().any(|rule| rule.exprs.iter().any(rewrites)));
}
