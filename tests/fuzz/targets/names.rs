//! What a container sends to the name server, and what another name server answers.
#![no_main]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use weft_fuzz::Input;
use weft_lb::dns::{
    Exchange, Policy, ResolvConf, Site, Step, Target, Transport, UDP_MAX, Verdict, Zone, resolve,
};

fn zone(name: &str) -> Zone {
    let address = |host: u8| IpAddr::from([10, 0, 1, host]);
    let target = |port| Target {
        port,
        weight: 1,
        name: "a".to_owned(),
    };
    Zone {
        name: name.to_owned(),
        subnets: vec!["10.0.1.0/24".parse().expect("a subnet")],
        names: BTreeMap::from([
            ("a".to_owned(), vec![address(2)]),
            ("b".to_owned(), (3..255).map(address).collect()),
            ("tasks.b".to_owned(), Vec::new()),
        ]),
        reverse: BTreeMap::from([(address(2), "a".to_owned())]),
        services: BTreeMap::from([("_1._tcp.a".to_owned(), (0..99).map(target).collect())]),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.byte();
    let site = Site {
        zones: vec![Arc::new(zone("w")), Arc::new(zone("d"))],
        forwards: flags & 1 == 0,
    };
    let (transport, most) = match flags & 2 {
        0 => (Transport::Udp, usize::from(UDP_MAX)),
        _ => (Transport::Tcp, usize::from(u16::MAX)),
    };
    let packet = input.bytes();
    let query = match resolve(&site, packet, transport, flags.into()) {
        Verdict::Ignore => return,
        Verdict::Answer(answer, _) => {
            assert!(answer.len() <= most);
            assert_eq!(answer[..2], packet[..2]);
            assert!(answer[2] & 0x80 != 0);
            return;
        }
        Verdict::Forward(query) => query,
    };
    assert!(site.forwards);
    let policy = Policy {
        timeout: Duration::from_secs(1),
        attempts: 2,
        limit: Duration::from_secs(5),
    };
    let conf = ResolvConf::parse("nameserver 192.0.2.1\nnameserver 192.0.2.2");
    let servers = conf.name_servers.iter();
    let servers = servers.map(|server| (server.address, 53).into()).collect();
    let mut exchange = Exchange::new(query, servers, policy, Duration::ZERO);
    let mut step = exchange.next(input.short(), Duration::ZERO);
    for seconds in 0.. {
        assert!(seconds < 99, "it does not end");
        let now = Duration::from_millis(seconds * 100);
        match &step {
            Step::Answer(answer) | Step::Fail(answer) => {
                assert!(answer.len() <= most);
                assert_eq!(answer[..2], packet[..2]);
                return;
            }
            Step::Ask { .. } => {}
        }
        let mut answer = exchange.packet().to_vec();
        let length = answer.len();
        match input.byte() {
            // An answer to what was asked, with something behind it.
            kind if kind & 1 == 1 && length > 8 => {
                answer[2] |= 0x80;
                answer[3] = kind >> 4;
                answer[7] = kind & 2;
                answer.extend_from_slice(input.bytes());
            }
            _ => answer = input.bytes().to_vec(),
        }
        let next = exchange.take(&answer, input.short(), now);
        step = next.unwrap_or_else(|| exchange.next(input.short(), now));
    }
});
