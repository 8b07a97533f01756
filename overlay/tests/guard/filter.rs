//! What the member filter lets through, and how it is kept.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use weft_netns::nft::{Batch, Chain, NftSocket, Set, Table, TableFlags};
use weft_overlay::guard::{Guard, GuardError, GuardReport, MEMBERS_MAX};

use super::ns::{DEADLINE, Ns, await_release, ip, join};

crate::cases!(
    members_pass_and_others_are_dropped_and_counted,
    other_ports_are_untouched,
    datagrams_to_the_broadcast_address_are_judged_too,
    fragmented_datagrams_are_judged_too,
    what_is_routed_through_the_host_is_untouched,
    a_node_reaches_its_own_address,
    a_change_of_members_is_incremental_and_loses_nothing,
    another_port_replaces_the_table_and_the_count_goes_on,
    the_filter_works_on_without_its_agent_and_is_adopted_by_the_next,
    a_second_agent_is_refused_by_name,
    foreign_changes_are_refused_and_repaired,
    a_table_of_another_shape_is_replaced,
    five_thousand_members_load_and_change_quickly,
    too_many_members_are_refused,
    other_names_for_the_table_are_refused,
    a_filter_that_is_removed_leaves_nothing,
    another_namespace_is_reached_by_its_descriptor,
    without_privilege_the_error_says_what_is_missing,
);

/// Set for a child that is to be without privilege over its namespace.
pub(super) const UNPRIVILEGED: &str = "WEFT_TEST_UNPRIVILEGED";
const TABLE: &str = "weft";
const PORT: u16 = 4789;
const NODE4: &str = "198.18.0.1";
const MEMBER4: &str = "198.18.0.2";
const STRANGER4: &str = "198.18.0.3";
const NODE6: &str = "2001:db8::1";
const MEMBER6: &str = "2001:db8::2";
const STRANGER6: &str = "2001:db8::3";

/// A node and a neighbour that has a member's addresses and a stranger's.
struct Pair {
    node: Ns,
    peer: Ns,
}

impl Pair {
    fn new() -> Self {
        let (node, peer) = (Ns::new(), Ns::new());
        join(
            "eth0",
            (&node, &["198.18.0.1/24", "2001:db8::1/64"]),
            (
                &peer,
                &[
                    "198.18.0.2/24",
                    "198.18.0.3/24",
                    "2001:db8::2/64",
                    "2001:db8::3/64",
                ],
            ),
        );
        Self { node, peer }
    }

    /// The agent goes, and with it the table's owner.
    fn without_agent(&self, guard: Guard) {
        drop(guard);
        await_release(&self.node, TABLE);
    }

    /// A node that knows its members.
    fn guarded() -> (Self, Guard, UdpSocket) {
        let pair = Self::new();
        let mut guard = pair.guard();
        guard.reconcile(PORT, &members()).unwrap();
        let listener = pair.listener(PORT);
        (pair, guard, listener)
    }

    fn guard(&self) -> Guard {
        self.node.run(|| Guard::open(TABLE)).unwrap()
    }

    fn listener(&self, port: u16) -> UdpSocket {
        listener(&self.node, port)
    }

    /// Sends a datagram from one of the peer's addresses to the node.
    fn send(&self, from: &'static str, port: u16, payload: &str) {
        let to = if ip(from).is_ipv4() { NODE4 } else { NODE6 };
        send(&self.peer, from, SocketAddr::new(ip(to), port), payload);
    }
}

fn members() -> BTreeSet<IpAddr> {
    [NODE4, MEMBER4, NODE6, MEMBER6].map(ip).into()
}

