//! Bad input: one clear line, the right exit status, and no change.

use anyhow::{Result, ensure};
use weft_cluster_tests::cluster::Cluster;
use weft_cluster_tests::picture::{Picture, Refused, all_refused};

use crate::Case;

mod agents;
mod stores;
mod wire;

/// The cases of this file.
pub(crate) const CASES: &[Case] = &[
    (
        "refusals::names_unknown_taken_or_malformed",
        names_unknown_taken_or_malformed,
    ),
    (
        "refusals::subnets_that_overlap_or_cannot_be",
        subnets_that_overlap_or_cannot_be,
    ),
    (
        "refusals::addresses_outside_taken_or_reserved",
        addresses_outside_taken_or_reserved,
    ),
    (
        "refusals::namespaces_that_cannot_be_attached",
        namespaces_that_cannot_be_attached,
    ),
    (
        "refusals::detaching_what_is_not_there_or_elsewhere",
        detaching_what_is_not_there,
    ),
    (
        "refusals::usage_is_2_and_an_agent_that_is_not_there_is_3",
        agents::usage_and_unreachable,
    ),
    (
        "refusals::a_second_agent_on_the_same_directories",
        agents::a_second_agent,
    ),
    (
        "refusals::a_socket_that_is_not_ours",
        agents::a_socket_that_is_not_ours,
    ),
    (
        "refusals::junk_datagrams_are_counted_and_survived",
        wire::junk_datagrams,
    ),
    (
        "refusals::peers_that_speak_nonsense_are_cut_off_and_counted",
        wire::peers_that_speak_nonsense,
    ),
    (
        "refusals::a_damaged_file_is_named_and_never_started_over",
        stores::a_damaged_file,
    ),
    (
        "refusals::a_store_with_any_page_damaged_is_refused_or_whole",
        stores::any_page_damaged,
    ),
];

/// What a name may be, as messages say it.
const FORM: &str = "a-z, 0-9 and -";

