//! Processes under a supervisor: the command, and what it left behind when it ended.

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout_at};

use super::supervision::Event;

/// `SIGKILL` works at once except on a process that the kernel holds in a system call.
const KILL_LIMIT: Duration = Duration::from_secs(2);
const KILL_POLL: Duration = Duration::from_millis(2);

/// The command.
#[derive(Debug)]
pub(super) struct Command {
    child: Child,
    pid: Pid,
}

impl Command {
    pub(super) fn new(child: Child) -> Self {
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        Self { child, pid }
    }

    /// Sends it a signal, unless it has ended.
    pub(super) fn signal(&mut self, signal: Signal) {
        // Not reaped yet, so that the process id is still its own.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(self.pid, signal);
        }
    }

    /// What happened to it since the last time, and reaps whatever else has ended.
    pub(super) fn changes(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let stops = WaitPidFlag::WSTOPPED | WaitPidFlag::WCONTINUED | WaitPidFlag::WNOHANG;
        match waitid(Id::Pid(self.pid), stops) {
            Ok(WaitStatus::Stopped(..)) => events.push(Event::Stopped),
            Ok(WaitStatus::Continued(_)) => events.push(Event::Continued),
            _ => {}
        }
        if let Ok(Some(status)) = self.child.try_wait() {
            events.push(end_of(status));
        }
        for child in children() {
            if child != self.pid {
                let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
            }
        }
        events
    }
}

fn end_of(status: ExitStatus) -> Event {
    match status.signal() {
        Some(signal) => Event::Killed(signal),
        None => Event::Exited(status.code().unwrap_or(1)),
    }
}

/// Ends what a command left running. Its orphans are this process's children (it is their
/// subreaper, prctl(2)), and theirs become so in turn.
pub(super) async fn end_all() {
    let deadline = Instant::now() + KILL_LIMIT;
    let ending = async {
        loop {
            let children = children();
            if children.is_empty() {
                return;
            }
            for child in children {
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
            }
            sleep(KILL_POLL).await;
        }
    };
    let _ = timeout_at(deadline, ending).await;
}

/// The children of this process, which has one thread.
fn children() -> Vec<Pid> {
    let own = std::process::id();
    match fs::read_to_string(format!("/proc/self/task/{own}/children")) {
        Ok(list) => list
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok().map(Pid::from_raw))
            .collect(),
        // A kernel without CONFIG_PROC_CHILDREN.
        Err(_) => children_of(own).unwrap_or_default(),
    }
}

fn children_of(parent: u32) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if parent_in(&stat) == Some(parent) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Fourth field of `/proc/PID/stat`; the second one may hold anything in its parentheses
/// (proc_pid_stat(5)).
fn parent_in(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_the_name_of_the_process_is() {
        assert_eq!(parent_in("12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12 (a) b) 9 (c) R 8 1"), Some(8));
        assert_eq!(parent_in("12"), None);
    }

    #[test]
    fn both_ways_to_find_children_agree() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let found = children_of(std::process::id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid));
    }
}
