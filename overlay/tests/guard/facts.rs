//! What the host's facts say of a real network stack, and when they say it anew.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::route::{RouteAttribute, RouteMetric, RouteType};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use serde_json::Value;
use weft_overlay::host::{HostFacts, facts, monitor, mtu_to};

use super::ns::{DEADLINE, Ns, add_address, index_of, ip, join, set_up};
use super::readers::ip_json;

crate::cases!(
    facts_agree_with_iproute2,
    a_temporary_or_deprecated_address_is_not_stable,
    routes_are_the_foreign_ones_of_the_main_table,
    the_path_mtu_is_the_least_of_device_and_route,
    the_path_mtu_is_learned_from_a_router,
    changes_are_told_by_the_burst,
    own_links_come_and_go_unnoticed,
    word_of_a_change_survives_cancellation,
);

/// A host with two links to others, one of them jumbo.
fn host() -> (Ns, [Ns; 2]) {
    let (host, near, far) = (Ns::new(), Ns::new(), Ns::new());
    join(
        "eth0",
        (&host, &["198.18.0.1/24", "2001:db8::1/64"]),
        (&near, &["198.18.0.2/24", "2001:db8::2/64"]),
    );
    join(
        "eth1",
        (&host, &["198.18.1.1/24", "198.18.1.9/24"]),
        (&far, &["198.18.1.2/24"]),
    );
    host.link(|handle| async move {
        let jumbo = LinkUnspec::new_with_name("eth1").mtu(9000).build();
        handle.link().change(jumbo).execute().await.unwrap();
    });
    (host, [near, far])
}

fn facts_of(ns: &Ns) -> HostFacts {
    ns.wait_for(facts).unwrap()
}

fn add_route(ns: &Ns, route: netlink_packet_route::route::RouteMessage) {
    ns.link(|handle| async move { handle.route().add(route).execute().await.unwrap() });
}

fn facts_agree_with_iproute2() {
    let (host, _others) = host();
    host.link(|handle| async move {
        let veth = LinkVeth::new("idle", "idle-peer").build();
        handle.link().add(veth).execute().await.unwrap();
    });
    let read = facts_of(&host);
    let by_ip = ip_json(&host, &["-d", "address"]);
    let links = by_ip.as_array().unwrap();
    assert_eq!(read.links.len(), links.len());
    let mut addresses = BTreeSet::new();
    for (ours, theirs) in read.links.iter().zip(links) {
        let flag = |name: &str| theirs["flags"].as_array().unwrap().contains(&name.into());
        assert_eq!(ours.name, theirs["ifname"]);
        assert_eq!(ours.index, theirs["ifindex"]);
        assert_eq!(ours.mtu, theirs["mtu"]);
        assert_eq!(
            (ours.up, ours.carrier, ours.loopback),
            (flag("UP"), flag("LOWER_UP"), flag("LOOPBACK")),
            "{theirs}"
        );
        let kind = ours.kind.as_deref().map_or(Value::Null, Value::from);
        assert_eq!(kind, theirs["linkinfo"]["info_kind"]);
        for info in theirs["addr_info"].as_array().unwrap() {
            let local = info["local"].as_str().unwrap();
            addresses.insert((ours.index, format!("{local}/{}", info["prefixlen"])));
        }
    }
    let ours = read
        .addresses
        .iter()
        .map(|a| (a.ifindex, a.address.to_string()));
    assert_eq!(ours.collect::<BTreeSet<_>>(), addresses);
    assert_eq!(read.mtu_for(ip("198.18.1.9")), Some(9000));
    assert_eq!(read.pick_advertise(Some("eth0")), Ok(ip("198.18.0.1")));
    assert!(read.pick_advertise(None).is_err());
}

fn a_temporary_or_deprecated_address_is_not_stable() {
    let (host, _others) = host();
    host.link(|handle| async move {
        use netlink_packet_route::address::{AddressAttribute, CacheInfo};
        let index = index_of(&handle, "eth0").await;
        let mut request = handle.address().add(index, ip("2001:db8::dead"), 64);
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_preferred = 0;
        lifetime.ifa_valid = 1000;
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::CacheInfo(lifetime));
        request.execute().await.unwrap();
    });
    let read = facts_of(&host);
    let stable = |address: &str| {
        read.addresses
            .iter()
            .find(|a| a.address.addr() == ip(address))
            .unwrap()
            .stable
    };
    assert!(stable("198.18.0.1"));
    // The second address of a subnet has a flag that for IPv6 means temporary.
    assert!(stable("198.18.1.9"));
    assert!(stable("2001:db8::1"));
    assert!(!stable("2001:db8::dead"));
}

fn routes_are_the_foreign_ones_of_the_main_table() {
    let (host, _others) = host();
    let v4 = |to: &str| {
        let to: ipnet::Ipv4Net = to.parse().unwrap();
        RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to.addr(), to.prefix_len())
    };
    let via = Ipv4Addr::new(198, 18, 0, 2);
    add_route(&host, v4("0.0.0.0/0").gateway(via).build());
    add_route(&host, v4("0.0.0.0/1").gateway(via).build());
    add_route(&host, v4("10.20.0.0/16").gateway(via).build());
    add_route(&host, v4("10.20.30.0/24").gateway(via).build());
    add_route(&host, v4("10.99.0.0/16").gateway(via).table_id(77).build());
    add_route(&host, v4("10.66.0.0/16").kind(RouteType::BlackHole).build());
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix("2001:db8:77::".parse().unwrap(), 48)
        .gateway("2001:db8::2".parse().unwrap());
    add_route(&host, v6.build());
    host.link(|handle| async move {
        let own = LinkVeth::new("weft-gw", "wfx").build();
        handle.link().add(own).execute().await.unwrap();
        add_address(&handle, "weft-gw", "172.31.0.1/16".parse().unwrap()).await;
        set_up(&handle, "weft-gw").await;
        set_up(&handle, "wfx").await;
    });
    let wanted = [
        "10.20.0.0/16",
        "10.66.0.0/16",
        "198.18.0.0/23",
        "2001:db8::/64",
        "2001:db8:77::/48",
    ];
    let read = facts_of(&host);
    let wanted: Vec<IpNet> = wanted.iter().map(|net| net.parse().unwrap()).collect();
    assert_eq!((read.routes, read.routes_omitted), (wanted, 0));
}

