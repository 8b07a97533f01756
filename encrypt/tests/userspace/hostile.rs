//! What must not go through.

use std::net::{SocketAddr, UdpSocket};

use weft_encrypt::InboundCounters;
use weft_encrypt::esp::{HEADROOM, Spi, TAILROOM};
use weft_encrypt::inner::{Inner, Vni};
use weft_encrypt::path::{ESP_PORT, PathState};
use weft_encrypt::sa::{Limits, OutboundSa};

use crate::capture::{Capture, datagrams};
use crate::lab::{Host, INNER_PORT, PORTS, Shape, V4, VNI, frames, hosts, key, name, peers, until};
use crate::traffic::{PAUSE, exchange, shout};

/// Of the kernel's VXLAN devices.
pub(crate) const TUNNELS: &[(&str, fn())] = &[
    ("what_is_forged_is_dropped_and_counted_by_cause", || {
        what_is_forged_is_dropped(&V4);
    }),
    ("without_a_key_nothing_leaves", || {
        without_a_key_nothing_leaves(&V4);
    }),
    ("a_peer_that_is_removed_is_sent_nothing_more", || {
        a_removed_peer_is_sent_nothing_more(&V4);
    }),
    ("another_network_is_not_sent_to_a_peer", || {
        another_network_is_not_sent_to_a_peer(&V4);
    }),
];

/// Of ports, on every kernel.
pub(crate) const PORT_CASES: &[(&str, fn())] = &[
    ("what_is_forged_for_a_port_is_dropped_and_counted", || {
        what_is_forged_is_dropped(&PORTS);
    }),
    ("without_a_key_nothing_of_a_port_leaves", || {
        without_a_key_nothing_leaves(&PORTS);
    }),
    ("a_peer_that_is_removed_is_sent_nothing_of_a_port", || {
        a_removed_peer_is_sent_nothing_more(&PORTS);
    }),
    ("another_port_is_not_sent_to_a_peer", || {
        another_network_is_not_sent_to_a_peer(&PORTS);
    }),
];

/// Whose key the forger has.
const FORGER: u32 = 9;

/// Somebody on the underlay with a key of the left host.
struct Forger {
    socket: UdpSocket,
    to: SocketAddr,
    sa: OutboundSa,
}

impl Forger {
    fn new(left: &Host, right: &Host) -> Self {
        let of_left = name(left.end, FORGER);
        right.path().install_inbound(of_left, key(FORGER)).unwrap();
        Self {
            socket: left.ns.run(|| UdpSocket::bind((left.end, 0)).unwrap()),
            to: SocketAddr::new(right.end, ESP_PORT),
            sa: OutboundSa::new(of_left.spi, key(FORGER), Limits::default()),
        }
    }

    fn send(&self, packet: &[u8]) {
        self.socket.send_to(packet, self.to).unwrap();
    }

    /// A frame of a network, to a port, sealed.
    fn seal(&self, vni: u32, port: u16) -> Vec<u8> {
        let mut frame = [0xff; 60];
        frame[6] = 2;
        let inner = Inner {
            source: 50_000,
            destination: port,
            vni: Vni::new(vni).unwrap(),
        };
        self.seal_bytes(&[&inner.to_bytes(frame.len()).unwrap()[..], &frame].concat())
    }

    fn seal_bytes(&self, payload: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; HEADROOM + payload.len() + TAILROOM];
        let range = HEADROOM..HEADROOM + payload.len();
        buffer[range.clone()].copy_from_slice(payload);
        let packet = self.sa.seal(&mut buffer, range).unwrap().packet;
        buffer[packet].to_vec()
    }
}

fn frames_in(host: &Host) -> u64 {
    frames(&host.inside, "vx0").0
}

fn of_forger(state: &PathState) -> InboundCounters {
    let spi = Spi::new(0x1000 + FORGER).unwrap();
    let found = state.inbound.iter().find(|inbound| inbound.name.spi == spi);
    found.unwrap().counters
}