fn names_unknown_taken_or_malformed() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.container(2, "web", "b")?;
    cluster.sh(1, &["ip", "netns", "add", "blue"])?;
    let long = "x".repeat(64);
    let attach = ["attach", "web", "--netns", "/run/netns/blue"];
    let named = |option: &'static str, name: &'static str| [&attach[..], &[option, name]].concat();
    let (taken, upper, dotted) = (
        named("--name", "a"),
        named("--name", "B"),
        named("--name", "a.b"),
    );
    let (alias, edge) = (named("--alias", "a_b"), named("--name", "-a"));
    let table: &[Refused<'_>] = &[
        (&["network", "create", "web"], 1, &["web", "taken"]),
        (
            &["network", "create", "ingress"],
            1,
            &["ingress", "another", "--ingress"],
        ),
        (
            &["network", "create", "mesh", "--ingress"],
            1,
            &["network ingress", "weft network rm ingress"],
        ),
        (
            &["network", "create", "mesh", "--ingress", "--internal"],
            2,
            &["--ingress", "--internal"],
        ),
        (
            &["network", "create", "mesh", "--ingress", "--multicast"],
            2,
            &["--ingress", "--multicast"],
        ),
        (
            &["network", "create", "mesh", "--ingress", "--allow-overlap"],
            2,
            &["--ingress", "--allow-overlap"],
        ),
        (&["network", "create", "Web"], 2, &["Web", FORM]),
        (&["network", "create", "a b"], 2, &["a b", FORM]),
        (&["network", "create", "a.b"], 2, &["a.b", FORM]),
        (&["network", "create", "a\nb"], 2, &[FORM]),
        (&["network", "create", "trailing-"], 2, &["trailing-", FORM]),
        (&["network", "create", &long], 2, &["1 to 63", FORM]),
        (&["network", "create", "ü"], 2, &["ü", FORM]),
        (&["network", "create", ""], 2, &[FORM]),
        (
            &["network", "inspect", "nope"],
            1,
            &["nope", "weft network ls"],
        ),
        (&["network", "inspect", ".."], 1, &["..", "weft network ls"]),
        (
            &["network", "inspect", "../nodes"],
            1,
            &["../nodes", "weft network ls"],
        ),
        (&["network", "inspect", ""], 2, &["NETWORK", "empty"]),
        (&["network", "rm", "nope"], 1, &["nope", "weft network ls"]),
        (&["network", "rm", "a\nb"], 1, &["a\\nb", "weft network ls"]),
        (&["network", "rm", ""], 2, &["NETWORK", "empty"]),
        (&["network", "rm", "web"], 1, &["web", "endpoint"]),
        (&["network", "rm"], 2, &["NETWORK"]),
        (&["node", "inspect", "nope"], 1, &["nope", "weft node ls"]),
        (&["node", "inspect", ""], 2, &["NODE", "empty"]),
        (
            &["endpoint", "inspect", "nope"],
            1,
            &["nope", "weft endpoint ls"],
        ),
        (
            &["endpoint", "inspect", "a.nope"],
            1,
            &["a.nope", "weft endpoint ls"],
        ),
        (
            &["attach", "nope", "--netns", "/run/netns/blue"],
            1,
            &["nope", "weft network ls"],
        ),
        (
            &["attach", "ingress", "--netns", "/run/netns/blue"],
            1,
            &["ingress", "another"],
        ),
        (&taken, 1, &["a", "taken", "web", "another"]),
        (&upper, 2, &["B", FORM]),
        (&dotted, 2, &["a.b", FORM]),
        (&alias, 2, &["a_b", FORM]),
        (&edge, 2, &["-a"]),
        (
            &["run", "--network", "nope", "--", "true"],
            1,
            &["nope", "weft network ls"],
        ),
        (
            &["run", "--network", "web", "--name", "a", "--", "true"],
            1,
            &["a", "taken", "another"],
        ),
        (
            &["run", "--network", "web", "--name", "A", "--", "true"],
            2,
            &["A", FORM],
        ),
        (
            &["exec", "nope", "--", "true"],
            1,
            &["nope", "weft endpoint ls"],
        ),
        (
            &["wait", "--endpoint", "nope"],
            1,
            &["nope", "weft endpoint ls"],
        ),
        (
            &["join", "--token", "x", "198.18.0.1"],
            2,
            &["join token", "WFTKN-1-"],
        ),
        (
            &["network", "create", "n", "--label", "x"],
            2,
            &["x", "KEY=VALUE"],
        ),
        (
            &["network", "create", "n", "--driver", "macvlan"],
            2,
            &["macvlan", "overlay or bridge"],
        ),
        (
            &["network", "create", "n", "--driver", "x"],
            2,
            &["x", "overlay"],
        ),
        (&["network", "create", "n", "--vni", "0"], 2, &["16777215"]),
        (&["network", "create", "n", "--mtu", "575"], 2, &["576"]),
    ];
    all_refused(&cluster, 2, 1, table)?;
    // The same from a node that is no leader.
    let table: &[Refused<'_>] = &[
        (&["network", "create", "web"], 1, &["web", "taken"]),
        (&["network", "rm", "web"], 1, &["web", "endpoint"]),
        (
            &["run", "--network", "web", "--name", "a", "--", "true"],
            1,
            &["a", "taken"],
        ),
    ];
    all_refused(&cluster, 2, 2, table)?;
    ambiguous_names(&cluster)
}

/// A name that two networks have must be given with its network.
fn ambiguous_names(cluster: &Cluster) -> Result<()> {
    cluster.weft(1, "network create db")?;
    cluster.container(1, "db", "a")?;
    let table: &[Refused<'_>] = &[
        (&["endpoint", "inspect", "a"], 1, &["a.db", "a.web"]),
        (&["detach", "a"], 1, &["a.db", "a.web"]),
        (&["exec", "a", "--", "true"], 1, &["a.db", "a.web"]),
    ];
    all_refused(cluster, 2, 1, table)
}

