//! Makes refusals. A message is one line of bounded length, whatever the request contained.

use std::fmt;

use crate::command::{Refusal, RefusalKind};

pub(super) fn invalid(message: impl fmt::Display) -> Refusal {
    refusal(RefusalKind::Invalid, message)
}

pub(super) fn not_found(message: impl fmt::Display) -> Refusal {
    refusal(RefusalKind::NotFound, message)
}

pub(super) fn conflict(message: impl fmt::Display) -> Refusal {
    refusal(RefusalKind::Conflict, message)
}

pub(super) fn in_use(message: impl fmt::Display) -> Refusal {
    refusal(RefusalKind::InUse, message)
}

pub(super) fn exhausted(message: impl fmt::Display) -> Refusal {
    refusal(RefusalKind::Exhausted, message)
}

pub(super) fn outdated(message: impl fmt::Display) -> Refusal {
    refusal(RefusalKind::Outdated, message)
}

fn refusal(kind: RefusalKind, message: impl fmt::Display) -> Refusal {
    Refusal {
        kind,
        message: message.to_string(),
    }
}

/// Text of a request as it may appear in a message: in backquotes, escaped, cut after
/// [`Quoted::LONGEST`] characters.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Quoted<'_> {
    const LONGEST: usize = 72;
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        f.write_str("`")?;
        for c in rest.by_ref().take(Self::LONGEST) {
            fmt::Display::fmt(&c.escape_debug(), f)?;
        }
        f.write_str(if rest.next().is_some() { "..`" } else { "`" })
    }
}
