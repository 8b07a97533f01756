//! Every state against every input, and the order of what a pair says.

use std::time::Duration;

use super::receiver::{Entry, Phase};
use super::*;
use crate::keys::Epoch;

const OLD: SessionId = SessionId(1);
const CURRENT: SessionId = SessionId(2);
const NEXT: SessionId = SessionId(3);

fn id(session: SessionId, epoch: u64) -> KeyId {
    KeyId {
        session,
        epoch: Epoch(epoch),
    }
}

fn spi(number: u32) -> Spi {
    Spi::new(0x1000 + number).unwrap()
}

fn offer(epoch: u64) -> Offer {
    Offer {
        epoch: Epoch(epoch),
        spi: spi(epoch as u32),
    }
}

fn at(seconds: u64) -> Moment {
    Moment(Duration::from_secs(seconds))
}

/// Inputs of the sender. Its session is `CURRENT`, and it was told to switch to epoch 5 last.
#[derive(Clone, Copy, Debug)]
enum Input {
    Session,
    Offer(u64),
    Heard(KeyId),
    RekeyDue,
    Switched(KeyId, bool),
}

const AWAITING_FIRST: SenderState = SenderState::Awaiting { using: None };
const AWAITING: SenderState = SenderState::Awaiting { using: Some(USING) };
const SWITCHING_FIRST: SenderState = SenderState::Switching {
    using: None,
    to: USING,
};
const SWITCHING: SenderState = SenderState::Switching {
    using: Some(BEFORE),
    to: USING,
};
const ANNOUNCING: SenderState = SenderState::Announcing { using: USING };
const STEADY: SenderState = SenderState::Steady { using: USING };

const BEFORE: KeyId = KeyId {
    session: CURRENT,
    epoch: Epoch(4),
};
const USING: KeyId = KeyId {
    session: CURRENT,
    epoch: Epoch(5),
};
const OFFERED: KeyId = KeyId {
    session: CURRENT,
    epoch: Epoch(6),
};

/// What the sender does, by the diagram: the next state for each of the inputs in their order. An
/// offer that is taken orders a switch, and nothing else does; one that was not waited for is not.
fn sender_table() -> Vec<(SenderState, [SenderState; 9])> {
    let take = |using| SenderState::Switching { using, to: OFFERED };
    let back = SenderState::Awaiting {
        using: Some(BEFORE),
    };
    let (a0, a) = (AWAITING_FIRST, AWAITING);
    let (s0, s, n, y) = (SWITCHING_FIRST, SWITCHING, ANNOUNCING, STEADY);
    let some = Some(USING);
    // session, newer offer, stale offer, heard, heard another, due, switched, failed, switched to
    // another
    vec![
        (a0, [a0, take(None), a0, a0, a0, a0, a0, a0, a0]),
        (a, [a, take(some), a, a, a, a, a, a, a]),
        (s0, [s0, s0, s0, s0, s0, s0, n, a0, s0]),
        (s, [s, s, s, s, s, s, n, back, s]),
        (n, [a, n, n, y, n, n, n, n, n]),
        (y, [a, y, y, y, y, a, y, y, y]),
    ]
}

fn sender_in(state: SenderState) -> Sender {
    let mut sender = Sender::default();
    sender.state = state;
    sender.session = Some(CURRENT);
    sender.floor = Some(Epoch(5));
    sender
}

fn feed(sender: &mut Sender, input: Input) -> Option<Action> {
    match input {
        Input::Session => sender.handle_session(NEXT),
        Input::Offer(epoch) => return sender.handle_offer(offer(epoch)),
        Input::Heard(key) => sender.handle_heard(key),
        Input::RekeyDue => sender.handle_rekey_due(),
        Input::Switched(key, success) => sender.handle_switched(at(9), key, success),
    }
    None
}

