//! When a peer that nothing was sent to gets a sign of life.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Longest silence towards a peer, milliseconds: address translators forget a UDP flow after 30 s
/// and more (RFC 4787 section 4.3 asks for 2 minutes, not all do; RFC 3948 section 4 has 20 s).
pub(super) const LONGEST_SILENCE_MS: u64 = 20_000;
/// How much earlier it may be, so that not all peers get theirs at once.
const JITTER_MS: u64 = 5_000;

/// Whether it is time for a sign of life. `sent_ms` is when something was sent to the peer last;
/// nothing if never, and then it is.
pub(super) fn is_due(peer: IpAddr, now_ms: u64, sent_ms: Option<u64>) -> bool {
    let Some(sent_ms) = sent_ms else {
        return true;
    };
    let mut hasher = DefaultHasher::new();
    (peer, sent_ms).hash(&mut hasher);
    let patience = LONGEST_SILENCE_MS - hasher.finish() % JITTER_MS;
    now_ms.saturating_sub(sent_ms) >= patience
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    use super::*;

    fn silence(peer: u32, sent_ms: u64) -> u64 {
        let peer = Ipv4Addr::from(peer).into();
        let due = (sent_ms..).find(|now| is_due(peer, *now, Some(sent_ms)));
        due.unwrap() - sent_ms
    }

    #[test]
    fn nobody_waits_longer_than_the_longest_silence_or_much_less() {
        let silences: BTreeSet<_> = (0..40).map(|n| silence(n, u64::from(n) * 77)).collect();
        assert!(silences.len() > 30, "{silences:?}");
        assert!(silences.iter().all(|ms| (15_000..=20_000).contains(ms)));
    }

    #[test]
    fn who_was_never_sent_to_gets_it_at_once() {
        assert!(is_due(Ipv4Addr::LOCALHOST.into(), 0, None));
        assert!(!is_due(Ipv4Addr::LOCALHOST.into(), 5, Some(10)));
    }
}
