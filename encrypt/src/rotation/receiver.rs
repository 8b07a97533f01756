//! The receiving direction.

use std::collections::BTreeMap;

use super::{Action, KeyId, Moment, Offer, SessionId};
use crate::esp::Spi;
use crate::keys::Epoch;

/// Most epochs of one direction at a time: two that the sender holds, one offered, one that is
/// being installed, and as many that drain. A peer that asks for more has to wait for those.
pub const MAX_EPOCHS: usize = 8;

/// Where one epoch of the receiving direction is; see the diagram of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochState {
    /// Being installed: its packets may not be opened yet, and nobody knows of it.
    Installing,
    /// Installed, and offered to the sender or held by it.
    Live,
    /// The sender has given it up; what is on its way is still opened.
    Draining {
        /// Until then.
        until: Moment,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) session: SessionId,
    pub(super) phase: Phase,
}

/// [`EpochState`] with the SPI where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Installing,
    Live(Spi),
    Draining(Spi, Moment),
}

/// State of the receiving direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Receiver {
    pub(super) session: Option<SessionId>,
    /// Highest epoch given out, in any session.
    pub(super) last: u64,
    pub(super) entries: BTreeMap<Epoch, Entry>,
    /// What the sender said last in this session.
    beyond: Option<Epoch>,
    using: Option<KeyId>,
}

impl Receiver {
    /// Accepts keys of earlier sessions. Epochs are counted on from the highest.
    pub(super) fn adopt(keys: impl IntoIterator<Item = (KeyId, Spi)>) -> Self {
        let entry = |(key, spi): (KeyId, Spi)| {
            let phase = Phase::Live(spi);
            let session = key.session;
            (key.epoch, Entry { session, phase })
        };
        let entries: BTreeMap<Epoch, Entry> = keys.into_iter().map(entry).collect();
        Self {
            last: entries.keys().next_back().map_or(0, |epoch| epoch.0),
            entries,
            ..Self::default()
        }
    }

    pub(super) fn handle_session(&mut self, session: SessionId) {
        self.session = Some(session);
        self.beyond = None;
        self.using = None;
    }

    /// Begins to install an epoch if the sender needs one and there is room.
    pub(super) fn install(&mut self) -> Option<Action> {
        let session = self.session?;
        let installing =
            |entry: &Entry| entry.session == session && entry.phase == Phase::Installing;
        let wanted = match self.offer() {
            None => true,
            Some(offer) => self.beyond == Some(offer.epoch),
        };
        if !wanted || self.entries.len() >= MAX_EPOCHS || self.entries.values().any(installing) {
            return None;
        }
        self.last = self.last.checked_add(1)?;
        let epoch = Epoch(self.last);
        self.entries.insert(
            epoch,
            Entry {
                session,
                phase: Phase::Installing,
            },
        );
        Some(Action::InstallInbound(KeyId { session, epoch }))
    }

    pub(super) fn handle_installed(&mut self, key: KeyId, spi: Option<Spi>) -> Option<Action> {
        let entry = self.entries.get_mut(&key.epoch)?;
        if entry.session != key.session || entry.phase != Phase::Installing {
            return None;
        }
        let Some(spi) = spi else {
            self.entries.remove(&key.epoch);
            return None;
        };
        if self.session == Some(key.session) {
            entry.phase = Phase::Live(spi);
            return None;
        }
        // Never offered, and its session is over.
        self.entries.remove(&key.epoch);
        Some(Action::RemoveInbound(key, spi))
    }

    /// What the sender holds: all other keys it has given up, and but for the offer it will never
    /// take them again.
    pub(super) fn handle_claims(
        &mut self,
        using: Option<KeyId>,
        switching: Option<KeyId>,
        beyond: Option<Epoch>,
        until: Moment,
    ) {
        self.using = using;
        self.beyond = beyond;
        let offered = self.offer().map(|offer| offer.epoch);
        for (epoch, entry) in &mut self.entries {
            let key = Some(KeyId {
                session: entry.session,
                epoch: *epoch,
            });
            let kept = key == using || key == switching || Some(*epoch) == offered;
            match entry.phase {
                Phase::Live(spi) if !kept => entry.phase = Phase::Draining(spi, until),
                Phase::Live(_) | Phase::Installing | Phase::Draining(..) => {}
            }
        }
    }

    /// Removes what has drained.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        self.entries.retain(|epoch, entry| match entry.phase {
            Phase::Draining(spi, until) if until <= now => {
                let key = KeyId {
                    session: entry.session,
                    epoch: *epoch,
                };
                actions.push(Action::RemoveInbound(key, spi));
                false
            }
            Phase::Draining(..) | Phase::Live(_) | Phase::Installing => true,
        });
        actions
    }

    pub(super) fn next_expiry(&self) -> Option<Moment> {
        let until = |entry: &Entry| match entry.phase {
            Phase::Draining(_, until) => Some(until),
            Phase::Live(_) | Phase::Installing => None,
        };
        self.entries.values().filter_map(until).min()
    }

    /// The newest epoch of this session that is installed.
    pub(super) fn offer(&self) -> Option<Offer> {
        self.entries
            .iter()
            .rev()
            .find_map(|(epoch, entry)| match entry.phase {
                Phase::Live(spi) if Some(entry.session) == self.session => {
                    Some(Offer { epoch: *epoch, spi })
                }
                Phase::Live(_) | Phase::Draining(..) | Phase::Installing => None,
            })
    }

    pub(super) fn heard(&self) -> Option<KeyId> {
        self.using
    }

    /// Whether the sender uses the offer.
    pub(super) fn is_steady(&self) -> bool {
        match (self.session, self.offer(), self.using) {
            (Some(session), Some(offer), Some(using)) => {
                using
                    == KeyId {
                        session,
                        epoch: offer.epoch,
                    }
            }
            _ => false,
        }
    }

    pub(super) fn epochs(&self) -> impl Iterator<Item = (KeyId, EpochState)> + '_ {
        self.entries.iter().map(|(epoch, entry)| {
            let key = KeyId {
                session: entry.session,
                epoch: *epoch,
            };
            let state = match entry.phase {
                Phase::Installing => EpochState::Installing,
                Phase::Live(_) => EpochState::Live,
                Phase::Draining(_, until) => EpochState::Draining { until },
            };
            (key, state)
        })
    }
}
