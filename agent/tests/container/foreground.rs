use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_agent::api::types::Kind;

use super::terminal::Terminal;
use super::world::{Running, World, runs, shim_of, state, until};
use super::{Test, signals};

pub(crate) const TESTS: &[Test] = &[
    (
        "the_exit_status_is_the_commands",
        the_exit_status_is_the_commands,
    ),
    (
        "a_command_that_is_not_there_is_127",
        a_command_that_is_not_there_is_127,
    ),
    (
        "a_file_that_does_not_run_is_126",
        a_file_that_does_not_run_is_126,
    ),
    (
        "the_interfaces_are_there_when_the_command_starts",
        interfaces_are_there,
    ),
    (
        "the_container_has_its_own_files_and_the_host_keeps_its_own",
        own_files,
    ),
    (
        "each_network_has_an_interface_and_the_first_the_address",
        several_networks,
    ),
    (
        "the_command_line_is_told_to_the_agent",
        the_command_line_is_told,
    ),
    (
        "a_network_that_is_not_there_undoes_the_one_that_is",
        a_missing_network_undoes,
    ),
    (
        "without_an_agent_nothing_is_made",
        without_an_agent_nothing_is_made,
    ),
    ("signals_reach_the_command", signals_reach_the_command),
    (
        "a_signal_that_ends_the_command_is_its_status",
        a_signal_is_its_status,
    ),
    ("ctrl_c_on_a_terminal_reaches_the_command_once", ctrl_c_once),
    (
        "a_stopped_command_stops_weft_run_until_it_goes_on",
        stop_and_continue,
    ),
    (
        "a_killed_weft_run_takes_the_command_along",
        a_killed_run_takes_the_command_along,
    ),
    (
        "a_killed_shim_takes_the_command_along",
        a_killed_shim_takes_the_command_along,
    ),
    (
        "what_the_command_leaves_running_ends_with_it",
        left_processes_end,
    ),
    ("input_and_output_are_the_commands", input_and_output),
];

fn the_exit_status_is_the_commands(world: &World) {
    for status in [0, 1, 42, 255] {
        let script = format!("exit {status}");
        world
            .output("run --network web", &["sh", "-c", &script])
            .assert_status(status);
    }
    assert_eq!(world.book().detached.len(), 4);
}

fn a_command_that_is_not_there_is_127(world: &World) {
    let outcome = world.output("run --network web", &["no-such-command"]);
    outcome.assert_refused(127, "command `no-such-command` is not found");
    assert!(world.book().attached.is_empty());
    assert!(!world.containers().exists());
    // Only found out when it is started, since the file is there.
    let script = world.containers().parent().unwrap().join("script");
    write_script(&script, "#!/nonexistent/interpreter");
    let outcome = world.output("run --network web", &[script.to_str().unwrap()]);
    outcome.assert_refused(127, "is not found");
    assert_eq!(world.book().detached.len(), 1);
}

fn a_file_that_does_not_run_is_126(world: &World) {
    for file in ["/etc/passwd", "/etc"] {
        world
            .output("run --network web", &[file])
            .assert_refused(126, "cannot be executed");
    }
    assert!(world.book().attached.is_empty());
}

/// By a process of its own: one that another test starts meanwhile may inherit what is open here,
/// and a file that is open for writing is not executed (ETXTBSY, execve(2)).
fn write_script(path: &std::path::Path, line: &str) {
    let write = "echo \"$1\" > \"$0\" && chmod 755 \"$0\"";
    let mut sh = std::process::Command::new("sh");
    let status = sh.args(["-c", write]).arg(path).arg(line).status();
    assert!(status.unwrap().success());
}

fn interfaces_are_there(world: &World) {
    let script = "cat /proc/net/dev /proc/net/fib_trie";
    let outcome = world.output("run --network web", &["sh", "-c", script]);
    outcome.assert_status(0);
    assert!(outcome.stdout.contains("eth0:"), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("127.0.0.1"),
        "loopback is up: {}",
        outcome.stdout
    );
}

fn own_files(world: &World) {
    let before = host_files();
    let arguments = "run --network web --name api --alias backend --ip 10.0.1.9";
    let outcome = world.output(arguments, &["cat", "/etc/resolv.conf", "/etc/hosts"]);
    outcome.assert_status(0);
    let text = &outcome.stdout;
    assert!(text.contains("127.0.0.1\tlocalhost"), "{text}");
    assert!(text.contains("10.0.1.9\tapi api.web backend"), "{text}");
    assert!(
        text.contains("nameserver 127.0.0.11\n") && text.contains("options ndots:0"),
        "{text}"
    );
    assert_eq!(host_files(), before);
}

fn host_files() -> [String; 2] {
    ["/etc/resolv.conf", "/etc/hosts"].map(|file| std::fs::read_to_string(file).unwrap())
}

fn several_networks(world: &World) {
    let arguments =
        "run --network web --network db --name api --ip 10.0.7.7 --mac 02:00:00:00:00:07";
    let outcome = world.output(arguments, &["cat", "/proc/net/dev", "/etc/hosts"]);
    outcome.assert_status(0);
    let text = &outcome.stdout;
    assert!(text.contains("eth0:") && text.contains("eth1:"), "{text}");
    assert!(text.contains("10.0.7.7\tapi api.web"), "{text}");
    assert!(text.contains("\tapi api.db"), "{text}");
    let book = world.book();
    assert_eq!(book.attached[1].ip, None);
    assert_eq!(book.attached[1].mac, None);
    assert_eq!(book.detached.len(), 2);
}

