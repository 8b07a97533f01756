//! What needs no ESP: policies, the file with the names, and the probe.

use std::net::IpAddr;

use weft_encrypt::kernel::{Kernel, KernelError, probe, remove_left};
use weft_encrypt::path::PeerSpec;

use super::hosts::{INNER, V4, V6, bare, hosts, key, name, succeed};
use super::ns::{Ns, ip};

crate::cases!(
    the_probe_leaves_nothing_and_says_what_lacks,
    policies_are_as_ip_lists_them,
    policies_are_repaired_and_others_are_left_alone,
    peers_come_and_go,
    what_is_removed_leaves_no_policy,
    what_a_process_has_left_is_removed_without_it,
    what_cannot_be_is_refused,
);

fn the_probe_leaves_nothing_and_says_what_lacks() {
    let ns = Ns::new();
    for local in ["192.0.2.1", "2001:db8::1"] {
        if let Err(error) = ns.run(|| probe(ip(local))) {
            let text = error.to_string();
            let named = text.contains("no ESP for") || text.contains("no rfc4106(gcm(aes))");
            assert!(named && text.contains("CONFIG_"), "{text}");
        }
    }
    assert_eq!(succeed(&ns, "ip xfrm state"), "");
}

/// As `ip` says a policy's first two lines.
fn policies(ns: &Ns) -> Vec<String> {
    let text = succeed(ns, "ip xfrm policy");
    let mut policies: Vec<String> = Vec::new();
    for line in text.lines() {
        match policies.last_mut() {
            Some(policy) if line.starts_with(char::is_whitespace) => {
                policy.push(' ');
                policy.push_str(line.trim());
            }
            _ => policies.push(line.trim().to_owned()),
        }
    }
    policies.retain(|policy| !policy.contains("socket "));
    policies.sort();
    policies
}

fn wanted(local: &str, peer: &str) -> Vec<String> {
    let (length, any) = match ip(local) {
        IpAddr::V4(_) => (32, "0.0.0.0/0"),
        IpAddr::V6(_) => (128, "::/0"),
    };
    let block = |direction: &str| {
        format!(
            "src {any} dst {any} proto udp dport {INNER} dir {direction} action block priority 30567"
        )
    };
    let peer = format!(
        "src {peer}/{length} dst {local}/{length} proto udp dport {INNER} dir in priority 30566 \
         tmpl src {peer} dst {local} proto esp reqid 2003199347 mode transport"
    );
    let mut wanted = vec![block("in"), block("out"), peer];
    wanted.sort();
    wanted
}

/// Without what versions of `ip` say differently.
fn plain(policies: Vec<String>) -> Vec<String> {
    let plain = policies.into_iter().map(|policy| {
        let words = policy
            .split_whitespace()
            .filter(|word| *word != "ptype" && *word != "main");
        words.collect::<Vec<_>>().join(" ")
    });
    plain.collect()
}

fn policies_are_as_ip_lists_them() {
    for underlay in [V4, V6] {
        let [host, _peer] = hosts(underlay);
        let [local, peer] = underlay.ends;
        assert_eq!(plain(policies(&host.ns)), wanted(local, peer));
    }
}

fn policies_are_repaired_and_others_are_left_alone() {
    let [host, _peer] = hosts(V4);
    let before = policies(&host.ns);
    succeed(&host.ns, "ip xfrm policy flush");
    succeed(
        &host.ns,
        "ip xfrm policy add src 203.0.113.0/24 dst 203.0.113.0/24 dir out action block priority 30567",
    );
    host.path().want(&host.spec).unwrap();
    let mut after = policies(&host.ns);
    after.retain(|policy| !policy.contains("203.0.113"));
    assert_eq!(after, before);
    assert_eq!(policies(&host.ns).len(), before.len() + 1);
}

fn peers_come_and_go() {
    let [mut host, _peer] = hosts(V4);
    let before = policies(&host.ns);
    host.spec
        .peers
        .insert(ip("198.18.0.3"), PeerSpec::default());
    host.path().want(&host.spec).unwrap();
    assert_eq!(policies(&host.ns).len(), before.len() + 1);
    host.spec.peers.remove(&ip("198.18.0.3"));
    host.path().want(&host.spec).unwrap();
    assert_eq!(policies(&host.ns), before);
    assert_eq!(host.path().state().peers.len(), 1);
}

fn what_is_removed_leaves_no_policy() {
    let [mut host, _peer] = hosts(V4);
    // One that is dropped leaves all.
    let before = policies(&host.ns);
    drop(host.path.take());
    assert_eq!(policies(&host.ns), before);
    host.start();
    assert_eq!(policies(&host.ns), before);
    host.path.take().unwrap().remove().unwrap();
    assert_eq!(policies(&host.ns), [""; 0]);
}

fn what_a_process_has_left_is_removed_without_it() {
    let [mut host, _peer] = hosts(V4);
    drop(host.path.take());
    assert!(!policies(&host.ns).is_empty());
    succeed(
        &host.ns,
        "ip xfrm policy add src 203.0.113.0/24 dst 203.0.113.0/24 dir out action block priority 7",
    );
    for _ in 0..2 {
        host.ns.run(|| remove_left(host.run_dir.path())).unwrap();
        let left = policies(&host.ns);
        assert!(
            matches!(left.as_slice(), [other] if other.contains("203.0.113")),
            "{left:?}"
        );
    }
}

fn what_cannot_be_is_refused() {
    let [host, _peer] = hosts(V4);
    let stranger = name(ip("198.18.0.9"), 1);
    let refused = host.path().install_inbound(stranger, key(host.local(), 1));
    assert!(
        matches!(refused, Err(KernelError::UnknownPeer(_))),
        "{refused:?}"
    );
    let refused = host.path().switch_outbound(stranger, key(host.local(), 1));
    assert!(
        matches!(refused, Err(KernelError::UnknownPeer(_))),
        "{refused:?}"
    );
    let mut moved = host.spec.clone();
    moved.local = ip("198.18.0.7");
    let refused = host.path().want(&moved);
    assert!(
        matches!(refused, Err(KernelError::Moved { .. })),
        "{refused:?}"
    );
    // The port is another's.
    let [other, _peer] = bare(V4);
    let taken = other
        .ns
        .run(|| std::net::UdpSocket::bind((other.local(), 4500)))
        .unwrap();
    let refused = other
        .ns
        .run(|| Kernel::start(other.spec.clone(), other.run_dir.path(), None));
    assert!(
        matches!(refused, Err(KernelError::Socket { .. })),
        "{refused:?}"
    );
    drop(taken);
}
