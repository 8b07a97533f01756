//! Random choices that can be made again.

use anyhow::{Context, Result};

/// Names the seed of a run that is to be repeated.
pub const SEED_VARIABLE: &str = "WEFT_TEST_SEED";

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): small,
/// and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Choices that follow from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The seed from the environment, or a new one; print it.
    pub fn seed() -> Result<u64> {
        match std::env::var(SEED_VARIABLE) {
            Ok(text) => text
                .parse()
                .with_context(|| format!("{SEED_VARIABLE}={text} is no number")),
            Err(_) => {
                let now = std::time::UNIX_EPOCH.elapsed()?;
                Ok(Self::new(u64::from(now.subsec_nanos()) ^ now.as_secs()).next() % 1_000_000)
            }
        }
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "endless, and so no iterator")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0; all nearly equally likely.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One of them; none if there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let limit = u64::try_from(from.len()).ok().filter(|len| *len > 0)?;
        from.get(usize::try_from(self.below(limit)).ok()?)
    }
}
