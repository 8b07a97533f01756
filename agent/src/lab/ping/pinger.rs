//! A ping that runs in a lab while something else is done.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
};

use super::{super::LabError, PingReport};

/// A running ping.
#[derive(Debug)]
pub struct Pinger {
    child: Child,
    what: String,
}

impl Pinger {
    /// Starts a command that ends in a ping and prints its report.
    pub(crate) fn spawn(mut command: Command, what: String) -> Result<Self, LabError> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(LabError::io(format!("cannot start {what}")))?;
        Ok(Self { child, what })
    }

    /// Ends an endless ping, or waits for the end of another, and returns what came of it.
    ///
    /// # Errors
    /// There is no report; the error carries what was said instead.
    pub fn finish(mut self) -> Result<PingReport, LabError> {
        drop(self.child.stdin.take());
        let failed = |error| LabError::io(format!("cannot hear {}", self.what))(error);
        let (mut out, mut said) = (String::new(), String::new());
        // A report is one short line, so neither pipe fills while the other is read.
        if let Some(pipe) = &mut self.child.stdout {
            pipe.read_to_string(&mut out).map_err(failed)?;
        }
        if let Some(pipe) = &mut self.child.stderr {
            pipe.read_to_string(&mut said).map_err(failed)?;
        }
        self.child.wait().map_err(failed)?;
        serde_json::from_str(&out)
            .map_err(|_| LabError::Refused(format!("{}: {}", self.what, said.trim())))
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        // Its standard input ends here, which ends an endless ping.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
