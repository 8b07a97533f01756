//! What somebody else changed by hand is put right.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_overlay::Spec;

use crate::lab::*;

pub(crate) const CASES: &[(&str, fn())] = &[
    ("what_was_changed_by_hand_is_put_right", by_hand),
    ("what_can_be_changed_in_place_loses_no_packet", in_place),
    ("the_mtu_changes_under_traffic", mtu_changes),
    ("the_tunnel_address_changes_in_place", vtep_changes),
];

/// Something that goes wrong, and whether in the container instead of the sandbox.
const WRONG: &[(bool, &str)] = &[
    (false, "bridge fdb del 02:42:0a:00:01:03 dev vxlan0 self"),
    (false, "bridge fdb del 02:42:0a:00:01:03 dev vxlan0 master"),
    (
        false,
        "bridge fdb replace 02:42:0a:00:01:03 dev vxlan0 dst 198.18.0.77 self permanent",
    ),
    (
        false,
        "bridge fdb replace 02:42:0a:00:01:03 dev vxlan0 dst 198.18.0.2 vni 7 self permanent",
    ),
    (
        false,
        "bridge fdb replace 02:42:0a:00:01:03 dev vxlan0 dst 198.18.0.2 port 7 self permanent",
    ),
    (
        false,
        "bridge fdb add 02:42:0a:00:01:99 dev vxlan0 dst 198.18.0.2 self permanent",
    ),
    (
        false,
        "bridge fdb add 02:42:0a:00:01:99 dev vxlan0 master static",
    ),
    (
        false,
        "bridge fdb replace 02:42:0a:00:01:03 dev PORT master static",
    ),
    (
        false,
        "bridge fdb append 00:00:00:00:00:00 dev vxlan0 dst 198.18.0.2 self permanent",
    ),
    (false, "ip neigh del 10.0.1.3 dev vxlan0"),
    (
        false,
        "ip neigh replace 10.0.1.3 lladdr 02:42:0a:00:01:55 dev vxlan0 nud permanent",
    ),
    (
        false,
        "ip neigh replace 10.0.1.3 lladdr 02:42:0a:00:01:03 dev vxlan0 nud reachable",
    ),
    (
        false,
        "ip neigh add 10.0.1.99 lladdr 02:42:0a:00:01:03 dev vxlan0 nud permanent",
    ),
    (false, "ip neigh del fd11::3 dev vxlan0"),
    (false, "ip link set vxlan0 down"),
    (false, "ip link set vxlan0 nomaster"),
    (false, "ip link set vxlan0 type vxlan learning"),
    (false, "ip link set vxlan0 type vxlan local 198.18.0.9"),
    (false, "ip link set vxlan0 type vxlan ttl 3"),
    (false, "ip link set vxlan0 mtu 1300"),
    (
        false,
        "ip link set dev vxlan0 type bridge_slave learning on",
    ),
    (false, "ip link set vxlan0 alias nonsense"),
    (false, "ip link set vxlan0 addrgenmode eui64"),
    (false, "ip link del vxlan0"),
    (
        false,
        "ip link del vxlan0; ip link add vxlan0 type vxlan id 4097 dstport 4789",
    ),
    (false, "ip link del vxlan0; ip link add vxlan0 type bridge"),
    (false, "ip link add other type vxlan id 77 dstport 4789"),
    (false, "ip link set br0 down"),
    (false, "ip link set br0 mtu 1300"),
    (false, "ip link set br0 type bridge mcast_snooping 1"),
    (false, "ip link set br0 type bridge stp_state 1"),
    (false, "ip link del br0"),
    (
        false,
        "ip link del br0; ip link add br0 type veth peer name br1",
    ),
    (false, "ip link del PORT"),
    (false, "ip link set PORT down"),
    (false, "ip link set PORT nomaster"),
    (false, "ip link set PORT mtu 1200"),
    (false, "ip link set PORT alias nonsense"),
    (false, "ip link set dev PORT type bridge_slave learning on"),
    (
        false,
        "ip link del PORT; ip link add PORT type veth peer name eth0",
    ),
    (false, "ip link add wfstray type veth peer name x9"),
    (
        false,
        "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables",
    ),
    (true, "ip link set eth0 down"),
    (true, "ip link set eth0 mtu 1200"),
    (true, "ip link set eth0 address 02:00:00:00:00:07"),
    (true, "ip link set eth0 gso_max_segs 60"),
    (true, "ip link set eth0 gso_max_size 60000"),
    (true, "ip link set eth0 down; ip link set eth0 name gone0"),
    (true, "ip link set eth0 alias nonsense"),
    (true, "ip addr del 10.0.1.2/24 dev eth0"),
    (true, "ip addr flush dev eth0"),
    (
        true,
        "ip addr del 10.0.1.2/24 dev eth0; ip addr add 10.0.1.2/32 dev eth0",
    ),
    (true, "ip link del eth0"),
    (true, "ip link set lo down"),
];

