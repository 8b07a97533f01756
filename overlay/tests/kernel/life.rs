//! Networks and endpoints come and go.

use weft_overlay::{Scope, Spec};

use crate::lab::*;

pub(crate) const CASES: &[(&str, fn())] = &[
    (
        "a_network_is_made_as_designed_and_then_left_alone",
        made_as_designed,
    ),
    ("a_crash_after_any_change_is_repaired", crash_points),
    (
        "an_agent_that_starts_again_adopts_and_loses_no_packet",
        adoption,
    ),
    ("removing_an_endpoint_takes_only_its_veth", endpoint_removed),
    ("removing_a_network_leaves_nothing", network_removed),
    (
        "a_network_that_failed_does_not_stop_another",
        failures_are_apart,
    ),
    (
        "a_namespace_that_is_gone_is_reported_and_its_port_removed",
        namespace_gone,
    ),
    (
        "a_path_that_means_another_namespace_is_gone",
        namespace_replaced,
    ),
    (
        "a_name_that_is_taken_in_the_container_is_refused_and_left",
        name_taken,
    ),
    (
        "an_interface_gets_its_ipv6_address_where_ipv6_is_turned_off",
        ipv6_off,
    ),
    ("what_a_crash_left_in_the_host_is_removed", host_leftovers),
    ("what_the_kernel_offers_is_known", features),
];

fn made_as_designed() {
    run(async {
        let pair = Pair::new();
        pair.settle().await;
        let sandbox = pair.hosts[0].sandbox();
        let bridge = link(&sandbox, "br0");
        let data = &bridge["linkinfo"]["info_data"];
        assert_eq!(bridge["mtu"], 1450);
        assert_eq!(data["mcast_snooping"], 0);
        // Kernels without VLAN filtering do not tell.
        assert!(matches!(data["vlan_default_pvid"].as_u64(), None | Some(0)));
        let vxlan = link(&sandbox, "vxlan0");
        let data = &vxlan["linkinfo"]["info_data"];
        assert_eq!(
            (&data["id"], &data["port"]),
            (&4097.into(), &VXLAN_PORT.into()),
            "{data}"
        );
        assert_eq!(
            (&data["local"], &data["ttl"]),
            (&"198.18.0.1".into(), &64.into()),
            "{data}"
        );
        assert_eq!(
            (&data["learning"], &data["proxy"]),
            (&false.into(), &true.into()),
            "{data}"
        );
        assert_eq!(data["udp_csum"], false, "{data}");
        assert_eq!(
            (&vxlan["master"], &vxlan["mtu"]),
            (&"br0".into(), &1450.into())
        );
        for name in ["br0", "vxlan0", &port_name(2)] {
            assert_eq!(
                link(&sandbox, name)["inet6_addr_gen_mode"],
                "none",
                "{name}"
            );
            assert_eq!(
                sh(
                    &sandbox,
                    &format!("ip addr show dev {name} | grep inet; true")
                ),
                ""
            );
        }
        let port = link(&sandbox, &port_name(2));
        assert_eq!(port["ifalias"], format!("weft:{}", endpoint_id(2)));
        assert_eq!(port["linkinfo"]["info_slave_data"]["learning"], false);
        let eth0 = link(&pair.containers[0], "eth0");
        assert_eq!(eth0["address"], mac(2).to_string());
        assert_eq!(
            (&eth0["mtu"], &eth0["gso_max_segs"]),
            (&1450.into(), &31.into())
        );
        let addresses = sh(&pair.containers[0], "ip -o addr show dev eth0");
        assert!(addresses.contains("10.0.1.2/24") && addresses.contains("fd11::2/64"));
        let switches = "cat /proc/sys/net/bridge/bridge-nf-call-*tables";
        assert_eq!(sh(&sandbox, switches), "0\n0\n0\n");
        let fdb = sh(&sandbox, "bridge fdb show dev vxlan0");
        assert!(fdb.contains(&format!(
            "{} dst 198.18.0.2 link-netnsid 0 self permanent",
            mac(3)
        )));
        assert!(
            fdb.contains(&format!("{} master br0 static", mac(3))),
            "{fdb}"
        );
        assert!(!fdb.contains("00:00:00:00:00:00"), "{fdb}");
        let neighbours = sh(&sandbox, "ip neigh show dev vxlan0");
        assert_eq!(
            neighbours.matches(&mac(3).to_string()).count(),
            2,
            "{neighbours}"
        );
        assert_eq!(neighbours.matches("PERMANENT").count(), 2, "{neighbours}");
        assert_eq!(
            link_names(&pair.hosts[0].netns),
            ["lo".to_owned(), "u0".to_owned()].into()
        );
    });
}

