//! What becomes of flows whose backend is gone.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use weft_lb::flows::{Counts, Flows};
use weft_lb::spec::{Backend, Protocol, Scheduler, ServiceKey, Spec};
use weft_netns::conntrack::{Conntrack, Match};

use super::address::{ping, raw};
use super::lab::{
    BACKENDS4, BACKENDS6, CLIENT4, CLIENT6, Connection, DEADLINE, Lab, VIP4, VIP6, address_of,
    all_of, all_ports, counter, fresh_port, service, vip,
};

crate::cases!(
    the_next_datagram_of_a_forgotten_flow_goes_to_another_backend,
    the_next_segment_of_a_forgotten_connection_is_answered_with_a_reset,
    without_another_backend_it_is_the_table_that_resets,
    echo_requests_are_forgotten_too,
    nothing_else_is_forgotten,
    flows_are_forgotten_one_by_one_where_the_kernel_has_no_filter,
    flows_are_counted_by_service_and_backend,
);

const PORT: u16 = 8080;

fn flows(lab: &Lab) -> Flows {
    Flows::open(&lab.client.0).unwrap()
}

/// The spec without that backend, and the backend.
fn without(spec: &Spec, name: &str) -> (Spec, Backend) {
    let (mut spec, mut gone) = (spec.clone(), None);
    for service in spec.values_mut() {
        let named = |backend: &&Backend| backend.to_string() == name;
        gone = service
            .backends
            .keys()
            .copied()
            .find(|b| named(&b))
            .or(gone);
        service.backends.retain(|backend, _| !named(&backend));
    }
    (spec, gone.expect("a backend of that name"))
}

/// A datagram there, and who answered.
fn exchange(socket: &UdpSocket) -> String {
    socket.send(b"who").unwrap();
    let mut answer = [0; 200];
    let len = socket.recv(&mut answer).expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..len]);
    answer.split(' ').next().unwrap().to_owned()
}

/// A socket connected to a service.
fn stream(lab: &Lab, from: &str, to: SocketAddr) -> UdpSocket {
    let from = SocketAddr::new(from.parse().unwrap(), fresh_port());
    let socket = lab.client.run(|| UdpSocket::bind(from)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(to).unwrap();
    socket
}

fn the_next_datagram_of_a_forgotten_flow_goes_to_another_backend() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let (mut balancer, mut flows) = (lab.balancer(), flows(&lab));
    for (vip_address, client) in [(VIP4, CLIENT4), (VIP6, CLIENT6)] {
        let key = vip(vip_address, Protocol::Udp, 80);
        let spec = all_of(key, Scheduler::Random, PORT);
        balancer.reconcile(&spec).unwrap();
        let socket = stream(&lab, client, address_of(&key));
        let first = exchange(&socket);
        let (less, gone) = without(&spec, &first);
        balancer.reconcile(&less).unwrap();
        // By itself it stays where it is.
        assert_eq!(exchange(&socket), first);
        flows.forget(&gone, Some(&key)).unwrap();
        let next = exchange(&socket);
        assert_ne!(next, first);
        assert_eq!(exchange(&socket), next);
    }
}

/// A connection whose backend was taken out of the table and its flows forgotten; with the rest of
/// the backends or none.
fn orphan(lab: &Lab, key: ServiceKey, alone: bool) -> TcpStream {
    let (mut balancer, mut flows) = (lab.balancer(), flows(lab));
    let mut spec = all_of(key, Scheduler::RoundRobin, PORT);
    if alone {
        let backends = &mut spec.get_mut(&key).unwrap().backends;
        let first = *backends.keys().next().unwrap();
        backends.retain(|backend, _| *backend == first);
    }
    balancer.reconcile(&spec).unwrap();
    let mut connection = lab.connect(&key);
    connection.echo("before");
    let (less, gone) = without(&spec, &connection.backend);
    balancer.reconcile(&less).unwrap();
    connection.echo("as long as it is remembered");
    flows.forget(&gone, Some(&key)).unwrap();
    connection.into_stream()
}

