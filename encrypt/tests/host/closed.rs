//! That nothing goes in clear, whatever is in the way or lacks.

use std::net::{SocketAddr, UdpSocket};

use weft_encrypt::host::Mode;

use super::node::{INNER, NODE4, NODE6, PEER4, Pair, reconciled, run, spec, userspace};
use super::ns::{DEADLINE, Ns, ip, join, route};

crate::cases!(
    clear_datagrams_are_neither_sent_nor_taken_and_are_counted,
    the_kernel_path_is_as_closed,
    an_administrators_accept_opens_nothing,
    without_the_rule_or_the_routes_it_is_closed,
    at_every_step_it_is_closed,
    what_is_routed_for_others_is_theirs,
    a_frame_that_is_routed_anew_does_not_leave,
);

fn clear_datagrams_are_neither_sent_nor_taken_and_are_counted() {
    for local in [NODE4, NODE6] {
        let pair = Pair::new();
        let mut host = pair.host();
        let spec = spec(Mode::Userspace, local);
        assert!(reconciled(&mut host, &spec).ops > 0);
        pair.assert_closed(local);
        let report = reconciled(&mut host, &spec);
        // What went out met the blackhole already.
        assert_eq!((report.ops, report.dropped_in), (0, 2), "{report:?}");
        assert!(!report.tap);
    }
}

fn the_kernel_path_is_as_closed() {
    let pair = Pair::new();
    let mut host = pair.host();
    let spec = spec(Mode::Kernel, NODE4);
    reconciled(&mut host, &spec);
    pair.assert_closed("kernel");
    let report = reconciled(&mut host, &spec);
    assert_eq!((report.ops, report.dropped_foreign), (0, 0));
    assert_eq!((report.dropped_in, report.dropped_out), (2, 2));
}

fn an_administrators_accept_opens_nothing() {
    for mode in [Mode::Userspace, Mode::Kernel] {
        let pair = Pair::new();
        for hook in ["prerouting", "input", "output", "postrouting"] {
            for priority in [
                -2_147_483_648_i64,
                -400,
                -301,
                -300,
                -299,
                -150,
                0,
                100,
                2_147_483_647,
            ] {
                let name = format!("{hook}{}", priority + 2_147_483_648);
                let chain = format!(
                    "add chain inet admin {name} {{ type filter hook {hook} priority {priority}; }}"
                );
                let rule = format!("add rule inet admin {name} udp dport {INNER} accept");
                let rules = format!("add table inet admin; {chain}; {rule}");
                run(&pair.node, "nft", &[&rules]);
            }
        }
        let mut host = pair.host();
        reconciled(&mut host, &spec(mode, NODE4));
        damage_routes(&pair.node);
        pair.assert_closed("accepted by everybody");
    }
}

fn damage_routes(ns: &Ns) {
    for family in ["-4", "-6"] {
        let _ = ns.run(|| {
            std::process::Command::new("/usr/sbin/ip")
                .args([family, "rule", "del", "pref", "110"])
                .output()
        });
    }
}

fn without_the_rule_or_the_routes_it_is_closed() {
    let pair = Pair::new();
    let mut host = pair.host();
    reconciled(&mut host, &userspace());
    for family in ["-4", "-6"] {
        run(
            &pair.node,
            "ip",
            &[family, "route", "flush", "table", "2003304448"],
        );
    }
    pair.assert_closed("without routes");
    for family in ["-4", "-6"] {
        run(&pair.node, "ip", &[family, "rule", "del", "pref", "110"]);
    }
    pair.assert_closed("without rules");
    let report = reconciled(&mut host, &userspace());
    assert_eq!(report.ops, 4, "{report:?}");
    assert!(report.dropped_out >= 4, "{report:?}");
    pair.assert_closed("repaired");
    assert_eq!(reconciled(&mut host, &userspace()).ops, 0);
}

fn at_every_step_it_is_closed() {
    let pair = Pair::new();
    let steps = |host: &mut weft_encrypt::host::Host, to: Option<&_>| {
        let mut count = 1;
        while !host.reconcile_up_to(to, 1).unwrap() {
            pair.assert_closed(&format!("after {count} steps"));
            count += 1;
        }
        count
    };
    let mut host = pair.host();
    assert!(steps(&mut host, Some(&userspace())) >= 5);
    // And to the other path, and back.
    assert!(steps(&mut host, Some(&spec(Mode::Kernel, NODE4))) >= 2);
    assert!(steps(&mut host, Some(&userspace())) >= 2);
    let mut other = userspace();
    other.inner_port = INNER + 10;
    reconciled(&mut host, &other);
    assert!(steps(&mut host, Some(&userspace())) >= 2);
    // The guard is the last to go.
    for _ in 0..4 {
        assert!(!host.reconcile_up_to(None, 1).unwrap());
        pair.assert_closed("while it is taken away");
    }
    host.reconcile(None).unwrap();
}

fn what_is_routed_for_others_is_theirs() {
    let pair = Pair::new();
    let behind = Ns::new();
    join(
        "eth1",
        (&pair.node, &["203.0.113.1/24"]),
        (&behind, &["203.0.113.2/24"]),
    );
    pair.node.0.set_sysctl("ipv4/ip_forward", "1").unwrap();
    let octets = |text: &str| text.parse().unwrap();
    route(&pair.peer, (octets("203.0.113.0"), 24), octets(NODE4));
    route(&behind, (octets("198.18.0.0"), 24), octets("203.0.113.1"));
    for mode in [Mode::Userspace, Mode::Kernel] {
        let mut host = pair.host();
        reconciled(&mut host, &spec(mode, NODE4));
        let socket = behind
            .run(|| UdpSocket::bind(("203.0.113.2", INNER)))
            .unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let to = SocketAddr::new(ip("203.0.113.2"), INNER);
        pair.send(&pair.peer, PEER4, to, "somebody else's");
        let mut buffer = [0; 32];
        let length = socket.recv(&mut buffer).expect("what is routed");
        assert_eq!(&buffer[..length], b"somebody else's");
        host.reconcile(None).unwrap();
    }
}

/// A chain of type `route` that changes the mark makes the kernel route anew, after the guard's first look.
fn a_frame_that_is_routed_anew_does_not_leave() {
    let pair = Pair::new();
    let mut host = pair.host();
    reconciled(&mut host, &userspace());
    // Somebody's device of that name, for a moment: then the first chain sees nothing wrong.
    for arguments in [
        "link add wf-esp type bridge",
        "link set wf-esp up",
        "rule add pref 100 ipproto udp dport 4790 fwmark 0 lookup 77",
        "route add default dev wf-esp table 77",
        "rule add pref 90 fwmark 7 lookup main",
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        run(&pair.node, "ip", &arguments);
    }
    let rules = "add table inet admin; \
                 add chain inet admin c { type route hook output priority -150; }; \
                 add rule inet admin c udp dport 4790 meta mark set 7";
    run(&pair.node, "nft", &[rules]);
    pair.assert_closed("routed anew");
    assert!(
        host.reconcile(Some(&userspace())).is_err(),
        "no such device"
    );
}
