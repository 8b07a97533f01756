use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::{A, AllRecordData};
use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn zone(name: &str, network: u8) -> Zone {
    let address = |host: u8| ip(&format!("10.0.{network}.{host}"));
    let target = |name: &str, weight| Target {
        port: 80,
        weight,
        name: name.to_owned(),
    };
    let names = [
        ("one", vec![address(2), ip("fd00::2")]),
        ("two", vec![address(3)]),
        ("gone", vec![]),
        ("list", vec![address(2), address(3), address(4)]),
        ("many", (2..=202).map(address).collect()),
    ];
    Zone {
        name: name.to_owned(),
        subnets: vec![format!("10.0.{network}.0/24").parse().unwrap()],
        names: { names.into_iter() }
            .map(|(name, addresses)| (name.to_owned(), addresses))
            .collect(),
        reverse: BTreeMap::from([
            (address(2), "one".to_owned()),
            (ip("fd00::2"), "one".to_owned()),
        ]),
        services: BTreeMap::from([(
            "_80._tcp.list".to_owned(),
            vec![target("one", 1), target("two", 2)],
        )]),
    }
}

fn site() -> Site {
    Site {
        zones: vec![Arc::new(zone("web", 1)), Arc::new(zone("db", 2))],
        forwards: true,
    }
}

fn internal() -> Site {
    Site {
        forwards: false,
        ..site()
    }
}

/// A query as clients send it; with EDNS if a size is given.
fn query(name: &str, rtype: Rtype, edns: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut question = builder.question();
    let name: Name<Vec<u8>> = name.parse().unwrap();
    question.push((name, rtype)).unwrap();
    let mut additional = question.additional();
    if let Some(size) = edns {
        let sized = additional.opt(|opt| {
            opt.set_udp_payload_size(size);
            Ok(())
        });
        sized.unwrap();
    }
    additional.finish()
}

/// What is answered over UDP: kind, code, and the records as text.
fn told(site: &Site, packet: &[u8], turn: u64) -> (Kind, Rcode, Vec<String>) {
    let Verdict::Answer(answer, kind) = resolve(site, packet, Transport::Udp, turn) else {
        panic!("no answer");
    };
    let message = Message::from_octets(answer).unwrap();
    assert!(message.header().qr());
    assert_eq!(message.header().id().to_be_bytes(), packet[..2]);
    (kind, message.header().rcode(), records(&message))
}

fn records(message: &Message<Vec<u8>>) -> Vec<String> {
    let records = message.answer().unwrap().limit_to::<AllRecordData<_, _>>();
    let records = records.map(|record| {
        let record = record.unwrap();
        assert_eq!(record.ttl().as_secs(), TTL_S);
        record.data().to_string()
    });
    records.collect()
}

fn asks(name: &str, rtype: Rtype) -> (Kind, Rcode, Vec<String>) {
    told(&site(), &query(name, rtype, None), 0)
}

fn answered(records: &[&str]) -> (Kind, Rcode, Vec<String>) {
    let records = records.iter().map(|record| (*record).to_owned()).collect();
    (Kind::Answered, Rcode::NOERROR, records)
}

#[test]
fn names_are_found_with_and_without_their_network_in_any_case() {
    assert_eq!(asks("two", Rtype::A), answered(&["10.0.1.3"]));
    assert_eq!(asks("tWo", Rtype::A), answered(&["10.0.1.3"]));
    assert_eq!(asks("two.WEB", Rtype::A), answered(&["10.0.1.3"]));
    assert_eq!(asks("two.db", Rtype::A), answered(&["10.0.2.3"]));
    assert_eq!(asks("one", Rtype::AAAA), answered(&["fd00::2"]));
    assert_eq!(asks("one", Rtype::ANY), answered(&["10.0.1.2", "fd00::2"]));
    let reverse = asks("2.2.0.10.in-addr.arpa", Rtype::PTR);
    assert_eq!(reverse, answered(&["one.db."]));
    let digits = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(asks(digits, Rtype::PTR), answered(&["one.web."]));
}

#[test]
fn a_name_without_such_records_is_there() {
    let no_data = (Kind::NoData, Rcode::NOERROR, vec![]);
    for (name, rtype) in [
        ("two", Rtype::AAAA),
        ("two", Rtype::MX),
        ("gone", Rtype::A),
        ("web", Rtype::SOA),
        ("2.1.0.10.in-addr.arpa", Rtype::A),
    ] {
        assert_eq!(asks(name, rtype), no_data, "{name}");
    }
}

