//! How the table is kept.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_lb::ingress::{Ingress, IngressError, IngressReport, IngressSpecError};
use weft_lb::spec::Protocol;
use weft_netns::nft::{Batch, Chain, NftSocket, Table, TableFlags};

use super::host::{Host, TABLE, nft};
use super::lab::{Lab, PORT, ways};
use super::ns::await_release;
use super::talk::{Connection, DEADLINE};

crate::cases!(
    the_table_works_on_without_its_agent_and_is_adopted_by_the_next,
    a_foreign_flush_skips_the_table_and_nft_lists_it,
    a_table_that_was_lost_or_spoilt_is_made_anew,
    another_address_replaces_the_table_and_keeps_what_was_counted,
    other_bits_of_marks_are_others,
    a_thousand_nodes_load_and_change_quickly,
    a_second_agent_is_refused_by_name,
    bad_input_changes_nothing,
    a_removed_table_leaves_nothing,
);

fn settled(report: IngressReport) {
    assert_eq!(report.ops, 0, "{report:?}");
    assert!(report.exclusive);
}

/// Both hosts lose their agents.
fn without_agents(lab: &mut Lab) {
    for host in [&mut lab.a, &mut lab.b] {
        host.ingress = Ingress::open(&host.ns.0, TABLE).unwrap();
        await_release(&host.ns, TABLE);
    }
}

fn the_table_works_on_without_its_agent_and_is_adopted_by_the_next() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    let to = SocketAddr::new(lab.a.underlay(true), PORT);
    let open = || Connection::open(to, DEADLINE).unwrap();
    let mut connection = lab.outside.run(open);
    without_agents(&mut lab);
    connection.echo(1000);
    for (protocol, v4) in ways() {
        lab.ask(protocol, lab.a.underlay(v4));
    }
    for host in [&mut lab.a, &mut lab.b] {
        settled(host.reconcile());
        settled(host.reconcile());
    }
    connection.echo(1000);
}

fn a_foreign_flush_skips_the_table_and_nft_lists_it() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    for host in [&mut lab.a, &mut lab.b] {
        let port = (Protocol::Tcp, 443.try_into().unwrap());
        host.spec.snat_ports.insert(port);
        let prefixes = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        host.spec.allowed.insert(port, prefixes.into());
        host.reconcile();
        nft(&host.ns, "add table inet another");
        nft(&host.ns, "flush ruleset");
        settled(host.reconcile());
    }
    for (protocol, v4) in ways() {
        lab.ask(protocol, lab.a.underlay(v4));
    }
    let list = nft(&lab.b.ns, "list table inet weft-ingress");
    for line in [
        // What follows is a mark, whose bytes `nft` takes for those of another order.
        "elements = { 02:42:0a:00:00:01 : 0x",
        "elements = { tcp . 443 . 10.0.0.0/8 }",
        "elements = { tcp . 443 . fd00::/8 }",
        "elements = { 198.18.0.1 . 10.0.0.1 }",
        "iifname \"wf-ingress\" goto from-mesh",
        "ct state == new ct mark set ether saddr map @entries",
        "ct direction reply ct mark & 0x00fff000 != 0x00000000 meta mark set ct mark & 0x00fff000",
        "ip saddr 127.0.0.0/8 goto drop-loopback",
        "meta l4proto . th dport @restricted fib daddr type local",
        "tcp flags syn tcp option maxseg size set rt mtu",
        "ip saddr != 192.0.2.0/24 goto drop-foreign",
        "oifname @networks ct status ! dnat goto drop-not-published",
        "oifname != \"wf-ingress\" oifname != \"weft-gw\" accept",
        "ct state established,related accept",
        "ip saddr 192.0.2.0/24 snat ip to 10.0.0.2",
        "ip6 saddr ::1 snat ip6 to fd77:6566:7401::a00:2",
        "ip saddr . ip daddr @peers4 snat ip to 10.0.0.2",
        "ct status dnat meta l4proto . ct original proto-dst @rewritten masquerade",
    ] {
        assert!(list.contains(line), "no `{line}` in:\n{list}");
    }
}

fn a_table_that_was_lost_or_spoilt_is_made_anew() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    let table = Table {
        name: TABLE.to_owned(),
        flags: TableFlags::PERSISTENT,
        owner: None,
    };
    for spoil in [
        (|_: &mut Batch, _: &Table| {}) as fn(&mut Batch, &Table),
        |batch, table| batch.add_table(table),
        |batch, table| {
            batch.add_table(table);
            let (table, name) = (table.name.clone(), "foreign".to_owned());
            batch.add_chain(&Chain {
                table,
                name,
                base: None,
            });
        },
    ] {
        without_agents(&mut lab);
        let mut foreign = NftSocket::open_in(&lab.b.ns.0).unwrap();
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        spoil(&mut batch, &table);
        foreign.commit(batch).unwrap();
        assert!(lab.b.reconcile().ops > 20);
        settled(lab.b.reconcile());
        lab.ask(Protocol::Tcp, lab.a.underlay(true));
    }
}

