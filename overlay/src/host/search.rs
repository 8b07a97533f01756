//! How much the path to a peer really carries: a search by echo requests that may not be fragmented.
//!
//! A router that drops what is too long for its next link is to say so (RFC 1191, RFC 8201); many
//! paths swallow that message, or have no router that could send it. What is too long then vanishes
//! without a word, and connections hang as soon as they send much (RFC 2923 section 2.1). So the path
//! is tried out, as RFC 8899 does for datagrams, by packets that are there to be lost.
//!
//! ```text
//!  Rest --(interval)--> ask for the whole --answered--> found: all of it --> Rest
//!                         |  not, but a small one is, twice
//!                         v
//!                       Ladder: sizes between --best answered, closer--+
//!                         |  no size between                    ^-----+
//!                         v
//!                       found: the best --> Rest, from where the ladder begins
//! ```

use std::time::Duration;

/// From one look at the path to the next.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long an answer may take. Each size is asked for twice meanwhile.
const ROUND: Duration = Duration::from_secs(1);
/// When it is asked for again.
const AGAIN: Duration = Duration::from_millis(300);
/// Sizes that are tried at the same time.
const STEPS: u32 = 16;
/// Rounds in which a small packet was answered and the largest was not, before that is believed.
const STRIKES: u32 = 2;

/// Time since whoever feeds the search began to.
type Moment = Duration;

/// The search along the path to one peer. It reads no clock and sends nothing: whoever has it asks
/// for what [`PathSearch::poll`] returns, and says what was answered.
///
/// Sizes are of whole IP packets in bytes.
#[derive(Clone, Debug)]
pub struct PathSearch {
    /// What any path carries: less is not tried.
    base: u32,
    /// What the devices at both ends carry.
    top: u32,
    state: State,
    strikes: u32,
    found: Option<u32>,
}

#[derive(Clone, Debug)]
enum State {
    Rest {
        until: Moment,
    },
    Round {
        /// Nothing above `low` is known to be carried; it is asked for, too.
        low: u32,
        high: u32,
        /// Whether it is one of a ladder.
        ladder: bool,
        again: Option<Moment>,
        end: Moment,
        best: u32,
    },
}

impl PathSearch {
    /// A path of which nothing is known but that it carries packets of `base`, and not more than
    /// `top`.
    pub fn new(base: u32, top: u32) -> Self {
        Self {
            base,
            top: top.max(base),
            state: State::Rest {
                until: Moment::ZERO,
            },
            strikes: 0,
            found: None,
        }
    }

    /// What the ends carry has changed: the path is looked at again at once.
    pub fn set_top(&mut self, top: u32) {
        if top.max(self.base) != self.top {
            *self = Self::new(self.base, top);
        }
    }

    /// What the path carries; `None` until the peer has answered, and for ever when it answers no
    /// echo request.
    pub fn found(&self) -> Option<u32> {
        self.found
    }

    /// When [`PathSearch::poll`] has something to do.
    pub fn next(&self) -> Moment {
        match self.state {
            State::Rest { until } => until,
            State::Round { again, end, .. } => again.unwrap_or(end),
        }
    }

    /// The sizes to ask for now.
    pub fn poll(&mut self, now: Moment) -> Vec<u32> {
        if now < self.next() {
            return Vec::new();
        }
        match &mut self.state {
            State::Rest { .. } => self.look(now),
            State::Round { again, .. } if again.is_some() => {
                *again = None;
                self.sizes()
            }
            State::Round { .. } => self.close(now),
        }
    }

    /// A packet of this size came back. Smaller ones would, too.
    pub fn answered(&mut self, now: Moment, size: u32) {
        let top = self.top;
        if let State::Round { best, .. } = &mut self.state
            && size <= top
        {
            *best = size.max(*best);
            if *best == top {
                self.settle(now, top);
            }
        }
    }

    fn look(&mut self, now: Moment) -> Vec<u32> {
        match self.found.filter(|found| *found < self.top) {
            // It may have become wider, or narrower still.
            Some(found) => self.round(now, found, self.top, true),
            None => self.round(now, self.base, self.top, false),
        }
    }

    fn round(&mut self, now: Moment, low: u32, high: u32, ladder: bool) -> Vec<u32> {
        self.state = State::Round {
            low,
            high,
            ladder,
            again: Some(now + AGAIN),
            end: now + ROUND,
            best: 0,
        };
        self.sizes()
    }

    /// Of the round that is going on: its lower end, the steps above it, and the largest of all.
    fn sizes(&self) -> Vec<u32> {
        let State::Round {
            low, high, ladder, ..
        } = self.state
        else {
            return Vec::new();
        };
        let mut sizes = vec![self.base, low];
        if ladder {
            let steps = (1..STEPS).map(|step| low + (high - low) * step / STEPS);
            sizes.extend(steps);
            sizes.push(high.saturating_sub(1).max(low));
        }
        sizes.push(self.top);
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// The time for answers is over, and the largest was not among them.
    fn close(&mut self, now: Moment) -> Vec<u32> {
        let State::Round {
            low,
            high,
            ladder,
            best,
            ..
        } = self.state
        else {
            return Vec::new();
        };
        if best == 0 {
            // The peer is away, or answers no echo requests: nothing was learnt.
            self.rest(now);
            return Vec::new();
        }
        if !ladder {
            self.strikes += 1;
            return match self.strikes < STRIKES {
                true => self.round(now, self.base, self.top, false),
                false => self.round(now, self.base, self.top, true),
            };
        }
        if best < low {
            // Narrower than it was.
            self.found = None;
            self.strikes = 0;
            return self.round(now, self.base, self.top, false);
        }
        // The next size that was asked for, and not answered.
        let above = self.sizes().into_iter().find(|size| *size > best);
        let high = above.unwrap_or(high).min(high);
        match high - best {
            0 | 1 => {
                self.settle(now, best);
                Vec::new()
            }
            _ => self.round(now, best, high, true),
        }
    }

    fn settle(&mut self, now: Moment, size: u32) {
        self.found = Some(size);
        self.strikes = 0;
        self.rest(now);
    }

    fn rest(&mut self, now: Moment) {
        self.state = State::Rest {
            until: now + INTERVAL,
        };
    }
}

#[cfg(test)]
mod tests;