#[test]
fn the_sender_does_in_every_state_with_every_input_what_the_table_says() {
    let inputs = [
        Input::Session,
        Input::Offer(6),
        Input::Offer(5),
        Input::Heard(USING),
        Input::Heard(BEFORE),
        Input::RekeyDue,
        Input::Switched(USING, true),
        Input::Switched(USING, false),
        Input::Switched(OFFERED, true),
    ];
    for (state, expected) in sender_table() {
        for (input, expected) in inputs.into_iter().zip(expected) {
            let mut sender = sender_in(state);
            let action = feed(&mut sender, input);
            assert_eq!(sender.state, expected, "{state:?} with {input:?}");
            let switch = matches!(expected, SenderState::Switching { to: OFFERED, .. })
                .then_some(Action::SwitchOutbound(OFFERED, spi(6)));
            assert_eq!(action, switch, "{state:?} with {input:?}");
            // Something to seal with is never given up for nothing.
            let had = sender_in(state).using().is_some();
            assert!(sender.using().is_some() || !had, "{state:?} with {input:?}");
        }
    }
}

#[test]
fn a_key_that_is_due_before_the_peer_knows_of_it_is_replaced_once_it_does() {
    let mut sender = sender_in(ANNOUNCING);
    sender.handle_rekey_due();
    assert_eq!((sender.state, sender.beyond()), (ANNOUNCING, None));
    assert_eq!(sender.due_at(Duration::ZERO), None);
    sender.handle_heard(USING);
    assert_eq!((sender.state, sender.beyond()), (AWAITING, Some(Epoch(5))));
}

#[test]
fn a_switch_that_ends_after_its_session_counts_and_the_new_session_is_waited_for() {
    let mut sender = sender_in(SWITCHING);
    sender.handle_session(NEXT);
    assert_eq!(sender.handle_offer(offer(6)), None, "one switch at a time");
    sender.handle_switched(at(9), USING, true);
    assert_eq!((sender.state, sender.beyond()), (AWAITING, None));
    let taken = sender.handle_offer(offer(6));
    assert_eq!(taken, Some(Action::SwitchOutbound(id(NEXT, 6), spi(6))));
}

#[test]
fn an_epoch_whose_switch_failed_is_never_taken_again() {
    let mut sender = sender_in(SWITCHING);
    sender.handle_switched(at(9), USING, false);
    assert_eq!(sender.handle_offer(offer(5)), None);
    assert_eq!(sender.beyond(), Some(Epoch(5)), "another one is asked for");
}

/// A receiver whose session is `CURRENT`, with epoch 4 in this state and 5 offered.
fn receiver_with(session: SessionId, phase: Phase) -> Receiver {
    let mut receiver = Receiver::default();
    receiver.session = Some(CURRENT);
    receiver.last = 5;
    receiver.entries.insert(Epoch(4), Entry { session, phase });
    receiver.entries.insert(
        Epoch(5),
        Entry {
            session: CURRENT,
            phase: Phase::Live(spi(5)),
        },
    );
    receiver
}

#[test]
fn an_epoch_does_in_every_state_with_every_input_what_the_table_says() {
    let (installing, live) = (Phase::Installing, Phase::Live(spi(4)));
    let (draining, starts) = (
        Phase::Draining(spi(4), at(20)),
        Phase::Draining(spi(4), at(30)),
    );
    let keep = |phase| (Some(phase), false);
    let (gone, removed) = ((None, false), (None, true));
    for session in [OLD, CURRENT] {
        let done = if session == OLD { removed } else { keep(live) };
        // installed, failed, held, being switched to, given up, before the time, at it, new session
        let table = [
            (
                installing,
                [
                    done,
                    gone,
                    keep(installing),
                    keep(installing),
                    keep(installing),
                ],
            ),
            (
                live,
                [keep(live), keep(live), keep(live), keep(live), keep(starts)],
            ),
            (draining, [keep(draining); 5]),
        ];
        for (phase, expected) in table {
            let over = if phase == draining {
                removed
            } else {
                keep(phase)
            };
            let expected = [expected.as_slice(), &[keep(phase), over, keep(phase)]].concat();
            for (input, expected) in expected.into_iter().enumerate() {
                let mut receiver = receiver_with(session, phase);
                let (key, other) = (Some(id(session, 4)), Some(id(CURRENT, 5)));
                let mut actions = Vec::new();
                match input {
                    0 => actions.extend(receiver.handle_installed(id(session, 4), Some(spi(4)))),
                    1 => actions.extend(receiver.handle_installed(id(session, 4), None)),
                    2 => receiver.handle_claims(key, other, None, at(30)),
                    3 => receiver.handle_claims(other, key, None, at(30)),
                    4 => receiver.handle_claims(other, None, None, at(30)),
                    5 => actions.extend(receiver.expire(at(19))),
                    6 => actions.extend(receiver.expire(at(20))),
                    _ => receiver.handle_session(NEXT),
                }
                let after = receiver.entries.get(&Epoch(4)).map(|entry| entry.phase);
                let removal = [Action::RemoveInbound(id(session, 4), spi(4))];
                assert_eq!(after, expected.0, "{session:?} {phase:?} input {input}");
                assert_eq!(actions, if expected.1 { &removal[..] } else { &[] });
            }
        }
    }
}