/// What a network looks like to an independent reader, without what differs from one making to the
/// next: indices, random MAC addresses, counters.
fn portrait(pair: &Pair) -> String {
    let sandbox = pair.hosts[0].sandbox();
    let own = "grep -v -e 33:33: -e 01:00:5e: -e permanent$ | sort";
    let mut lines = vec![
        sh(&sandbox, &format!("bridge fdb show | {own}")),
        sh(&sandbox, "bridge fdb show dev vxlan0 | grep self | sort"),
        sh(&sandbox, "ip neigh show nud permanent | sort"),
        sh(&sandbox, "cat /proc/sys/net/bridge/bridge-nf-call-*tables"),
        sh(
            &pair.containers[0],
            "ip -o addr | grep -v fe80 | sed 's/^[0-9]*: //' | sort",
        ),
    ];
    let links = [
        (&sandbox, "br0".to_owned()),
        (&sandbox, "vxlan0".to_owned()),
    ]
    .into_iter()
    .chain([(&sandbox, port_name(2)), (&sandbox, port_name(4))])
    .chain([(&pair.containers[0], "eth0".to_owned())]);
    for (netns, name) in links {
        let found = link(netns, &name);
        let up = found["flags"].to_string().contains("\"UP\"");
        let slave = &found["linkinfo"]["info_slave_data"];
        let data = &found["linkinfo"]["info_data"];
        let vxlan = [
            "id", "local", "port", "learning", "proxy", "ttl", "udp_csum",
        ]
        .map(|k| &data[k]);
        lines.push(format!(
            "{name} {} {up} {} {} {} {} {vxlan:?}",
            found["mtu"],
            found["master"],
            found["ifalias"],
            found["gso_max_segs"],
            slave["learning"],
        ));
    }
    lines.join("\n")
}

fn crash_points() {
    run(async {
        let mut pair = Pair::new();
        let third = pair.lab.namespace("c3");
        attach(&mut pair.specs, 1, &third, 4);
        let spec = pair.spec(0);
        let host = &pair.hosts[0];
        let ops = host.settle(&spec).await;
        assert!(ops > 15, "{ops}");
        let wanted = portrait(&pair);
        let nothing = Spec::new();
        for limit in 0..=ops {
            host.settle(&nothing).await;
            let whole = host
                .overlay()
                .await
                .reconcile_up_to(&spec, NETWORK, limit)
                .await;
            assert_eq!(whole, limit >= ops, "{limit} of {ops}");
            host.settle(&spec).await;
            assert_eq!(
                portrait(&pair),
                wanted,
                "after a crash behind {limit} of {ops}"
            );
        }
        // Removal is cut short as well.
        for limit in 0..5 {
            host.settle(&spec).await;
            host.overlay()
                .await
                .reconcile_up_to(&nothing, NETWORK, limit)
                .await;
            host.settle(&spec).await;
            assert_eq!(
                portrait(&pair),
                wanted,
                "after a crash behind removal {limit}"
            );
            host.overlay()
                .await
                .reconcile_up_to(&nothing, NETWORK, limit)
                .await;
            host.settle(&nothing).await;
            assert!(!link_names(&pair.containers[0]).contains("eth0"));
        }
    });
}

fn adoption() {
    run(async {
        let pair = Pair::new();
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        let running = RunningPing::start(&pair.containers[0], address(3));
        for _ in 0..25 {
            let report = pair.hosts[0].apply(&pair.spec(0)).await;
            assert_eq!((report.ops, report.is_clean()), (0, true), "{report:?}");
        }
        let (sent, lost) = running.stop();
        assert!(sent > 20 && lost == 0, "{lost} of {sent} lost");
    });
}

