//! The user-space data path between two hosts that are network namespaces, with the kernel's VXLAN
//! devices and fixed keys. `ip` makes what the agent makes otherwise.
//!
//! Whoever runs it needs access to `/dev/net/tun`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod capture;
mod lab;
mod traffic;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    weft_test_netns::isolate();
    let trials = traffic::CASES.iter().map(|(name, case)| {
        Trial::test(*name, move || {
            case();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
