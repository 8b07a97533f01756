//! Probes of servers in namespaces that the tests make. Works as root and as an ordinary user, who
//! gets a user namespace first. The test binary is its own `weft`.
#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod command;
mod http;
mod place;
mod tcp;

use std::ffi::OsString;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let [internal, container, rest @ ..] = arguments.as_slice()
        && internal == "internal"
        && container == "container"
    {
        return weft_agent::container::internal(rest.to_vec()).unwrap();
    }
    // While there is one thread: a process with more cannot enter a user namespace.
    become_root();
    let arguments = Arguments::from_args();
    let trials = [tcp::TESTS, http::TESTS, command::TESTS].concat();
    let trials = trials.into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

type Test = (&'static str, fn());

fn become_root() {
    let (user, group) = (getuid(), getgid());
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).unwrap();
    if !user.is_root() {
        std::fs::write("/proc/self/setgroups", "deny").unwrap();
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).unwrap();
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).unwrap();
    }
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).unwrap();
}
