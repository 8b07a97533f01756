use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use zeroize::Zeroize;

use super::CaDigest;
use super::base32::{self, Base32Error};

/// Admits a node to a cluster: which CA to trust, and the secret that this CA's managers accept.
///
/// Written `WFTKN-1-<digest>-<secret>`, both in base32 (RFC 4648) in lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Of the cluster's CA certificate.
    pub digest: CaDigest,
    /// Tells managers which role to grant.
    pub secret: [u8; JoinToken::SECRET_LEN],
}

/// A text that is no [`JoinToken`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Another beginning.
    #[error("not a join token: it must begin with WFTKN-1-, like {FORM}")]
    Prefix,
    /// Made by another version of weft.
    #[error("join token of an unknown version: this agent knows {FORM}")]
    Version,
    /// Cut off, or with something appended.
    #[error("join token has {found} characters, expected {expected}: {FORM}")]
    Length {
        /// Characters given.
        found: usize,
        /// Characters of every token.
        expected: usize,
    },
    /// A typing error.
    #[error("join token has characters that do not belong in it: {FORM}, both of a-z and 2-7")]
    Character,
}

const FORM: &str = "WFTKN-1-<digest, 52 characters>-<secret, 26 characters>";
const NAME: &str = "WFTKN-";
const VERSION: &str = "1-";
const DIGEST_TEXT_LEN: usize = base32::text_len(CaDigest::LEN);
const SECRET_TEXT_LEN: usize = base32::text_len(JoinToken::SECRET_LEN);
const TEXT_LEN: usize = NAME.len() + VERSION.len() + DIGEST_TEXT_LEN + 1 + SECRET_TEXT_LEN;

impl JoinToken {
    /// Length of the secret in bytes: 128 bits, out of reach of guessing.
    pub const SECRET_LEN: usize = 16;
}

impl Drop for JoinToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = base32::encode(&self.secret);
        write!(f, "{NAME}{VERSION}{}-{secret}", self.digest)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, ..)", self.digest)
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let versioned = text.strip_prefix(NAME).ok_or(TokenError::Prefix)?;
        let body = versioned.strip_prefix(VERSION).ok_or(TokenError::Version)?;
        let found = text.chars().count();
        if found != TEXT_LEN {
            let expected = TEXT_LEN;
            return Err(TokenError::Length { found, expected });
        }
        let (digest, secret) = body.split_once('-').ok_or(TokenError::Character)?;
        let refused = |_: Base32Error| TokenError::Character;
        Ok(Self {
            digest: CaDigest(base32::decode(digest).map_err(refused)?),
            secret: base32::decode(secret).map_err(refused)?,
        })
    }
}
