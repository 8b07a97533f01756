//! How values become bytes, on the wire and in the log: bincode 2 (its standard configuration:
//! little endian, variable-length integers) behind a version number.
//!
//! `u16` version, big endian, then the body. bincode can neither skip nor default a field, so a
//! change of any encoded type other than an enum variant appended at the end needs a new
//! [`WIRE_VERSION`]; the golden bytes in the tests notice a change that was not meant.
//!
//! Encoded types must not hold collections of elements that take no bytes (`Vec<()>`): their
//! length is checked against nothing.

use std::io;

use bincode::config::{self, Config};
use bincode::error::DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Version of everything this agent writes, and the only one it reads.
pub const WIRE_VERSION: u16 = 5;

/// Longest encoded value in bytes. It has to hold a snapshot of the largest admitted state;
/// the transport's frame limit is far below.
pub const MAX_LEN: usize = 256 << 20;

const HEADER: usize = 2;

/// Bytes that are not a value, or a value that is too large to send.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Longer than any value may be.
    #[error("message of {len} bytes refused: at most {limit} bytes are accepted")]
    TooLarge {
        /// Length in bytes, as far as it was looked at.
        len: usize,
        /// Largest accepted length in bytes.
        limit: usize,
    },
    /// Ends before the value does.
    #[error("message of {len} bytes refused: it ends before its value does")]
    Truncated {
        /// Length in bytes.
        len: usize,
    },
    /// Goes on after the value's end.
    #[error("message refused: {extra} bytes follow its value")]
    Trailing {
        /// Bytes too many.
        extra: usize,
    },
    /// Does not follow the format.
    #[error("message refused: {0}")]
    Malformed(String),
    /// Written by an agent of another version.
    #[error("message of format version {found} refused: this agent knows version {known}")]
    WrongVersion {
        /// What the message says.
        found: u16,
        /// [`WIRE_VERSION`].
        known: u16,
    },
    /// The value has no encoding, such as a sequence of unknown length.
    #[error("value cannot be encoded: {0}")]
    Unencodable(String),
}

/// The bytes of a value.
///
/// # Errors
/// [`CodecError::TooLarge`] past [`MAX_LEN`], [`CodecError::Unencodable`].
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_within(value, MAX_LEN)
}

fn encode_within<T: Serialize + ?Sized>(value: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    let mut sink = Sink {
        bytes: WIRE_VERSION.to_be_bytes().to_vec(),
        limit,
        wanted: HEADER,
    };
    let written = bincode::serde::encode_into_std_write(value, &mut sink, config::standard());
    if sink.wanted > limit {
        return Err(CodecError::TooLarge {
            len: sink.wanted,
            limit,
        });
    }
    written.map_err(|error| CodecError::Unencodable(error.to_string()))?;
    Ok(sink.bytes)
}

/// Takes bytes up to a limit, so that a value which is too large takes no more memory than that.
struct Sink {
    bytes: Vec<u8>,
    limit: usize,
    wanted: usize,
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wanted += bytes.len();
        if self.wanted > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The value of bytes made by [`encode`].
///
/// # Errors
/// Whatever is not exactly one value of the known version is refused; see [`CodecError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > MAX_LEN {
        return Err(CodecError::TooLarge {
            len: bytes.len(),
            limit: MAX_LEN,
        });
    }
    let (header, body) = bytes
        .split_first_chunk::<HEADER>()
        .ok_or(CodecError::Truncated { len: bytes.len() })?;
    let found = u16::from_be_bytes(*header);
    if found != WIRE_VERSION {
        return Err(CodecError::WrongVersion {
            found,
            known: WIRE_VERSION,
        });
    }
    // bincode allocates what a length prefix claims, up to its limit, before it looks whether the
    // bytes are there. The limit therefore follows the input: an encoded byte counts for at most
    // 16 (a `u128` written in one byte).
    match body.len() {
        0..=0xffff => decode_body(body, config::standard().with_limit::<{ 16 << 16 }>()),
        0x1_0000..=0xf_ffff => decode_body(body, config::standard().with_limit::<{ 16 << 20 }>()),
        _ => decode_body(body, config::standard().with_limit::<{ 16 * MAX_LEN }>()),
    }
}

fn decode_body<T: DeserializeOwned, C: Config>(body: &[u8], config: C) -> Result<T, CodecError> {
    let (value, used) =
        bincode::serde::decode_from_slice(body, config).map_err(|error| match error {
            DecodeError::UnexpectedEnd { .. } => CodecError::Truncated {
                len: HEADER + body.len(),
            },
            DecodeError::LimitExceeded => {
                CodecError::Malformed("it claims more than its length can hold".to_owned())
            }
            other => CodecError::Malformed(other.to_string()),
        })?;
    match body.len() - used {
        0 => Ok(value),
        extra => Err(CodecError::Trailing { extra }),
    }
}

#[cfg(test)]
mod tests;
