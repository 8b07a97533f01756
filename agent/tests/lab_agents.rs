//! Labs with agents: clusters, and the demo, as root and as an ordinary user.
#![expect(
    clippy::unwrap_used,
    reason = "a step that fails is the test's failure"
)]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::{wait_until, weft};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft_agent::{
    api::types::{Node, Role},
    lab::{AgentStatus, Lab, LabDir, LabOptions},
};

/// How long an agent may take to answer.
const AGENT_LIMIT: Duration = Duration::from_secs(60);

fn options(test: &str) -> LabOptions {
    LabOptions::new(weft()).named(format!("{test}-{}", std::process::id()))
}

/// Processes that make the lab of that name, found by the directory that they were given.
fn processes_of(lab: &str) -> Vec<String> {
    let all = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| Some(entry.ok()?.path()));
    all.filter_map(|path| fs::read(path.join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains("weft-lab") && line.contains(lab))
        .collect()
}

/// A demo that runs, and the name of its lab.
fn demo() -> (Child, String) {
    let mut command = Command::new(weft());
    command.args(["lab", "demo"]).stdin(Stdio::null());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let name = format!("demo-{}", child.id());
    (child, name)
}

fn directory(lab: &str) -> PathBuf {
    LabDir::new(lab).unwrap().path().to_owned()
}

mod claims {
    use super::*;

    #[test]
    fn the_first_hosts_become_managers_and_the_others_workers_of_one_cluster() {
        let lab = Lab::up(&LabOptions {
            managers: 1,
            ..options("roles")
        })
        .unwrap();
        let json = lab
            .host(3)
            .unwrap()
            .weft(&["node", "ls", "--format", "json"])
            .unwrap();
        let mut nodes: Vec<Node> = serde_json::from_str(&json).unwrap();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let roles: Vec<_> = nodes
            .iter()
            .map(|node| (node.name.as_str(), node.role))
            .collect();
        assert_eq!(
            roles,
            [
                ("h1", Role::Manager),
                ("h2", Role::Worker),
                ("h3", Role::Worker)
            ]
        );
        assert!(nodes[0].leader);
        assert_eq!(nodes[2].addr.to_string(), "198.18.0.3:2377");
    }

    #[test]
    fn agents_can_be_killed_started_and_stopped_and_answer_from_outside() {
        let lab = Lab::up(&options("agents").with_hosts(1).without_cluster()).unwrap();
        let h1 = lab.host(1).unwrap();
        let first = h1.agent_pid().unwrap();
        let seen = fs::read_to_string(h1.proc_dir(first).join("cmdline")).unwrap();
        assert!(seen.ends_with("weft\0agent\0"), "{seen:?}");
        h1.start_agent().unwrap_err();
        h1.kill_agent().unwrap();
        let ended = Some("signal SIGKILL".to_owned());
        assert_eq!(h1.agent().unwrap(), Some(AgentStatus { pid: first, ended }));
        h1.agent_pid().unwrap_err();
        h1.start_agent().unwrap();
        h1.wait_ready(AGENT_LIMIT).unwrap();
        assert_ne!(h1.agent_pid().unwrap(), first);
        h1.stop_agent().unwrap();
        assert_eq!(
            h1.agent().unwrap().unwrap().ended.as_deref(),
            Some("exit status 0")
        );
        lab.outside().unwrap().start_agent().unwrap_err();
    }

    #[test]
    fn an_agent_that_does_not_come_up_is_quoted_and_the_lab_goes_away() {
        let mut bad = options("refused");
        bad.agent_args = vec!["--no-such-flag".to_owned()];
        let error = Lab::up(&bad).unwrap_err().to_string();
        assert!(
            error.contains("the agent of h1 ended with exit status 2"),
            "{error}"
        );
        assert!(error.contains("--no-such-flag"), "{error}");
        assert!(!directory(&bad.name).exists());
    }

