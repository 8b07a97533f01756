use std::time::Duration;

/// How many queries of one container go to others: so many a second, and so many at once after a pause
/// (a token bucket). Time is since any fixed moment.
#[derive(Clone, Debug)]
pub struct Budget {
    per_second: u32,
    burst: u32,
    /// Billionths of a query.
    left: u64,
    at: Duration,
}

const WHOLE: u64 = 1_000_000_000;

impl Budget {
    /// A full one.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second,
            burst,
            left: u64::from(burst) * WHOLE,
            at: Duration::ZERO,
        }
    }

    /// Whether one more may go now.
    pub fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.at).as_nanos();
        self.at = now.max(self.at);
        let gained = u64::try_from(passed).unwrap_or(u64::MAX);
        let gained = gained.saturating_mul(self.per_second.into());
        let most = u64::from(self.burst) * WHOLE;
        self.left = self.left.saturating_add(gained).min(most);
        match self.left.checked_sub(WHOLE) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_go_as_a_second_has_after_what_goes_at_once() {
        let mut budget = Budget::new(10, 3);
        let at = Duration::from_millis;
        let taken = |budget: &mut Budget, now| (0..9).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, at(0)), 3);
        assert_eq!(taken(&mut budget, at(99)), 0);
        assert_eq!(taken(&mut budget, at(100)), 1);
        assert_eq!(taken(&mut budget, at(300)), 2);
        assert_eq!(taken(&mut budget, at(90_000)), 3);
        // A clock that goes back gives nothing.
        assert_eq!(taken(&mut budget, at(0)), 0);
        assert_eq!(taken(&mut budget, at(90_100)), 1);
    }
}
