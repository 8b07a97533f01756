//! How two peers change keys without losing a packet: make before break, in both directions.
//!
//! # One direction
//! The receiver numbers the keys of a direction (epochs) and installs each before it says that it
//! can be used. The sender switches only to what the receiver has offered. The receiver removes a
//! key only when the sender has said that it holds it no longer, and then after the time that
//! packets may still be on their way.
//!
//! ```text
//!  sender                                         receiver, each epoch by itself
//!
//!  +-> Awaiting --(ask: beyond n)---------------> [ ] next epoch
//!  |      |                                        |  install it
//!  |      |                                    Installing --failed--> gone, number burnt
//!  |      |                                        |  installed
//!  |      | <------(offer: n+1, spi)------------ Live <------+
//!  |      v  switch outbound                       |         | is the offer, or the sender
//!  |   Switching --failed--> Awaiting, n+1 burnt   |         | uses it or may switch to it
//!  |      |  switched                              +---------+
//!  |      v                                        |
//!  |   Announcing --(using: n+1)----------------> n: Live
//!  |      |                                        |  the sender holds it no longer
//!  |      | <------(heard: n+1)--------------- n: Draining
//!  |      v                                        |  drain time is over
//!  |   Steady                                    gone, inbound removed
//!  |      |  too old, or a soft limit
//!  +------+
//! ```
//!
//! In every state but the first `Awaiting` of all there is a key to seal with, and packets go on.
//!
//! # Messages
//! One kind, [`Status`], says all that its sender is at. A later one (by serial) replaces all
//! earlier ones, so lost, repeated and reordered messages do no harm: what is unsettled is said
//! again until it is settled.
//!
//! # Sessions and restarts
//! Keys come from a session between the two agents; a new session begins with a new offer by each
//! receiver, and keys of earlier sessions are used until then. A peer that was restarted has no
//! keys of earlier sessions, and so claims none. Epochs are counted through all sessions while a
//! process lives, and its sessions end with it, so a (session, direction, epoch) names one key
//! once. An epoch for which installing or switching failed is never tried again: who knows how far
//! it got.

mod receiver;
mod sender;
mod status;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use receiver::{EpochState, MAX_EPOCHS};
pub use sender::SenderState;
pub use status::{Action, KeyId, Moment, Offer, SessionId, Status, Timing};

use std::collections::VecDeque;

use crate::esp::Spi;
use receiver::Receiver;
use sender::Sender;

/// Earlier sessions that are remembered, so that none comes back. A session comes with a connection
/// of the agents, of which a peer has one at a time; this is many times what could cross.
///
/// One that is forgotten would be taken for a new one, and its keys would be used again: whoever has
/// closed a session must not have its secrets any more.
pub const PAST_SESSIONS: usize = 64;

/// The agreement with one peer on the keys of one network class.
///
/// Feed it what happens (`handle_*`), carry out the [`Action`]s in their order, and call
/// [`Rotation::handle_timeout`] when [`Rotation::poll_timeout`] says so. The results of actions
/// come back as inputs. When a peer is removed from the cluster, drop this and all its keys at
/// once.
#[derive(Debug)]
pub struct Rotation {
    timing: Timing,
    sender: Sender,
    receiver: Receiver,
    session: Option<SessionId>,
    past: VecDeque<SessionId>,
    /// Serial of the status said last.
    serial: u64,
    /// Highest serial that the peer has used in this session.
    seen: u64,
    retry_at: Moment,
}

/// What a [`Status`] says, apart from its serial.
#[derive(PartialEq, Eq)]
struct Said {
    offer: Option<Offer>,
    using: Option<KeyId>,
    switching: Option<KeyId>,
    beyond: Option<crate::keys::Epoch>,
    heard: Option<KeyId>,
}

impl Rotation {
    /// Nothing agreed on: no packet can be sealed or opened.
    pub fn new(timing: Timing) -> Self {
        Self {
            timing,
            sender: Sender::default(),
            receiver: Receiver::default(),
            session: None,
            past: VecDeque::new(),
            serial: 0,
            seen: 0,
            retry_at: Moment::default(),
        }
    }

    /// Goes on with the keys that an earlier process of this node has left in the data path: it seals
    /// with `outbound` and accepts `inbound`. They are used until a session brings new ones, and are
    /// claimed until then, so that the peer does not take them away before.
    pub fn adopt(
        timing: Timing,
        outbound: Option<KeyId>,
        inbound: impl IntoIterator<Item = (KeyId, Spi)>,
    ) -> Self {
        let mut rotation = Self::new(timing);
        rotation.sender = Sender::adopt(outbound);
        rotation.receiver = Receiver::adopt(inbound);
        rotation
    }

