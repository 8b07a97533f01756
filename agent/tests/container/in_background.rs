use std::path::PathBuf;
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::world::{World, runs, until};
use super::{Test, signals};

pub(crate) const TESTS: &[Test] = &[
    ("a_detached_command_goes_on_without_weft_run", goes_on),
    ("a_detached_command_that_is_not_there_is_127", not_there),
    ("a_detached_failure_is_told_and_undone", failure_is_told),
    (
        "the_end_of_a_detached_command_detaches_its_endpoint",
        end_detaches,
    ),
    ("the_shim_tries_again_while_the_agent_is_away", tries_again),
    (
        "detaching_the_last_endpoint_ends_the_command",
        last_endpoint_ends_it,
    ),
    (
        "a_command_outlives_a_restart_of_the_agent",
        outlives_restart,
    ),
    (
        "a_detached_command_holds_no_descriptor_of_its_starter",
        holds_nothing,
    ),
    ("detached_endpoints_are_printed_as_json", as_json),
];

/// Starts a command in the background that says its process id in its log.
fn start(world: &World, arguments: &str, script: &str) -> (String, String) {
    let script = format!("echo $$; {script}");
    let arguments = format!("run --detach {arguments}");
    let outcome = world.output(&arguments, &["sh", "-c", &script]);
    outcome.assert_status(0);
    assert_eq!(outcome.stderr, "");
    let id = outcome.stdout.lines().next().unwrap().to_owned();
    let mut pid = String::new();
    until("the command says who it is", || {
        pid = log(world, &id).unwrap_or_default();
        pid.contains('\n')
    });
    (id, pid.lines().next().unwrap().to_owned())
}

/// Of an ended command or of the one that runs.
fn log(world: &World, id: &str) -> Option<String> {
    let ended = world.containers().join(format!("{id}.log"));
    std::fs::read_to_string(ended).ok().or_else(|| {
        let live = live_directory(world)?;
        std::fs::read_to_string(live.join("log")).ok()
    })
}

fn live_directory(world: &World) -> Option<PathBuf> {
    world.left_files().into_iter().find(|path| path.is_dir())
}

fn end(pid: &str) {
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
}

fn detach(world: &World, id: &str) {
    world
        .ask(async |client| client.detach(id, false).await)
        .unwrap();
}

fn goes_on(world: &World) {
    let (id, pid) = start(world, "--network web --name api", "exec sleep 600");
    assert_eq!(id, "endpoint1");
    assert!(runs(&pid));
    let book = world.book();
    let kind = &book.endpoints[0].kind;
    assert!(format!("{kind:?}").contains("detached: true"), "{kind:?}");
    let shim = book.endpoints[0]
        .netns
        .split('/')
        .nth(2)
        .unwrap()
        .to_owned();
    drop(book);
    let session = std::fs::read_to_string(format!("/proc/{shim}/stat")).unwrap();
    let fields: Vec<&str> = session.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[3], shim, "leads a session");
    assert_eq!(fields[4], "0", "has no terminal");
    end(&pid);
}

fn not_there(world: &World) {
    let outcome = world.output("run --detach --network web", &["no-such-command"]);
    outcome.assert_refused(127, "is not found");
    assert!(world.left_files().is_empty());
}

fn failure_is_told(world: &World) {
    let outcome = world.output(
        "run --detach --network web --network taken",
        &["sleep", "600"],
    );
    outcome.assert_refused(1, "the name is taken");
    assert_eq!(world.book().detached, ["endpoint1"]);
    assert!(world.left_files().is_empty());
    world.stop_agent();
    let outcome = world.output("run --detach --network web", &["sleep", "600"]);
    outcome.assert_refused(3, "no agent answers");
}

fn end_detaches(world: &World) {
    let (id, _) = start(world, "--network web", "echo out; echo err >&2; exit 3");
    until("the endpoint is detached", || {
        world.book().detached == [id.clone()]
    });
    until("the files are removed", || world.left_files().is_empty());
    let text = log(world, &id).unwrap();
    assert!(text.contains("out\nerr\n"), "{text}");
    assert!(
        text.ends_with("weft: the command ended with exit status 3\n"),
        "{text}"
    );
}

fn tries_again(world: &World) {
    let (id, pid) = start(world, "--network web", "exec sleep 600");
    world.stop_agent();
    end(&pid);
    until("the command ends", || !runs(&pid));
    until("its end is written", || {
        log(world, &id).unwrap().contains("status 137")
    });
    assert!(live_directory(world).is_some());
    world.start_agent();
    until("the endpoint is detached", || {
        world.book().detached == [id.clone()]
    });
    until("the files are removed", || world.left_files().is_empty());
}

fn last_endpoint_ends_it(world: &World) {
    let script = format!("exec {}", signals::command().join(" "));
    let (id, pid) = start(world, "--network web --network db", &script);
    until("the command is ready", || {
        log(world, &id).unwrap().contains("ready\n")
    });
    detach(world, &id);
    // Long enough for a look at what is left.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(runs(&pid), "one endpoint is left");
    detach(world, "endpoint2");
    until("the command ends", || !runs(&pid));
    until("its end is written", || {
        log(world, &id)
            .unwrap()
            .contains("SIGTERM of a process\nweft: ")
    });
}

fn outlives_restart(world: &World) {
    let (_, pid) = start(world, "--network web", "exec sleep 600");
    world.stop_agent();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    world.start_agent();
    assert!(runs(&pid));
    end(&pid);
}

fn holds_nothing(world: &World) {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let mut weft = world.weft("run --detach --network web", &["sleep", "600"]);
    weft.stdout(Stdio::null()).status().unwrap();
    drop(writer);
    // End of file, since only this process held the other end; blocks otherwise.
    assert_eq!(nix::unistd::read(&reader, &mut [0; 1]), Ok(0));
    detach(world, "endpoint1");
}

fn as_json(world: &World) {
    let outcome = world.output("run --detach --network web --format json", &["true"]);
    outcome.assert_status(0);
    let list: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(list[0]["id"], "endpoint1");
    assert_eq!(list[0]["ifname"], "eth0");
}