fn place(pair: &Pair, container: bool) -> PathBuf {
    if container {
        pair.containers[0].clone()
    } else {
        pair.hosts[0].sandbox()
    }
}

fn spoil(netns: &Path, line: &str) {
    sh(netns, &line.replace("PORT", &port_name(2)));
}

fn by_hand() {
    run(async {
        let pair = Pair::new();
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        for (container, line) in WRONG {
            spoil(&place(&pair, *container), line);
            let ops = pair.hosts[0].settle(&pair.spec(0)).await;
            assert!(ops > 0, "{line}: not noticed");
            assert!(
                pings(&pair.containers[0], address(3)),
                "{line}: no ping after repair"
            );
        }
        // Addresses that the container gave itself are its own.
        sh(&pair.containers[0], "ip addr add 10.0.1.50/24 dev eth0");
        assert_eq!(pair.hosts[0].settle(&pair.spec(0)).await, 0);
        // A sandbox's file without its mount is a new start. The old namespace ends in its own time;
        // until then it holds the VNI and the container's interface.
        let sandbox = pair.hosts[0].sandbox();
        nix::mount::umount2(&sandbox, nix::mount::MntFlags::MNT_DETACH).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !pair.hosts[0].apply(&pair.spec(0)).await.is_clean() {
            assert!(Instant::now() < deadline, "the old namespace does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
        pair.hosts[0].settle(&pair.spec(0)).await;
        assert!(
            pings(&pair.containers[0], address(3)),
            "no ping after the mount was lost"
        );
        pair.hosts[0].settle(&Spec::new()).await;
    });
}

fn in_place() {
    run(async {
        let pair = Pair::new();
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        let index = link(&pair.hosts[0].sandbox(), "vxlan0")["ifindex"].clone();
        let running = RunningPing::start(&pair.containers[0], address(3));
        for line in [
            "ip link set vxlan0 type vxlan learning ttl 9",
            "ip link set vxlan0 alias x",
            "bridge fdb add 02:42:0a:00:01:99 dev vxlan0 dst 198.18.0.2 self permanent",
            "bridge fdb append 00:00:00:00:00:00 dev vxlan0 dst 198.18.0.2 self permanent",
            "ip neigh del 10.0.1.3 dev vxlan0",
            "ip link set PORT alias x",
            "ip link set br0 type bridge mcast_snooping 1",
        ] {
            spoil(&pair.hosts[0].sandbox(), line);
            assert!(pair.hosts[0].settle(&pair.spec(0)).await > 0, "{line}");
        }
        let (sent, lost) = running.stop();
        assert!(sent > 20 && lost == 0, "{lost} of {sent} lost");
        assert_eq!(link(&pair.hosts[0].sandbox(), "vxlan0")["ifindex"], index);
    });
}

fn mtu_changes() {
    run(async {
        let mut pair = Pair::new();
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        let running = RunningPing::start(&pair.containers[0], address(3));
        for mtu in [1400, 1430, 1450] {
            pair.specs.iter_mut().for_each(|spec| spec.mtu = mtu);
            pair.settle().await;
            for (netns, name) in [
                (pair.hosts[0].sandbox(), "br0".to_owned()),
                (pair.hosts[0].sandbox(), "vxlan0".to_owned()),
                (pair.hosts[0].sandbox(), port_name(2)),
                (pair.containers[0].clone(), "eth0".to_owned()),
            ] {
                assert_eq!(link(&netns, &name)["mtu"], mtu, "{name}");
            }
        }
        let (sent, lost) = running.stop();
        assert!(sent > 20 && lost == 0, "{lost} of {sent} lost");
    });
}

fn vtep_changes() {
    run(async {
        let mut pair = Pair::new();
        sh(&pair.hosts[0].netns, "ip addr add 198.18.0.11/24 dev u0");
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
        let index = link(&pair.hosts[0].sandbox(), "vxlan0")["ifindex"].clone();
        let running = RunningPing::start(&pair.containers[0], address(3));
        pair.specs[0].vtep.local = vtep(11);
        let remote = pair.specs[1].remotes.get_mut(&mac(2)).unwrap();
        remote.vtep = vtep(11);
        assert_eq!(pair.hosts[0].settle(&pair.spec(0)).await, 1);
        assert_eq!(pair.hosts[1].settle(&pair.spec(1)).await, 1);
        let (sent, lost) = running.stop();
        println!("tunnel address changed: {lost} of {sent} pings lost");
        assert!(sent > 5 && lost == 0, "{lost} of {sent} lost");
        assert_eq!(link(&pair.hosts[0].sandbox(), "vxlan0")["ifindex"], index);
        // To the other address family only a new device will do.
        for (host, spec) in pair.specs.iter_mut().enumerate() {
            spec.vtep.local = format!("fd00::{}", host + 1).parse().unwrap();
            for remote in spec.remotes.values_mut() {
                remote.vtep = format!("fd00::{}", 2 - host).parse().unwrap();
            }
        }
        pair.settle().await;
        assert!(pings(&pair.containers[0], address(3)));
    });
}
