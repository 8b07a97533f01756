//! The sending direction.

use std::time::Duration;

use super::{Action, KeyId, Moment, Offer, SessionId};
use crate::keys::Epoch;

/// Where the sending direction is; see the diagram of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderState {
    /// Waits for an offer, because there is no key, or the key is due, or is of an earlier session.
    Awaiting {
        /// The key in use.
        using: Option<KeyId>,
    },
    /// An offer was taken and the switch is being carried out: either key may be in use.
    Switching {
        /// The key in use before.
        using: Option<KeyId>,
        /// The key in use afterwards.
        to: KeyId,
    },
    /// The switch is done; the peer has not said yet that it knows.
    Announcing {
        /// The key in use.
        using: KeyId,
    },
    /// The peer knows.
    Steady {
        /// The key in use.
        using: KeyId,
    },
}

/// State of the sending direction.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) state: SenderState,
    pub(super) session: Option<SessionId>,
    /// Highest epoch of this session that a switch was ordered to. None up to it is taken again,
    /// whatever became of the switch: its key may have sealed packets.
    pub(super) floor: Option<Epoch>,
    /// The key in use was found due while the peer did not yet know of it.
    pub(super) due: bool,
    /// When the key in use was switched to.
    since: Moment,
}

impl Default for Sender {
    fn default() -> Self {
        Self {
            state: SenderState::Awaiting { using: None },
            session: None,
            floor: None,
            due: false,
            since: Moment::default(),
        }
    }
}

impl Sender {
    /// Seals with a key of an earlier session.
    pub(super) fn adopt(using: Option<KeyId>) -> Self {
        Self {
            state: SenderState::Awaiting { using },
            ..Self::default()
        }
    }

    pub(super) fn state(&self) -> SenderState {
        self.state
    }

    pub(super) fn using(&self) -> Option<KeyId> {
        match self.state {
            SenderState::Awaiting { using } | SenderState::Switching { using, .. } => using,
            SenderState::Announcing { using } | SenderState::Steady { using } => Some(using),
        }
    }

    pub(super) fn switching(&self) -> Option<KeyId> {
        match self.state {
            SenderState::Switching { to, .. } => Some(to),
            SenderState::Awaiting { .. }
            | SenderState::Announcing { .. }
            | SenderState::Steady { .. } => None,
        }
    }

    /// The epoch to ask for a successor of. In a new session the receiver offers without being
    /// asked.
    pub(super) fn beyond(&self) -> Option<Epoch> {
        match self.state {
            SenderState::Awaiting { .. } => self.floor,
            SenderState::Switching { .. }
            | SenderState::Announcing { .. }
            | SenderState::Steady { .. } => None,
        }
    }

    pub(super) fn is_steady(&self) -> bool {
        matches!(self.state, SenderState::Steady { .. })
    }

    /// When the key in use becomes too old, if nothing was done about it yet.
    pub(super) fn due_at(&self, rekey_after: Duration) -> Option<Moment> {
        let settled = match self.state {
            SenderState::Announcing { .. } | SenderState::Steady { .. } => true,
            SenderState::Awaiting { .. } | SenderState::Switching { .. } => false,
        };
        (settled && !self.due).then(|| self.since.after(rekey_after))
    }

    pub(super) fn handle_session(&mut self, session: SessionId) {
        self.session = Some(session);
        self.floor = None;
        match self.state {
            SenderState::Announcing { using } | SenderState::Steady { using } => {
                self.state = SenderState::Awaiting { using: Some(using) };
            }
            // A switch that is being carried out cannot be called back: its end is waited for.
            SenderState::Switching { .. } | SenderState::Awaiting { .. } => {}
        }
    }

    /// An offer of the current session. One that was not waited for is not taken: how often keys are
    /// replaced is this side's to say, not the peer's.
    pub(super) fn handle_offer(&mut self, offer: Offer) -> Option<Action> {
        let session = self.session?;
        if self.floor.is_some_and(|floor| offer.epoch <= floor) {
            return None;
        }
        match self.state {
            SenderState::Switching { .. }
            | SenderState::Announcing { .. }
            | SenderState::Steady { .. } => None,
            SenderState::Awaiting { using } => {
                let to = KeyId {
                    session,
                    epoch: offer.epoch,
                };
                self.floor = Some(offer.epoch);
                self.state = SenderState::Switching { using, to };
                Some(Action::SwitchOutbound(to, offer.spi))
            }
        }
    }

    /// The peer knows that this key is in use.
    pub(super) fn handle_heard(&mut self, heard: KeyId) {
        match self.state {
            SenderState::Announcing { using } if using == heard => {
                self.state = if self.due {
                    SenderState::Awaiting { using: Some(using) }
                } else {
                    SenderState::Steady { using }
                };
            }
            SenderState::Announcing { .. }
            | SenderState::Awaiting { .. }
            | SenderState::Switching { .. }
            | SenderState::Steady { .. } => {}
        }
    }

    pub(super) fn handle_rekey_due(&mut self) {
        match self.state {
            SenderState::Announcing { .. } => self.due = true,
            SenderState::Steady { using } => {
                self.state = SenderState::Awaiting { using: Some(using) };
            }
            // A successor is on its way.
            SenderState::Awaiting { .. } | SenderState::Switching { .. } => {}
        }
    }

    pub(super) fn handle_switched(&mut self, now: Moment, key: KeyId, success: bool) {
        let SenderState::Switching { using, to } = self.state else {
            return;
        };
        if to != key {
            return;
        }
        if !success {
            self.state = SenderState::Awaiting { using };
            return;
        }
        self.since = now;
        self.due = false;
        self.state = if self.session == Some(to.session) {
            SenderState::Announcing { using: to }
        } else {
            SenderState::Awaiting { using: Some(to) }
        };
    }
}
