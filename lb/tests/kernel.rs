//! Service addresses on the real kernel: real packets between namespaces.
//!
//! The program moves into a network and mount namespace of its own before it has any thread (and
//! into a user namespace when it is not root), so that nothing it makes outlives it or is seen by
//! others. Every case makes the namespaces it needs beneath.

#![expect(
    clippy::unwrap_used,
    reason = "a test without the harness that clippy knows"
)]

#[path = "kernel/address.rs"]
mod address;
#[path = "kernel/affinity.rs"]
mod affinity;
#[path = "kernel/flows.rs"]
mod flows;
#[path = "kernel/idle.rs"]
mod idle;
#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/own.rs"]
mod own;
#[path = "kernel/stats.rs"]
mod stats;
#[path = "kernel/traffic.rs"]
mod traffic;
#[path = "kernel/turns.rs"]
mod turns;
#[path = "kernel/upkeep.rs"]
mod upkeep;

use libtest_mimic::{Arguments, Failed, Trial};
use weft_test_netns as ns;

fn main() {
    let arguments = Arguments::from_args();
    ns::isolate();
    let cases = [
        traffic::CASES,
        address::CASES,
        turns::CASES,
        own::CASES,
        affinity::CASES,
        flows::CASES,
        idle::CASES,
        upkeep::CASES,
        stats::CASES,
    ]
    .concat();
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
