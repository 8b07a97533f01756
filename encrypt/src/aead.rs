//! AES-256-GCM as ESP uses it (RFC 4106), over `ring`.

use std::fmt;
use std::hint::black_box;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use crate::esp::{ICV, IV};
use crate::keys::{KEY, SALT, SaKey};

/// The AEAD itself refused: the ICV is wrong, or the length is more than GCM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// A key, ready to seal or to open, and its salt.
///
/// `ring` keeps the expanded key in plain memory and does not erase it. It is therefore in a box,
/// which does not move, and is overwritten with the schedule of a zero key when dropped. What a
/// move by the compiler left on the stack when the key was made is not reached.
pub(crate) struct Cipher {
    key: Box<LessSafeKey>,
    salt: [u8; SALT],
}

impl Cipher {
    pub(crate) fn new(key: &SaKey) -> Self {
        Self {
            key: Box::new(expand(key.key())),
            salt: *key.salt(),
        }
    }

    /// Encrypts in place and returns the ICV. `sequence` goes into the AAD with all 64 bits.
    pub(crate) fn seal(
        &self,
        spi: u32,
        sequence: u64,
        iv: [u8; IV],
        in_out: &mut [u8],
    ) -> Result<[u8; ICV], Refused> {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(self.salt, iv), aad(spi, sequence), in_out)
            .map_err(|_| Refused)?;
        tag.as_ref().try_into().map_err(|_| Refused)
    }

    /// Checks the ICV and decrypts in place. After an error the content of `in_out` is unspecified.
    pub(crate) fn open(
        &self,
        spi: u32,
        sequence: u64,
        iv: [u8; IV],
        in_out: &mut [u8],
        icv: [u8; ICV],
    ) -> Result<(), Refused> {
        let (nonce, aad, tag) = (nonce(self.salt, iv), aad(spi, sequence), Tag::from(icv));
        match self
            .key
            .open_in_place_separate_tag(nonce, aad, tag, in_out, 0..)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(Refused),
        }
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        *self.key = expand(&[0; KEY]);
        black_box(&self.key);
        self.salt = [0; SALT];
        black_box(&self.salt);
    }
}

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

fn expand(key: &[u8; KEY]) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of 32 bytes is one of AES-256");
    LessSafeKey::new(key)
}

/// Salt and explicit IV (RFC 4106 section 4).
fn nonce(salt: [u8; SALT], iv: [u8; IV]) -> Nonce {
    let ([s0, s1, s2, s3], [i0, i1, i2, i3, i4, i5, i6, i7]) = (salt, iv);
    Nonce::assume_unique_for_key([s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7])
}

/// SPI, high and low half of the extended sequence number (RFC 4106 section 5, figure 3).
fn aad(spi: u32, sequence: u64) -> Aad<[u8; 12]> {
    let ([a, b, c, d], [e, f, g, h, i, j, k, l]) = (spi.to_be_bytes(), sequence.to_be_bytes());
    Aad::from([a, b, c, d, e, f, g, h, i, j, k, l])
}

#[cfg(test)]
mod tests;
