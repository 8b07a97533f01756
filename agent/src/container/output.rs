use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::log::BoundedLog;

const CHUNK_BYTES: usize = 16 << 10;

/// What a detached command writes, on its way into the log.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` when the command has closed its end.
    pipe: Option<Receiver>,
    log: BoundedLog,
    chunk: Vec<u8>,
}

impl Output {
    /// # Errors
    /// When the log cannot be made. To be called on a runtime.
    pub(super) fn new(pipe: OwnedFd, log: &Path) -> io::Result<Self> {
        Ok(Self {
            pipe: Some(Receiver::from_owned_fd(pipe)?),
            log: BoundedLog::create(log)?,
            chunk: vec![0; CHUNK_BYTES],
        })
    }

    /// Moves what is there into the log; waits when there is nothing. Nothing is lost when the
    /// future is dropped.
    pub(super) async fn pump(&mut self) {
        let Some(pipe) = &mut self.pipe else {
            return std::future::pending().await;
        };
        match pipe.read(&mut self.chunk).await {
            Ok(len) if len > 0 => self.write(len),
            _ => self.pipe = None,
        }
    }

    /// Takes what is left in the pipe, and ends the log with `line`.
    pub(super) fn end(mut self, line: &str) {
        while let Some(pipe) = &self.pipe {
            match pipe.try_read(&mut self.chunk) {
                Ok(len) if len > 0 => self.write(len),
                _ => self.pipe = None,
            }
        }
        let _ = self.log.append(format!("weft: {line}\n").as_bytes());
    }

    fn write(&mut self, len: usize) {
        // The command must not be held up by a full disk.
        let _ = self.log.append(self.chunk.get(..len).unwrap_or_default());
    }
}
