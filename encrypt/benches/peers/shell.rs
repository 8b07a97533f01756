//! Programs of this machine, in the namespaces of hosts.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use std::{env, thread};

use nix::mount::{MsFlags, mount};
use weft_test_netns::Ns;

use crate::PATIENCE;

/// Gives this process, in a mount namespace of its own, an empty `/run`: some peers have fixed places
/// in it.
pub(crate) fn private_run() {
    let none = None::<&str>;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("a /run of its own");
}

/// Where a program is.
pub(crate) fn found(program: &str) -> Result<PathBuf, String> {
    let usual = env::var("PATH").unwrap_or_default();
    let more = env::var("WEFT_BENCH_PATH").unwrap_or_default();
    let all = format!("{more}:{usual}:/usr/sbin:/usr/lib/ipsec");
    if program.starts_with('/') {
        return Ok(program.into());
    }
    all.split(':')
        .map(|directory| PathBuf::from(directory).join(program))
        .find(|path| path.is_absolute() && path.is_file())
        .ok_or_else(|| format!("{program} is not installed"))
}

/// Runs words in a host until they end; what they print.
pub(crate) fn run(host: &Ns, words: &str) -> Result<String, String> {
    pipe(host, Stdio::null(), words)
}

/// The same of words that read something.
pub(crate) fn pipe(host: &Ns, input: Stdio, words: &str) -> Result<String, String> {
    let words: Vec<&str> = words.split_whitespace().collect();
    command(host, input, &words).map_err(|error| format!("{}: {error}", words.join(" ")))
}

fn command(host: &Ns, input: Stdio, words: &[&str]) -> Result<String, String> {
    let mut command = Command::new(found(words[0])?);
    command.args(&words[1..]).stdin(input);
    let output = host.run(|| command.output());
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// A program that runs until this is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts one in a host. What it says is heard if `WEFT_BENCH_LOUD` is set.
    pub(crate) fn start(host: &Ns, mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::null());
        if env::var_os("WEFT_BENCH_LOUD").is_none() {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let child = host.run(|| command.spawn());
        Ok(Self(
            child.map_err(|error| format!("{command:?}: {error}"))?,
        ))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something works.
pub(crate) fn eventually<T>(mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let started = Instant::now();
    loop {
        match attempt() {
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(PATIENCE / 500),
            done => return done,
        }
    }
}
