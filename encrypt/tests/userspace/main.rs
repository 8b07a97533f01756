//! The user-space data path between two hosts that are network namespaces, with the kernel's VXLAN
//! devices and fixed keys. `ip` makes what the agent makes otherwise.
//!
//! On a kernel before 6.17 (tests/vm) only the cases of ports run. On a machine where `/dev/net/tun` is root's alone (udev makes it everybody's), an ordinary user's
//! data path cannot start: then it is the case that it says so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod capture;
mod decoded;
mod hostile;
mod lab;
mod life;
mod ports;
mod traffic;

use std::fs::OpenOptions;

use libtest_mimic::{Arguments, Trial};
use weft_encrypt::path::Form;
use weft_encrypt::userspace::probe_form;

fn main() {
    let arguments = Arguments::from_args();
    weft_test_netns::isolate();
    let cases = if OpenOptions::new().write(true).open("/dev/net/tun").is_ok() {
        let mut cases = [
            traffic::PORT_CASES,
            decoded::PORT_CASES,
            hostile::PORT_CASES,
            life::PORT_CASES,
            ports::PORT_CASES,
        ]
        .concat();
        match weft_test_netns::Ns::new().run(probe_form) {
            Ok(Form::Vxlan) => cases.extend(
                [
                    traffic::TUNNELS,
                    decoded::TUNNELS,
                    hostile::TUNNELS,
                    life::TUNNELS,
                ]
                .concat(),
            ),
            other => eprintln!("without the cases of VXLAN devices: this kernel takes {other:?}"),
        }
        cases
    } else {
        eprintln!("/dev/net/tun cannot be opened by this user");
        vec![(
            "without_the_device_it_says_so",
            life::without_the_device_it_says_so as fn(),
        )]
    };
    let trials = cases.into_iter().map(|(name, case)| {
        Trial::test(name, move || {
            case();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}
