//! What goes in and comes out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::esp::Spi;
use crate::keys::Epoch;

/// A point in time: since an origin that the caller chooses and keeps, on a clock that never goes
/// back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// This much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Times of the agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long until what is unsettled is said again.
    pub retry: Duration,
    /// How long a key is still accepted after the sender has given it up. Longer than a packet may
    /// be on its way, send queues included.
    pub drain: Duration,
    /// Age at which a key is replaced.
    pub rekey_after: Duration,
}

impl Default for Timing {
    /// Ten messages in the time that a lost peer takes to be noticed twice; ten times the queueing
    /// that a packet sees at worst; an hour.
    fn default() -> Self {
        Self {
            retry: Duration::from_millis(200),
            drain: Duration::from_secs(5),
            rekey_after: Duration::from_secs(3600),
        }
    }
}

/// Name of a session between two agents, known to both and never given to another session, such as
/// eight bytes from its exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// Name of a key of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId {
    /// Which session it is derived from.
    pub session: SessionId,
    /// Which of the receiver's keys it is.
    pub epoch: Epoch,
}

/// What the receiver of a direction is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The epoch, of the session in which this is said.
    pub epoch: Epoch,
    /// The SPI that its packets shall carry.
    pub spi: Spi,
}

/// All that a peer is at. Goes over the session that it names, which authenticates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The session.
    pub session: SessionId,
    /// Grows with every status of its sender; a lower one is out of date.
    pub serial: u64,
    /// Says that no answer is needed.
    pub answer: bool,
    /// As receiver: the newest epoch of this session that is installed.
    pub offer: Option<Offer>,
    /// As sender: the key in use, perhaps of an earlier session.
    pub using: Option<KeyId>,
    /// As sender: the key that a switch is being made to, which may be in use at any time.
    pub switching: Option<KeyId>,
    /// As sender: asks for an epoch after this one.
    pub beyond: Option<Epoch>,
    /// As receiver: what the peer said last that it uses.
    pub heard: Option<KeyId>,
}

/// What the caller has to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Derive this key of the receiving direction, choose an SPI and accept its packets; then
    /// `handle_installed`. Never asked twice for a key.
    InstallInbound(KeyId),
    /// Accept this key's packets no longer and erase it.
    RemoveInbound(KeyId, Spi),
    /// Derive this key of the sending direction and seal with it from now on, under this SPI; erase
    /// the key before it; then `handle_switched`. Never asked twice for a key.
    SwitchOutbound(KeyId, Spi),
    /// Send this to the peer over the session that it names. May be lost.
    Send(Status),
}
