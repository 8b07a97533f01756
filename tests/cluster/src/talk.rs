//! A probe that runs on a host and answers line by line.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::Cluster;
use crate::weft::probe_exe;

/// A running probe.
pub struct Talk {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Talk {
    /// Starts a probe on a host (h1 is 1), behind `through` (`nsenter ..`, `weft exec .. --`), and
    /// waits until it says `ready`.
    pub fn start(cluster: &Cluster, host: usize, through: &[&str], args: &[&str]) -> Result<Self> {
        let mut talk = Self::begin(cluster, host, through, args)?;
        let first = talk.line()?;
        ensure!(
            first == "ready",
            "a probe {args:?} on h{host} says {first:?}"
        );
        Ok(talk)
    }

    /// Starts a probe and waits for nothing.
    pub fn begin(cluster: &Cluster, host: usize, through: &[&str], args: &[&str]) -> Result<Self> {
        let probe = probe_exe()?;
        let probe = probe.to_str().context("a path that is not UTF-8")?;
        let argv: Vec<&str> = through
            .iter()
            .copied()
            .chain([probe])
            .chain(args.iter().copied())
            .collect();
        let (program, args) = argv.split_first().context("no program")?;
        let mut command = cluster.host(host)?.command(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self { child, lines })
    }

    /// The next line that it says.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line)?;
        ensure!(read > 0, "a probe ended early: {:?}", self.child.wait()?);
        Ok(line.trim_end().to_owned())
    }

    /// Tells it to go on.
    pub fn tell(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(b"\n")?;
        Ok(stdin.flush()?)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // What it does ends with its input, or at once.
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