#[test]
fn the_offer_is_not_given_up_before_the_sender_has_taken_a_later_one() {
    let mut receiver = receiver_with(CURRENT, Phase::Live(spi(4)));
    receiver.handle_claims(Some(id(CURRENT, 4)), None, None, at(30));
    assert_eq!(receiver.offer(), Some(offer(5)));
    receiver.handle_claims(None, None, None, at(30));
    assert_eq!(receiver.offer(), Some(offer(5)));
    assert_eq!(
        receiver.entries[&Epoch(4)].phase,
        Phase::Draining(spi(4), at(30))
    );
}

#[test]
fn a_peer_that_asks_and_asks_gets_no_more_epochs_than_there_is_room_for() {
    let mut receiver = receiver_with(CURRENT, Phase::Live(spi(4)));
    let mut installed = 0;
    for _ in 0..100 {
        let newest = receiver.offer().map(|offer| offer.epoch);
        receiver.handle_claims(None, None, newest, at(30));
        if let Some(Action::InstallInbound(key)) = receiver.install() {
            receiver.handle_installed(key, Some(spi(key.epoch.0 as u32)));
            installed += 1;
        }
    }
    assert_eq!(receiver.entries.len(), MAX_EPOCHS);
    assert_eq!(installed, MAX_EPOCHS - 2);
    assert_eq!(receiver.expire(at(30)).len(), MAX_EPOCHS - 1);
    assert!(receiver.install().is_some());
}

fn sent(actions: &[Action]) -> Status {
    match actions.last() {
        Some(Action::Send(status)) => *status,
        other => panic!("nothing sent but {other:?}"),
    }
}

#[test]
fn two_peers_agree_without_loss_in_the_fewest_messages() {
    let mut peers = [
        Rotation::new(Timing::default()),
        Rotation::new(Timing::default()),
    ];
    for peer in &mut peers {
        let first = peer.handle_session(at(0), CURRENT);
        assert_eq!(first[0], Action::InstallInbound(id(CURRENT, 1)));
        assert_eq!(peer.outbound(), None, "nothing to seal with");
    }
    let [a, b] = &mut peers;
    let offered =
        [a, b].map(|peer| sent(&peer.handle_installed(at(0), id(CURRENT, 1), Some(spi(1)))));
    let [a, b] = &mut peers;
    let switch = Action::SwitchOutbound(id(CURRENT, 1), spi(1));
    assert_eq!(a.handle_status(at(1), &offered[1])[0], switch);
    assert_eq!(b.handle_status(at(1), &offered[0])[0], switch);
    let using_a = sent(&a.handle_switched(at(1), id(CURRENT, 1), true));
    let using_b = sent(&b.handle_switched(at(1), id(CURRENT, 1), true));
    let heard_a = sent(&a.handle_status(at(2), &using_b));
    let heard_b = sent(&b.handle_status(at(2), &using_a));
    for (peer, heard) in [(a, heard_b), (b, heard_a)] {
        assert!(peer.handle_status(at(3), &heard).len() <= 1);
        assert!(peer.is_settled());
        assert_eq!(
            peer.poll_timeout(),
            Some(at(1 + 3600)),
            "silence until the key is old"
        );
    }
}

