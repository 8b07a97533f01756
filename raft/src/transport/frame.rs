//! How messages are laid out on a stream: pure, so that it can be tried with any bytes.
//!
//! A stream begins with one byte that says what it is for. Frames follow: the length of the body
//! (32 bits, big endian), the body.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Bytes before a body.
pub(super) const HEADER_LEN: usize = 4;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// One frame each way.
    Call = 1,
    /// Frames both ways until either side ends it.
    Stream = 2,
}

/// Bytes that a peer of ours would not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum FrameError {
    #[error("the stream ended inside a frame")]
    Truncated,
    #[error("frame of {len} bytes is over the limit of {limit}")]
    Oversized { len: usize, limit: usize },
    #[error("stream of unknown kind {0}")]
    UnknownKind(u8),
}

/// What goes before a body; `kind` on the first frame of a stream.
pub(super) fn header(kind: Option<Kind>, len: u32) -> Bytes {
    let mut head = BytesMut::with_capacity(1 + HEADER_LEN);
    if let Some(kind) = kind {
        head.put_u8(kind as u8);
    }
    head.put_u32(len);
    head.freeze()
}

/// Cuts what arrives on a stream into frames. Holds no more than one frame and what the last
/// [`Self::push`] brought, and no more than has arrived, whatever a header promises.
#[derive(Debug)]
pub(super) struct Decoder {
    limit: usize,
    buffer: BytesMut,
}

impl Decoder {
    pub(super) fn new(limit: usize) -> Self {
        let buffer = BytesMut::new();
        Self { limit, buffer }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The first byte of the stream, once it is there.
    pub(super) fn kind(&mut self) -> Result<Option<Kind>, FrameError> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        match self.buffer.get_u8() {
            1 => Ok(Some(Kind::Call)),
            2 => Ok(Some(Kind::Stream)),
            other => Err(FrameError::UnknownKind(other)),
        }
    }

    /// Length of the next body, once its header is there.
    pub(super) fn body_len(&self) -> Result<Option<usize>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let (len, limit) = (u32::from_be_bytes(*header) as usize, self.limit);
        if len > limit {
            Err(FrameError::Oversized { len, limit })
        } else {
            Ok(Some(len))
        }
    }

    /// The next body, once it is there.
    pub(super) fn frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        match self.body_len()? {
            Some(len) if self.buffer.len() >= HEADER_LEN + len => {
                self.buffer.advance(HEADER_LEN);
                Ok(Some(self.buffer.split_to(len).freeze()))
            }
            _ => Ok(None),
        }
    }

    /// The stream has ended: was that between two frames?
    pub(super) fn end(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            Err(FrameError::Truncated)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![Kind::Stream as u8];
        for body in bodies {
            bytes.extend_from_slice(&header(None, body.len() as u32));
            bytes.extend_from_slice(body);
        }
        bytes
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            pieces in prop::collection::vec(1usize..70, 1..10),
        ) {
            let bytes = encode(&bodies);
            let mut decoder = Decoder::new(200);
            let (mut rest, mut kind, mut out) = (bytes.as_slice(), None, Vec::new());
            for len in pieces.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*len));
                decoder.push(piece);
                rest = behind;
                if kind.is_none() {
                    kind = decoder.kind().unwrap();
                }
                while let Some(body) = decoder.frame().unwrap() {
                    out.push(body.to_vec());
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(kind, Some(Kind::Stream));
            prop_assert_eq!(out, bodies);
            prop_assert_eq!(decoder.end(), Ok(()));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic_or_exceed_its_limit(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10),
        ) {
            let mut decoder = Decoder::new(16);
            for piece in pieces {
                decoder.push(&piece);
                while let Ok(Some(body)) = decoder.frame() {
                    prop_assert!(body.len() <= 16);
                }
            }
        }
    }

    #[test]
    fn an_end_inside_a_header_or_a_body_is_noticed() {
        let bytes = encode(&[b"hello".to_vec()]);
        for len in 2..bytes.len() {
            let mut decoder = Decoder::new(100);
            decoder.push(&bytes[..len]);
            assert_eq!(decoder.kind(), Ok(Some(Kind::Stream)));
            assert_eq!(decoder.frame(), Ok(None));
            assert_eq!(decoder.end(), Err(FrameError::Truncated));
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_body_arrives() {
        let mut decoder = Decoder::new(9);
        decoder.push(&10u32.to_be_bytes());
        let refused = FrameError::Oversized { len: 10, limit: 9 };
        assert_eq!(decoder.frame(), Err(refused));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        for byte in (0..=255).filter(|byte| ![1, 2].contains(byte)) {
            let mut decoder = Decoder::new(9);
            decoder.push(&[byte]);
            assert_eq!(decoder.kind(), Err(FrameError::UnknownKind(byte)));
        }
    }
}
