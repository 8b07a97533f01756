//! That it is kept as wanted, and seen so by other people's programs.

use serde_json::Value;
use weft_encrypt::host::{HostError, Mode, TABLE};
use weft_netns::nft::TableError;

use super::node::{INNER, NODE4, PEER4, Pair, ip_json, reconciled, run, spec, userspace};
use super::ns::{Ns, await_release, ip};

crate::cases!(
    rules_and_routes_are_as_ip_lists_them,
    nft_lists_the_guard_of_the_user_space_path,
    nft_lists_the_guard_of_the_kernel_path,
    what_is_removed_leaves_nothing,
    it_outlives_its_agent_and_is_adopted,
    a_second_agent_is_refused_by_name,
    a_change_of_peers_is_incremental,
    others_additions_are_taken_away,
    what_cannot_be_is_refused_and_changes_nothing,
);

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).collect()
}

fn has_lines(list: &str, wanted: &[&str]) {
    for line in wanted {
        assert!(lines(list).contains(line), "no line `{line}` in:\n{list}");
    }
}

fn rules_and_routes_are_as_ip_lists_them() {
    let pair = Pair::new();
    reconciled(&mut pair.host(), &userspace());
    for family in ["-4", "-6"] {
        let rules = run(&pair.node, "ip", &[family, "rule"]);
        let rule = "110:\tfrom all iif lo ipproto udp dport 4790 lookup 2003304448 proto 121";
        has_lines(&rules, &[rule]);
        assert_eq!(rules.matches("2003304448").count(), 1, "{rules}");
        let arguments = [family, "route", "show", "table", "2003304448"];
        let routes = ip_json(&pair.node, &arguments);
        let routes = routes.as_array().unwrap();
        assert_eq!(routes.len(), 1, "{routes:?}");
        let field = |name: &str| routes[0][name].clone();
        assert_eq!(field("type"), "blackhole");
        assert_eq!(field("dst"), "default");
        assert_eq!(field("protocol"), "121");
        assert_eq!(field("metric"), 30_568);
    }
}

fn nft_lists_the_guard_of_the_user_space_path() {
    let pair = Pair::new();
    let mut host = pair.host();
    reconciled(&mut host, &userspace());
    let list = run(&pair.node, "nft", &["list", "table", "inet", TABLE]);
    has_lines(
        &list,
        &[
            "type filter hook output priority raw; policy accept;",
            "type filter hook postrouting priority raw; policy accept;",
            "type filter hook input priority raw; policy accept;",
            "udp dport 4790 oifname != \"wf-esp\" goto drop-out",
            "ip saddr 198.18.0.1 udp dport 4790 oifname != \"wf-esp\" goto drop-out",
            "udp dport 4790 iifname != \"wf-esp\" goto drop-in",
            "counter packets 0 bytes 0 drop",
        ],
    );
}

fn nft_lists_the_guard_of_the_kernel_path() {
    let pair = Pair::new();
    let mut host = pair.host();
    reconciled(&mut host, &spec(Mode::Kernel, NODE4));
    let list = run(&pair.node, "nft", &["list", "table", "inet", TABLE]);
    // Older versions have the former name.
    let list = list.replace("meta secpath", "meta ipsec");
    has_lines(
        &list,
        &[
            "udp dport 4790 rt ipsec missing goto drop-out",
            "udp dport 4790 meta ipsec missing goto drop-in",
        ],
    );
    // 4097 and 70000, with the reserved byte.
    for element in [
        "198.18.0.2 . 0.16.1.0",
        "198.18.0.2 . 1.17.112.0",
        "2001:db8::2 . 0.16.1.0",
    ] {
        assert!(list.contains(element), "no {element} in:\n{list}");
    }
    assert!(!run(&pair.node, "ip", &["rule"]).contains("2003304448"));
}

fn state(ns: &Ns) -> Vec<Value> {
    ["-4", "-6"]
        .into_iter()
        .flat_map(|family| {
            [
                ip_json(ns, &[family, "rule"]),
                ip_json(ns, &[family, "route", "show", "table", "all"]),
            ]
        })
        .collect()
}