fn subnets_that_overlap_or_cannot_be() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.sh(
        2,
        &["ip", "route", "add", "172.30.0.0/16", "via", "198.18.0.1"],
    )?;
    cluster.weft(1, "network create web")?;
    // The route of h2 is known once a subnet on it is refused.
    weft_cluster_tests::eventually("the new route is known", || {
        let ran = cluster.try_weft(1, "network create probe --subnet 172.30.9.0/24")?;
        if ran.status == 0 {
            cluster.weft(1, "network rm probe")?;
        }
        ran.is_refused("a routed subnet", 1, &["172.30.0.0/16", "h2"])
    })?;
    let cases: &[(&str, i32, &[&str])] = &[
        ("10.0.1.0/24", 1, &["10.0.1.0/24", "web", "--allow-overlap"]),
        ("10.0.1.128/25", 1, &["10.0.1.0/24", "web"]),
        ("10.0.0.0/16", 1, &["ingress", "--allow-overlap"]),
        ("198.18.0.0/24", 1, &["route 198.18.0.0/24 of node h"]),
        ("198.18.0.64/26", 1, &["route 198.18.0.0/24 of node h"]),
        ("172.30.1.0/24", 1, &["172.30.0.0/16", "route", "h2"]),
        ("127.0.0.0/24", 1, &["127.0.0.0/8", "loopback"]),
        ("169.254.7.0/24", 1, &["169.254.0.0/16", "link-local"]),
        ("224.1.0.0/16", 1, &["224.0.0.0/4", "multicast"]),
        ("0.0.0.0/8", 1, &["0.0.0.0/8", "reserved"]),
        ("240.0.0.0/24", 1, &["240.0.0.0/4", "reserved"]),
        ("255.255.255.0/24", 1, &["reserved"]),
        ("0.0.0.0/0", 1, &["0.0.0.0/0", "/8"]),
        ("10.9.0.0/30", 1, &["10.9.0.0/30", "small", "/29"]),
        ("10.9.0.0/31", 1, &["small", "/29"]),
        ("10.9.0.0/32", 1, &["small", "/29"]),
        (
            "10.9.0.1/24",
            2,
            &["10.9.0.1/24", "host bits", "10.9.0.0/24"],
        ),
        ("10.9.0.0/33", 2, &["10.9.0.0/33", "10.0.1.0/24"]),
        ("10.9.0.0", 2, &["10.9.0.0", "10.0.1.0/24"]),
        ("fe80:7::/64", 1, &["fe80::/10", "link-local"]),
        ("ff05::/64", 1, &["ff00::/8", "multicast"]),
        ("fd00::/126", 1, &["fd00::/126", "small"]),
        ("foo", 2, &["foo", "10.0.1.0/24"]),
        ("", 2, &["subnet"]),
    ];
    let lines: Vec<Vec<&str>> = cases
        .iter()
        .map(|(cidr, ..)| vec!["network", "create", "n", "--subnet", cidr])
        .collect();
    let mut table: Vec<Refused<'_>> = lines
        .iter()
        .zip(cases)
        .map(|(line, (_, status, says))| (line.as_slice(), *status, *says))
        .collect();
    let gateway = |address: &'static str| {
        let line = "network create n --subnet 10.9.0.0/24 --gateway";
        let mut words: Vec<&str> = line.split(' ').collect();
        words.push(address);
        words
    };
    let gateways = [
        gateway("10.8.0.1"),
        gateway("10.9.0.0"),
        gateway("10.9.0.255"),
        gateway("x"),
    ];
    table.push((&gateways[0], 2, &["10.8.0.1", "--subnet"]));
    table.push((&gateways[1], 1, &["10.9.0.0", "10.9.0.1 to 10.9.0.254"]));
    table.push((&gateways[2], 1, &["10.9.0.255", "10.9.0.1 to 10.9.0.254"]));
    table.push((&gateways[3], 2, &["--gateway", "10.0.1.5 or fd00::5"]));
    let same: Vec<&str> = "network create n --subnet 10.9.0.0/24 --subnet 10.9.0.0/25"
        .split(' ')
        .collect();
    table.push((&same, 1, &["10.9.0.0/25", "10.9.0.0/24", "same network"]));
    // What is reserved or routed is not another network's to admit.
    let routed: Vec<&str> = "network create n --subnet 198.18.0.0/24 --allow-overlap"
        .split(' ')
        .collect();
    table.push((&routed, 1, &["198.18.0.0/24", "route"]));
    all_refused(&cluster, 2, 1, &table)
}

