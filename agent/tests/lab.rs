//! Labs without agents: hosts, commands on them, and that nothing is left, as root and as an
//! ordinary user.
#![expect(
    clippy::unwrap_used,
    reason = "a step that fails is the test's failure"
)]

mod common;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{wait_until, weft};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft_agent::lab::{Cable, Host, Lab, LabDir, LabError, LabOptions, PingSpec, down};

/// A lab of plain hosts, named after the test and the process.
fn options(test: &str, hosts: usize) -> LabOptions {
    let name = format!("{test}-{}", std::process::id());
    LabOptions::new(weft())
        .named(name)
        .with_hosts(hosts)
        .without_agents()
}

fn up(test: &str, hosts: usize) -> Lab {
    Lab::up(&options(test, hosts)).unwrap()
}

fn stdout(host: &Host, argv: &[&str]) -> String {
    let output = host.run(argv).unwrap();
    assert!(output.status.success(), "{argv:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn namespaces(pid: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["net", "mnt", "pid", "user", "uts", "ipc"]
        .iter()
        .filter_map(|name| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok())
        .collect();
    found.sort();
    found
}

/// Processes whose command line names the lab, or that are in a namespace of the host's network.
fn processes_in(networks: &[PathBuf]) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()));
    all.filter(|path| {
        fs::read_link(path.join("ns/net")).is_ok_and(|network| networks.contains(&network))
    })
    .collect()
}

/// The network namespaces of the lab: of the supervisor and of every host.
fn networks(lab: &Lab, hosts: &[Host]) -> Vec<PathBuf> {
    let supervisor = format!("/proc/{}/ns/net", lab.supervisor_pid());
    let mut all = vec![fs::read_link(supervisor).unwrap()];
    for host in hosts {
        all.push(
            stdout(host, &["readlink", "/proc/self/ns/net"])
                .trim()
                .into(),
        );
    }
    all
}

fn links() -> Vec<String> {
    let links = fs::read_to_string("/proc/net/dev").unwrap();
    links
        .lines()
        .skip(2)
        .filter_map(|line| Some(line.split_once(':')?.0.trim().into()))
        .collect()
}

mod claims {
    use super::*;

    #[test]
    fn every_host_reaches_every_other_and_outside_by_name_and_address() {
        let lab = up("reach", 3);
        let mut hosts = lab.hosts().unwrap();
        hosts.push(lab.outside().unwrap());
        for from in &hosts {
            for to in &hosts {
                let report = from.ping(None, &PingSpec::once(to.address())).unwrap();
                assert_eq!(
                    (report.sent, report.lost),
                    (1, 0),
                    "{} to {}",
                    from.name(),
                    to.name()
                );
            }
        }
        let listed = fs::read_to_string(hosts[0].root().join("etc/hosts")).unwrap();
        assert!(listed.contains("198.18.0.3\th3\n"), "{listed}");
        assert_eq!(hosts[3].address().to_string(), "198.18.0.254");
    }

    #[test]
    fn a_host_has_its_own_network_name_and_places_and_changes_nothing_of_the_machine() {
        let before = (
            links(),
            namespaces("self"),
            Path::new("/var/lib/weft").exists(),
        );
        let lab = up("own", 2);
        let h1 = lab.host(1).unwrap();
        assert_eq!(stdout(&h1, &["cat", "/proc/sys/kernel/hostname"]), "h1\n");
        let write = "for d in /run /etc /etc/weft /var/lib /var/lib/weft; do echo h1 >$d/own; done";
        stdout(&h1, &["sh", "-c", write]);
        assert_eq!(stdout(&h1, &["cat", "/var/lib/weft/own"]), "h1\n");
        let h2 = lab.host(2).unwrap();
        for path in ["/run/own", "/etc/own", "/var/lib/weft/own"] {
            assert!(
                !h2.run(&["cat", path]).unwrap().status.success(),
                "{path} on h2"
            );
            assert!(!Path::new(path).exists(), "{path} on the machine");
        }
        assert_eq!(
            stdout(&h1, &["sh", "-c", "echo $(ls /sys/class/net)"]),
            "eth0 lo\n"
        );
        assert_eq!(
            stdout(&h1, &["sh", "-c", "command -v weft"]),
            "/run/weft-bin/weft\n"
        );
        stdout(&h1, &["weft", "--version"]);
        assert_eq!(
            stdout(&h1, &["cat", "/etc/passwd"]),
            fs::read_to_string("/etc/passwd").unwrap()
        );
        let after = (
            links(),
            namespaces("self"),
            Path::new("/var/lib/weft").exists(),
        );
        assert_eq!(before, after);
    }