/// The next segment is answered with a reset, where it would have been repeated for minutes.
fn assert_reset(mut stream: TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    // It may have been a delayed acknowledgement already.
    let outcome = stream.write_all(b"is anybody there?");
    let error = outcome.and_then(|()| stream.read(&mut [0; 9])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

fn the_next_segment_of_a_forgotten_connection_is_answered_with_a_reset() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    for vip_address in [VIP4, VIP6] {
        let stream = orphan(&lab, vip(vip_address, Protocol::Tcp, 80), false);
        assert_reset(stream);
    }
}

fn without_another_backend_it_is_the_table_that_resets() {
    let lab = Lab::serving(Protocol::Tcp, PORT);
    for vip_address in [VIP4, VIP6] {
        let stream = orphan(&lab, vip(vip_address, Protocol::Tcp, 80), true);
        assert_reset(stream);
    }
}

fn echo_requests_are_forgotten_too() {
    let lab = Lab::new();
    let (mut balancer, mut flows) = (lab.balancer(), flows(&lab));
    let key = all_ports(VIP4);
    let all = service(Scheduler::Random, 0, BACKENDS4.map(|b| (b, 1)));
    let spec: Spec = [(key, all)].into();
    balancer.reconcile(&spec).unwrap();
    let socket = raw(&lab.client, libc::IPPROTO_ICMP, CLIENT4, Some(VIP4));
    let counts = || {
        lab.backends
            .each_ref()
            .map(|ns| counter(ns, "Icmp", "InEchos"))
    };
    ping(&socket, false, 1);
    ping(&socket, false, 1);
    let asked = counts().iter().position(|n| *n > 0).unwrap();
    assert_eq!(counts()[asked], 2);
    let (less, gone) = without(&spec, BACKENDS4[asked]);
    balancer.reconcile(&less).unwrap();
    flows.forget(&gone, Some(&key)).unwrap();
    ping(&socket, false, 1);
    assert_eq!((counts()[asked], counts().iter().sum::<u64>()), (2, 3));
}

fn nothing_else_is_forgotten() {
    let mut lab = Lab::serving(Protocol::Tcp, PORT);
    lab.serve(0, Protocol::Tcp, BACKENDS4[0], 9090);
    let (mut balancer, mut flows) = (lab.balancer(), flows(&lab));
    let [one, other] = [80, 81].map(|port| vip(VIP4, Protocol::Tcp, port));
    let whole = all_ports("10.1.0.201");
    let only = |port| service(Scheduler::Random, port, [(BACKENDS4[0], 1)]);
    let spec = [(one, only(PORT)), (other, only(PORT)), (whole, only(0))];
    balancer.reconcile(&spec.into()).unwrap();
    let open = |to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        lab.client.run(|| Connection::open(to)).unwrap()
    };
    let mut kept = [
        open("10.1.0.200:81"),
        open("10.1.0.201:8080"),
        open("10.1.0.201:9090"),
        // Not by way of a service.
        open("10.1.0.12:8080"),
        open("10.1.0.11:9090"),
    ];
    let lost = open("10.1.0.200:80");
    // Now the table refuses whatever is not remembered.
    let nothing = spec_of_nothing([one, other, whole]);
    balancer.reconcile(&nothing).unwrap();
    let [gone] = [only(PORT).backends.into_keys().next().unwrap()];
    flows.forget(&gone, Some(&one)).unwrap();
    assert_reset(lost.into_stream());
    for connection in &mut kept {
        connection.echo("still there");
    }
    // Of every service, at one port.
    flows.forget(&gone, None).unwrap();
    let [second, third, rest @ ..] = kept;
    assert_reset(second.into_stream());
    assert_reset(third.into_stream());
    for mut connection in rest {
        connection.echo("still there");
    }
}

fn spec_of_nothing(keys: [ServiceKey; 3]) -> Spec {
    keys.map(|key| (key, service(Scheduler::Random, 0, [])))
        .into()
}