    /// There is a new session with the peer, and it is the one to use from now on.
    ///
    /// Of sessions that both peers opened at the same time the caller picks one, the same on both
    /// sides. A session that was replaced before is not taken up again: nothing happens.
    pub fn handle_session(&mut self, now: Moment, session: SessionId) -> Vec<Action> {
        if self.session == Some(session) || self.past.contains(&session) {
            return Vec::new();
        }
        if let Some(old) = self.session.replace(session) {
            self.past.push_back(old);
            if self.past.len() > PAST_SESSIONS {
                self.past.pop_front();
            }
        }
        self.seen = 0;
        self.sender.handle_session(session);
        self.receiver.handle_session(session);
        let mut actions: Vec<_> = self.receiver.install().into_iter().collect();
        actions.push(self.say(now, false));
        actions
    }

    /// The peer said what it is at. Of another session than the current one, or older than what it
    /// has said before, it is ignored.
    pub fn handle_status(&mut self, now: Moment, status: &Status) -> Vec<Action> {
        if self.session != Some(status.session) || status.serial <= self.seen {
            return Vec::new();
        }
        self.seen = status.serial;
        let (before, mut actions) = (self.said(), Vec::new());
        let until = now.after(self.timing.drain);
        self.receiver
            .handle_claims(status.using, status.switching, status.beyond, until);
        if let Some(heard) = status.heard {
            self.sender.handle_heard(heard);
        }
        if let Some(offer) = status.offer {
            actions.extend(self.sender.handle_offer(offer));
        }
        actions.extend(self.receiver.install());
        if !status.answer || self.said() != before {
            actions.push(self.say(now, true));
        }
        actions
    }

    /// An [`Action::InstallInbound`] was carried out under this SPI, or failed. From before this
    /// call until [`Action::RemoveInbound`] the key's packets must be accepted.
    pub fn handle_installed(&mut self, now: Moment, key: KeyId, spi: Option<Spi>) -> Vec<Action> {
        let before = self.said();
        let mut actions: Vec<_> = self
            .receiver
            .handle_installed(key, spi)
            .into_iter()
            .collect();
        actions.extend(self.changed(now, &before));
        actions
    }

    /// An [`Action::SwitchOutbound`] was carried out, or failed. After success no packet is sealed
    /// with an earlier key; after failure none with this one.
    pub fn handle_switched(&mut self, now: Moment, key: KeyId, success: bool) -> Vec<Action> {
        let before = self.said();
        self.sender.handle_switched(now, key, success);
        self.changed(now, &before).into_iter().collect()
    }

    /// The outbound association has reached a soft limit. May be said with every packet.
    pub fn handle_rekey_due(&mut self, now: Moment) -> Vec<Action> {
        let before = self.said();
        self.sender.handle_rekey_due();
        self.changed(now, &before).into_iter().collect()
    }

    /// Time has passed. Calling it too often or too late does no harm.
    pub fn handle_timeout(&mut self, now: Moment) -> Vec<Action> {
        let before = self.said();
        let mut actions = self.receiver.expire(now);
        if self
            .sender
            .due_at(self.timing.rekey_after)
            .is_some_and(|due| due <= now)
        {
            self.sender.handle_rekey_due();
        }
        let retry = self.unsettled() && self.retry_at <= now;
        if retry {
            actions.extend(self.receiver.install());
        }
        if retry || self.said() != before {
            actions.push(self.say(now, false));
        }
        actions
    }

    /// When [`Rotation::handle_timeout`] has something to do, as far as is known now.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let retry = self.unsettled().then_some(self.retry_at);
        let due = self.sender.due_at(self.timing.rekey_after);
        [retry, due, self.receiver.next_expiry()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The key to seal with; none before the first was agreed on, and then nothing may be sent.
    /// While a switch is being carried out, the one before it.
    pub fn outbound(&self) -> Option<KeyId> {
        self.sender.using()
    }

    /// Where the sending direction is.
    pub fn sender_state(&self) -> SenderState {
        self.sender.state()
    }

    /// The epochs of the receiving direction, oldest first.
    pub fn inbound(&self) -> impl Iterator<Item = (KeyId, EpochState)> + '_ {
        self.receiver.epochs()
    }

    /// Whether both directions use a key of the current session, each side knows it, and no other
    /// key is left.
    pub fn is_settled(&self) -> bool {
        self.session.is_some() && !self.unsettled() && self.receiver.epochs().count() == 1
    }

    fn unsettled(&self) -> bool {
        self.session.is_some() && !(self.sender.is_steady() && self.receiver.is_steady())
    }

    fn said(&self) -> Said {
        Said {
            offer: self.receiver.offer(),
            using: self.sender.using(),
            switching: self.sender.switching(),
            beyond: self.sender.beyond(),
            heard: self.receiver.heard(),
        }
    }

    fn changed(&mut self, now: Moment, before: &Said) -> Option<Action> {
        (self.session.is_some() && self.said() != *before).then(|| self.say(now, false))
    }

    fn say(&mut self, now: Moment, answer: bool) -> Action {
        self.retry_at = now.after(self.timing.retry);
        self.serial += 1;
        let Said {
            offer,
            using,
            switching,
            beyond,
            heard,
        } = self.said();
        let session = self
            .session
            .expect("nothing is said before the first session");
        let serial = self.serial;
        Action::Send(Status {
            session,
            serial,
            answer,
            offer,
            using,
            switching,
            beyond,
            heard,
        })
    }
}