fn path_mtu(ns: &Ns, peer: &str) -> Option<u32> {
    let peer: IpAddr = ip(peer);
    ns.wait_for(move || mtu_to(peer)).unwrap()
}

fn the_path_mtu_is_the_least_of_device_and_route() {
    let (host, _others) = host();
    assert_eq!(path_mtu(&host, "198.18.0.2"), Some(1500));
    assert_eq!(path_mtu(&host, "198.18.1.2"), Some(9000));
    assert_eq!(path_mtu(&host, "2001:db8::2"), Some(1500));
    assert_eq!(path_mtu(&host, "203.0.113.1"), None, "no route");
    assert_eq!(path_mtu(&host, "2001:db8:ff::1"), None, "no route");
    let narrow = |mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
    let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::new(203, 0, 113, 0), 24)
        .gateway(Ipv4Addr::new(198, 18, 1, 2))
        .build();
    route.attributes.push(narrow(1400));
    add_route(&host, route);
    assert_eq!(path_mtu(&host, "203.0.113.1"), Some(1400));
    let unreachable = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::new(192, 0, 2, 0), 24)
        .kind(RouteType::BlackHole);
    add_route(&host, unreachable.build());
    assert_eq!(path_mtu(&host, "192.0.2.1"), None, "a route that refuses");
}

fn the_path_mtu_is_learned_from_a_router() {
    let (host, [router, _far]) = host();
    let behind = Ns::new();
    join(
        "eth1",
        (&router, &["198.18.2.1/24"]),
        (&behind, &["198.18.2.2/24"]),
    );
    router.0.set_sysctl("ipv4/ip_forward", "1").unwrap();
    router.link(|handle| async move {
        let narrow = LinkUnspec::new_with_name("eth1").mtu(1280).build();
        handle.link().change(narrow).execute().await.unwrap();
    });
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(Ipv4Addr::new(198, 18, 2, 0), 24)
        .gateway(Ipv4Addr::new(198, 18, 0, 2))
        .build();
    add_route(&host, route);
    assert_eq!(path_mtu(&host, "198.18.2.2"), Some(1500));
    host.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(&[0; 1400], "198.18.2.2:9").unwrap();
    });
    let start = std::time::Instant::now();
    while path_mtu(&host, "198.18.2.2") != Some(1280) {
        assert!(
            start.elapsed() < DEADLINE,
            "the router's answer did not come"
        );
    }
}

fn changes_are_told_by_the_burst() {
    // Of loopback, which unlike other links has no late changes of its own after it came up.
    let host = Ns::new();
    host.link(|handle| async move {
        let mut changes = monitor().unwrap();
        let index = index_of(&handle, "lo").await;
        for round in 0..3u8 {
            for host in 10..40u8 {
                let address = IpAddr::from([198, 18, 0, host + round * 30]);
                handle
                    .address()
                    .add(index, address, 24)
                    .execute()
                    .await
                    .unwrap();
            }
            tokio::time::timeout(DEADLINE, changes.next())
                .await
                .expect("word in time")
                .unwrap();
            // A machine that is busy with something else may make two bursts of one.
            let mut words = 1;
            while tokio::time::timeout(Duration::from_millis(200), changes.next())
                .await
                .is_ok()
            {
                words += 1;
            }
            assert!(words < 15, "{words} words of 30 changes");
        }
        let down = LinkUnspec::new_with_name("lo").down().build();
        handle.link().change(down).execute().await.unwrap();
        tokio::time::timeout(DEADLINE, changes.next())
            .await
            .expect("word in time")
            .unwrap();
    });
}

fn own_links_come_and_go_unnoticed() {
    let host = Ns::new();
    host.link(|handle| async move {
        let mut changes = monitor().unwrap();
        let own = LinkVeth::new("wf0123", "wf0123p").build();
        handle.link().add(own).execute().await.unwrap();
        let index = index_of(&handle, "wf0123").await;
        handle.link().del(index).execute().await.unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(300), changes.next()).await;
        assert!(quiet.is_err(), "own links are no news");
    });
}

fn word_of_a_change_survives_cancellation() {
    let host = Ns::new();
    host.link(|handle| async move {
        let mut changes = monitor().unwrap();
        add_address(&handle, "lo", "203.0.113.1/32".parse().unwrap()).await;
        // Long enough to see the change, too short to see the burst's end, on a machine that does
        // not stand still meanwhile.
        let given_up = tokio::time::timeout(Duration::from_millis(10), changes.next()).await;
        if given_up.is_err() {
            tokio::time::timeout(DEADLINE, changes.next())
                .await
                .expect("word in time")
                .unwrap();
        }
    });
}
