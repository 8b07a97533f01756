//! Changes while packets go through: keys, processes, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use weft_encrypt::InboundCounters;
use weft_encrypt::esp::Spi;
use weft_encrypt::path::{ESP_PORT, Form, PathSpec};
use weft_encrypt::userspace::{HandedOver, HandedOverState, Userspace};

use weft_test_netns::ip;

use crate::capture::{Capture, datagrams};
use crate::lab::{
    Host, INNER_PORT, MANY, MIXED, PATIENT, PATIENT_PORTS, Shape, V4, give_key, peers, run, set_up,
    translated, until,
};
use crate::traffic::{PAUSE, exchange, stream};

/// Of the kernel's VXLAN devices.
pub(crate) const TUNNELS: &[(&str, fn())] = &[
    ("new_keys_under_traffic_lose_nothing", || {
        new_keys_lose_nothing(&V4);
    }),
    ("new_keys_between_two_forms_lose_nothing", || {
        new_keys_lose_nothing(&MIXED);
    }),
    ("a_hand_over_under_traffic_loses_nothing", || {
        a_hand_over_loses_nothing(&PATIENT);
    }),
    (
        "a_device_that_is_removed_is_made_again",
        a_removed_device_is_made_again,
    ),
    (
        "a_peer_behind_a_translator_is_found",
        a_translated_peer_is_found,
    ),
];

/// Of ports, on every kernel.
pub(crate) const PORT_CASES: &[(&str, fn())] = &[("a_hand_over_of_ports_loses_nothing", || {
    a_hand_over_loses_nothing(&PATIENT_PORTS);
})];

/// Sends datagrams there and back all the time that `work` takes, and expects all to arrive.
fn while_exchanging<T>(left: &Host, right: &Host, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                exchange(left, right, 100, PAUSE, 100);
            }
        });
        // Also when it fails: the other thread is waited for.
        let worked = catch_unwind(AssertUnwindSafe(work));
        done.store(true, Relaxed);
        worked.unwrap_or_else(|failure| resume_unwind(failure))
    })
}

/// Whether the newest key is used, and all that was sealed with earlier ones was opened. Packets of
/// one key and the next may overtake one another: each processor has a queue of its own for what
/// comes in.
fn is_switched(from: &Host, to: &Host) -> bool {
    let (sender, receiver) = (from.path().state(), to.path().state());
    let now = &sender.outbound[0];
    let sealed = sender.peers[&to.end].outbound.packets - now.counters.packets;
    let opened = |counters: &InboundCounters| counters.packets + counters.dummy;
    let mut inbound = receiver.inbound.iter();
    let new = inbound.find(|sa| sa.name.spi == now.name.spi).unwrap();
    let new = opened(&new.counters);
    new > 1 && sealed == opened(&receiver.peers[&from.end].inbound) - new
}

fn new_keys_lose_nothing(shape: &Shape) {
    let (left, right) = peers(shape);
    while_exchanging(&left, &right, || {
        for round in 1..10 {
            let (there, back) = (2 * round + 1, 2 * round + 2);
            give_key(&left, &right, there);
            give_key(&right, &left, back);
            until("the new keys are used, and the old ones no longer", || {
                is_switched(&left, &right) && is_switched(&right, &left)
            });
            let old = |number| Spi::new(0x1000 + number - 2).unwrap();
            right.path().remove_inbound(old(there));
            left.path().remove_inbound(old(back));
        }
    });
    for host in [&left, &right] {
        let state = host.path().state();
        assert_eq!((state.inbound.len(), state.outbound.len()), (1, 1));
        assert_eq!(state.strays.all_refused(), 0);
        let known = state.peers.values().next().unwrap();
        assert!(known.inbound.packets > 9 && known.outbound.packets > 9);
    }
}

fn a_hand_over_loses_nothing(shape: &Shape) {
    let (mut left, right) = peers(shape);
    let capture = Capture::start(&left.ns, "under");
    let mut path = left.path.take().unwrap();
    let path = while_exchanging(&left, &right, || {
        for _ in 0..5 {
            let sealed = |path: &Userspace| path.state().outbound[0].counters.packets;
            let before = sealed(&path);
            until("packets go", || sealed(&path) > before + 20);
            path = hand_over(&left, path);
        }
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
    assert!(seen.len() > 100);
    let state = right.path().state();
    assert_eq!(
        state.inbound[0].counters.all_refused(),
        state.inbound[0].counters.dummy
    );
    assert_eq!(state.strays.all_refused(), 0);
}

/// As one process does to another: by bytes and descriptors.
pub(crate) fn hand_over(host: &Host, path: Userspace) -> Userspace {
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

fn a_removed_device_is_made_again() {
    let (left, right) = peers(&MANY);
    exchange(&left, &right, 2, PAUSE, 100);
    left.host("ip link del wf-esp");
    until("there is a device again", || {
        run(&left.ns, "ip link show wf-esp").status.success()
    });
    set_up(&left, &MANY);
    exchange(&left, &right, 5, PAUSE, 100);
    stream(&left, &right, 2_000_000);
    until("nothing is wrong", || left.path().state().error.is_none());
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
    exchange(&right, &left, 3, PAUSE, 100);
    stream(&right, &left, 1_000_000);
    stream(&left, &right, 1_000_000);
}

pub(crate) fn without_the_device_it_says_so() {
    for form in [Form::Vxlan, Form::Port] {
        let spec = PathSpec {
            local: ip("127.0.0.1"),
            esp_port: ESP_PORT,
            inner_port: INNER_PORT,
            underlay_mtu: 1500,
            peers: BTreeMap::new(),
            form,
            ports: BTreeMap::new(),
        };
        let refused = Userspace::start(spec, None).err().unwrap().to_string();
        assert!(
            refused.contains("open /dev/net/tun: Permission denied"),
            "{refused}"
        );
    }
}
