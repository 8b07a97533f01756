use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use weft_agent::api::client::Client;
use weft_agent::api::types::AttachRequest;

use super::fake::{Book, Fake, Shared, runtime};

/// Nothing here takes longer, even on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// A run directory with a fake agent in it.
pub(crate) struct World {
    directory: tempfile::TempDir,
    book: Shared,
    fake: std::cell::RefCell<Option<Fake>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let world = Self {
            directory: tempfile::tempdir().unwrap(),
            book: Shared::default(),
            fake: None.into(),
        };
        world.start_agent();
        world
    }

    pub(crate) fn start_agent(&self) {
        *self.fake.borrow_mut() = Some(Fake::start(&self.socket(), &self.book));
    }

    pub(crate) fn stop_agent(&self) {
        *self.fake.borrow_mut() = None;
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap()
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.directory.path().join("containers")
    }

    /// `weft` with these arguments, split at spaces, and a command after `--`.
    pub(crate) fn weft(&self, arguments: &str, command: &[&str]) -> Command {
        let mut weft = Command::new(env!("CARGO_BIN_EXE_weft"));
        weft.arg("--socket").arg(self.socket());
        weft.args(arguments.split(' ')).arg("--").args(command);
        weft.stdin(Stdio::null());
        weft
    }

    pub(crate) fn output(&self, arguments: &str, command: &[&str]) -> Outcome {
        Outcome::of(self.weft(arguments, command).output().unwrap())
    }

    /// As `weft attach` and `weft detach` do.
    pub(crate) fn ask<F: Future>(&self, question: impl FnOnce(Client) -> F) -> F::Output {
        runtime().block_on(question(Client::new(self.socket())))
    }

    /// Every endpoint is detached and no file but the logs of ended commands is left.
    pub(crate) fn is_clean(&self) {
        until("the endpoints are detached", || {
            self.book().endpoints.is_empty()
        });
        until("the files are removed", || self.left_files().is_empty());
    }

    pub(crate) fn left_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.containers()) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_none_or(|e| e != "log"))
            .collect()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("weft.sock")
    }
}

impl Drop for World {
    /// A test that failed may have left a container.
    fn drop(&mut self) {
        let run_dir = self.directory.path().to_str().unwrap_or_default();
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        for pid in book.attached.iter().filter_map(shim_of) {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline"));
            if command.is_ok_and(|command| command.contains(run_dir)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// The process that holds the namespace, where it is named by its process id.
pub(crate) fn shim_of(request: &AttachRequest) -> Option<i32> {
    let path = request.netns.as_ref()?.to_str()?;
    path.split('/').nth(2)?.parse().ok()
}

/// How a command ended and what it wrote.
pub(crate) struct Outcome {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    fn of(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn assert_status(&self, status: i32) {
        assert_eq!(self.status, Some(status), "{}{}", self.stdout, self.stderr);
    }

    pub(crate) fn assert_refused(&self, status: i32, reason: &str) {
        self.assert_status(status);
        assert!(self.stderr.starts_with("weft: "), "{}", self.stderr);
        assert!(self.stderr.contains(reason), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
    }
}

/// A running `weft` whose output is read line by line.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn status(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(POLL);
    }
}

/// Whether the process is there and not only waiting to be reaped.
pub(crate) fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat"));
    let stat = stat.unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) fn state(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