fn another_address_replaces_the_table_and_keeps_what_was_counted() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    let entries = std::mem::take(&mut lab.b.spec.entries);
    lab.b.reconcile();
    let to = SocketAddr::new(lab.a.underlay(true), PORT);
    assert!(super::talk::is_silent(&lab.outside, Protocol::Tcp, to));
    let counted = lab.b.report().no_entry;
    assert!(counted > 0);
    lab.b.spec.entries = entries;
    lab.b.spec.gateway4 = None;
    assert!(lab.b.reconcile().ops > 20);
    assert!(lab.b.report().no_entry >= counted);
    settled(lab.b.reconcile());
    lab.ask(Protocol::Tcp, lab.a.underlay(true));
}

/// The marks of another program, in the chains where such programs usually set them.
fn other_bits_of_marks_are_others() {
    let mut lab = Lab::new();
    lab.publish(0, 1);
    let b = &lab.b.ns;
    for command in [
        "add table inet another",
        "add chain inet another pre { type filter hook prerouting priority -150 ; }",
        "add rule inet another pre iifname wf-ingress ct state new ct mark set ct mark | 0x7",
        "add rule inet another pre iifname weft-gw meta mark set meta mark | 0x50",
        "add chain inet another post { type filter hook postrouting priority 300 ; }",
        "add rule inet another post oifname wf-ingress ct mark 0x1007 meta mark 0x1050 counter",
    ] {
        nft(b, command);
    }
    for (protocol, v4) in ways() {
        lab.ask(protocol, lab.a.underlay(v4));
    }
    let list = nft(b, "list chain inet another post");
    assert!(!list.contains("counter packets 0 "), "{list}");
}

fn a_thousand_nodes_load_and_change_quickly() {
    let mut host = Host::new(1);
    for number in 1..=1000u16 {
        let [high, low] = number.to_be_bytes();
        host.spec
            .entries
            .insert([2, 0x42, 10, 0, high, low], number);
        let of = |net: u8| IpAddr::from([net, 0, high, low]);
        host.spec.peers.insert(of(198), of(10));
        let port = (Protocol::Tcp, number.try_into().unwrap());
        let prefix = IpNet::from(of(203));
        host.spec.allowed.insert(port, [prefix].into());
    }
    let timed = |host: &mut Host| {
        let start = Instant::now();
        let report = host.reconcile();
        (report.ops, start.elapsed())
    };
    let (ops, load) = timed(&mut host);
    assert!(ops > 4000);
    host.spec.entries.remove(&[2, 0x42, 10, 0, 0, 7]);
    host.spec.allowed.clear();
    let (ops, change) = timed(&mut host);
    assert_eq!(ops, 2 + 2 * 1000);
    let (ops, nothing) = timed(&mut host);
    assert_eq!(ops, 0);
    println!("4000 elements: loaded in {load:?}, half removed in {change:?}, read in {nothing:?}");
    // Generous: other tests run at the same time.
    assert!([load, change, nothing].into_iter().max() < Some(Duration::from_secs(5)));
}

fn a_second_agent_is_refused_by_name() {
    let mut host = Host::new(1);
    host.reconcile();
    let mut second = Ingress::open(&host.ns.0, TABLE).unwrap();
    let error = second.reconcile(&host.spec).unwrap_err();
    assert!(
        matches!(&error, IngressError::Owned { table, .. } if table == TABLE),
        "{error}"
    );
    let error = second.remove().unwrap_err();
    assert!(matches!(error, IngressError::Owned { .. }), "{error}");
    settled(host.reconcile());
}

fn bad_input_changes_nothing() {
    let mut host = Host::new(1);
    host.reconcile();
    let mut bad = host.spec.clone();
    bad.gateway_if = "a name that is too long".into();
    bad.entries.insert([2; 6], 7);
    let error = host.ingress.reconcile(&bad).unwrap_err();
    assert!(
        matches!(
            error,
            IngressError::Spec(IngressSpecError::BadInterface { .. })
        ),
        "{error}"
    );
    settled(host.reconcile());
    for name in ["other", "weft ingress", &"weft".repeat(9)] {
        let error = Ingress::open(&host.ns.0, name).unwrap_err();
        assert!(matches!(error, IngressError::BadName { .. }));
    }
}

fn a_removed_table_leaves_nothing() {
    let mut host = Host::new(1);
    host.reconcile();
    assert!(host.table_exists());
    let ingress = Ingress::open(&host.ns.0, TABLE).unwrap();
    std::mem::replace(&mut host.ingress, ingress)
        .remove()
        .unwrap();
    assert!(!host.table_exists());
    // Nothing to do.
    Ingress::open(&host.ns.0, TABLE).unwrap().remove().unwrap();
}
