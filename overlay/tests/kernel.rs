//! What the real kernel makes of it. Runs as root or as an ordinary user, in namespaces of its own;
//! `ip` and `bridge` read back what was made, and packet sockets see what is on the wire.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "kernel/drift.rs"]
mod drift;
#[path = "kernel/gateway/mod.rs"]
mod gateway;
#[path = "kernel/lab.rs"]
mod lab;
#[path = "kernel/life.rs"]
mod life;
#[path = "kernel/mesh.rs"]
mod mesh;
#[path = "kernel/namespaces.rs"]
mod namespaces;
#[path = "kernel/ports.rs"]
mod ports;
#[path = "kernel/scale.rs"]
mod scale;
#[path = "kernel/wire.rs"]
mod wire;

use std::fs;

use libtest_mimic::{Arguments, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

fn main() {
    let arguments = Arguments::from_args();
    enter_own_namespaces();
    let cases: Vec<(&'static str, fn())> = [
        drift::CASES,
        life::CASES,
        mesh::CASES,
        namespaces::CASES,
        ports::CASES,
        scale::CASES,
        wire::CASES,
        &gateway::CASES.concat(),
    ]
    .concat();
    let trials = cases
        .into_iter()
        .map(|(name, case)| {
            Trial::test(name, move || {
                case();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Before any thread is started: a process with threads cannot enter a new user namespace.
fn enter_own_namespaces() {
    let (uid, gid) = (geteuid(), getegid());
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    if uid.is_root() {
        unshare(own).expect("root may unshare");
    } else {
        unshare(own | CloneFlags::CLONE_NEWUSER).expect("user namespaces are allowed");
        fs::write("/proc/self/setgroups", "deny").unwrap();
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).unwrap();
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).unwrap();
    }
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("own mount namespace");
}
