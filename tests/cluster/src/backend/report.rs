use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::talk::Talk;

/// Requests at a rate, which go on.
pub struct Loading {
    talk: Talk,
    stopped: bool,
}

/// What requests at a rate came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Answers by server.
    pub answers: BTreeMap<String, u64>,
    /// How many failed.
    pub failed: u64,
    /// Why, one line each; at most the first ten.
    pub failures: Vec<String>,
    /// For how long it was asked.
    pub lasted: Duration,
    /// How many requests began well after their time, since the machine had other things to do.
    pub late: u64,
    /// How many took a second or more, as those do whose first packet is lost.
    pub slow: u64,
    /// What the slowest took.
    pub slowest: Duration,
    /// When the last one began that failed.
    pub last_failed: Option<SystemTime>,
    /// When the last one began that took a second or more.
    pub last_slow: Option<SystemTime>,
}

impl Loading {
    pub(super) fn of(talk: Talk) -> Self {
        Self {
            talk,
            stopped: false,
        }
    }

    /// No further ones begin.
    pub fn stop(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.stopped, true) {
            true => Ok(()),
            false => self.talk.tell(),
        }
    }

    /// Ends them; what came of them.
    pub fn finish(mut self) -> Result<Report> {
        self.stop()?;
        let mut report = Report::default();
        loop {
            let line = self.talk.line()?;
            if line == "done" {
                return Ok(report);
            }
            report.take(&line)?;
        }
    }
}

impl Report {
    fn take(&mut self, line: &str) -> Result<()> {
        let (word, rest) = line
            .split_once(' ')
            .with_context(|| format!("a client says {line:?}"))?;
        let millis = || -> Result<Duration> { Ok(Duration::from_millis(rest.parse()?)) };
        match word {
            "answers" => {
                let (name, count) = rest.rsplit_once(' ').context("no count")?;
                self.answers.insert(name.to_owned(), count.parse()?);
            }
            "failed" => self.failed = rest.parse()?,
            "failure" => self.failures.push(rest.to_owned()),
            "lasted-ms" => self.lasted = millis()?,
            "late" => self.late = rest.parse()?,
            "slow" => self.slow = rest.parse()?,
            "slowest-ms" => self.slowest = millis()?,
            "last-failed-ms" => self.last_failed = Some(UNIX_EPOCH + millis()?),
            "last-slow-ms" => self.last_slow = Some(UNIX_EPOCH + millis()?),
            _ => anyhow::bail!("a client says {line:?}"),
        }
        Ok(())
    }

    /// How many there were.
    pub fn requests(&self) -> u64 {
        self.answers.values().sum::<u64>() + self.failed
    }

    /// Some were answered, and none was not.
    pub fn none_failed(&self) -> Result<()> {
        ensure!(self.failed == 0 && !self.answers.is_empty(), "{self:?}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let requests = self.requests();
        let (seconds, slowest) = (self.lasted.as_secs_f64(), self.slowest.as_millis());
        write!(
            f,
            "{requests} requests in {seconds:.1} s ({:.0}/s, {} late), {} failed, by {} servers, \
             {} slow, slowest {slowest} ms",
            requests as f64 / seconds.max(0.001),
            self.late,
            self.failed,
            self.answers.len(),
            self.slow,
        )
    }
}
