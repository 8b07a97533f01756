use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{cost, limits};
use crate::command::Outcome;

/// Outcomes of the latest requests, for clients that ask again because they lost the answer. What
/// is dropped follows from the log alone, so every replica remembers the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    outcomes: BTreeMap<[u8; 16], Outcome>,
    // Oldest first.
    order: VecDeque<[u8; 16]>,
    bytes: usize,
}

impl Requests {
    pub(super) fn get(&self, request: &[u8; 16]) -> Option<&Outcome> {
        self.outcomes.get(request)
    }

    /// Remembers the outcome of a request that is not here yet.
    pub(super) fn record(&mut self, request: [u8; 16], outcome: Outcome) {
        self.bytes += cost::of_outcome(&outcome);
        self.outcomes.insert(request, outcome);
        self.order.push_back(request);
        while self.order.len() > 1
            && (self.order.len() > limits::REQUESTS || self.bytes > limits::REQUESTS_BYTES)
        {
            let oldest = self.order.pop_front();
            if let Some(outcome) = oldest.and_then(|oldest| self.outcomes.remove(&oldest)) {
                self.bytes -= cost::of_outcome(&outcome);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

impl Serialize for Requests {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let remembered = self
            .order
            .iter()
            .filter_map(|request| Some((request, self.outcomes.get(request)?)));
        serializer.collect_seq(remembered.collect::<Vec<_>>())
    }
}

impl<'de> Deserialize<'de> for Requests {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut requests = Self::default();
        for (request, outcome) in Vec::<([u8; 16], Outcome)>::deserialize(deserializer)? {
            if requests.get(&request).is_none() {
                requests.record(request, outcome);
            }
        }
        Ok(requests)
    }
}
