//! A peer that says anything of keys, at any time.
#![no_main]

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use weft_encrypt::esp::Spi;
use weft_encrypt::keys::Epoch;
use weft_encrypt::rotation::{
    Action, KeyId, MAX_EPOCHS, Moment, Offer, PAST_SESSIONS, Rotation, SessionId, Status, Timing,
};
use weft_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut rotation = Rotation::new(Timing::default());
    let (mut now, mut left) = (Moment::default(), VecDeque::new());
    let (mut made, mut accepted, mut next_spi) = (BTreeSet::new(), BTreeSet::new(), 0x1000);
    let mut sessions = BTreeSet::new();
    while !input.is_empty() {
        let before = rotation.outbound();
        let actions = match input.byte() % 8 {
            0 => {
                let session = session(&mut input);
                // The secrets of a session end with its connection: one that was replaced so long
                // ago that it is forgotten cannot come back.
                if sessions.len() < PAST_SESSIONS {
                    sessions.insert(session);
                }
                match sessions.contains(&session) {
                    true => rotation.handle_session(now, session),
                    false => continue,
                }
            }
            1 => rotation.handle_rekey_due(now),
            2 => {
                now = now.after(Duration::from_millis(input.short().into()));
                rotation.handle_timeout(now)
            }
            3 | 4 => {
                let success = input.byte() % 4 != 0;
                match left.pop_front() {
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
                }
            }
            _ => rotation.handle_status(now, &status(&mut input)),
        };
        assert!(actions.len() <= MAX_EPOCHS + 3);
        for action in actions {
            match action {
                Action::InstallInbound(key) => assert!(made.insert((true, key))),
                Action::SwitchOutbound(key, _) => assert!(made.insert((false, key))),
                Action::RemoveInbound(key, spi) => {
                    assert!(accepted.remove(&(key, spi)));
                    continue;
                }
                Action::Send(_) => continue,
            }
            left.push_back(action);
        }
        assert!(rotation.inbound().count() <= MAX_EPOCHS);
        assert!(accepted.len() <= MAX_EPOCHS);
        assert!(rotation.outbound().is_some() || before.is_none());
        if let Some(next) = rotation.poll_timeout() {
            assert!(next <= now.after(Timing::default().rekey_after));
        }
    }
});

fn session(input: &mut Input) -> SessionId {
    SessionId(match input.byte() {
        0 => input.long(),
        few => (few % 4).into(),
    })
}

fn epoch(input: &mut Input) -> Epoch {
    Epoch(match input.byte() {
        0 => input.long(),
        few => (few % 8).into(),
    })
}

fn key(input: &mut Input) -> Option<KeyId> {
    let session = session(input);
    (input.byte() % 4 != 0).then(|| KeyId {
        session,
        epoch: epoch(input),
    })
}

fn status(input: &mut Input) -> Status {
    let flags = input.byte();
    let serial = match input.byte() {
        0 => input.long(),
        few => few.into(),
    };
    let spi = Spi::new(0x1000).expect("one that is not reserved");
    Status {
        session: session(input),
        serial,
        answer: flags & 1 != 0,
        offer: (flags & 2 != 0).then(|| Offer {
            epoch: epoch(input),
            spi,
        }),
        using: key(input),
        switching: key(input),
        beyond: (flags & 4 != 0).then(|| epoch(input)),
        heard: key(input),
    }
}