fn endpoint_removed() {
    run(async {
        let mut pair = Pair::new();
        let third = pair.lab.namespace("c3");
        attach(&mut pair.specs, 1, &third, 4);
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)) && pings(&third, address(3)));
        let index = link(&pair.hosts[0].sandbox(), "vxlan0")["ifindex"].clone();
        let running = RunningPing::start(&pair.containers[0], address(3));
        pair.specs[0].locals.remove(&endpoint_id(4));
        pair.specs[1].remotes.remove(&mac(4));
        assert_eq!(pair.hosts[0].settle(&pair.spec(0)).await, 1);
        // Two neighbours, a forwarding entry and a bridge entry.
        assert_eq!(pair.hosts[1].settle(&pair.spec(1)).await, 4);
        let (sent, lost) = running.stop();
        assert!(sent > 5 && lost == 0, "{lost} of {sent} lost");
        assert_eq!(link_names(&third), ["lo".to_owned()].into());
        let sandbox = pair.hosts[0].sandbox();
        assert!(!link_names(&sandbox).contains(&port_name(4)));
        assert_eq!(link(&sandbox, "vxlan0")["ifindex"], index);
    });
}

fn network_removed() {
    run(async {
        let pair = Pair::new();
        let before = link_names(&pair.hosts[0].netns);
        pair.settle().await;
        // Somebody looks into the sandbox meanwhile: its namespace lives on without its name.
        let held = weft_netns::Netns::open(&pair.hosts[0].sandbox()).unwrap();
        let scope = Scope::Networks([NETWORK.to_owned()].into());
        let report = pair.hosts[0]
            .overlay()
            .await
            .reconcile(&Spec::new(), scope)
            .await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!(
            std::fs::read_dir(&pair.hosts[0].sandboxes).unwrap().count(),
            0
        );
        assert_eq!(link_names(&pair.hosts[0].netns), before);
        assert_eq!(link_names(&pair.containers[0]), ["lo".to_owned()].into());
        // The VNI is free at once.
        pair.hosts[0].settle(&pair.spec(0)).await;
        drop(held);
        assert!(pings(&pair.containers[0], address(3)));
    });
}

fn failures_are_apart() {
    run(async {
        let pair = Pair::new();
        let mut spec = pair.spec(0);
        let mut bad = sandbox_spec(1);
        bad.locals.clear();
        spec.insert(OTHER.to_owned(), bad);
        let mut odd = sandbox_spec(1);
        odd.vni = 0;
        spec.insert("../../escape".to_owned(), odd.clone());
        spec.insert("netccccccccccccc".to_owned(), odd);
        // Two networks want one VNI: one gets it, the other's failure names it.
        let report = pair.hosts[0].apply(&spec).await;
        assert_eq!(report.failed.len(), 3, "{report:?}");
        let both = [NETWORK, OTHER].map(|id| report.failed.get(id).map(ToString::to_string));
        let [one] = both.iter().flatten().collect::<Vec<_>>()[..] else {
            panic!("{both:?}");
        };
        assert!(
            one.contains("create VXLAN device vxlan0 (VNI 4097"),
            "{one}"
        );
        assert!(
            report.failed["../../escape"]
                .to_string()
                .contains("a network id is")
        );
        assert!(
            report.failed["netccccccccccccc"]
                .to_string()
                .contains("VNI 0 is not")
        );
    });
}

fn namespace_gone() {
    run(async {
        let pair = Pair::new();
        pair.settle().await;
        weft_netns::delete(&pair.containers[0]).unwrap();
        let report = pair.hosts[0].apply(&pair.spec(0)).await;
        assert_eq!(report.endpoints_gone, [endpoint_id(2)].into(), "{report:?}");
        assert!(report.is_clean(), "{report:?}");
        assert!(!link_names(&pair.hosts[0].sandbox()).contains(&port_name(2)));
        let again = pair.hosts[0].apply(&pair.spec(0)).await;
        assert_eq!((again.ops, again.endpoints_gone.len()), (0, 1), "{again:?}");
    });
}

