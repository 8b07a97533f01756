//! Randomness and nodes of the simulation.

use std::collections::{BTreeMap, BTreeSet};

use super::TIMING;
use crate::esp::Spi;
use crate::keys::Party;
use crate::rotation::{KeyId, Rotation};
use crate::sa::{InboundTable, OutboundSa};

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// One node: its agreement, and the data path that carries it out.
pub(super) struct Node {
    pub(super) party: Party,
    /// Counts restarts; actions of an earlier process do not reach a later one.
    pub(super) process: u64,
    pub(super) rotation: Rotation,
    pub(super) outbound: Option<(KeyId, OutboundSa)>,
    pub(super) replaced: Option<(KeyId, OutboundSa)>,
    pub(super) inbound: InboundTable,
    pub(super) accepted: BTreeMap<KeyId, Spi>,
    pub(super) ever_accepted: BTreeSet<KeyId>,
    pub(super) next_spi: u32,
    pub(super) last_session_at: u64,
    /// When the timer goes off; one that was set before means nothing.
    pub(super) timer: Option<u64>,
}

impl Node {
    pub(super) fn new(party: Party, process: u64, last_session_at: u64) -> Self {
        Self {
            party,
            process,
            rotation: Rotation::new(TIMING),
            outbound: None,
            replaced: None,
            inbound: InboundTable::new(),
            accepted: BTreeMap::new(),
            ever_accepted: BTreeSet::new(),
            next_spi: 0x1000,
            last_session_at,
            timer: None,
        }
    }
}
