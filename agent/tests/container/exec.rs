use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use weft_agent::api::types::AttachRequest;

use super::Test;
use super::world::{Running, World};

pub(crate) const TESTS: &[Test] = &[
    ("exec_enters_the_namespace_of_a_command", enters),
    ("exec_passes_the_exit_status", passes_status),
    (
        "exec_in_another_containers_namespace_has_generated_files",
        generated_files,
    ),
    (
        "exec_of_an_endpoint_on_another_node_names_the_node",
        other_node,
    ),
    (
        "exec_notices_that_the_namespace_is_another_one",
        another_namespace,
    ),
    ("exec_of_what_is_not_there_is_refused", not_there),
];

/// A command in the foreground that waits, attached to `web` as `api`.
fn waiting(world: &World) -> Running {
    let script = "echo ready; exec sleep 600";
    let mut weft = world.weft("run --network web --name api", &["sh", "-c", script]);
    let mut run = Running::start(&mut weft);
    assert_eq!(run.line(), "ready");
    run
}

fn finish(mut run: Running) {
    run.signal(Signal::SIGTERM);
    assert_eq!(run.status(), Some(143));
}

fn enters(world: &World) {
    let run = waiting(world);
    let files = ["cat", "/proc/net/dev", "/etc/hosts", "/etc/resolv.conf"];
    let outcome = world.output("exec api", &files);
    outcome.assert_status(0);
    let text = &outcome.stdout;
    assert!(text.contains("eth0:"), "{text}");
    assert!(text.contains("10.0.1.2\tapi api.web"), "{text}");
    assert!(text.contains("options ndots:0"), "{text}");
    finish(run);
}

fn passes_status(world: &World) {
    let run = waiting(world);
    world
        .output("exec api", &["sh", "-c", "exit 9"])
        .assert_status(9);
    world
        .output("exec api", &["no-such-command"])
        .assert_refused(127, "is not found");
    world
        .output("exec api", &["/etc/passwd"])
        .assert_refused(126, "cannot be executed");
    finish(run);
}

fn generated_files(world: &World) {
    let mut owner = Command::new("unshare");
    owner.args(["--net", "sh", "-c", "echo ready; exec sleep 600"]);
    let mut owner = Running::start(owner.stdin(Stdio::null()));
    assert_eq!(owner.line(), "ready");
    let request = AttachRequest {
        netns: Some(format!("/proc/{}/ns/net", owner.child.id()).into()),
        name: Some("db".to_owned()),
        ..AttachRequest::new("web")
    };
    world
        .ask(async |client| client.attach(&request).await)
        .unwrap();
    let outcome = world.output("exec db", &["cat", "/proc/net/dev", "/etc/hosts"]);
    outcome.assert_status(0);
    assert!(outcome.stdout.contains("eth0:"), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("10.0.1.2\tdb db.web"),
        "{}",
        outcome.stdout
    );
    assert!(world.left_files().is_empty());
    world
        .ask(async |client| client.detach("endpoint1", false).await)
        .unwrap();
    owner.child.kill().unwrap();
    owner.child.wait().unwrap();
}

fn other_node(world: &World) {
    let run = waiting(world);
    {
        let mut book = world.book();
        book.endpoints[0].node_id = "bbbbbbbbbbbbbbbb".to_owned();
        book.endpoints[0].node = "elsewhere".to_owned();
    }
    world
        .output("exec api", &["true"])
        .assert_refused(1, "is on node `elsewhere`");
    finish(run);
}

fn another_namespace(world: &World) {
    let run = waiting(world);
    world.book().endpoints[0].mac = "02:42:0a:63:63:63".to_owned();
    world
        .output("exec api", &["true"])
        .assert_refused(1, "has no interface eth0 with address");
    world.book().endpoints[0].netns = "/proc/4294967295/ns/net".to_owned();
    world
        .output("exec api", &["true"])
        .assert_refused(1, "does not exist");
    let netns = world.book().attached[0].netns.clone().unwrap();
    world.book().endpoints[0].netns = netns.to_str().unwrap().to_owned();
    finish(run);
}

fn not_there(world: &World) {
    world
        .output("exec nobody", &["true"])
        .assert_refused(1, "no endpoint `nobody`");
    world.stop_agent();
    world
        .output("exec nobody", &["true"])
        .assert_refused(3, "no agent answers");
}
