use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// 80 random bits that name an object for ever; written as 16 characters of RFC 4648 base32 in
/// lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Id([u8; Id::LEN]);

/// A string that is not an [`Id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an id: an id is 16 characters of a-z and 2-7")]
pub struct IdError;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

impl Id {
    /// Length in bytes.
    pub const LEN: usize = 10;
    /// Length of the written form in characters.
    pub const TEXT_LEN: usize = 16;

    /// An id made of bytes that the caller took from a random source or a digest.
    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self
            .0
            .iter()
            .fold(0u128, |acc, byte| acc << 8 | u128::from(*byte));
        let text: String = (0..Self::TEXT_LEN)
            .rev()
            .map(|place| char::from(ALPHABET[(bits >> (place * 5)) as usize & 31]))
            .collect();
        f.pad(&text)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() != Self::TEXT_LEN {
            return Err(IdError);
        }
        let mut bits = 0u128;
        for byte in text.bytes() {
            let digit = ALPHABET.iter().position(|c| *c == byte).ok_or(IdError)?;
            bits = bits << 5 | digit as u128;
        }
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(&bits.to_be_bytes()[16 - Self::LEN..]);
        Ok(Self(bytes))
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub Id);

        impl $name {
            /// An id made of bytes that the caller took from a random source or a digest.
            pub const fn new(bytes: [u8; Id::LEN]) -> Self {
                Self(Id::new(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.parse().map(Self)
            }
        }
    )+};
}

ids! {
    /// Names a cluster; tokens and certificates of another one are refused by it.
    ClusterId,
    /// Names a node: the first 80 bits of the SHA-256 of its public key, so that the identity is
    /// the key and the address may change.
    NodeId,
    /// Names a network.
    NetworkId,
    /// Names an endpoint.
    EndpointId,
    /// Names a service.
    ServiceId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_form_is_read_back() {
        for bytes in [[0; 10], [255; 10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]] {
            let id = Id::new(bytes);
            assert_eq!(id.to_string().len(), Id::TEXT_LEN);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!(Id::new([0; 10]).to_string(), "aaaaaaaaaaaaaaaa");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "aaaaaaaaaaaaaaa",
            "aaaaaaaaaaaaaaaaa",
            "AAAAAAAAAAAAAAAA",
            "aaaaaaaaaaaaaaa1",
        ] {
            assert_eq!(text.parse::<Id>(), Err(IdError), "{text:?}");
        }
    }
}
