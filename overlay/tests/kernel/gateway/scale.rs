//! How long things take. Figures are printed; only what no machine should miss is asserted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Instant;

use weft_overlay::gateway::{GatewaySpec, MeshEntry, MeshSpec};

use super::*;
use crate::scale::NO_MACHINE;

pub(super) const CASES: &[Case] = &[
    ("a_hundred_legs_take_little_time", many_legs),
    ("four_thousand_nodes_take_little_time", many_nodes),
];

const LEGS: usize = 100;

fn many_legs() {
    run(async {
        let lab = Lab::new();
        let host = lab.host("h1");
        let mut gateway = gateway(&host);
        let keys: Vec<String> = (0..LEGS).map(|n| format!("leg-{n}")).collect();
        let containers: Vec<PathBuf> = keys.iter().map(|key| lab.namespace(key)).collect();
        let all: Vec<(&str, &PathBuf)> = keys.iter().map(String::as_str).zip(&containers).collect();
        gateway.reconcile(Some(&spec(&[]))).await;
        let mut times = Vec::new();
        for count in 1..=20 {
            let start = Instant::now();
            let report = gateway.reconcile(Some(&spec(&all[..count]))).await;
            times.push(start.elapsed());
            assert!(report.is_clean(), "{report:?}");
        }
        times.sort();
        let wanted = spec(&all);
        let start = Instant::now();
        let report = gateway.reconcile(Some(&wanted)).await;
        let rest = start.elapsed();
        assert!(report.is_clean() && report.legs.len() == LEGS, "{report:?}");
        let start = Instant::now();
        let again = gateway.reconcile(Some(&wanted)).await;
        let looked = start.elapsed();
        assert_eq!(again.ops, 0);
        println!(
            "attach of one leg: median {:?}, worst of 20 {:?}; 80 more legs: {} ops in {rest:?}; \
             nothing to do for {LEGS} legs: {looked:?}",
            times[10], times[19], report.ops
        );
        assert!(times[10] < NO_MACHINE, "{times:?}");
        assert!(looked < NO_MACHINE, "{looked:?}");
        let ports = sh(&hub(&host), "ip -o link show master br0 | wc -l");
        assert_eq!(ports.trim(), (LEGS + 1).to_string());
    });
}

fn many_nodes() {
    run(async {
        let lab = Lab::new();
        let host = lab.host("h1");
        let netns = &host.netns;
        sh(
            netns,
            &format!("ip link add {MESH} type veth peer name far; ip link set far up"),
        );
        sh(
            netns,
            &format!("ip link set {MESH} up; ip addr add 10.0.255.1/16 dev {MESH}"),
        );
        let mut entries = BTreeMap::new();
        for node in 1..=4095u16 {
            let [high, low] = node.to_be_bytes();
            let via4 = Some(Ipv4Addr::new(10, 0, high, low));
            let via6 = format!("fd77:6566:7401::{node:x}").parse().ok();
            entries.insert(node, MeshEntry { via4, via6 });
        }
        let ifname = MESH.to_owned();
        let mut wanted = GatewaySpec {
            mesh: Some(MeshSpec { ifname, entries }),
            ..spec(&[])
        };
        let mut gateway = gateway(&host);
        let mut timed = Vec::new();
        for change in 0..3 {
            if let (2, Some(mesh)) = (change, &mut wanted.mesh) {
                mesh.entries.remove(&77);
            }
            let start = Instant::now();
            let report = gateway.reconcile(Some(&wanted)).await;
            timed.push((report.ops, start.elapsed()));
            assert!(report.is_clean(), "{report:?}");
        }
        println!("4095 nodes, then nothing to do, then one less (changes, time): {timed:?}");
        assert!(
            timed[0].0 > 4 * 4095 && timed[1].0 == 0 && timed[2].0 == 4,
            "{timed:?}"
        );
        assert!(timed[0].1 < NO_MACHINE, "{timed:?}");
        for (node, via) in [
            (1u32, "10.0.0.1"),
            (300, "10.0.1.44"),
            (4095, "10.0.15.255"),
        ] {
            let mark = node << 12;
            let found = sh(netns, &format!("ip route get 203.0.113.7 mark {mark:#x}"));
            assert!(found.contains(&format!("via {via} dev {MESH}")), "{found}");
        }
    });
}