fn listener(ns: &Ns, port: u16) -> UdpSocket {
    let socket = ns.run(move || UdpSocket::bind(("::", port))).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn send(ns: &Ns, from: &'static str, to: SocketAddr, payload: &str) {
    let payload = payload.to_owned();
    ns.run(move || {
        let socket = UdpSocket::bind((ip(from), 0)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.send_to(payload.as_bytes(), to).unwrap();
    });
}

fn receive(socket: &UdpSocket) -> String {
    let mut buffer = [0; 9000];
    let len = socket.recv(&mut buffer).expect("a datagram in time");
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}

fn assert_silent(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let got = socket.recv(&mut [0; 16]).map_err(|error| error.kind());
    assert_eq!(got, Err(std::io::ErrorKind::WouldBlock));
    socket.set_nonblocking(false).unwrap();
}

/// Waits until so many were dropped; then they cannot arrive any more.
fn await_dropped(guard: &mut Guard, wanted: (u64, u64)) {
    let start = Instant::now();
    loop {
        let report = guard.report().unwrap().expect("a table");
        let dropped = (report.dropped4, report.dropped6);
        if dropped == wanted {
            return;
        }
        assert!(
            start.elapsed() < DEADLINE,
            "dropped {dropped:?} instead of {wanted:?}"
        );
        std::thread::yield_now();
    }
}

fn members_pass_and_others_are_dropped_and_counted() {
    let (pair, mut guard, listener) = Pair::guarded();
    pair.send(MEMBER4, PORT, "member over IPv4");
    assert_eq!(receive(&listener), "member over IPv4");
    pair.send(MEMBER6, PORT, "member over IPv6");
    assert_eq!(receive(&listener), "member over IPv6");
    pair.send(STRANGER4, PORT, "stranger");
    pair.send(STRANGER4, PORT, "stranger");
    pair.send(STRANGER6, PORT, "stranger");
    await_dropped(&mut guard, (2, 1));
    assert_silent(&listener);
}

fn other_ports_are_untouched() {
    let (pair, mut guard, _) = Pair::guarded();
    for port in [PORT - 1, PORT + 1] {
        let listener = pair.listener(port);
        for stranger in [STRANGER4, STRANGER6] {
            pair.send(stranger, port, stranger);
            assert_eq!(receive(&listener), stranger);
        }
    }
    await_dropped(&mut guard, (0, 0));
}

fn datagrams_to_the_broadcast_address_are_judged_too() {
    let (pair, mut guard, listener) = Pair::guarded();
    let everybody = SocketAddr::new(ip("198.18.0.255"), PORT);
    send(&pair.peer, MEMBER4, everybody, "member");
    assert_eq!(receive(&listener), "member");
    send(&pair.peer, STRANGER4, everybody, "stranger");
    await_dropped(&mut guard, (1, 0));
    assert_silent(&listener);
}

fn fragmented_datagrams_are_judged_too() {
    let (pair, mut guard, listener) = Pair::guarded();
    let large = "x".repeat(4000);
    for (member, stranger) in [(MEMBER4, STRANGER4), (MEMBER6, STRANGER6)] {
        pair.send(member, PORT, &large);
        assert_eq!(receive(&listener), large);
        pair.send(stranger, PORT, &large);
    }
    await_dropped(&mut guard, (1, 1));
    assert_silent(&listener);
}

fn what_is_routed_through_the_host_is_untouched() {
    let (pair, mut guard, _) = Pair::guarded();
    let behind = Ns::new();
    join(
        "eth1",
        (&pair.node, &["198.18.1.1/24"]),
        (&behind, &["198.18.1.2/24"]),
    );
    pair.node.0.set_sysctl("ipv4/ip_forward", "1").unwrap();
    add_route(&pair.peer, "198.18.1.0/24", NODE4);
    let listener = listener(&behind, PORT);
    send(
        &pair.peer,
        STRANGER4,
        SocketAddr::new(ip("198.18.1.2"), PORT),
        "passing by",
    );
    assert_eq!(receive(&listener), "passing by");
    await_dropped(&mut guard, (0, 0));
}

fn add_route(ns: &Ns, to: &'static str, via: &'static str) {
    use std::net::Ipv4Addr;
    ns.link(move |handle| async move {
        let to: ipnet::Ipv4Net = to.parse().unwrap();
        let route = rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.addr(), to.prefix_len())
            .gateway(via.parse().unwrap())
            .build();
        handle.route().add(route).execute().await.unwrap();
    });
}

fn a_node_reaches_its_own_address() {
    let (pair, _guard, listener) = Pair::guarded();
    for own in [NODE4, NODE6] {
        send(&pair.node, own, SocketAddr::new(ip(own), PORT), own);
        assert_eq!(receive(&listener), own);
    }
}

fn a_change_of_members_is_incremental_and_loses_nothing() {
    let (pair, mut guard, listener) = Pair::guarded();
    let mut wanted = members();
    for round in 0..50u8 {
        let other = IpAddr::from([203, 0, 113, round]);
        wanted.insert(other);
        assert_eq!(guard.reconcile(PORT, &wanted).unwrap().ops, 1);
        pair.send(MEMBER4, PORT, "still there");
        wanted.remove(&other);
        assert_eq!(guard.reconcile(PORT, &wanted).unwrap().ops, 1);
        assert_eq!(receive(&listener), "still there");
    }
    assert_eq!(guard.reconcile(PORT, &wanted).unwrap().ops, 0);
    wanted.remove(&ip(MEMBER4));
    wanted.insert(ip(STRANGER4));
    assert_eq!(guard.reconcile(PORT, &wanted).unwrap().ops, 2);
    pair.send(STRANGER4, PORT, "now a member");
    assert_eq!(receive(&listener), "now a member");
    pair.send(MEMBER4, PORT, "no member any more");
    await_dropped(&mut guard, (1, 0));
    assert_silent(&listener);
}

fn another_port_replaces_the_table_and_the_count_goes_on() {
    let (pair, mut guard, listener) = Pair::guarded();
    pair.send(STRANGER4, PORT, "stranger");
    await_dropped(&mut guard, (1, 0));
    let report = guard.reconcile(PORT + 1, &members()).unwrap();
    assert_eq!((report.ops, report.dropped4), (6 + 4, 1));
    pair.send(STRANGER4, PORT, "to the port that was");
    assert_eq!(receive(&listener), "to the port that was");
    pair.send(STRANGER4, PORT + 1, "to the port that is");
    await_dropped(&mut guard, (2, 0));
}

fn the_filter_works_on_without_its_agent_and_is_adopted_by_the_next() {
    let (pair, mut guard, listener) = Pair::guarded();
    pair.send(STRANGER4, PORT, "stranger");
    await_dropped(&mut guard, (1, 0));
    pair.without_agent(guard);
    pair.send(STRANGER4, PORT, "stranger while nobody watches");
    pair.send(MEMBER4, PORT, "member");
    assert_eq!(receive(&listener), "member");
    let mut next = pair.guard();
    await_dropped(&mut next, (2, 0));
    assert!(!next.report().unwrap().unwrap().exclusive);
    let report = next.reconcile(PORT, &members()).unwrap();
    let wanted = GuardReport {
        ops: 0,
        members: 4,
        dropped4: 2,
        dropped6: 0,
        exclusive: true,
    };
    assert_eq!(report, wanted);
    assert!(next.report().unwrap().unwrap().exclusive);
    assert_silent(&listener);
}

fn a_second_agent_is_refused_by_name() {
    let (pair, mut first, _) = Pair::guarded();
    let mut second = pair.guard();
    let error = second.reconcile(PORT, &BTreeSet::new()).unwrap_err();
    assert!(matches!(error, GuardError::Owned { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("table `weft` belongs to another running process")
    );
    assert!(second.remove().is_err());
    assert_eq!(first.reconcile(PORT, &members()).unwrap().ops, 0);
}

fn foreign_changes_are_refused_and_repaired() {
    let (pair, mut guard, _) = Pair::guarded();
    let mut foreign = pair.node.run(NftSocket::open).unwrap();
    let mut batch = Batch::new();
    batch.delete_elements(TABLE, "members4", &[vec![198, 18, 0, 2]]);
    assert_eq!(
        foreign.commit(batch).unwrap_err().errno(),
        Some(libc::EPERM)
    );
    let delete = || {
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        batch
    };
    assert_eq!(
        foreign.commit(delete()).unwrap_err().errno(),
        Some(libc::EPERM)
    );
    assert_eq!(guard.reconcile(PORT, &members()).unwrap().ops, 0);
    // Without an owner it is anybody's; the next agent makes it again.
    pair.without_agent(guard);
    foreign.commit(delete()).unwrap();
    let mut next = pair.guard();
    assert_eq!(next.report().unwrap(), None);
    assert_eq!(next.reconcile(PORT, &members()).unwrap().ops, 6 + 4);
}

fn a_table_of_another_shape_is_replaced() {
    let pair = Pair::new();
    let mut foreign = pair.node.run(NftSocket::open).unwrap();
    let table = Table {
        name: TABLE.into(),
        flags: TableFlags::NONE,
        owner: None,
    };
    let mut batch = Batch::new();
    batch.add_table(&table);
    batch.add_chain(&Chain {
        table: TABLE.into(),
        name: "other".into(),
        base: None,
    });
    foreign.commit(batch).unwrap();
    let mut guard = pair.guard();
    assert_eq!(guard.reconcile(PORT, &members()).unwrap().ops, 6 + 4);
    assert_eq!(guard.reconcile(PORT, &members()).unwrap().ops, 0);
    let names: Vec<String> = foreign
        .chains(TABLE)
        .unwrap()
        .into_iter()
        .map(|chain| chain.name)
        .collect();
    assert_eq!(names, ["datapath"]);
}

fn five_thousand_members_load_and_change_quickly() {
    let pair = Pair::new();
    let mut guard = pair.guard();
    let many = (0..5000u32).map(|i| {
        let low = 0x0a00_0000 + i;
        if i % 2 == 0 {
            IpAddr::from(low.to_be_bytes())
        } else {
            IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(low)).to_be_bytes())
        }
    });
    let mut wanted: BTreeSet<IpAddr> = many.collect();
    let start = Instant::now();
    let report = guard.reconcile(PORT, &wanted).unwrap();
    let cold = start.elapsed();
    assert_eq!((report.ops, report.members), (5006, 5000));
    let start = Instant::now();
    wanted.pop_first();
    assert_eq!(guard.reconcile(PORT, &wanted).unwrap().ops, 1);
    let change = start.elapsed();
    assert_eq!(guard.report().unwrap().unwrap().members, 4999);
    eprintln!("5,000 members: loaded in {cold:?}, one removed in {change:?}");
}

fn too_many_members_are_refused() {
    let pair = Pair::new();
    let mut guard = pair.guard();
    let count = u32::try_from(MEMBERS_MAX).unwrap();
    let at = |base: u32| {
        (base..base + count)
            .map(|i| IpAddr::from(i.to_be_bytes()))
            .collect()
    };
    let mut full: BTreeSet<IpAddr> = at(0x0a00_0000);
    assert_eq!(guard.reconcile(PORT, &full).unwrap().members, MEMBERS_MAX);
    // All at once others: the sets have room for both.
    full = at(0x0b00_0000);
    assert_eq!(guard.reconcile(PORT, &full).unwrap().ops, 2 * MEMBERS_MAX);
    full.insert(ip(NODE4));
    let error = guard.reconcile(PORT, &full).unwrap_err();
    assert_eq!(
        error.to_string(),
        "8193 data-path members refused: the member filter takes at most 8192"
    );
}

fn other_names_for_the_table_are_refused() {
    for name in [
        "",
        "filter",
        "wef",
        "weft table",
        "weft/x",
        &"weft".repeat(9),
    ] {
        let error = Guard::open(name).unwrap_err();
        assert!(
            matches!(error, GuardError::BadName { .. }),
            "{name}: {error}"
        );
    }
}

fn a_filter_that_is_removed_leaves_nothing() {
    let (pair, guard, listener) = Pair::guarded();
    guard.remove().unwrap();
    let mut reader = pair.node.run(NftSocket::open).unwrap();
    assert_eq!(reader.table(TABLE).unwrap(), None);
    assert_eq!(reader.sets(TABLE).unwrap(), Vec::<Set>::new());
    pair.send(STRANGER4, PORT, "open again");
    assert_eq!(receive(&listener), "open again");
    pair.guard().remove().unwrap();
}

fn another_namespace_is_reached_by_its_descriptor() {
    let (pair, _guard, _) = Pair::guarded();
    let mut there = NftSocket::open_in(&pair.node.0).unwrap();
    assert!(there.table(TABLE).unwrap().is_some());
    assert_eq!(there.elements(TABLE, "members4").unwrap().len(), 2);
    let mut elsewhere = NftSocket::open_in(&pair.peer.0).unwrap();
    assert_eq!(elsewhere.table(TABLE).unwrap(), None);
    assert_eq!(elsewhere.elements(TABLE, "members4").unwrap().len(), 0);
}

fn without_privilege_the_error_says_what_is_missing() {
    let this = std::env::current_exe().unwrap();
    let child = Command::new(this).env(UNPRIVILEGED, "1").output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(
        said.starts_with("the member filter needs CAP_NET_ADMIN"),
        "{said} {child:?}"
    );
}

/// In a user namespace of its own, which has no say over the network namespace it is in.
pub(super) fn report_open_without_privilege() {
    unshare(CloneFlags::CLONE_NEWUSER).unwrap();
    match Guard::open(TABLE) {
        Ok(_) => println!("opened"),
        Err(error) => println!("{error}"),
    }
}
