//! The way out of containers, and legs that come and go one by one.

use std::path::PathBuf;
use std::time::Instant;

use weft_overlay::gateway::observed::Family;

use super::*;
use crate::scale::NO_MACHINE;

pub(super) const CASES: &[Case] = &[
    ("a_leg_is_the_way_out_unless_there_is_another", way_out),
    (
        "a_leg_comes_and_goes_without_a_look_at_the_others",
        one_by_one,
    ),
];

fn defaults(netns: &Path) -> [String; 2] {
    ["-4", "-6"].map(|family| sh(netns, &format!("ip {family} route show default")))
}

fn way_out() {
    run(async {
        let lab = Lab::new();
        let host = lab.host("h1");
        let container = lab.namespace("c1");
        let mut wanted = spec(&[("leg-a", &container)]);
        (wanted.egress, wanted.published) = (wanted.published, BTreeSet::new());
        let report = settle(&host, Some(&wanted)).await;
        let by = [
            "default via 192.168.240.1 dev wfgw",
            "default via fd77:6566:7400::1 dev wfgw",
        ];
        for (found, by) in defaults(&container).iter().zip(by) {
            assert!(
                found.lines().count() == 1 && found.starts_with(by),
                "{found}"
            );
        }
        // Nothing else is in there: no rules, and no other table.
        let rules = sh(&container, "ip rule | wc -l; ip -6 rule | wc -l");
        assert_eq!(rules.split_whitespace().collect::<Vec<_>>(), ["3", "2"]);
        assert!(report.own_way.is_empty());
        sh(&container, "ip route del default; ip -6 route del default");
        assert_eq!(apply(&host, Some(&wanted)).await.ops, 2);
        // Another's is let alone, however it is ranked, and ours comes back when it goes.
        for metric in [0, 90_000] {
            let name = format!("own{metric}");
            sh(
                &container,
                &format!("ip link add {name} type veth peer name far{metric}"),
            );
            sh(
                &container,
                &format!("ip addr add 172.20.0.2/24 dev {name}; ip link set {name} up"),
            );
            let other = format!("default via 172.20.0.1 dev {name} metric {metric}");
            sh(&container, &format!("ip route add {other}"));
            let report = settle(&host, Some(&wanted)).await;
            assert_eq!(report.own_way["leg-a"], [Family::V4].into());
            let [four, six] = defaults(&container);
            assert!(four.lines().count() == 1 && four.contains(&name), "{four}");
            assert!(six.contains(LEG), "{six}");
            sh(&container, &format!("ip link del {name}"));
            assert!(settle(&host, Some(&wanted)).await.own_way.is_empty());
            assert!(defaults(&container)[0].starts_with(by[0]));
        }
        // No way out any more, but one in.
        (wanted.published, wanted.egress) = (wanted.egress, BTreeSet::new());
        settle(&host, Some(&wanted)).await;
        assert_eq!(defaults(&container), ["", ""]);
    });
}

/// As many containers as a host may well have.
const LEGS: usize = 100;

fn one_by_one() {
    run(async {
        let lab = Lab::new();
        let host = lab.host("h1");
        let mut gateway = gateway(&host);
        let keys: Vec<String> = (0..LEGS).map(|n| format!("leg-{n}")).collect();
        let containers: Vec<PathBuf> = keys.iter().map(|key| lab.namespace(key)).collect();
        let all: Vec<(&str, &PathBuf)> = keys.iter().map(String::as_str).zip(&containers).collect();
        let with = |count: usize| {
            let mut spec = spec(&all[..count]);
            (spec.egress, spec.published) = (spec.published, BTreeSet::new());
            spec
        };
        let mut legs = gateway.reconcile(Some(&with(1))).await.legs;
        let mut times = Vec::new();
        for count in 2..=LEGS {
            let (before, wanted) = (with(count - 1), with(count));
            let part = before.differing_legs(&wanted).unwrap();
            assert_eq!(part, [keys[count - 1].clone()].into());
            let taken = legs.values().map(|leg| leg.v4).collect();
            let start = Instant::now();
            let report = gateway.reconcile_legs(&wanted, part, taken).await;
            times.push(start.elapsed());
            assert!(report.is_clean() && report.legs.len() == 1, "{report:?}");
            legs.extend(report.legs);
        }
        let median = |times: &[Duration]| {
            let mut times = times.to_vec();
            times.sort();
            times[times.len() / 2]
        };
        let (first, last) = (median(&times[..30]), median(&times[LEGS - 31..]));
        println!("one more leg: median {first:?} of the first 30, {last:?} of the last 30");
        assert!(last < NO_MACHINE, "{times:?}");
        // All are as if they had been made together, and none has another's address.
        let report = gateway.reconcile(Some(&with(LEGS))).await;
        assert_eq!((report.ops, &report.legs), (0, &legs));
        // One goes while its container lives, another with it.
        let whole = with(LEGS);
        weft_netns::delete(&containers[7]).unwrap();
        let mut fewer = whole.clone();
        for key in ["leg-7", "leg-8"] {
            fewer.legs.remove(key);
            fewer.egress.remove(key);
            legs.remove(key);
        }
        let part = whole.differing_legs(&fewer).unwrap();
        let taken = legs.values().map(|leg| leg.v4).collect();
        let report = gateway.reconcile_legs(&fewer, part, taken).await;
        assert!(report.is_clean() && report.legs.is_empty(), "{report:?}");
        assert_eq!(link_names(&containers[8]), ["lo".to_owned()].into());
        assert_eq!(defaults(&containers[8]), ["", ""]);
        let report = gateway.reconcile(Some(&fewer)).await;
        assert_eq!((report.ops, &report.legs), (0, &legs));
    });
}
