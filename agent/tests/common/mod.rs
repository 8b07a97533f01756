//! What the tests of labs share.

use std::{
    env, fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::unistd::geteuid;

/// A user that nobody is, for the tests as an ordinary user.
const SOME_USER: u32 = 54_321;
/// Where `weft` is for the tests as an ordinary user, who may not be able to read the build.
const WEFT_VARIABLE: &str = "WEFT_LAB_TEST_WEFT";
/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn weft() -> PathBuf {
    env::var_os(WEFT_VARIABLE).map_or_else(|| env!("CARGO_BIN_EXE_weft").into(), PathBuf::from)
}

/// Waits for something that must come.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the tests in `claims` again as somebody else if they run as root, so that both ways to
/// make namespaces are tested wherever they are.
pub(crate) fn again_as_an_ordinary_user() {
    if !geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = dir.path().join(name);
        // By a process of its own: what is open here for writing, a process that another test
        // starts meanwhile may inherit, and such a file is not executed (ETXTBSY, execve(2)).
        let copied = Command::new("cp").arg(from).arg(&to).status().unwrap();
        assert!(copied.success(), "{copied}");
        to
    };
    let tests = copy(&env::current_exe().unwrap(), "tests");
    let output = Command::new(&tests)
        .args(["claims::", "--test-threads=2"])
        .env(WEFT_VARIABLE, copy(&weft(), "weft"))
        .env_remove("XDG_RUNTIME_DIR")
        .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        .current_dir("/")
        .uid(SOME_USER)
        .gid(SOME_USER)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains(" passed; 0 failed; 0 ignored"), "{text}");
}
