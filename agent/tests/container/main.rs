//! `weft run` and `weft exec` against a fake agent: what they do to processes, namespaces and
//! files. Works as root and as an ordinary user, who gets a user namespace first.
#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod exec;
mod fake;
mod foreground;
mod in_background;
mod signals;
mod terminal;
mod world;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getgid, getuid};

use world::World;

fn main() -> std::process::ExitCode {
    if let Some(ended) = signals::act_by_role() {
        return ended;
    }
    // While there is one thread: a process with more cannot enter a user namespace.
    become_root();
    let arguments = Arguments::from_args();
    let trials = [foreground::TESTS, in_background::TESTS, exec::TESTS].concat();
    let trials = trials
        .into_iter()
        .map(|(name, test)| Trial::test(name, move || run(test)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

type Test = (&'static str, fn(&World));

fn run(test: fn(&World)) -> Result<(), Failed> {
    let world = World::new();
    test(&world);
    world.is_clean();
    Ok(())
}

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