fn the_command_line_is_told(world: &World) {
    world
        .output("run --network web --label tier=front", &["echo", "a b"])
        .assert_status(0);
    let book = world.book();
    let kind = Kind::Run {
        command: vec!["echo".to_owned(), "a b".to_owned()],
        detached: false,
    };
    assert_eq!(book.attached[0].kind, kind);
    assert_eq!(book.attached[0].labels["tier"], "front");
}

fn a_missing_network_undoes(world: &World) {
    let outcome = world.output("run --network web --network missing", &["true"]);
    outcome.assert_refused(1, "no network `missing`");
    assert_eq!(world.book().detached, ["endpoint1"]);
}

fn without_an_agent_nothing_is_made(world: &World) {
    world.stop_agent();
    let outcome = world.output("run --network web", &["true"]);
    outcome.assert_refused(3, "no agent answers");
    assert!(!world.containers().exists());
}

fn signals_reach_the_command(world: &World) {
    let told = signals::command();
    let mut run =
        Running::start(&mut world.weft("run --network web", &told.each_ref().map(String::as_str)));
    assert_eq!(run.line(), "ready");
    for signal in [
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
        Signal::SIGTERM,
    ] {
        run.signal(signal);
        assert_eq!(run.line(), format!("{signal} of a process"));
    }
    assert_eq!(run.status(), Some(signals::STATUS.into()));
}

fn a_signal_is_its_status(world: &World) {
    world
        .output("run --network web", &["sh", "-c", "kill -9 $$"])
        .assert_status(137);
    let mut run = Running::start(&mut world.weft("run --network web", &["sh", "-c", READY]));
    run.line();
    run.signal(Signal::SIGTERM);
    assert_eq!(run.status(), Some(143));
}

/// Prints its process id and becomes something that waits.
const READY: &str = "echo $$; exec sleep 600";

fn ctrl_c_once(world: &World) {
    let told = signals::command();
    let weft = world.weft("run --network web", &told.each_ref().map(String::as_str));
    let mut terminal = Terminal::new();
    let mut run = Running::start(&mut terminal.session(&weft));
    assert_eq!(run.line(), "ready");
    terminal.write(b"\x03");
    assert_eq!(run.line(), "SIGINT of the kernel");
    // Passed on, it would come by the same way before this one, whose number is higher.
    run.signal(Signal::SIGTERM);
    assert_eq!(run.line(), "SIGTERM of a process");
    assert_eq!(run.status(), Some(signals::STATUS.into()));
}

fn stop_and_continue(world: &World) {
    let mut weft = world.weft("run --network web", &["sh", "-c", READY]);
    // A group of its own, as a shell gives it: the kernel stops no orphaned group (credentials(7)),
    // which that of the tests is where they were started without a terminal.
    weft.process_group(0);
    let mut run = Running::start(&mut weft);
    let command = run.line();
    let starter = run.child.id().to_string();
    run.signal(Signal::SIGTSTP);
    until("the command stops", || state(&command) == Some('T'));
    until("weft run stops", || state(&starter) == Some('T'));
    run.signal(Signal::SIGCONT);
    until("the command goes on", || state(&command) == Some('S'));
    until("weft run goes on", || state(&starter) == Some('S'));
    run.signal(Signal::SIGTERM);
    assert_eq!(run.status(), Some(143));
}

fn a_killed_run_takes_the_command_along(world: &World) {
    let mut run = Running::start(&mut world.weft("run --network web", &["sh", "-c", READY]));
    let command = run.line();
    run.signal(Signal::SIGKILL);
    assert_eq!(run.status(), None);
    until("the command ends", || !runs(&command));
    until("the endpoint is detached", || {
        world.book().detached == ["endpoint1"]
    });
}

fn a_killed_shim_takes_the_command_along(world: &World) {
    let mut weft = world.weft("run --network web", &["sh", "-c", READY]);
    let mut run = Running::start(weft.stderr(Stdio::null()));
    let command = run.line();
    let shim = shim_of(&world.book().attached[0]).unwrap();
    kill(Pid::from_raw(shim), Signal::SIGKILL).unwrap();
    assert_eq!(run.status(), Some(1));
    until("the command ends", || !runs(&command));
    assert!(world.left_files().is_empty());
    assert_eq!(world.book().detached, ["endpoint1"]);
}

fn left_processes_end(world: &World) {
    let script = "setsid sh -c 'trap \"\" TERM HUP; echo $$; exec sleep 600' & read go; exit 3";
    let mut weft = world.weft("run --network web", &["sh", "-c", script]);
    let mut run = Running::start(weft.stdin(Stdio::piped()));
    let left = run.line();
    assert!(runs(&left));
    drop(run.child.stdin.take());
    assert_eq!(run.status(), Some(3));
    assert!(!runs(&left));
}

fn input_and_output(world: &World) {
    use std::io::Write;
    let mut weft = world.weft("run --network web", &["cat"]);
    let mut run = Running::start(weft.stdin(Stdio::piped()));
    let mut input = run.child.stdin.take().unwrap();
    input.write_all(b"through\n").unwrap();
    assert_eq!(run.line(), "through");
    drop(input);
    assert_eq!(run.status(), Some(0));
}