#[test]
fn a_name_that_a_network_would_have_is_nobody_elses() {
    let no_name = (Kind::NoName, Rcode::NXDOMAIN, vec![]);
    for name in [
        "nobody.web",
        "a.b.db",
        "tasks.nobody",
        "_99._tcp.one",
        "_x._udp.one.web",
        "77.1.0.10.in-addr.arpa",
    ] {
        assert_eq!(asks(name, Rtype::A), no_name, "{name}");
    }
}

#[test]
fn other_names_are_others_and_on_internal_networks_nobodys() {
    let others = [
        "nobody",
        "example.org",
        "tasks.example.org",
        "_ldap._tcp.corp",
        "web.example.org",
        "1.9.0.10.in-addr.arpa",
        "02.1.0.10.in-addr.arpa",
        "1.0.10.in-addr.arpa",
        "x.ip6.arpa",
        ".",
    ];
    for name in others {
        let packet = query(name, Rtype::A, None);
        let verdict = resolve(&site(), &packet, Transport::Udp, 0);
        assert!(matches!(verdict, Verdict::Forward(_)), "{name}");
        let (kind, rcode, _) = told(&internal(), &packet, 0);
        match name.trim_end_matches('.').contains('.') {
            true => assert_eq!((kind, rcode), (Kind::Refused, Rcode::REFUSED), "{name}"),
            false => assert_eq!((kind, rcode), (Kind::NoName, Rcode::NXDOMAIN), "{name}"),
        }
    }
    assert_eq!(
        told(&internal(), &query("two.db", Rtype::A, None), 0),
        answered(&["10.0.2.3"])
    );
    // A label with a dot in it is another name than the two labels.
    let mut packet = query("twoxweb", Rtype::A, None);
    packet[12 + 4] = b'.';
    let verdict = resolve(&site(), &packet, Transport::Udp, 0);
    assert!(matches!(verdict, Verdict::Forward(_)));
}

#[test]
fn each_address_comes_first_in_its_turn() {
    let packet = query("list", Rtype::A, None);
    let first = |turn| told(&site(), &packet, turn).2.remove(0);
    let all: BTreeSet<String> = (0..3).map(first).collect();
    assert_eq!(all.len(), 3);
    assert_eq!(first(u64::MAX).len(), first(0).len());
}

#[test]
fn a_service_says_where_it_is_and_what_that_is() {
    let packet = query("_80._tcp.list", Rtype::SRV, Some(4096));
    let (kind, _, records) = told(&site(), &packet, 0);
    assert_eq!(kind, Kind::Answered);
    assert_eq!(records, ["0 1 80 one.web", "0 2 80 two.web"]);
    let Verdict::Answer(answer, _) = resolve(&site(), &packet, Transport::Udp, 0) else {
        panic!("no answer");
    };
    let message = Message::from_octets(answer).unwrap();
    // Three addresses, and OPT.
    assert_eq!(message.header_counts().arcount(), 4);
}

#[test]
fn what_does_not_fit_is_left_out_over_udp_and_whole_over_tcp() {
    let answer = |transport, edns| {
        let packet = query("many", Rtype::A, edns);
        match resolve(&site(), &packet, transport, 0) {
            Verdict::Answer(answer, _) => Message::from_octets(answer).unwrap(),
            _ => panic!("no answer"),
        }
    };
    for (edns, limit) in [(None, 512), (Some(0), 512), (Some(1232), 1232)] {
        let cut = answer(Transport::Udp, edns);
        assert!(cut.header().tc());
        assert!(cut.as_slice().len() <= limit, "{edns:?}");
        assert!(cut.as_slice().len() > limit - 30, "{edns:?}");
        assert_eq!(cut.opt().is_some(), edns.is_some());
        assert!(records(&cut).len() > 20);
    }
    for whole in [
        answer(Transport::Udp, Some(u16::MAX)),
        answer(Transport::Tcp, None),
    ] {
        assert!(!whole.header().tc());
        assert_eq!(records(&whole).len(), 201);
    }
}

#[test]
fn edns_is_answered_in_kind_and_of_one_version() {
    let mut packet = query("two", Rtype::A, Some(1400));
    let Verdict::Answer(answer, _) = resolve(&site(), &packet, Transport::Udp, 0) else {
        panic!("no answer");
    };
    let message = Message::from_octets(answer).unwrap();
    assert_eq!(message.opt().unwrap().udp_payload_size(), UDP_MAX);
    // The version is the second byte of what is the TTL elsewhere.
    let version = packet.len() - 5;
    packet[version] = 1;
    let Verdict::Answer(answer, kind) = resolve(&site(), &packet, Transport::Udp, 0) else {
        panic!("no answer");
    };
    let message = Message::from_octets(answer).unwrap();
    assert_eq!(message.opt_rcode().to_int(), 16);
    assert_eq!(kind, Kind::Malformed);
    // Twice.
    packet[version] = 0;
    let opt = packet[packet.len() - 11..].to_vec();
    packet.extend(opt);
    packet[11] = 2;
    let (kind, rcode, _) = told(&site(), &packet, 0);
    assert_eq!((kind, rcode), (Kind::Malformed, Rcode::FORMERR));
}

