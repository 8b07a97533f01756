//! The `weft` program from outside: what goes to which stream, and how it exits.

use std::process::{Command, Output, Stdio};

fn weft(arguments: &[&str]) -> Output {
    command(arguments)
        .output()
        .expect("the program was built for this test")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    command.args(arguments);
    for variable in [
        "WEFT_SOCKET",
        "WEFT_RUN_DIR",
        "WEFT_CONFIG",
        "WEFT_LOG_LEVEL",
    ] {
        command.env_remove(variable);
    }
    command
}

#[test]
fn help_and_version_go_to_standard_output() {
    for arguments in [
        &["--help"][..],
        &["network", "create", "--help"],
        &["--version"],
    ] {
        let output = weft(arguments);
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.starts_with(b"weft ") || output.stdout.len() > 200);
        assert_eq!(output.stderr, b"");
    }
}

#[test]
fn a_usage_error_is_one_line_on_standard_error_and_status_2() {
    let output = weft(&["network", "create", "web", "--subnet", "10.0.0.1/24"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stdout, b"");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.starts_with("weft: ") && line.ends_with('\n'), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(!line.contains('\u{1b}'), "{line}");
}

#[test]
fn no_agent_is_status_3_and_names_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    let output = weft(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains(socket.to_str().unwrap()), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");

    let output = command(&["status"])
        .env("WEFT_RUN_DIR", dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains(socket.to_str().unwrap())
    );
}

#[test]
fn a_configuration_that_cannot_be_used_is_one_line_and_status_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weft.toml");
    std::fs::write(&file, "frob = 1\n").unwrap();
    let output = weft(&["agent", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(
        line.contains("weft.toml:1: ") && line.contains("frob"),
        "{line}"
    );
}

#[test]
fn a_completion_script_is_written_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = weft(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(
            String::from_utf8(output.stdout)
                .unwrap()
                .contains("network")
        );
    }
}

#[test]
fn a_reader_that_closes_early_causes_no_panic() {
    let mut child = command(&["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stderr, b"");
}
