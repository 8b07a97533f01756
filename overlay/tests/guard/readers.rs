//! The same kernel state through other people's programs: `ip` and `nft`.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;
use weft_netns::nft::NftSocket;
use weft_overlay::guard::Guard;

use super::ns::{Ns, ip};

crate::cases!(
    nft_lists_the_filter_as_it_is_meant,
    a_flush_of_the_ruleset_by_nft_skips_the_filter
);

/// What `ip -j` says in a namespace.
pub(super) fn ip_json(ns: &Ns, arguments: &[&str]) -> Value {
    let mut all = vec!["-j"];
    all.extend(arguments);
    read(ns, "ip", "iproute2", &all)
}

fn read(ns: &Ns, program: &str, package: &str, arguments: &[&str]) -> Value {
    let output = run(ns, program, package, arguments);
    serde_json::from_slice(&output).unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn run(ns: &Ns, program: &str, package: &str, arguments: &[&str]) -> Vec<u8> {
    // Packet filter tools live where an ordinary user's PATH does not reach.
    let path = format!(
        "{}:/usr/sbin:/sbin",
        std::env::var("PATH").unwrap_or_default()
    );
    let output = ns.run(|| {
        Command::new(program)
            .args(arguments)
            .env("PATH", path)
            .output()
    });
    let output = output.unwrap_or_else(|error| {
        panic!("this case reads the kernel through `{program}` (Debian package {package}): {error}")
    });
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    output.stdout
}

fn guarded() -> (Ns, Guard) {
    let ns = Ns::new();
    let mut guard = ns.run(|| Guard::open("weft")).unwrap();
    let members: BTreeSet<_> = ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(ip).into();
    guard.reconcile(4789, &members).unwrap();
    (ns, guard)
}

fn nft_lists_the_filter_as_it_is_meant() {
    let (ns, _guard) = guarded();
    let list = run(&ns, "nft", "nftables", &["list", "table", "inet", "weft"]);
    let list = String::from_utf8(list).unwrap();
    // Some versions print the family, others leave it out where the address implies it.
    let list = list
        .replace("meta nfproto ipv4 ", "")
        .replace("meta nfproto ipv6 ", "");
    let lines: Vec<&str> = list.lines().map(str::trim).collect();
    for line in [
        "elements = { 192.0.2.1, 192.0.2.2 }",
        "elements = { 2001:db8::1 }",
        "type filter hook input priority raw; policy accept;",
        "udp dport 4789 ip saddr != @members4 counter packets 0 bytes 0 drop",
        "udp dport 4789 ip6 saddr != @members6 counter packets 0 bytes 0 drop",
    ] {
        assert!(lines.contains(&line), "no line `{line}` in:\n{list}");
    }
    let json = read(
        &ns,
        "nft",
        "nftables",
        &["-j", "list", "table", "inet", "weft"],
    );
    let objects = json["nftables"].as_array().unwrap();
    for (kind, count) in [("table", 1), ("set", 2), ("chain", 1), ("rule", 2)] {
        let found = objects
            .iter()
            .filter(|object| object.get(kind).is_some())
            .count();
        assert_eq!(found, count, "{kind}: {json}");
    }
}

fn a_flush_of_the_ruleset_by_nft_skips_the_filter() {
    let (ns, mut guard) = guarded();
    run(&ns, "nft", "nftables", &["add", "table", "inet", "other"]);
    run(&ns, "nft", "nftables", &["flush", "ruleset"]);
    let mut reader = ns.run(NftSocket::open).unwrap();
    assert_eq!(reader.table("other").unwrap(), None);
    assert_eq!(guard.report().unwrap().unwrap().members, 3);
}
