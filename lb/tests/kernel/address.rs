//! Service addresses with all their ports and protocols.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use weft_lb::spec::{MaglevSize, Protocol, Scheduler, Spec};

use super::lab::{
    BACKENDS4, BACKENDS6, CLIENT4, CLIENT6, DEADLINE, Lab, VIP4, VIP6, all_ports, ask, backend,
    counter, counter6, service, vip,
};
use super::ns::{Ns, join, route};

crate::cases!(
    every_port_of_a_service_address_leads_to_a_backend,
    an_echo_request_to_a_service_address_is_answered_by_a_backend,
    other_protocols_lead_to_a_backend,
    maglev_takes_packets_without_ports,
    a_datagram_in_fragments_comes_through,
    a_service_for_a_port_comes_before_one_for_all,
    an_address_without_backends_refuses_every_port_at_once,
);

const VIPS: [&str; 2] = [VIP4, VIP6];
const CLIENTS: [&str; 2] = [CLIENT4, CLIENT6];

/// Both service addresses with all ports, over all backends.
fn both() -> Spec {
    let all = |backends: [&'static str; 3]| service(Scheduler::Random, 0, backends.map(|b| (b, 1)));
    [
        (all_ports(VIP4), all(BACKENDS4)),
        (all_ports(VIP6), all(BACKENDS6)),
    ]
    .into()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn every_port_of_a_service_address_leads_to_a_backend() {
    let mut lab = Lab::serving(Protocol::Tcp, 8080);
    for (index, backend) in BACKENDS4.iter().enumerate() {
        lab.serve(index, Protocol::Tcp, backend, 22);
    }
    for (index, (v4, v6)) in BACKENDS4.iter().zip(BACKENDS6).enumerate() {
        lab.serve(index, Protocol::Udp, v4, 53);
        lab.serve(index, Protocol::Udp, v6, 53);
    }
    lab.balancer().reconcile(&both()).unwrap();
    for (protocol, family, port) in [
        (Protocol::Tcp, 0, 8080),
        (Protocol::Tcp, 0, 22),
        (Protocol::Tcp, 1, 8080),
        (Protocol::Udp, 0, 53),
        (Protocol::Udp, 1, 53),
    ] {
        let from = CLIENTS[family].parse().unwrap();
        let answers = ask(&lab.client, protocol, from, at(VIPS[family], port), 120);
        let wanted = [BACKENDS4, BACKENDS6][family].map(|b| backend(b, port).to_string());
        assert!(answers.keys().eq(&wanted), "{answers:?}");
        // Six standard deviations from a third.
        assert!(answers.values().all(|n| *n >= 9), "{answers:?}");
    }
}

/// How many echo requests came to the namespace so far.
fn echo_requests(ns: &Ns, family: usize) -> u64 {
    match family {
        0 => counter(ns, "Icmp", "InEchos"),
        _ => counter6(ns, "Icmp6InEchos"),
    }
}

/// The checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(high) << 8 | u32::from(low),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let sum: u32 = words.sum();
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

/// What comes to a raw socket, without the header that IPv4 leaves in front.
fn receive(socket: &Socket, v6: bool) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; 2000];
    let len = std::io::Read::read(&mut &*socket, &mut bytes)?;
    let start = if v6 { 0 } else { 20 };
    Ok(bytes[start..len].to_vec())
}

