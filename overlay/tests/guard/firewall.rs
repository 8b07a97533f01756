//! What others' packet filters, as the kernel tells them, are found to drop.

use std::io::Write;
use std::process::{Command, Stdio};

use weft_overlay::host::firewall::{Encrypted, Keeper, Obstacle, Passing, Traffic, obstacles};

use super::ns::Ns;

crate::cases!(
    filters_that_drop_are_found_and_their_remedies_work,
    filters_that_let_pass_are_not_told_of,
    what_cannot_be_known_is_not_said_to_be,
    the_host_of_a_filter_is_known_by_its_chains,
);

const PASSING: Passing<'_> = Passing {
    outside: "eth0",
    mesh: "wf-ingress",
    gateway: "weft-gw",
    tunnels: 4789,
    control: 2377,
    encrypted: Some(Encrypted {
        esp: 4500,
        inner: 4790,
        device: "wf-esp",
    }),
    links: &[],
};

fn sh(ns: &Ns, script: &str, input: &str) {
    ns.run(|| {
        let mut child = Command::new("sh")
            .args(["-ec", script])
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "{script}: {input}");
    });
}

fn host(ruleset: &str) -> Ns {
    let ns = Ns::new();
    // nft wants the end of a line behind a chain.
    sh(&ns, "nft -f -", &ruleset.replace("} }", "}\n}"));
    ns
}

fn found(ns: &Ns) -> Vec<Obstacle> {
    ns.run(|| obstacles(&PASSING)).unwrap()
}

/// As Docker makes it, on a host whose administrator lets some other device pass.
const DOCKER: &str = r#"
table ip filter {
    chain DOCKER { iifname != "docker0" oifname "docker0" drop; }
    chain DOCKER-USER { iifname "br-lan" accept; counter return; }
    chain FORWARD {
        type filter hook forward priority filter; policy drop;
        counter jump DOCKER-USER
        oifname "docker0" ct state established,related accept
        oifname "docker0" jump DOCKER
        iifname "docker0" oifname != "docker0" accept
    }
}"#;

/// As a guide to nftables would have it, with a set, a verdict map and a refusal at the end.
const GUIDE: &str = r#"
table inet mine {
    set trusted { type ifname; elements = { "lo", "br-lan" }; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname @trusted accept
        meta l4proto { icmp, icmpv6 } accept
        counter reject with icmpx admin-prohibited
    }
    chain input {
        type filter hook input priority 0; policy drop;
        iif "lo" accept
        ct state established,related accept
        tcp dport { 22, 443 } accept
        udp dport { 53, 2377 } accept
    }
}"#;

const UFW6: &str = r"
table ip6 filter {
    chain ufw6-user-forward { }
    chain ufw6-before-forward { ct state established,related accept; jump ufw6-user-forward; }
    chain FORWARD { type filter hook forward priority 0; policy drop; jump ufw6-before-forward; }
}";

fn filters_that_drop_are_found_and_their_remedies_work() {
    for (ruleset, told, drops) in [
        (DOCKER, "ip filter FORWARD", vec![Traffic::Published]),
        (GUIDE, "inet mine forward", vec![Traffic::Published]),
        (
            GUIDE,
            "inet mine input",
            vec![Traffic::Tunnels, Traffic::Sealed, Traffic::Opened],
        ),
        (
            "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }",
            "ip filter FORWARD",
            vec![Traffic::Published],
        ),
        (
            "table ip6 f { chain c { type filter hook forward priority 0; iifname eth0 drop; } }",
            "ip6 f c",
            vec![Traffic::Published],
        ),
        (
            "table inet f { chain c { type filter hook input priority 0; policy drop; } }",
            "inet f c",
            vec![
                Traffic::Tunnels,
                Traffic::Control,
                Traffic::Sealed,
                Traffic::Opened,
            ],
        ),
        // Of who lets ESP in, and not what was in it.
        (
            "table inet f { chain c { type filter hook input priority 0; policy drop; iifname eth0 accept; } }",
            "inet f c",
            vec![Traffic::Opened],
        ),
    ] {
        let ns = host(ruleset);
        let all = found(&ns);
        let name = |o: &Obstacle| format!("{} {} {}", o.family.name(), o.table, o.chain);
        let one = all.iter().find(|obstacle| name(obstacle) == told);
        let one = one.unwrap_or_else(|| panic!("{told} is not among {all:?}"));
        assert!(one.sure, "{one:?}");
        assert_eq!(one.drops.iter().copied().collect::<Vec<_>>(), drops);
        let remedy = one.remedy(&PASSING);
        sh(&ns, &remedy, "");
        let left = found(&ns);
        assert!(
            !left.iter().any(|obstacle| name(obstacle) == told),
            "{remedy}: {left:?}"
        );
        assert_eq!(left.len(), all.len() - 1);
    }
}

fn filters_that_let_pass_are_not_told_of() {
    for ruleset in [
        "",
        "table ip filter { chain FORWARD { type filter hook forward priority 0; policy accept; } }",
        // Of other hooks and kinds, and of weft.
        "table ip f { chain c { type filter hook output priority 0; policy drop; } }",
        "table inet weft-x { chain c { type filter hook forward priority 0; policy drop; } }",
        // As firewalld has it.
        r#"table inet firewalld {
            chain filter_FORWARD {
                type filter hook forward priority filter + 10; policy accept;
                ct state { established, related } accept
                ct status dnat accept
                iifname "lo" accept
                ct state invalid drop
                reject with icmpx admin-prohibited
            }
        }"#,
        // By a prefix of the names, and by what they are not.
        r#"table inet f { chain c { type filter hook forward priority 0; policy drop;
            iifname "w*" accept; oifname != "docker0" iifname "eth0" accept; } }"#,
        // For others only.
        r#"table inet f { chain c { type filter hook forward priority 0;
            iifname "docker0" drop; meta l4proto udp drop; ct state invalid drop; } }"#,
        "table ip f { chain c { type filter hook input priority 0; policy drop;
            udp dport 2000-5000 accept; } }",
    ] {
        let found = found(&host(ruleset));
        assert_eq!(found, [], "{ruleset}");
    }
}

fn what_cannot_be_known_is_not_said_to_be() {
    let found = found(&host(
        r"table ip f {
            chain c { type filter hook forward priority 0; policy drop;
                ct state established accept; ip saddr 192.0.2.0/24 accept; }
            chain d { type filter hook input priority 0; policy drop;
                ip saddr { 198.18.0.1, 198.18.0.2 } accept; }
        }",
    ));
    let [one] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(one.chain == "c" && !one.sure, "{one:?}");
}

fn the_host_of_a_filter_is_known_by_its_chains() {
    let keeper = |ruleset| {
        let found = found(&host(ruleset));
        let keepers: Vec<Keeper> = found.iter().map(|one| one.keeper).collect();
        keepers
    };
    assert_eq!(keeper(DOCKER), [Keeper::Docker]);
    assert_eq!(keeper(UFW6), [Keeper::Ufw]);
    assert_eq!(keeper(GUIDE), [Keeper::Unknown; 2]);
    let firewalld = "table inet firewalld { chain filter_FORWARD {
        type filter hook forward priority 10; policy drop; } }";
    assert_eq!(keeper(firewalld), [Keeper::Firewalld]);
}
