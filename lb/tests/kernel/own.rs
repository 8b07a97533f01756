//! The table in the namespace of a backend, whose own flows to the service may come to itself.

use std::net::{IpAddr, SocketAddr};

use weft_lb::spec::{Protocol, Scheduler, Spec};

use super::lab::{
    BACKENDS4, BACKENDS6, Connection, Lab, VIP4, VIP6, address_of, all_of, all_ports, ask, backend,
    balancer, service, vip,
};

crate::cases!(
    a_backend_connects_to_its_own_service_and_may_reach_itself,
    a_backend_sends_datagrams_to_its_own_service_and_may_reach_itself,
    a_backend_alone_reaches_itself_by_every_port_of_its_service,
);

const PORT: u16 = 8080;

/// Of a service in turns every backend answers as often, the one that asks too, and sees an address
/// of its own. `port` is the service's: the backends' own or another.
fn everyone_answers(protocol: Protocol, port: u16) {
    let lab = Lab::serving(protocol, PORT);
    let keys = [VIP4, VIP6].map(|address| vip(address, protocol, port));
    let spec: Spec = keys
        .into_iter()
        .flat_map(|key| all_of(key, Scheduler::RoundRobin, PORT))
        .collect();
    let asking = &lab.backends[0];
    // Strict about where sources may be (RFC 3704), as some distributions are.
    asking.0.set_sysctl("ipv4/conf/all/rp_filter", "1").unwrap();
    balancer(asking).reconcile(&spec).unwrap();
    for (key, backends) in keys.into_iter().zip([BACKENDS4, BACKENDS6]) {
        let from = backends[0].parse().unwrap();
        let answers = ask(asking, protocol, from, address_of(&key), 30);
        let wanted = backends.map(|b| (backend(b, PORT).to_string(), 10));
        assert_eq!(answers, wanted.into());
    }
}

fn a_backend_connects_to_its_own_service_and_may_reach_itself() {
    everyone_answers(Protocol::Tcp, 80);
    everyone_answers(Protocol::Tcp, PORT);
}

fn a_backend_sends_datagrams_to_its_own_service_and_may_reach_itself() {
    everyone_answers(Protocol::Udp, 80);
    everyone_answers(Protocol::Udp, PORT);
}

fn a_backend_alone_reaches_itself_by_every_port_of_its_service() {
    let mut lab = Lab::new();
    // As most programs listen: at any address.
    for (protocol, port) in [(Protocol::Tcp, 22), (Protocol::Udp, 53)] {
        lab.serve(0, protocol, "0.0.0.0", port);
    }
    let only = service(Scheduler::RoundRobin, 0, [(BACKENDS4[0], 1)]);
    let asking = &lab.backends[0];
    let spec = [(all_ports(VIP4), only)].into();
    balancer(asking).reconcile(&spec).unwrap();
    let vip: IpAddr = VIP4.parse().unwrap();
    let from = BACKENDS4[0].parse().unwrap();
    for (protocol, port) in [(Protocol::Tcp, 22), (Protocol::Udp, 53)] {
        let to = SocketAddr::new(vip, port);
        let answers = ask(asking, protocol, from, to, 20);
        assert_eq!(answers, [(format!("0.0.0.0:{port}"), 20)].into());
    }
    let to = SocketAddr::new(vip, 22);
    let mut connection = asking.run(|| Connection::open(to)).unwrap();
    connection.echo("to and fro");
}