fn flows_are_forgotten_one_by_one_where_the_kernel_has_no_filter() {
    let lab = Lab::serving(Protocol::Udp, PORT);
    let mut balancer = lab.balancer();
    let mut conntrack = Conntrack::open_in(&lab.client.0).unwrap();
    for (vip_address, backends, client) in [(VIP4, BACKENDS4, CLIENT4), (VIP6, BACKENDS6, CLIENT6)]
    {
        let key = vip(vip_address, Protocol::Udp, 80);
        let spec = all_of(key, Scheduler::RoundRobin, PORT);
        balancer.reconcile(&spec).unwrap();
        let streams: Vec<_> = (0..30)
            .map(|_| stream(&lab, client, address_of(&key)))
            .collect();
        let before: Vec<_> = streams.iter().map(exchange).collect();
        let (less, gone) = without(&spec, &before[0]);
        balancer.reconcile(&less).unwrap();
        let wanted = Match {
            protocol: Some(17),
            destination: Some(vip_address.parse().unwrap()),
            replier: Some(gone.address),
            ..Match::default()
        };
        assert_eq!(conntrack.forget_each(&wanted).unwrap(), 10);
        assert_eq!(conntrack.forget_each(&wanted).unwrap(), 0);
        let after: Vec<_> = streams.iter().map(exchange).collect();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(*before == gone.to_string(), before != after);
        }
        assert_eq!(after.len(), 10 * backends.len());
    }
}

fn flows_are_counted_by_service_and_backend() {
    let mut lab = Lab::serving(Protocol::Tcp, PORT);
    for (index, backend) in BACKENDS6.iter().enumerate() {
        lab.serve(index, Protocol::Udp, backend, 53);
    }
    let one = vip(VIP4, Protocol::Tcp, 80);
    let whole = all_ports(VIP6);
    let mut spec = all_of(one, Scheduler::RoundRobin, PORT);
    let backends = BACKENDS6.map(|b| (b, 1));
    spec.insert(whole, service(Scheduler::RoundRobin, 0, backends));
    let (mut balancer, mut flows) = (lab.balancer(), flows(&lab));
    balancer.reconcile(&spec).unwrap();
    let keys: BTreeSet<ServiceKey> = spec.keys().copied().collect();
    assert_eq!(flows.count(&keys).unwrap(), Counts::new());
    let mut connections: Vec<_> = (0..7).map(|_| lab.connect(&one)).collect();
    let dns = SocketAddr::new(VIP6.parse::<IpAddr>().unwrap(), 53);
    let streams: Vec<_> = (0..4).map(|_| stream(&lab, CLIENT6, dns)).collect();
    streams.iter().for_each(|stream| drop(exchange(stream)));
    let http = SocketAddr::new(VIP6.parse::<IpAddr>().unwrap(), PORT);
    let _connection = lab.client.run(|| Connection::open(http)).unwrap();
    // What is not rewritten counts nowhere.
    let direct: SocketAddr = "10.1.0.11:8080".parse().unwrap();
    let _direct = lab.client.run(|| Connection::open(direct)).unwrap();
    let by = |key: &ServiceKey, counts: [u64; 3]| {
        let backends = spec[key].backends.keys().copied();
        let found = backends.zip(counts).filter(|(_, count)| *count > 0);
        (*key, found.collect())
    };
    let wanted: Counts = [by(&one, [3, 2, 2]), by(&whole, [2, 2, 1])].into();
    assert_eq!(flows.count(&keys).unwrap(), wanted);
    let only_one: BTreeSet<_> = [one].into();
    assert_eq!(
        flows.count(&only_one).unwrap(),
        [by(&one, [3, 2, 2])].into()
    );
    // Those that have ended are not counted while they are remembered.
    connections.truncate(4);
    let wanted: Counts = [by(&one, [2, 1, 1])].into();
    let start = Instant::now();
    while flows.count(&only_one).unwrap() != wanted {
        assert!(start.elapsed() < DEADLINE, "{:?}", flows.count(&only_one));
        std::thread::sleep(Duration::from_millis(5));
    }
}
