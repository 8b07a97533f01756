//! Which connection with one other node counts, and when to dial: pure, so that every order of
//! events can be tried.
//!
//! Both nodes decide by the same rule: of two connections the one that the node with the lower id
//! has dialled counts; of two that the same node has dialled the newer one, because nobody dials
//! who has a session that it knows to be alive.

use std::net::SocketAddr;
use std::time::Duration;

/// A connection with the other node, or a dial that may become one: numbered by this node.
pub(super) type Number = u64;

/// After the first dial that failed; twice as long after each further one.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest time between two dials.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The other node is not wanted here.
    NotWanted,
    /// Another connection counts.
    Superseded,
    /// A new session is wanted.
    Renewed,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Dial(Number, SocketAddr),
    /// Give a dial up.
    Abandon(Number),
    /// This connection is the session from here on. Of one that was accepted the other side is to
    /// be told.
    Up(Number),
    /// The session has ended.
    Down(Number),
    Close(Number, Why),
}

/// Which of the two nodes dialled a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Lower,
    Higher,
}

/// One node as seen by another. Times are since any fixed moment.
#[derive(Clone, Debug)]
pub(super) struct Link {
    own: By,
    /// How long to leave the dialling to the other node.
    patience: Duration,
    /// Where the other node is, while it is wanted.
    target: Option<SocketAddr>,
    /// The dial under way.
    dial: Option<Number>,
    /// Earliest time of the next dial.
    next_dial: Duration,
    /// Dials in a row that led to nothing that lasted.
    failures: u32,
    session: Option<(Number, By)>,
    up_since: Duration,
    /// Whether the last session was dialled by this node.
    dialled_last: bool,
    last_number: Number,
}

impl Link {
    /// `lower`: whether this node has the lower id, which dials at once; the other one leaves the
    /// dialling to it for `patience`. Numbers are larger than `last_number`.
    pub(super) fn new(lower: bool, patience: Duration, last_number: Number) -> Self {
        let (own, patience) = match lower {
            true => (By::Lower, Duration::ZERO),
            false => (By::Higher, patience),
        };
        Self {
            own,
            patience,
            target: None,
            dial: None,
            next_dial: Duration::ZERO,
            failures: 0,
            session: None,
            up_since: Duration::ZERO,
            dialled_last: false,
            last_number,
        }
    }

    /// The connection that is the session.
    pub(super) fn session(&self) -> Option<Number> {
        self.session.map(|(number, _)| number)
    }

    /// Whether the other node is wanted.
    pub(super) fn is_wanted(&self) -> bool {
        self.target.is_some()
    }

    /// When [`Self::tick`] has something to do next, if nothing else happens before.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let waits = self.target.is_some() && self.session.is_none() && self.dial.is_none();
        waits.then_some(self.next_dial)
    }

    /// Where the other node is to be dialled; `None`: no session with it is wanted.
    pub(super) fn aim(&mut self, now: Duration, target: Option<SocketAddr>) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.target, target);
        if before == target {
            return Vec::new();
        }
        // What an address that was dialled came to says nothing of the new one.
        let mut effects = self.abandon();
        self.failures = 0;
        let soonest = now + self.patience();
        match (before, target) {
            (_, None) => effects.extend(self.end(Why::NotWanted)),
            (None, Some(_)) => self.next_dial = soonest,
            (Some(_), Some(_)) => self.next_dial = self.next_dial.min(soonest),
        }
        effects.extend(self.tick(now));
        effects
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Duration) -> Vec<Effect> {
        match (self.deadline(), self.target) {
            (Some(due), Some(target)) if due <= now => {
                let number = self.number();
                self.dial = Some(number);
                vec![Effect::Dial(number, target)]
            }
            _ => Vec::new(),
        }
    }

    /// A dial has led to a connection that the other side agrees to.
    pub(super) fn dialled(&mut self, now: Duration, number: Number) -> Vec<Effect> {
        if self.dial != Some(number) {
            return vec![Effect::Close(number, Why::Superseded)];
        }
        self.dial = None;
        self.offer(now, number, self.own)
    }

    /// A dial has led to nothing.
    pub(super) fn failed(&mut self, now: Duration, number: Number) -> Vec<Effect> {
        if self.dial == Some(number) {
            self.dial = None;
            self.next_dial = now + self.pause();
        }
        Vec::new()
    }

    /// The other node has dialled and waits for an answer. Gives the connection its number.
    pub(super) fn accepted(&mut self, now: Duration) -> (Number, Vec<Effect>) {
        let number = self.number();
        let effects = match self.target {
            Some(_) => self.offer(now, number, self.own.other()),
            None => vec![Effect::Close(number, Why::NotWanted)],
        };
        (number, effects)
    }

    /// A connection has ended, whoever closed it.
    pub(super) fn lost(&mut self, now: Duration, number: Number) -> Vec<Effect> {
        if self.session() != Some(number) {
            return Vec::new();
        }
        self.session = None;
        let pause = if now.saturating_sub(self.up_since) < LONGEST_PAUSE {
            // It may be that the other side cannot keep one.
            self.pause()
        } else {
            self.failures = 0;
            Duration::ZERO
        };
        self.next_dial = now + self.patience().max(pause);
        let mut effects = vec![Effect::Down(number)];
        effects.extend(self.tick(now));
        effects
    }

    /// Ends the session, so that another one follows.
    pub(super) fn renew(&mut self, now: Duration) -> Vec<Effect> {
        let mut effects = self.end(Why::Renewed);
        if !effects.is_empty() {
            self.next_dial = now + self.patience();
            effects.extend(self.tick(now));
        }
        effects
    }

    /// A connection that could be the session.
    fn offer(&mut self, now: Duration, number: Number, by: By) -> Vec<Effect> {
        if matches!(self.session, Some((_, By::Lower))) && by == By::Higher {
            return vec![Effect::Close(number, Why::Superseded)];
        }
        let mut effects = self.end(Why::Superseded);
        if by == By::Lower && self.own == By::Higher {
            // It could not count any more.
            effects.extend(self.abandon());
        }
        self.session = Some((number, by));
        self.up_since = now;
        self.dialled_last = by == self.own;
        effects.push(Effect::Up(number));
        effects
    }

    fn end(&mut self, why: Why) -> Vec<Effect> {
        match self.session.take() {
            Some((number, _)) => vec![Effect::Down(number), Effect::Close(number, why)],
            None => Vec::new(),
        }
    }

    /// One more dial that came to nothing: how long to wait with the next.
    fn pause(&mut self) -> Duration {
        let pause = PAUSE * (1 << self.failures.min(8));
        self.failures = self.failures.saturating_add(1);
        pause.min(LONGEST_PAUSE)
    }

    fn abandon(&mut self) -> Vec<Effect> {
        self.dial.take().map(Effect::Abandon).into_iter().collect()
    }

    fn patience(&self) -> Duration {
        // Maybe only this node can get through.
        if self.dialled_last {
            Duration::ZERO
        } else {
            self.patience
        }
    }

    fn number(&mut self) -> Number {
        self.last_number += 1;
        self.last_number
    }
}

impl By {
    fn other(self) -> Self {
        match self {
            Self::Lower => Self::Higher,
            Self::Higher => Self::Lower,
        }
    }
}

#[cfg(test)]
mod tests;