#[test]
fn statuses_of_other_sessions_and_old_ones_are_ignored() {
    let mut rotation = Rotation::new(Timing::default());
    let status = Status {
        session: CURRENT,
        serial: 5,
        answer: false,
        offer: Some(offer(1)),
        using: None,
        switching: None,
        beyond: None,
        heard: None,
    };
    assert!(
        rotation.handle_status(at(0), &status).is_empty(),
        "no session yet"
    );
    rotation.handle_session(at(0), CURRENT);
    assert!(
        rotation
            .handle_status(
                at(0),
                &Status {
                    session: NEXT,
                    ..status
                }
            )
            .is_empty()
    );
    assert_eq!(
        rotation.handle_status(at(0), &status).len(),
        2,
        "switch and answer"
    );
    assert!(
        rotation.handle_status(at(0), &status).is_empty(),
        "said before"
    );
    assert!(
        rotation
            .handle_status(
                at(0),
                &Status {
                    serial: 4,
                    ..status
                }
            )
            .is_empty()
    );
}

#[test]
fn a_session_that_was_replaced_does_not_come_back() {
    let mut rotation = Rotation::new(Timing::default());
    assert!(!rotation.handle_session(at(0), CURRENT).is_empty());
    assert!(
        rotation.handle_session(at(0), CURRENT).is_empty(),
        "already in use"
    );
    assert!(!rotation.handle_session(at(0), NEXT).is_empty());
    assert!(rotation.handle_session(at(0), CURRENT).is_empty());
    assert_eq!(rotation.session, Some(NEXT));
}

#[test]
fn the_timer_says_again_what_is_unsettled() {
    let mut rotation = Rotation::new(Timing::default());
    assert_eq!(rotation.poll_timeout(), None);
    assert!(rotation.handle_timeout(at(5)).is_empty());
    let first = sent(&rotation.handle_session(at(10), CURRENT));
    let retry = rotation.poll_timeout().unwrap();
    assert_eq!(retry, at(10).after(Timing::default().retry));
    assert!(rotation.handle_timeout(at(10)).is_empty(), "too early");
    let again = sent(&rotation.handle_timeout(retry));
    assert_eq!(
        again,
        Status {
            serial: first.serial + 1,
            ..first
        }
    );
}

#[test]
fn a_successor_goes_on_with_what_it_finds_and_loses_no_key_to_the_new_session() {
    let (timing, inbound) = (Timing::default(), [(id(OLD, 7), spi(7))]);
    let mut here = Rotation::adopt(timing, Some(id(OLD, 3)), inbound);
    let mut there = Rotation::adopt(timing, Some(id(OLD, 7)), [(id(OLD, 3), spi(3))]);
    assert_eq!(here.outbound(), Some(id(OLD, 3)));
    let asked = here.handle_session(at(0), CURRENT);
    assert_eq!(asked[0], Action::InstallInbound(id(CURRENT, 8)));
    there.handle_session(at(0), CURRENT);
    // What it says claims the old keys, so the peer keeps them.
    there.handle_status(at(0), &sent(&asked));
    let kept: Vec<_> = there.inbound().collect();
    assert!(kept.contains(&(id(OLD, 3), EpochState::Live)), "{kept:?}");
    assert!(
        there
            .handle_timeout(at(60))
            .iter()
            .all(|action| !matches!(action, Action::RemoveInbound(..)))
    );
    // Once its own switch is done, it claims the new one alone.
    here.handle_installed(at(0), id(CURRENT, 8), Some(spi(8)));
    let offered = Status {
        session: CURRENT,
        serial: 9,
        answer: false,
        offer: Some(offer(1)),
        using: Some(id(OLD, 7)),
        switching: None,
        beyond: None,
        heard: None,
    };
    let actions = here.handle_status(at(1), &offered);
    assert!(
        actions.contains(&Action::SwitchOutbound(id(CURRENT, 1), spi(1))),
        "{actions:?}"
    );
    let said = sent(&here.handle_switched(at(1), id(CURRENT, 1), true));
    assert_eq!(said.using, Some(id(CURRENT, 1)));
    there.handle_status(at(1), &said);
    let drained = there.inbound().find(|(key, _)| *key == id(OLD, 3));
    assert!(
        matches!(drained, Some((_, EpochState::Draining { .. }))),
        "{drained:?}"
    );
}
