//! Switches of the host.

use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Type};

use super::*;

pub(super) const CASES: &[Case] = &[
    (
        "a_host_keeps_its_router_when_it_begins_to_forward",
        router_kept,
    ),
    ("switches_are_set_only_when_needed", only_when_needed),
];

/// A router advertisement (RFC 4861 section 4.2) from the second host to the first.
fn advertise(netns: &Path, lifetime: u16) {
    let index: u32 = link(netns, "u0")["ifindex"]
        .as_u64()
        .unwrap()
        .try_into()
        .unwrap();
    let netns = Netns::open(netns).unwrap();
    let icmp = Some(Protocol::ICMPV6);
    let socket = netns.socket(Domain::IPV6, Type::RAW, icmp).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    socket.set_multicast_if_v6(index).unwrap();
    let [high, low] = lifetime.to_be_bytes();
    let advertisement = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    let all_nodes = std::net::SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
    socket
        .send_to(&advertisement, &SockAddr::from(all_nodes))
        .unwrap();
}

fn has_router(netns: &Path) -> bool {
    sh(netns, "ip -6 route show default").contains("via fe80::2 dev u0 proto ra")
}

/// Advertises until the host has a router, or has none.
fn wait_for_router(hosts: &[Host; 2], wanted: bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while has_router(&hosts[0].netns) != wanted {
        assert!(Instant::now() < deadline, "router: {}", !wanted);
        advertise(&hosts[1].netns, if wanted { 1800 } else { 0 });
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn router_kept() {
    run(async {
        let lab = Lab::new();
        let hosts = lab.two_hosts();
        let host = &hosts[0].netns;
        sh(&hosts[1].netns, "ip addr add fe80::2/64 dev u0 nodad");
        sh(host, "ip link add deaf type veth peer name deaf1");
        set_switch(host, "ipv6/conf/deaf/accept_ra", "0");
        wait_for_router(&hosts, true);
        settle(&hosts[0], Some(&spec(&[]))).await;
        assert_eq!(switch(host, "ipv6/conf/all/forwarding"), "1");
        assert!(has_router(host), "the default route is lost");
        let accept = |name: &str| switch(host, &format!("ipv6/conf/{name}/accept_ra"));
        assert_eq!(
            [
                accept("u0"),
                accept("deaf"),
                accept("default"),
                accept(HOST_END)
            ],
            ["2", "0", "1", "0"]
        );
        // It is still followed.
        wait_for_router(&hosts, false);
        wait_for_router(&hosts, true);
        // Once the host forwards, who follows is not ours to say.
        set_switch(host, "ipv6/conf/u0/accept_ra", "1");
        assert_eq!(settle(&hosts[0], Some(&spec(&[]))).await.ops, 0);
    });
}

fn only_when_needed() {
    run(async {
        let lab = Lab::new();
        let hosts = lab.two_hosts();
        let host = &hosts[0].netns;
        for scope in ["all", "default"] {
            set_switch(host, &format!("ipv4/conf/{scope}/rp_filter"), "0");
        }
        settle(&hosts[0], Some(&spec(&[]))).await;
        let check = |scope: &str| switch(host, &format!("ipv4/conf/{scope}/rp_filter"));
        assert_eq!(
            [check("all"), check(HOST_END), check("u0")],
            ["0", "0", "0"]
        );
        assert_eq!(switch(host, "ipv4/ip_forward"), "1");
        assert_eq!(
            switch(host, &format!("ipv4/conf/{HOST_END}/route_localnet")),
            "1"
        );
        assert_eq!(switch(host, "ipv4/conf/u0/route_localnet"), "0");
        set_switch(host, "ipv4/conf/all/rp_filter", "1");
        assert_eq!(settle(&hosts[0], Some(&spec(&[]))).await.ops, 1);
        assert_eq!(
            [check("all"), check(HOST_END), check("u0")],
            ["1", "2", "0"]
        );
        // They stay when the gateway goes: others may have come to rely on them.
        settle(&hosts[0], None).await;
        assert_eq!(switch(host, "ipv4/ip_forward"), "1");
    });
}
