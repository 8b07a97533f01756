//! What somebody else changed by hand is put right.

use super::life::{Place, port, portrait, with_mesh};
use super::*;

pub(super) const CASES: &[Case] = &[(
    "what_was_changed_by_hand_at_a_gateway_is_put_right",
    by_hand,
)];

/// Where something goes wrong.
#[derive(Clone, Copy)]
enum At {
    Host,
    Hub,
    Container,
}

const WRONG: &[(At, &[&str])] = &[
    (
        At::Hub,
        &[
            "ip link set br0 down",
            "ip link set br0 mtu 1300",
            "ip link set br0 type bridge mcast_snooping 1",
            "ip link del br0",
            "ip link del br0; ip link add br0 type veth peer name x9",
            "ip link set uplink down",
            "ip link set uplink nomaster",
            "ip link set uplink mtu 1300",
            "ip link set uplink alias nonsense",
            "ip link del uplink",
            "ip link del uplink; ip link add uplink type bridge",
            "ip link set PORT down",
            "ip link set PORT nomaster",
            "ip link set PORT mtu 1300",
            "ip link set PORT alias nonsense",
            "ip link set dev PORT type bridge_slave isolated off",
            "ip link del PORT",
            "ip link del PORT; ip link add PORT type bridge",
            "ip link add wfg0123456789ab type veth peer name x8",
            "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables",
        ],
    ),
    (
        At::Host,
        &[
            "ip link set weft-gw down",
            "ip link set weft-gw mtu 1300",
            "ip link set weft-gw address 02:00:00:00:00:07",
            "ip addr flush dev weft-gw",
            "ip addr add 192.168.240.9/20 dev weft-gw",
            "ip addr del 192.168.240.1/20 dev weft-gw; ip addr add 192.168.240.9/20 dev weft-gw",
            "ip addr del fe80::1/64 dev weft-gw",
            "ip link del weft-gw",
            "ip link del weft-gw; ip link add weft-gw type bridge",
            "ip link set weft-gw down; ip link set weft-gw name gone0",
            "ip link add wfg0123456789ab type veth peer name x8",
            "ip rule flush; ip rule add pref 32766 lookup main; ip rule add pref 32767 lookup default",
            "ip rule del pref 200",
            "ip -6 rule del pref 474",
            "ip rule add pref 777 fwmark 7 lookup 7 proto 119",
            "ip rule add pref 778 iif lo blackhole proto 119",
            "ip rule add pref 218 iif lo fwmark 0x1000/0xfff000 lookup 2003173377 proto 119",
            "ip -6 rule add pref 778 not from fd00::/8 lookup 7 proto 119",
            "ip route flush table 2003173377",
            "ip -6 route flush table 2003173377",
            "ip route replace default via 10.0.0.9 dev wf-ingress table 2003173377 proto 119",
            "ip route add 10.7.0.0/16 via 10.0.0.3 table 2003173377 proto 119",
            "ip route add blackhole default metric 9 table 2003173377 proto 119",
            "ip -6 route add default dev wf-ingress table 5 proto 119",
            "ip -6 route del local ::1 dev weft-gw table local",
            "ip -6 route del local ::1 dev wf-ingress table local",
            "ip link set wf-ingress down; ip link set wf-ingress up",
            "echo 0 > /proc/sys/net/ipv4/ip_forward",
            "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
            "echo 0 > /proc/sys/net/ipv4/conf/weft-gw/route_localnet",
            "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter",
            "echo 1 > /proc/sys/net/ipv6/conf/weft-gw/disable_ipv6",
            "echo 2 > /proc/sys/net/ipv6/conf/weft-gw/accept_ra",
        ],
    ),
    (
        At::Container,
        &[
            "ip link set wfgw down",
            "ip link set wfgw mtu 1300",
            "ip link set wfgw address 02:00:00:00:00:07",
            "ip link set wfgw down; ip link set wfgw name gone0",
            "ip link del wfgw",
            "ip addr flush dev wfgw",
            "ip addr add 192.168.240.77/20 dev wfgw",
            "ip addr del 192.168.240.2/20 dev wfgw; ip addr add 192.168.240.77/20 dev wfgw",
            "ip addr del 192.168.240.2/20 dev wfgw; ip addr add 192.168.240.2/24 dev wfgw",
            "ip addr add 10.9.9.9/24 dev wfgw",
            "echo 1 > /proc/sys/net/ipv6/conf/wfgw/disable_ipv6",
            "ip rule del pref 119",
            "ip -6 rule del pref 119",
            "ip rule del pref 120",
            "ip -6 rule del pref 121",
            "ip rule add pref 118 from 192.168.240.3 lookup main proto 120",
            "ip rule add pref 121 ipproto udp sport 99 lookup main proto 120",
            "ip route flush table 2003238912",
            "ip -6 route flush table 2003238912",
            "ip route add blackhole 10.0.0.0/8 table 2003238912 proto 120",
        ],
    ),
];

fn by_hand() {
    run(async {
        let place = Place::new();
        let mut spec = with_mesh(&place);
        spec.udp_ports = [("leg-a".to_owned(), [53, 54, 99].into())].into();
        let first = settle(&place.host, Some(&spec)).await;
        set_switch(&place.host.netns, "ipv4/conf/all/rp_filter", "0");
        let wanted = portrait(&place);
        for (at, lines) in WRONG {
            let netns = match at {
                At::Host => place.host.netns.clone(),
                At::Hub => hub(&place.host),
                At::Container => place.containers[0].clone(),
            };
            for line in *lines {
                sh(&netns, &line.replace("PORT", &port("leg-a")));
                let report = settle(&place.host, Some(&spec)).await;
                assert!(report.ops > 0, "{line}: not noticed");
                assert_eq!(report.legs, first.legs, "{line}");
                assert_eq!(portrait(&place), wanted, "{line}");
            }
        }
        // The hub's file without its mount is a new start. The old namespace ends in its own time;
        // until then it holds the containers' interfaces.
        nix::mount::umount2(&hub(&place.host), nix::mount::MntFlags::MNT_DETACH).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !apply(&place.host, Some(&spec)).await.is_clean() {
            assert!(Instant::now() < deadline, "the old namespace does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        settle(&place.host, Some(&spec)).await;
        assert_eq!(portrait(&place), wanted, "after the mount was lost");
        // What others made stays: in the host and in a container.
        let others = [
            (
                &place.host.netns,
                "ip rule add pref 150 from 10.1.1.1 lookup 500",
            ),
            (
                &place.host.netns,
                "ip route add 10.7.0.0/16 dev wf-ingress table 500",
            ),
            (&place.host.netns, "ip link add wfother type bridge"),
            (&place.containers[0], "ip rule add pref 5000 lookup 52"),
            (
                &place.containers[0],
                "ip route add 10.7.0.0/16 dev wfgw table 52",
            ),
            (
                &place.containers[0],
                "ip rule add pref 200 fwmark 1 lookup 53 proto 119",
            ),
        ];
        for (netns, line) in others {
            sh(netns, line);
            assert_eq!(settle(&place.host, Some(&spec)).await.ops, 0, "{line}");
        }
    });
}
