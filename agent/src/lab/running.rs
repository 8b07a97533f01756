//! A helper that runs in a lab while something else is done, and reports in the end.

use std::{
    io::Read,
    marker::PhantomData,
    process::{Child, Command, Stdio},
};

use serde::de::DeserializeOwned;

use super::LabError;

/// A running helper, which ends with its standard input and reports a `T`.
#[derive(Debug)]
pub struct Running<T> {
    child: Child,
    what: String,
    report: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Running<T> {
    /// Starts a command that prints its report in the end.
    pub(crate) fn spawn(mut command: Command, what: String) -> Result<Self, LabError> {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(LabError::io(format!("cannot start {what}")))?;
        Ok(Self {
            child,
            what,
            report: PhantomData,
        })
    }

    /// Waits for the line by which a helper says that it has begun.
    ///
    /// # Errors
    /// It does not say so.
    pub(crate) fn wait_ready(&mut self) -> Result<(), LabError> {
        let what = format!("cannot hear {}", self.what);
        let Some(out) = &mut self.child.stdout else {
            return Ok(());
        };
        let mut byte = [0];
        loop {
            // No more than the line: what follows is the report.
            match out.read(&mut byte).map_err(LabError::io(what.as_str()))? {
                0 => return Err(LabError::Refused(format!("{} has ended", self.what))),
                _ if byte == *b"\n" => return Ok(()),
                _ => {}
            }
        }
    }

    /// Ends what is endless, or waits for the end of what is not, and returns what came of it.
    ///
    /// # Errors
    /// There is no report; the error carries what was said instead.
    pub fn finish(mut self) -> Result<T, LabError> {
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

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        // Its standard input ends here, which ends what is endless.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
