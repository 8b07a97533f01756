//! Frames on QUIC streams.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};

use super::code;
use super::counters::Counters;
use super::frame::{Decoder, FrameError, Kind, header};

/// Why nothing more can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InputError {
    /// Not what a peer of ours sends; the connection was closed for it.
    Frame(FrameError),
    /// The other side or the connection ended the stream.
    Read(ReadError),
}

/// The receiving half of a stream, cut into frames. Whoever sends nonsense loses the connection.
#[derive(Debug)]
pub(super) struct FrameInput {
    recv: RecvStream,
    decoder: Decoder,
    connection: Connection,
    counters: Arc<Counters>,
}

impl FrameInput {
    pub(super) fn new(
        recv: RecvStream,
        limit: usize,
        connection: &Connection,
        counters: &Arc<Counters>,
    ) -> Self {
        Self {
            recv,
            decoder: Decoder::new(limit),
            connection: connection.clone(),
            counters: counters.clone(),
        }
    }

    /// What the stream is for; first of all.
    pub(super) async fn kind(&mut self) -> Result<Kind, InputError> {
        loop {
            match self.decoder.kind() {
                Ok(Some(kind)) => return Ok(kind),
                Ok(None) if self.fill().await? => {}
                Ok(None) => return Err(self.refuse(FrameError::Truncated)),
                Err(e) => return Err(self.refuse(e)),
            }
        }
    }

    /// Length of the next body; `None` at the end of the stream. May be cancelled without loss.
    pub(super) async fn body_len(&mut self) -> Result<Option<usize>, InputError> {
        loop {
            match self.decoder.body_len() {
                Ok(Some(len)) => return Ok(Some(len)),
                Ok(None) if self.fill().await? => {}
                Ok(None) => {
                    let end = self.decoder.end();
                    return end.map(|()| None).map_err(|e| self.refuse(e));
                }
                Err(e) => return Err(self.refuse(e)),
            }
        }
    }

    /// The next body; `None` at the end of the stream. May be cancelled without loss.
    pub(super) async fn frame(&mut self) -> Result<Option<Bytes>, InputError> {
        if self.body_len().await?.is_none() {
            return Ok(None);
        }
        loop {
            match self.decoder.frame() {
                Ok(Some(body)) => return Ok(Some(body)),
                Ok(None) if self.fill().await? => {}
                Ok(None) => return Err(self.refuse(FrameError::Truncated)),
                Err(e) => return Err(self.refuse(e)),
            }
        }
    }

    /// Takes the end of the stream if it is there, which spares telling the other side to stop.
    pub(super) fn settle(&mut self) {
        let _ = self.recv.read_chunk(1, true).now_or_never();
    }

    /// Wants nothing more.
    pub(super) fn stop(&mut self, code: VarInt) {
        // It has ended otherwise: fine.
        let _ = self.recv.stop(code);
    }

    /// Waits for more bytes; false at the end of the stream.
    async fn fill(&mut self) -> Result<bool, InputError> {
        match self.recv.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => {
                self.decoder.push(&chunk.bytes);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(e) => Err(InputError::Read(e)),
        }
    }

    fn refuse(&self, error: FrameError) -> InputError {
        self.counters.bad_frame(error);
        let reason = error.to_string();
        self.connection.close(code::BAD_FRAME, reason.as_bytes());
        InputError::Frame(error)
    }
}

/// The sending half of a stream. Unless finished, dropping it tells the other side that what came
/// so far is not all; a plain QUIC stream would end as if it were.
#[derive(Debug)]
pub(super) struct FrameOutput {
    send: SendStream,
    finished: bool,
}

impl FrameOutput {
    pub(super) fn new(send: SendStream) -> Self {
        let finished = false;
        Self { send, finished }
    }

    /// Hands one frame to the connection, as fast as flow control lets it. Cancelled half way,
    /// what follows makes no sense. The length of the body must fit 32 bits.
    pub(super) async fn frame(
        &mut self,
        kind: Option<Kind>,
        body: Bytes,
    ) -> Result<(), WriteError> {
        let head = header(kind, body.len() as u32);
        if body.is_empty() {
            self.send.write_all_chunks(&mut [head]).await
        } else {
            self.send.write_all_chunks(&mut [head, body]).await
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) {
        self.finished = true;
        // The other side may have lost interest.
        let _ = self.send.finish();
    }

    /// Ends the stream early.
    pub(super) fn reset(&mut self, code: VarInt) {
        self.finished = true;
        // It has ended otherwise: fine.
        let _ = self.send.reset(code);
    }

    /// Waits until the other side has everything, wants nothing more, or is gone.
    pub(super) async fn stopped(&self) {
        let _ = self.send.stopped().await;
    }
}

impl Drop for FrameOutput {
    fn drop(&mut self) {
        if !self.finished {
            self.reset(code::CANCELLED);
        }
    }
}
