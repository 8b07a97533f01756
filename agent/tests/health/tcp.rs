use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use weft_agent::health::Probe;

use super::Test;
use super::place::{ADDRESS, Look, PORT, Place, named};

pub(crate) const TESTS: &[Test] = &[
    ("a_server_comes_dies_and_comes_back", comes_and_goes),
    ("a_server_in_another_namespace_does_not_count", elsewhere),
    (
        "a_port_that_clients_get_too_is_not_met_by_itself",
        meets_itself,
    ),
    ("an_address_that_is_not_there_is_said", no_address),
    ("a_server_that_does_not_accept_is_late", does_not_accept),
    ("a_namespace_that_is_gone_is_said", gone),
    ("another_namespace_in_the_place_is_noticed", replaced),
    ("what_is_set_anew_is_told_anew", told_anew),
    ("hundreds_are_told_each_once", hundreds),
];

const TCP: Probe = Probe::Tcp { port: PORT };

fn comes_and_goes() {
    let place = Place::new();
    let mut look = Look::one(&place, TCP);
    look.assert_unhealthy("10.0.1.2:80 refuses connections");
    for _ in 0..3 {
        let server = place.listen();
        look.assert_healthy();
        drop(server);
        look.assert_unhealthy("refuses");
    }
}

fn elsewhere() {
    let (here, there) = (Place::new(), Place::new());
    let _server = there.listen();
    Look::one(&there, TCP).assert_healthy();
    Look::one(&here, TCP).assert_unhealthy("refuses");
}

fn meets_itself() {
    let place = Place::new();
    place
        .netns
        .set_sysctl("ipv4/ip_local_port_range", "40000 40000")
        .unwrap();
    let mut look = Look::one(&place, Probe::Tcp { port: 40000 });
    look.assert_unhealthy("no socket could be opened");
}

fn no_address() {
    let place = Place::new();
    let mut target = place.target(TCP);
    target.address = [10, 0, 1, 3].into();
    let mut look = Look::at(place.directory.path(), [target]);
    look.assert_unhealthy("no interface of its namespace has 10.0.1.3");
}

/// The kernel drops what goes beyond the backlog of a server that does not accept.
fn does_not_accept() {
    let place = Place::new();
    let address = SocketAddr::from((ADDRESS, PORT));
    let stream = || {
        let kind = socket2::Type::STREAM;
        let socket = place.netns.socket(socket2::Domain::IPV4, kind, None);
        socket.unwrap()
    };
    let server = stream();
    server.bind(&address.into()).unwrap();
    server.listen(0).unwrap();
    let waiting = stream();
    waiting.connect(&address.into()).unwrap();
    let mut target = place.target(TCP);
    target.check.timeout = Duration::from_millis(100);
    let mut look = Look::at(place.directory.path(), [target]);
    look.assert_unhealthy("accepts no connection within 100ms");
}

fn gone() {
    let place = Place::new();
    let server = place.listen();
    let mut look = Look::one(&place, TCP);
    look.assert_healthy();
    drop(server);
    weft_netns::delete(&place.path()).unwrap();
    look.assert_unhealthy("cannot open network namespace");
}

fn replaced() {
    let (place, other) = (Place::new(), Place::new());
    let _server = other.listen();
    let mut target = place.target(TCP);
    target.netns.path = other.path();
    let mut look = Look::at(place.directory.path(), [target]);
    look.assert_unhealthy("another one is in its place");
}

fn told_anew() {
    let place = Place::new();
    let _server = place.listen();
    let mut look = Look::one(&place, TCP);
    look.assert_healthy();
    let mut changed = place.target(TCP);
    changed.check.retries += 1;
    look.prober.set(named([changed]));
    look.assert_healthy();
    // As after a restart of the agent.
    Look::one(&place, TCP).assert_healthy();
}

fn hundreds() {
    let place = Place::new();
    let server = place.listen();
    // The kernel accepts no more than a backlog by itself. Ends with the test process.
    thread::spawn(move || server.incoming().for_each(drop));
    let good = (0..200).map(|_| place.target(TCP));
    let bad = (0..100).map(|_| place.target(Probe::Tcp { port: 81 }));
    let mut look = Look::at(place.directory.path(), good.chain(bad));
    let mut told: Vec<(String, bool)> = (0..300)
        .map(|_| look.next())
        .map(|verdict| (verdict.endpoint, verdict.healthy))
        .collect();
    assert_eq!(told.iter().filter(|(_, healthy)| *healthy).count(), 200);
    told.sort();
    told.dedup_by(|a, b| a.0 == b.0);
    assert_eq!(told.len(), 300);
}
