use proptest::prelude::*;

use super::*;

/// A host with those addresses, each `ifname address/length`; names say what is special:
/// `lo` is loopback, `down*` is down, `bare*` has no carrier.
fn host(addresses: &[&str]) -> HostFacts {
    let mut facts = HostFacts::default();
    for text in addresses {
        let (ifname, address) = text.split_once(' ').unwrap();
        let index = match facts.links.iter().find(|link| link.name == ifname) {
            Some(link) => link.index,
            None => {
                let index = u32::try_from(facts.links.len()).unwrap() + 1;
                facts.links.push(link(index, ifname));
                index
            }
        };
        facts.addresses.push(HostAddress {
            ifname: ifname.to_owned(),
            ifindex: index,
            address: address.parse().unwrap(),
            global: !is_link_local(address.parse::<ipnet::IpNet>().unwrap().addr()),
            stable: true,
        });
    }
    facts
}

fn link(index: u32, name: &str) -> HostLink {
    HostLink {
        index,
        name: name.to_owned(),
        mtu: 1500,
        up: !name.starts_with("down"),
        carrier: !name.starts_with("bare"),
        loopback: name == "lo",
        kind: None,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn refusal<T: fmt::Debug>(result: Result<T, PickError>) -> String {
    result.unwrap_err().to_string()
}

const LO: &str = "lo 127.0.0.1/8";

#[test]
fn the_only_candidate_is_taken() {
    let facts = host(&[
        LO,
        "eth0 192.0.2.1/24",
        "eth0 fe80::1/64",
        "eth0 2001:db8::1/64",
        "weft-gw 172.30.0.1/16",
        "wfx 192.0.2.9/24",
        "down0 192.0.2.2/24",
        "bare0 172.17.0.1/16",
        "eth1 169.254.3.3/16",
    ]);
    assert_eq!(facts.pick_advertise(None), Ok(ip("192.0.2.1")));
}

#[test]
fn ipv6_is_taken_where_there_is_no_ipv4() {
    let mut facts = host(&[LO, "lo ::1/128", "eth0 fe80::1/64", "eth0 2001:db8::1/64"]);
    assert_eq!(facts.pick_advertise(None), Ok(ip("2001:db8::1")));
    facts.addresses.push(HostAddress {
        address: "2001:db8::abcd/64".parse().unwrap(),
        stable: false,
        ..facts.addresses[3].clone()
    });
    assert_eq!(
        facts.pick_advertise(None),
        Ok(ip("2001:db8::1")),
        "a temporary address"
    );
}

#[test]
fn several_candidates_are_listed_with_their_interfaces() {
    let facts = host(&[LO, "eth0 192.0.2.1/24", "eth1 198.51.100.1/24"]);
    assert_eq!(
        refusal(facts.pick_advertise(None)),
        "could not choose an address to advertise: this host has several (192.0.2.1 on eth0, \
         198.51.100.1 on eth1); pass --advertise-addr IP|IFACE"
    );
    assert_eq!(facts.pick_advertise(Some("eth1")), Ok(ip("198.51.100.1")));
    assert_eq!(facts.pick_advertise(Some("192.0.2.1")), Ok(ip("192.0.2.1")));
}

#[test]
fn no_candidate_is_an_error_that_says_what_to_do() {
    let refused = refusal(host(&[LO]).pick_advertise(None));
    assert!(
        refused.contains("no interface of this host that is up"),
        "{refused}"
    );
    assert!(
        refused.ends_with("pass --advertise-addr IP|IFACE"),
        "{refused}"
    );
}

#[test]
fn an_interface_gives_its_one_address_and_ipv4_goes_first() {
    let facts = host(&[
        LO,
        "eth0 192.0.2.1/24",
        "eth0 2001:db8::1/64",
        "eth1 192.0.2.2/24",
        "eth1 192.0.2.3/24",
        "eth2 fe80::2/64",
        "eth3 2001:db8::3/64",
    ]);
    assert_eq!(facts.pick_advertise(Some("eth0")), Ok(ip("192.0.2.1")));
    assert_eq!(facts.pick_advertise(Some("eth3")), Ok(ip("2001:db8::3")));
    assert_eq!(
        refusal(facts.pick_advertise(Some("eth1"))),
        "--advertise-addr `eth1` has several IP addresses (192.0.2.2, 192.0.2.3); name one of them"
    );
    let bare = refusal(facts.pick_advertise(Some("eth2")));
    assert!(
        bare.starts_with("--advertise-addr `eth2` has no IP address"),
        "{bare}"
    );
    let unknown = refusal(facts.pick_data_path(Some("eth9"), ip("192.0.2.1")));
    assert_eq!(
        unknown,
        "--data-path-addr `eth9` is neither an IP address nor an interface of this host \
         (lo, eth0, eth1, eth2, eth3)"
    );
    assert!(
        facts.pick_advertise(Some("192.0.2.1:2377")).is_err(),
        "no port here"
    );
}

#[test]
fn addresses_that_name_no_single_host_are_refused() {
    let facts = host(&[LO, "eth0 192.0.2.1/24"]);
    for (wanted, kind) in [
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("fe80::1", "link-local"),
    ] {
        assert_eq!(
            refusal(facts.pick_advertise(Some(wanted))),
            format!(
                "--advertise-addr `{wanted}` is {kind}; name one of this host's addresses \
                 (192.0.2.1 on eth0)"
            )
        );
    }
}

#[test]
fn a_foreign_address_is_advertised_only_with_an_explicit_listen_address() {
    let facts = host(&[LO, "eth0 192.0.2.1/24"]);
    let outside = Some("203.0.113.7");
    assert_eq!(
        refusal(facts.pick_advertise(outside)),
        "--advertise-addr `203.0.113.7` is not an address of this host (192.0.2.1 on eth0); if \
         peers reach this host by it, pass --listen-addr IP|IFACE too"
    );
    assert!(facts.pick_advertise_behind(outside, ip("::")).is_err());
    assert_eq!(
        facts.pick_advertise_behind(outside, ip("192.0.2.1")),
        Ok(ip("203.0.113.7"))
    );
}

#[test]
fn the_data_path_is_the_advertised_address_unless_told_and_always_local() {
    let facts = host(&[
        LO,
        "eth0 192.0.2.1/24",
        "eth1 198.51.100.1/24",
        "wf0 10.9.9.9/24",
    ]);
    let advertised = ip("192.0.2.1");
    assert_eq!(facts.pick_data_path(None, advertised), Ok(advertised));
    assert_eq!(
        facts.pick_data_path(Some("eth1"), advertised),
        Ok(ip("198.51.100.1"))
    );
    for (wanted, advertised) in [(Some("203.0.113.7"), advertised), (None, ip("203.0.113.7"))] {
        let refused = refusal(facts.pick_data_path(wanted, advertised));
        assert_eq!(
            refused,
            "--data-path-addr `203.0.113.7` is not an address of this host; name one of its own \
             (192.0.2.1 on eth0, 198.51.100.1 on eth1)"
        );
    }
    assert!(
        facts.pick_data_path(Some("10.9.9.9"), advertised).is_err(),
        "weft's own"
    );
    assert!(
        facts.pick_data_path(Some("wf0"), advertised).is_err(),
        "weft's own"
    );
}

#[test]
fn the_listen_address_takes_a_port_in_every_form() {
    let facts = host(&[LO, "lo ::1/128", "eth0 192.0.2.1/24", "eth0 2001:db8::1/64"]);
    let default: SocketAddr = "[::]:2377".parse().unwrap();
    for (wanted, listen) in [
        (None, "[::]:2377"),
        (Some("0.0.0.0"), "0.0.0.0:2377"),
        (Some("0.0.0.0:99"), "0.0.0.0:99"),
        (Some("[::]:99"), "[::]:99"),
        (Some("192.0.2.1"), "192.0.2.1:2377"),
        (Some("192.0.2.1:99"), "192.0.2.1:99"),
        (Some("2001:db8::1"), "[2001:db8::1]:2377"),
        (Some("[2001:db8::1]"), "[2001:db8::1]:2377"),
        (Some("[2001:db8::1]:99"), "[2001:db8::1]:99"),
        (Some("eth0"), "192.0.2.1:2377"),
        (Some("eth0:99"), "192.0.2.1:99"),
        (Some("lo:99"), "127.0.0.1:99"),
    ] {
        let picked = facts.pick_listen(wanted, default);
        assert_eq!(picked, Ok(listen.parse().unwrap()), "{wanted:?}");
    }
    for wanted in [
        "203.0.113.7",
        "eth0:99999",
        "eth0:",
        "224.0.0.1:99",
        "",
        ":99",
        "[eth0",
    ] {
        assert!(
            facts.pick_listen(Some(wanted), default).is_err(),
            "{wanted}"
        );
    }
}

#[test]
fn an_interface_name_may_have_a_colon() {
    let facts = host(&[LO, "eth0:1 192.0.2.1/24"]);
    let default: SocketAddr = "[::]:2377".parse().unwrap();
    let picked = facts.pick_listen(Some("eth0:1"), default);
    assert_eq!(picked, Ok("192.0.2.1:2377".parse().unwrap()));
}

#[test]
fn the_mtu_is_that_of_the_device_with_the_address() {
    let mut facts = host(&[LO, "eth0 192.0.2.1/24"]);
    facts.links[1].mtu = 9000;
    assert_eq!(facts.mtu_for(ip("192.0.2.1")), Some(9000));
    assert_eq!(facts.mtu_for(ip("192.0.2.2")), None);
}

proptest! {
    #[test]
    fn whatever_is_wanted_gives_an_address_of_this_host_or_an_error(wanted in ".{0,30}") {
        let facts = host(&[LO, "eth0 192.0.2.1/24", "eth1 2001:db8::1/64"]);
        if let Ok(address) = facts.pick_advertise(Some(&wanted)) {
            prop_assert!(facts.is_local(address));
        }
        if let Ok(listen) = facts.pick_listen(Some(&wanted), "[::]:1".parse().unwrap()) {
            prop_assert!(listen.ip().is_unspecified() || facts.is_local(listen.ip()));
        }
    }
}
