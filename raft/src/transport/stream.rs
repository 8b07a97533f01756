use bytes::Bytes;
use quinn::{ReadError, VarInt, WriteError};

use super::StreamError;
use super::code;
use super::frame::FrameError;
use super::io::{FrameInput, FrameOutput, InputError};

/// A long-lived exchange of frames in both directions. Dropping it tells the other side; what was
/// sent just before may then be lost, which [`Self::finish`] avoids.
#[derive(Debug)]
pub struct FrameStream {
    sender: FrameSender,
    receiver: FrameReceiver,
}

/// The sending half of a [`FrameStream`]; dropping it without [`Self::finish`] resets the stream.
#[derive(Debug)]
pub struct FrameSender {
    output: FrameOutput,
    limit: usize,
    sending: bool,
}

/// The receiving half of a [`FrameStream`].
#[derive(Debug)]
pub struct FrameReceiver {
    input: FrameInput,
}

impl FrameStream {
    pub(super) fn new(output: FrameOutput, input: FrameInput, limit: usize) -> Self {
        let sending = false;
        let sender = FrameSender {
            output,
            limit,
            sending,
        };
        let receiver = FrameReceiver { input };
        Self { sender, receiver }
    }

    /// See [`FrameSender::send`].
    pub async fn send(&mut self, body: impl Into<Bytes>) -> Result<(), StreamError> {
        self.sender.send(body).await
    }

    /// See [`FrameReceiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.receiver.recv().await
    }

    /// See [`FrameSender::finish`]. What the other side still sends is not wanted.
    pub fn finish(self) {
        self.sender.finish();
    }

    /// Both halves, to be used by two tasks.
    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }
}

impl FrameSender {
    /// Sends one frame; waits while the other side does not read. A send that is cancelled half
    /// way makes the stream unusable.
    pub async fn send(&mut self, body: impl Into<Bytes>) -> Result<(), StreamError> {
        let body = body.into();
        let (len, limit) = (body.len(), self.limit);
        if len > limit {
            return Err(StreamError::TooLarge { len, limit });
        }
        if self.sending {
            return Err(StreamError::Cancelled);
        }
        self.sending = true;
        let sent = self.output.frame(None, body).await;
        self.sending = false;
        sent.map_err(of_write)
    }

    /// Says that nothing more comes; the other side reads `None` after the last frame.
    pub fn finish(mut self) {
        if !self.sending {
            self.output.finish();
        }
    }

    /// Waits until the other side stops reading or the connection breaks. May be cancelled.
    pub async fn closed(&mut self) {
        self.output.stopped().await;
    }
}

impl FrameReceiver {
    /// The next frame, or `None` after the other side finished. May be cancelled without loss.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, StreamError> {
        self.input.frame().await.map_err(of_input)
    }
}

fn of_input(error: InputError) -> StreamError {
    match error {
        InputError::Frame(FrameError::Oversized { len, limit }) => {
            StreamError::TooLarge { len, limit }
        }
        InputError::Frame(_) => StreamError::Truncated,
        InputError::Read(ReadError::Reset(code)) => of_code(code),
        InputError::Read(ReadError::ConnectionLost(e)) => StreamError::Lost(e.to_string()),
        InputError::Read(_) => StreamError::Closed,
    }
}

fn of_write(error: WriteError) -> StreamError {
    match error {
        WriteError::Stopped(code) => of_code(code),
        WriteError::ConnectionLost(e) => StreamError::Lost(e.to_string()),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => StreamError::Closed,
    }
}

fn of_code(code: VarInt) -> StreamError {
    match code {
        code::REFUSED => StreamError::Refused,
        code::OVERLOADED => StreamError::Overloaded,
        _ => StreamError::Closed,
    }
}
