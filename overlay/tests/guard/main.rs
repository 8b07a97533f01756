//! The member filter and the host facts on the real kernel: real packets between namespaces.
//!
//! The program moves into a network and mount namespace of its own before it has any thread (and
//! into a user namespace when it is not root), so that nothing it makes outlives it or is seen by
//! others. Every case makes the namespaces it needs beneath.

#![expect(
    clippy::unwrap_used,
    reason = "a test without the harness that clippy knows"
)]

mod facts;
mod filter;
mod firewall;
mod readers;

use libtest_mimic::{Arguments, Failed, Trial};
use weft_test_netns as ns;

fn main() {
    let arguments = Arguments::from_args();
    if std::env::var_os(filter::UNPRIVILEGED).is_some() {
        filter::report_open_without_privilege();
        return;
    }
    ns::isolate();
    let cases = [filter::CASES, facts::CASES, firewall::CASES, readers::CASES].concat();
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