    #[test]
    fn the_state_of_agents_is_kept_where_it_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = options("state").with_hosts(1);
        kept.state = Some(dir.path().to_owned());
        let node = |lab: &Lab| {
            let id = lab.host(1).unwrap().weft(&["node", "ls", "-q"]).unwrap();
            id.trim().to_owned()
        };
        let lab = Lab::up(&kept).unwrap();
        let before = node(&lab);
        lab.down().unwrap();
        assert!(
            fs::read_dir(dir.path().join("h1"))
                .unwrap()
                .next()
                .is_some()
        );
        let lab = Lab::up(&kept.without_cluster()).unwrap();
        wait_until("the node should lead again", || {
            lab.host(1).unwrap().weft(&["node", "ls"]).is_ok()
        });
        assert_eq!(node(&lab), before);
    }

    #[test]
    fn the_demo_passes_every_check_fits_a_hundred_columns_and_leaves_nothing() {
        let (child, name) = demo();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success(),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let steps = [
            "hosts", "cluster", "network", "run", "ping", "mtu", "restart", "failover", "clean",
        ];
        for step in steps {
            let head = format!("\u{2713} {step:<9}");
            assert!(
                text.lines().any(|line| line.starts_with(&head)),
                "{step}: {text}"
            );
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert!(
            !text.contains('\u{1b}'),
            "no colours without a terminal: {text}"
        );
        assert!(!directory(&name).exists());
        assert_eq!(processes_of(&name), Vec::<String>::new());
    }

    #[test]
    fn a_lab_that_is_still_forming_ends_with_its_command_and_a_formed_one_goes_on() {
        let name = format!("up-{}", std::process::id());
        let up = |hosts: &str| {
            let mut command = Command::new(weft());
            command
                .args(["lab", "up", "--name", &name, "--hosts", hosts])
                .stdout(Stdio::null());
            command.spawn().unwrap()
        };
        let mut forming = up("10");
        let control = LabDir::new(&name).unwrap().control();
        wait_until("the hosts should come up", || control.exists());
        forming.kill().unwrap();
        forming.wait().unwrap();
        wait_until("the lab should end", || processes_of(&name).is_empty());
        wait_until("its directory should go", || !directory(&name).exists());

        assert!(up("1").wait().unwrap().success());
        let lab = Lab::find(&name, &weft(), &[]).unwrap();
        assert_eq!(lab.status().unwrap().pid, lab.supervisor_pid());
        lab.host(1).unwrap().weft(&["node", "ls"]).unwrap();
        lab.down().unwrap();
        assert_eq!(processes_of(&name), Vec::<String>::new());
    }

    #[test]
    fn an_interrupted_demo_leaves_nothing() {
        let cases = [
            (Signal::SIGINT, "\u{2713} hosts"),
            (Signal::SIGTERM, "\u{2713} mtu"),
            (Signal::SIGKILL, "\u{2713} network"),
        ];
        for (signal, after) in cases {
            let (mut child, name) = demo();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let seen = lines
                .by_ref()
                .map_while(Result::ok)
                .any(|line| line.starts_with(after));
            assert!(seen, "{after}: {:?}", child.wait_with_output());
            assert!(!processes_of(&name).is_empty());
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
            // Steps that fail because the lab is ending are not shown as failed checks.
            let rest: Vec<String> = lines.map_while(Result::ok).collect();
            assert!(
                !rest.iter().any(|line| line.starts_with('\u{2717}')),
                "{signal}: {rest:?}"
            );
            let status = child.wait().unwrap();
            if signal == Signal::SIGKILL {
                // Nobody waits for it, but the lab ends with its owner.
                wait_until("the lab should end", || processes_of(&name).is_empty());
                wait_until("its directory should go", || !directory(&name).exists());
            } else {
                assert_eq!(status.code(), Some(130), "{signal}");
                assert_eq!(processes_of(&name), Vec::<String>::new(), "{signal}");
                assert!(!directory(&name).exists(), "{signal}");
            }
        }
    }
}

#[test]
fn all_of_it_holds_for_an_ordinary_user_too() {
    common::again_as_an_ordinary_user();
}