/// A raw socket bound to an address, which takes what comes from another one only.
pub(super) fn raw(ns: &Ns, protocol: i32, from: &str, to: Option<&str>) -> Socket {
    let from = at(from, 0);
    let domain = Domain::for_address(from);
    let socket = ns.0.socket(domain, Type::RAW, Some(protocol.into()));
    let socket = socket.unwrap();
    socket.bind(&from.into()).unwrap();
    if let Some(to) = to {
        socket.connect(&at(to, 0).into()).unwrap();
    }
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// An echo request there and back (RFC 792, RFC 4443 section 4).
pub(super) fn ping(socket: &Socket, v6: bool, id: u16) {
    let (request, reply) = if v6 { (128, 129) } else { (8, 0) };
    let [high, low] = id.to_be_bytes();
    let mut message = vec![request, 0, 0, 0, high, low, 0, 1, b'w', b'e', b'f', b't'];
    // The kernel knows the one of ICMPv6 itself.
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    socket.send(&message).unwrap();
    loop {
        let answer = receive(socket, v6).expect("an answer");
        if answer.first() == Some(&reply) && answer[4..] == message[4..] {
            return;
        }
    }
}

fn an_echo_request_to_a_service_address_is_answered_by_a_backend() {
    let lab = Lab::new();
    lab.balancer().reconcile(&both()).unwrap();
    for (family, protocol) in [libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6]
        .into_iter()
        .enumerate()
    {
        let socket = raw(&lab.client, protocol, CLIENTS[family], Some(VIPS[family]));
        let count = |lab: &Lab| lab.backends.each_ref().map(|ns| echo_requests(ns, family));
        let before = count(&lab);
        for id in 1..=120 {
            ping(&socket, family == 1, id);
        }
        let answered: Vec<u64> = count(&lab).iter().zip(before).map(|(n, b)| n - b).collect();
        assert_eq!(answered.iter().sum::<u64>(), 120, "{answered:?}");
        assert!(answered.iter().all(|n| *n >= 9), "{answered:?}");
    }
}

fn other_protocols_lead_to_a_backend() {
    let lab = Lab::new();
    lab.balancer().reconcile(&both()).unwrap();
    // An INIT of SCTP (RFC 9260 section 3.3.2), from port 1 to port 2.
    let mut init = vec![0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20];
    init.extend([7, 7, 7, 7, 0, 0, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    // And a protocol for experiments (RFC 3692), which the kernel knows nothing of.
    for (protocol, request) in [(253, b"weft".to_vec()), (libc::IPPROTO_SCTP, init)] {
        for (family, backends) in [BACKENDS4, BACKENDS6].into_iter().enumerate() {
            let places = lab.backends.iter().zip(backends);
            let servers: Vec<Socket> = places
                .map(|(ns, address)| {
                    let socket = raw(ns, protocol, address, Some(CLIENTS[family]));
                    socket.set_nonblocking(true).unwrap();
                    socket
                })
                .collect();
            let client = raw(&lab.client, protocol, CLIENTS[family], Some(VIPS[family]));
            client.send(&request).unwrap();
            let (server, got) = first_of(&servers, family == 1);
            // In SCTP, but for the checksum.
            assert_eq!((got.len(), &got[..4]), (request.len(), &request[..4]));
            if protocol == 253 {
                server.send(b"answer").unwrap();
                assert_eq!(receive(&client, family == 1).unwrap(), b"answer");
            }
        }
    }
}

fn maglev_takes_packets_without_ports() {
    let lab = Lab::new();
    let backends = BACKENDS4.map(|b| (b, 1));
    let maglev = service(Scheduler::Maglev(MaglevSize::Small), 0, backends);
    let spec = [(all_ports(VIP4), maglev)].into();
    lab.balancer().reconcile(&spec).unwrap();
    ping(
        &raw(&lab.client, libc::IPPROTO_ICMP, CLIENT4, Some(VIP4)),
        false,
        1,
    );
    let places = lab.backends.iter().zip(BACKENDS4);
    let servers = places.map(|(ns, address)| {
        let socket = raw(ns, 253, address, Some(CLIENT4));
        socket.set_nonblocking(true).unwrap();
        socket
    });
    let servers: Vec<Socket> = servers.collect();
    // Less than two ports take.
    let client = raw(&lab.client, 253, CLIENT4, Some(VIP4));
    client.send(b"w").unwrap();
    assert_eq!(first_of(&servers, false).1, b"w");
}

/// The first socket that something comes to, and that.
fn first_of(sockets: &[Socket], v6: bool) -> (&Socket, Vec<u8>) {
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        for socket in sockets {
            match receive(socket, v6) {
                Ok(got) => return (socket, got),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing came");
}

fn a_datagram_in_fragments_comes_through() {
    let lab = Lab::serving(Protocol::Udp, 53);
    let (node, outside) = (&lab.client, Ns::new());
    let there = ["10.2.0.1/24", "10.2.0.2/24"];
    join("out0", (node, &there[..1]), (&outside, &there[1..]));
    node.0.set_sysctl("ipv4/ip_forward", "1").unwrap();
    for backend in &lab.backends {
        let way_back = CLIENT4.parse().unwrap();
        route(backend, ([10, 2, 0, 0].into(), 24), way_back);
    }
    route(&outside, ([10, 1, 0, 0].into(), 24), [10, 2, 0, 1].into());
    lab.balancer().reconcile(&both()).unwrap();
    // From the node itself the first packet is whole; from outside all are fragments.
    for (ns, from) in [(node, CLIENT4), (&outside, "10.2.0.2")] {
        let mut answers = BTreeMap::<String, u32>::new();
        ns.run(|| {
            for _ in 0..30 {
                let socket = UdpSocket::bind(at(from, 0)).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket.connect(at(VIP4, 53)).unwrap();
                socket.send(&[7; 4000]).unwrap();
                let mut answer = [0; 200];
                let len = socket.recv(&mut answer).expect("an answer");
                let answer = String::from_utf8_lossy(&answer[..len]);
                let (backend, client) = answer.split_once(' ').unwrap();
                assert_eq!(client, socket.local_addr().unwrap().to_string());
                *answers.entry(backend.to_owned()).or_default() += 1;
            }
        });
        // That one of three is never chosen happens once in 60,000 times.
        assert!(answers.len() >= 2, "{answers:?}");
    }
}

fn a_service_for_a_port_comes_before_one_for_all() {
    let mut lab = Lab::serving(Protocol::Tcp, 80);
    for (index, backend) in BACKENDS4.iter().enumerate() {
        lab.serve(index, Protocol::Tcp, backend, 81);
        lab.serve(index, Protocol::Udp, backend, 80);
        lab.serve(index, Protocol::Tcp, backend, 8080);
    }
    let one = vip(VIP4, Protocol::Tcp, 80);
    let mut spec = both();
    let all = service(Scheduler::Random, 0, [(BACKENDS4[0], 1), (BACKENDS4[1], 1)]);
    spec.insert(all_ports(VIP4), all);
    spec.insert(one, service(Scheduler::Random, 8080, [(BACKENDS4[2], 1)]));
    let mut balancer = lab.balancer();
    balancer.reconcile(&spec).unwrap();
    let client: IpAddr = CLIENT4.parse().unwrap();
    let ask = |protocol, port| ask(&lab.client, protocol, client, at(VIP4, port), 40);
    let alone = backend(BACKENDS4[2], 8080).to_string();
    assert_eq!(ask(Protocol::Tcp, 80), [(alone, 40)].into());
    for (protocol, port) in [(Protocol::Tcp, 81), (Protocol::Udp, 80)] {
        let answers = ask(protocol, port);
        let wanted = [0, 1].map(|i| backend(BACKENDS4[i], port).to_string());
        assert!(answers.keys().eq(&wanted), "{answers:?}");
    }
    balancer.change(&[(one, None)].into()).unwrap();
    assert_eq!(ask(Protocol::Tcp, 80).len(), 2);
}

fn an_address_without_backends_refuses_every_port_at_once() {
    let lab = Lab::new();
    let nothing = service(Scheduler::Random, 0, []);
    let spec = VIPS.map(|vip| (all_ports(vip), nothing.clone()));
    lab.balancer().reconcile(&spec.into()).unwrap();
    for (family, vip) in VIPS.into_iter().enumerate() {
        let before = counter(&lab.client, "Tcp", "RetransSegs");
        let error = lab
            .client
            .run(|| TcpStream::connect(at(vip, 9)))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let error = lab.client.run(|| {
            let socket = UdpSocket::bind(at(CLIENTS[family], 0)).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.connect(at(vip, 9)).unwrap();
            // Refused at the socket already when the packet is dropped on its way out.
            let _ = socket.send(b"who");
            socket.recv(&mut [0; 9])
        });
        assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        // By the answer to the first attempt.
        assert_eq!(counter(&lab.client, "Tcp", "RetransSegs"), before);
    }
}