fn what_is_forged_is_dropped(shape: &Shape) {
    let (left, right) = peers(shape);
    exchange(&left, &right, 2, PAUSE, 100);
    let forger = Forger::new(&left, &right);
    let before = frames_in(&right);

    let good = forger.seal(VNI, INNER_PORT);
    forger.send(&good);
    until("a packet with a key goes through", || {
        frames_in(&right) > before
    });
    let remote = right.path().state().peers[&left.end].remote;
    assert_eq!(
        remote,
        forger.socket.local_addr().ok(),
        "the newest packet says where the peer is"
    );

    let before = frames_in(&right);
    forger.send(&good);
    let mut flipped = forger.seal(VNI, INNER_PORT);
    flipped[40] ^= 4;
    forger.send(&flipped);
    let cut = forger.seal(VNI, INNER_PORT);
    forger.send(&cut[..cut.len() - 4]);
    forger.send(&cut[..cut.len() - 3]);
    let mut stray = forger.seal(VNI, INNER_PORT);
    stray[..4].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
    forger.send(&stray);
    stray[..4].copy_from_slice(&7_u32.to_be_bytes());
    forger.send(&stray);
    forger.send(&[1, 2, 3]);
    forger.send(&[0xff]);
    forger.send(&[0; 40]);
    forger.send(&forger.seal(VNI + 1, INNER_PORT));
    forger.send(&forger.seal(VNI, INNER_PORT + 1));
    forger.send(&forger.seal_bytes(&[]));
    let mut dummy = [0; HEADROOM + TAILROOM];
    let sealed = forger.sa.seal_dummy(&mut dummy).unwrap();
    forger.send(&dummy[sealed.packet]);

    // They may overtake one another.
    until("everything is counted", || {
        let state = right.path().state();
        let counters = of_forger(&state);
        let foreign = state.peers[&left.end].foreign_network;
        foreign == 1
            && (
                counters.packets,
                counters.all_refused(),
                state.strays.all_refused(),
            ) == (4, 7, 3)
    });
    let state = right.path().state();
    let expected = InboundCounters {
        // The good one, two for others and the empty one were opened.
        packets: 4,
        bytes: 3 * 76,
        replayed: 1,
        auth_failed: 2,
        bad_length: 1,
        bad_inner: 2,
        dummy: 1,
        ..InboundCounters::default()
    };
    assert_eq!(of_forger(&state), expected);
    let strays = InboundCounters {
        unknown_spi: 2,
        bad_length: 1,
        ..InboundCounters::default()
    };
    assert_eq!(state.strays, strays);
    assert_eq!(frames_in(&right), before, "nothing of it got in");

    exchange(&left, &right, 2, PAUSE, 100);
    let remote = right.path().state().peers[&left.end].remote;
    assert_eq!(remote, Some(SocketAddr::new(left.end, ESP_PORT)));
}

/// Sends until some packets were dropped for want of a key, and expects silence on the wire.
fn expect_silence(left: &Host, right: &Host) {
    let capture = Capture::start(&left.ns, "under");
    let no_key = || left.path().state().peers[&right.end].no_key;
    let before = no_key();
    until("packets are dropped", || {
        shout(left, right);
        no_key() > before + 1
    });
    let frames = capture.finish();
    assert_eq!(datagrams(&frames, ESP_PORT).0, Vec::<&[u8]>::new());
    assert_eq!(datagrams(&frames, INNER_PORT).0, Vec::<&[u8]>::new());
}

fn without_a_key_nothing_leaves(shape: &Shape) {
    let (left, right) = hosts(shape);
    expect_silence(&left, &right);
}

fn a_removed_peer_is_sent_nothing_more(shape: &Shape) {
    let (left, right) = peers(shape);
    exchange(&left, &right, 2, PAUSE, 100);
    let sums = right.path().state().peers[&left.end].clone();
    left.path().remove_peer(right.end);
    right.path().remove_peer(left.end);
    let state = right.path().state();
    assert!(state.inbound.is_empty() && state.outbound.is_empty());
    let after = state.peers[&left.end].clone();
    assert_eq!(
        (after.inbound, after.outbound),
        (sums.inbound, sums.outbound)
    );
    expect_silence(&left, &right);

    let mut spec = left.spec.clone();
    spec.peers.clear();
    left.path().want(&spec).unwrap();
    assert!(left.path().state().peers.is_empty());
    let refused = left.path().install_inbound(name(right.end, 3), key(3));
    assert!(refused.unwrap_err().to_string().contains("is not a peer"));
}

fn another_network_is_not_sent_to_a_peer(shape: &Shape) {
    let (left, right) = peers(shape);
    let mut spec = left.spec.clone();
    let peer = spec.peers.get_mut(&right.end).unwrap();
    peer.networks = [VNI + 1].into();
    let capture = Capture::start(&left.ns, "under");
    left.path().want(&spec).unwrap();
    let before = left.path().state().outbound[0].counters.packets;
    let rejected = || {
        let state = left.path().state();
        let ports = state.ports.values().map(|port| port.dropped.no_peer);
        state.rejected.not_tunnel + ports.sum::<u64>()
    };
    let sent = rejected();
    until("frames are dropped", || {
        shout(&left, &right);
        rejected() > sent + 2
    });
    // A sign of life may have been sent, and nothing else.
    let frames = capture.finish();
    let (esp, _) = datagrams(&frames, ESP_PORT);
    assert!(esp.iter().all(|packet| packet.len() == 36), "{esp:?}");
    assert!(left.path().state().outbound[0].counters.packets <= before + 1);
}
