//! How long flows without packets are remembered.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weft_lb::spec::{Protocol, Scheduler, ServiceKey, Spec};
use weft_netns::conntrack::{Conntrack, Flow, Match};

use super::lab::{
    BACKENDS4, DEADLINE, Lab, TABLE, VIP4, VIP6, address_of, all_of, all_ports, service, vip,
};
use super::ns::await_release;
use super::upkeep::nft;

crate::cases!(
    flows_have_the_idle_time_of_their_service,
    a_client_that_keeps_its_backend_has_it_too,
    a_service_of_all_ports_has_it_for_both_protocols,
    an_idle_time_that_changes_is_that_of_the_next_flow,
    a_lowered_sysctl_is_not_that_of_connections,
    idle_times_are_read_back,
);

const PORT: u16 = 8080;
/// What the kernel says where nobody changed it.
const USUAL_ESTABLISHED: u32 = 432_000;

fn with_idle(mut spec: Spec, seconds: Option<u64>) -> Spec {
    for service in spec.values_mut() {
        service.idle = seconds.map(Duration::from_secs);
    }
    spec
}

/// The one flow to that address that is in use comes to be forgotten in so many seconds, when its
/// segments are acknowledged, which the kernel has a time of its own for.
fn await_left(lab: &Lab, protocol: Protocol, to: SocketAddr, wanted: u32) {
    let protocol = match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut found = Vec::new();
        let mut conntrack = Conntrack::open_in(&lab.client.0).unwrap();
        let each = |flow: Flow| {
            let at = flow.original.destination;
            let same = (at.address, at.port) == (to.ip(), to.port());
            if same && flow.original.protocol == protocol && !flow.ended {
                found.push(flow.left_s);
            }
        };
        conntrack.flows(each).unwrap();
        if matches!(found[..], [left] if (wanted - 40..=wanted).contains(&left)) {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted} s wanted: {found:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn flows_have_the_idle_time_of_their_service() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let lab = Lab::serving(protocol, PORT);
        let mut balancer = lab.balancer();
        for address in [VIP4, VIP6] {
            let key = vip(address, protocol, 80);
            let spec = with_idle(all_of(key, Scheduler::Random, PORT), Some(700));
            let report = balancer.reconcile(&spec).unwrap();
            assert!(!report.lacks_idle, "{report:?}");
            let to = address_of(&key);
            match protocol {
                Protocol::Tcp => {
                    let mut held = lab.connect(&key);
                    held.echo("hello");
                    await_left(&lab, protocol, to, 700);
                }
                Protocol::Udp => {
                    lab.ask(&key, 1);
                    await_left(&lab, protocol, to, 700);
                }
            }
        }
    }
}

fn a_client_that_keeps_its_backend_has_it_too() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let mut balancer = lab.balancer();
    let key = vip(VIP4, Protocol::Tcp, 80);
    let mut spec = with_idle(all_of(key, Scheduler::Random, PORT), Some(700));
    spec.get_mut(&key).unwrap().affinity = Some(Duration::from_secs(60));
    balancer.reconcile(&spec).unwrap();
    // The first is of a new client.
    for _ in 0..2 {
        let mut held = lab.connect(&key);
        held.echo("hello");
        await_left(&lab, Protocol::Tcp, address_of(&key), 700);
        drop(held);
        forget(&lab, &key);
    }
}

fn forget(lab: &Lab, key: &ServiceKey) {
    let mut conntrack = Conntrack::open_in(&lab.client.0).unwrap();
    let all = Match {
        destination: Some(address_of(key).ip()),
        ..Default::default()
    };
    conntrack.forget_each(&all).unwrap();
}

fn a_service_of_all_ports_has_it_for_both_protocols() {
    let mut lab = Lab::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        lab.serve(0, protocol, BACKENDS4[0], PORT);
    }
    let mut balancer = lab.balancer();
    let all = all_ports(VIP4);
    let one = service(Scheduler::Random, 0, [(BACKENDS4[0], 1)]);
    let spec = with_idle([(all, one)].into(), Some(700));
    balancer.reconcile(&spec).unwrap();
    let to = SocketAddr::new(VIP4.parse().unwrap(), PORT);
    let mut held = lab.connect(&vip(VIP4, Protocol::Tcp, PORT));
    held.echo("hello");
    lab.ask(&vip(VIP4, Protocol::Udp, PORT), 1);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        await_left(&lab, protocol, to, 700);
    }
}

fn an_idle_time_that_changes_is_that_of_the_next_flow() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let mut balancer = lab.balancer();
    let key = vip(VIP4, Protocol::Tcp, 80);
    let spec = all_of(key, Scheduler::Random, PORT);
    balancer.reconcile(&spec).unwrap();
    for (seconds, wanted) in [
        (None, USUAL_ESTABLISHED),
        (Some(700), 700),
        (Some(90), 90),
        (None, USUAL_ESTABLISHED),
    ] {
        let next = with_idle(spec.clone(), seconds);
        let changes = next
            .iter()
            .map(|(key, service)| (*key, Some(service.clone())));
        balancer.change(&changes.collect()).unwrap();
        let mut held = lab.connect(&key);
        held.echo("hello");
        await_left(&lab, Protocol::Tcp, address_of(&key), wanted);
        drop(held);
        forget(&lab, &key);
    }
    assert_eq!(objects(&lab), BTreeSet::new());
}

fn a_lowered_sysctl_is_not_that_of_connections() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    let mut balancer = lab.balancer();
    let key = vip(VIP4, Protocol::Tcp, 80);
    let spec = all_of(key, Scheduler::Random, PORT);
    // The sysctl is there once connection tracking is.
    balancer.reconcile(&spec).unwrap();
    let sysctl = "netfilter/nf_conntrack_tcp_timeout_established";
    lab.client.0.set_sysctl(sysctl, "600").unwrap();
    for (seconds, wanted) in [(None, USUAL_ESTABLISHED), (Some(90), 90)] {
        balancer.ensure(&with_idle(spec.clone(), seconds)).unwrap();
        let mut held = lab.connect(&key);
        held.echo("hello");
        await_left(&lab, Protocol::Tcp, address_of(&key), wanted);
        drop(held);
        forget(&lab, &key);
    }
}

fn idle_times_are_read_back() {
    let lab = Lab::new();
    let spec = |seconds| {
        let mut spec = Spec::new();
        for (address, protocol) in [(VIP4, Protocol::Tcp), (VIP6, Protocol::Udp)] {
            spec.extend(all_of(vip(address, protocol, 80), Scheduler::Random, PORT));
        }
        with_idle(spec, seconds)
    };
    lab.balancer().reconcile(&spec(Some(700))).unwrap();
    let wanted = ["tcp-700s", "udp-700s"].map(str::to_owned);
    assert_eq!(objects(&lab), wanted.into());
    await_release(&lab.client, TABLE);
    let mut next = lab.balancer();
    let report = next.reconcile(&spec(Some(700))).unwrap();
    assert_eq!((report.ops, report.created), (0, false));
    let report = next.reconcile(&spec(None)).unwrap();
    assert_eq!((report.ops, report.created), (4, false));
    assert_eq!(objects(&lab), BTreeSet::new());
}

/// Time-outs in the table, as `nft` names them.
fn objects(lab: &Lab) -> BTreeSet<String> {
    let listed = nft(&lab.client, &["list", "table", "inet", TABLE]);
    let lines = listed.lines().map(str::trim);
    let named = lines.filter_map(|line| line.strip_prefix("ct timeout "));
    named
        .filter_map(|line| line.strip_suffix(" {"))
        .map(str::to_owned)
        .collect()
}