#[test]
fn what_is_no_lookup_is_refused_and_what_is_no_query_is_ignored() {
    let packet = query("two", Rtype::A, None);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = packet.clone();
        change(&mut packet);
        packet
    };
    let ignored = [
        vec![],
        packet[..11].to_vec(),
        with(&|packet| packet[2] |= 0x80),
    ];
    for packet in ignored {
        let verdict = resolve(&site(), &packet, Transport::Udp, 0);
        assert!(matches!(verdict, Verdict::Ignore));
    }
    let end = packet.len();
    let refused: [(Vec<u8>, Rcode); 7] = [
        (
            with(&|packet| packet[2] |= Opcode::UPDATE.to_int() << 3),
            Rcode::NOTIMP,
        ),
        (with(&|packet| packet[5] = 0), Rcode::FORMERR),
        (with(&|packet| packet[5] = 2), Rcode::FORMERR),
        (with(&|packet| packet.truncate(end - 1)), Rcode::FORMERR),
        // A pointer to itself.
        (
            with(&|packet| packet.splice(12..13, [0xc0, 12]).for_each(drop)),
            Rcode::FORMERR,
        ),
        (
            with(&|packet| packet[end - 1] = Class::CH.to_int() as u8),
            Rcode::REFUSED,
        ),
        (query("web", Rtype::AXFR, None), Rcode::REFUSED),
    ];
    for (packet, expected) in refused {
        assert_eq!(told(&site(), &packet, 0).1, expected, "{packet:?}");
    }
}

// Others.

const POLICY: Policy = Policy {
    timeout: Duration::from_secs(2),
    attempts: 2,
    limit: Duration::from_secs(10),
};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn upstreams(count: u8) -> Vec<SocketAddr> {
    (1..=count)
        .map(|n| SocketAddr::from(([192, 0, 2, n], 53)))
        .collect()
}

fn exchange(edns: Option<u16>, servers: u8) -> Exchange {
    let packet = query("Example.org", Rtype::A, edns);
    match resolve(&site(), &packet, Transport::Udp, 0) {
        Verdict::Forward(query) => Exchange::new(query, upstreams(servers), POLICY, at(0)),
        _ => panic!("not for others"),
    }
}

/// An answer to what was sent.
fn reply(exchange: &Exchange, rcode: Rcode, addresses: u8, truncated: bool) -> Vec<u8> {
    let sent = Message::from_octets(exchange.packet().to_vec()).unwrap();
    let mut answer = MessageBuilder::new_vec()
        .start_answer(&sent, rcode)
        .unwrap();
    answer.header_mut().set_tc(truncated);
    let name: Name<Vec<u8>> = "example.ORG".parse().unwrap();
    for number in 0..addresses {
        answer
            .push((&name, 60, A::from_octets(203, 0, 113, number)))
            .unwrap();
    }
    answer.finish()
}

