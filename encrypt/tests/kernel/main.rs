//! The kernel's data path on a kernel: policies on every one, ESP on those that have it, as that of the
//! virtual machine has (tests/vm).
//!
//! The program moves into a network and mount namespace of its own before it has any thread (and into a
//! user namespace when it is not root), so that nothing it makes outlives it or is seen by others. Every
//! case makes the namespaces it needs beneath.

#![expect(
    clippy::unwrap_used,
    reason = "a test without the harness that clippy knows"
)]

mod esp;
mod hosts;
mod interop;
mod policies;

use libtest_mimic::{Arguments, Failed, Trial};
use weft_test_netns as ns;

/// What the names of cases begin with that need a kernel with ESP.
const ESP: &str = "esp_";

fn main() {
    let arguments = Arguments::from_args();
    ns::isolate();
    let mut cases = policies::CASES.to_vec();
    // The namespace of a user who is not root has no say in which modules are loaded.
    let probed = ns::Ns::new().run(|| weft_encrypt::kernel::probe(ns::ip("192.0.2.1")));
    match probed {
        Ok(()) => cases.extend([esp::CASES, interop::CASES].concat()),
        Err(error) if arguments.filter.as_deref() == Some(ESP) => panic!("{error}"),
        Err(error) => eprintln!("without the cases of ESP: {error}"),
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
