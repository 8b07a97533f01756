use std::fs;
use std::path::Path;
use std::time::Duration;

use weft_agent::health::{Probe, Target};

use super::Test;
use super::place::{Look, Place, until};

pub(crate) const TESTS: &[Test] = &[
    ("a_command_runs_in_the_namespace_with_its_files", sees),
    ("a_command_says_by_its_status", statuses),
    ("a_command_that_cannot_run_says_why", cannot_run),
    ("the_output_of_a_command_goes_nowhere", output),
    ("a_late_command_is_ended_with_all_that_it_started", late),
    ("what_a_command_leaves_running_is_ended", leftovers),
    ("a_command_ends_with_the_prober", ends_with_the_prober),
    ("only_some_commands_run_at_a_time", some_at_a_time),
    ("a_command_in_a_namespace_that_is_gone_says_so", gone),
];

/// A shell with this script, whose `$0` is a directory of the test's own.
fn shell(place: &Place, script: &str) -> Probe {
    let directory = place.directory.path().to_str().unwrap();
    let command = ["sh", "-c", script, directory];
    Probe::Exec {
        command: command.map(str::to_owned).to_vec(),
    }
}

fn once(place: &Place, script: &str) -> Look {
    let mut target = place.target(shell(place, script));
    target.check.retries = 1;
    Look::at(place.directory.path(), [target])
}

fn sees() {
    let place = Place::new();
    let inode = place.netns.identity().inode;
    let script = format!(
        r#"[ "$(readlink /proc/self/ns/net)" = "net:[{inode}]" ] || exit 2
        grep -q 'Written by weft' /etc/resolv.conf || exit 3
        grep -q 'Written by weft' /etc/hosts || exit 4"#
    );
    once(&place, &script).assert_healthy();
    // Nothing of it is on the host or left behind.
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert!(!hosts.contains("Written by weft"), "{hosts}");
    let left = fs::read_dir(place.directory.path().join("containers")).unwrap();
    assert_eq!(left.count(), 0);
}

fn statuses() {
    let place = Place::new();
    once(&place, "exit 0").assert_healthy();
    once(&place, "exit 7").assert_unhealthy("the command exited with status 7");
    once(&place, "kill -9 $$").assert_unhealthy("the command was ended by signal 9");
}

fn cannot_run() {
    let place = Place::new();
    for (program, reason) in [
        ("no-such-command", "command `no-such-command` is not found"),
        ("/etc/passwd", "command `/etc/passwd` cannot be executed"),
    ] {
        let command = vec![program.to_owned()];
        Look::one(&place, Probe::Exec { command }).assert_unhealthy(reason);
    }
    let command = Vec::new();
    Look::one(&place, Probe::Exec { command }).assert_unhealthy("the command");
}

fn output() {
    let place = Place::new();
    let script = "head -c 1000000 /dev/zero && head -c 1000000 /dev/zero >&2 && ! read line";
    once(&place, script).assert_healthy();
}

/// The numbers that processes wrote into files, once `count` did.
fn pids(place: &Place, count: usize) -> Option<Vec<String>> {
    let pids = ["one", "two", "three"].iter().filter_map(|name| {
        let text = fs::read_to_string(place.directory.path().join(name)).ok()?;
        text.strip_suffix('\n').map(str::to_owned)
    });
    let pids: Vec<String> = pids.collect();
    (pids.len() == count).then_some(pids)
}

/// Whether the process is there and not only waiting to be reaped.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    let stat = stat.unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Leaves a process in the background and one in a session of its own.
const SPREAD: &str = r#"sh -c 'echo $$ >$0/one; exec sleep 600' "$0" &
    setsid sh -c 'echo $$ >$0/two; exec sleep 600' "$0" &
    until [ -s "$0/one" ] && [ -s "$0/two" ]; do sleep 0.01; done"#;

fn late() {
    let place = Place::new();
    let script = format!("{SPREAD}\n trap '' TERM; echo $$ >$0/three; while :; do sleep 600; done");
    let mut target = place.target(shell(&place, &script));
    (target.check.retries, target.check.timeout) = (1, Duration::from_secs(3));
    let mut look = Look::at(place.directory.path(), [target]);
    look.assert_unhealthy("the command did not end within 3s");
    // A machine under load may not have got that far the first time.
    look.until("the processes run", || pids(&place, 3).is_some());
    let pids = pids(&place, 3).unwrap();
    look.until("they end", || !pids.iter().any(|pid| runs(pid)));
}

fn leftovers() {
    let place = Place::new();
    once(&place, SPREAD).assert_healthy();
    let pids = pids(&place, 2).unwrap();
    assert!(!pids.iter().any(|pid| runs(pid)), "{pids:?}");
}

fn ends_with_the_prober() {
    let place = Place::new();
    let script = format!("{SPREAD}\n echo $$ >$0/three; sleep 600");
    let mut look = once(&place, &script);
    look.until("the command runs", || pids(&place, 3).is_some());
    let pids = pids(&place, 3).unwrap();
    drop(look);
    until("the processes end", || !pids.iter().any(|pid| runs(pid)));
}

fn some_at_a_time() {
    let place = Place::new();
    let script = r#"mkdir -p "$0/now"; mkdir "$0/now/$$"; ls "$0/now" | wc -l >>"$0/counts"
        sleep 0.05; rmdir "$0/now/$$""#;
    let many = (0..24).map(|_| Target {
        ..place.target(shell(&place, script))
    });
    let mut look = Look::at(place.directory.path(), many);
    for _ in 0..24 {
        look.assert_healthy();
    }
    let counts = fs::read_to_string(place.directory.path().join("counts")).unwrap();
    let most = counts
        .lines()
        .map(|line| line.trim().parse::<usize>().unwrap());
    assert!((1..=8).contains(&most.max().unwrap()), "{counts}");
}

fn gone() {
    let place = Place::new();
    weft_netns::delete(&place.path()).unwrap();
    let mut look = once(&place, "exit 0");
    look.assert_unhealthy("does not exist");
}
