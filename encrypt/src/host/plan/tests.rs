use std::collections::BTreeMap;

use super::*;

fn spec(local: &str) -> HostSpec {
    HostSpec {
        mode: Mode::Userspace,
        inner_port: 4790,
        local: local.parse().unwrap(),
        tap_mtu: 1458,
        allowed: BTreeMap::new(),
    }
}

fn names(ops: &[Op]) -> Vec<String> {
    ops.iter().map(ToString::to_string).collect()
}

fn tap() -> Tap {
    Tap {
        index: 7,
        is_tap: true,
        ..Tap::default()
    }
}

fn whole() -> Observed {
    let steer = |family| (Some(Steer { family, port: 4790 }), RuleMessage::default());
    let way = |family, device| (Some(Way { family, device }), RouteMessage::default());
    Observed {
        ipv6: true,
        rules: vec![steer(Family::V4), steer(Family::V6)],
        routes: vec![
            way(Family::V4, true),
            way(Family::V4, false),
            way(Family::V6, false),
        ],
        tap: Some(Tap {
            up: true,
            mtu: 1458,
            tuned: true,
            address: true,
            loose: true,
            ..tap()
        }),
    }
}

#[test]
fn the_way_to_nowhere_comes_first_and_that_to_the_device_last() {
    let observed = Observed {
        ipv6: true,
        tap: Some(tap()),
        ..Observed::default()
    };
    let ops = plan(Some(&spec("192.0.2.1")), &observed).unwrap();
    assert_eq!(
        names(&ops),
        [
            "add the blackhole route of IPv4",
            "add the blackhole route of IPv6",
            "add the rule for IPv4 udp port 4790",
            "add the rule for IPv6 udp port 4790",
            "set rp_filter of device wf-esp to 2",
            "set up device wf-esp with mtu 1458",
            "give device wf-esp its address",
            "add the IPv4 route to device wf-esp",
        ]
    );
}

#[test]
fn nothing_is_done_when_all_is_right_and_less_without_the_device() {
    assert_eq!(plan(Some(&spec("192.0.2.1")), &whole()).unwrap(), []);
    let mut observed = whole();
    observed.tap = None;
    observed.routes.remove(0);
    assert_eq!(plan(Some(&spec("192.0.2.1")), &observed).unwrap(), []);
}

#[test]
fn what_is_not_wanted_goes_after_what_is() {
    let mut spec = spec("2001:db8::1");
    spec.inner_port = 4800;
    let ops = plan(Some(&spec), &whole()).unwrap();
    assert_eq!(
        names(&ops),
        [
            "add the rule for IPv4 udp port 4800",
            "add the rule for IPv6 udp port 4800",
            "remove a rule for an inner port",
            "remove a rule for an inner port",
            "remove a route of the inner port's table",
            "add the IPv6 route to device wf-esp",
        ]
    );
}

#[test]
fn the_blackhole_goes_last() {
    for spec in [
        None,
        Some(HostSpec {
            mode: Mode::Kernel,
            ..spec("192.0.2.1")
        }),
    ] {
        let ops = plan(spec.as_ref(), &whole()).unwrap();
        let rules = ops.iter().position(|op| matches!(op, Op::RemoveRule(_)));
        assert_eq!((ops.len(), rules), (5, Some(1)));
        assert!(matches!(ops[0], Op::RemoveRoute(_)));
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let mut observed = whole();
    observed.ipv6 = false;
    assert!(plan(Some(&spec("2001:db8::1")), &observed).is_err());
    observed.tap = Some(Tap::default());
    assert!(plan(Some(&spec("192.0.2.1")), &observed).is_err());
}

#[test]
fn what_is_there_twice_is_there_once_afterwards() {
    let mut observed = whole();
    observed.rules.push(observed.rules[0].clone());
    observed.routes.push((None, RouteMessage::default()));
    let ops = plan(Some(&spec("192.0.2.1")), &observed).unwrap();
    assert_eq!(ops.len(), 2);
}
