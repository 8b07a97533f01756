//! A command that says which signals it gets: what a shell's traps do depends on the shell, and on
//! what it is about when a signal comes.

use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

/// The word by which the test binary is this command.
const ROLE: &str = "tell-signals";
/// How it ends after `SIGTERM`.
pub(crate) const STATUS: u8 = 7;

/// The words that start it.
pub(crate) fn command() -> [String; 2] {
    let exe = std::env::current_exe().unwrap();
    [exe.to_str().unwrap().to_owned(), ROLE.to_owned()]
}

/// Behaves as the command if this process was started as that.
pub(crate) fn act_by_role() -> Option<ExitCode> {
    (std::env::args().nth(1)? == ROLE).then(tell)
}

/// Prints `ready`, and for each signal its name and who sent it; ends after `SIGTERM`.
fn tell() -> ExitCode {
    let all = SigSet::all();
    all.thread_block().unwrap();
    let signals = SignalFd::new(&all).unwrap();
    println!("ready");
    loop {
        let Some(info) = signals.read_signal().unwrap() else {
            continue;
        };
        let signal = Signal::try_from(info.ssi_signo.cast_signed()).unwrap();
        // SI_USER, SI_QUEUE and SI_TKILL are 0 and below (sigaction(2)).
        let sender = match info.ssi_code {
            1.. => "the kernel",
            _ => "a process",
        };
        println!("{signal} of {sender}");
        if signal == Signal::SIGTERM {
            return ExitCode::from(STATUS);
        }
    }
}