    #[test]
    fn exec_gives_back_the_exit_status_of_the_command() {
        let lab = up("status", 1);
        let h1 = lab.host(1).unwrap();
        let status = |argv: &[&str]| h1.run(argv).unwrap().status.code();
        assert_eq!(status(&["true"]), Some(0));
        assert_eq!(status(&["sh", "-c", "exit 7"]), Some(7));
        assert_eq!(status(&["sh", "-c", "kill -KILL $$"]), Some(137));
        assert_eq!(status(&["/no/such/program"]), Some(127));
        assert_eq!(status(&["/etc/passwd"]), Some(126));
        let error = lab.host(9).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("no host \"h9\": it has h1, outside"),
            "{error}"
        );
    }

    #[test]
    fn exec_passes_signals_standard_input_and_the_working_directory() {
        let lab = up("signals", 1);
        let h1 = lab.host(1).unwrap();
        let here = env::current_dir().unwrap();
        assert_eq!(stdout(&h1, &["pwd"]), format!("{}\n", here.display()));

        let script = "trap 'exit 42' TERM; echo ready; while :; do read line || exit 1; done";
        let mut command = h1.command("sh");
        command
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
        // Some shells run a trap only after the command at hand, here `read`.
        drop(child.stdin.take());
        assert!(matches!(child.wait().unwrap().code(), Some(42 | 1)));

        // Whoever started the tests in the background may have it ignored.
        let mut child = h1
            .command("env")
            .args(["--default-signal=INT", "sh", "-c"])
            .arg("echo ready; exec sleep 1000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "ready\n");
        let pid = Pid::from_raw(child.id().cast_signed());
        kill(pid, Signal::SIGINT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
    }

    #[test]
    fn whatever_way_a_lab_ends_no_process_network_link_or_directory_is_left() {
        let before = links();
        type End = fn(Lab);
        let end: [(&str, End); 3] = [
            ("down", |lab| lab.down().unwrap()),
            ("drop", drop),
            ("kill", |lab| {
                kill(Pid::from_raw(lab.supervisor_pid()), Signal::SIGKILL).unwrap();
                let dir = lab.dir().to_owned();
                wait_until("the launcher should clean up", || !dir.exists());
            }),
        ];
        for (how, end) in end {
            let lab = up(how, 2);
            let hosts = lab.hosts().unwrap();
            let networks = networks(&lab, &hosts);
            assert_eq!(networks.len(), 3);
            let mut left = hosts[0]
                .command("sleep")
                .arg("1000")
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            wait_until("sleep should run", || {
                processes_in(&networks[1..2]).len() > 1
            });
            let dir = lab.dir().to_owned();
            end(lab);
            let status = left.wait().unwrap();
            assert!(!status.success(), "{how}: {status}");
            assert_eq!(processes_in(&networks), Vec::<PathBuf>::new(), "{how}");
            assert!(!dir.exists(), "{how}");
        }
        assert_eq!(links(), before);
    }

    #[test]
    fn a_lab_ends_with_the_process_that_owns_it() {
        // A shell that holds the other end of the leash, as a test program does that is killed.
        let options = options("leash", 1);
        let lab = Lab::up(&options).unwrap();
        let networks = networks(&lab, &lab.hosts().unwrap());
        let dir = lab.dir().to_owned();
        // The owner's end goes, and no Drop runs.
        let owner = std::mem::ManuallyDrop::new(lab);
        let leash = leash_of(&owner);
        nix::unistd::close(leash).unwrap();
        wait_until("the lab should notice", || {
            processes_in(&networks).is_empty()
        });
        wait_until("the directory should go", || !dir.exists());
    }

    /// The descriptor of the only pipe to the lab's launcher that this test holds.
    fn leash_of(lab: &Lab) -> i32 {
        let launcher =
            fs::read_to_string(format!("/proc/{}/status", lab.supervisor_pid())).unwrap();
        let launcher = launcher
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .unwrap()
            .trim();
        let pipe = fs::read_link(format!("/proc/{launcher}/fd/0")).unwrap();
        let own = fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let own = own.filter(|path| fs::read_link(path).is_ok_and(|target| target == pipe));
        let names: Vec<String> = own
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names.len(), 1, "{names:?}");
        names[0].parse().unwrap()
    }

    #[test]
    fn what_a_killed_lab_left_is_removed_by_the_next_command() {
        let options = options("stale", 1);
        let lab = Lab::start(&options).unwrap();
        let (supervisor, dir) = (lab.supervisor_pid(), lab.dir().to_owned());
        let status = fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
        let launcher = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .unwrap();
        kill(
            Pid::from_raw(launcher.trim().parse().unwrap()),
            Signal::SIGKILL,
        )
        .unwrap();
        wait_until("the supervisor should go with its launcher", || {
            !LabDir::new(&options.name).unwrap().is_live()
        });
        assert!(dir.exists(), "nobody was left to remove it");
        let listed = Command::new(weft())
            .args(["lab", "status", "-q"])
            .output()
            .unwrap();
        assert!(listed.status.success(), "{listed:?}");
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(!listed.lines().any(|line| line == options.name));
        assert!(!dir.exists());
        assert!(!down(&options.name).unwrap(), "there is nothing to end");
    }

    #[test]
    fn labs_of_different_names_run_side_by_side_and_one_name_is_taken_once() {
        let (one, two) = (up("side-a", 1), up("side-b", 1));
        let address = |lab: &Lab| lab.host(1).unwrap().address();
        assert_eq!(address(&one), address(&two));
        let network = |lab: &Lab| networks(lab, &lab.hosts().unwrap());
        assert_ne!(network(&one), network(&two));
        let error = Lab::up(&options("side-a", 1)).unwrap_err();
        assert!(matches!(error, LabError::AlreadyUp { .. }), "{error}");
        one.down().unwrap();
        assert_eq!(two.status().unwrap().hosts.len(), 2);
        let again = up("side-a", 1);
        assert!(again.host(1).is_ok());
    }

    #[test]
    fn an_option_out_of_range_is_refused_and_starts_nothing() {
        for bad in [
            options("bad", 0),
            options("bad", 51),
            LabOptions {
                underlay_mtu: 100,
                ..options("bad", 1)
            },
            LabOptions {
                managers: 0,
                ..options("bad", 1)
            },
            LabOptions {
                weft_exe: "/no/such/weft".into(),
                ..options("bad", 1)
            },
            LabOptions {
                state: Some("/no/such/directory".into()),
                ..options("bad", 1)
            },
        ] {
            Lab::up(&bad).unwrap_err();
            assert!(!LabDir::new(&bad.name).unwrap().path().exists());
        }
    }

    #[test]
    fn a_program_that_is_no_weft_is_reported_and_leaves_nothing() {
        let bad = LabOptions {
            weft_exe: "/bin/false".into(),
            ..options("false", 1)
        };
        let error = Lab::up(&bad).unwrap_err();
        assert!(matches!(error, LabError::Start { .. }), "{error}");
        assert!(!LabDir::new(&bad.name).unwrap().path().exists());
    }

    #[test]
    fn a_cut_cable_is_silent_a_pulled_one_is_seen_and_both_can_be_mended() {
        let lab = up("cable", 2);
        let (h1, h2) = (lab.host(1).unwrap(), lab.host(2).unwrap());
        let quick = PingSpec {
            timeout_ms: 100,
            ..PingSpec::once(h2.address())
        };
        let carrier = || stdout(&h2, &["cat", "/sys/class/net/eth0/carrier"]);
        for (cable, seen) in [(Cable::Silent, "1\n"), (Cable::Out, "0\n")] {
            h2.set_cable(cable).unwrap();
            assert_eq!(h1.ping(None, &quick).unwrap().lost, 1, "{cable:?}");
            assert_eq!(carrier(), seen, "{cable:?}");
            h2.set_cable(Cable::In).unwrap();
            wait_until("the cable should be mended", || {
                h1.ping(None, &quick).unwrap().lost == 0
            });
        }
    }

    #[test]
    fn the_mtu_of_the_underlay_holds_and_can_be_changed() {
        let lab = Lab::up(&LabOptions {
            underlay_mtu: 9000,
            ..options("mtu", 2)
        })
        .unwrap();
        let (h1, h2) = (lab.host(1).unwrap(), lab.host(2).unwrap());
        let largest = |size| {
            let fits = h1
                .ping(None, &PingSpec::once(h2.address()).unfragmented(size))
                .unwrap();
            let over = PingSpec::once(h2.address()).unfragmented(size + 1);
            (fits.lost, h1.ping(None, &over).unwrap().refusal)
        };
        assert_eq!(largest(9000), (0, Some("Message too long".to_owned())));
        lab.set_underlay_mtu(1500).unwrap();
        assert_eq!(largest(1500), (0, Some("Message too long".to_owned())));
    }

    #[test]
    fn a_host_that_is_added_is_known_and_reached() {
        let lab = up("added", 1);
        let added = lab.add_host().unwrap();
        assert_eq!(
            (added.name(), added.address().to_string().as_str()),
            ("h2", "198.18.0.2")
        );
        let report = lab
            .host(1)
            .unwrap()
            .ping(None, &PingSpec::once(added.address()))
            .unwrap();
        assert_eq!(report.lost, 0);
    }

    #[test]
    fn an_endless_ping_counts_what_was_lost_in_between() {
        let lab = up("endless", 2);
        let (h1, h2) = (lab.host(1).unwrap(), lab.host(2).unwrap());
        let pinger = h1
            .start_ping(None, &PingSpec::once(h2.address()).endless(2_000))
            .unwrap();
        // Packets, by the column of proc_pid_net(5).
        let packets = |host: &Host, column: usize| {
            let line = stdout(host, &["sh", "-c", "grep eth0 /proc/net/dev"]);
            let number = line.split_whitespace().nth(column).unwrap();
            number.parse::<u64>().unwrap()
        };
        let counter = || packets(&h2, 2);
        let sent = || packets(&h1, 10);
        let grown = |by: u64| {
            let from = counter();
            wait_until("pings should arrive", || counter() >= from + by);
        };
        grown(20);
        h2.set_cable(Cable::Silent).unwrap();
        let from = sent();
        wait_until("pings should be sent", || sent() >= from + 100);
        h2.set_cable(Cable::In).unwrap();
        grown(20);
        let report = pinger.finish().unwrap();
        assert!(report.lost >= 5 && report.received >= 40, "{report:?}");
        assert_eq!(report.sent, report.received + report.lost);
        assert!(report.longest_gap_us >= 10_000, "{report:?}");
        assert!(report.min_us <= report.avg_us && report.avg_us <= report.max_us);
    }
}

#[test]
fn all_of_it_holds_for_an_ordinary_user_too() {
    common::again_as_an_ordinary_user();
}