fn addresses_outside_taken_or_reserved() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(
        1,
        "network create web --subnet 10.9.0.0/24 --gateway 10.9.0.9",
    )?;
    cluster.container(2, "web", "held")?;
    cluster.sh(1, &["ip", "netns", "add", "blue"])?;
    let cases: &[(&str, &str, i32, &[&str])] = &[
        ("--ip", "10.9.0.9", 1, &["10.9.0.9", "gateway"]),
        ("--ip", "10.9.0.0", 1, &["10.9.0.0", "network address"]),
        ("--ip", "10.9.0.255", 1, &["10.9.0.255", "broadcast"]),
        ("--ip", "10.8.0.2", 1, &["10.8.0.2", "outside", "web"]),
        ("--ip", "127.0.0.1", 1, &["127.0.0.1", "outside"]),
        ("--ip", "0.0.0.0", 1, &["0.0.0.0", "outside"]),
        ("--ip", "10.9.0.1", 1, &["10.9.0.1", "held", "h2"]),
        ("--ip", "x", 2, &["x", "IPv4"]),
        ("--ip", "fd00::1", 2, &["fd00::1", "IPv4"]),
        ("--ip", "10.9.0.0/24", 2, &["IPv4"]),
        ("--mac", "02:42:0a:09:00:01", 1, &["02:42:0a:09:00:01"]),
        ("--mac", "02:42:0a:09:00:77", 1, &["02:42:0a:09:00:77"]),
        ("--mac", "ff:ff:ff:ff:ff:ff", 2, &["ff:ff:ff:ff:ff:ff"]),
        ("--mac", "01:00:5e:00:00:01", 2, &["01:00:5e:00:00:01"]),
        ("--mac", "00:00:00:00:00:00", 2, &["00:00:00:00:00:00"]),
        ("--mac", "xx", 2, &["xx", "02:42:0a:00:01:02"]),
        ("--ifname", "lo", 2, &["lo", "1 to 15"]),
        ("--ifname", "sixteen-is-a-lot", 2, &["1 to 15"]),
        ("--ifname", "a/b", 2, &["a/b", "1 to 15"]),
    ];
    let lines: Vec<Vec<&str>> = cases
        .iter()
        .map(|(option, value, ..)| {
            let attach = ["attach", "web", "--netns", "/run/netns/blue"];
            [&attach[..], &[option, value]].concat()
        })
        .collect();
    let table: Vec<Refused<'_>> = lines
        .iter()
        .zip(cases)
        .map(|(line, (_, _, status, says))| (line.as_slice(), *status, *says))
        .collect();
    all_refused(&cluster, 2, 1, &table)?;
    // An interface name that is in use inside is found out while programming: all is undone.
    let table: &[Refused<'_>] = &[(
        &[
            "attach",
            "web",
            "--netns",
            "/run/netns/blue",
            "--ifname",
            "taken",
        ],
        1,
        &["taken", "--ifname"],
    )];
    let add = "ip -n blue link add taken type bridge";
    cluster.sh(1, &add.split(' ').collect::<Vec<_>>())?;
    all_refused(&cluster, 2, 1, table)?;
    exhausted(&cluster)
}

/// A network without a free address.
fn exhausted(cluster: &Cluster) -> Result<()> {
    cluster.weft(1, "network create tiny --subnet 10.10.0.0/29")?;
    for number in 1..=5 {
        let name = format!("n{number}");
        cluster.sh(1, &["ip", "netns", "add", &name])?;
        cluster.weft(1, &format!("attach tiny --netns /run/netns/{name}"))?;
    }
    let table: &[Refused<'_>] = &[(
        &["attach", "tiny", "--netns", "/run/netns/blue"],
        1,
        &["tiny", "no free IPv4 address", "--subnet"],
    )];
    all_refused(cluster, 2, 1, table)
}

