use super::*;

/// What hosts are given to start from.
const EXAMPLE: &str = include_str!("../../../deploy/config/weft.toml");

fn file(text: &str) -> (tempfile::TempDir, Overrides) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.toml");
    std::fs::write(&path, text).unwrap();
    let overrides = Overrides {
        file: Some(path),
        ..Overrides::default()
    };
    (dir, overrides)
}

fn refused(text: &str) -> String {
    let (_dir, overrides) = file(text);
    let error = Config::load(overrides).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let (_dir, overrides) = file("");
    let config = Config::load(overrides).unwrap();
    assert_eq!(config.data_dir, Path::new("/var/lib/weft"));
    assert_eq!(config.socket, Path::new("/run/weft/weft.sock"));
    assert_eq!(config.netns_dir(), Path::new("/run/weft/netns"));
    assert_eq!(config.timing, Timing::default());
}

#[test]
fn the_example_names_every_key_with_its_default() {
    let (_dir, example) = file(EXAMPLE);
    let (_empty, nothing) = file("");
    assert_eq!(
        Config::load(example).unwrap(),
        Config::load(nothing).unwrap()
    );
    // Keys without a default are there as comments.
    let text = EXAMPLE.replace("\n# node-name =", "\nnode-name =");
    let text = text.replace("\n# metrics =", "\nmetrics =");
    // Taken apart in full: a key that is added does not compile here until it is looked for.
    let File {
        data_dir,
        run_dir,
        socket,
        node_name,
        log_format,
        log_level,
        resync,
        metrics,
        timing,
        encryption,
    } = File::parse(Path::new("weft.toml"), &text).unwrap();
    assert!(data_dir.is_some() && run_dir.is_some() && socket.is_some() && node_name.is_some());
    assert!(log_format.is_some() && log_level.is_some() && resync.is_some());
    assert!(metrics.is_some());
    let FileEncryption { path, rekey } = encryption.unwrap();
    assert!(path.is_some() && rekey.is_some());
    let FileTiming {
        heartbeat,
        election_min,
        election_max,
        detection,
    } = timing.unwrap();
    for span in [heartbeat, election_min, election_max, detection] {
        assert!(span.is_some());
    }
}

#[test]
fn every_key_is_read() {
    let (_dir, overrides) = file(
        r#"
        data-dir = "/d"
        run-dir = "/r"
        socket = "/s/weft.sock"
        node-name = "h1"
        log-format = "json"
        log-level = "debug"
        resync = "10s"
        metrics = "[::1]:9100"
        [timing]
        heartbeat = "100ms"
        election-min = "300ms"
        election-max = "600ms"
        detection = "2s"
        [encryption]
        path = "userspace-port"
        rekey = "2s"
        "#,
    );
    let millis = Duration::from_millis;
    let expected = Config {
        data_dir: "/d".into(),
        run_dir: "/r".into(),
        socket: "/s/weft.sock".into(),
        node_name: Some("h1".into()),
        log_format: LogFormat::Json,
        log_level: "debug".into(),
        resync: millis(10_000),
        metrics: Some("[::1]:9100".parse().unwrap()),
        timing: Timing {
            heartbeat: millis(100),
            election_min: millis(300),
            election_max: millis(600),
            detection: millis(2000),
        },
        encryption: Encryption {
            path: EncryptionPath::UserspacePort,
            rekey: millis(2000),
        },
    };
    assert_eq!(Config::load(overrides).unwrap(), expected);
}

#[test]
fn the_command_line_wins_over_the_file_and_the_socket_follows_the_run_directory() {
    let (_dir, mut overrides) = file("run-dir = '/r'\nlog-level = 'debug'");
    overrides.run_dir = Some("/other".into());
    let config = Config::load(overrides).unwrap();
    assert_eq!(config.socket, Path::new("/other/weft.sock"));
    assert_eq!(config.log_level, "debug");
}

#[test]
fn what_is_wrong_is_named_with_file_and_line() {
    let error = refused("data-dir = '/d'\nencrypted = true\n");
    assert!(error.contains("weft.toml:2: "), "{error}");
    assert!(
        error.contains("encrypted") && error.contains("data-dir"),
        "{error}"
    );
    assert!(refused("[timing]\nheartbeat = '5'").contains("500ms, 5s, 2m"));
    assert!(refused("[timing]\nelection = '5s'").contains("election-min"));
    assert!(refused("data-dir = ").contains("weft.toml:1: "));
    assert!(refused("log-format = 'xml'").contains("json"));
}

#[test]
fn values_that_do_not_go_together_are_refused() {
    assert!(refused("data-dir = 'd'").contains("not absolute"));
    assert!(refused("data-dir = '/x'\nrun-dir = '/x'").contains("outlives a reboot"));
    assert!(refused("node-name = 'a b'").contains("not a node name"));
    assert!(refused("resync = '0ms'").contains("100ms at least"));
    let refusal = refused("[encryption]\nrekey = '500ms'");
    assert!(
        refusal.contains("500ms") && refusal.contains("1s and 24h"),
        "{refusal}"
    );
    let refusal = refused("[encryption]\npath = 'user'");
    assert!(
        refusal.contains("`user`") && refusal.contains("userspace-port"),
        "{refusal}"
    );
    assert!(refused("[timing]\nelection-min = '60ms'").contains("twice timing.heartbeat"));
    assert!(refused("[timing]\nelection-max = '100ms'").contains("longer than"));
    assert!(refused("[timing]\ndetection = '200ms'").contains("timing.detection"));
}

#[test]
fn a_named_file_must_exist() {
    let overrides = Overrides {
        file: Some("/nonexistent/weft.toml".into()),
        ..Overrides::default()
    };
    let error = Config::load(overrides).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error}");
}

#[test]
fn the_command_line_finds_the_socket_as_the_agent_does() {
    let path = |path: &str| Some(PathBuf::from(path));
    assert_eq!(client_socket(path("/s"), path("/r")), Path::new("/s"));
    assert_eq!(client_socket(None, path("/r")), Path::new("/r/weft.sock"));
}
