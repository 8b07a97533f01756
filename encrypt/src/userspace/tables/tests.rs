use std::net::Ipv4Addr;

use super::*;
use crate::esp::{HEADROOM, TAILROOM};
use crate::keys::{Epoch, SaKey};
use crate::path::Form;
use crate::rotation::{KeyId, SessionId};
use crate::sa::Limits;
use crate::userspace::HandedOverState;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));

fn spec() -> PathSpec {
    let networks = [5000].into();
    PathSpec {
        local: Ipv4Addr::new(192, 0, 2, 1).into(),
        esp_port: 4500,
        inner_port: 4790,
        underlay_mtu: 1500,
        peers: [(PEER, PeerSpec { networks })].into(),
        form: Form::Vxlan,
        ports: BTreeMap::new(),
    }
}

fn name(peer: IpAddr, session: u64, epoch: u64) -> SaName {
    SaName {
        peer,
        key: KeyId {
            session: SessionId(session),
            epoch: Epoch(epoch),
        },
        spi: Spi::new(0x1000 + u32::try_from(epoch).unwrap()).unwrap(),
    }
}

fn key() -> SaKey {
    SaKey::from_bytes([0xab; 36])
}

fn seals(name: SaName) -> OutboundSa {
    OutboundSa::new(name.spi, key(), Limits::default())
}

fn opens(name: SaName) -> InboundSa {
    InboundSa::new(name.spi, key())
}

/// With keys in both directions.
fn tables() -> Tables {
    let mut tables = Tables::new(&spec());
    let (there, back) = (name(PEER, 1, 1), name(PEER, 1, 2));
    tables.switch_outbound(there, seals(there)).unwrap();
    tables.install_inbound(back, opens(back)).unwrap();
    tables
}

fn seal(sa: &OutboundSa) -> Vec<u8> {
    let mut buffer = [7; HEADROOM + 20 + TAILROOM];
    let sealed = sa.seal(&mut buffer, HEADROOM..HEADROOM + 20).unwrap();
    buffer[sealed.packet].to_vec()
}

#[test]
fn only_peers_get_keys_and_none_twice() {
    let mut tables = tables();
    let strange = name(STRANGER, 1, 3);
    let unknown = Err(PathError::UnknownPeer(STRANGER));
    assert_eq!(tables.switch_outbound(strange, seals(strange)), unknown);
    assert_eq!(tables.install_inbound(strange, opens(strange)), unknown);
    for used in [name(PEER, 1, 1), name(PEER, 1, 0)] {
        let refused = tables.switch_outbound(used, seals(used));
        assert_eq!(refused, Err(PathError::UsedKey));
    }
    for newer in [name(PEER, 1, 5), name(PEER, 2, 1)] {
        tables.switch_outbound(newer, seals(newer)).unwrap();
        assert_eq!(tables.state(0).outbound[0].name, newer);
    }
    let again = tables.install_inbound(name(PEER, 1, 2), opens(name(PEER, 1, 2)));
    assert!(matches!(again, Err(PathError::Insert(_))));
}

#[test]
fn keys_go_with_their_peer_and_what_was_counted_stays_with_one_that_stays() {
    let mut tables = tables();
    let from_peer = seals(name(PEER, 1, 2));
    tables.inbound.open(&mut seal(&from_peer)).unwrap();
    seal(&tables.peers[&PEER].outbound.as_ref().unwrap().1);
    let before = tables.state(0).peers[&PEER].clone();
    assert_eq!((before.inbound.packets, before.outbound.packets), (1, 1));
    tables.remove_peer(PEER);
    let state = tables.state(0);
    assert!(state.inbound.is_empty() && state.outbound.is_empty());
    assert_eq!(state.peers[&PEER], before);
    assert!(tables.inbound.open(&mut seal(&from_peer)).is_err());

    tables = self::tables();
    let mut spec = spec();
    spec.peers.clear();
    tables.want(&spec).unwrap();
    let state = tables.state(0);
    assert!(state.inbound.is_empty() && state.outbound.is_empty() && state.peers.is_empty());
}

#[test]
fn a_path_does_not_move() {
    let mut spec = spec();
    spec.esp_port = 4501;
    let refused = tables().want(&spec).unwrap_err();
    assert!(refused.to_string().contains("192.0.2.1, port 4500"));
}

#[test]
fn who_takes_over_goes_on_with_numbers_windows_places_and_counters() {
    let tables = tables();
    let from_peer = seals(name(PEER, 1, 2));
    let (first, second) = (seal(&from_peer), seal(&from_peer));
    tables.inbound.open(&mut second.clone()).unwrap();
    tables.inbound.open(&mut [1; 36]).unwrap_err();
    let place = SocketAddr::new(STRANGER, 20_000);
    tables.peers[&PEER].received(5, Some(place));
    for _ in 0..3 {
        seal(&tables.peers[&PEER].outbound.as_ref().unwrap().1);
    }
    let bytes = serde_json::to_vec(&HandedOverState::of(&tables)).unwrap();
    let state: HandedOverState = serde_json::from_slice(&bytes).unwrap();
    let next = state.into_tables().unwrap();

    let (before, mut after) = (tables.state(5), next.state(5));
    // Times are of the process.
    for peer in after.peers.values_mut() {
        assert_eq!(peer.last_received_ms.take(), None);
        peer.last_received_ms = Some(0);
    }
    assert_eq!(before, after);
    assert_eq!(after.peers[&PEER].remote, Some(place));
    let (_, sa) = next.peers[&PEER].outbound.as_ref().unwrap();
    assert_eq!(sa.sequence(), 3);
    assert_eq!(seal(sa)[8..16], 4_u64.to_be_bytes());
    assert!(
        next.inbound.open(&mut second.clone()).is_err(),
        "it was received before"
    );
    next.inbound.open(&mut first.clone()).unwrap();
}

#[test]
fn state_that_is_damaged_is_refused() {
    let text = serde_json::to_string(&HandedOverState::of(&tables())).unwrap();
    for (from, to) in [("[171,171,", "[171,"), ("\"bits\":[0,", "\"bits\":[")] {
        let damaged = text.replacen(from, to, 1);
        assert_ne!(damaged, text);
        let state: HandedOverState = serde_json::from_str(&damaged).unwrap();
        assert_eq!(state.into_tables().err(), Some(PathError::BadState));
    }
}