fn namespaces_that_cannot_be_attached() -> Result<()> {
    let cluster = Cluster::up(1)?;
    cluster.weft(1, "network create web")?;
    cluster.weft(1, "network create db")?;
    let prepare = "ip netns add blue; ip netns add red; touch /run/plain; mkdir /run/dir; \
                   mkfifo /run/fifo; touch /run/own; mount --bind /proc/self/ns/net /run/own; \
                   ln -s /run/netns/blue /run/link; touch /run/mnt; \
                   mount --bind /proc/self/ns/uts /run/uts 2>/dev/null || true";
    cluster.sh(1, &["sh", "-c", prepare])?;
    cluster.weft(1, "attach web --netns /run/netns/blue --name b")?;
    let sandbox = format!(
        "/run/weft/netns/{}",
        weft_cluster_tests::kernel::sandboxes(&cluster, 1)?.concat()
    );
    let agent = cluster.host(1)?.agent_pid()?.to_string();
    let by = |option: &'static str, value: &'static str| vec!["attach", "web", option, value];
    let own_by_pid = ["attach", "web", "--pid", &agent];
    let own_sandbox = ["attach", "db", "--netns", &sandbox];
    let table: &[Refused<'_>] = &[
        (
            &by("--netns", "/run/netns/nope"),
            1,
            &["/run/netns/nope", "does not exist"],
        ),
        (
            &by("--netns", "/run/netns/blue/x"),
            1,
            &["/run/netns/blue/x"],
        ),
        (
            &by("--netns", "/run/plain"),
            1,
            &["/run/plain", "not a network namespace", "/proc/PID/ns/net"],
        ),
        (
            &by("--netns", "/run/dir"),
            1,
            &["/run/dir", "not a network namespace"],
        ),
        (
            &by("--netns", "/run/fifo"),
            1,
            &["/run/fifo", "not a network namespace"],
        ),
        (
            &by("--netns", "/dev/null"),
            1,
            &["/dev/null", "not a network namespace"],
        ),
        (
            &by("--netns", "/proc/self/ns/mnt"),
            1,
            &["not a network namespace"],
        ),
        (&by("--netns", "/run/own"), 1, &["/run/own", "host's own"]),
        (&own_by_pid, 1, &["host's own"]),
        (&own_sandbox, 1, &["sandbox"]),
        (
            &by("--netns", "/run/netns/blue"),
            1,
            &["web", "already", "b", "h1"],
        ),
        (&by("--netns", "/run/link"), 1, &["web", "already", "b"]),
        (
            &by("--pid", "4194304"),
            1,
            &["4194304", "no process", "running"],
        ),
        (&by("--pid", "0"), 2, &["0", "above 0"]),
        (&by("--pid", "x"), 2, &["x", "number"]),
        (&by("--pid", "99999999999"), 2, &["99999999999"]),
        (&["attach", "web"], 2, &["--pid", "--netns"]),
        (
            &["attach", "web", "--pid", "1", "--netns", "/run/netns/red"],
            2,
            &["--pid", "--netns"],
        ),
    ];
    all_refused(&cluster, 1, 1, table)?;
    // The same namespace may be on another network.
    cluster.weft(1, "attach db --netns /run/netns/blue --name b")?;
    Ok(())
}

fn detaching_what_is_not_there() -> Result<()> {
    let cluster = Cluster::up(2)?;
    cluster.weft(1, "network create web")?;
    cluster.container(1, "web", "a")?;
    cluster.settle(1)?;
    let there = "weft endpoint ls";
    let table: &[Refused<'_>] = &[
        (&["detach", "nope"], 1, &["nope", there]),
        (&["detach", "nope.web"], 1, &["nope.web", there]),
        (&["detach", "a.nope"], 1, &["a.nope", there]),
        (&["detach", ".web"], 1, &[".web", there]),
        (&["detach", "nope", "--force"], 1, &["nope", there]),
        (&["detach", ""], 2, &["ENDPOINT", "empty"]),
        (&["detach"], 2, &["ENDPOINT"]),
        (&["detach", "a.web", "extra"], 2, &["extra"]),
    ];
    all_refused(&cluster, 2, 1, table)?;
    let table: &[Refused<'_>] = &[
        (&["detach", "a.web"], 1, &["a", "h1", "--force"]),
        (&["exec", "a.web", "--", "true"], 1, &["a.web", "h1"]),
    ];
    all_refused(&cluster, 2, 2, table)?;
    let before = Picture::of(&cluster, 2)?;
    cluster.weft(2, "detach a.web --force")?;
    // What is looked at goes while it is looked at.
    weft_cluster_tests::eventually("--force changes something", || {
        ensure!(before != Picture::of(&cluster, 2)?, "nothing has changed");
        Ok(())
    })?;
    cluster.refused(2, "detach a.web --force", 1, &["a.web", there])
}