fn asked(step: &Step) -> (SocketAddr, Transport, Duration) {
    match step {
        Step::Ask {
            upstream,
            transport,
            until,
        } => (*upstream, *transport, *until),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_goes_to_the_client_with_its_own_number() {
    let mut exchange = exchange(Some(4096), 1);
    let step = exchange.next(7, at(0));
    assert_eq!(asked(&step), (upstreams(1)[0], Transport::Udp, at(2)));
    let sent = Message::from_octets(exchange.packet().to_vec()).unwrap();
    assert_eq!(sent.header().id(), 7);
    assert!(sent.header().rd());
    assert_eq!(sent.opt().unwrap().udp_payload_size(), UPSTREAM_UDP_MAX);
    let answer = reply(&exchange, Rcode::NOERROR, 3, false);
    let Some(Step::Answer(answer)) = exchange.take(&answer, 8, at(1)) else {
        panic!("no answer");
    };
    let message = Message::from_octets(answer).unwrap();
    assert_eq!(message.header().id(), 0x1234);
    assert_eq!(message.header_counts().ancount(), 3);
}

#[test]
fn what_is_no_answer_to_the_question_is_passed_over() {
    let mut exchange = exchange(None, 1);
    exchange.next(7, at(0));
    let answer = reply(&exchange, Rcode::NOERROR, 1, false);
    let with = |index: usize, value: u8| {
        let mut answer = answer.clone();
        answer[index] = value;
        answer
    };
    let end = answer.len();
    for stray in [
        vec![],
        with(1, 8),
        with(2, 0),
        with(13, b'x'),
        answer[..end - 1].to_vec(),
        exchange.packet().to_vec(),
    ] {
        assert_eq!(exchange.take(&stray, 9, at(1)), None, "{stray:?}");
    }
    assert!(matches!(
        exchange.take(&answer, 9, at(1)),
        Some(Step::Answer(_))
    ));
}

#[test]
fn all_are_asked_in_turn_and_more_than_once() {
    let mut exchange = exchange(None, 2);
    let mut seen = vec![asked(&exchange.next(1, at(0))).0];
    let refusal = reply(&exchange, Rcode::SERVFAIL, 0, false);
    seen.push(asked(&exchange.take(&refusal, 2, at(1)).unwrap()).0);
    seen.push(asked(&exchange.next(3, at(3))).0);
    seen.push(asked(&exchange.next(4, at(5))).0);
    let all = upstreams(2);
    assert_eq!(seen, [all[0], all[1], all[0], all[1]]);
    let Step::Fail(answer) = exchange.next(5, at(7)) else {
        panic!("still asking");
    };
    let message = Message::from_octets(answer).unwrap();
    assert_eq!(message.header().rcode(), Rcode::SERVFAIL);
    assert_eq!(message.header().id(), 0x1234);
}

#[test]
fn it_ends_in_time_and_where_there_is_nobody_to_ask() {
    let mut slow = exchange(None, 3);
    slow.next(1, at(0));
    assert!(matches!(slow.next(2, at(9)), Step::Ask { until, .. } if until == at(10)));
    assert!(matches!(slow.next(3, at(10)), Step::Fail(_)));
    let mut alone = exchange(Some(1232), 0);
    let Step::Fail(answer) = alone.next(1, at(0)) else {
        panic!("whom does it ask?");
    };
    let message = Message::from_octets(answer).unwrap();
    assert_eq!(message.header().rcode(), Rcode::SERVFAIL);
    assert!(message.opt().is_some());
}

#[test]
fn a_name_that_does_not_exist_is_an_answer() {
    let mut exchange = exchange(None, 2);
    exchange.next(1, at(0));
    let answer = reply(&exchange, Rcode::NXDOMAIN, 0, false);
    assert!(matches!(
        exchange.take(&answer, 2, at(0)),
        Some(Step::Answer(_))
    ));
}

#[test]
fn what_is_cut_off_is_fetched_by_tcp_and_cut_again_for_who_takes_less() {
    for (edns, whole) in [(Some(4096), true), (None, false)] {
        let mut exchange = exchange(edns, 1);
        exchange.next(1, at(0));
        let cut = reply(&exchange, Rcode::NOERROR, 2, true);
        let step = exchange.take(&cut, 2, at(1)).unwrap();
        assert_eq!(asked(&step), (upstreams(1)[0], Transport::Tcp, at(3)));
        let long = reply(&exchange, Rcode::NOERROR, 100, false);
        let Some(Step::Answer(answer)) = exchange.take(&long, 3, at(2)) else {
            panic!("no answer");
        };
        let message = Message::from_octets(answer).unwrap();
        assert_eq!(message.header().tc(), !whole);
        let count = message.header_counts().ancount();
        assert_eq!(count, if whole { 100 } else { 0 });
    }
    // Where TCP does not work, the beginning is better than nothing.
    let mut exchange = exchange(None, 1);
    exchange.next(1, at(0));
    let cut = reply(&exchange, Rcode::NOERROR, 2, true);
    exchange.take(&cut, 2, at(1)).unwrap();
    exchange.next(3, at(2));
    let Step::Answer(answer) = exchange.next(4, at(4)) else {
        panic!("no answer");
    };
    assert_eq!(answer.len(), cut.len());
}

proptest! {
    #[test]
    fn nothing_that_comes_in_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        for site in [site(), internal()] {
            if let Verdict::Answer(answer, _) = resolve(&site, &bytes, Transport::Udp, 3) {
                prop_assert!(answer.len() <= usize::from(UDP_MAX));
                prop_assert!(Message::from_octets(answer).unwrap().header().qr());
            }
        }
        let mut exchange = exchange(None, 2);
        exchange.next(1, at(0));
        exchange.take(&bytes, 2, at(1));
    }

    #[test]
    fn changed_queries_do_no_harm(
        changes in prop::collection::vec((0_usize..60, any::<u8>()), 0..6),
    ) {
        let mut packet = query("_80._tcp.list.web", Rtype::SRV, Some(600));
        for (index, value) in changes {
            let length = packet.len();
            packet[index % length] = value;
        }
        if let Verdict::Answer(answer, _) = resolve(&site(), &packet, Transport::Udp, 1) {
            prop_assert!(answer.len() <= usize::from(UDP_MAX));
        }
    }
}
