//! A peer that says anything at all, at any time.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::keys::Epoch;

#[derive(Clone, Debug)]
enum Input {
    Session(u64),
    Status(Status),
    /// Carries out the oldest action that is left, or fails to.
    Result(bool),
    RekeyDue,
    Wait(u64),
}

fn key() -> impl Strategy<Value = KeyId> {
    (1u64..5, 0u64..8).prop_map(|(session, epoch)| KeyId {
        session: SessionId(session),
        epoch: Epoch(epoch),
    })
}

fn status() -> impl Strategy<Value = Status> {
    let offer = prop_oneof![0u64..8, Just(u64::MAX), Just(u64::MAX - 1)].prop_map(|epoch| Offer {
        epoch: Epoch(epoch),
        spi: Spi::new(0x1000).unwrap(),
    });
    let serial = prop_oneof![20 => 0u64..400, 1 => Just(u64::MAX)];
    let beyond = prop::option::of((0u64..8).prop_map(Epoch));
    (
        (1u64..5, serial, any::<bool>()),
        prop::option::of(offer),
        (
            prop::option::of(key()),
            prop::option::of(key()),
            prop::option::of(key()),
        ),
        beyond,
    )
        .prop_map(
            |((session, serial, answer), offer, (using, switching, heard), beyond)| Status {
                session: SessionId(session),
                serial,
                answer,
                offer,
                using,
                switching,
                beyond,
                heard,
            },
        )
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        1 => (1u64..5).prop_map(Input::Session),
        10 => status().prop_map(Input::Status),
        6 => any::<bool>().prop_map(Input::Result),
        1 => Just(Input::RekeyDue),
        2 => (0u64..7_000).prop_map(Input::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_a_peer_says_no_key_is_made_twice_and_the_number_of_keys_is_bounded(
        inputs in prop::collection::vec(input(), 1..300),
    ) {
        let mut rotation = Rotation::new(Timing::default());
        let (mut now, mut left) = (Moment::default(), VecDeque::new());
        let (mut made, mut accepted, mut next_spi) = (BTreeSet::new(), BTreeSet::new(), 0x1000);
        for input in inputs {
            let before = rotation.outbound();
            let actions = match input {
                Input::Session(session) => rotation.handle_session(now, SessionId(session)),
                Input::Status(status) => rotation.handle_status(now, &status),
                Input::RekeyDue => rotation.handle_rekey_due(now),
                Input::Wait(milliseconds) => {
                    now = now.after(Duration::from_millis(milliseconds));
                    rotation.handle_timeout(now)
                }
                Input::Result(success) => match left.pop_front() {
                    Some(Action::InstallInbound(key)) => {
                        next_spi += 1;
                        let spi = Spi::new(next_spi).filter(|_| success);
                        accepted.extend(spi.map(|spi| (key, spi)));
                        rotation.handle_installed(now, key, spi)
                    }
                    Some(Action::SwitchOutbound(key, _)) => {
                        rotation.handle_switched(now, key, success)
                    }
                    _ => Vec::new(),
                },
            };
            prop_assert!(actions.len() <= MAX_EPOCHS + 3);
            for action in actions {
                match action {
                    Action::InstallInbound(key) => prop_assert!(made.insert((true, key))),
                    Action::SwitchOutbound(key, _) => prop_assert!(made.insert((false, key))),
                    Action::RemoveInbound(key, spi) => {
                        prop_assert!(accepted.remove(&(key, spi)));
                        continue;
                    }
                    Action::Send(_) => continue,
                }
                left.push_back(action);
            }
            prop_assert!(rotation.inbound().count() <= MAX_EPOCHS);
            prop_assert!(accepted.len() <= MAX_EPOCHS);
            prop_assert!(rotation.outbound().is_some() || before.is_none());
            if let Some(next) = rotation.poll_timeout() {
                prop_assert!(next <= now.after(Timing::default().rekey_after));
            }
        }
    }
}
