//! The ingress mesh on the real kernel: two hosts with all the rules and switches that it takes,
//! a client outside, and containers that tell whom they see.
//!
//! The program moves into a network and mount namespace of its own before it has any thread (and
//! into a user namespace when it is not root), so that nothing it makes outlives it or is seen by
//! others. Every case makes the namespaces it needs beneath.

#![expect(
    clippy::unwrap_used,
    reason = "a test without the harness that clippy knows"
)]

#[path = "ingress/door.rs"]
mod door;
#[path = "ingress/host.rs"]
mod host;
#[path = "ingress/lab.rs"]
mod lab;
#[path = "ingress/needs.rs"]
mod needs;
#[path = "ingress/talk.rs"]
mod talk;
#[path = "ingress/upkeep.rs"]
mod upkeep;
#[path = "ingress/way.rs"]
mod way;

use libtest_mimic::{Arguments, Failed, Trial};
use weft_test_netns as ns;

fn main() {
    let arguments = Arguments::from_args();
    ns::isolate();
    let cases = [way::CASES, needs::CASES, door::CASES, upkeep::CASES].concat();
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
