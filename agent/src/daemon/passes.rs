use std::sync::atomic::{AtomicU64, Ordering};

/// Counts looks at the kernel.
#[derive(Debug, Default)]
pub(super) struct Passes {
    made: AtomicU64,
    failed: AtomicU64,
}

/// How many there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PassCounts {
    /// All of them.
    pub(super) made: u64,
    /// Those after which something was not as wanted.
    pub(super) failed: u64,
}

impl Passes {
    /// What was counted.
    pub(super) fn read(&self) -> PassCounts {
        PassCounts {
            made: self.made.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    pub(super) fn note(&self, failed: bool) {
        self.made.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    }
}