fn namespace_replaced() {
    run(async {
        let pair = Pair::new();
        pair.settle().await;
        let other = weft_netns::Netns::open(&pair.containers[0]).unwrap();
        weft_netns::delete(&pair.containers[0]).unwrap();
        weft_netns::create(&pair.containers[0]).unwrap();
        let report = pair.hosts[0].apply(&pair.spec(0)).await;
        assert_eq!(report.endpoints_gone, [endpoint_id(2)].into(), "{report:?}");
        assert_eq!(link_names(&pair.containers[0]), ["lo".to_owned()].into());
        drop(other);
    });
}

fn name_taken() {
    run(async {
        let pair = Pair::new();
        sh(
            &pair.containers[0],
            "ip link add eth0 type veth peer name other",
        );
        let index = link(&pair.containers[0], "eth0")["ifindex"].clone();
        let report = pair.hosts[0].apply(&pair.spec(0)).await;
        let line = &report.endpoints_failed[&endpoint_id(2)];
        assert!(line.contains("eth0 exists in the container"), "{line}");
        assert!(report.failed.is_empty(), "{report:?}");
        assert_eq!(link(&pair.containers[0], "eth0")["ifindex"], index);
        assert_eq!(link(&pair.containers[0], "eth0")["mtu"], 1500);
        sh(&pair.containers[0], "ip link del eth0");
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
    });
}

/// As Docker leaves a container whose networks have no IPv6.
fn ipv6_off() {
    run(async {
        let pair = Pair::new();
        let off = "echo 1 > /proc/sys/net/ipv6/conf";
        for scope in ["all", "default"] {
            sh(&pair.containers[0], &format!("{off}/{scope}/disable_ipv6"));
        }
        pair.settle().await;
        assert!(pings(&pair.containers[0], address6(3)));
        sh(&pair.containers[0], &format!("{off}/eth0/disable_ipv6"));
        assert!(pair.hosts[0].settle(&pair.spec(0)).await > 0);
        assert!(pings(&pair.containers[0], address6(3)));
        // The rest of the container stays as it is.
        let others = sh(
            &pair.containers[0],
            "cd /proc/sys/net/ipv6/conf && cat all/disable_ipv6 default/disable_ipv6 lo/disable_ipv6",
        );
        assert_eq!(others, "1\n1\n1\n");
    });
}

fn host_leftovers() {
    run(async {
        let pair = Pair::new();
        let host = &pair.hosts[0];
        let name = weft_overlay::plan::names::host_vxlan(NETWORK);
        let vxlan = "type vxlan id 4097 dstport 4789 local 198.18.0.1";
        sh(
            &host.netns,
            &format!("ip link add {name} {vxlan} && ip link set {name} up"),
        );
        sh(
            &host.netns,
            "ip link add wfabcaaaaaaaaaa type veth peer name wfpeer",
        );
        sh(
            &host.netns,
            "ip link set wfabcaaaaaaaaaa alias weft:abcaaaaaaaaaaaaa",
        );
        sh(
            &host.netns,
            "ip link add wfother type bridge && ip link add weft-gw type bridge",
        );
        host.settle(&pair.spec(0)).await;
        let names = link_names(&host.netns);
        let wanted = ["lo", "u0", "wfother", "weft-gw"].map(str::to_owned);
        assert_eq!(names, wanted.into());
        // A reconciliation of the one network removes its own too.
        sh(
            &host.netns,
            &format!("ip link add {name} type vxlan id 9 dstport 4789"),
        );
        let scope = Scope::Networks([NETWORK.to_owned()].into());
        let report = host.overlay().await.reconcile(&pair.spec(0), scope).await;
        assert_eq!(report.ops, 1, "{report:?}");
        // Files that no network has made a namespace on go as well.
        std::fs::write(host.sandboxes.join("netzzzzzzzzzzzzz"), "").unwrap();
        host.settle(&pair.spec(0)).await;
        assert_eq!(std::fs::read_dir(&host.sandboxes).unwrap().count(), 1);
    });
}

fn features() {
    run(async {
        let lab = Lab::new();
        let overlay = lab.host("h1").overlay().await;
        let list = &overlay.features().list;
        let names: Vec<&str> = list.iter().map(|feature| feature.name).collect();
        assert_eq!(names, ["netns", "bridge", "vxlan", "veth"]);
        assert!(
            list.iter().all(|feature| feature.missing.is_none()),
            "{list:?}"
        );
    });
}