fn what_is_removed_leaves_nothing() {
    let pair = Pair::new();
    let before = state(&pair.node);
    let mut host = pair.host();
    reconciled(&mut host, &userspace());
    assert_ne!(state(&pair.node), before);
    assert!(host.reconcile(None).unwrap().ops > 0);
    assert_eq!(state(&pair.node), before);
    assert_eq!(run(&pair.node, "nft", &["list", "ruleset"]), "");
    assert_eq!(host.reconcile(None).unwrap().ops, 0);
}

fn it_outlives_its_agent_and_is_adopted() {
    let pair = Pair::new();
    for mode in [Mode::Userspace, Mode::Kernel] {
        let mut first = pair.host();
        reconciled(&mut first, &spec(mode, NODE4));
        drop(first);
        await_release(&pair.node, TABLE);
        pair.assert_closed("between two agents");
        let mut second = pair.host();
        let report = reconciled(&mut second, &spec(mode, NODE4));
        assert_eq!(report.ops, 0, "{mode:?} {report:?}");
        assert!(report.exclusive);
        run(&pair.node, "nft", &["flush", "ruleset"]);
        assert_eq!(reconciled(&mut second, &spec(mode, NODE4)).ops, 0);
    }
}

fn a_second_agent_is_refused_by_name() {
    let pair = Pair::new();
    let mut first = pair.host();
    reconciled(&mut first, &userspace());
    let mut second = pair.host();
    for spec in [Some(&userspace()), None] {
        let error = second.reconcile(spec).unwrap_err();
        let owned = matches!(error, HostError::Guard(TableError::Owned { .. }));
        assert!(owned, "{error}");
    }
    pair.assert_closed("two agents");
}

fn a_change_of_peers_is_incremental() {
    let pair = Pair::new();
    let mut host = pair.host();
    let mut spec = spec(Mode::Kernel, NODE4);
    reconciled(&mut host, &spec);
    spec.allowed.entry(ip(PEER4)).or_default().insert(5000);
    assert_eq!(reconciled(&mut host, &spec).ops, 1);
    spec.allowed.remove(&ip(PEER4));
    assert_eq!(reconciled(&mut host, &spec).ops, 3);
    assert_eq!(reconciled(&mut host, &spec).ops, 0);
}

fn others_additions_are_taken_away() {
    let pair = Pair::new();
    let mut host = pair.host();
    reconciled(&mut host, &userspace());
    for arguments in [
        "route add 198.18.0.2 dev eth0 table 2003304448",
        "route add default dev eth0 table 2003304448",
        "rule add pref 110 iif lo ipproto udp dport 4790 lookup main proto 121",
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        run(&pair.node, "ip", &arguments);
        pair.assert_closed("with others' additions");
        let report = reconciled(&mut host, &userspace());
        assert_eq!(report.ops, 1, "{arguments:?}");
        assert_eq!(reconciled(&mut host, &userspace()).ops, 0);
    }
    let mut other = userspace();
    other.inner_port = INNER + 1;
    assert!(reconciled(&mut host, &other).ops > 0);
    let rules = run(&pair.node, "ip", &["rule"]);
    assert!(
        rules.contains("dport 4791") && !rules.contains("dport 4790"),
        "{rules}"
    );
    assert_eq!(reconciled(&mut host, &other).ops, 0);
}

fn what_cannot_be_is_refused_and_changes_nothing() {
    let pair = Pair::new();
    let before = state(&pair.node);
    let mut host = pair.host();
    let mut bad = userspace();
    bad.inner_port = 0;
    assert!(host.reconcile(Some(&bad)).is_err());
    bad = userspace();
    bad.allowed.entry(ip(PEER4)).or_default().insert(1 << 24);
    assert!(host.reconcile(Some(&bad)).is_err());
    bad = spec(Mode::Userspace, "2001:db8::1");
    bad.tap_mtu = 1279;
    assert!(host.reconcile(Some(&bad)).is_err());
    assert_eq!(state(&pair.node), before);
}
