//! Changes while packets go through: keys, processes, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use weft_encrypt::esp::Spi;
use weft_encrypt::path::{ESP_PORT, PathSpec};
use weft_encrypt::userspace::{HandedOver, HandedOverState, Userspace};

use weft_test_netns::ip;

use crate::capture::{Capture, datagrams};
use crate::lab::{Host, INNER_PORT, V4, give_key, peers, translated, until};
use crate::traffic::{meet, ping, stream};

pub(crate) const CASES: &[(&str, fn())] = &[
    ("new_keys_under_traffic_lose_nothing", new_keys_lose_nothing),
    (
        "a_hand_over_under_traffic_loses_nothing",
        a_hand_over_loses_nothing,
    ),
    (
        "a_peer_behind_a_translator_is_found",
        a_translated_peer_is_found,
    ),
];

/// Pings by the hundred, while `work` is done; all must come back.
fn while_pinging(left: &Host, right: &Host, count: u32, work: impl FnOnce()) {
    meet(left, right);
    thread::scope(|scope| {
        let pings = scope.spawn(|| ping(left, right, count, "-i 0.004 -W 10"));
        work();
        assert_eq!(pings.join().unwrap(), count);
    });
}

/// Packets opened with the key of that number.
fn opened(host: &Host, number: u32) -> u64 {
    let spi = Spi::new(0x1000 + number).unwrap();
    let state = host.path().state();
    let found = state.inbound.iter().find(|inbound| inbound.name.spi == spi);
    found.unwrap().counters.packets
}

fn new_keys_lose_nothing() {
    let (left, right) = peers(&V4);
    while_pinging(&left, &right, 500, || {
        for round in 1..10 {
            let (there, back) = (2 * round + 1, 2 * round + 2);
            give_key(&left, &right, there);
            give_key(&right, &left, back);
            // What was sealed with the keys before is ahead of these in every queue.
            until("the new keys are used", || {
                opened(&right, there) > 1 && opened(&left, back) > 1
            });
            right
                .path()
                .remove_inbound(Spi::new(0x1000 + there - 2).unwrap());
            left.path()
                .remove_inbound(Spi::new(0x1000 + back - 2).unwrap());
        }
    });
    for host in [&left, &right] {
        let state = host.path().state();
        assert_eq!((state.inbound.len(), state.outbound.len()), (1, 1));
        assert_eq!(state.strays.all_refused(), 0);
        let known = state.peers.values().next().unwrap();
        assert!(known.inbound.packets >= 500 && known.outbound.packets >= 500);
    }
}

fn a_hand_over_loses_nothing() {
    let (mut left, right) = peers(&V4);
    let capture = Capture::start(&left.ns, "under");
    let mut path = left.path.take().unwrap();
    meet(&left, &right);
    let path = thread::scope(|scope| {
        let pings = scope.spawn(|| ping(&left, &right, 400, "-i 0.004 -W 10"));
        for _ in 0..5 {
            let sealed = |path: &Userspace| path.state().outbound[0].counters.packets;
            let before = sealed(&path);
            until("packets go", || sealed(&path) > before + 20);
            path = hand_over(&left, path);
        }
        assert_eq!(pings.join().unwrap(), 400);
        path
    });
    left.path = Some(path);
    stream(&left, &right, 2_000_000);
    let (frames, mut seen) = (capture.finish(), BTreeSet::new());
    for packet in datagrams(&frames, ESP_PORT).0 {
        // The SPI and the IV, which is the sequence number. Frames may hold several packets, all of
        // the same length but for the last: only whole ones are looked at.
        assert!(
            seen.insert((packet[..4].to_vec(), packet[8..16].to_vec())),
            "a nonce twice"
        );
    }
    assert!(seen.len() > 800);
    let state = right.path().state();
    assert_eq!(
        state.inbound[0].counters.all_refused(),
        state.inbound[0].counters.dummy
    );
    assert_eq!(state.strays.all_refused(), 0);
}

/// As one process does to another: by bytes and descriptors.
fn hand_over(host: &Host, path: Userspace) -> Userspace {
    let before = path.state();
    let (state, fds) = path.hand_over();
    let bytes = serde_json::to_vec(&state).unwrap();
    assert!(!format!("{state:?}").contains("key"));
    drop(state);
    let state: HandedOverState = serde_json::from_slice(&bytes).unwrap();
    let next = Userspace::start(host.spec.clone(), Some(HandedOver::new(state, fds))).unwrap();
    let after = next.state();
    assert_eq!(before.outbound[0].name, after.outbound[0].name);
    assert!(before.outbound[0].counters.packets <= after.outbound[0].counters.packets);
    assert!(before.inbound[0].counters.packets <= after.inbound[0].counters.packets);
    next
}

fn a_translated_peer_is_found() {
    let (left, right, _translator) = translated();
    give_key(&right, &left, 2);
    give_key(&left, &right, 1);
    // The left host says that it lives, without being asked.
    until("the right host knows where the left one is", || {
        right.path().state().peers[&left.end]
            .last_received_ms
            .is_some()
    });
    let remote = right.path().state().peers[&left.end].remote.unwrap();
    assert_eq!(remote.ip(), ip("192.0.2.254"));
    assert!((20_000..=20_010).contains(&remote.port()), "{remote}");
    meet(&right, &left);
    assert_eq!(ping(&right, &left, 3, "-i 0.05"), 3);
    stream(&right, &left, 1_000_000);
    stream(&left, &right, 1_000_000);
}

pub(crate) fn without_the_device_it_says_so() {
    let spec = PathSpec {
        local: ip("127.0.0.1"),
        esp_port: ESP_PORT,
        inner_port: INNER_PORT,
        underlay_mtu: 1500,
        peers: BTreeMap::new(),
    };
    let refused = Userspace::start(spec, None).err().unwrap().to_string();
    assert!(
        refused.contains("open /dev/net/tun: Permission denied"),
        "{refused}"
    );
}
