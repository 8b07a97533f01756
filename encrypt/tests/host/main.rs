//! What the host has around encrypted networks, on the real kernel: real packets between namespaces, and
//! other people's programs as readers.
//!
//! The program moves into a network and mount namespace of its own before it has any thread (and into a
//! user namespace when it is not root), so that nothing it makes outlives it or is seen by others. Every
//! case makes the namespaces it needs beneath.

#![expect(
    clippy::unwrap_used,
    reason = "a test without the harness that clippy knows"
)]

mod closed;
mod device;
mod kept;
mod node;
mod tap;

use libtest_mimic::{Arguments, Failed, Trial};
use weft_test_netns as ns;

fn main() {
    let arguments = Arguments::from_args();
    ns::isolate();
    let mut cases = [closed::CASES, kept::CASES].concat();
    // Where only root may make such a device, these are for root.
    if tap::may_open() {
        cases.extend(device::CASES);
    }
    let trials = cases.into_iter().map(|(name, case)| {
        Trial::test(name, move || {
            case();
            Ok::<(), Failed>(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

/// A claim and what shows it, by panicking if it does not hold.
type Case = (&'static str, fn());

/// The cases of a module, each named by its function.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        pub(super) const CASES: &[crate::Case] = &[$((stringify!($case), $case as fn())),*];
    };
}
use cases;
